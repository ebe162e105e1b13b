//! Searches replayed on tabulated trials: what each would have found, and what it would have believed to have found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hydra_shared::layout::{Layout, Module, Ranks};
use hydra_shared::performance::{FeatureSpace, ModelKind, Observations};
use hydra_shared::statistics::{Interval, mean_interval};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;
use crate::error::{Kind as ErrorKind, ResultExt};

/// Random schedules before a model proposes.
const STARTS: usize = 6;
/// Schedules whose ranks stand for groups: ranks of groups are means, and this many parts of one are told apart.
const PARTS: f64 = 64.0;

/// What an experiment's file says of its replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReplayConfig {
    /// Trials of a search.
    pub trials: Vec<usize>,
    /// Repetitions of each search.
    pub repetitions: usize,
    /// Repetitions of searches by the Transformer, of which each takes longest.
    pub transformer_repetitions: usize,
    /// Name of the experiment whose measured gains of groups say what to expect of a schedule, where one does.
    pub gains_of: Option<String>,
}

/// Which search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Searcher {
    /// Random schedules; the best trial is taken.
    Random,
    /// Random schedules; the four best are run again with another seed, and the best mean is taken.
    RandomReplicated,
    /// Tree-structured Parzen estimators of the mean log-ranks of kinds and of thirds of the depth.
    Tpe,
    /// What the gains of groups, measured by another experiment, let expect to be best, from the best down.
    Greedy,
    /// What a nested run places first, from the first down.
    Nested,
    /// The paper's Transformer.
    Transformer,
    /// Ridge regression on log-ranks of every module.
    Ridge,
    /// Gaussian process on log-ranks of every module.
    GaussianProcess,
    /// Gaussian process on the mean log-ranks of kinds and of thirds of the depth.
    GroupedGaussianProcess,
}

impl Searcher {
    /// Every search.
    pub const ALL: [Self; 9] = [
        Self::Random,
        Self::RandomReplicated,
        Self::Greedy,
        Self::Nested,
        Self::Tpe,
        Self::Ridge,
        Self::GaussianProcess,
        Self::GroupedGaussianProcess,
        Self::Transformer,
    ];

    /// What it is called in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RandomReplicated => "random, the four best again with another seed",
            Self::Tpe => "TPE, by kind and depth",
            Self::Greedy => "greedy on measured gains of groups",
            Self::Nested => "a nested run's order",
            Self::Transformer => "Transformer (the paper's)",
            Self::Ridge => "ridge regression, by module",
            Self::GaussianProcess => "Gaussian process, by module",
            Self::GroupedGaussianProcess => "Gaussian process, by kind and depth",
        }
    }

    fn model(self) -> Option<ModelKind> {
        match self {
            Self::Random | Self::RandomReplicated | Self::Tpe | Self::Greedy | Self::Nested => None,
            Self::Transformer => Some(ModelKind::Transformer),
            Self::Ridge => Some(ModelKind::Ridge),
            Self::GaussianProcess | Self::GroupedGaussianProcess => Some(ModelKind::GaussianProcess),
        }
    }
}

/// What the replays of one search with one number of trials found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replayed {
    /// The search.
    pub searcher: Searcher,
    /// Its trials.
    pub trials: usize,
    /// Lead of its best trial over the baseline, in the scores that it saw.
    pub believed: Interval,
    /// The same schedule's lead on seeds that it did not see.
    pub gain: Interval,
    /// The lead, on unseen seeds, of what its model predicts to be best of what it tried; none without a model.
    pub predicted_gain: Option<Interval>,
    /// How far its pick, which is the model's where it has one, stays behind the best schedule of the table on unseen seeds.
    pub regret: Interval,
    /// The lead of the best schedule of the table on the unseen seeds: no search can know it.
    pub best_possible: f64,
    /// The lead there of the schedule that is best on the seen seeds: what trying everything comes to.
    pub best_seen: f64,
}

/// A table of schedules and their scores.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The schedules, the baseline not among them.
    pub schedules: Vec<Ranks>,
    /// Lead over the baseline by schedule and seed, in points.
    pub leads: Vec<Vec<f64>>,
    /// Rank of the baseline.
    pub base_rank: u32,
    /// Losses of every schedule in nested runs, by run; none where there were no such runs.
    pub nested: Vec<Vec<f64>>,
    /// Losses that the measured gains of groups let expect of every schedule; empty where none were named.
    pub expected: Vec<f64>,
}

