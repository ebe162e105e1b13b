//! The raw results of an experiment: one line of JSON per trial, in a file beside the experiment's.

use std::path::{Path, PathBuf};

use anyhow::Result;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::file::Stage;
use crate::error::{Kind, ResultExt};

/// What one trial measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Hash of everything that the trial depends on.
    pub trial: String,
    /// What it is for.
    pub stage: Stage,
    /// Name of its arm.
    pub arm: String,
    /// Steps of its fine-tune.
    pub steps: usize,
    /// Peak learning rate.
    pub rate: f64,
    /// Its replicate: seed of adapters and data order, and of the pictures where they are fresh.
    pub replicate: u64,
    /// Ranks in the layout's order; none without LoRA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
    /// Parameters that were trained outside the projector.
    pub parameters: u64,
    /// What it measured; none where it diverged.
    pub measured: Option<Measured>,
    /// Why it has no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds that it took, beside whatever else ran.
    pub seconds: f64,
}

/// The numbers of a fine-tune that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Score of each task, in percent.
    pub scores: IndexMap<String, f64>,
    /// Mean loss of the steps of the second half, each before its update; none without training. Batches are new in a run of
    /// less than an epoch, so that this is a loss on data that was not seen before.
    pub training_loss: Option<f64>,
    /// Loss of an answer token on the scored part, by task, in nats.
    pub held_out_loss: IndexMap<String, f64>,
    /// Share of the steps whose gradients were clipped.
    pub clipped: f64,
    /// Floating-point operations of the fine-tune's matrix products.
    pub flops: f64,
}

impl Measured {
    /// Mean score over some tasks.
    pub fn mean_score(&self, tasks: &[String]) -> f64 {
        mean_of(&self.scores, tasks)
    }

    /// Mean held-out loss over some tasks.
    pub fn mean_loss(&self, tasks: &[String]) -> f64 {
        mean_of(&self.held_out_loss, tasks)
    }
}

fn mean_of(values: &IndexMap<String, f64>, tasks: &[String]) -> f64 {
    let found: Vec<f64> = tasks.iter().filter_map(|task| values.get(task).copied()).collect();
    if found.len() == tasks.len() && !found.is_empty() {
        found.iter().sum::<f64>() / found.len() as f64
    } else {
        f64::NAN
    }
}

/// Where the raw results of an experiment's file lie.
pub fn results_path(experiment: &Path) -> PathBuf {
    experiment.with_extension("jsonl")
}

/// Reads raw results; none where there is no file.
///
/// # Errors
/// A file that cannot be read, a line that is damaged.
pub fn read_records(path: &Path) -> Result<Vec<Record>> {
    read_lines(path)
}

/// Reads raw results, one to a line; none where there is no file.
///
/// # Errors
/// As [`read_records`].
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).or_fail(Kind::Data, place)?;
    parse_lines(&text, path)
}

/// Reads lines of raw results.
///
/// # Errors
/// A line that is damaged.
pub fn parse_lines<T: DeserializeOwned>(text: &str, path: &Path) -> Result<Vec<T>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line)
            .or_fail(Kind::Data, || format!("{}:{}: delete this line to run it again", path.display(), index + 1))
    };
    numbered.map(parse).collect()
}
