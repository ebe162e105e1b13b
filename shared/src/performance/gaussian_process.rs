//! Gaussian process on log-ranks.

use nalgebra::{DMatrix, DVector};

use super::kernel::{Factor, Fitted, Kernel, log_marginal_likelihood};
use super::{FeatureSpace, FitError, FittedModel, Observations, PerformanceModel};

/// Length scales to choose from, relative to the median distance between the trials.
const LENGTHS: [f64; 6] = [0.3, 0.6, 1.0, 2.0, 4.0, 8.0];
/// Noise variances to choose from, relative to the signal's.
const NOISES: [f64; 6] = [1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0];

/// Gaussian process with a Matérn 5/2 kernel on [`FeatureSpace::vector`]. Length scale and noise are the pair of a
/// small grid with the largest marginal likelihood, the signal variance follows in closed form.
#[derive(Debug, Clone, Copy, Default)]
pub struct GaussianProcess;

#[derive(Clone, Copy)]
struct Matern52 {
    length: f64,
}

impl Kernel for Matern52 {
    fn relation(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
    }

    fn value(self, distance: f64) -> f64 {
        let scaled = 5_f64.sqrt() * distance / self.length;
        (1.0 + scaled + scaled * scaled / 3.0) * (-scaled).exp()
    }

    fn choices(distances: &DMatrix<f64>) -> Vec<(Self, f64)> {
        let median = median_distance(distances);
        let grid = LENGTHS.into_iter().flat_map(|length| NOISES.into_iter().map(move |noise| (length * median, noise)));
        grid.map(|(length, noise)| (Self { length }, noise)).collect()
    }

    fn qualities(factor: &Factor<Self>, centred: &[DVector<f64>]) -> Vec<f64> {
        centred.iter().map(|target| log_marginal_likelihood(factor, target)).collect()
    }
}

/// Median distance between different inputs; 1 where all are the same.
fn median_distance(distances: &DMatrix<f64>) -> f64 {
    let mut distances: Vec<f64> =
        distances.lower_triangle().iter().copied().filter(|distance| *distance > 0.0).collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(1.0)
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
