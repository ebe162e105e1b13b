//! One run in place of many: adapters of which every step trains a part, so that many schedules are truncations of one run.
//!
//! Every step draws a schedule as the table's random ones are drawn and trains its truncation alone: of each module the first
//! directions, as many as its rank, under that rank's scale. Afterwards any schedule is scored without training. Truncation after
//! Valipour et al., *DyLoRA*, arXiv 2210.07558, which draws one rank for all modules; scoring parts of one run after Guo et al.,
//! *Single Path One-Shot Neural Architecture Search*, arXiv 1904.00420.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::statistics::{Interval, kendall, mean, mean_interval};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::training::{FlatAdamW, TrainingState, nested_step};
use hydra_shared::vlm::{MobileVlm, Trainable, adapter_shapes};
use indexmap::IndexMap;
use pollster::block_on;
use serde::{Deserialize, Serialize};

use super::analysis::{complete_replicates, means, reported, tuned_rates};
use super::arm::RankRule;
use super::file::{Cell, Experiment, Replicates, Stage};
use super::record::{Record, read_lines};
use super::trial::Replicate;
use crate::data::feed::{StepInput, with_steps};
use crate::digest::sha256_hex;
use crate::error::{Kind, failure};
use crate::interrupt;
use crate::model::recipe::Recipe;
use crate::train::experiment::ExperimentConfig;

/// What an experiment's file says of nested runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NestedConfig {
    /// Their lengths, in steps.
    pub steps: Vec<usize>,
    /// A run of each length for each of them; they are neither the tuning's nor the report's.
    pub replicates: Replicates,
}

/// What one nested run says of every schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NestedRun {
    /// Hash of everything that it depends on, the arms among them.
    pub run: String,
    /// Its steps.
    pub steps: usize,
    /// Its replicate: its seed and its pictures.
    pub replicate: u64,
    /// Peak learning rate.
    pub rate: f64,
    /// Loss of an answer token on the test part of its replicate, in nats, by arm and task; none where the run diverged.
    pub held_out_loss: IndexMap<String, IndexMap<String, f64>>,
    /// Seconds of the training, beside whatever else ran.
    pub training_seconds: f64,
    /// Seconds of all truncations' losses.
    pub scoring_seconds: f64,
}

impl NestedRun {
    /// Mean loss of an arm's schedule over the tasks.
    pub fn loss(&self, arm: &str) -> Option<f64> {
        mean(&self.held_out_loss.get(arm)?.values().copied().collect::<Vec<f64>>())
    }
}

/// A schedule that was trained alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Alone {
    /// Its arm's index.
    pub arm: usize,
    /// Its arm's name.
    pub name: String,
    /// Its ranks, in the layout's order.
    pub ranks: Vec<u32>,
    /// Mean score and mean held-out loss over all tasks, by replicate.
    pub measured: BTreeMap<u64, [f64; 2]>,
}

/// The schedules of an experiment's first length that can be compared: within the baseline's parameters, without ranks of 0, which
/// performance models do not tell apart, under the experiment's own scale. Of replicates those count of which every arm was run. The
/// baseline comes first.
pub fn schedules(experiment: &Experiment, config: &ExperimentConfig, records: &[Record]) -> Vec<Alone> {
    let rates = tuned_rates(experiment, config, records);
    let by_arm = reported(experiment, config, records, &rates, experiment.steps[0]);
    let complete = complete_replicates(experiment, config, records, experiment.steps[0]);
    let baseline = experiment.baseline_index();
    let Some(budget) = by_arm.get(&baseline).and_then(|own| own.values().next()).map(|(record, _)| record.parameters)
    else {
        return Vec::new();
    };
    let measured_in = |arm| {
        let mut measured = by_arm.get(&arm).map(means).unwrap_or_default();
        measured.retain(|replicate, _| complete.contains(replicate));
        measured
    };
    let replicates: Vec<u64> = measured_in(baseline).into_keys().collect();
    let of = |&arm: &usize| {
        let (record, _) = by_arm[&arm].values().next()?;
        let measured = measured_in(arm);
        let whole = measured.keys().eq(&replicates);
        let known = !record.ranks.is_empty() && !record.ranks.contains(&0) && record.parameters <= budget;
        let own_scale = experiment.arms[arm].has_own_scale();
        let (name, ranks) = (record.arm.clone(), record.ranks.clone());
        (whole && known && !own_scale).then_some(Alone { arm, name, ranks, measured })
    };
    let mut found: Vec<Alone> = by_arm.keys().filter_map(of).collect();
    found.sort_by_key(|alone| alone.arm != baseline);
    found
}

