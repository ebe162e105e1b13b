//! What is said to tell beforehand where rank is worth most, module by module, and how well it agrees with what was measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hydra_shared::expression::Regex;
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::{Module, Ranks};
use hydra_shared::statistics::{Interval, interval, kendall, mean};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::training::{read_gradients, step_gradients};
use hydra_shared::vlm::{Trainable, Weights};
use indexmap::IndexMap;
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use super::analysis::{means, reported, reported_scores, tuned_rates};
use super::arm::{Arm, RankRule};
use super::file::{Cell, Experiment, Stage};
use super::record::{Record, read_records, results_path};
use super::trial::{Replicate, tune_cell};
use crate::data::feed::with_steps;
use crate::error::{Kind, ResultExt, failure};
use crate::model::recipe::Recipe;
use crate::train::experiment::ExperimentConfig;
use crate::train::step::TrainingState;

/// Batches whose dense gradients are averaged.
const BATCHES: usize = 16;
/// Singular values of a change of weights that count: the base rank of most experiments.
const LEADING: usize = 4;

/// Signals of every module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signals {
    /// Names of the modules, in the layout's order.
    pub modules: Vec<String>,
    /// What a unit of rank costs in each.
    pub costs: Vec<u64>,
    /// Values by signal.
    pub signals: IndexMap<String, Vec<f64>>,
}

/// Where an experiment's signals lie.
pub fn signals_path(experiment: &Path) -> PathBuf {
    experiment.with_extension("signals.json")
}

/// Reads an experiment's signals; none where there is no file.
///
/// # Errors
/// A file that cannot be read.
pub fn read_signals(path: &Path) -> Result<Option<Signals>> {
    if !path.exists() {
        return Ok(None);
    }
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).or_fail(Kind::Data, place)?;
    serde_json::from_str(&text).or_fail(Kind::Data, place).map(Some)
}

/// Measures the signals: dense gradients of the base model on training data that no replicate of the report sees, a full
/// fine-tune, and the profile of uniform LoRA.
///
/// # Errors
/// As a fine-tune.
pub fn measure_signals(replicate: &Replicate, profile: &GradientProfile, steps: usize) -> Result<Signals> {
    let bench = &replicate.bench;
    let layout = &bench.base.layout;
    let gradients = dense_gradients(replicate)?;
    let base = weights_of(&bench.base.model_of(&Recipe::Base, bench.config.seed, None)?)?;
    let full = Cell {
        arm: 0,
        steps,
        rate: bench.config.full_learning_rate,
        replicate: bench.config.seed,
        stage: Stage::Tuning,
    };
    let tuned = weights_of(&tune_cell(replicate, &Recipe::Full, &full)?)?;
    let mut signals: IndexMap<String, Vec<f64>> = IndexMap::new();
    let mut add = |name: &str, value: f64| signals.entry(name.to_owned()).or_default().push(value);
    for (module, norm) in layout.modules().iter().zip(profile.norms()) {
        let name = format!("{}.weight", module.name);
        let matrix = |weights: &Weights| {
            let weight = weights.tensors.get(&name).with_context(|| format!("{name} is missing"))?;
            Ok::<_, anyhow::Error>(
                DMatrix::from_row_slice(weight.shape[0], weight.shape[1], &weight.values).cast::<f64>(),
            )
        };
        let cost = module.rank_unit_cost() as f64;
        let (weight, gradient) = (matrix(&base)?, matrix(&gradients)?);
        let change = matrix(&tuned)? - &weight;
        let leading = |matrix: &DMatrix<f64>, count: usize| {
            let mut values: Vec<f64> = matrix.singular_values().iter().map(|value| value * value).collect();
            values.sort_by(|a, b| b.total_cmp(a));
            values.iter().take(count).sum::<f64>()
        };
        let elements = (weight.nrows() * weight.ncols()) as f64;
        add("HyDRA: norm of [∇A; ∇B]", norm);
        add("norm of [∇A; ∇B], squared, by cost", norm * norm / cost);
        add("norm of the dense gradient", gradient.norm());
        add("largest singular value of the dense gradient, squared, by cost", leading(&gradient, 1) / cost);
        add("mean |W ⊙ G| (GoRA)", weight.component_mul(&gradient).abs().sum() / elements);
        add("change in full fine-tuning, leading singular values squared, by cost", leading(&change, LEADING) / cost);
    }
    let modules = layout.modules().iter().map(|module| module.name.clone()).collect();
    let costs = layout.modules().iter().map(Module::rank_unit_cost).collect();
    Ok(Signals { modules, costs, signals })
}

