//! A trial: one fine-tune and its scores, kept, so that no job runs twice.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use hydra_shared::tasks::Split;
use serde::{Deserialize, Serialize};

use crate::data::Scores;
use crate::error::{Kind, ResultExt};
use crate::runs::atomic::write_json;
use crate::train::job::Job;
use crate::train::step::final_loss;
use crate::train::workbench::Workbench;

/// What a job measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Parameters that were trained outside the projector.
    pub trainable_parameters: u64,
    /// Scores by task, and their mean.
    pub scores: Scores,
    /// Mean loss over the last tenth of the steps; none without training.
    pub final_loss: Option<f64>,
    /// Wall time in seconds, training and scoring together.
    pub wall_seconds: f64,
}

/// Runs a job, or reads its result where it ran before: `jobs` is the folder that holds one folder per job, named by
/// its hash, with `config.json` and `result.json`.
///
/// # Errors
/// As [`Workbench::tune`], and a disk that cannot be written.
pub fn run_job(bench: &mut Workbench, job: &Job, title: &str, jobs: &Path) -> Result<JobResult> {
    let folder = jobs.join(job.hash()?);
    let result_file = folder.join("result.json");
    if let Ok(text) = std::fs::read_to_string(&result_file) {
        return serde_json::from_str(&text).or_fail(Kind::Data, || {
            format!("{}: damaged; delete this file to run the job again", result_file.display())
        });
    }
    if job.recipe.trainable().is_some() {
        bench.prepare(Split::Train)?;
    }
    bench.prepare(job.score)?;
    let started = Instant::now();
    let tuned = bench.tune(job, title)?;
    let (_, scores) = bench.score(&tuned.model, job.score)?;
    let result = JobResult {
        trainable_parameters: job.recipe.trainable_parameters(bench.spec()),
        scores,
        final_loss: final_loss(&tuned.reports),
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    std::fs::create_dir_all(&folder).or_fail(Kind::Failure, || folder.display().to_string())?;
    write_json(&folder.join("config.json"), job)?;
    write_json(&result_file, &result)?;
    Ok(result)
}