/// The nested runs of an experiment, each with its hash.
///
/// # Errors
/// A configuration that does not fit.
pub fn nested_cells(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
) -> Result<Vec<(Cell, String)>> {
    let Some(nested) = &experiment.report.nested else { return Ok(Vec::new()) };
    let arm = experiment.baseline_index();
    let rate = tuned_rates(experiment, config, records).of(arm, experiment.steps[0]);
    let mut cells = Vec::new();
    for replicate in nested.replicates.numbers() {
        for &steps in &nested.steps {
            let cell = Cell { arm, steps, rate, replicate, stage: Stage::Report };
            let text = serde_json::to_string(&(experiment.identity(config, &cell)?, &experiment.arms))?;
            let mut run = sha256_hex(text.as_bytes());
            run.truncate(16);
            cells.push((cell, run));
        }
    }
    Ok(cells)
}

/// Where an experiment's nested runs lie, one to a line.
pub fn nested_path(experiment: &Path) -> PathBuf {
    experiment.with_extension("nested.jsonl")
}

/// Reads the nested runs that an experiment has now, those that diverged left out; results of another version of it do not count.
///
/// # Errors
/// A file that cannot be read, a line that is damaged.
pub fn read_nested(path: &Path, cells: &[(Cell, String)]) -> Result<Vec<NestedRun>> {
    let mut runs: Vec<NestedRun> = read_lines(path)?;
    runs.retain(|run| !run.held_out_loss.is_empty() && cells.iter().any(|(_, own)| *own == run.run));
    Ok(runs)
}

/// Trains nested adapters and takes the losses of schedules that are truncations of them. A run that diverges is a result, without
/// losses.
///
/// # Errors
/// A device that fails, data that cannot be used, [`Kind::Interrupted`].
pub fn run_nested(replicate: &Replicate, schedules: &[(String, Ranks)], cell: &Cell, run: &str) -> Result<NestedRun> {
    let bench = &replicate.bench;
    let (spec, plan, layout) = (&bench.base.spec, &bench.config.plan, &bench.base.layout);
    let training = cell.training(&bench.config.training);
    let draw = |step: usize| {
        // No two replicates, and none of the table's schedules, share a draw.
        let seed = (cell.replicate << 32) + step as u64;
        RankRule::Random(seed).ranks(layout, plan, &GradientProfile::default())
    };
    let drawn = (0..training.steps).map(draw).collect::<Result<Vec<Ranks>>>()?;
    let shapes = |ranks: &Ranks| adapter_shapes(spec, ranks, plan.scale);
    let recipe = Recipe::lora(widest(drawn.iter().chain(schedules.iter().map(|(_, ranks)| ranks)), layout), plan.scale);
    let trainable = Trainable::ProjectorAndLora;
    let model = bench.base.model_of(&recipe, cell.replicate, None)?;
    let mut state = TrainingState::<FlatAdamW>::new(model, trainable, &training.optimizer);
    let examples = bench.part(Split::Train)?.conversations();
    let config = training.step(trainable, cell.replicate);
    let (tokens, batching) = (state.model.tokens_per_picture(), training.batching(cell.replicate));
    let threads = bench.config.data.decoding_threads;
    let Cell { steps, rate, .. } = *cell;
    let mut result = NestedRun {
        run: run.to_owned(),
        steps,
        replicate: cell.replicate,
        rate,
        held_out_loss: IndexMap::new(),
        training_seconds: 0.0,
        scoring_seconds: 0.0,
    };
    let go_on = || match interrupt::requested() {
        true => Err(failure(Kind::Interrupted, "interrupted within a nested run")),
        false => Ok(()),
    };
    let started = Instant::now();
    let trained = with_steps(examples, tokens, 0..training.steps, batching, threads, |next_input| {
        for ranks in &drawn {
            go_on()?;
            let StepInput { micro_batches, gathered } = next_input()?;
            let features = |model: &MobileVlm, batch: &_| examples.features(model, batch, &gathered);
            let part = shapes(ranks);
            let step = nested_step(state, &part, &config, &micro_batches, &features);
            let (next, report) = block_on(step)?;
            if !(report.loss.is_finite() && report.global_norm.is_finite()) {
                return Ok(None);
            }
            state = next;
        }
        Ok(Some(state))
    })?;
    result.training_seconds = started.elapsed().as_secs_f64();
    let Some(trained) = trained else { return Ok(result) };
    let model = trained.model.frozen();
    let started = Instant::now();
    for (arm, ranks) in schedules {
        go_on()?;
        let losses = replicate.held_out_loss(&model.clone().truncated(&shapes(ranks)), cell.stage)?;
        result.held_out_loss.insert(arm.clone(), losses);
    }
    result.scoring_seconds = started.elapsed().as_secs_f64();
    Ok(result)
}