impl Table {
    /// What replays on it follow from, as a short hash.
    ///
    /// # Errors
    /// Never in practice; it is plain data.
    pub fn hash(&self, config: &ReplayConfig) -> Result<String> {
        let ranks: Vec<&[u32]> = self.schedules.iter().map(Ranks::as_slice).collect();
        let text = serde_json::to_string(&(ranks, &self.leads, self.base_rank, &self.nested, &self.expected, config))?;
        let mut hash = sha256_hex(text.as_bytes());
        hash.truncate(16);
        Ok(hash)
    }

    /// Whether it has what a search needs.
    fn serves(&self, searcher: Searcher) -> bool {
        match searcher {
            Searcher::Nested => !self.nested.is_empty(),
            Searcher::Greedy => !self.expected.is_empty(),
            _ => true,
        }
    }
}

/// Where an experiment's replay lies.
pub fn replay_path(experiment: &Path) -> PathBuf {
    experiment.with_extension("replay.json")
}

/// Replayed searches, and what they were replayed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Hash of table and settings: with another one they are of an earlier version.
    pub of: String,
    /// What they found.
    pub searches: Vec<Replayed>,
}

/// Reads an experiment's replay; nothing where there is no file.
///
/// # Errors
/// A file that cannot be read.
pub fn read_replay(path: &Path) -> Result<Option<Replay>> {
    if !path.exists() {
        return Ok(None);
    }
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).or_fail(ErrorKind::Data, place)?;
    serde_json::from_str(&text).or_fail(ErrorKind::Data, place).map(Some)
}

/// One search on a table.
struct Found {
    believed: f64,
    gain: f64,
    predicted_gain: Option<f64>,
    best_possible: f64,
    best_seen: f64,
}

/// Replays every search.
///
/// # Errors
/// A table that no model can be fitted on.
pub fn replay(table: &Table, config: &ReplayConfig) -> Result<Vec<Replayed>> {
    let grouped = Grouped::new(table)?;
    let mut replayed = Vec::new();
    for searcher in Searcher::ALL.into_iter().filter(|searcher| table.serves(*searcher)) {
        for &trials in &config.trials {
            let repetitions = match searcher {
                Searcher::Transformer => config.transformer_repetitions,
                _ => config.repetitions,
            };
            let found = (0..repetitions as u64)
                .into_par_iter()
                .map(|seed| search(table, &grouped, searcher, trials, seed))
                .collect::<Result<Vec<Found>>>()?;
            let interval = |value: &dyn Fn(&Found) -> f64| {
                mean_interval(&found.iter().map(value).collect::<Vec<f64>>(), 1)
                    .context("a replay needs two repetitions or more")
            };
            let predicted = searcher.model().is_some();
            replayed.push(Replayed {
                searcher,
                trials,
                believed: interval(&|found| found.believed)?,
                gain: interval(&|found| found.gain)?,
                predicted_gain: match predicted {
                    true => Some(interval(&|found| found.predicted_gain.unwrap_or(f64::NAN))?),
                    false => None,
                },
                regret: interval(&|found| found.best_possible - found.predicted_gain.unwrap_or(found.gain))?,
                best_possible: interval(&|found| found.best_possible)?.estimate,
                best_seen: interval(&|found| found.best_seen)?.estimate,
            });
        }
    }
    Ok(replayed)
}

