//! From a session to its schedule, and the arithmetic behind every rank.

use hydra_shared::model_spec::{ModuleId, Projection};
use hydra_shared::schedule::{
    Budget, BudgetError, Counting, Plan, PlanError, Provenance, RankSchedule, RepairModule, ScheduleFileError, Sign,
    plan, plan_stages, repair,
};

use hydra_shared::stages::{StageError, Stages};

use crate::session::Session;

/// What follows from a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// HyDRA's plan; with a comparison schedule in its place it still tells the stages.
    pub plan: Plan,
    /// The schedule: a rank per module.
    pub ranks: Vec<u32>,
    /// The budget.
    pub budget: Budget,
    /// What the ranks use of it.
    pub used: u64,
    /// Trainable parameters, whatever the budget counts.
    pub parameters: u64,
}

/// Why a session has no schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnalysisError {
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Ranks set by hand leave the others no room.
    #[error(
        "the ranks set by hand take {fixed} of the budget of {allowed}, and rank 1 in every other module takes {least} \
         more; lower one of them or raise the budget"
    )]
    NoRoomForOthers {
        /// What the ranks set by hand take.
        fixed: u64,
        /// The budget.
        allowed: u64,
        /// What rank 1 everywhere else takes.
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
    pub module: ModuleId,
    /// Its full name.
    pub name: String,
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
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
    /// Trainable parameters: rank × (d_in + d_out).
    pub parameters: u64,
}

impl Analysis {
    /// Computes a session's schedule.
    ///
    /// # Errors
    /// A profile that does not fit the model, impossible stages or ranks, a budget that is too small.
    pub fn new(session: &Session) -> Result<Self, AnalysisError> {
        let plan = plan(&session.model, &session.profile, &session.plan)?;
        Self::of_plan(session, plan)
    }

    /// [`Self::new`] with the stages that [`group_layers`](hydra_shared::schedule::group_layers) gave for the session's
    /// profile and choices, or could not give: the page keeps them as long as nothing changes that they depend on.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_stages(session: &Session, stages: Result<Stages, StageError>) -> Result<Self, AnalysisError> {
        let stages = stages.map_err(PlanError::from)?;
        let plan = plan_stages(&session.model, &session.profile, &session.plan, stages)?;
        Self::of_plan(session, plan)
    }

    fn of_plan(session: &Session, plan: Plan) -> Result<Self, AnalysisError> {
        let (budget, mut ranks) = match session.preset {
            None => (plan.budget, plan.ranks.clone()),
            Some(preset) => {
                let (base, cap, seed) = (session.plan.base_rank, session.plan.cap, seed(session));
                let ranks = preset.ranks(&session.model, &session.profile, base, cap, seed)?;
                (preset.budget(&session.model, base), ranks)
            }
        };
        for (&module, &rank) in &session.by_hand {
            if let Some(slot) = ranks.get_mut(module) {
                *slot = rank;
            }
        }
        if session.rebalance && !session.by_hand.is_empty() {
            ranks = rebalanced(session, &ranks, budget)?;
        }
        let parameters = Budget { counting: Counting::Parameters, ..budget }.used(&session.model, &ranks);
        Ok(Self { used: budget.used(&session.model, &ranks), parameters, plan, ranks, budget })
    }

    /// Whether the schedule uses more than the budget.
    pub fn is_over(&self) -> bool {
        self.used > self.budget.allowed
    }

    /// How a module came to its rank; `None` for one that the model does not have.
    pub fn arithmetic(&self, session: &Session, module: usize) -> Option<CellArithmetic> {
        let count = Projection::ALL.len();
        let id = ModuleId { layer: module / count, projection: *Projection::ALL.get(module % count)? };
        let norm = session.profile.modules.get(module)?;
        let layer = session.profile.modules.get(id.layer * count..(id.layer + 1) * count)?;
        let shape = session.model.shape(id.projection);
        let rank = *self.ranks.get(module)?;
        Some(CellArithmetic {
            name: session.model.module_name(id),
            norm: norm.mean,
            standard_error: norm.standard_error,
            layer_norm: *self.plan.layer_norms.get(id.layer)?,
            layer_mean: layer.iter().map(|norm| norm.mean).sum::<f64>() / count as f64,
            stage: self.stage_of_layers().get(id.layer).copied()?,
            stages: self.plan.stages.len(),
            coarse: *self.plan.coarse.get(id.layer)?,
            sign: *self.plan.signs.get(module)?,
            delta: session.plan.delta,
            target: *self.plan.fine.get(module)?,
            planned: *self.plan.ranks.get(module)?,
            rank,
            by_hand: session.by_hand.contains_key(&module),
            d_in: shape.d_in,
            d_out: shape.d_out,
            parameters: shape.rank_unit_cost() * u64::from(rank),
            module: id,
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
        let budget = Budget { allowed: self.budget.allowed.max(self.used), ..self.budget };
        let (base, scale) = (session.plan.base_rank, session.plan.scale);
        RankSchedule::new(&session.model, &self.ranks, base, scale, budget, provenance)
    }
}

/// The seed that K-means and the random comparison schedule use.
pub fn seed(session: &Session) -> u64 {
    match &session.plan.stages {
        hydra_shared::schedule::StageChoice::Clustered(stages) => stages.seed,
        hydra_shared::schedule::StageChoice::ByHand(_) => 0,
    }
}

/// Ranks set by hand stay; the others move as little as the budget asks.
fn rebalanced(session: &Session, ranks: &[u32], budget: Budget) -> Result<Vec<u32>, AnalysisError> {
    let mut ranks = ranks.to_vec();
    let mut fixed: u64 = 0;
    let mut others = Vec::new();
    let mut modules = Vec::new();
    for (index, module) in session.model.modules().enumerate() {
        let Some(&rank) = ranks.get(index) else { continue };
        let cost = budget.unit_cost(&session.model, module.projection);
        if session.by_hand.contains_key(&index) {
            fixed = fixed.saturating_add(cost.saturating_mul(u64::from(rank)));
            continue;
        }
        let full = session.model.shape(module.projection).full_rank();
        let cap = session.plan.cap.map_or(full, |cap| cap.min(full));
        others.push(index);
        modules.push(RepairModule { cost, cap, target: f64::from(rank), norm: session.profile.norm(module) });
    }
    let least = modules.iter().map(|module| module.cost).sum();
    let left = budget.allowed.saturating_sub(fixed);
    if fixed.saturating_add(least) > budget.allowed {
        return Err(AnalysisError::NoRoomForOthers { fixed, allowed: budget.allowed, least });
    }
    for (index, rank) in others.into_iter().zip(repair(&modules, left)?) {
        if let Some(slot) = ranks.get_mut(index) {
            *slot = rank;
        }
    }
    Ok(ranks)
}
