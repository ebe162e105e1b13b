//! One fine-tune with checkpoints, which goes on after an interrupt; in a run folder with logs and gradient norms.

use std::path::Path;

use anyhow::{Context as _, Result};
use hydra_shared::gradients::LogWriter;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{StepReport, module_gradients};
use hydra_shared::vlm::{LossScale, MobileVlm, Precision, Trainable, Weights};

use serde::de::DeserializeOwned;

use super::fine_tune::{Flow, fine_tune};
use super::job::Job;
use super::step::{SavedState, TrainingState, resume};
use super::workbench::Workbench;
use crate::error::{Kind, ResultExt, failure};
use crate::interrupt;
use crate::output::Output;
use crate::runs::{Checkpoint, CheckpointStore, JournalFile, MetricsLog, RunFolder};

/// Trained weights in a checkpoint.
const TRAINED_FILE: &str = "trained.safetensors";
/// AdamW's moments in a checkpoint.
const OPTIMIZER_FILE: &str = "optimizer.burnpack";
/// How often the run went back to an earlier state, in a checkpoint; absent where it never did.
const ROLL_BACKS_FILE: &str = "roll-backs.json";
/// Factor of the loss in half precision, in a checkpoint; absent in single precision.
const LOSS_SCALE_FILE: &str = "loss-scale.json";
/// Losses of the logged steps, in a checkpoint whose owner asked for them.
const LOSSES_FILE: &str = "losses.json";

/// A fine-tune at its start, or where its newest checkpoint left it.
pub struct FineTune<'a> {
    bench: &'a Workbench,
    job: &'a Job,
    trainable: Trainable,
    checkpoints: CheckpointStore,
    state: TrainingState,
    losses: Option<Vec<f64>>,
}

/// A fine-tune that ended.
pub struct Tuned {
    /// The model, nothing in it tracked.
    pub model: MobileVlm,
    /// Losses of the logged steps, where they were kept.
    pub losses: Vec<f64>,
}

/// A fine-tune of a run folder that ended.
pub struct TrainingRun {
    /// The model, nothing in it tracked.
    pub model: MobileVlm,
    /// Mean loss over the last tenth of the steps.
    pub final_loss: Option<f64>,
}

impl<'a> FineTune<'a> {
    /// Goes on from the newest checkpoint; begins where there is none.
    ///
    /// # Errors
    /// A checkpoint of another job, weights that do not fit.
    pub fn start(
        bench: &'a Workbench,
        job: &'a Job,
        trainable: Trainable,
        checkpoints: CheckpointStore,
    ) -> Result<Self> {
        let (state, _) = start(bench, job, trainable, &checkpoints)?;
        Ok(Self { bench, job, trainable, checkpoints, state, losses: None })
    }

    /// [`FineTune::start`], with the losses of all logged steps in the checkpoints, so that they outlive an interrupt.
    ///
    /// # Errors
    /// As [`FineTune::start`].
    pub fn with_losses(
        bench: &'a Workbench,
        job: &'a Job,
        trainable: Trainable,
        checkpoints: CheckpointStore,
    ) -> Result<Self> {
        let (state, losses) = start(bench, job, trainable, &checkpoints)?;
        Ok(Self { bench, job, trainable, checkpoints, state, losses: Some(losses) })
    }

    /// The step that it goes on from; none where it begins.
    pub fn resumed_from(&self) -> Option<u64> {
        (self.state.step > 0).then_some(self.state.step as u64)
    }

    /// Trains to the end; `observe` sees what every logged step reports.
    ///
    /// # Errors
    /// A loss that is not finite, a device that fails, a disk that cannot be written, whatever `observe` returns;
    /// [`Kind::Interrupted`] after the state was saved.
    pub fn run(
        self,
        output: &Output,
        title: &str,
        mut observe: impl FnMut(&StepReport) -> Result<()>,
    ) -> Result<Tuned> {
        let Self { bench, job, trainable, checkpoints, state, mut losses } = self;
        let training = &job.training;
        let examples = bench.part(Split::Train)?.conversations();
        let threads = bench.config.data.decoding_threads;
        let mut progress = output.progress(title, training.steps as u64);
        let every = training.checkpoint_every;
        let (state, flow) = fine_tune(state, trainable, examples, training, job.seed, threads, |report, state| {
            if let Some(report) = report {
                progress.set(state.step as u64, format_args!("loss {:.4}", report.loss));
                observe(report)?;
                if let Some(losses) = &mut losses {
                    losses.push(report.loss);
                }
            }
            let stop = interrupt::requested();
            let due = every > 0 && state.step.is_multiple_of(every) && state.step < training.steps;
            if due || stop {
                save(&checkpoints, &SavedState::of(state, trainable)?, losses.as_deref())?;
            }
            Ok(if stop { Flow::Stop } else { Flow::Continue })
        })?;
        progress.finish("");
        if flow == Flow::Stop && state.step < training.steps {
            return Err(failure(Kind::Interrupted, format!("interrupted after step {}", state.step)));
        }
        save(&checkpoints, &SavedState::of(&state, trainable)?, losses.as_deref())?;
        Ok(Tuned { model: state.model.frozen(), losses: losses.unwrap_or_default() })
    }
}

