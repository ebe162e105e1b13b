//! From a session to its schedule, and the arithmetic behind every rank.

use std::sync::Arc;

use hydra_shared::gradients::{GradientProfile, LayerNorm};
use hydra_shared::layout::{Layout, Module, Ranks};
use hydra_shared::schedule::{
    Budget, BudgetError, Plan, PlanConfig, PlanError, Provenance, RankSchedule, RepairModule, ScheduleFileError, Sign,
    StageChoice, group_layers, plan, plan_stages, repair,
};
use hydra_shared::stages::{StageError, Stages};

use crate::messages::ingest::Profiled;
use crate::profile_text::rounded;
use crate::session::Session;

/// What follows from a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// HyDRA's plan; with a comparison schedule in its place it still tells the stages.
    pub plan: Plan,
    /// The schedule's ranks.
    pub ranks: Ranks,
    /// The budget.
    pub budget: Budget,
    /// What the ranks use of it.
    pub used: u64,
    /// Trainable parameters, whatever the budget counts.
    pub parameters: u64,
}

/// What the stages of layers depend on: K-means takes longer than all that follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    layout: Arc<Layout>,
    profile: GradientProfile,
    layer_norm: LayerNorm,
    stages: StageChoice,
}

impl Grouping {
    /// That of a profile and choices.
    pub fn new(layout: &Arc<Layout>, profile: &GradientProfile, plan: &PlanConfig) -> Self {
        let PlanConfig { layer_norm, ref stages, .. } = *plan;
        Self { layout: Arc::clone(layout), profile: profile.clone(), layer_norm, stages: stages.clone() }
    }

    /// That of a log which is to be shown next, if the choices stay as they are.
    pub fn ahead(made: &Profiled, plan: &PlanConfig) -> Self {
        // As the session will hold it.
        Self::new(&made.layout, &rounded(made.profile.clone()), plan)
    }

    /// The stages.
    ///
    /// # Errors
    /// As [`group_layers`].
    pub fn stages(&self) -> Result<Stages, StageError> {
        let plan = PlanConfig { layer_norm: self.layer_norm, stages: self.stages.clone(), ..PlanConfig::default() };
        group_layers(&self.layout, &self.profile, &plan)
    }
}

/// Why a session has no schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnalysisError {
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Ranks set by hand leave the others no room.
    #[error(
        "the ranks set by hand take {fixed} of the budget of {allowed}, and the lowest rank in every other module takes {least} \
         more; lower one of them or raise the budget"
    )]
    NoRoomForOthers {
        /// What the ranks set by hand take.
        fixed: u64,
        /// The budget.
        allowed: u64,
        /// What the lowest rank everywhere else takes.
        least: u64,
    },
    /// The budget repair.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// How one module came to its rank.
#[derive(Debug, Clone, PartialEq)]
pub struct CellArithmetic {
    /// The module.
    pub module: Module,
    /// Its position in the layout.
    pub position: usize,
    /// Its gradient norm.
    pub norm: f64,
    /// Standard error of the norm.
    pub standard_error: f64,
    /// The norm of its layer.
    pub layer_norm: f64,
    /// Mean norm of its layer's projections, which the sign compares with.
    pub layer_mean: f64,
    /// Stage of its layer, counted from 0.
    pub stage: usize,
    /// Stages there are.
    pub stages: usize,
    /// Rank of the stage, scaled to the budget.
    pub coarse: f64,
    /// Which way the fine step moves it.
    pub sign: Sign,
    /// Increment of the fine step.
    pub delta: u32,
    /// Coarse rank and fine step together.
    pub target: f64,
    /// Rank of the plan, after the budget repair.
    pub planned: u32,
    /// Rank of the schedule.
    pub rank: u32,
    /// Whether it was set by hand.
    pub by_hand: bool,
    /// Trainable parameters: rank × (d_in + d_out).
    pub parameters: u64,
}

impl Analysis {
    /// Computes a session's schedule.
    ///
    /// # Errors
    /// A profile that does not fit the model, impossible stages or ranks, a budget that is too small.
    pub fn new(session: &Session) -> Result<Self, AnalysisError> {
        let plan = plan(&session.layout, &session.profile, &session.plan)?;
        Self::of_plan(session, plan)
    }

