//! Ridge regression on log-ranks.

use hydra_kernels::Level;
use hydra_kernels::cholesky::{Factor, Solved};
use hydra_kernels::products::{Size, Store, View, ViewMut, multiply_f64};

use super::kernel::{Fitted, Kernel, Relations, leave_one_out_squares};
use super::{FeatureSpace, FitError, FittedModel, Observations, PerformanceModel};

/// Ridge regression on [`FeatureSpace::vector`], in its kernel form (there are more features than trials). λ is the
/// one with the smallest closed-form leave-one-out error. The uncertainty is that of Bayesian linear regression with
/// the same λ.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ridge;

#[derive(Debug, Clone, Copy)]
struct Linear;

impl Kernel for Linear {
    const CENTRED: bool = true;
    /// Weight decays λ, relative to features whose groups have unit scale.
    const NOISES: &'static [f64] = &[1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

    fn relations(level: Level, size: Size, a: View<'_, f64>, b: View<'_, f64>, products: ViewMut<'_, f64>) {
        multiply_f64(level, size, a, b, Store::Set, products);
    }

    fn values(self, _level: Level, _products: &mut [f64]) {}

    fn choices(_products: &Relations) -> Vec<Self> {
        vec![Self]
    }

    fn qualities(level: Level, factor: &Factor, targets: &Solved) -> Vec<f64> {
        leave_one_out_squares(level, factor, targets).into_iter().map(|squares| -squares).collect()
    }
}

impl PerformanceModel for Ridge {
    fn name(&self) -> &'static str {
        "ridge"
    }

    fn fit(&self, space: &FeatureSpace, data: &Observations, _seed: u64) -> Result<Box<dyn FittedModel>, FitError> {
        Ok(Box::new(Fitted::<Linear>::new(space, data)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{linear_response, observations, space};
    use super::*;

    #[test]
    fn ridge_recovers_a_response_that_is_linear_in_log_ranks() {
        let space = space(6);
        let data = observations(&space, 40, 3, linear_response);
        let fit = Ridge.fit(&space, &data, 0).unwrap();
        let fresh = observations(&space, 20, 4, linear_response);
        for (prediction, scores) in fit.predict(&fresh.schedules).unwrap().iter().zip(&fresh.scores) {
            assert!((prediction.scores[0].mean - scores[0]).abs() < 0.02, "{prediction:?} {scores:?}");
        }
        assert!(fit.leave_one_out().objective.skill() > 0.95);
    }

    #[test]
    fn ridge_of_equal_scores_predicts_that_score_with_certainty() {
        let space = space(3);
        let data = observations(&space, 5, 1, |_, _| vec![0.5, 0.7]);
        let fit = Ridge.fit(&space, &data, 0).unwrap();
        let prediction = &fit.predict(&data.schedules).unwrap()[0];
        assert!((prediction.objective.mean - 0.6).abs() < 1e-12);
        assert!(prediction.objective.std < 1e-6);
        assert_eq!(fit.leave_one_out().objective.skill(), 0.0);
    }
}