/// The least ranks that all of these are truncations of.
fn widest<'a>(schedules: impl Iterator<Item = &'a Ranks>, layout: &Arc<Layout>) -> Ranks {
    let mut widest = vec![0; layout.len()];
    for ranks in schedules {
        widest.iter_mut().zip(ranks.as_slice()).for_each(|(widest, rank)| *widest = (*widest).max(*rank));
    }
    let mut widest = widest.into_iter();
    Ranks::from_fn(layout, |_| widest.next().unwrap_or_default())
}

/// How well something orders schedules that were each trained alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    /// What: steps of a nested run; none for one fine-tune of each schedule.
    pub nested: Option<usize>,
    /// Steps of training that it takes for all schedules together.
    pub steps: usize,
    /// Kendall's τ with the held-out losses of the schedules trained alone.
    pub loss: Option<Interval>,
    /// Kendall's τ with their scores.
    pub points: Option<Interval>,
    /// Lead over the baseline of the schedule that it places first, in points of the score.
    pub first: Option<Interval>,
}

/// One fine-tune of each schedule, and nested runs, as judges of the schedules of an experiment; nothing without nested runs.
///
/// What is judged by is the mean of all replicates but one, each left out in turn: the one that the first kind of judge sees. The
/// intervals of that kind are over replicates, those of nested runs over runs.
pub fn ordered(experiment: &Experiment, schedules: &[Alone], runs: &[NestedRun]) -> Vec<Ordered> {
    let Some(nested) = &experiment.report.nested else { return Vec::new() };
    let Some((baseline, others)) = schedules.split_first() else { return Vec::new() };
    let replicates: Vec<u64> = baseline.measured.keys().copied().collect();
    if runs.is_empty() || replicates.len() < 2 || others.len() < 3 {
        return Vec::new();
    }
    let without = |alone: &Alone, left_out: u64, which: usize| {
        let kept = alone.measured.iter().filter(|(at, _)| **at != left_out).map(|(_, both)| both[which]);
        mean(&kept.collect::<Vec<f64>>()).unwrap_or(f64::NAN)
    };
    // τ with losses, τ with scores, and the lead of the first, of an order of the schedules by loss.
    let judge = |losses: &[f64], left_out: u64| -> [f64; 3] {
        let targets = |which| others.iter().map(|alone| without(alone, left_out, which)).collect::<Vec<f64>>();
        let scores = targets(0);
        let falling: Vec<f64> = losses.iter().map(|loss| -loss).collect();
        let first = (0..losses.len()).reduce(|best, next| if losses[next] < losses[best] { next } else { best });
        let lead = first.map_or(f64::NAN, |first| scores[first] - without(baseline, left_out, 0));
        let tau = |a: &[f64], b: &[f64]| kendall(a, b).unwrap_or(f64::NAN);
        [tau(losses, &targets(1)), tau(&falling, &scores), lead]
    };
    let of = |nested, steps, judged: Vec<[f64; 3]>| {
        let interval = |which: usize| {
            let values: Vec<f64> = judged.iter().map(|judged| judged[which]).collect();
            mean_interval(&values, 1)
        };
        Ordered { nested, steps, loss: interval(0), points: interval(1), first: interval(2) }
    };
    let seen = |replicate: &u64| {
        let losses = others.iter().map(|alone| alone.measured.get(replicate).map_or(f64::NAN, |both| both[1]));
        judge(&losses.collect::<Vec<f64>>(), *replicate)
    };
    let mut all = vec![of(None, experiment.steps[0] * others.len(), replicates.iter().map(seen).collect())];
    for &length in &nested.steps {
        let of_run = |run: &NestedRun| {
            let losses = others.iter().map(|alone| run.loss(&alone.name)).collect::<Option<Vec<f64>>>()?;
            let each: Vec<[f64; 3]> = replicates.iter().map(|left_out| judge(&losses, *left_out)).collect();
            Some([0, 1, 2].map(|which| each.iter().map(|judged| judged[which]).sum::<f64>() / each.len() as f64))
        };
        let judged = runs.iter().filter(|run| run.steps == length).filter_map(of_run).collect();
        all.push(of(Some(length), length, judged));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schedules whose losses in every replicate are their place plus luck, and scores that fall with them.
    fn schedules() -> Vec<Alone> {
        let of = |arm: usize| {
            let loss = |replicate: u64| arm as f64 / 10.0 + ((arm as u64 * 7 + replicate * 5) % 4) as f64 / 40.0;
            let measured = (1..=4).map(|replicate| (replicate, [60.0 - loss(replicate), loss(replicate)])).collect();
            Alone { arm, name: format!("arm {arm}"), ranks: vec![1], measured }
        };
        (0..8).map(of).collect()
    }

    fn run(steps: usize, replicate: u64, loss: impl Fn(usize) -> f64) -> NestedRun {
        let of = |arm: usize| (format!("arm {arm}"), IndexMap::from([("task".to_owned(), loss(arm))]));
        NestedRun {
            run: String::new(),
            steps,
            replicate,
            rate: 1e-2,
            held_out_loss: (0..8).map(of).collect(),
            training_seconds: 1.0,
            scoring_seconds: 1.0,
        }
    }

    fn experiment() -> Experiment {
        let file = r#"
            question = "?"
            about = ""
            order = 1
            steps = [10]
            baseline = "arm 0"
            [report]
            replicates = { first = 1, count = 4 }
            nested = { steps = [10, 20], replicates = { first = 11, count = 2 } }
            [[arms]]
            name = "arm 0"
            ranks = { uniform = 4 }
        "#;
        toml::from_str(file).unwrap()
    }

    #[test]
    fn a_nested_run_is_judged_by_the_order_of_the_schedules_trained_alone() {
        let right = |arm: usize| arm as f64;
        let wrong = |arm: usize| -(arm as f64);
        let runs = [run(10, 11, wrong), run(10, 12, wrong), run(20, 11, right), run(20, 12, right)];
        let found = ordered(&experiment(), &schedules(), &runs);
        let taus: Vec<(Option<usize>, usize, f64)> =
            found.iter().map(|row| (row.nested, row.steps, row.loss.as_ref().unwrap().estimate)).collect();
        assert_eq!((taus[0].0, taus[0].1), (None, 70));
        assert!(taus[0].2 > 0.8 && taus[0].2 <= 1.0, "{taus:?}");
        assert_eq!((taus[1].0, taus[2].0), (Some(10), Some(20)));
        assert!(taus[1].2 < -0.8 && taus[2].2 > 0.8, "{taus:?}");
        // Lower losses are higher scores.
        assert!(found[2].points.as_ref().unwrap().estimate > 0.8);
        // The first of the right order is arm 1, which is behind the baseline; the first of the wrong one is far behind.
        let lead = |row: &Ordered| row.first.as_ref().unwrap().estimate;
        assert!(lead(&found[1]) < -0.6 && lead(&found[2]) > -0.2, "{found:?}");
        assert!(ordered(&experiment(), &schedules(), &[]).is_empty());
    }

    #[test]
    fn the_widest_ranks_hold_every_schedule() {
        let layout = hydra_shared::vlm::spec::ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap();
        let ranks = |rank: &dyn Fn(usize) -> u32| Ranks::new(&layout, (0..layout.len()).map(rank).collect()).unwrap();
        let (rising, falling) = (ranks(&|at| at as u32), ranks(&|at| 41 - at as u32));
        let widest = widest([&rising, &falling].into_iter(), &layout);
        assert_eq!((widest.as_slice()[0], widest.as_slice()[20], widest.as_slice()[41]), (41, 21, 41));
    }
}
