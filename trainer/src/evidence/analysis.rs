//! From raw results to what they say: chosen rates, paired differences with intervals, rules that fired. Pure functions.

use std::collections::{BTreeMap, BTreeSet};

use hydra_shared::statistics::{self, Interval, holm, mean, sign_flip_p};

use super::file::{Cell, Experiment, Rule, RuleBy};
use super::record::{Measured, Record};
use crate::train::experiment::ExperimentConfig;

/// Seed of every interval.
const SEED: u64 = 1;
/// Points by which full fine-tuning has to be ahead of the baseline for a task to count: others cannot tell arms apart.
pub const GAP: f64 = 5.0;

/// The learning rates that the tuning chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    by_arm: BTreeMap<(usize, usize), f64>,
    baseline: usize,
    configured: f64,
}

impl Rates {
    /// The rate of an arm at a length: its own where it was tuned, otherwise the baseline's.
    pub fn of(&self, arm: usize, steps: usize) -> f64 {
        let own = self.by_arm.get(&(arm, steps)).or_else(|| self.by_arm.get(&(self.baseline, steps)));
        own.copied().unwrap_or(self.configured)
    }
}

/// A point of a curve over learning rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatePoint {
    /// Learning rate.
    pub rate: f64,
    /// Mean validation score over tasks and replicates; none where a replicate diverged.
    pub score: Option<f64>,
}

/// For every tuned arm and length, the validation score by rate.
pub fn rate_curves(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
) -> BTreeMap<(usize, usize), Vec<RatePoint>> {
    let wanted = identities(experiment, config, &experiment.tuning_cells());
    let tuning: Vec<&Record> = records.iter().filter(|record| wanted.contains(&record.trial)).collect();
    let mut curves = BTreeMap::new();
    for arm in 0..experiment.arms.len() {
        for &steps in &experiment.steps {
            let name = &experiment.arms[arm].name;
            let point = |&rate: &f64| {
                let here = tuning.iter().filter(|r| r.arm == *name && r.steps == steps && r.rate == rate);
                let scores: Vec<Option<f64>> = here.map(|record| all_tasks(record.measured.as_ref()?)).collect();
                let whole: Option<Vec<f64>> = scores.into_iter().collect();
                RatePoint { rate, score: whole.as_deref().and_then(mean) }
            };
            let curve: Vec<RatePoint> = experiment.rates(arm).iter().map(point).collect();
            if !curve.is_empty() {
                curves.insert((arm, steps), curve);
            }
        }
    }
    curves
}

/// The hashes of trials: results of another version of the experiment do not count.
fn identities(experiment: &Experiment, config: &ExperimentConfig, cells: &[Cell]) -> BTreeSet<String> {
    cells.iter().filter_map(|cell| experiment.identity(config, cell).ok()).collect()
}

fn all_tasks(measured: &Measured) -> Option<f64> {
    mean(&measured.scores.values().copied().collect::<Vec<f64>>())
}

/// The rate with the best validation score, for every tuned arm and length that has results.
pub fn tuned_rates(experiment: &Experiment, config: &ExperimentConfig, records: &[Record]) -> Rates {
    let best = |curve: Vec<RatePoint>| {
        let scored = curve.into_iter().filter_map(|point| Some((point.rate, point.score?)));
        // Of equal scores the lower rate.
        scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(rate, _)| rate)
    };
    let curves = rate_curves(experiment, config, records).into_iter();
    Rates {
        by_arm: curves.filter_map(|(key, curve)| Some((key, best(curve)?))).collect(),
        baseline: experiment.baseline_index(),
        configured: config.training.optimizer.learning_rate,
    }
}

/// What the reported trials of one length say.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Steps of the fine-tunes.
    pub steps: usize,
    /// Every task.
    pub tasks: Vec<String>,
    /// Tasks that can tell arms apart: what `score` and its differences are means of.
    pub counted: Vec<String>,
    /// The arms in the order of the file, as far as they have results.
    pub arms: Vec<ArmResult>,
    /// Replicates that every arm has, of those that were planned.
    pub replicates: (usize, usize),
}

