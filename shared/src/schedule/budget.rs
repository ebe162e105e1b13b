//! The budget: what it counts, how much of it there is.

use serde::{Deserialize, Serialize};

use super::coarse::scale_to_budget;
use super::repair::{RepairModule, repair};
use crate::model_spec::{ModelSpec, Projection};

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

/// How much a schedule may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// What is counted.
    pub counting: Counting,
    /// The most that a schedule may use, in what `counting` counts.
    pub allowed: u64,
}

/// Why no ranks meet a budget. Modules are counted in the order of [`ModelSpec::modules`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Less than rank 1 everywhere.
    #[error(
        "the budget of {allowed} is too small: rank 1 in every module takes {least}; allow at least {least} or raise \
         the base rank"
    )]
    TooSmall {
        /// What was allowed.
        allowed: u64,
        /// The least possible budget.
        least: u64,
    },
    /// A target, weight or norm that is NaN or infinite.
    #[error("module {module} has a target rank or a norm that is not a finite number")]
    NotFinite {
        /// Index of the module.
        module: usize,
    },
    /// A cost or cap of 0.
    #[error("module {module} cannot hold rank 1: its cap or its cost is 0; raise the rank cap to at least 1")]
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
    pub fn uniform(model: &ModelSpec, base_rank: u32, counting: Counting) -> Self {
        let allowed = match counting {
            Counting::Parameters => model.lora_parameters(base_rank),
            Counting::RankUnits => (model.module_count() as u64).saturating_mul(u64::from(base_rank)),
        };
        Self { counting, allowed }
    }

    /// What one unit of rank in `projection` costs.
    pub fn unit_cost(&self, model: &ModelSpec, projection: Projection) -> u64 {
        match self.counting {
            Counting::Parameters => model.rank_unit_cost(projection),
            Counting::RankUnits => 1,
        }
    }

    /// What `ranks`, one per module, use.
    pub fn used(&self, model: &ModelSpec, ranks: &[u32]) -> u64 {
        model.modules().zip(ranks).fold(0, |used, (module, &rank)| {
            used.saturating_add(self.unit_cost(model, module.projection).saturating_mul(u64::from(rank)))
        })
    }

    /// Ranks close to `targets` that meet this budget; see [`repair`]. `norms` decide ties. A rank is at most
    /// min(d_in, d_out), and at most `cap` where one is given.
    ///
    /// # Errors
    /// As [`repair`]; and where `targets` or `norms` are not one per module.
    pub fn ranks_near(
        &self,
        model: &ModelSpec,
        targets: &[f64],
        norms: &[f64],
        cap: Option<u32>,
    ) -> Result<Vec<u32>, BudgetError> {
        repair(&self.modules(model, targets, norms, cap)?, self.allowed)
    }

    /// Ranks in proportion to `weights` (one per module, ≥ 0) that meet this budget; see [`Self::ranks_near`]. Where
    /// every weight is 0, all count the same.
    ///
    /// # Errors
    /// As [`Self::ranks_near`].
    pub fn ranks_in_proportion(
        &self,
        model: &ModelSpec,
        weights: &[f64],
        norms: &[f64],
        cap: Option<u32>,
    ) -> Result<Vec<u32>, BudgetError> {
        let mut modules = self.modules(model, weights, norms, cap)?;
        if modules.iter().all(|module| module.target <= 0.0) {
            for module in &mut modules {
                module.target = 1.0;
            }
        }
        let scale = scale_to_budget(&modules, self.allowed)?;
        for module in &mut modules {
            module.target = scale.rank(module.target);
        }
        repair(&modules, self.allowed)
    }

    /// The model's modules as the repair and the scaling see them, with `targets` in their order.
    pub(super) fn modules(
        &self,
        model: &ModelSpec,
        targets: &[f64],
        norms: &[f64],
        cap: Option<u32>,
    ) -> Result<Vec<RepairModule>, BudgetError> {
        let expected = model.module_count();
        for found in [targets.len(), norms.len()] {
            if found != expected {
                return Err(BudgetError::Length { expected, found });
            }
        }
        let kinds = Projection::ALL.map(|projection| {
            let full = model.shape(projection).full_rank();
            (self.unit_cost(model, projection), cap.map_or(full, |cap| cap.min(full)))
        });
        let modules = targets.iter().zip(norms).zip(kinds.iter().cycle());
        Ok(modules.map(|((&target, &norm), &(cost, cap))| RepairModule { cost, cap, target, norm }).collect())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn by_layer(ranks: &[u32]) -> Vec<f64> {
        ranks.iter().flat_map(|&rank| [f64::from(rank); 7]).collect()
    }

    #[test]
    fn the_budget_of_uniform_lora_is_what_uniform_lora_uses() {
        for (name, parameters, units) in
            [("mobilevlm-1.7b", 121_110_528, 24 * 7 * 128), ("mobilevlm-3b", 200_278_016, 32 * 7 * 128)]
        {
            let model = ModelSpec::preset(name).unwrap();
            let ranks = vec![128; model.module_count()];
            for (counting, allowed) in [(Counting::Parameters, parameters), (Counting::RankUnits, units)] {
                let budget = Budget::uniform(&model, 128, counting);
                assert_eq!(budget.allowed, allowed);
                assert_eq!(budget.used(&model, &ranks), allowed);
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
            let model = ModelSpec::preset(name).unwrap();
            let budget = Budget::uniform(&model, 128, Counting::Parameters);
            let layers = model.decoder.layers;
            let mut exact = Vec::new();
            for low in 1..=layers {
                for high in 1..=layers - low {
                    let ranks: Vec<u32> = [vec![64; low], vec![128; layers - low - high], vec![256; high]].concat();
                    let targets = by_layer(&ranks);
                    let whole: Vec<u32> = targets.iter().map(|&t| t as u32).collect();
                    if budget.used(&model, &whole) == budget.allowed {
                        exact.push((low, layers - low - high, high));
                        // …and the repair leaves them alone.
                        let norms = vec![0.0; targets.len()];
                        assert_eq!(budget.ranks_near(&model, &targets, &norms, None).unwrap(), whole);
                    }
                }
            }
            assert_eq!(exact, expected);
        }
    }

    #[test]
    fn equal_weights_give_uniform_lora_exactly() {
        for name in crate::model_spec::PRESETS {
            let model = ModelSpec::preset(name).unwrap();
            let n = model.module_count();
            for weight in [0.0, 0.3, 1.0, 1e-200] {
                let budget = Budget::uniform(&model, 8, Counting::Parameters);
                let ranks = budget.ranks_in_proportion(&model, &vec![weight; n], &vec![0.0; n], None).unwrap();
                assert_eq!(ranks, vec![8; n], "{name} {weight}");
            }
        }
    }

    #[test]
    fn a_cap_holds_and_is_never_above_the_full_rank() {
        let model = ModelSpec::preset("smollm2-135m").unwrap();
        let n = model.module_count();
        let budget = Budget { counting: Counting::Parameters, allowed: u64::MAX };
        let ranks = |cap| budget.ranks_near(&model, &vec![1.0; n], &vec![0.0; n], cap).unwrap();
        assert_eq!(ranks(Some(32)), vec![32; n]);
        assert_eq!(&ranks(Some(300))[..7], [300, 192, 192, 300, 300, 300, 300]);
        assert_eq!(&ranks(None)[..7], [576, 192, 192, 576, 576, 576, 576]);
        let zero = budget.ranks_near(&model, &vec![1.0; n], &vec![0.0; n], Some(0));
        assert_eq!(zero, Err(BudgetError::NoRoom { module: 0 }));
    }

    #[test]
    fn the_least_possible_budget_is_rank_one_everywhere() {
        let model = ModelSpec::preset("mobilevlm-1.7b").unwrap();
        let n = model.module_count();
        let ranks = |allowed| {
            let budget = Budget { counting: Counting::Parameters, allowed };
            budget.ranks_in_proportion(&model, &vec![1.0; n], &vec![0.0; n], None)
        };
        assert_eq!(ranks(946_175), Err(BudgetError::TooSmall { allowed: 946_175, least: 946_176 }));
        assert_eq!(ranks(946_176).unwrap(), vec![1; n]);
    }

    #[test]
    fn a_value_per_module_is_needed() {
        let model = ModelSpec::preset("tiny-mobilevlm").unwrap();
        let budget = Budget::uniform(&model, 8, Counting::Parameters);
        let error = budget.ranks_near(&model, &[1.0; 41], &[1.0; 42], None).unwrap_err();
        assert_eq!(error, BudgetError::Length { expected: 42, found: 41 });
    }
}
