//! The trait of performance models, what they learn from and what they predict.

use serde::{Deserialize, Serialize};

use super::{Estimate, FEWEST_TRIALS, FeatureSpace, GaussianProcess, LeaveOneOut, ModelKind, Ridge, Transformer};
use crate::layout::{Layout, Ranks};

/// What a performance model predicts of one schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The mean over benchmarks.
    pub objective: Estimate,
    /// One estimate per benchmark.
    pub scores: Vec<Estimate>,
}

/// What a performance model learns from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observations {
    /// The ranks of each trial.
    pub schedules: Vec<Ranks>,
    /// A score per benchmark for each trial.
    pub scores: Vec<Vec<f64>>,
}

impl Observations {
    /// Number of trials.
    pub fn len(&self) -> usize {
        self.schedules.len()
    }

    /// Whether there is no trial.
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty()
    }

    /// Number of benchmarks.
    pub fn benchmarks(&self) -> usize {
        self.scores.first().map_or(0, Vec::len)
    }

    /// Mean score of every trial.
    pub fn objectives(&self) -> Vec<f64> {
        self.scores.iter().map(|s| s.iter().sum::<f64>() / s.len() as f64).collect()
    }

    /// One benchmark's score of every trial.
    pub(super) fn column(&self, benchmark: usize) -> Vec<f64> {
        self.scores.iter().filter_map(|s| s.get(benchmark).copied()).collect()
    }

    /// Refuses what no model can be fitted on.
    pub(super) fn check(&self, layout: &Layout) -> Result<(), FitError> {
        let benchmarks = self.benchmarks();
        if self.len() < FEWEST_TRIALS {
            return Err(FitError::TooFewTrials { trials: self.len() });
        }
        if self.scores.len() != self.len() || benchmarks == 0 {
            return Err(FitError::Scores { trial: 0, expected: benchmarks.max(1), found: benchmarks });
        }
        for (trial, (ranks, scores)) in self.schedules.iter().zip(&self.scores).enumerate() {
            if !is_schedule_of(ranks, layout) {
                let found = ranks.layout().len();
                return Err(FitError::Schedule { trial, expected: layout.len(), found });
            }
            if scores.len() != benchmarks {
                return Err(FitError::Scores { trial, expected: benchmarks, found: scores.len() });
            }
            if scores.iter().any(|s| !s.is_finite()) {
                return Err(FitError::NotFinite { trial });
            }
        }
        Ok(())
    }
}

/// Why a performance model could not be fitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Too little data.
    #[error("a performance model needs at least {FEWEST_TRIALS} complete trials, there are {trials}")]
    TooFewTrials {
        /// Complete trials.
        trials: usize,
    },
    /// A schedule of another model.
    #[error("trial {trial} has ranks for {found} modules (each at least 1), the model has {expected}")]
    Schedule {
        /// Position among the observations.
        trial: usize,
        /// Modules of the model.
        expected: usize,
        /// Ranks of the trial.
        found: usize,
    },
    /// Scores of other benchmarks.
    #[error("trial {trial} has {found} scores, {expected} are expected")]
    Scores {
        /// Position among the observations.
        trial: usize,
        /// Benchmarks of the study.
        expected: usize,
        /// Scores of the trial.
        found: usize,
    },
    /// NaN or infinity.
    #[error("trial {trial} has a score that is not a finite number")]
    NotFinite {
        /// Position among the observations.
        trial: usize,
    },
    /// The arithmetic failed.
    #[error("the performance model could not be fitted: {0}")]
    Numeric(String),
}

/// Why a prediction could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// A schedule of another model.
    #[error("schedule {schedule} has ranks for {found} modules (each at least 1), the model has {expected}")]
    Schedule {
        /// Position among the schedules.
        schedule: usize,
        /// Modules of the model.
        expected: usize,
        /// Ranks of the schedule.
        found: usize,
    },
    /// The arithmetic failed.
    #[error("the performance model could not predict: {0}")]
    Numeric(String),
}

impl PredictError {
    /// Refuses schedules of another model.
    pub(super) fn check(schedules: &[Ranks], layout: &Layout) -> Result<(), Self> {
        match schedules.iter().enumerate().find(|(_, ranks)| !is_schedule_of(ranks, layout)) {
            Some((schedule, ranks)) => {
                Err(Self::Schedule { schedule, expected: layout.len(), found: ranks.layout().len() })
            }
            None => Ok(()),
        }
    }
}

/// Whether ranks are those of a layout, each at least 1: the models learn from logarithms.
fn is_schedule_of(ranks: &Ranks, layout: &Layout) -> bool {
    ranks.layout().same_modules(layout) && !ranks.as_slice().contains(&0)
}

/// A way to learn scores from trials.
pub trait PerformanceModel {
    /// Name for reports and files.
    fn name(&self) -> &'static str;

    /// Learns from `data`, from scratch. The same data and seed give the same fit.
    ///
    /// # Errors
    /// Fewer than [`FEWEST_TRIALS`] trials, schedules of another model, scores that are missing or not finite.
    fn fit(&self, space: &FeatureSpace, data: &Observations, seed: u64) -> Result<Box<dyn FittedModel>, FitError>;
}

/// A performance model after its fit.
pub trait FittedModel: std::fmt::Debug + Send + Sync {
    /// Predicts the scores of schedules, in their order.
    ///
    /// # Errors
    /// A schedule that is not one of the model it was fitted for.
    fn predict(&self, schedules: &[Ranks]) -> Result<Vec<Prediction>, PredictError>;

    /// How well it predicts trials that it did not see.
    fn leave_one_out(&self) -> &LeaveOneOut;
}

impl ModelKind {
    /// The model with its default settings.
    pub fn build(self) -> Box<dyn PerformanceModel> {
        match self {
            Self::Transformer => Box::new(Transformer::default()),
            Self::Ridge => Box::new(Ridge),
            Self::GaussianProcess => Box::new(GaussianProcess),
        }
    }
}
