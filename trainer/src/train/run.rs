//! One fine-tune in a run folder: logs, gradient norms, checkpoints, and going on after an interrupt.

use std::path::Path;

use anyhow::{Context as _, Result};
use hydra_shared::gradients::{Clip, LogMeta, LogUnit, LogWriter, LoraMeta};
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{StepReport, module_gradients};
use hydra_shared::vlm::{LossScale, MobileVlm, Precision, Trainable, Weights};

use serde::de::DeserializeOwned;

use super::fine_tune::Flow;
use super::job::Job;
use super::step::{SavedState, TrainingState, resume};
use super::workbench::Workbench;
use crate::error::{Kind, ResultExt, failure};
use crate::interrupt;
use crate::model::recipe::Recipe;
use crate::runs::{Checkpoint, CheckpointStore, JournalFile, MetricsLog, RunFolder};

/// Trained weights in a checkpoint.
const TRAINED_FILE: &str = "trained.safetensors";
/// AdamW's moments in a checkpoint.
const OPTIMIZER_FILE: &str = "optimizer.burnpack";
/// How often the run went back to an earlier state, in a checkpoint; absent where it never did.
const ROLL_BACKS_FILE: &str = "roll-backs.json";
/// Factor of the loss in half precision, in a checkpoint; absent in single precision.
const LOSS_SCALE_FILE: &str = "loss-scale.json";

/// A fine-tune that ended.
pub struct TrainingRun {
    /// The model, nothing in it tracked.
    pub model: MobileVlm,
    /// Mean loss over the last tenth of the steps.
    pub final_loss: Option<f64>,
}

/// Trains a job in a run folder, from its newest checkpoint where it has one.
///
/// # Errors
/// A loss that is not finite, a disk that cannot be written; [`Kind::Interrupted`] after the state was saved.
pub fn train_in_run(run: &RunFolder, bench: &Workbench, job: &Job) -> Result<TrainingRun> {
    let Some(trainable) = job.recipe.trainable() else {
        let model = bench.base.model_of(&job.recipe, job.seed, None)?;
        return Ok(TrainingRun { model, final_loss: None });
    };
    let checkpoints = run.checkpoints();
    let state = start(bench, job, trainable, &checkpoints)?;
    let resumed_from = (state.step > 0).then_some(state.step as u64);
    let mut metrics = MetricsLog::open(&run.file("logs")?, resumed_from)?;
    let mut gradients = GradientFile::open(&run.file("profile/grads.jsonl")?, bench.spec(), job, resumed_from)?;
    let every = job.training.checkpoint_every;
    let mut last_losses = Vec::new();
    let tail = job.training.steps - job.training.steps.div_ceil(10);
    let (state, flow) = bench.train(job, state, "train", |report, state| {
        if let Some(report) = report {
            metrics.scalars(
                report.step as u64,
                &[
                    ("train/loss", report.loss),
                    ("train/learning_rate", report.learning_rate),
                    ("train/grad_norm", report.global_norm),
                ],
            )?;
            gradients.append(bench.spec(), report)?;
            if report.step > tail {
                last_losses.push(report.loss);
            }
        }
        let due = every > 0 && state.step.is_multiple_of(every) && state.step < job.training.steps;
        if due || interrupt::requested() {
            save(&checkpoints, &SavedState::of(state, trainable)?)?;
        }
        Ok(())
    })?;
    if flow == Flow::Stop && state.step < job.training.steps {
        return Err(failure(Kind::Interrupted, format!("interrupted after step {}", state.step)));
    }
    save(&checkpoints, &SavedState::of(&state, trainable)?)?;
    let final_loss = (!last_losses.is_empty()).then(|| last_losses.iter().sum::<f64>() / last_losses.len() as f64);
    Ok(TrainingRun { model: state.model.frozen(), final_loss })
}