/// What one arm scored.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmResult {
    /// Index of the arm in the experiment.
    pub arm: usize,
    /// Its name.
    pub name: String,
    /// Parameters outside the projector.
    pub parameters: u64,
    /// Whether it trains no more than the baseline.
    pub within_budget: bool,
    /// Its learning rate.
    pub rate: f64,
    /// Whether that is the lowest or highest of those that were tried.
    pub at_edge: bool,
    /// Mean score of each task, in percent.
    pub tasks: Vec<f64>,
    /// Mean score over the counted tasks.
    pub score: f64,
    /// Mean of the held-out loss over the counted tasks.
    pub loss: f64,
    /// Differences to the baseline, paired by replicate; none for the baseline itself.
    pub against: Option<Against>,
    /// Share of clipped steps.
    pub clipped: f64,
    /// Floating-point operations of a fine-tune's matrix products.
    pub flops: f64,
    /// How many fine-tunes of the baseline it costs by its operations, with the profile that its ranks follow from.
    pub cost: f64,
    /// Rank of the uniform LoRA with the same score, by interpolation between the experiment's uniform arms.
    pub equivalent_rank: Option<Equivalent>,
}

/// A uniform rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Equivalent {
    /// About this one.
    Rank(f64),
    /// Less than the lowest that was measured.
    Below(u32),
    /// More than the highest that was measured.
    Above(u32),
}

/// Paired differences of one arm to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// In points of the score.
    pub points: Option<Interval>,
    /// As a share of the other's score.
    pub relative: Option<Interval>,
    /// In nats of the held-out loss; below 0 is better.
    pub loss: Option<Interval>,
    /// In points, of each task.
    pub tasks: Vec<Option<Interval>>,
    /// Two-sided p-value of the points by flipping signs.
    pub p: f64,
    /// The same after Holm's correction over the arms within the budget.
    pub adjusted_p: f64,
    /// Share of the distance from the baseline to full fine-tuning.
    pub gap_closed: Option<f64>,
}

/// The reported trials of an arm at a length, by replicate.
pub(super) type ByReplicate<'a> = BTreeMap<u64, (&'a Record, &'a Measured)>;

/// What the reported trials of each length say; nothing of lengths without results of the baseline.
pub fn compare(experiment: &Experiment, config: &ExperimentConfig, records: &[Record]) -> Vec<Comparison> {
    let rates = tuned_rates(experiment, config, records);
    let of = |steps| comparison(experiment, config, records, &rates, steps);
    experiment.steps.iter().filter_map(|steps| of(*steps)).collect()
}

/// The trials of a length that are to be reported.
fn report_of(experiment: &Experiment, rates: &Rates, steps: usize) -> Vec<Cell> {
    let mut cells = experiment.report_cells(|arm, steps| rates.of(arm, steps));
    cells.retain(|cell| cell.steps == steps);
    cells
}

/// Replicates of which every arm has been run, whatever came of it.
pub fn complete_replicates(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    steps: usize,
) -> BTreeSet<u64> {
    let rates = tuned_rates(experiment, config, records);
    let run: BTreeSet<&str> = records.iter().map(|record| record.trial.as_str()).collect();
    let is_run = |cell: &Cell| experiment.identity(config, cell).is_ok_and(|trial| run.contains(trial.as_str()));
    let cells = report_of(experiment, &rates, steps);
    let open: BTreeSet<u64> = cells.iter().filter(|cell| !is_run(cell)).map(|cell| cell.replicate).collect();
    experiment.report.replicates.numbers().filter(|replicate| !open.contains(replicate)).collect()
}

/// The reported trials of a length that ended, by arm and replicate.
pub(super) fn reported<'a>(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &'a [Record],
    rates: &Rates,
    steps: usize,
) -> BTreeMap<usize, ByReplicate<'a>> {
    let wanted = identities(experiment, config, &report_of(experiment, rates, steps));
    let arms: BTreeMap<&str, usize> =
        experiment.arms.iter().enumerate().map(|(index, arm)| (arm.name.as_str(), index)).collect();
    let mut by_arm: BTreeMap<usize, ByReplicate<'a>> = BTreeMap::new();
    for record in records.iter().filter(|record| wanted.contains(&record.trial)) {
        if let (Some(measured), Some(arm)) = (&record.measured, arms.get(record.arm.as_str())) {
            by_arm.entry(*arm).or_default().insert(record.replicate, (record, measured));
        }
    }
    by_arm
}

