//! Feasible schedules by construction: every draw goes through the budget repair, nothing is enumerated and filtered.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::gradients::GradientProfile;
use crate::layout::{Kind, Layout, Projection, Ranks};
use crate::par_map::par_map;
use crate::schedule::{Budget, BudgetError};

/// Draws per wanted schedule before a space counts as exhausted.
const ATTEMPTS_PER_SCHEDULE: usize = 16;

/// The schedules of a layout that meet a budget.
#[derive(Debug, Clone)]
pub struct SearchSpace {
    layout: Arc<Layout>,
    budget: Budget,
    rank_cap: Option<u32>,
    /// Decide between modules with equal claims to a rank unit.
    norms: Vec<f64>,
    /// Block and kind of every module, by position.
    places: Vec<(usize, usize)>,
}

impl SearchSpace {
    /// The space of `layout` under `budget`; no rank above `rank_cap`, where one is given. The profile's norms decide
    /// ties in the budget repair; one that does not fit the layout counts as none.
    ///
    /// # Errors
    /// [`BudgetError`] where the budget does not allow rank 1 everywhere.
    pub fn new(
        layout: &Arc<Layout>,
        budget: Budget,
        rank_cap: Option<u32>,
        profile: Option<&GradientProfile>,
    ) -> Result<Self, BudgetError> {
        let norms = profile.filter(|p| p.fits(layout)).map(GradientProfile::norms);
        let norms = norms.unwrap_or_else(|| vec![0.0; layout.len()]);
        let place = |module| (layout.block_of(module), layout.kind_of(module).unwrap_or(0));
        let places = (0..layout.len()).map(place).collect();
        let space = Self { layout: Arc::clone(layout), budget, rank_cap, norms, places };
        space.in_proportion(&vec![1.0; layout.len()])?;
        Ok(space)
    }

    /// What gets the ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether `ranks` is a schedule of this layout within the budget and the caps, with rank 1 at least everywhere.
    pub fn contains(&self, ranks: &Ranks) -> bool {
        ranks.layout().same_modules(&self.layout)
            && !ranks.as_slice().contains(&0)
            && ranks.fit_their_modules(self.rank_cap)
            && self.budget.holds(ranks)
    }

    fn in_proportion(&self, weights: &[f64]) -> Result<Ranks, BudgetError> {
        self.budget.ranks_in_proportion(&self.layout, weights, &self.norms, self.rank_cap.into())
    }

    /// Up to `count` different schedules that are not in `tried`: random compositions, and
    /// variations of `parents` (good schedules first). Fewer where the space runs out.
    ///
    /// # Errors
    /// None in a space that [`SearchSpace::new`] accepted; the budget repair's are passed on.
    pub(super) fn draw(
        &self,
        rng: &mut ChaCha8Rng,
        count: usize,
        parents: &[&[u32]],
        tried: &BTreeSet<&[u32]>,
    ) -> Result<Vec<Ranks>, BudgetError> {
        let mut drawn = Vec::with_capacity(count);
        let mut seen: BTreeSet<Vec<u32>> = BTreeSet::new();
        let mut attempts = count.saturating_mul(ATTEMPTS_PER_SCHEDULE);
        let parents: Vec<Vec<f64>> = parents.iter().map(|ranks| logarithms(ranks)).collect();
        // As many at a time as are missing: one by one, at least these would be drawn.
        while attempts > 0 && drawn.len() < count {
            let batch = attempts.min(count - drawn.len());
            attempts -= batch;
            let weights: Vec<Vec<f64>> = (0..batch).map(|_| self.weights(rng, &parents)).collect();
            for ranks in par_map(&weights, |weights| self.in_proportion(weights)) {
                let ranks = ranks?;
                if !tried.contains(ranks.as_slice()) && seen.insert(ranks.as_slice().to_vec()) {
                    drawn.push(ranks);
                }
            }
        }
        Ok(drawn)
    }