/// The state of the newest checkpoint, or the one before the first step.
fn start(bench: &Workbench, job: &Job, trainable: Trainable, checkpoints: &CheckpointStore) -> Result<TrainingState> {
    let newest = checkpoints.load_newest()?;
    for skipped in newest.skipped {
        tracing::warn!("{skipped}");
    }
    let Some(mut checkpoint) = newest.checkpoint else {
        let model = bench.base.model_of(&job.recipe, job.seed, None)?;
        return Ok(TrainingState::new(model, trainable, &job.training.optimizer));
    };
    let roll_backs = small_file(&mut checkpoint, ROLL_BACKS_FILE)?;
    let loss_scale = small_file(&mut checkpoint, LOSS_SCALE_FILE)?;
    let mut file = |name: &str| {
        checkpoint.files.remove(name).with_context(|| {
            format!("checkpoint {} has no {name}; delete it to go on from an older one", checkpoint.step)
        })
    };
    let (trained, optimizer) = (file(TRAINED_FILE)?, file(OPTIMIZER_FILE)?);
    let trained = Weights::from_safetensors(&trained).or_fail(Kind::Data, || TRAINED_FILE)?;
    let model = bench.base.model_of(&job.recipe, job.seed, Some(trained))?;
    let fresh = TrainingState::new(model, trainable, &job.training.optimizer);
    resume(fresh, optimizer, checkpoint.step as usize, roll_backs, loss_scale)
}

/// What a small file of a checkpoint says; the default where there is none.
fn small_file<T: DeserializeOwned + Default>(checkpoint: &mut Checkpoint, name: &str) -> Result<T> {
    match checkpoint.files.remove(name) {
        Some(bytes) => serde_json::from_slice(&bytes).or_fail(Kind::Data, || name),
        None => Ok(T::default()),
    }
}

fn save(checkpoints: &CheckpointStore, state: &SavedState) -> Result<()> {
    let trained = state.trained.to_safetensors(Precision::F32)?;
    let roll_backs = state.roll_backs.to_string();
    let loss_scale = serde_json::to_string(&state.loss_scale)?;
    let mut files: Vec<(&str, &[u8])> = vec![(TRAINED_FILE, &trained), (OPTIMIZER_FILE, &state.optimizer)];
    if state.roll_backs > 0 {
        files.push((ROLL_BACKS_FILE, roll_backs.as_bytes()));
    }
    if state.loss_scale != LossScale::default() {
        files.push((LOSS_SCALE_FILE, loss_scale.as_bytes()));
    }
    checkpoints.save(state.step as u64, &files)?;
    Ok(())
}

/// The run's gradient log, a line a step.
struct GradientFile(JournalFile);

impl GradientFile {
    /// Opens the log; lines after the step that the run goes on from are dropped.
    fn open(path: &Path, spec: &ModelSpec, job: &Job, resumed_from: Option<u64>) -> Result<Self> {
        let kept = match resumed_from {
            Some(step) if path.exists() => {
                let text = JournalFile::open(path)?.text;
                let keep = |line: &&str| {
                    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
                    value.and_then(|value| value.get("step")?.as_u64()).is_none_or(|logged| logged <= step)
                };
                text.lines().filter(keep).map(|line| format!("{line}\n")).collect()
            }
            _ => header(spec, job)?,
        };
        Ok(Self(JournalFile::rewrite(path, &kept)?))
    }

    fn append(&mut self, spec: &ModelSpec, report: &StepReport) -> Result<()> {
        let mut line = Vec::new();
        LogWriter::append(&mut line).step(
            report.step as u64,
            Some(report.loss),
            module_gradients(spec, &report.norms),
        )?;
        let line = String::from_utf8(line)?;
        self.0.append(&[line.trim_end()])
    }
}

fn header(spec: &ModelSpec, job: &Job) -> Result<String> {
    let uniform = match &job.recipe {
        Recipe::Lora { ranks, scale } => ranks.all_equal().map(|r| LoraMeta { r, alpha: Some(scale.alpha(r)) }),
        Recipe::Base | Recipe::Full | Recipe::Projector => None,
    };
    let meta = LogMeta {
        model: Some(spec.name.clone()),
        clip: Some(Clip::Pre),
        unit: Some(LogUnit::OptimizerStep),
        lora: uniform,
    };
    Ok(String::from_utf8(LogWriter::new(Vec::new(), &meta)?.into_inner())?)
}