fn comparison(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    rates: &Rates,
    steps: usize,
) -> Option<Comparison> {
    let by_arm = reported(experiment, config, records, rates, steps);
    let baseline = by_arm.get(&experiment.baseline_index())?.clone();
    let tasks: Vec<String> = baseline.values().next()?.1.scores.keys().cloned().collect();
    let full = experiment.report.full.as_ref().and_then(|name| experiment.arms.iter().position(|a| a.name == *name));
    let full = full.and_then(|full| by_arm.get(&full));
    let counted = counted_tasks(&tasks, &baseline, full);
    let score_of = |arm: &ByReplicate<'_>| scores(arm, &counted);
    let gap = full.and_then(|full| Some(mean(&score_of(full))? - mean(&score_of(&baseline))?)).filter(|gap| *gap > 0.0);
    let curves = rate_curves(experiment, config, records);
    let budget = baseline.values().next()?.0.parameters;
    let mut arms = Vec::new();
    for (&arm, found) in &by_arm {
        let (first, _) = found.values().next()?;
        let column = |task: &String| mean(&scores(found, std::slice::from_ref(task))).unwrap_or(f64::NAN);
        let edge = curves.get(&(arm, steps)).is_some_and(|curve| {
            let ends = [curve.first(), curve.last()];
            curve.len() > 1 && ends.into_iter().flatten().any(|point| point.rate == first.rate)
        });
        let of_all = |value: fn(&Measured) -> f64| {
            mean(&found.values().map(|(_, measured)| value(measured)).collect::<Vec<f64>>()).unwrap_or(f64::NAN)
        };
        let losses: Vec<f64> = found.values().map(|(_, measured)| measured.mean_loss(&counted)).collect();
        arms.push(ArmResult {
            arm,
            name: experiment.arms[arm].name.clone(),
            parameters: first.parameters,
            within_budget: first.parameters <= budget,
            rate: first.rate,
            at_edge: edge,
            tasks: tasks.iter().map(column).collect(),
            score: mean(&score_of(found)).unwrap_or(f64::NAN),
            loss: mean(&losses).unwrap_or(f64::NAN),
            against: (arm != experiment.baseline_index()).then(|| against(found, &baseline, &tasks, &counted, gap)),
            clipped: of_all(|measured| measured.clipped),
            flops: of_all(|measured| measured.flops),
            cost: f64::NAN,
            equivalent_rank: None,
        });
    }
    correct(&mut arms);
    let one = arms.iter().find(|arm| arm.arm == experiment.baseline_index())?.flops;
    for result in &mut arms {
        let arm = &experiment.arms[result.arm];
        // The profile is a fine-tune of uniform LoRA, or its first steps.
        let profiled = if arm.follows_from_norms() { arm.profile_steps.unwrap_or(steps) } else { 0 };
        result.cost = result.flops / one + profiled as f64 / steps as f64;
    }
    let uniform = uniform_curve(experiment, &arms);
    for arm in &mut arms {
        arm.equivalent_rank = equivalent(&uniform, arm.score);
    }
    let complete = complete_replicates(experiment, config, records, steps).len();
    let planned = usize::try_from(experiment.report.replicates.count).unwrap_or(usize::MAX);
    Some(Comparison { steps, tasks, counted, arms, replicates: (complete, planned) })
}

/// Mean score and mean held-out loss over all tasks of every reported trial of a length, by arm and replicate.
pub fn reported_scores(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    steps: usize,
) -> BTreeMap<usize, BTreeMap<u64, [f64; 2]>> {
    let rates = tuned_rates(experiment, config, records);
    let by_arm = reported(experiment, config, records, &rates, steps);
    by_arm.iter().map(|(arm, found)| (*arm, means(found))).collect()
}

/// Mean score and mean held-out loss over all tasks, by replicate.
pub(super) fn means(found: &ByReplicate<'_>) -> BTreeMap<u64, [f64; 2]> {
    let both = |measured: &Measured| {
        let tasks: Vec<String> = measured.scores.keys().cloned().collect();
        [measured.mean_score(&tasks), measured.mean_loss(&tasks)]
    };
    found.iter().map(|(replicate, (_, measured))| (*replicate, both(measured))).collect()
}