fn weights_of(model: &hydra_shared::vlm::MobileVlm) -> Result<Weights> {
    Ok(pollster::block_on(model.names().read(model, |name| Trainable::ProjectorAndDecoder.includes(name)))?)
}

/// Gradients of all weights of the decoder at the base model, averaged over [`BATCHES`] batches.
fn dense_gradients(replicate: &Replicate) -> Result<Weights> {
    let bench = &replicate.bench;
    let training = &bench.config.training;
    let trainable = Trainable::ProjectorAndDecoder;
    let model = bench.base.model_of(&Recipe::Full, bench.config.seed, None)?;
    let state = TrainingState::new(model, trainable, &training.optimizer);
    let config = training.step(trainable, bench.config.seed);
    let examples = bench.part(Split::Train)?.conversations();
    let tokens = state.model.tokens_per_picture();
    let mut sums = weights_of(&state.model)?;
    sums.tensors.values_mut().for_each(|weight| weight.values.fill(0.0));
    let batching = training.batching(bench.config.seed);
    with_steps(examples, tokens, 0..BATCHES, batching, bench.config.data.decoding_threads, |next| {
        for _ in 0..BATCHES {
            let input = next()?;
            let features = |model: &_, batch: &_| examples.features(model, batch, &input.gathered);
            let (_, gradients) = step_gradients(&state, &config, &input.micro_batches, &features);
            for (name, values) in pollster::block_on(read_gradients(&state.model, &gradients))? {
                if let Some(sum) = sums.tensors.get_mut(&name) {
                    sum.values.iter_mut().zip(values).for_each(|(sum, value)| *sum += value / BATCHES as f32);
                }
            }
        }
        Ok(())
    })?;
    Ok(sums)
}

/// How one signal agrees with the measured worth of rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// The signal.
    pub signal: String,
    /// Kendall's τ with the gain in points over kinds of modules, over layers, and over both.
    pub points: [Option<Interval>; 3],
    /// The same with the fall of the held-out loss.
    pub loss: [Option<Interval>; 3],
}

/// An arm that concentrates the budget in one kind of module or in one layer.
struct Group {
    arm: usize,
    /// Whether each module is in the group.
    chosen: Vec<bool>,
    is_layer: bool,
}

/// The groups of an experiment; those of several kinds, which overlap with the single ones, left out.
fn groups(experiment: &Experiment, modules: &[&str]) -> Vec<Group> {
    let of = |(arm, own): (usize, &Arm)| {
        let Some(RankRule::Concentrate { modules: expression, .. }) =
            own.ranks.as_ref().filter(|_| !own.has_own_scale())
        else {
            return None;
        };
        let regex = Regex::anywhere(expression).ok()?;
        let is_layer = expression.contains("layers");
        let chosen = modules.iter().map(|name| regex.is_match(name).unwrap_or(false)).collect();
        (is_layer || expression.ends_with("_proj")).then_some(Group { arm, chosen, is_layer })
    };
    experiment.arms.iter().enumerate().filter_map(of).collect()
}

