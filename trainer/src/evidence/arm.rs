//! What is compared: what is trained, and how ranks are given to modules.

use std::sync::Arc;

use anyhow::Result;
use hydra_shared::expression::Regex;
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::{Baseline, Bounds, Budget, PlanConfig, ScheduleKind, plan};
use indexmap::IndexMap;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, ResultExt, failure};
use crate::model::recipe::Recipe;

/// One way to spend the budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// What is trained.
    #[serde(default)]
    pub train: Train,
    /// The ranks of LoRA.
    pub ranks: Option<RankRule>,
    /// The rule of other ranks, in proportion to which modules are scaled: the twin of a schedule that has its scales and not
    /// its ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_of: Option<RankRule>,
    /// Steps at the start of the profile's run whose norms its ranks follow from, in place of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_steps: Option<usize>,
    /// Choices of the plan that differ from the configuration's: keys of its table `plan`.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub plan: toml::Table,
    /// Learning rates that are tried for it, in place of the tuning's.
    pub rates: Option<Vec<f64>>,
    /// With `ranks.random`: how many arms there are, with consecutive seeds.
    pub count: Option<u64>,
}

/// What is trained besides the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Train {
    /// Adapters of the ranks given.
    #[default]
    Lora,
    /// The whole decoder.
    Decoder,
    /// Nothing else.
    Projector,
    /// Nothing at all: the base model.
    Nothing,
}

/// How ranks follow. All but `uniform` and `given` meet the budget of the configuration to less than one unit of rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankRule {
    /// The same rank everywhere, whatever the budget.
    Uniform(u32),
    /// A schedule of the plan or one of its comparison schedules, from the profile, by its name.
    Schedule(String),
    /// The same from a profile in which large and small norms are exchanged: norm → 1 / norm.
    Reversed(String),
    /// A share of the budget goes to the modules whose names match, the rest to all, each evenly.
    Concentrate {
        /// Regular expression, searched in the module's full name.
        modules: String,
        /// Share of the budget, from 0 to 1.
        share: f64,
    },
    /// Modules whose names match get this rank, the others the rest of the budget evenly.
    Hold {
        /// Regular expression, searched in the module's full name.
        modules: String,
        /// Their rank; 0 drops them.
        rank: u32,
    },
    /// Ranks in proportion to weights: that of the first expression that matches the module's name, 1 without one.
    Weights(IndexMap<String, f64>),
    /// Parameters (not ranks) in proportion to the norms of the profile.
    ParametersByNorm,
    /// Drawn with this seed: shares of the budget by kind of module and by third of the depth, log-uniform within a factor of 16.
    Random(u64),
    /// These ranks, in the layout's order.
    Given(Vec<u32>),
}

impl Arm {
    /// The arms that `count` makes of one.
    pub fn expanded(self) -> Vec<Self> {
        let (Some(count), Some(RankRule::Random(first))) = (self.count, &self.ranks) else { return vec![self] };
        let arm = |at: u64| Self {
            name: format!("{} {}", self.name, at + 1),
            ranks: Some(RankRule::Random(first + at)),
            count: None,
            ..self.clone()
        };
        (0..count).map(arm).collect()
    }

    /// Whether its updates are scaled otherwise than the experiment's.
    pub fn has_own_scale(&self) -> bool {
        self.scale_of.is_some() || self.plan.contains_key("scale")
    }

    /// Its rank, where that is uniform LoRA.
    pub fn uniform_rank(&self) -> Option<u32> {
        match (&self.ranks, self.train) {
            (Some(RankRule::Uniform(rank)), Train::Lora) if !self.has_own_scale() => Some(*rank),
            _ => None,
        }
    }

    /// Whether its ranks, or its scales, follow from a profile's norms. Schedules by depth take them for ties alone.
    pub fn follows_from_norms(&self) -> bool {
        let by_depth = [Baseline::Uniform, Baseline::Linear, Baseline::Exponential, Baseline::RandomFeasible];
        let is_by_depth = |name: &String| by_depth.iter().any(|baseline| baseline.name() == name);
        let named = self.ranks.iter().chain(&self.scale_of).filter_map(|rule| match rule {
            RankRule::Schedule(name) | RankRule::Reversed(name) => Some(name),
            _ => None,
        });
        self.needs_profile() && !named.clone().any(is_by_depth)
    }