/// Tasks in which full fine-tuning is ahead by [`GAP`]; all of them where none is, or where there is no such arm.
fn counted_tasks(tasks: &[String], baseline: &ByReplicate<'_>, full: Option<&ByReplicate<'_>>) -> Vec<String> {
    let Some(full) = full else { return tasks.to_vec() };
    let apart = |task: &&String| {
        let of = |arm: &ByReplicate<'_>| mean(&scores(arm, std::slice::from_ref(*task)));
        of(full).zip(of(baseline)).is_some_and(|(full, baseline)| full - baseline >= GAP)
    };
    let counted: Vec<String> = tasks.iter().filter(apart).cloned().collect();
    if counted.is_empty() { tasks.to_vec() } else { counted }
}

fn scores(arm: &ByReplicate<'_>, tasks: &[String]) -> Vec<f64> {
    arm.values().map(|(_, measured)| measured.mean_score(tasks)).collect()
}

/// Differences of one arm to another over the replicates that both have.
fn against(
    arm: &ByReplicate<'_>,
    other: &ByReplicate<'_>,
    tasks: &[String],
    counted: &[String],
    gap: Option<f64>,
) -> Against {
    let pairs: Vec<(&Measured, &Measured)> =
        arm.iter().filter_map(|(replicate, (_, own))| Some((*own, other.get(replicate)?.1))).collect();
    let differences = |value: &dyn Fn(&Measured) -> f64| -> Vec<f64> {
        pairs.iter().map(|(own, other)| value(own) - value(other)).collect()
    };
    let interval = |values: &[f64]| statistics::mean_interval(values, SEED);
    let points = differences(&|measured| measured.mean_score(counted));
    let relative = statistics::interval(pairs.len(), SEED, |chosen| {
        let sum = |own: bool| -> f64 {
            chosen.iter().map(|index| (if own { pairs[*index].0 } else { pairs[*index].1 }).mean_score(counted)).sum()
        };
        sum(true) / sum(false) - 1.0
    });
    Against {
        relative,
        loss: interval(&differences(&|measured| measured.mean_loss(counted))),
        tasks: tasks
            .iter()
            .map(|task| interval(&differences(&|measured| measured.mean_score(std::slice::from_ref(task)))))
            .collect(),
        p: sign_flip_p(&points, SEED),
        adjusted_p: f64::NAN,
        gap_closed: gap.zip(mean(&points)).map(|(gap, points)| points / gap),
        points: interval(&points),
    }
}

/// Holm's correction over the arms within the budget.
fn correct(arms: &mut [ArmResult]) {
    let family: Vec<usize> =
        (0..arms.len()).filter(|arm| arms[*arm].within_budget && arms[*arm].against.is_some()).collect();
    let p: Vec<f64> = family.iter().filter_map(|arm| Some(arms[*arm].against.as_ref()?.p)).collect();
    for (arm, adjusted) in family.into_iter().zip(holm(&p)) {
        if let Some(against) = &mut arms[arm].against {
            against.adjusted_p = adjusted;
        }
    }
}

/// Score by rank of the uniform arms, ranks ascending.
fn uniform_curve(experiment: &Experiment, arms: &[ArmResult]) -> Vec<(u32, f64)> {
    let of = |arm: &ArmResult| Some((experiment.arms[arm.arm].uniform_rank()?, arm.score));
    let mut curve: Vec<(u32, f64)> = arms.iter().filter_map(of).collect();
    curve.sort_by_key(|(rank, _)| *rank);
    curve
}

