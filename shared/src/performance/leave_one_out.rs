//! Leave-one-out errors, and the yardstick beside them.

use serde::{Deserialize, Serialize};

use super::{HeldOutError, Observations};

/// Most fits that a leave-one-out error takes. In a study of more trials networks leave them out in so many groups: the error
/// is no less sure, and takes time in proportion to the trials instead of to their square.
pub(super) const MOST_FOLDS: usize = 64;

/// In how many groups the trials are left out: one each, as long as there are no more than [`MOST_FOLDS`].
pub(super) fn folds(trials: usize) -> usize {
    trials.min(MOST_FOLDS)
}

/// Leave-one-out errors of a fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaveOneOut {
    /// Mean score of each trial as predicted by a model that did not see it.
    pub predicted: Vec<f64>,
    /// Error of the mean score.
    pub objective: HeldOutError,
    /// Error of each benchmark.
    pub scores: Vec<HeldOutError>,
}

impl LeaveOneOut {
    /// Errors from each trial's held-out predictions, one vector of scores per trial.
    pub(super) fn new(data: &Observations, objectives: Vec<f64>, scores: &[Vec<f64>]) -> Self {
        let column = |b: usize| scores.iter().filter_map(|s| s.get(b).copied()).collect::<Vec<_>>();
        Self {
            objective: held_out_error(&data.objectives(), &objectives),
            scores: (0..data.benchmarks()).map(|b| held_out_error(&data.column(b), &column(b))).collect(),
            predicted: objectives,
        }
    }
}

fn held_out_error(measured: &[f64], predicted: &[f64]) -> HeldOutError {
    let n = measured.len() as f64;
    let mean = measured.iter().sum::<f64>() / n;
    let squares = measured.iter().zip(predicted).map(|(m, p)| (m - p) * (m - p)).sum::<f64>();
    // Leaving trial i out moves the mean away from it: y_i − mean of the others = (y_i − mean)·n/(n − 1).
    let baseline = measured.iter().map(|m| ((m - mean) * n / (n - 1.0)).powi(2)).sum::<f64>();
    HeldOutError {
        rmse: (squares / n).sqrt(),
        baseline_rmse: (baseline / n).sqrt(),
        rank_correlation: rank_correlation(measured, predicted),
    }
}

/// Spearman's rank correlation; ties share the mean of their ranks. `None` where either side is constant.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut covariance, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        covariance += (x - mean) * (y - mean);
        of_a += (x - mean) * (x - mean);
        of_b += (y - mean) * (y - mean);
    }
    (of_a > 0.0 && of_b > 0.0).then(|| covariance / (of_a * of_b).sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &index in equal {
            ranks[index] = below as f64 + (equal.len() as f64 - 1.0) / 2.0;
        }
        below += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::super::testing::{observations, smooth_response, space};
    use super::super::{PerformanceModel, Transformer};
    use super::*;

    #[test]
    fn a_trial_of_a_large_study_is_predicted_by_models_that_saw_no_trial_of_its_group() {
        let space = space(2);
        let mut data = observations(&space, MOST_FOLDS + 6, 2, smooth_response);
        let model = Transformer { ensemble: 1, epochs: 4, ..Transformer::default() };
        let before = model.fit(&space, &data, 1).unwrap().leave_one_out().predicted.clone();
        assert_eq!(before.len(), data.len());
        // Trial 65 is left out together with trial 1.
        data.scores[1] = vec![90.0, -9.0];
        let after = model.fit(&space, &data, 1).unwrap().leave_one_out().predicted.clone();
        assert_eq!((before[1], before[MOST_FOLDS + 1]), (after[1], after[MOST_FOLDS + 1]));
        assert_ne!(before[2], after[2]);
    }

    #[test]
    fn rank_correlation_sees_order_alone_and_shares_ranks_among_ties() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 1000.0, 1e6]), Some(1.0));
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(rank_correlation(&[1.0, 1.0, 1.0], &[3.0, 2.0, 1.0]), None);
        // scipy.stats.spearmanr([1, 2, 2, 4], [1, 3, 2, 4]) = 0.9486832980505138
        let tied = rank_correlation(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
        assert!((tied - 0.948_683_298_050_513_8).abs() < 1e-15);
    }

    #[test]
    fn predicting_the_mean_of_the_others_has_skill_zero() {
        let scores = [0.2, 0.5, 0.9, 0.4];
        let sum: f64 = scores.iter().sum();
        let others: Vec<f64> = scores.iter().map(|s| (sum - s) / 3.0).collect();
        let error = held_out_error(&scores, &others);
        assert!((error.rmse - error.baseline_rmse).abs() < 1e-12);
        assert!(error.skill().abs() < 1e-12);
        assert_eq!(held_out_error(&scores, &scores).skill(), 1.0);
    }
}
