//! What a report is made of. Plain data: whoever ran the experiment fills it, `report.json` keeps it.

use serde::{Deserialize, Serialize};

/// Everything that a report shows. A section without data is left out of the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportData {
    /// Version of this layout: 1.
    pub hydra_report: u32,
    /// Heading of the page.
    pub title: String,
    /// What was run.
    pub run: RunDescription,
    /// Gradient norms and the stages that they gave.
    #[serde(default)]
    pub profile: Option<ProfileSection>,
    /// The schedule that HyDRA ended with.
    #[serde(default)]
    pub schedule: Option<ScheduleSection>,
    /// The search, trial by trial.
    #[serde(default)]
    pub search: Option<SearchSection>,
    /// The comparison at the end.
    #[serde(default)]
    pub comparison: Option<ComparisonSection>,
}

/// What was run, where, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The model.
    pub model: String,
    /// The data that it was trained and tested on.
    pub data: String,
    /// Rank of uniform LoRA.
    pub base_rank: u32,
    /// The budget: trainable parameters of uniform LoRA at the base rank.
    pub budget: u64,
    /// Seeds of the final runs.
    pub seeds: Vec<u64>,
    /// Device and backend.
    pub device: String,
    /// Wall time of the whole run, in seconds.
    pub wall_seconds: f64,
    /// The command, as it can be run again.
    pub command: String,
    /// Version of the trainer.
    pub trainer: String,
    /// End of the run, UTC.
    pub finished: String,
    /// What a reader has to know to read the numbers right, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The gradient profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileSection {
    /// What a norm is, e.g. `L2 norm of [∇A; ∇B], mean over steps`.
    pub signal: String,
    /// Optimizer steps that were averaged.
    pub steps: usize,
    /// Whether norms were estimated, not logged.
    #[serde(default)]
    pub estimated: bool,
    /// One per decoder layer, in order.
    pub layers: Vec<LayerNormRow>,
    /// One per projection, averaged over layers.
    pub projections: Vec<ProjectionNormRow>,
}

/// A layer's norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerNormRow {
    /// Its norm.
    pub norm: f64,
    /// Standard error of it.
    pub standard_error: f64,
    /// Its stage, from 0 (lowest norm).
    pub stage: usize,
}

/// A projection's norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectionNormRow {
    /// `q`, `k`, …
    pub name: String,
    /// Mean over layers.
    pub norm: f64,
    /// Standard error of it.
    pub standard_error: f64,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSection {
    /// Which schedule it is, e.g. `searched, trial 13`.
    pub name: String,
    /// Names of the columns.
    pub projections: Vec<String>,
    /// One per decoder layer, in order.
    pub layers: Vec<LayerRanks>,
    /// Trainable parameters allowed.
    pub budget_allowed: u64,
    /// Trainable parameters used.
    pub budget_used: u64,
}

/// The ranks of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRanks {
    /// Its stage, from 0 (lowest norm).
    pub stage: usize,
    /// A rank per projection.
    pub ranks: Vec<u32>,
}

/// The search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchSection {
    /// What predicted, e.g. `performance model: 1 encoder layer, 4 heads, width 32, ensemble of 5`.
    pub predictor: String,
    /// What was measured and maximised, e.g. `mean validation score over 5 tasks, %`.
    pub score: String,
    /// In the order in which they ran.
    pub trials: Vec<TrialRow>,
    /// How well the predictor knows trials that it has not seen.
    #[serde(default)]
    pub leave_one_out: Option<LeaveOneOut>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRow {
    /// Its number.
    pub number: u64,
    /// Where its schedule came from: `uniform`, `coarse`, `proposed`, …
    pub origin: String,
    /// Score that was predicted before it ran.
    #[serde(default)]
    pub predicted: Option<f64>,
    /// Standard deviation of the prediction.
    #[serde(default)]
    pub predicted_deviation: Option<f64>,
    /// Score that was measured; absent where the trial failed.
    #[serde(default)]
    pub measured: Option<f64>,
}

/// Leave-one-out root mean square errors, in the score's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LeaveOneOut {
    /// Of the predictor.
    pub predictor: f64,
    /// Of always predicting the mean of the other trials.
    pub mean: f64,
}

/// The final comparison on the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonSection {
    /// The split, e.g. `test split, touched once`.
    pub split: String,
    /// Columns.
    pub tasks: Vec<TaskColumn>,
    /// Rows.
    pub arms: Vec<ArmRow>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskColumn {
    /// Its name.
    pub name: String,
    /// What the numbers are, e.g. `accuracy, %`. Higher is better.
    pub metric: String,
}

/// What an arm of the comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmKind {
    /// The base model, untouched.
    Base,
    /// Uniform LoRA at the base rank: what HyDRA is compared with.
    Uniform,
    /// HyDRA's coarse step.
    Coarse,
    /// HyDRA's coarse and fine step.
    Fine,
    /// HyDRA's searched schedule.
    Searched,
    /// Every weight trained, for reference.
    Full,
    /// Any other.
    Other,
}

impl ArmKind {
    /// How much of HyDRA is in it; 0 for none. The arm with the most is the one that the verdict is about.
    pub fn hydra_steps(self) -> u8 {
        match self {
            Self::Coarse => 1,
            Self::Fine => 2,
            Self::Searched => 3,
            Self::Base | Self::Uniform | Self::Full | Self::Other => 0,
        }
    }
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmRow {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ArmKind,
    /// Parameters that it trains; 0 for the untouched model.
    pub trainable_parameters: u64,
    /// Scores: one list per task, in it one score per seed.
    pub scores: Vec<Vec<f64>>,
}