/// The uniform rank of a score, by interpolation in the logarithm of the rank; none with fewer than two uniform arms.
fn equivalent(curve: &[(u32, f64)], score: f64) -> Option<Equivalent> {
    let (first, last) = (curve.first()?, curve.last()?);
    if curve.len() < 2 || !score.is_finite() {
        return None;
    }
    if score < first.1 {
        return Some(Equivalent::Below(first.0));
    }
    // The last place where the curve passes the score: noise may make it fall for a while.
    let crossing = curve.windows(2).rev().find(|pair| pair[0].1 <= score && score <= pair[1].1);
    Some(match crossing {
        Some([low, high]) => {
            let share = if high.1 > low.1 { (score - low.1) / (high.1 - low.1) } else { 0.0 };
            let (low, high) = (f64::from(low.0).log2(), f64::from(high.0).log2());
            Equivalent::Rank((low + share * (high - low)).exp2())
        }
        _ => Equivalent::Above(last.0),
    })
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The rule.
    pub rule: Rule,
    /// Steps of the fine-tunes.
    pub steps: usize,
    /// Whose gain it looked at.
    pub arm: String,
    /// The gain, as a share of the other's score.
    pub gain: Interval,
    /// The tasks that it is of: those in which full fine-tuning is ahead of the other arm.
    pub counted: Vec<String>,
    /// Whether it fired.
    pub fired: bool,
}

