//! A trial: one fine-tune and its scores, kept, so that no job runs twice.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::{Precision, Weights};
use serde::{Deserialize, Serialize};

use crate::adapter;
use crate::data::Scores;
use crate::error::{Kind, ResultExt};
use crate::evaluation::answers::score;
use crate::output::Output;
use crate::runs::CheckpointStore;
use crate::runs::atomic::{write_file, write_json};
use crate::train::job::Job;
use crate::train::run::{FineTune, Tuned};
use crate::train::step::final_loss;
use crate::train::workbench::Workbench;

/// Checkpoints of a job that has not ended, in its folder.
const CHECKPOINTS: &str = "checkpoints";
/// What the best job trained, in its folder.
const WEIGHTS: &str = "trained.safetensors";

/// What a job measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Parameters that were trained outside the projector.
    pub trainable_parameters: u64,
    /// Scores by task, and their mean.
    pub scores: Scores,
    /// Mean loss over the last tenth of the steps; none without training.
    pub final_loss: Option<f64>,
    /// Wall time in seconds, training and scoring together, since the last interrupt.
    pub wall_seconds: f64,
}

/// Runs a job, or reads its result where it ran before: `jobs` is the folder that holds one folder per job, named by
/// its hash, with `config.json` and `result.json`, and until then checkpoints. Where `keep` says so of its scores, its weights
/// lie beside them, in place of another job's, for [`save_adapter`].
///
/// # Errors
/// As [`FineTune::run`], and a disk that cannot be written.
pub fn run_trial(
    bench: &Workbench,
    job: &Job,
    output: &Output,
    title: &str,
    jobs: &Path,
    keep: impl FnOnce(&Scores) -> bool,
) -> Result<JobResult> {
    let folder = jobs.join(job.hash()?);
    let result_file = folder.join("result.json");
    if let Ok(text) = std::fs::read_to_string(&result_file) {
        let result = serde_json::from_str(&text).or_fail(Kind::Data, || {
            format!("{}: damaged; delete this file to run the job again", result_file.display())
        })?;
        remove_folder(&folder.join(CHECKPOINTS))?;
        return Ok(result);
    }
    if job.recipe.trainable().is_some() {
        bench.part(Split::Train)?;
    }
    let part = bench.part(job.score)?;
    let started = Instant::now();
    let Tuned { model, losses } = tune(bench, job, output, title, &folder)?;
    let (_, scores) = score(&model, &bench.base.tokenizer, bench.chosen.threads, part)?;
    let result = JobResult {
        trainable_parameters: job.recipe.trainable_parameters(&bench.base.spec),
        scores,
        final_loss: final_loss(&losses),
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    std::fs::create_dir_all(&folder).or_fail(Kind::Failure, || folder.display().to_string())?;
    if let Some(trainable) = job.recipe.trainable().filter(|_| keep(&result.scores)) {
        let weights = pollster::block_on(model.names().read(&model, |name| trainable.includes(name)))?;
        forget_weights(jobs)?;
        write_file(&folder.join(WEIGHTS), &weights.to_safetensors(Precision::F32)?)?;
    }
    write_json(&folder.join("config.json"), job)?;
    write_json(&result_file, &result)?;
    remove_folder(&folder.join(CHECKPOINTS))?;
    Ok(result)
}

/// Writes the adapter of a job that ran, from its kept weights, which are then no longer needed. A folder of jobs that kept
/// none, as those of older versions, costs one more fine-tune.
///
/// # Errors
/// As [`run_trial`].
pub fn save_adapter(
    bench: &Workbench,
    job: &Job,
    output: &Output,
    title: &str,
    jobs: &Path,
    adapter: &Path,
) -> Result<()> {
    let folder = jobs.join(job.hash()?);
    let model = match kept_weights(&folder)? {
        Some(weights) => bench.base.model_of(&job.recipe, job.seed, Some(weights))?,
        None => tune(bench, job, output, title, &folder)?.model,
    };
    let config = &bench.config;
    let budget = config.budget(&bench.base.layout);
    adapter::folder::save(adapter, &bench.base, &job.recipe, job.seed, config.plan.base_rank, budget, &model)?;
    remove_folder(&folder.join(CHECKPOINTS))?;
    forget_weights(jobs)
}

/// Fine-tunes a job with checkpoints in its folder.
fn tune(bench: &Workbench, job: &Job, output: &Output, title: &str, folder: &Path) -> Result<Tuned> {
    let Some(trainable) = job.recipe.trainable() else {
        return Ok(Tuned { model: bench.base.model_of(&job.recipe, job.seed, None)?, losses: Vec::new() });
    };
    let checkpoints = CheckpointStore::new(folder.join(CHECKPOINTS));
    FineTune::with_losses(bench, job, trainable, checkpoints)?.run(output, title, |_| Ok(()))
}

fn kept_weights(folder: &Path) -> Result<Option<Weights>> {
    let file = folder.join(WEIGHTS);
    if !file.exists() {
        return Ok(None);
    }
    let place = || file.display().to_string();
    let bytes = std::fs::read(&file).or_fail(Kind::Data, place)?;
    Ok(Some(Weights::from_safetensors(&bytes).or_fail(Kind::Data, place)?))
}

/// Removes the weights that a folder of jobs keeps.
fn forget_weights(jobs: &Path) -> Result<()> {
    let place = || jobs.display().to_string();
    for entry in std::fs::read_dir(jobs).or_fail(Kind::Failure, place)? {
        let file = entry.or_fail(Kind::Failure, place)?.path().join(WEIGHTS);
        if file.exists() {
            std::fs::remove_file(&file).or_fail(Kind::Failure, || file.display().to_string())?;
        }
    }
    Ok(())
}

/// Removes a folder and all in it, if it is there.
///
/// # Errors
/// A folder that cannot be removed.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).or_fail(Kind::Failure, || folder.display().to_string())?;
    }
    Ok(())
}