fn search(table: &Table, grouped: &Grouped, searcher: Searcher, trials: usize, seed: u64) -> Result<Found> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let seeds = table.leads.first().map_or(0, Vec::len);
    let mut order: Vec<usize> = (0..seeds).collect();
    order.shuffle(&mut random);
    // The search sees the first half, and one seed of it alone unless it runs schedules again.
    let (seen, unseen) = order.split_at(seeds / 2);
    let observed = |schedule: usize| table.leads[schedule][seen[0]];
    let truth = |schedule: usize| mean_of(unseen.iter().map(|seed| table.leads[schedule][*seed]));
    let mut waiting: Vec<usize> = (0..table.schedules.len()).collect();
    waiting.shuffle(&mut random);
    // What is tried in an order that is known from the start is taken from the end.
    let order = match searcher {
        Searcher::Greedy => Some(&table.expected),
        Searcher::Nested => table.nested.get(seed as usize % table.nested.len().max(1)),
        _ => None,
    };
    if let Some(losses) = order {
        waiting.sort_by(|a, b| losses[*b].total_cmp(&losses[*a]));
    }
    let mut tried: Vec<usize> = Vec::new();
    let fit = |tried: &[usize], asked: &[usize]| -> Result<Vec<f64>> {
        let model = searcher.model().context("a search without a model")?;
        let schedule = |index: &usize| match searcher {
            Searcher::GroupedGaussianProcess => grouped.schedules[*index].clone(),
            _ => table.schedules[*index].clone(),
        };
        let space = match searcher {
            Searcher::GroupedGaussianProcess => &grouped.space,
            _ => &grouped.by_module,
        };
        let observations = Observations {
            schedules: tried.iter().map(schedule).collect(),
            scores: tried.iter().map(|index| vec![observed(*index)]).collect(),
        };
        let fitted = model.build().fit(space, &observations, seed)?;
        let asked: Vec<Ranks> = asked.iter().map(schedule).collect();
        Ok(fitted.predict(&asked)?.iter().map(|prediction| prediction.objective.mean).collect())
    };
    while tried.len() < trials.min(table.schedules.len()) {
        let next = match searcher {
            Searcher::Tpe if tried.len() >= STARTS => {
                let scores: Vec<f64> = tried.iter().map(|schedule| observed(*schedule)).collect();
                highest(&parzen_ratios(&grouped.log_ranks, &tried, &scores, &waiting))
            }
            _ if searcher.model().is_some() && tried.len() >= STARTS => highest(&fit(&tried, &waiting)?),
            _ => waiting.len() - 1,
        };
        tried.push(waiting.remove(next));
    }
    let scores: Vec<f64> = tried.iter().map(|schedule| observed(*schedule)).collect();
    let best = match searcher {
        Searcher::RandomReplicated => {
            let mut ranked = tried.clone();
            ranked.sort_by(|a, b| observed(*b).total_cmp(&observed(*a)));
            ranked.truncate(4);
            let means: Vec<f64> =
                ranked.iter().map(|schedule| mean_of(seen.iter().map(|seed| table.leads[*schedule][*seed]))).collect();
            ranked[highest(&means)]
        }
        _ => tried[highest(&scores)],
    };
    let predicted_gain = match searcher.model() {
        Some(_) => Some(truth(tried[highest(&fit(&tried, &tried)?)])),
        None => None,
    };
    let all: Vec<f64> = (0..table.schedules.len()).map(truth).collect();
    let by_seen = |schedule: usize| mean_of(seen.iter().map(|seed| table.leads[schedule][*seed]));
    let of_seen: Vec<f64> = (0..table.schedules.len()).map(by_seen).collect();
    let (best_possible, best_seen) = (all[highest(&all)], all[highest(&of_seen)]);
    Ok(Found { believed: observed(best), gain: truth(best), predicted_gain, best_possible, best_seen })
}

