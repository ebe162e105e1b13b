//! Gaussian process on log-ranks.

use hydra_kernels::Level;
use hydra_kernels::cholesky::{Factor, Solved};
use hydra_kernels::matern::matern52;
use hydra_kernels::products::{Size, View, ViewMut, squared_distances, view_mut};

use super::kernel::{Fitted, Kernel, Relations, log_marginal_likelihoods};
use super::{FeatureSpace, FitError, FittedModel, Observations, PerformanceModel};

/// Length scales to choose from, relative to the median distance between the trials.
const LENGTHS: [f64; 6] = [0.3, 0.6, 1.0, 2.0, 4.0, 8.0];

/// Gaussian process with a Matérn 5/2 kernel on [`FeatureSpace::vector`]. Length scale and noise are the pair of a
/// small grid with the largest marginal likelihood, the signal variance follows in closed form.
#[derive(Debug, Clone, Copy, Default)]
pub struct GaussianProcess;

#[derive(Debug, Clone, Copy)]
struct Matern52 {
    length: f64,
}

impl Kernel for Matern52 {
    const CENTRED: bool = false;
    const NOISES: &'static [f64] = &[1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0];

    fn relations(level: Level, size: Size, a: View<'_, f64>, b: View<'_, f64>, mut distances: ViewMut<'_, f64>) {
        let ViewMut { values, stride } = &mut distances;
        squared_distances(level, size, a, b, view_mut(values, *stride));
        for square in values.iter_mut() {
            *square = square.sqrt();
        }
    }

    fn values(self, level: Level, distances: &mut [f64]) {
        matern52(level, self.length, distances);
    }

    fn choices(distances: &Relations) -> Vec<Self> {
        let median = median_distance(distances);
        LENGTHS.into_iter().map(|length| Self { length: length * median }).collect()
    }

    fn qualities(_level: Level, factor: &Factor, targets: &Solved) -> Vec<f64> {
        log_marginal_likelihoods(factor, targets)
    }
}

/// Median distance between different inputs; 1 where all are the same.
fn median_distance(distances: &Relations) -> f64 {
    let mut distances: Vec<f64> = distances.of_pairs().filter(|distance| *distance > 0.0).collect();
    if distances.is_empty() {
        return 1.0;
    }
    let middle = distances.len() / 2;
    *distances.select_nth_unstable_by(middle, f64::total_cmp).1
}

impl PerformanceModel for GaussianProcess {
    fn name(&self) -> &'static str {
        "gaussian-process"
    }

    fn fit(&self, space: &FeatureSpace, data: &Observations, _seed: u64) -> Result<Box<dyn FittedModel>, FitError> {
        Ok(Box::new(Fitted::<Matern52>::new(space, data)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{observations, smooth_response, space};
    use super::*;

    #[test]
    fn a_gaussian_process_interpolates_noiseless_data_and_is_sure_of_it() {
        let space = space(4);
        let data = observations(&space, 16, 3, smooth_response);
        let fit = GaussianProcess.fit(&space, &data, 0).unwrap();
        let away = observations(&space, 16, 4, smooth_response);
        let spread = |predictions: &[super::super::Prediction]| {
            predictions.iter().map(|p| p.scores[0].std).sum::<f64>() / predictions.len() as f64
        };
        let seen = fit.predict(&data.schedules).unwrap();
        for (prediction, scores) in seen.iter().zip(&data.scores) {
            assert!((prediction.scores[0].mean - scores[0]).abs() < 1e-3, "{prediction:?} {scores:?}");
        }
        assert!(spread(&seen) < 0.1 * spread(&fit.predict(&away.schedules).unwrap()));
    }

    #[test]
    fn a_gaussian_process_predicts_a_smooth_response_better_than_the_mean_does() {
        let space = space(4);
        let data = observations(&space, 16, 3, smooth_response);
        let fit = GaussianProcess.fit(&space, &data, 0).unwrap();
        assert!(fit.leave_one_out().objective.skill() > 0.3, "{:?}", fit.leave_one_out().objective);
    }
}
