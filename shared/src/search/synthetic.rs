//! A made-up response to ranks: a search that can be watched without a fine-tune, and whose best schedule is known.
//!
//! The mean score of a schedule is floor + Σ gₘ·rₘ/(rₘ + hₘ): every module adds its gain gₘ with diminishing returns, half
//! of it at rank hₘ. On the scale of log2(rank) that is a logistic curve. Gains are hidden from the search; how far the
//! gradient norms tell them is a choice. The sum is concave in every rank and no term depends on two of them, which is
//! what makes [`SyntheticSurface::optimum`] possible.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use indexmap::IndexMap;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::gradients::GradientProfile;
use crate::layout::{Layout, Ranks};
use crate::schedule::{Budget, BudgetError};

/// Score without any gain, in percent.
const FLOOR: f64 = 40.0;
/// What all gains add up to in each benchmark, in percent: unlimited rank would score [`FLOOR`] + [`REACH`].
const REACH: f64 = 40.0;
/// Standard deviation of the gains' log2 over the modules.
const SPREAD: f64 = 1.0;
/// Standard deviation of the log2 of what sets one benchmark's gains apart from another's, and of the log2 of hₘ.
const LITTLE_SPREAD: f64 = 0.5;

/// How a made-up response is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SyntheticConfig {
    /// Seed of the hidden gains and of the noise.
    pub seed: u64,
    /// How far the gradient norms tell the gains, from 0 (not at all) to 1 (modules with a higher norm gain more,
    /// without exception).
    pub agreement: f64,
    /// Standard deviation of one benchmark's measurement, in percent.
    pub noise: f64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self { seed: 0, agreement: 0.5, noise: 0.2 }
    }
}

/// A made-up response to the ranks of one layout.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticSurface {
    layout: Arc<Layout>,
    config: SyntheticConfig,
    /// A gain per benchmark and module.
    gains: Vec<Vec<f64>>,
    /// Mean over the benchmarks of every module's gain.
    mean_gains: Vec<f64>,
    /// Rank of every module at which it has half of its gain.
    halves: Vec<f64>,
}

/// The best schedule of a made-up response under a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimum<R = Ranks> {
    /// A rank per module; where an optimum is sent, a list in the layout's order.
    pub ranks: R,
    /// Its mean score, without noise.
    pub score: f64,
    /// No schedule within the budget scores above this.
    pub bound: f64,
}

impl From<Optimum> for Optimum<Vec<u32>> {
    fn from(Optimum { ranks, score, bound }: Optimum) -> Self {
        Self { ranks: ranks.as_slice().to_vec(), score, bound }
    }
}