    /// [`Self::new`] with the stages of the session's [`Grouping`], which the page keeps as long as that is the same.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_stages(session: &Session, stages: Result<Stages, StageError>) -> Result<Self, AnalysisError> {
        let stages = stages.map_err(PlanError::from)?;
        let plan = plan_stages(&session.layout, &session.profile, &session.plan, stages)?;
        Self::of_plan(session, plan)
    }

    fn of_plan(session: &Session, plan: Plan) -> Result<Self, AnalysisError> {
        let of_kind = plan.clone().of_kind(&session.layout, &session.profile, &session.plan, session.plan.seed())?;
        let (budget, mut ranks) = (of_kind.budget, of_kind.ranks);
        for (&module, &rank) in &session.by_hand {
            ranks = ranks.with(module, rank);
        }
        if session.rebalance && !session.by_hand.is_empty() {
            ranks = rebalanced(session, &ranks, budget)?;
        }
        Ok(Self { used: budget.used(&ranks), parameters: ranks.parameters(), plan, ranks, budget })
    }

    /// Whether the schedule uses more than the budget.
    pub fn is_over(&self) -> bool {
        self.used > self.budget.allowed
    }

    /// How a module came to its rank; `None` for one that the model does not have.
    pub fn arithmetic(&self, session: &Session, module: usize) -> Option<CellArithmetic> {
        let found = session.layout.modules().get(module)?;
        let block = session.layout.block_of(module);
        let norm = session.profile.modules.get(module)?;
        let layer = session.profile.modules.get(session.layout.blocks().get(block)?.modules.clone())?;
        let rank = self.ranks.at(module)?;
        Some(CellArithmetic {
            position: module,
            norm: norm.mean,
            standard_error: norm.standard_error,
            layer_norm: *self.plan.layer_norms.get(block)?,
            layer_mean: layer.iter().map(|norm| norm.mean).sum::<f64>() / layer.len() as f64,
            stage: self.stage_of_layers().get(block).copied()?,
            stages: self.plan.stages.len(),
            coarse: *self.plan.coarse.get(block)?,
            sign: *self.plan.signs.get(module)?,
            delta: session.plan.delta,
            target: *self.plan.fine.get(module)?,
            planned: self.plan.ranks.at(module)?,
            rank,
            by_hand: session.by_hand.contains_key(&module),
            parameters: found.rank_unit_cost() * u64::from(rank),
            module: found.clone(),
        })
    }

    /// The stage of each layer.
    pub fn stage_of_layers(&self) -> Vec<usize> {
        let mut by_layer = vec![0; self.plan.layer_norms.len()];
        for (index, stage) in self.plan.stages.iter().enumerate() {
            for &layer in &stage.layers {
                if let Some(slot) = by_layer.get_mut(layer) {
                    *slot = index;
                }
            }
        }
        by_layer
    }

    /// The schedule as its file has it. Ranks that use more than the budget raise what the file allows to what they use:
    /// a schedule's file always keeps its own budget.
    ///
    /// # Errors
    /// Ranks outside what the module's matrices can use.
    pub fn schedule(&self, session: &Session, provenance: Provenance) -> Result<RankSchedule, ScheduleFileError> {
        let (base, scale) = (session.plan.base_rank, session.plan.scale);
        RankSchedule::new(self.ranks.clone(), base, scale, self.budget.raised_to(&self.ranks), provenance)
    }
}

/// What one step more of a choice would do to the ranks, in a sentence; none where it changes nothing, or cannot be.
pub fn one_step_more(session: &Session, now: &Analysis, change: impl FnOnce(&mut Session)) -> Option<String> {
    let mut other = session.clone();
    change(&mut other);
    let then = Analysis::new(&other).ok()?;
    let pairs = || now.ranks.iter().zip(then.ranks.iter());
    let changed = pairs().filter(|((_, before), (_, after))| before != after).count();
    let ((module, before), (_, after)) = pairs().max_by_key(|((_, before), (_, after))| before.abs_diff(*after))?;
    (changed > 0).then(|| {
        let layer = module.layer.map(|layer| format!("layer {layer}'s ")).unwrap_or_default();
        format!(
            "One step more changes {changed} of {} ranks, most in {layer}{}: {before} becomes {after}.",
            now.ranks.as_slice().len(),
            module.kind.name()
        )
    })
}

/// Ranks set by hand stay; the others move as little as the budget asks.
fn rebalanced(session: &Session, ranks: &Ranks, budget: Budget) -> Result<Ranks, AnalysisError> {
    let mut fixed: u64 = 0;
    let mut others = Vec::new();
    let mut modules = Vec::new();
    for ((index, (module, rank)), norm) in ranks.iter().enumerate().zip(session.profile.norms()) {
        let cost = budget.unit_cost(module);
        if session.by_hand.contains_key(&index) {
            fixed = fixed.saturating_add(cost.saturating_mul(u64::from(rank)));
            continue;
        }
        let (floor, cap) =
            (session.plan.min_rank.min(module.highest_rank(None)), module.highest_rank(session.plan.cap));
        others.push(index);
        modules.push(RepairModule { cost, floor, cap, target: f64::from(rank), norm });
    }
    let least = modules.iter().map(|module| module.cost * u64::from(module.floor)).sum();
    let left = budget.allowed.saturating_sub(fixed);
    if fixed.saturating_add(least) > budget.allowed {
        return Err(AnalysisError::NoRoomForOthers { fixed, allowed: budget.allowed, least });
    }
    let moved = others.into_iter().zip(repair(&modules, left)?);
    Ok(moved.fold(ranks.clone(), |ranks, (index, rank)| ranks.with(index, rank)))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;
    use crate::samples::Sample;

    #[test]
    fn one_step_more_of_a_choice_is_told_before_it_is_made() {
        let session = Session::of_sample(Sample::SmolLm2);
        let now = Analysis::new(&session).unwrap();
        let text = one_step_more(&session, &now, |session| session.plan.delta += 1).unwrap();
        assert!(text.starts_with("One step more changes ") && text.contains(" of 210 ranks, most in layer "), "{text}");
        assert_eq!(one_step_more(&session, &now, |_| {}), None);
        assert_eq!(one_step_more(&session, &now, |session| session.plan.budget = Some(1)), None);
    }
}
