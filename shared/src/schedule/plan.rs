//! The whole method: profile → stages → coarse ranks → fine ranks → budget repair.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::coarse::scale_to_budget;
use super::{
    Bounds, Budget, BudgetError, Counting, RanksError, ScalePolicy, ScheduleKind, Sign, Signs, StageRanks, layer_signs,
    repair,
};
use crate::gradients::{GradientProfile, LayerNorm};
use crate::layout::{Layout, Projection, Ranks};
use crate::stages::{StageConfig, StageError, Stages, cluster_layers};

/// Where the stages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageChoice {
    /// Clustered by norm.
    Clustered(StageConfig),
    /// Layers of each stage, the one with the lowest rank first.
    ByHand(Vec<Vec<usize>>),
}

impl Default for StageChoice {
    fn default() -> Self {
        Self::Clustered(StageConfig::default())
    }
}

/// Every choice of the method. The defaults are design choices where the paper is silent. [`super::choices`] says how files
/// have them.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanConfig {
    /// Rank of the uniform LoRA whose parameters are the budget: r₀. 128 in the paper.
    pub base_rank: u32,
    /// The stages.
    pub stages: StageChoice,
    /// Their ranks.
    pub stage_ranks: StageRanks,
    /// Increment of the fine step, Δd; 0 leaves the coarse ranks.
    pub delta: u32,
    /// Signs of the fine step for every layer; without them each layer's norms decide.
    pub signs: Option<Signs>,
    /// How a layer's norm follows from its projections'.
    pub layer_norm: LayerNorm,
    /// The most that the schedule may use, in what `counting` counts; without it what uniform LoRA at `base_rank` uses.
    pub budget: Option<u64>,
    /// What the budget counts.
    pub counting: Counting,
    /// How a module's output is scaled. Ranks do not depend on it.
    pub scale: ScalePolicy,
    /// Largest rank; never above a module's min(d_in, d_out).
    pub cap: Option<u32>,
    /// Lowest rank; with 0 the plan may drop modules.
    pub min_rank: u32,
    /// The schedule that [`Plan::of_kind`] makes; without it HyDRA's, or what a command makes without a plan.
    pub schedule_kind: Option<ScheduleKind>,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            base_rank: 128,
            stages: StageChoice::default(),
            stage_ranks: StageRanks::default(),
            delta: 2,
            signs: None,
            layer_norm: LayerNorm::default(),
            budget: None,
            counting: Counting::default(),
            scale: ScalePolicy::default(),
            cap: None,
            min_rank: 1,
            schedule_kind: None,
        }
    }
}

impl PlanConfig {
    /// The same choices without the fine step.
    #[must_use]
    pub fn coarse_only(&self) -> Self {
        Self { delta: 0, ..self.clone() }
    }

    /// Between which ranks the schedule has to stay.
    pub fn bounds(&self) -> Bounds {
        Bounds { floor: self.min_rank, cap: self.cap }
    }

    /// The seed of K-means++; 0 with stages by hand.
    pub fn seed(&self) -> u64 {
        match &self.stages {
            StageChoice::Clustered(stages) => stages.seed,
            StageChoice::ByHand(_) => 0,
        }
    }
}

/// A stage with its rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// Its layers, in ascending order.
    pub layers: Vec<usize>,
    /// Mean norm of its layers.
    pub norm: f64,
    /// Coarse rank after scaling to the budget, before rounding.
    pub target: f64,
    /// Coarse rank, rounded to the nearest whole number and brought between the lowest rank and the highest cap of any module; never
    /// lower than that of an earlier stage.
    pub rank: u32,
}

/// A schedule with everything that led to it. Values by module are in the layout's order, values by layer in that of its
/// blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Norm of each layer.
    pub layer_norms: Vec<f64>,
    /// How many stages were asked for; `stages` may hold fewer, see [`Stages::requested`].
    pub requested_stages: usize,
    /// The stages with their coarse ranks.
    pub stages: Vec<PlannedStage>,
    /// Coarse rank of each layer: its stage's `target`.
    pub coarse: Vec<f64>,
    /// Sign of the fine step for each module.
    pub signs: Vec<Sign>,
    /// Target of each module after the fine step, coarse ± Δd. May be below 1 or above the cap: the repair, which starts
    /// from the target rounded down, brings it inside.
    pub fine: Vec<f64>,
    /// Final rank of each module.
    pub ranks: Ranks,
    /// The budget.
    pub budget: Budget,
    /// What `ranks` use of it.
    pub used: u64,
    /// Trainable parameters of `ranks`, whatever the budget counts.
    pub trainable_parameters: u64,
}