impl SyntheticSurface {
    /// Names of the scores.
    pub const BENCHMARKS: [&'static str; 2] = ["synthetic-1", "synthetic-2"];

    /// Makes the response of a layout. Without a profile, or with one that does not fit the layout, gains have nothing to
    /// agree with.
    pub fn new(
        layout: &Arc<Layout>,
        base_rank: u32,
        profile: Option<&GradientProfile>,
        config: SyntheticConfig,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let hidden = hidden_effects(&mut rng, layout);
        let agreement = if config.agreement >= 0.0 { config.agreement.min(1.0) } else { 0.0 };
        let log_norms = profile.filter(|p| p.fits(layout)).and_then(|p| standardised(&logarithms(&p.norms())));
        let log_gains: Vec<f64> = match log_norms {
            Some(log_norms) => {
                let rest = (1.0 - agreement * agreement).sqrt();
                log_norms
                    .iter()
                    .zip(&hidden)
                    .map(|(norm, hidden)| SPREAD * (agreement * norm + rest * hidden))
                    .collect()
            }
            None => hidden.iter().map(|hidden| SPREAD * hidden).collect(),
        };
        let gains: Vec<Vec<f64>> = Self::BENCHMARKS
            .iter()
            .map(|_| {
                let own: Vec<f64> = log_gains.iter().map(|g| libm::exp2(g + LITTLE_SPREAD * bell(&mut rng))).collect();
                let all: f64 = own.iter().sum();
                own.iter().map(|g| REACH * g / all).collect()
            })
            .collect();
        let mean_gain = |module: usize| gains.iter().filter_map(|g| g.get(module)).sum::<f64>() / gains.len() as f64;
        let mean_gains = (0..log_gains.len()).map(mean_gain).collect();
        let base = f64::from(base_rank.max(1));
        let halves = log_gains.iter().map(|_| base * libm::exp2(LITTLE_SPREAD * bell(&mut rng))).collect();
        Self { layout: Arc::clone(layout), config, gains, mean_gains, halves }
    }

    /// Mean score of a schedule, without noise.
    pub fn expected(&self, ranks: &Ranks) -> f64 {
        self.response(&self.mean_gains, ranks.as_slice())
    }

    /// The scores of a schedule, with noise. Measuring the same schedule again gives the same scores: a trainer with a
    /// fixed seed does the same.
    pub fn measure(&self, ranks: &Ranks) -> IndexMap<String, f64> {
        self.measure_from(self.config.seed, ranks)
    }

    /// The scores of a schedule with the noise of another seed than the first.
    pub fn measure_again(&self, ranks: &Ranks, seed: u64) -> IndexMap<String, f64> {
        self.measure_from(mix(self.config.seed ^ mix(seed.wrapping_add(1))), ranks)
    }

    fn measure_from(&self, seed: u64, ranks: &Ranks) -> IndexMap<String, f64> {
        let ranks = ranks.as_slice();
        let seed = ranks.iter().fold(seed, |seed, &rank| mix(seed ^ u64::from(rank)));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let noise = if self.config.noise > 0.0 && self.config.noise.is_finite() { self.config.noise } else { 0.0 };
        let scores = self.gains.iter().map(|gains| self.response(gains, ranks) + noise * bell(&mut rng));
        Self::BENCHMARKS.iter().map(|name| (*name).to_owned()).zip(scores).collect()
    }

    /// The best schedule within a budget: from rank 1 everywhere, the unit with the most gain per cost is taken, again and
    /// again, for as long as one fits.
    ///
    /// Returns diminish, so units are taken in the order of their gain per cost over all modules, which solves the
    /// problem exactly if units could be divided. The value of that solution, with a part of the first unit that does not
    /// fit, is [`Optimum::bound`]. The schedule is therefore within less than one unit's gain of the best, and is the
    /// best where every unit costs the same.
    ///
    /// # Errors
    /// A budget below rank 1 in every module, a cap of 0.
    pub fn optimum(&self, budget: &Budget, rank_cap: Option<u32>) -> Result<Optimum, BudgetError> {
        let modules = self.layout.modules().iter();
        let units: Vec<(u64, u32)> =
            modules.map(|module| (budget.unit_cost(module), module.highest_rank(rank_cap))).collect();
        if let Some(module) = units.iter().position(|&(cost, cap)| cost == 0 || cap == 0) {
            return Err(BudgetError::NoRoom { module });
        }
        let mut ranks = vec![1_u32; units.len()];
        let least = units.iter().map(|&(cost, _)| cost).fold(0, u64::saturating_add);
        let Some(mut left) = budget.allowed.checked_sub(least) else {
            return Err(BudgetError::TooSmall { allowed: budget.allowed, least });
        };
        let next = |module: usize, rank: u32| {
            let (cost, cap) = *units.get(module)?;
            (rank < cap).then(|| Unit { worth: self.unit_gain(module, rank) / cost as f64, cost, module })
        };
        let mut waiting: BinaryHeap<Unit> = (0..ranks.len()).filter_map(|module| next(module, 1)).collect();
        let mut bound = None;
        while let Some(unit) = waiting.pop() {
            if unit.cost > left {
                // What does not fit now never will: `left` only falls. Cheaper units of other modules may.
                bound.get_or_insert_with(|| self.response(&self.mean_gains, &ranks) + unit.worth * left as f64);
                continue;
            }
            let Some(rank) = ranks.get_mut(unit.module) else { continue };
            *rank += 1;
            left -= unit.cost;
            waiting.extend(next(unit.module, *rank));
        }
        let ranks = Ranks::new(&self.layout, ranks)?;
        let score = self.expected(&ranks);
        // Where everything fits, all is taken.
        Ok(Optimum { bound: bound.unwrap_or(score).max(score), ranks, score })
    }

    /// What one unit more than `rank` adds to the mean score.
    fn unit_gain(&self, module: usize, rank: u32) -> f64 {
        let (gain, half) = (self.mean_gains.get(module), self.halves.get(module));
        let (gain, half) = (gain.copied().unwrap_or(0.0), half.copied().unwrap_or(1.0));
        let rank = f64::from(rank);
        // The difference of two neighbouring values, without its cancellation.
        gain * half / ((rank + half) * (rank + 1.0 + half))
    }

    fn response(&self, gains: &[f64], ranks: &[u32]) -> f64 {
        let terms = gains.iter().zip(&self.halves).zip(ranks);
        FLOOR + terms.map(|((gain, half), &rank)| gain * f64::from(rank) / (f64::from(rank) + half)).sum::<f64>()
    }
}

/// One unit of rank that could be taken. The greatest has the most gain per cost; of equals the one that comes first.
#[derive(Debug, Clone, Copy)]
struct Unit {
    worth: f64,
    cost: u64,
    module: usize,
}

impl Ord for Unit {
    fn cmp(&self, other: &Self) -> Ordering {
        self.worth.total_cmp(&other.worth).then(other.module.cmp(&self.module))
    }
}

impl PartialOrd for Unit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Unit {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Unit {}

/// What the norms do not tell of a module's gain: a trend over depth, an effect of its kind, and its own; with mean
/// 0 and variance 1 over the modules.
fn hidden_effects(rng: &mut ChaCha8Rng, layout: &Layout) -> Vec<f64> {
    let slope = bell(rng);
    let by_kind: Vec<f64> = layout.kinds().iter().map(|_| bell(rng)).collect();
    let layers = layout.blocks().len();
    let mut effects = Vec::with_capacity(layout.len());
    for (layer, block) in layout.blocks().iter().enumerate() {
        let depth = if layers < 2 { 0.0 } else { 2.0 * layer as f64 / (layers - 1) as f64 - 1.0 };
        for module in block.modules.clone() {
            let kind = layout.kind_of(module).and_then(|kind| by_kind.get(kind)).copied().unwrap_or(0.0);
            effects.push(0.85 * slope * depth + 0.7 * kind + 0.5 * bell(rng));
        }
    }
    let zeros = vec![0.0; effects.len()];
    standardised(&effects).unwrap_or(zeros)
}

/// Logarithms of the norms; one that is not positive counts as the smallest that is.
fn logarithms(norms: &[f64]) -> Vec<f64> {
    let positive = |norm: &f64| norm.is_finite() && *norm > 0.0;
    let floor = norms.iter().copied().filter(positive).fold(f64::INFINITY, f64::min);
    norms.iter().map(|norm| libm::log2(if positive(norm) { *norm } else { floor })).collect()
}

/// The values with mean 0 and variance 1; `None` where they are all the same, or not finite.
fn standardised(values: &[f64]) -> Option<Vec<f64>> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count).sqrt();
    (deviation > 1e-12).then(|| values.iter().map(|v| (v - mean) / deviation).collect())
}