    /// Whether its ranks, or its scales, need a profile.
    pub fn needs_profile(&self) -> bool {
        let mut rules = self.ranks.iter().chain(&self.scale_of);
        rules.any(|rule| matches!(rule, RankRule::Schedule(_) | RankRule::Reversed(_) | RankRule::ParametersByNorm))
    }

    /// Whether its ranks have to spend the whole budget and no more. EVA's rule holds rank units instead.
    fn meets_budget(&self) -> bool {
        match &self.ranks {
            Some(RankRule::Uniform(_) | RankRule::Given(_)) | None => false,
            Some(RankRule::Schedule(name) | RankRule::Reversed(name)) => {
                ScheduleKind::of_name(name).and_then(ScheduleKind::baseline) != Some(Baseline::EvaLike)
            }
            Some(_) => true,
        }
    }

    /// What a fine-tune of it trains. `profile` is asked only where [`Self::needs_profile`].
    ///
    /// # Errors
    /// Ranks that do not fit the model or its budget.
    pub fn recipe(&self, layout: &Arc<Layout>, config: &PlanConfig, profile: &GradientProfile) -> Result<Recipe> {
        let lora = match (self.train, &self.ranks) {
            (Train::Lora, Some(rule)) => rule,
            (Train::Lora, None) => {
                return Err(failure(Kind::Usage, format!("arm \"{}\" has no `ranks`", self.name)));
            }
            (Train::Decoder, _) => return Ok(Recipe::Full),
            (Train::Projector, _) => return Ok(Recipe::Projector),
            (Train::Nothing, _) => return Ok(Recipe::Base),
        };
        let ranks = lora.ranks(layout, config, profile).or_fail(Kind::Usage, || format!("arm \"{}\"", self.name))?;
        let budget = budget_of(layout, config);
        if self.meets_budget() {
            let left = budget.allowed.checked_sub(budget.used(&ranks));
            let cheapest = layout.modules().iter().map(|module| budget.unit_cost(module)).min().unwrap_or(0);
            if left.is_none_or(|left| left >= cheapest) {
                let message = format!(
                    "arm \"{}\" uses {} of a budget of {}: the comparison would not be fair",
                    self.name,
                    budget.used(&ranks),
                    budget.allowed
                );
                return Err(failure(Kind::Budget, message));
            }
        }
        let scale_of = self.scale_of.as_ref().map(|rule| rule.ranks(layout, config, profile)).transpose()?;
        Ok(Recipe::Lora { ranks, scale: config.scale, scale_of })
    }
}

