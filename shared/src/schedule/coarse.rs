//! The coarse step: one rank per stage, and the scale that makes ranks meet a budget.

use super::BudgetError;
use super::order::{from_ordered, ordered};
use super::repair::{RepairModule, check_least};

/// How a stage's rank follows from its place.
#[derive(Debug, Clone, PartialEq)]
pub enum StageRanks {
    /// R_t = r₀·ρ^(t − t̄) with this ρ ≥ 1: each stage gets ρ times the rank of the one before.
    Ratio(f64),
    /// Ranks in ascending order, one per stage. They are scaled to the budget: ranks that meet it come out unchanged,
    /// others keep their ratios.
    ByHand(Vec<u32>),
}

impl Default for StageRanks {
    fn default() -> Self {
        Self::Ratio(2.0)
    }
}

/// Why stage ranks cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// A ratio below 1, or no number.
    #[error("the stage ratio {0} is not a finite number ≥ 1; a later stage never gets a lower rank")]
    Ratio(f64),
    /// Not one rank per stage.
    #[error("{given} stage ranks were given for {stages} stage(s); give one rank per stage, or ask for {given} stages")]
    Count {
        /// Ranks given.
        given: usize,
        /// Stages there are.
        stages: usize,
    },
    /// Rank 0 where no module may be dropped.
    #[error("stage {stage} is given rank 0; every rank is at least 1, unless the lowest rank is set to 0")]
    Zero {
        /// Stage, counted from 0.
        stage: usize,
    },
    /// A stage below its predecessor.
    #[error(
        "the stage ranks {} do not ascend; give the lowest rank first: it belongs to the stage with the lowest norm",
        .ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Descending {
        /// The ranks.
        ranks: Vec<u32>,
    },
}

impl StageRanks {
    /// Ranks of `stages` stages up to a common factor, which the budget decides (so that t̄ does not matter).
    ///
    /// # Errors
    /// A ratio below 1; by hand, a wrong number of ranks, a rank 0 (unless `droppable`) or ranks that descend.
    pub fn weights(&self, stages: usize, droppable: bool) -> Result<Vec<f64>, RanksError> {
        match self {
            Self::Ratio(ratio) => {
                if !ratio.is_finite() || *ratio < 1.0 {
                    return Err(RanksError::Ratio(*ratio));
                }
                // Repeated products instead of powers, the same on every platform; from the top, so that nothing
                // overflows.
                let mut weights = Vec::with_capacity(stages);
                let mut divisor = 1.0;
                for _ in 0..stages {
                    weights.push(1.0 / divisor);
                    divisor *= ratio;
                }
                weights.reverse();
                Ok(weights)
            }
            Self::ByHand(ranks) => {
                if ranks.len() != stages {
                    return Err(RanksError::Count { given: ranks.len(), stages });
                }
                if let Some(stage) = ranks.iter().position(|&rank| rank == 0 && !droppable) {
                    return Err(RanksError::Zero { stage });
                }
                if !ranks.is_sorted() {
                    return Err(RanksError::Descending { ranks: ranks.clone() });
                }
                Ok(ranks.iter().map(|&rank| f64::from(rank)).collect())
            }
        }
    }
}

/// The factor from weights to target ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale(f64);

impl Scale {
    /// Target rank of a weight, rounded down to a multiple of 2⁻²⁰: whole increments can then be added without
    /// rounding, and remainders that are equal on paper are equal in the machine.
    pub(super) fn rank(self, weight: f64) -> f64 {
        const STEPS: f64 = (1_u32 << 20) as f64;
        let rank = (weight.max(0.0) * self.0).min(f64::from(u32::MAX));
        (rank * STEPS).floor() / STEPS
    }
}

