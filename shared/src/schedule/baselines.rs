//! The schedules to compare HyDRA with, all through the same budget repair.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Bounds, Budget, BudgetError, Counting};
use crate::gradients::GradientProfile;
use crate::layout::{Layout, Ranks};

/// A rule that gives every module a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Every module the base rank: LoRA.
    Uniform,
    /// Ranks that grow linearly with depth, from half the mean rank to one and a half times.
    Linear,
    /// Ranks that grow by equal factors with depth, fourfold from the first layer to the last.
    Exponential,
    /// Each module's share drawn at random, log-uniform within a factor of 16.
    RandomFeasible,
    /// Ranks in proportion to the gradient norms.
    NormProportional,
    /// As EVA shares out rank: rank units are held fixed instead of parameters, shares follow the squared norms (where
    /// EVA takes explained variance), no rank is above ρ = 2 times the base rank. Its parameters differ from uniform
    /// LoRA's; unlike EVA it leaves no module without rank, unless modules may be dropped.
    EvaLike,
}

/// A name that is not a baseline's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no comparison schedule is called \"{name}\"; there are {}", Baseline::ALL.map(Baseline::name).join(", "))]
pub struct UnknownBaseline {
    /// What was asked for.
    pub name: String,
}

impl Baseline {
    /// Every baseline.
    pub const ALL: [Self; 6] =
        [Self::Uniform, Self::Linear, Self::Exponential, Self::RandomFeasible, Self::NormProportional, Self::EvaLike];

    /// Name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Linear => "linear",
            Self::Exponential => "exponential",
            Self::RandomFeasible => "random-feasible",
            Self::NormProportional => "norm-proportional",
            Self::EvaLike => "eva-like",
        }
    }

    /// What it is called where there is room for more than its name.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Uniform => "uniform LoRA",
            Self::Linear => "linear in depth",
            Self::Exponential => "exponential in depth",
            Self::RandomFeasible => "random feasible",
            Self::NormProportional => "in proportion to norms",
            Self::EvaLike => "EVA-like (rank units)",
        }
    }

    /// What its budget counts: rank units for [`Self::EvaLike`], parameters for every other.
    pub fn counting(self) -> Counting {
        if self == Self::EvaLike { Counting::RankUnits } else { Counting::Parameters }
    }

    /// The budget that this baseline keeps: uniform LoRA's at `base_rank`, in what it counts.
    pub fn budget(self, layout: &Layout, base_rank: u32) -> Budget {
        Budget::uniform(layout, base_rank, self.counting())
    }

    /// Ranks within [`Self::budget`]. `seed` matters to
    /// [`Self::RandomFeasible`] alone, `bounds` are as in [`Budget::ranks_in_proportion`].
    ///
    /// # Errors
    /// As [`Budget::ranks_in_proportion`].
    pub fn ranks(
        self,
        layout: &Arc<Layout>,
        profile: &GradientProfile,
        base_rank: u32,
        bounds: Bounds,
        seed: u64,
    ) -> Result<Ranks, BudgetError> {
        let norms = profile.norms();
        let by_depth = |weight: fn(f64) -> f64| {
            let blocks = layout.blocks().iter().enumerate();
            blocks.flat_map(|(at, block)| block.modules.clone().map(move |_| weight(layout.depth(at)))).collect()
        };
        let weights: Vec<f64> = match self {
            Self::Uniform => by_depth(|_| 1.0),
            Self::Linear => by_depth(|depth| 0.5 + depth),
            // libm's, which is the same on every platform.
            Self::Exponential => by_depth(|depth| libm::exp2(2.0 * depth)),
            Self::RandomFeasible => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                layout.modules().iter().map(|_| libm::exp2(4.0 * unit_interval(random.next_u64()))).collect()
            }
            Self::NormProportional => norms.clone(),
            Self::EvaLike => {
                // Relative to the largest, so that squares neither overflow nor vanish.
                let largest = norms.iter().copied().fold(0.0, f64::max);
                norms.iter().map(|norm| if largest > 0.0 { (norm / largest) * (norm / largest) } else { 0.0 }).collect()
            }
        };
        let bounds = match self {
            Self::EvaLike => bounds.capped(base_rank.saturating_mul(2)),
            _ => bounds,
        };
        self.budget(layout, base_rank).ranks_in_proportion(layout, &weights, &norms, bounds)
    }
}