/// About standard normal: a sum of uniform numbers, exact on every platform.
fn bell(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

/// SplitMix64's finalizer: neighbouring schedules get unrelated noise.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::{ModuleNorm, Signal};
    use crate::schedule::Counting;
    use crate::vlm::spec::ModelSpec;

    fn tiny() -> Arc<Layout> {
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = 1;
        model.decoder.hidden = 8;
        model.decoder.intermediate = 12;
        model.decoder.heads = 2;
        model.decoder.kv_heads = 1;
        model.decoder.head_dim = 4;
        model.layout().unwrap()
    }

    fn profile(layout: &Layout) -> GradientProfile {
        let norm = |i: usize| ModuleNorm { mean: 0.01 + (i * 37 % 101) as f64, standard_error: 0.0, steps: 1 };
        GradientProfile {
            signal: Signal::L2,
            modules: (0..layout.len()).map(norm).collect(),
            ..GradientProfile::default()
        }
    }

    /// The best mean score of all schedules with ranks from 1 to `cap`.
    fn by_brute_force(surface: &SyntheticSurface, budget: Budget, cap: u32) -> f64 {
        let modules = surface.mean_gains.len();
        let mut best = f64::NEG_INFINITY;
        for code in 0..cap.pow(modules as u32) {
            let ranks = (0..modules as u32).map(|m| 1 + code / cap.pow(m) % cap).collect();
            let ranks = Ranks::new(&surface.layout, ranks).unwrap();
            if budget.holds(&ranks) {
                best = best.max(surface.expected(&ranks));
            }
        }
        best
    }

    #[test]
    fn no_schedule_of_a_tiny_model_beats_the_optimum_by_more_than_its_bound_says() {
        let model = tiny();
        for (seed, base_rank) in (0..6).zip([1, 2, 2, 3, 3, 4]) {
            let config = SyntheticConfig { seed, ..SyntheticConfig::default() };
            let surface = SyntheticSurface::new(&model, base_rank, Some(&profile(&model)), config);
            for counting in [Counting::Parameters, Counting::RankUnits] {
                for more in [0, 5, 9] {
                    let mut budget = Budget::uniform(&model, base_rank, counting);
                    budget.allowed += more;
                    let found = surface.optimum(&budget, Some(4)).unwrap();
                    assert!(budget.holds(&found.ranks));
                    assert!(found.ranks.as_slice().iter().all(|rank| (1..=4).contains(rank)));
                    let best = by_brute_force(&surface, budget, 4);
                    assert!(best >= found.score && best <= found.bound + 1e-12, "{found:?} {best}");
                    if counting == Counting::RankUnits {
                        assert!((best - found.score).abs() < 1e-12, "equal costs: {found:?} {best}");
                    }
                    let dearest_unit = (0..7).map(|m| surface.unit_gain(m, 1)).fold(f64::NEG_INFINITY, f64::max);
                    assert!(found.bound - found.score < dearest_unit, "{found:?}");
                }
            }
        }
    }

    #[test]
    fn the_optimum_of_a_real_model_is_known_to_a_thousandth_of_a_percent_and_beats_uniform() {
        let model = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
        let surface = SyntheticSurface::new(&model, 128, Some(&profile(&model)), SyntheticConfig::default());
        let budget = Budget::uniform(&model, 128, Counting::Parameters);
        let found = surface.optimum(&budget, None).unwrap();
        assert!(found.bound - found.score < 1e-3, "{}", found.bound - found.score);
        let uniform = surface.expected(&Ranks::uniform(&model, 128));
        assert!(found.score > uniform + 0.5, "{} {uniform}", found.score);
        assert!((FLOOR..FLOOR + REACH).contains(&uniform), "{uniform}");
    }

    #[test]
    fn budgets_and_caps_without_room_are_refused() {
        let model = tiny();
        let surface = SyntheticSurface::new(&model, 2, None, SyntheticConfig::default());
        let units = |allowed| Budget { counting: Counting::RankUnits, allowed };
        assert_eq!(surface.optimum(&units(6), None), Err(BudgetError::TooSmall { allowed: 6, least: 7 }));
        assert_eq!(surface.optimum(&units(7), Some(0)), Err(BudgetError::NoRoom { module: 0 }));
        let full = surface.optimum(&units(u64::MAX), Some(3)).unwrap();
        assert_eq!(full.ranks, Ranks::uniform(&model, 3));
        assert_eq!(full.bound, full.score);
    }

    #[test]
    fn a_unit_adds_what_the_response_differs_by_and_less_than_the_unit_before_it() {
        let surface = SyntheticSurface::new(&tiny(), 2, None, SyntheticConfig::default());
        for module in 0..7 {
            let at = |rank| surface.expected(&Ranks::uniform(&surface.layout, 1).with(module, rank));
            for rank in 1..8 {
                assert!((surface.unit_gain(module, rank) - (at(rank + 1) - at(rank))).abs() < 1e-12);
                assert!(surface.unit_gain(module, rank + 1) < surface.unit_gain(module, rank));
            }
        }
    }

    #[test]
    fn with_full_agreement_the_norms_tell_the_gains_and_without_any_they_do_not() {
        let model = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
        let profile = profile(&model);
        let log_norms = standardised(&logarithms(&profile.norms())).unwrap();
        let correlation = |agreement| {
            let config = SyntheticConfig { agreement, ..SyntheticConfig::default() };
            let surface = SyntheticSurface::new(&model, 128, Some(&profile), config);
            let gains = standardised(&logarithms(&surface.mean_gains)).unwrap();
            gains.iter().zip(&log_norms).map(|(a, b)| a * b).sum::<f64>() / log_norms.len() as f64
        };
        let [none, half, full] = [0.0, 0.5, 1.0].map(correlation);
        assert!(none.abs() < 0.25 && half > none + 0.2 && full > 0.9, "{none} {half} {full}");
    }

    #[test]
    fn noise_depends_on_seed_and_schedule_alone_and_has_the_size_asked_for() {
        let model = tiny();
        let surface = |seed, noise| {
            SyntheticSurface::new(&model, 2, None, SyntheticConfig { seed, noise, ..SyntheticConfig::default() })
        };
        let mean = |scores: IndexMap<String, f64>| scores.values().sum::<f64>() / scores.len() as f64;
        let ranks = Ranks::new(&model, vec![2, 3, 1, 4, 2, 2, 2]).unwrap();
        assert_eq!(surface(1, 0.3).measure(&ranks), surface(1, 0.3).measure(&ranks));
        assert_ne!(surface(1, 0.3).measure(&ranks), surface(2, 0.3).measure(&ranks));
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let quiet = surface(1, odd);
            assert!((mean(quiet.measure(&ranks)) - quiet.expected(&ranks)).abs() < 1e-12);
        }
        let noisy = surface(1, 1.0);
        let quiet = surface(1, 0.0);
        let squares: Vec<f64> = (1..=400)
            .map(|rank| {
                let ranks = Ranks::uniform(&model, rank);
                let pairs = noisy.measure(&ranks).into_values().zip(quiet.measure(&ranks).into_values());
                pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / 2.0
            })
            .collect();
        let variance = squares.iter().sum::<f64>() / squares.len() as f64;
        assert!((variance - 1.0).abs() < 0.2, "{variance}");
    }

    #[test]
    fn odd_profiles_and_agreements_give_finite_responses() {
        let model = tiny();
        let flat = |mean| GradientProfile {
            modules: vec![ModuleNorm { mean, standard_error: 0.0, steps: 1 }; 7],
            ..GradientProfile::default()
        };
        for profile in [None, Some(flat(0.0)), Some(flat(0.3)), Some(flat(f64::NAN)), Some(GradientProfile::default())]
        {
            for agreement in [-1.0, 0.0, 1.0, 7.0, f64::NAN] {
                let config = SyntheticConfig { agreement, ..SyntheticConfig::default() };
                let surface = SyntheticSurface::new(&model, 0, profile.as_ref(), config);
                assert!(surface.expected(&Ranks::uniform(&model, 1)).is_finite());
            }
        }
    }
}
