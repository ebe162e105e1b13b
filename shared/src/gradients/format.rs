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
        }
    }
}