/// A float in [0, 1) from the upper 53 bits.
fn unit_interval(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Baseline {
    type Err = UnknownBaseline;

    fn from_str(name: &str) -> Result<Self, UnknownBaseline> {
        let found = Self::ALL.into_iter().find(|baseline| baseline.name() == name);
        found.ok_or_else(|| UnknownBaseline { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::gradients::{ModuleNorm, Signal};
    use crate::vlm::spec::ModelSpec;

    fn model() -> Arc<Layout> {
        ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap()
    }

    fn profile() -> GradientProfile {
        let modules = model()
            .modules()
            .iter()
            .map(|m| {
                let (layer, projection) = (m.layer.unwrap(), m.kind.projection().unwrap().index());
                let mean = 0.005 * (1 + layer) as f64 * (1.0 + 0.3 * projection as f64);
                ModuleNorm { mean, standard_error: 0.0, steps: 8 }
            })
            .collect();
        GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }
    }

    fn ranks(baseline: Baseline, seed: u64) -> Vec<u32> {
        baseline.ranks(&model(), &profile(), 128, Bounds::default(), seed).unwrap().as_slice().to_vec()
    }

    fn of_layer(ranks: &[u32], layer: usize) -> &[u32] {
        &ranks[layer * 7..layer * 7 + 7]
    }

    #[test]
    fn every_baseline_meets_its_budget_to_less_than_one_unit() {
        let model = model();
        for baseline in Baseline::ALL {
            let budget = baseline.budget(&model, 128);
            let ranks = ranks(baseline, 7);
            let used = budget.used(&Ranks::new(&model, ranks.clone()).unwrap());
            let cheapest = budget.unit_cost(&model.modules()[0]);
            assert!(used <= budget.allowed && budget.allowed - used < cheapest, "{baseline}");
            assert!(ranks.iter().all(|&r| r >= 1));
        }
    }

    #[test]
    fn uniform_is_the_base_rank_everywhere() {
        assert_eq!(ranks(Baseline::Uniform, 0), vec![128; 168]);
    }

    #[test]
    fn linear_and_exponential_ranks_grow_with_depth_by_their_factors() {
        let linear = ranks(Baseline::Linear, 0);
        assert_eq!((linear[0], linear[167]), (64, 192));
        let exponential = ranks(Baseline::Exponential, 0);
        let factor = f64::from(exponential[167]) / f64::from(exponential[0]);
        assert!((factor - 4.0).abs() < 0.1, "{factor}");
        for ranks in [linear, exponential] {
            for layer in 1..24 {
                let pair = of_layer(&ranks, layer - 1).iter().zip(of_layer(&ranks, layer));
                assert!(pair.into_iter().all(|(before, after)| before <= after));
            }
        }
    }

    #[test]
    fn random_schedules_follow_their_seed() {
        assert_eq!(ranks(Baseline::RandomFeasible, 3), ranks(Baseline::RandomFeasible, 3));
        assert_ne!(ranks(Baseline::RandomFeasible, 3), ranks(Baseline::RandomFeasible, 4));
    }

    #[test]
    fn norm_proportional_ranks_follow_the_norms() {
        let ranks = ranks(Baseline::NormProportional, 0);
        let norms = profile().norms();
        let scale = f64::from(ranks[167]) / norms[167];
        for (&rank, norm) in ranks.iter().zip(norms) {
            assert!((f64::from(rank) - scale * norm).abs() < 1.5, "{rank} {norm}");
        }
    }

    #[test]
    fn eva_like_holds_rank_units_and_never_more_than_doubles_a_rank() {
        let ranks = ranks(Baseline::EvaLike, 0);
        assert_eq!(ranks.iter().map(|&r| u64::from(r)).sum::<u64>(), 128 * 168);
        assert_eq!(ranks.iter().max(), Some(&256));
    }

    #[test]
    fn eva_like_can_use_the_published_share_more_or_less_than_lora() {
        for (name, most, least) in [("mobilevlm-1.7b", "1.273", "0.727"), ("mobilevlm-3b", "1.267", "0.733")] {
            let model = ModelSpec::preset(name).unwrap().layout().unwrap();
            let share = |mlp: bool| {
                let modules = model
                    .modules()
                    .iter()
                    .map(|m| {
                        let is_mlp = m.name.contains(".mlp.");
                        let mean = if is_mlp == mlp { 1.0 } else { 1e-9 };
                        ModuleNorm { mean, standard_error: 0.0, steps: 1 }
                    })
                    .collect();
                let profile = GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() };
                // What is left when three (or four) of seven projections are doubled stays with the others.
                let ranks = Baseline::EvaLike.ranks(&model, &profile, 1 << 7, Bounds::default(), 0).unwrap();
                ranks.parameters() as f64 / model.lora_parameters(128) as f64
            };
            let published = |text: &str| text.parse::<f64>().unwrap();
            assert!((share(true) - published(most)).abs() < 0.003, "{name} {}", share(true));
            assert!((share(false) - published(least)).abs() < 0.003, "{name} {}", share(false));
        }
    }

    #[test]
    fn names_lead_back_to_their_baselines_and_others_are_refused_with_the_list() {
        for baseline in Baseline::ALL {
            assert_eq!(baseline.name().parse(), Ok(baseline));
            assert_eq!(serde_json::to_string(&baseline).unwrap(), format!("\"{baseline}\""));
        }
        let error = "cubic".parse::<Baseline>().unwrap_err();
        assert!(error.to_string().contains("uniform, linear, exponential"), "{error}");
    }
}