/// Why a plan could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The profile is another model's.
    #[error(
        "the gradient profile holds {found} modules, but {model} has {expected} ({size}); give the configuration of the \
         model that was trained"
    )]
    Profile {
        /// Name of the model.
        model: String,
        /// Its size in words.
        size: String,
        /// Its modules.
        expected: usize,
        /// Modules of the profile.
        found: usize,
    },
    /// A norm that is no norm.
    #[error("the gradient norm of {module} is {norm}, not a finite number ≥ 0; remove the broken steps from the log")]
    Norm {
        /// Full module name.
        module: String,
        /// Its value.
        norm: f64,
    },
    /// Base rank 0.
    #[error("the base rank is 0; it must be at least 1")]
    BaseRank,
    /// The stages.
    #[error(transparent)]
    Stages(#[from] StageError),
    /// Their ranks.
    #[error("{error}{}", .shortfall.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Ranks {
        /// What is wrong with them.
        error: RanksError,
        /// Why there are fewer stages than asked for, where that is so.
        shortfall: Option<String>,
    },
    /// The budget.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// Plans a schedule for the modules of `layout` from their gradient norms.
///
/// The ranks of a later stage are never lower than those of an earlier one before the fine step, and without it neither
/// are the final ranks, projection by projection. Permuting the layers of the profile permutes the ranks, as far as no
/// two layers have equal norms.
///
/// # Errors
/// A profile that is not this model's, impossible stages or stage ranks, a budget below rank 1 in every module.
pub fn plan(layout: &Arc<Layout>, profile: &GradientProfile, config: &PlanConfig) -> Result<Plan, PlanError> {
    check(layout, profile, config)?;
    plan_stages(layout, profile, config, group_layers(layout, profile, config)?)
}

/// The stages of a plan alone: its costly part, which only the layers' norms and the choice of stages decide.
///
/// # Errors
/// Norms that are none, impossible stages.
pub fn group_layers(layout: &Layout, profile: &GradientProfile, config: &PlanConfig) -> Result<Stages, StageError> {
    let norms = profile.layer_norms(layout, config.layer_norm);
    match &config.stages {
        StageChoice::Clustered(stages) => cluster_layers(&norms, stages),
        StageChoice::ByHand(layers) => Stages::by_hand(&positions(layout, layers), &norms),
    }
}

/// Positions of the blocks of layers that were given by number. Where the blocks are not the layers of one stack, the numbers
/// are positions already.
fn positions(layout: &Layout, stages: &[Vec<usize>]) -> Vec<Vec<usize>> {
    if layout.layers_path().is_none() || layout.is_plain_stack() {
        return stages.to_vec();
    }
    // One that there is not stays none.
    let none = layout.blocks().len();
    let position = |layer: &usize| {
        layout.blocks().iter().position(|block| block.layer == Some(*layer)).unwrap_or(none.max(*layer))
    };
    stages.iter().map(|layers| layers.iter().map(position).collect()).collect()
}