impl RankRule {
    /// The ranks of a model's modules. `profile` is read by rules that follow from one alone.
    ///
    /// # Errors
    /// Ranks that do not fit the model or its budget.
    pub fn ranks(&self, layout: &Arc<Layout>, config: &PlanConfig, profile: &GradientProfile) -> Result<Ranks> {
        let budget = budget_of(layout, config);
        let even = vec![1.0; layout.len()];
        let in_proportion = |weights: &[f64], bounds: Bounds| {
            budget.ranks_in_proportion(layout, weights, &even, bounds).map_err(anyhow::Error::from)
        };
        match self {
            Self::Uniform(rank) => Ok(Ranks::uniform(layout, *rank)),
            Self::Given(ranks) => Ok(Ranks::new(layout, ranks.clone())?),
            Self::Schedule(name) => scheduled(name, layout, config, profile),
            Self::Reversed(name) => scheduled(name, layout, config, &reversed(profile)),
            Self::Concentrate { modules, share } => {
                let chosen = matching(layout, modules)?;
                let (inside, all) = (cost(layout, &chosen), cost(layout, &vec![true; layout.len()]));
                // Even rank everywhere for the rest, and on top of it the share of the chosen ones.
                let rest = (1.0 - share) / all;
                let extra = share / inside;
                let weights: Vec<f64> = chosen.iter().map(|chosen| if *chosen { rest + extra } else { rest }).collect();
                in_proportion(&weights, config.bounds())
            }
            Self::Hold { modules, rank } => {
                let chosen = matching(layout, modules)?;
                let held: u64 = layout
                    .modules()
                    .iter()
                    .zip(&chosen)
                    .map(|(module, chosen)| if *chosen { module.rank_unit_cost() * u64::from(*rank) } else { 0 })
                    .sum();
                let others = layout.only(|index, _| !chosen[index])?;
                let others = Arc::new(others);
                let left = Budget { allowed: budget.allowed.saturating_sub(held), ..budget };
                let even = vec![1.0; others.len()];
                let found = left.ranks_in_proportion(&others, &even, &even, config.bounds())?;
                let mut found = found.as_slice().iter();
                let ranks =
                    chosen.iter().map(|chosen| if *chosen { *rank } else { found.next().copied().unwrap_or(0) });
                Ok(Ranks::new(layout, ranks.collect())?)
            }
            Self::Weights(weights) => {
                let rules = weights.iter().map(|(pattern, weight)| Ok((matching(layout, pattern)?, *weight)));
                let rules = rules.collect::<Result<Vec<_>>>()?;
                let weight =
                    |index: usize| rules.iter().find(|(chosen, _)| chosen[index]).map_or(1.0, |(_, weight)| *weight);
                let weights: Vec<f64> = (0..layout.len()).map(weight).collect();
                // A weight of 0 drops its modules.
                let floor = if weights.contains(&0.0) { 0 } else { config.min_rank };
                in_proportion(&weights, Bounds { floor, ..config.bounds() })
            }
            Self::ParametersByNorm => {
                let norms = profile.norms();
                let cost = |index: usize| layout.modules()[index].rank_unit_cost() as f64;
                let weights: Vec<f64> = norms.iter().enumerate().map(|(index, norm)| norm / cost(index)).collect();
                in_proportion(&weights, config.bounds())
            }
            Self::Random(seed) => {
                let mut random = ChaCha8Rng::seed_from_u64(*seed);
                let kinds = layout.kinds().len().max(1);
                let shares: Vec<f64> = (0..3 * kinds).map(|_| libm::exp2(4.0 * random.random::<f64>())).collect();
                let weight = |module: usize| {
                    let third = (layout.depth(layout.block_of(module)) * 3.0).min(2.0) as usize;
                    shares[third * kinds + layout.kind_of(module).unwrap_or(0)]
                };
                let weights: Vec<f64> = (0..layout.len()).map(weight).collect();
                in_proportion(&weights, config.bounds())
            }
        }
    }
}

fn budget_of(layout: &Layout, config: &PlanConfig) -> Budget {
    match config.budget {
        Some(allowed) => Budget { counting: config.counting, allowed },
        None => Budget::uniform(layout, config.base_rank, config.counting),
    }
}

/// The schedule of that name from a profile.
fn scheduled(name: &str, layout: &Arc<Layout>, config: &PlanConfig, profile: &GradientProfile) -> Result<Ranks> {
    let Some(kind) = ScheduleKind::of_name(name) else {
        let names = ScheduleKind::ALL.map(ScheduleKind::name).join(", ");
        return Err(failure(Kind::Usage, format!("no schedule is called \"{name}\"; there are {names}")));
    };
    let config = PlanConfig { schedule_kind: Some(kind), ..config.clone() };
    let planned = plan(layout, profile, &config)?.of_kind(layout, profile, &config, config.seed())?;
    Ok(planned.ranks)
}

/// The profile with large and small norms exchanged.
fn reversed(profile: &GradientProfile) -> GradientProfile {
    let mut profile = profile.clone();
    for module in &mut profile.modules {
        module.mean = if module.mean > 0.0 { module.mean.recip() } else { 0.0 };
    }
    profile
}

/// Which modules an expression matches.
fn matching(layout: &Layout, expression: &str) -> Result<Vec<bool>> {
    let regex = Regex::anywhere(expression)
        .map_err(anyhow::Error::msg)
        .or_fail(Kind::Usage, || format!("modules = \"{expression}\""))?;
    let matched = layout.modules().iter().map(|module| regex.is_match(&module.name).map_err(anyhow::Error::msg));
    let matched = matched.collect::<Result<Vec<bool>>>()?;
    if !matched.contains(&true) {
        return Err(failure(
            Kind::Usage,
            format!("modules = \"{expression}\" matches no module of {}", layout.model()),
        ));
    }
    Ok(matched)
}

fn cost(layout: &Layout, chosen: &[bool]) -> f64 {
    let modules = layout.modules().iter().zip(chosen).filter(|(_, chosen)| **chosen);
    modules.map(|(module, _)| module.rank_unit_cost() as f64).sum()
}

#[cfg(test)]
mod tests {
    use hydra_shared::gradients::ModuleNorm;
    use hydra_shared::vlm::spec::ModelSpec;
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Arc<Layout> {
        ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap()
    }

