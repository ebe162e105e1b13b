//! The budget: what it counts, how much of it there is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::coarse::scale_to_budget;
use super::repair::{RepairModule, repair};
use crate::layout::{Layout, Module, Ranks, WrongCount};

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counting {
    /// Trainable parameters, Σ r·(d_in + d_out): the paper's Eq. 4.
    #[default]
    Parameters,
    /// Rank units, Σ r: what AdaLoRA and EVA hold fixed. The parameters then depend on where the rank goes.
    RankUnits,
}

impl Counting {
    /// Name in files, in links and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parameters => "parameters",
            Self::RankUnits => "rank-units",
        }
    }
}

/// Lowest and highest rank of any module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Lowest rank; with 0 modules may be dropped. Where a matrix can use less, what it can use.
    pub floor: u32,
    /// Highest rank; without it what the matrix can use.
    pub cap: Option<u32>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { floor: 1, cap: None }
    }
}

impl Bounds {
    /// The same with a cap that is no higher than this.
    #[must_use]
    pub fn capped(self, cap: u32) -> Self {
        Self { cap: Some(self.cap.map_or(cap, |own| own.min(cap))), ..self }
    }
}

impl From<Option<u32>> for Bounds {
    fn from(cap: Option<u32>) -> Self {
        Self { cap, ..Self::default() }
    }
}

/// How much a schedule may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// What is counted.
    pub counting: Counting,
    /// The most that a schedule may use, in what `counting` counts.
    pub allowed: u64,
}