fn mean_of(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// log l(x)/g(x) of candidates: l is the density of the best tenth of what was tried, g that of the rest (Bergstra et al.,
/// *Algorithms for Hyper-Parameter Optimization*, NeurIPS 2011), with the defaults of Optuna's TPESampler: each coordinate has a
/// mixture of its own; a normal distribution around every value, as wide as the larger distance to a neighbour and at least a
/// (n + 2)-th of the range, and one over the whole range, all cut off at the ends of the range and with the same weight.
fn parzen_ratios(points: &[Vec<f64>], tried: &[usize], scores: &[f64], asked: &[usize]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..tried.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (best, rest) = order.split_at(tried.len().div_ceil(10));
    let mut ratios = vec![0.0; asked.len()];
    for coordinate in 0..points.first().map_or(0, Vec::len) {
        let value = |schedule: usize| points[schedule][coordinate];
        let ends = |fold: fn(f64, f64) -> f64, start| (0..points.len()).map(value).fold(start, fold);
        let range = (ends(f64::min, f64::INFINITY), ends(f64::max, f64::NEG_INFINITY));
        if range.1 > range.0 {
            let of = |group: &[usize]| Mixture::new(group.iter().map(|at| value(tried[*at])).collect(), range);
            let (best, rest) = (of(best), of(rest));
            for (ratio, schedule) in ratios.iter_mut().zip(asked) {
                let x = value(*schedule);
                *ratio += (best.density(x) / rest.density(x)).ln();
            }
        }
    }
    ratios
}

/// Normal distributions of the same weight, cut off at the ends of a range: means, widths, and the mass within the range.
struct Mixture(Vec<(f64, f64, f64)>);

impl Mixture {
    fn new(mut values: Vec<f64>, (low, high): (f64, f64)) -> Self {
        let middle = f64::midpoint(low, high);
        values.push(middle);
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let range = high - low;
        let least = range / (values.len() + 1).min(100) as f64;
        let component = |(at, mean): (usize, &f64)| {
            let place = sorted.partition_point(|other| other < mean);
            let before = place.checked_sub(1).map_or(low, |before| sorted[before]);
            let after = sorted.get(place + 1).copied().unwrap_or(high);
            // The last is the one over the whole range.
            let width = if at + 1 == values.len() { range } else { (mean - before).max(after - mean) };
            let width = width.clamp(least, range);
            let below = |x: f64| 0.5 * libm::erfc((mean - x) / (width * std::f64::consts::SQRT_2));
            (*mean, width, below(high) - below(low))
        };
        Self(values.iter().enumerate().map(component).collect())
    }

    /// Without the factors that all mixtures share.
    fn density(&self, x: f64) -> f64 {
        let of = |(mean, width, mass): &(f64, f64, f64)| (-0.5 * ((x - mean) / width).powi(2)).exp() / (width * mass);
        self.0.iter().map(of).sum::<f64>() / self.0.len() as f64
    }
}

/// Index of the highest value, the first of equal ones.
fn highest(values: &[f64]) -> usize {
    let better = |best: usize, next: usize| if values[next] > values[best] { next } else { best };
    (0..values.len()).reduce(better).unwrap_or(0)
}

/// The schedules of a table by their mean ranks in groups, as ranks of a model that has a module for each group.
struct Grouped {
    by_module: FeatureSpace,
    space: FeatureSpace,
    schedules: Vec<Ranks>,
    /// Logarithms to base 2 of their ranks, which are means.
    log_ranks: Vec<Vec<f64>>,
}

impl Grouped {
    fn new(table: &Table) -> Result<Self> {
        let layout = Arc::clone(table.schedules.first().context("the table is empty")?.layout());
        let kinds = layout.kinds().len();
        let module =
            |group: usize| Module { name: format!("group.{group}"), layer: None, ..layout.modules()[0].clone() };
        let groups = Arc::new(Layout::new("groups", (0..kinds + 3).map(module).collect())?);
        let ranks_of = |ranks: &Ranks| {
            let mut sums = vec![(0.0, 0.0); kinds + 3];
            for (index, rank) in ranks.as_slice().iter().enumerate() {
                let third = (layout.depth(layout.block_of(index)) * 3.0).min(2.0) as usize;
                for group in layout.kind_of(index).into_iter().chain([kinds + third]) {
                    sums[group].0 += f64::from((*rank).max(1)).log2();
                    sums[group].1 += 1.0;
                }
            }
            let rank = |(sum, count): &(f64, f64)| ((sum / f64::max(*count, 1.0)).exp2() * PARTS).round() as u32;
            Ranks::new(&groups, sums.iter().map(rank).collect())
        };
        let schedules = table.schedules.iter().map(ranks_of).collect::<Result<Vec<_>, _>>()?;
        let space = FeatureSpace::new(&groups, table.base_rank * PARTS as u32, None);
        let by_module = FeatureSpace::new(&layout, table.base_rank, None);
        let logs = |ranks: &Ranks| ranks.as_slice().iter().map(|rank| f64::from(*rank).log2()).collect();
        let log_ranks = schedules.iter().map(logs).collect();
        Ok(Self { by_module, space, schedules, log_ranks })
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use hydra_shared::vlm::spec::ModelSpec;

    /// A table whose schedules differ truly by `spread` points, under noise of `noise` points.
    fn table(spread: f64, noise: f64) -> Table {
        let layout = ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut schedules = Vec::new();
        let mut leads = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..60 {
            let share: f64 = random.random_range(0.0..1.0);
            let rank = |kind: Option<usize>| if kind == Some(0) { 1 + (8.0 * share) as u32 } else { 4 };
            let ranks = (0..layout.len()).map(|module| rank(layout.kind_of(module))).collect();
            schedules.push(Ranks::new(&layout, ranks).unwrap());
            // A sum of uniform numbers is close enough to a normal one.
            let mut luck = || (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>() * noise;
            leads.push((0..4).map(|_| spread * (share - 0.5) + luck()).collect());
            expected.push(-share);
        }
        Table { schedules, leads, base_rank: 4, nested: vec![expected.clone(); 2], expected }
    }

    const CONFIG: ReplayConfig =
        ReplayConfig { trials: vec![], repetitions: 100, transformer_repetitions: 2, gains_of: None };

    #[test]
    fn the_best_of_equal_schedules_looks_better_than_it_is() {
        let found = replay(&table(0.0, 2.0), &ReplayConfig { trials: vec![16], ..CONFIG }).unwrap();
        let random = &found[0];
        assert_eq!(random.searcher, Searcher::Random);
        assert!(random.believed.estimate > 2.5, "{random:?}");
        assert!(random.gain.estimate.abs() < 0.8, "{random:?}");
        let again = &found[1];
        assert!(again.believed.estimate < random.believed.estimate + 0.1, "{again:?}");
    }

    #[test]
    fn what_is_known_before_the_first_trial_spends_trials_on_the_best() {
        let table = table(4.0, 0.25);
        let config = ReplayConfig { trials: vec![3], ..CONFIG };
        let found = replay(&table, &config).unwrap();
        let of = |searcher| found.iter().find(|found| found.searcher == searcher).unwrap();
        for searcher in [Searcher::Greedy, Searcher::Nested] {
            let (known, random) = (of(searcher), of(Searcher::Random));
            assert!(known.gain.low > random.gain.high, "{known:?} and {random:?}");
            assert!(known.regret.high < random.regret.low, "{known:?} and {random:?}");
        }
        let without = Table { nested: Vec::new(), expected: Vec::new(), ..table };
        let found = replay(&without, &config).unwrap();
        assert!(found.iter().all(|found| ![Searcher::Greedy, Searcher::Nested].contains(&found.searcher)));
    }

    #[test]
    fn parzen_estimators_find_more_than_chance_does() {
        let found = replay(&table(4.0, 0.0), &ReplayConfig { trials: vec![12], ..CONFIG }).unwrap();
        let of = |searcher| found.iter().find(|found| found.searcher == searcher).unwrap();
        assert!(of(Searcher::Tpe).gain.low > of(Searcher::Random).gain.high, "{found:?}");
    }

    #[test]
    fn parzen_ratios_are_highest_where_the_best_trials_lie() {
        let points: Vec<Vec<f64>> = (0..40).map(|at| vec![f64::from(at), 1.0]).collect();
        let tried: Vec<usize> = (0..40).step_by(2).collect();
        let scores: Vec<f64> = tried.iter().map(|at| -(*at as f64 - 13.0).abs()).collect();
        let asked: Vec<usize> = (0..40).skip(1).step_by(2).collect();
        let ratios = parzen_ratios(&points, &tried, &scores, &asked);
        assert_eq!(asked[highest(&ratios)], 13, "{ratios:?}");
    }

    #[test]
    fn without_noise_a_search_finds_what_it_believes() {
        let found = replay(&table(4.0, 0.0), &ReplayConfig { trials: vec![16], ..CONFIG }).unwrap();
        for found in &found {
            assert!((found.believed.estimate - found.gain.estimate).abs() < 1e-9, "{found:?}");
            assert!(found.gain.estimate > 1.0 && found.gain.estimate <= found.best_possible + 1e-9, "{found:?}");
        }
    }
}
