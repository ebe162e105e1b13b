//! The formats of logs, by name.

use serde::{Deserialize, Serialize};

/// Formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// The project's own JSON lines.
    HydraLog,
    /// JSON lines of metrics.
    JsonLines,
    /// A table of metrics: Lightning's CSV logger and its like.
    Csv,
    /// JSON lines with W&B's histograms.
    WandbHistory,
    /// A TensorBoard event file.
    TensorBoard,
    /// Hugging Face Trainer's `trainer_state.json`.
    TrainerState,
    /// A JSON document: a list of rows, rows under a key, or several documents one after another.
    Json,
    /// W&B's offline file, `run-ID.wandb`.
    Wandb,
    /// swanlab's offline file, `run-ID.swanlab`.
    Swanlab,
    /// An SQLite database: trackio's, mlflow's, swanlab's.
    Sqlite,
    /// A Parquet table.
    Parquet,
    /// A file of mlflow's file store: one metric, whose name is the path.
    MlflowMetric,
}

impl Format {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::HydraLog => "HyDRA gradient log",
            Self::JsonLines => "JSON lines",
            Self::Csv => "CSV",
            Self::WandbHistory => "W&B history",
            Self::TensorBoard => "TensorBoard event file",
            Self::TrainerState => "trainer_state.json",
            Self::Json => "JSON",
            Self::Wandb => "W&B offline file",
            Self::Swanlab => "swanlab file",
            Self::Sqlite => "SQLite database",
            Self::Parquet => "Parquet",
            Self::MlflowMetric => "mlflow metric file",
        }
    }

    /// Whether programs that have nothing to do with training write files of this format, too.
    pub(super) fn may_be_anything(self) -> bool {
        matches!(self, Self::Json | Self::JsonLines | Self::Csv | Self::Sqlite | Self::Parquet | Self::MlflowMetric)
    }

    /// Whether it is rows one after another, which can be summed up by themselves.
    pub(super) fn is_rows(self) -> bool {
        matches!(self, Self::HydraLog | Self::JsonLines | Self::Csv)
    }

    /// The file in the middle of a sentence: "the … holds no gradients".
    pub(super) fn holder(self) -> &'static str {
        match self {
            Self::Wandb | Self::Swanlab | Self::Sqlite | Self::TensorBoard | Self::TrainerState => self.name(),
            Self::Parquet => "Parquet table",
            Self::WandbHistory => "W&B history",
            _ => "log",
        }
    }
}