/// The scale at which Σ cost·clamp(weight·scale, floor, cap) is `allowed`, or the largest one that changes anything where the
/// caps leave budget over. A module's `target` is its weight. Does not depend on the modules' order.
pub(super) fn scale_to_budget(modules: &[RepairModule], allowed: u64) -> Result<Scale, BudgetError> {
    // Modules that differ in nothing but their weight, which are few kinds.
    let alike = |module: &RepairModule| (module.cost, module.cap, module.floor);
    let mut kinds = Vec::new();
    for (index, module) in modules.iter().enumerate() {
        if !module.target.is_finite() {
            return Err(BudgetError::NotFinite { module: index });
        }
        if !module.has_room() {
            return Err(BudgetError::NoRoom { module: index });
        }
        if let Err(at) = kinds.binary_search(&alike(module)) {
            kinds.insert(at, alike(module));
        }
    }
    check_least(modules, allowed)?;
    // A fixed order of summation, by weight and then by kind, makes the sums independent of the modules' order. Integers are
    // sorted several times as fast as tuples.
    let key = |module: &RepairModule| {
        let kind = kinds.partition_point(|kind| *kind < alike(module));
        u128::from(ordered(module.target.max(0.0))) << 64 | kind as u128
    };
    let mut keys: Vec<u128> = modules.iter().map(key).collect();
    keys.sort_unstable();
    let place = |key: u128| {
        let (cost, cap, floor) = kinds.get(key as u64 as usize).copied().unwrap_or_default();
        (from_ordered((key >> 64) as u64), cost as f64, f64::from(cap), f64::from(floor))
    };
    let sorted: Vec<(f64, f64, f64, f64)> = keys.into_iter().map(place).collect();
    // Scales at which a module leaves its lowest rank or reaches its cap; between two of them the use is linear.
    let mut breaks: Vec<f64> = sorted
        .iter()
        .flat_map(|&(weight, _, cap, floor)| [floor / weight, cap / weight])
        .filter(|b| b.is_finite())
        .collect();
    let allowed = allowed as f64;
    let used =
        |scale: f64| sorted.iter().map(|&(w, cost, cap, floor)| cost * (w * scale).max(floor).min(cap)).sum::<f64>();
    let Some(first) = breaks.iter().copied().reduce(f64::min) else { return Ok(Scale(1.0)) };
    // The last break that the budget bears, or the first of all, and the one after it.
    let (mut low, mut high) = (first, None);
    let mut open = &mut breaks[..];
    while !open.is_empty() {
        let middle = open.len() / 2;
        let (below, scale, above) = open.select_nth_unstable_by(middle, f64::total_cmp);
        if used(*scale) <= allowed {
            (low, open) = (*scale, above);
        } else {
            (high, open) = (Some(*scale), below);
        }
    }
    let Some(high) = high else { return Ok(Scale(low)) };
    let (mut fixed, mut slope) = (0.0, 0.0);
    for &(weight, cost, cap, floor) in &sorted {
        if floor / weight > low {
            fixed += cost * floor;
        } else if cap / weight <= low {
            fixed += cost * cap;
        } else {
            slope += cost * weight;
        }
    }
    Ok(Scale(if slope > 0.0 { ((allowed - fixed) / slope).clamp(low, high.max(low)) } else { low }))
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn targets(weights: &[(f64, u64, u32)], allowed: u64) -> Vec<f64> {
        let modules: Vec<_> = weights
            .iter()
            .map(|&(target, cost, cap)| RepairModule { cost, floor: 1, cap, target, norm: 0.0 })
            .collect();
        let scale = scale_to_budget(&modules, allowed).unwrap();
        weights.iter().map(|w| scale.rank(w.0)).collect()
    }

    #[test]
    fn each_stage_gets_the_ratio_times_the_rank_of_the_one_before() {
        assert_eq!(StageRanks::Ratio(2.0).weights(3, false).unwrap(), [0.25, 0.5, 1.0]);
        assert_eq!(StageRanks::Ratio(1.0).weights(2, false).unwrap(), [1.0, 1.0]);
        assert_eq!(StageRanks::ByHand(vec![64, 128, 256]).weights(3, false).unwrap(), [64.0, 128.0, 256.0]);
    }

    #[test]
    fn many_stages_with_a_large_ratio_stay_finite() {
        let weights = StageRanks::Ratio(1e6).weights(500, false).unwrap();
        assert!(weights.iter().all(|w| w.is_finite()) && weights.is_sorted());
    }

    #[test]
    fn stage_ranks_that_cannot_be_meant_are_refused() {
        for ratio in [0.5, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(StageRanks::Ratio(ratio).weights(3, false), Err(RanksError::Ratio(_))));
        }
        let by_hand = |ranks: &[u32]| StageRanks::ByHand(ranks.to_vec()).weights(3, false).unwrap_err();
        assert_eq!(by_hand(&[64, 128]), RanksError::Count { given: 2, stages: 3 });
        assert_eq!(by_hand(&[0, 64, 128]), RanksError::Zero { stage: 0 });
        assert!(by_hand(&[256, 128, 64]).to_string().starts_with("the stage ranks 256, 128, 64 do not ascend"));
    }

    #[test]
    fn weights_are_scaled_to_the_budget() {
        assert_eq!(targets(&[(1.0, 2, 99), (2.0, 2, 99), (3.0, 2, 99)], 24), [2.0, 4.0, 6.0]);
        assert_eq!(targets(&[(0.25, 3, 99), (0.5, 3, 99), (1.0, 3, 99)], 21), [1.0, 2.0, 4.0]);
    }

    #[test]
    fn what_caps_and_rank_one_take_is_shared_by_the_others() {
        // The last is capped at 5; the first stays at 1; 6 are left for the middle one.
        assert_eq!(targets(&[(0.01, 1, 99), (1.0, 1, 99), (9.0, 1, 5)], 12)[1], 6.0);
        assert!(targets(&[(0.01, 1, 99), (1.0, 1, 99), (9.0, 1, 5)], 12)[2] >= 5.0);
    }

    #[test]
    fn a_budget_beyond_all_caps_brings_every_target_to_its_cap() {
        let reached = targets(&[(1.0, 1, 4), (0.5, 1, 6)], 1_000);
        assert!(reached[0] >= 4.0 && reached[1] >= 6.0);
        assert_eq!(targets(&[(0.0, 1, 4), (1.0, 1, 6)], 1_000), [0.0, 6.0]);
    }

    #[test]
    fn the_least_budget_leaves_every_target_at_one_or_below() {
        assert!(targets(&[(1.0, 5, 9), (2.0, 7, 9)], 12).iter().all(|&t| t <= 1.0));
    }
}