    /// Unscaled target ranks of one draw, where the logarithms of the parents' ranks are given.
    fn weights(&self, rng: &mut ChaCha8Rng, parents: &[Vec<f64>]) -> Vec<f64> {
        let log_weights = match (rng.random_range(0..4), pick(rng, parents), pick(rng, parents)) {
            (0 | 1, Some(parent), _) => self.transfer(rng, parent),
            (2, Some(a), Some(b)) => interpolate(rng, a, b),
            _ => self.compose(rng),
        };
        // libm rounds alike everywhere, so that a seed gives the same schedules natively and in the browser.
        log_weights.into_iter().map(libm::exp2).collect()
    }

    /// A schedule from nothing: a trend or steps over depth, a factor per projection, a little noise per module.
    fn compose(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let layers = self.layout.blocks().len();
        let spread = rng.random_range(0.0..2.0);
        let by_layer: Vec<f64> = if rng.random_bool(0.5) {
            let slope = spread * rng.random_range(-1.0..1.0);
            (0..layers).map(|l| slope * (2.0 * l as f64 / layers.max(2) as f64 - 1.0)).collect()
        } else {
            let mut level = 0.0;
            let steps = rng.random_range(1..=3_usize);
            let at: Vec<usize> = (0..steps).map(|_| rng.random_range(0..layers.max(1))).collect();
            (0..layers)
                .map(|l| {
                    level += at.iter().filter(|&&s| s == l).count() as f64 * spread * rng.random_range(-1.0..1.0);
                    level
                })
                .collect()
        };
        let by_kind: Vec<f64> = self.layout.kinds().iter().map(|_| bell(rng) * 0.7).collect();
        let noise = rng.random_range(0.0..0.3);
        let of = |values: &[f64], at: usize| values.get(at).copied().unwrap_or(0.0);
        let places = self.places.iter();
        places.map(|&(layer, kind)| of(&by_layer, layer) + of(&by_kind, kind) + noise * bell(rng)).collect()
    }

    /// Moves rank into or out of a few groups of modules; the repair takes it from, or gives it to, all others.
    fn transfer(&self, rng: &mut ChaCha8Rng, parent: &[f64]) -> Vec<f64> {
        let mut log_ranks = parent.to_vec();
        let layers = self.layout.blocks().len().max(1);
        let kinds = self.layout.kinds().len().max(1);
        let attention = self.layout.kinds().iter().take_while(|kind| is_attention(kind)).count();
        for _ in 0..rng.random_range(1..=3_usize) {
            let shift = bell(rng);
            // All layers or a run of them; all kinds, one, or the attention's against the feed-forward's.
            let (a, b) = (rng.random_range(0..layers), rng.random_range(0..layers));
            let run = if rng.random_bool(0.4) { 0..layers } else { a.min(b)..a.max(b) + 1 };
            let shifted = match rng.random_range(0..4_usize) {
                0 if run.len() < layers => 0..kinds,
                1 => 0..attention,
                _ => {
                    let one = rng.random_range(0..kinds);
                    one..one + 1
                }
            };
            for ((layer, kind), value) in self.places.iter().zip(&mut log_ranks) {
                if run.contains(layer) && shifted.contains(kind) {
                    *value += shift;
                }
            }
        }
        log_ranks
    }
}

/// Whether a kind is one of the attention's projections, which stand before all others.
fn is_attention(kind: &Kind) -> bool {
    kind.projection().is_some_and(|projection| projection < Projection::Gate)
}

/// Between two schedules, or a little beyond one of them, on the scale of log-ranks.
fn interpolate(rng: &mut ChaCha8Rng, a: &[f64], b: &[f64]) -> Vec<f64> {
    let share = rng.random_range(-0.5..1.5);
    a.iter().zip(b).map(|(a, b)| a + share * (b - a)).collect()
}

fn logarithms(ranks: &[u32]) -> Vec<f64> {
    ranks.iter().map(|&rank| libm::log2(f64::from(rank.max(1)))).collect()
}