    fn profile() -> GradientProfile {
        let norm = |module: usize| ModuleNorm { mean: 1.0 + module as f64, standard_error: 0.0, steps: 1 };
        GradientProfile { modules: (0..layout().len()).map(norm).collect(), ..GradientProfile::default() }
    }

    fn config() -> PlanConfig {
        PlanConfig { base_rank: 4, delta: 1, ..PlanConfig::default() }
    }

    fn arm(ranks: RankRule) -> Arm {
        Arm {
            name: "arm".to_owned(),
            train: Train::Lora,
            ranks: Some(ranks),
            scale_of: None,
            profile_steps: None,
            plan: toml::Table::new(),
            rates: None,
            count: None,
        }
    }

    /// The ranks of an arm, by layer and kind.
    fn ranks(rule: RankRule) -> Vec<Vec<u32>> {
        let recipe = arm(rule).recipe(&layout(), &config(), &profile()).unwrap();
        let Recipe::Lora { ranks, .. } = recipe else { panic!() };
        assert!(ranks.parameters() <= 26_112 && ranks.parameters() > 26_112 - 128);
        ranks.as_slice().chunks(7).map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn a_quarter_of_the_budget_in_one_group_leaves_three_quarters_for_all() {
        let of = |modules: &str| ranks(RankRule::Concentrate { modules: modules.to_owned(), share: 0.25 });
        for layer in of("q_proj") {
            // 3 of the rest, and 6,528 parameters in six modules of 128 a unit: 8.5 more.
            assert!((11..=12).contains(&layer[0]) && layer[1..].iter().all(|rank| *rank == 3), "{layer:?}");
        }
        let by_layer = of(r"layers\.2\.");
        assert!(by_layer[2].iter().all(|rank| *rank == 9), "{by_layer:?}");
        assert!(by_layer[3].iter().all(|rank| *rank == 3), "{by_layer:?}");
    }

    #[test]
    fn held_modules_keep_their_rank_and_the_others_share_what_is_left() {
        for layer in ranks(RankRule::Hold { modules: "[qk]_proj".to_owned(), rank: 0 }) {
            assert_eq!(layer[..2], [0, 0]);
            assert!(layer[2..].iter().all(|rank| (5..=6).contains(rank)), "{layer:?}");
        }
    }

    #[test]
    fn weights_are_those_of_the_first_expression_that_matches() {
        let weights = [("layers.0.self_attn".to_owned(), 3.0), ("self_attn".to_owned(), 0.0)];
        let ranks = ranks(RankRule::Weights(weights.into()));
        assert!(ranks[0][..4].iter().all(|rank| *rank > ranks[0][4]), "{ranks:?}");
        assert!(ranks[1..].iter().all(|layer| layer[..4] == [0; 4]), "{ranks:?}");
    }

    #[test]
    fn reversing_gives_the_least_to_the_largest_norms() {
        let (planned, reversed) =
            (ranks(RankRule::Schedule("hydra".to_owned())), ranks(RankRule::Reversed("hydra".to_owned())));
        let sum = |layer: &Vec<u32>| layer.iter().sum::<u32>();
        assert!(sum(&planned[5]) > sum(&planned[0]) && sum(&reversed[5]) < sum(&reversed[0]));
    }

    #[test]
    fn parameters_in_proportion_to_norms_give_equal_norms_equal_parameters() {
        let profile = GradientProfile {
            modules: vec![ModuleNorm { mean: 1.0, standard_error: 0.0, steps: 1 }; layout().len()],
            ..GradientProfile::default()
        };
        let recipe = arm(RankRule::ParametersByNorm).recipe(&layout(), &config(), &profile).unwrap();
        let Recipe::Lora { ranks, .. } = recipe else { panic!() };
        // A unit of rank costs 128 in attention and 192 in the MLP.
        assert!(ranks.as_slice()[0] > ranks.as_slice()[4], "{ranks:?}");
    }

    #[test]
    fn a_count_makes_random_arms_with_seeds_of_their_own() {
        let arms = Arm { count: Some(3), ..arm(RankRule::Random(7)) }.expanded();
        let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["arm 1", "arm 2", "arm 3"]);
        assert_eq!(arms[2].ranks, Some(RankRule::Random(9)));
    }

    proptest! {
        #[test]
        fn every_random_arm_meets_the_budget_to_less_than_a_unit(seed: u64) {
            let _ = ranks(RankRule::Random(seed));
        }
    }
}
