//! Predicted values, and how far they can be trusted.

use serde::{Deserialize, Serialize};

/// A predicted value and how sure the model is of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Expected value, in the score's own unit.
    pub mean: f64,
    /// Standard deviation of the model's belief about the score's expected value, in the same unit.
    pub std: f64,
}

/// Error of predictions for trials that the model did not see.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOutError {
    /// Root mean square error, in the score's unit.
    pub rmse: f64,
    /// The same when the mean of the other trials is predicted.
    pub baseline_rmse: f64,
    /// Spearman's rank correlation of predicted and measured; absent where either is constant.
    pub rank_correlation: Option<f64>,
}

impl HeldOutError {
    /// Share of the baseline's squared error that the model explains: 1 is perfect, 0 or less means that predicting
    /// the mean would have done as well. 0 where every trial scored the same.
    pub fn skill(&self) -> f64 {
        if self.baseline_rmse == 0.0 { 0.0 } else { 1.0 - (self.rmse / self.baseline_rmse).powi(2) }
    }
}