/// Applies an experiment's rules to its results.
pub fn judge(experiment: &Experiment, config: &ExperimentConfig, records: &[Record]) -> Vec<Judged> {
    let mut judged = Vec::new();
    for rule in &experiment.rules {
        let against = rule.over.clone().unwrap_or_else(|| experiment.baseline.clone());
        let turned = Experiment { baseline: against.clone(), ..experiment.clone() };
        // Rates stay those that were chosen with the experiment's own baseline.
        let rates = tuned_rates(experiment, config, records);
        for &steps in experiment.steps.iter().filter(|steps| rule.steps.is_none_or(|only| only == **steps)) {
            let Some(found) = comparison(&turned, config, records, &rates, steps) else { continue };
            let gain = |arm: &ArmResult| arm.against.as_ref()?.relative;
            let candidates = found.arms.iter().filter(|arm| match &rule.arm {
                Some(name) => arm.name == *name,
                None => arm.within_budget && arm.name != against,
            });
            let best = candidates
                .filter_map(|arm| Some((arm, gain(arm)?)))
                .max_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate));
            let Some((arm, gain)) = best else { continue };
            let number = match rule.by {
                RuleBy::Estimate => gain.estimate,
                RuleBy::Low => gain.low,
                RuleBy::High => gain.high,
            };
            let fired = number < rule.below;
            judged.push(Judged {
                rule: rule.clone(),
                steps,
                arm: arm.name.clone(),
                gain,
                counted: found.counted.clone(),
                fired,
            });
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::super::arm::RankRule;
    use super::super::file::Stage;
    use super::*;

    const FILE: &str = r#"
        question = "?"
        about = ""
        order = 1
        steps = [10]
        baseline = "r 4"
        [tuning]
        whose = "all"
        replicates = { first = 1, count = 2 }
        rates = [0.001, 0.002, 0.004]
        [report]
        replicates = { first = 101, count = 4 }
        full = "full"
        [[arms]]
        name = "r 4"
        ranks = { uniform = 4 }
        [[arms]]
        name = "r 8"
        ranks = { uniform = 8 }
        [[arms]]
        name = "planned"
        ranks = { schedule = "hydra" }
        [[arms]]
        name = "full"
        train = "decoder"
        [[rules]]
        name = "A"
        meaning = "rank does not bind"
        arm = "r 8"
        below = 0.05
        by = "estimate"
        [[rules]]
        name = "B"
        meaning = "nothing is better"
        below = 0.05
        by = "high"
    "#;

    fn experiment() -> Experiment {
        toml::from_str(FILE).unwrap()
    }

    /// What a trial of an arm measures: `easy` is the same for all, `hard` is given.
    fn record(experiment: &Experiment, cell: &Cell, hard: f64) -> Record {
        let parameters = [400, 800, 399, 9_000][cell.arm];
        let scores = IndexMap::from([("easy".to_owned(), 80.0), ("hard".to_owned(), hard)]);
        Record {
            trial: experiment.identity(&experiment.config().unwrap(), cell).unwrap(),
            stage: cell.stage,
            arm: experiment.arms[cell.arm].name.clone(),
            steps: cell.steps,
            rate: cell.rate,
            replicate: cell.replicate,
            ranks: Vec::new(),
            parameters,
            measured: Some(Measured {
                held_out_loss: scores.iter().map(|(task, score)| (task.clone(), 1.0 - score / 100.0)).collect(),
                scores,
                training_loss: Some(1.0),
                clipped: 0.5,
                flops: 1e9,
            }),
            error: None,
            seconds: 1.0,
        }
    }

    /// All trials; the best rate of an arm is `best[arm]`, and its reported score on `hard` that of `hard[arm]` plus a part of its
    /// replicate's luck, which all arms share.
    fn records(experiment: &Experiment, best: [f64; 4], hard: [f64; 4]) -> Vec<Record> {
        let tuning = experiment.tuning_cells().into_iter().map(|cell| {
            let distance = (cell.rate / best[cell.arm]).log2().abs();
            record(experiment, &cell, 50.0 - distance)
        });
        let report = experiment.report_cells(|arm, _| best[arm]);
        let report = report.into_iter().map(|cell| {
            let luck = (cell.replicate % 4) as f64 * 3.0 + (cell.replicate % 2) as f64 * cell.arm as f64 * 0.1;
            record(experiment, &cell, hard[cell.arm] + luck)
        });
        tuning.chain(report).collect()
    }

    fn found(hard: [f64; 4]) -> (Comparison, Vec<Judged>) {
        let experiment = experiment();
        let config = experiment.config().unwrap();
        let records = records(&experiment, [0.002, 0.002, 0.004, 0.001], hard);
        let comparison = compare(&experiment, &config, &records).remove(0);
        (comparison, judge(&experiment, &config, &records))
    }

    #[test]
    fn each_arm_is_reported_at_the_rate_that_was_best_on_other_replicates() {
        let (comparison, _) = found([50.0, 51.0, 52.0, 70.0]);
        let rates: Vec<f64> = comparison.arms.iter().map(|arm| arm.rate).collect();
        assert_eq!(rates, [0.002, 0.002, 0.004, 0.001]);
        let edges: Vec<bool> = comparison.arms.iter().map(|arm| arm.at_edge).collect();
        assert_eq!(edges, [false, false, true, true], "a best rate at the edge of what was tried is marked");
        assert_eq!(comparison.replicates, (4, 4));
    }

    #[test]
    fn a_replicate_is_complete_when_every_arm_was_run_though_it_diverged() {
        let experiment = experiment();
        let config = experiment.config().unwrap();
        let all = records(&experiment, [0.002; 4], [50.0; 4]);
        let complete = |records: &[Record]| compare(&experiment, &config, records).remove(0).replicates;
        let is = |record: &Record, arm: &str, replicate| record.arm == arm && record.replicate == replicate;
        let mut diverged = all.clone();
        diverged.iter_mut().filter(|record| is(record, "planned", 102)).for_each(|record| record.measured = None);
        assert_eq!(complete(&diverged), (4, 4));
        let without: Vec<Record> = all.iter().filter(|record| !is(record, "r 8", 103)).cloned().collect();
        assert_eq!(complete(&without), (3, 4));
        let never: Vec<Record> =
            all.into_iter().filter(|record| record.arm != "full" || record.replicate < 101).collect();
        assert_eq!(complete(&never), (0, 4), "an arm that was never run is missing in every replicate");
    }

    #[test]
    fn a_diverged_replicate_rules_its_rate_out() {
        let experiment = experiment();
        let config = experiment.config().unwrap();
        let mut records = records(&experiment, [0.002; 4], [50.0; 4]);
        let at = records.iter().position(|r| r.stage == Stage::Tuning && r.arm == "r 4" && r.rate == 0.002).unwrap();
        records[at].measured = None;
        assert_ne!(tuned_rates(&experiment, &config, &records).of(0, 10), 0.002);
    }

    #[test]
    fn only_tasks_in_which_full_fine_tuning_is_ahead_count() {
        let (comparison, _) = found([50.0, 51.0, 52.0, 70.0]);
        assert_eq!(comparison.counted, ["hard"]);
        let (comparison, _) = found([50.0, 51.0, 52.0, 51.0]);
        assert_eq!(comparison.counted, ["easy", "hard"], "where no task can tell, all are shown");
    }

    #[test]
    fn differences_are_paired_so_that_the_luck_of_a_replicate_falls_out() {
        let (comparison, _) = found([50.0, 51.0, 52.0, 70.0]);
        let against = comparison.arms[2].against.as_ref().unwrap();
        let points = against.points.unwrap();
        assert!((points.estimate - 2.1).abs() < 1e-9, "{points:?}");
        assert!(points.low > 1.8 && points.high < 2.4, "{points:?}");
        assert!((against.gap_closed.unwrap() - 2.1 / 20.15).abs() < 1e-9);
        assert!(against.loss.unwrap().high < 0.0, "a lower loss is a difference below 0");
        assert!(comparison.arms[0].against.is_none());
        assert!(comparison.arms[2].within_budget && !comparison.arms[1].within_budget);
    }

    #[test]
    fn a_schedule_costs_the_profile_that_it_follows_from_as_far_as_it_is_needed() {
        let mut experiment = experiment();
        let cost = |experiment: &Experiment| {
            let records = records(experiment, [0.002; 4], [50.0, 51.0, 52.0, 70.0]);
            let found = compare(experiment, &experiment.config().unwrap(), &records).remove(0);
            found.arms.iter().map(|arm| arm.cost).collect::<Vec<f64>>()
        };
        assert_eq!(cost(&experiment), [1.0, 1.0, 2.0, 1.0]);
        experiment.arms[2].profile_steps = Some(3);
        assert_eq!(cost(&experiment), [1.0, 1.0, 1.3, 1.0]);
        // By depth: norms decide ties alone.
        experiment.arms[2].ranks = Some(RankRule::Schedule("linear".to_owned()));
        assert_eq!(cost(&experiment), [1.0; 4]);
    }

    #[test]
    fn only_uniform_lora_of_the_experiments_own_scale_says_what_a_rank_scores() {
        let mut experiment = experiment();
        let ranks = |experiment: &Experiment| experiment.arms.iter().map(|arm| arm.uniform_rank()).collect::<Vec<_>>();
        assert_eq!(ranks(&experiment), [Some(4), Some(8), None, None]);
        experiment.arms[1].scale_of = Some(RankRule::Uniform(2));
        assert_eq!(ranks(&experiment), [Some(4), None, None, None]);
        let records = records(&experiment, [0.002; 4], [50.0, 51.0, 52.0, 70.0]);
        let found = compare(&experiment, &experiment.config().unwrap(), &records).remove(0);
        assert!(found.arms.iter().all(|arm| arm.equivalent_rank.is_none()));
    }

    #[test]
    fn a_score_between_two_uniform_ranks_is_worth_a_rank_between_them() {
        let curve = [(1, 40.0), (4, 50.0), (16, 60.0)];
        let Some(Equivalent::Rank(rank)) = equivalent(&curve, 55.0) else { panic!() };
        assert!((rank - 8.0).abs() < 1e-9);
        assert_eq!(equivalent(&curve, 39.0), Some(Equivalent::Below(1)));
        assert_eq!(equivalent(&curve, 61.0), Some(Equivalent::Above(16)));
        assert_eq!(equivalent(&curve[..1], 40.0), None);
    }

    #[test]
    fn a_rule_fires_by_the_number_that_it_names() {
        let (_, judged) = found([50.0, 51.0, 52.0, 70.0]);
        // 52.1 + 4.5 of luck over 50 + 4.5: a gain of 3.9 %.
        let fired: Vec<(&str, &str, bool)> =
            judged.iter().map(|judged| (judged.rule.name.as_str(), judged.arm.as_str(), judged.fired)).collect();
        assert_eq!(fired, [("A", "r 8", true), ("B", "planned", true)]);
        assert!(judged.iter().all(|judged| judged.counted == ["hard"]));
        let (_, judged) = found([50.0, 54.0, 56.0, 70.0]);
        assert!(judged.iter().all(|judged| !judged.fired), "{judged:?}");
    }

    #[test]
    fn results_of_another_version_of_the_experiment_do_not_count() {
        let experiment = experiment();
        let records = records(&experiment, [0.002; 4], [50.0; 4]);
        let mut changed = experiment.clone();
        changed.settings.insert("seed".to_owned(), toml::Value::Integer(5));
        let config = changed.config().unwrap();
        assert!(compare(&changed, &config, &records).is_empty());
    }
}