/// What an experiment's groups let expect of schedules: the change of the held-out loss against the baseline, in nats, if it grew in
/// proportion to what a group gets of the budget, and those of kinds and of layers added up.
///
/// # Errors
/// An experiment that cannot be read, without results or without groups, or whose replicates are those of `judged`, which its gains
/// are to be compared with.
pub fn expected_losses(path: &Path, judged: &Experiment, schedules: &[Ranks]) -> Result<Vec<f64>> {
    let experiment = Experiment::read(path)?;
    if experiment.report.replicates.shares(judged.report.replicates) {
        let message = format!("{} shares replicates with what its gains are compared with", path.display());
        return Err(failure(Kind::Usage, message));
    }
    let config = experiment.config()?;
    let records = read_records(&results_path(path))?;
    let rates = tuned_rates(&experiment, &config, &records);
    let reported = reported(&experiment, &config, &records, &rates, experiment.steps[0]);
    let place = || format!("{} has no results", path.display());
    let baseline = means(reported.get(&experiment.baseline_index()).with_context(place)?);
    let layout = Arc::clone(schedules.first().context("there are no schedules")?.layout());
    let share = |ranks: &Ranks, chosen: &[bool]| {
        let costs = ranks
            .iter()
            .zip(chosen)
            .map(|((module, rank), chosen)| (module.rank_unit_cost() * u64::from(rank), chosen));
        let inside: u64 = costs.filter(|(_, chosen)| **chosen).map(|(cost, _)| cost).sum();
        inside as f64 / ranks.parameters().max(1) as f64
    };
    let even = Ranks::uniform(&layout, 1);
    let mut expected = vec![0.0; schedules.len()];
    let names: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
    let groups = groups(&experiment, &names);
    if groups.is_empty() {
        let message = format!("{} concentrates the budget in no kind of module and in no layer", path.display());
        return Err(failure(Kind::Usage, message));
    }
    for Group { arm, chosen, .. } in groups {
        let name = &experiment.arms[arm].name;
        let own = reported.get(&arm).and_then(|own| Some((means(own), own.values().next()?.0)));
        let Some((own, record)) = own else {
            return Err(failure(Kind::Data, format!("{}: arm \"{name}\" has no results", path.display())));
        };
        let ranks = Ranks::new(&layout, record.ranks.clone())?;
        let pairs = own.iter().filter_map(|(replicate, both)| Some(both[1] - baseline.get(replicate)?[1]));
        let change = mean(&pairs.collect::<Vec<f64>>()).with_context(place)?;
        let more = share(&ranks, &chosen) - share(&even, &chosen);
        if more <= 0.0 {
            let message = format!("{}: arm \"{name}\" gives its group no more than an even share", path.display());
            return Err(failure(Kind::Data, message));
        }
        for (expected, schedule) in expected.iter_mut().zip(schedules) {
            *expected += change * (share(schedule, &chosen) - share(&even, &chosen)) / more;
        }
    }
    Ok(expected)
}

/// Kendall's τ of every signal with the gains of the arms that concentrate the budget in one kind of module or in one layer.
pub fn agreements(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    signals: &Signals,
    steps: usize,
    seed: u64,
) -> Vec<Agreement> {
    let groups = groups(experiment, &signals.modules.iter().map(String::as_str).collect::<Vec<&str>>());
    let baseline = experiment.baseline_index();
    let found = reported_scores(experiment, config, records, steps);
    let Some(replicates) = found.get(&baseline).map(|arm| arm.keys().copied().collect::<Vec<u64>>()) else {
        return Vec::new();
    };
    let gain = |arm: usize, chosen: &[usize], which: usize| -> f64 {
        let difference = |index: &usize| {
            let replicate = &replicates[*index];
            let of = |arm: usize| found.get(&arm).and_then(|arm| arm.get(replicate)).map(|pair| pair[which]);
            of(arm).zip(of(baseline)).map_or(f64::NAN, |(own, other)| own - other)
        };
        chosen.iter().map(difference).sum::<f64>() / chosen.len() as f64
    };
    let agreement = |(name, values): (&String, &Vec<f64>)| {
        let of_group = |chosen: &[bool]| {
            // Rank is spread evenly over a group, so that parameters go where they cost most.
            let weights =
                signals.costs.iter().zip(chosen).map(|(cost, chosen)| if *chosen { *cost as f64 } else { 0.0 });
            let (sum, all) = weights.zip(values).fold((0.0, 0.0), |(sum, all), (w, v)| (sum + w * v, all + w));
            sum / all
        };
        let tau = |which: usize, keep: &dyn Fn(bool) -> bool| {
            let kept: Vec<&Group> = groups.iter().filter(|group| keep(group.is_layer)).collect();
            let expected: Vec<f64> = kept.iter().map(|group| of_group(&group.chosen)).collect();
            interval(replicates.len(), seed, |chosen| {
                // A fall of the loss is a gain.
                let sign = if which == 0 { 1.0 } else { -1.0 };
                let gains: Vec<f64> = kept.iter().map(|group| sign * gain(group.arm, chosen, which)).collect();
                kendall(&expected, &gains).unwrap_or(f64::NAN)
            })
        };
        let three = |which| [tau(which, &|layers| !layers), tau(which, &|layers| layers), tau(which, &|_| true)];
        Agreement { signal: name.clone(), points: three(0), loss: three(1) }
    };
    signals.signals.iter().map(agreement).collect()
}
