//! One trial: a fine-tune in memory, its losses and its scores.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::Result;
use hydra_shared::gradients::{GradientProfile, LogWriter, profile, read};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::conversation::turns_about_picture;
use hydra_shared::vlm::training::{StepReport, module_gradients};
use indexmap::IndexMap;

use super::file::{Cell, Stage};
use super::record::{Measured, Record};
use crate::data::feed::Examples;
use crate::device::Chosen;
use crate::error::{Kind, failure, kind_of, message_of};
use crate::evaluation::answers::{likelihood, score};
use crate::interrupt;
use crate::model::recipe::Recipe;
use crate::train::config::TrainingConfig;
use crate::train::experiment::ExperimentConfig;
use crate::train::fine_tune::{Flow, fine_tune};
use crate::train::flops::{Trained, training_flops};
use crate::train::step::TrainingState;
use crate::train::workbench::Workbench;

/// What the trials of one replicate run on.
pub struct Replicate {
    /// Base model and data.
    pub bench: Workbench,
    tuning: Vec<TaskExamples>,
    report: Vec<TaskExamples>,
}

/// The questions of one task with their answers, one to a sequence.
struct TaskExamples {
    task: String,
    encoded: Vec<Encoded>,
}

impl Replicate {
    /// Opens the base model and prepares the data of a replicate.
    ///
    /// # Errors
    /// Configuration or data that cannot be used.
    pub fn open(config: &ExperimentConfig, fresh_pictures: bool, number: u64, chosen: Chosen) -> Result<Self> {
        let mut config = config.clone();
        if fresh_pictures {
            config.data.seed += number;
        }
        let bench = Workbench::open(config, chosen)?;
        bench.part(Split::Train)?;
        let tuning = by_task(&bench, Split::Validation)?;
        let report = by_task(&bench, Split::Test)?;
        Ok(Self { bench, tuning, report })
    }

    /// What a trial is scored on.
    fn scored(&self, stage: Stage) -> (Split, &[TaskExamples]) {
        match stage {
            Stage::Tuning => (Split::Validation, &self.tuning),
            Stage::Report => (Split::Test, &self.report),
        }
    }

    /// Loss of an answer token of a frozen model, by task, in nats.
    ///
    /// # Errors
    /// A device that fails.
    pub fn held_out_loss(&self, model: &MobileVlm, stage: Stage) -> Result<IndexMap<String, f64>> {
        let (split, tasks) = self.scored(stage);
        let pictures = self.bench.part(split)?.conversations().pictures;
        let loss = |TaskExamples { task, encoded }: &TaskExamples| {
            Ok((task.clone(), likelihood(model, &Examples { encoded, pictures })?.loss))
        };
        tasks.iter().map(loss).collect()
    }
}

fn by_task(bench: &Workbench, split: Split) -> Result<Vec<TaskExamples>> {
    let part = bench.part(split)?;
    let set = &part.set;
    if set.is_scored_by_likelihood() {
        // One task: what its conversations say, whether they have one turn or many.
        let whole = |task| TaskExamples { task, encoded: part.conversations().encoded.to_vec() };
        return Ok(set.tasks().into_iter().map(whole).collect());
    }
    let template = bench.config.data.template;
    let mut tasks: IndexMap<String, Vec<Encoded>> = set.tasks().into_iter().map(|task| (task, Vec::new())).collect();
    for (index, question) in set.questions.iter().enumerate() {
        let Some(examples) = set.task_of(index).and_then(|task| tasks.get_mut(&task)) else { continue };
        let turns = turns_about_picture(&[(&question.text, &question.answer)]);
        examples.push(template.encode(&bench.base.tokenizer, &turns, &[question.picture])?);
    }
    // Of a task without a question there is no loss, and none of 0.
    tasks.retain(|_, encoded| !encoded.is_empty());
    Ok(tasks.into_iter().map(|(task, encoded)| TaskExamples { task, encoded }).collect())
}