/// One of `parents`, the earlier the likelier.
fn pick<'a>(rng: &mut ChaCha8Rng, parents: &'a [Vec<f64>]) -> Option<&'a [f64]> {
    let last = rng.random_range(0..parents.len().max(1));
    parents.get(rng.random_range(0..=last)).map(Vec::as_slice)
}

/// About standard normal: a sum of uniform numbers, exact on every platform.
fn bell(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::schedule::Counting;
    use crate::vlm::spec::ModelSpec;

    fn layout(layers: usize, hidden: usize, intermediate: usize, kv_heads: usize) -> Arc<Layout> {
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = layers;
        model.decoder.hidden = hidden;
        model.decoder.intermediate = intermediate;
        model.decoder.heads = 4;
        model.decoder.kv_heads = kv_heads;
        model.decoder.head_dim = hidden / 4;
        model.layout().unwrap()
    }

    /// Whether no module could take one more rank unit.
    fn is_maximal(ranks: &Ranks, budget: Budget, cap: Option<u32>) -> bool {
        ranks.iter().all(|(module, rank)| {
            rank >= module.highest_rank(cap) || budget.used(ranks) + budget.unit_cost(module) > budget.allowed
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_draw_is_feasible_maximal_new_and_different(
            layers in 1usize..10,
            hidden in 4usize..40,
            intermediate in 8usize..200,
            kv_heads in prop::sample::select(vec![1usize, 2, 4]),
            base_rank in 1u32..12,
            cap in prop::option::of(1u32..20),
            counting in prop::sample::select(vec![Counting::Parameters, Counting::RankUnits]),
            seed in any::<u64>(),
        ) {
            let model = layout(layers, hidden - hidden % 4, intermediate, kv_heads);
            let budget = Budget::uniform(&model, base_rank, counting);
            let space = SearchSpace::new(&model, budget, cap, None).unwrap();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let first = space.draw(&mut rng, 6, &[], &BTreeSet::new()).unwrap();
            let parents: Vec<&[u32]> = first.iter().map(Ranks::as_slice).collect();
            let tried = parents.iter().copied().collect();
            let second = space.draw(&mut rng, 12, &parents, &tried).unwrap();
            for ranks in first.iter().chain(&second) {
                prop_assert!(space.contains(ranks), "{ranks:?}");
                prop_assert!(is_maximal(ranks, budget, cap), "{ranks:?}");
            }
            let all: BTreeSet<_> = first.iter().chain(&second).map(Ranks::as_slice).collect();
            prop_assert_eq!(all.len(), first.len() + second.len());
        }
    }

    #[test]
    fn a_space_with_one_schedule_runs_out() {
        let model = layout(2, 16, 32, 4);
        let budget = Budget::uniform(&model, 1, Counting::Parameters);
        let space = SearchSpace::new(&model, budget, None, None).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(space.draw(&mut rng, 5, &[], &BTreeSet::new()).unwrap(), [Ranks::uniform(&model, 1)]);
        let tried = BTreeSet::from([&[1; 14][..]]);
        assert!(space.draw(&mut rng, 5, &[], &tried).unwrap().is_empty());
    }

    #[test]
    fn a_budget_below_rank_one_everywhere_has_no_space() {
        let model = layout(2, 16, 32, 4);
        let budget = Budget { counting: Counting::Parameters, allowed: model.lora_parameters(1) - 1 };
        assert!(matches!(SearchSpace::new(&model, budget, None, None), Err(BudgetError::TooSmall { .. })));
    }

    #[test]
    fn draws_vary_depth_and_projections_by_factors_that_matter() {
        let model = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
        let budget = Budget::uniform(&model, 128, Counting::Parameters);
        let space = SearchSpace::new(&model, budget, None, None).unwrap();
        let drawn = space.draw(&mut ChaCha8Rng::seed_from_u64(3), 64, &[], &BTreeSet::new()).unwrap();
        let ratio = |ranks: &[u32]| f64::from(*ranks.iter().max().unwrap()) / f64::from(*ranks.iter().min().unwrap());
        assert!(drawn.iter().filter(|ranks| ratio(ranks.as_slice()) > 2.0).count() > 32);
    }
}