/// Trains a job in a run folder, from its newest checkpoint where it has one.
///
/// # Errors
/// As [`FineTune::run`].
pub fn train_in_run(run: &RunFolder, bench: &Workbench, job: &Job, output: &Output) -> Result<TrainingRun> {
    let Some(trainable) = job.recipe.trainable() else {
        let model = bench.base.model_of(&job.recipe, job.seed, None)?;
        return Ok(TrainingRun { model, final_loss: None });
    };
    let tune = FineTune::start(bench, job, trainable, run.checkpoints())?;
    let mut metrics = MetricsLog::open(&run.file("logs")?, tune.resumed_from())?;
    let spec = &bench.base.spec;
    let mut gradients = GradientFile::open(&run.file("profile/grads.jsonl")?, spec, job, tune.resumed_from())?;
    let mut last_losses = Vec::new();
    let tail = job.training.steps - job.training.steps.div_ceil(10);
    let tuned = tune.run(output, "train", |report| {
        metrics.scalars(
            report.step as u64,
            &[
                ("train/loss", report.loss),
                ("train/learning_rate", report.learning_rate),
                ("train/grad_norm", report.global_norm),
            ],
        )?;
        gradients.append(spec, report)?;
        if report.step > tail {
            last_losses.push(report.loss);
        }
        Ok(())
    })?;
    let final_loss = (!last_losses.is_empty()).then(|| last_losses.iter().sum::<f64>() / last_losses.len() as f64);
    Ok(TrainingRun { model: tuned.model, final_loss })
}

/// The state of the newest checkpoint, or the one before the first step, and the losses kept so far.
fn start(
    bench: &Workbench,
    job: &Job,
    trainable: Trainable,
    checkpoints: &CheckpointStore,
) -> Result<(TrainingState, Vec<f64>)> {
    let newest = checkpoints.load_newest()?;
    for skipped in newest.skipped {
        tracing::warn!("{skipped}");
    }
    let Some(mut checkpoint) = newest.checkpoint else {
        let model = bench.base.model_of(&job.recipe, job.seed, None)?;
        return Ok((TrainingState::new(model, trainable, &job.training.optimizer), Vec::new()));
    };
    let roll_backs = small_file(&mut checkpoint, ROLL_BACKS_FILE)?;
    let loss_scale = small_file(&mut checkpoint, LOSS_SCALE_FILE)?;
    let losses = small_file(&mut checkpoint, LOSSES_FILE)?;
    let mut file = |name: &str| {
        checkpoint.files.remove(name).with_context(|| {
            format!("checkpoint {} has no {name}; delete it to go on from an older one", checkpoint.step)
        })
    };
    let (trained, optimizer) = (file(TRAINED_FILE)?, file(OPTIMIZER_FILE)?);
    let trained = Weights::from_safetensors(&trained).or_fail(Kind::Data, || TRAINED_FILE)?;
    let model = bench.base.model_of(&job.recipe, job.seed, Some(trained))?;
    let fresh = TrainingState::new(model, trainable, &job.training.optimizer);
    let state = resume(fresh, optimizer, checkpoint.step as usize, roll_backs, loss_scale)?;
    Ok((state, losses))
}

/// What a small file of a checkpoint says; the default where there is none.
fn small_file<T: DeserializeOwned + Default>(checkpoint: &mut Checkpoint, name: &str) -> Result<T> {
    match checkpoint.files.remove(name) {
        Some(bytes) => serde_json::from_slice(&bytes).or_fail(Kind::Data, || name),
        None => Ok(T::default()),
    }
}

fn save(checkpoints: &CheckpointStore, state: &SavedState, losses: Option<&[f64]>) -> Result<()> {
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
    let losses = losses.map(serde_json::to_vec).transpose()?;
    if let Some(losses) = &losses {
        files.push((LOSSES_FILE, losses));
    }
    checkpoints.save(state.step as u64, &files)?;
    Ok(())
}

/// The run's gradient log, a line a step.
pub struct GradientFile(JournalFile);

impl GradientFile {
    /// Opens the log; lines after the step that the run goes on from are dropped.
    ///
    /// # Errors
    /// A disk that cannot be read or written.
    pub fn open(path: &Path, spec: &ModelSpec, job: &Job, resumed_from: Option<u64>) -> Result<Self> {
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

    /// Writes a step's norms.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn append(&mut self, spec: &ModelSpec, report: &StepReport) -> Result<()> {
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
    Ok(String::from_utf8(LogWriter::new(Vec::new(), &job.recipe.log_meta(spec))?.into_inner())?)
}