/// Runs a trial. One that diverges is a result.
///
/// # Errors
/// A device that fails, data that cannot be used, [`Kind::Interrupted`].
pub fn run_trial(replicate: &Replicate, recipe: &Recipe, cell: &Cell, arm: &str, trial: String) -> Result<Record> {
    let started = Instant::now();
    let ranks = match recipe {
        Recipe::Lora { ranks, .. } => ranks.as_slice().to_vec(),
        Recipe::Base | Recipe::Full | Recipe::Projector => Vec::new(),
    };
    let (measured, error) = match measure(replicate, recipe, cell) {
        Ok(measured) => (Some(measured), None),
        Err(error) if kind_of(&error) == Kind::Numerical => (None, Some(message_of(&error))),
        Err(error) => return Err(error),
    };
    Ok(Record {
        trial,
        stage: cell.stage,
        arm: arm.to_owned(),
        steps: cell.steps,
        rate: cell.rate,
        replicate: cell.replicate,
        ranks,
        parameters: recipe.trainable_parameters(&replicate.bench.base.spec),
        measured,
        error,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn measure(replicate: &Replicate, recipe: &Recipe, cell: &Cell) -> Result<Measured> {
    let bench = &replicate.bench;
    let training = cell.training(&bench.config.training);
    let (mut losses, mut clipped) = (Vec::new(), 0);
    let model = tune(bench, recipe, &training, cell.replicate, |report| {
        losses.push(report.loss);
        clipped += usize::from(report.global_norm > training.optimizer.max_grad_norm);
        Ok(())
    })?;
    let (split, _) = replicate.scored(cell.stage);
    let (_, scores) = score(&model, &bench.base.tokenizer, rayon::current_num_threads(), bench.part(split)?)?;
    let held_out_loss = replicate.held_out_loss(&model, cell.stage)?;
    let second_half = &losses[losses.len() / 2..];
    let trained = match recipe {
        Recipe::Lora { ranks, .. } => Some(Trained::ranks(&bench.base.spec, ranks)),
        Recipe::Full => Some(Trained::Decoder),
        Recipe::Projector => Some(Trained::Adapters { layers: 0, head: 0 }),
        Recipe::Base => None,
    };
    let conversations = bench.part(Split::Train)?.conversations();
    let sequences = training.batch_size * training.steps;
    let picture = bench.base.model.tokens_per_picture();
    let flops = |trained| training_flops(&bench.base.spec, picture, trained, conversations.encoded, sequences);
    Ok(Measured {
        scores: scores.tasks,
        training_loss: hydra_shared::statistics::mean(second_half),
        held_out_loss,
        clipped: clipped as f64 / losses.len().max(1) as f64,
        flops: trained.map_or(0.0, flops),
    })
}

/// Fine-tunes in memory; the model that comes out is frozen.
fn tune(
    bench: &Workbench,
    recipe: &Recipe,
    training: &TrainingConfig,
    seed: u64,
    mut observe: impl FnMut(&StepReport) -> Result<()>,
) -> Result<MobileVlm> {
    let model = bench.base.model_of(recipe, seed, None)?;
    let Some(trainable) = recipe.trainable() else { return Ok(model.frozen()) };
    let state = TrainingState::new(model, trainable, &training.optimizer);
    let examples = bench.part(Split::Train)?.conversations();
    let threads = bench.config.data.decoding_threads;
    let (state, flow) = fine_tune(state, trainable, examples, training, seed, threads, |report, _| {
        report.map_or(Ok(()), &mut observe)?;
        Ok(if interrupt::requested() { Flow::Stop } else { Flow::Continue })
    })?;
    match flow {
        Flow::Stop if state.step < training.steps => Err(failure(Kind::Interrupted, "interrupted within a trial")),
        Flow::Stop | Flow::Continue => Ok(state.model.frozen()),
    }
}

/// Fine-tunes as a trial does; the model that comes out is frozen.
///
/// # Errors
/// As [`run_trial`]; a loss that is not finite.
pub fn tune_cell(replicate: &Replicate, recipe: &Recipe, cell: &Cell) -> Result<MobileVlm> {
    let training = cell.training(&replicate.bench.config.training);
    tune(&replicate.bench, recipe, &training, cell.replicate, |_| Ok(()))
}

/// The profiles that the schedules of an experiment follow from: gradient norms of uniform LoRA at the base rank, with the
/// configuration's seed, of its first steps as often as `windows` says and of all.
///
/// # Errors
/// As a fine-tune.
pub fn measure_profiles(
    replicate: &Replicate,
    steps: usize,
    rate: f64,
    windows: &BTreeSet<usize>,
) -> Result<BTreeMap<usize, GradientProfile>> {
    let bench = &replicate.bench;
    let recipe = bench.config.uniform(&bench.base.layout)?;
    let spec = &bench.base.spec;
    let cell = Cell { arm: 0, steps, rate, replicate: bench.config.seed, stage: Stage::Report };
    let log = |steps| Ok((steps, LogWriter::new(Vec::new(), &recipe.log_meta(spec))?));
    let mut logs = windows.iter().copied().chain([steps]).map(log).collect::<Result<BTreeMap<usize, _>>>()?;
    let config = cell.training(&bench.config.training);
    tune(bench, &recipe, &config, bench.config.seed, |report| {
        for (_, log) in logs.range_mut(report.step..) {
            log.step(report.step as u64, Some(report.loss), module_gradients(spec, &report.norms))?;
        }
        Ok(())
    })?;
    let profiled = |(steps, log): (usize, LogWriter<Vec<u8>>)| {
        let log = read("the profile's log", log.into_inner().as_slice())?;
        Ok((steps, profile(&log, &bench.base.layout, &bench.config.profile)?))
    };
    logs.into_iter().map(profiled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceChoice, choose};

    #[test]
    fn a_part_of_the_profile_is_of_the_first_steps_of_the_same_run() {
        let mut config = ExperimentConfig::default();
        (config.data.train_pictures, config.data.validation_pictures, config.data.test_pictures) = (8, 2, 2);
        config.training.batch_size = 2;
        let replicate = Replicate::open(&config, false, 1, choose(DeviceChoice::Cpu).unwrap()).unwrap();
        let windows =
            |windows: &[usize]| measure_profiles(&replicate, 5, 1e-2, &windows.iter().copied().collect()).unwrap();
        let found = windows(&[2, 3]);
        let last: Vec<(usize, u64)> = found.iter().map(|(steps, profile)| (*steps, profile.steps.last)).collect();
        assert_eq!(last, [(2, 2), (3, 3), (5, 5)]);
        assert_ne!(found[&3].norms(), found[&5].norms());
        assert_eq!(windows(&[]), BTreeMap::from([(5, found[&5].clone())]), "nobody's profile depends on another's");
    }
}