/// Why no ranks meet a budget. Modules are counted in the order of their layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Less than the lowest rank everywhere.
    #[error(
        "the budget of {allowed} is too small: the lowest rank in every module takes {least}; allow at least {least} or raise \
         the base rank"
    )]
    TooSmall {
        /// What was allowed.
        allowed: u64,
        /// The least possible budget.
        least: u64,
    },
    /// Less than one unit of rank in any module.
    #[error(
        "the budget of {allowed} is too small: one unit of rank takes at least {least}; allow at least that or raise the base rank"
    )]
    NoUnit {
        /// What was allowed.
        allowed: u64,
        /// The cost of the cheapest unit.
        least: u64,
    },
    /// A target, weight or norm that is NaN or infinite.
    #[error("module {module} has a target rank or a norm that is not a finite number")]
    NotFinite {
        /// Index of the module.
        module: usize,
    },
    /// A cost of 0, or a cap below the lowest rank.
    #[error(
        "module {module} cannot hold the lowest rank: the rank cap is below it, or its cost is 0; raise the rank cap"
    )]
    NoRoom {
        /// Index of the module.
        module: usize,
    },
    /// One value per module was expected.
    #[error("{found} values were given for the model's {expected} modules")]
    Length {
        /// Modules of the model.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

impl Budget {
    /// What uniform LoRA at `base_rank` uses: the C of the paper's Eq. 4.
    pub fn uniform(layout: &Layout, base_rank: u32, counting: Counting) -> Self {
        let allowed = match counting {
            Counting::Parameters => layout.lora_parameters(base_rank),
            Counting::RankUnits => (layout.len() as u64).saturating_mul(u64::from(base_rank)),
        };
        Self { counting, allowed }
    }

    /// What one unit of rank in a module costs.
    pub fn unit_cost(&self, module: &Module) -> u64 {
        match self.counting {
            Counting::Parameters => module.rank_unit_cost(),
            Counting::RankUnits => 1,
        }
    }

    /// What ranks use.
    pub fn used(&self, ranks: &Ranks) -> u64 {
        match self.counting {
            Counting::Parameters => ranks.parameters(),
            Counting::RankUnits => ranks.units(),
        }
    }

    /// Whether ranks use no more than is allowed.
    pub fn holds(&self, ranks: &Ranks) -> bool {
        self.used(ranks) <= self.allowed
    }

    /// This budget, raised to what ranks from elsewhere use where that is more: a schedule's file keeps its own budget.
    #[must_use]
    pub fn raised_to(self, ranks: &Ranks) -> Self {
        Self { allowed: self.allowed.max(self.used(ranks)), ..self }
    }

    /// Ranks in proportion to `weights` (one per module, ≥ 0) that meet this budget; see [`repair`]. Where every weight is
    /// 0, all count the same. `norms` decide ties. A rank is at most min(d_in, d_out), and within `bounds`.
    ///
    /// # Errors
    /// As [`repair`]; and where `weights` or `norms` are not one per module.
    pub fn ranks_in_proportion(
        &self,
        layout: &Arc<Layout>,
        weights: &[f64],
        norms: &[f64],
        bounds: Bounds,
    ) -> Result<Ranks, BudgetError> {
        let mut modules = self.modules(layout, weights, norms, bounds)?;
        if modules.iter().all(|module| module.target <= 0.0) {
            for module in &mut modules {
                module.target = 1.0;
            }
        }
        let scale = scale_to_budget(&modules, self.allowed)?;
        for module in &mut modules {
            module.target = scale.rank(module.target);
        }
        Ok(Ranks::new(layout, repair(&modules, self.allowed)?)?)
    }

    /// A layout's modules as the repair and the scaling see them, with `targets` in their order.
    pub(super) fn modules(
        &self,
        layout: &Layout,
        targets: &[f64],
        norms: &[f64],
        bounds: Bounds,
    ) -> Result<Vec<RepairModule>, BudgetError> {
        let expected = layout.len();
        for found in [targets.len(), norms.len()] {
            if found != expected {
                return Err(BudgetError::Length { expected, found });
            }
        }
        let modules = layout.modules().iter().zip(targets).zip(norms);
        Ok(modules
            .map(|((module, &target), &norm)| RepairModule {
                cost: self.unit_cost(module),
                floor: bounds.floor.min(module.highest_rank(None)),
                cap: module.highest_rank(bounds.cap),
                target,
                norm,
            })
            .collect())
    }
}

impl From<WrongCount> for BudgetError {
    fn from(error: WrongCount) -> Self {
        Self::Length { expected: error.expected, found: error.found }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::vlm::spec::{ModelSpec, PRESETS};

    fn layout(name: &str) -> Arc<Layout> {
        ModelSpec::preset(name).unwrap().layout().unwrap()
    }

    fn ranks_near(
        budget: Budget,
        layout: &Layout,
        targets: &[f64],
        norms: &[f64],
        cap: Option<u32>,
    ) -> Result<Vec<u32>, BudgetError> {
        repair(&budget.modules(layout, targets, norms, cap.into())?, budget.allowed)
    }

    fn by_layer(ranks: &[u32]) -> Vec<f64> {
        ranks.iter().flat_map(|&rank| [f64::from(rank); 7]).collect()
    }

    #[test]
    fn the_budget_of_uniform_lora_is_what_uniform_lora_uses() {
        for (name, parameters, units) in
            [("mobilevlm-1.7b", 121_110_528, 24 * 7 * 128), ("mobilevlm-3b", 200_278_016, 32 * 7 * 128)]
        {
            let model = layout(name);
            let ranks = Ranks::uniform(&model, 128);
            for (counting, allowed) in [(Counting::Parameters, parameters), (Counting::RankUnits, units)] {
                let budget = Budget::uniform(&model, 128, counting);
                assert_eq!(budget.allowed, allowed);
                assert_eq!(budget.used(&ranks), allowed);
            }
        }
    }

    #[test]
    fn ranks_64_128_256_meet_the_budget_exactly_iff_n64_is_twice_n256() {
        type StageSizes = &'static [(usize, usize, usize)];
        let published: [(&str, StageSizes); 2] = [
            (
                "mobilevlm-1.7b",
                &[(2, 21, 1), (4, 18, 2), (6, 15, 3), (8, 12, 4), (10, 9, 5), (12, 6, 6), (14, 3, 7), (16, 0, 8)],
            ),
            (
                "mobilevlm-3b",
                &[
                    (2, 29, 1),
                    (4, 26, 2),
                    (6, 23, 3),
                    (8, 20, 4),
                    (10, 17, 5),
                    (12, 14, 6),
                    (14, 11, 7),
                    (16, 8, 8),
                    (18, 5, 9),
                    (20, 2, 10),
                ],
            ),
        ];
        for (name, expected) in published {
            let model = layout(name);
            let budget = Budget::uniform(&model, 128, Counting::Parameters);
            let layers = model.blocks().len();
            let mut exact = Vec::new();
            for low in 1..=layers {
                for high in 1..=layers - low {
                    let ranks: Vec<u32> = [vec![64; low], vec![128; layers - low - high], vec![256; high]].concat();
                    let targets = by_layer(&ranks);
                    let whole: Vec<u32> = targets.iter().map(|&t| t as u32).collect();
                    if budget.used(&Ranks::new(&model, whole.clone()).unwrap()) == budget.allowed {
                        exact.push((low, layers - low - high, high));
                        // …and the repair leaves them alone.
                        let norms = vec![0.0; targets.len()];
                        assert_eq!(ranks_near(budget, &model, &targets, &norms, None).unwrap(), whole);
                    }
                }
            }
            assert_eq!(exact, expected);
        }
    }

    #[test]
    fn equal_weights_give_uniform_lora_exactly() {
        for name in PRESETS {
            let model = layout(name);
            let n = model.len();
            for weight in [0.0, 0.3, 1.0, 1e-200] {
                let budget = Budget::uniform(&model, 8, Counting::Parameters);
                let ranks =
                    budget.ranks_in_proportion(&model, &vec![weight; n], &vec![0.0; n], Bounds::default()).unwrap();
                assert_eq!(ranks, Ranks::uniform(&model, 8), "{name} {weight}");
            }
        }
    }

    #[test]
    fn a_cap_holds_and_is_never_above_the_full_rank() {
        let model = layout("smollm2-135m");
        let n = model.len();
        let budget = Budget { counting: Counting::Parameters, allowed: u64::MAX };
        let ranks = |cap| ranks_near(budget, &model, &vec![1.0; n], &vec![0.0; n], cap).unwrap();
        assert_eq!(ranks(Some(32)), vec![32; n]);
        assert_eq!(&ranks(Some(300))[..7], [300, 192, 192, 300, 300, 300, 300]);
        assert_eq!(&ranks(None)[..7], [576, 192, 192, 576, 576, 576, 576]);
        let zero = ranks_near(budget, &model, &vec![1.0; n], &vec![0.0; n], Some(0));
        assert_eq!(zero, Err(BudgetError::NoRoom { module: 0 }));
    }

    #[test]
    fn the_least_possible_budget_is_rank_one_everywhere() {
        let model = layout("mobilevlm-1.7b");
        let n = model.len();
        let ranks = |allowed| {
            let budget = Budget { counting: Counting::Parameters, allowed };
            budget.ranks_in_proportion(&model, &vec![1.0; n], &vec![0.0; n], Bounds::default())
        };
        assert_eq!(ranks(946_175), Err(BudgetError::TooSmall { allowed: 946_175, least: 946_176 }));
        assert_eq!(ranks(946_176).unwrap(), Ranks::uniform(&model, 1));
    }

    #[test]
    fn a_value_per_module_is_needed() {
        let model = layout("tiny-mobilevlm");
        let budget = Budget::uniform(&model, 8, Counting::Parameters);
        let error = ranks_near(budget, &model, &[1.0; 41], &[1.0; 42], None).unwrap_err();
        assert_eq!(error, BudgetError::Length { expected: 42, found: 41 });
    }
}