/// [`plan()`] with stages that [`group_layers`] gave for the same profile and configuration.
///
/// # Errors
/// As [`plan()`].
pub fn plan_stages(
    layout: &Arc<Layout>,
    profile: &GradientProfile,
    config: &PlanConfig,
    stages: Stages,
) -> Result<Plan, PlanError> {
    check(layout, profile, config)?;
    let norms = profile.norms();
    let layer_norms = profile.layer_norms(layout, config.layer_norm);
    let weights = config
        .stage_ranks
        .weights(stages.len(), config.min_rank == 0)
        .map_err(|error| PlanError::Ranks { error, shortfall: stages.shortfall() })?;
    let budget = match config.budget {
        Some(allowed) => Budget { counting: config.counting, allowed },
        None => Budget::uniform(layout, config.base_rank, config.counting),
    };

    // Coarse: every module of a layer wants its stage's rank.
    let stage_of_layer = stages.by_layer();
    let layer_weights: Vec<f64> =
        stage_of_layer.iter().map(|&stage| weights.get(stage).copied().unwrap_or(0.0)).collect();
    let mut modules = budget.modules(layout, &per_module(layout, &layer_weights), &norms, config.bounds())?;
    for module in modules.iter_mut().filter(|module| module.floor == 0 && module.target <= 0.0) {
        // Its stage is given rank 0 by hand.
        module.cap = 0;
    }
    let scale = scale_to_budget(&modules, budget.allowed)?;
    let coarse: Vec<f64> = layer_weights.iter().map(|&weight| scale.rank(weight)).collect();
    let highest = modules.iter().map(|module| module.cap).max().unwrap_or(1).max(1);
    let stages_planned = stages.stages.into_iter().zip(&weights).map(|(stage, &weight)| {
        let target = scale.rank(weight);
        // The conversion saturates.
        let rank = ((target + 0.5).floor() as u32).max(config.min_rank).min(highest);
        PlannedStage { layers: stage.layers, norm: stage.norm, target, rank }
    });

    // Fine: ±Δd within each layer.
    let signs = signs(layout, &norms, config.signs);
    let delta = f64::from(config.delta);
    let fine: Vec<f64> =
        per_module(layout, &coarse).into_iter().zip(&signs).map(|(rank, sign)| rank + sign.factor() * delta).collect();

    for (module, &target) in modules.iter_mut().zip(&fine) {
        module.target = target;
    }
    let ranks = Ranks::new(layout, repair(&modules, budget.allowed)?).map_err(BudgetError::from)?;
    Ok(Plan {
        layer_norms,
        requested_stages: stages.requested,
        stages: stages_planned.collect(),
        coarse,
        signs,
        fine,
        used: budget.used(&ranks),
        trainable_parameters: ranks.parameters(),
        ranks,
        budget,
    })
}

impl Plan {
    /// The same plan with the ranks and the budget of the schedule that `config` asks for. Stages, coarse and fine ranks
    /// stay HyDRA's. `seed` is that of a random schedule.
    ///
    /// # Errors
    /// As [`plan()`].
    pub fn of_kind(
        self,
        layout: &Arc<Layout>,
        profile: &GradientProfile,
        config: &PlanConfig,
        seed: u64,
    ) -> Result<Self, PlanError> {
        let (ranks, budget) = match config.schedule_kind {
            None | Some(ScheduleKind::Hydra) => return Ok(self),
            Some(ScheduleKind::HydraCoarse) => {
                let coarse = plan(layout, profile, &config.coarse_only())?;
                (coarse.ranks, coarse.budget)
            }
            Some(ScheduleKind::Baseline(baseline)) => (
                baseline.ranks(layout, profile, config.base_rank, config.bounds(), seed)?,
                baseline.budget(layout, config.base_rank),
            ),
        };
        let (used, trainable_parameters) = (budget.used(&ranks), ranks.parameters());
        Ok(Self { ranks, budget, used, trainable_parameters, ..self })
    }
}

/// Each layer's value for each of its modules.
fn per_module(layout: &Layout, layers: &[f64]) -> Vec<f64> {
    layout.blocks().iter().zip(layers).flat_map(|(block, &value)| block.modules.clone().map(move |_| value)).collect()
}

/// The fine step's sign of every module: as given by projection, or as each layer's own norms say.
fn signs(layout: &Layout, norms: &[f64], given: Option<Signs>) -> Vec<Sign> {
    let Some(given) = given else {
        let of_block = |modules: &std::ops::Range<usize>| layer_signs(norms.get(modules.clone()).unwrap_or_default());
        return layout.blocks().iter().flat_map(|block| of_block(&block.modules)).collect();
    };
    let sign = |projection: Projection| given.get(projection.index()).copied();
    layout.modules().iter().map(|module| module.kind.projection().and_then(sign).unwrap_or(Sign::Keep)).collect()
}

fn check(layout: &Layout, profile: &GradientProfile, config: &PlanConfig) -> Result<(), PlanError> {
    if config.base_rank == 0 {
        return Err(PlanError::BaseRank);
    }
    if !profile.fits(layout) {
        return Err(PlanError::Profile {
            model: layout.model().to_owned(),
            size: layout.size(),
            expected: layout.len(),
            found: profile.modules.len(),
        });
    }
    for (module, norm) in layout.modules().iter().zip(profile.norms()) {
        if !norm.is_finite() || norm < 0.0 {
            return Err(PlanError::Norm { module: module.name.clone(), norm });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
