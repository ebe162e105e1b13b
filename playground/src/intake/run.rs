//! The session of a trainer's run.

use std::sync::Arc;

use hydra_shared::gradients::{Fit, GradientLog, ProfileConfig, ProfileError, Wish, fit, profile};
use hydra_shared::layout::Layout;
use hydra_shared::schedule::{Plan, PlanConfig, RankSchedule, plan};

use crate::documents::{layout_of_schedule, model_of_layout, model_of_log};
use crate::profile_text::rounded;
use crate::session::{Session, Source, unknown_profile};

/// What is known of a trainer's run. A run of which there is neither a log nor a schedule makes a session without a
/// profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What gets the ranks, where a person names the model.
    pub layout: Option<Arc<Layout>>,
    /// The gradient log and its file's name.
    pub log: Option<(String, GradientLog)>,
    /// The schedule.
    pub schedule: Option<RankSchedule>,
    /// How it made its profile.
    pub profiling: ProfileConfig,
    /// Its choices of the method.
    pub plan: PlanConfig,
}

/// Why a run makes no session.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing tells the model.
    #[error("its model is none of the presets")]
    UnknownModel,
    /// The log makes no profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl Session {
    /// The session of a run: its profile under its choices. Ranks that the plan does not give are shown as set by hand.
    ///
    /// # Errors
    /// A log of a model that is not known, or without a profile.
    pub fn of_run(run: Run) -> Result<Self, RunError> {
        let Run { layout: given, log, schedule, profiling, plan: choices } = run;
        let mut session = Self { profiling, plan: choices, ..Self::default() };
        match log {
            Some((file, log)) => {
                let of_schedule = || schedule.as_ref().map(|schedule| layout_of_schedule(schedule, &session.layout));
                // No model is shown yet, so none is preferred.
                let known = given.or_else(of_schedule).map(|layout| model_of_layout(&layout, None));
                let known = known.or_else(|| model_of_log(&log, None, &session.of_log));
                let Fit { layout, .. } = fit(&log, &known.ok_or(RunError::UnknownModel)?, |_| Wish::None)?;
                session.layout = layout;
                session.profile = rounded(profile(&log, &session.layout, &profiling)?);
                if let (None, Some(lora)) = (&schedule, log.meta.lora) {
                    session.plan.base_rank = lora.r.max(1);
                }
                session.source = Source::Log(vec![file]);
            }
            None => {
                let shown = given.unwrap_or_else(|| Arc::clone(&session.layout));
                if let Some(schedule) = &schedule {
                    session.layout = layout_of_schedule(schedule, &shown);
                }
                session.profile = unknown_profile(&session.layout);
                session.source = Source::Unknown;
            }
        }
        if let Some(schedule) = schedule {
            session.plan.base_rank = schedule.base_rank;
            session.plan.scale = schedule.scale;
            let of_kind =
                |plan: Plan| plan.of_kind(&session.layout, &session.profile, &session.plan, session.plan.seed());
            let planned = plan(&session.layout, &session.profile, &session.plan).and_then(of_kind).ok();
            if planned.is_none_or(|plan| plan.ranks != schedule.ranks) {
                session.plan.schedule_kind = None;
                session.by_hand = schedule.ranks.as_slice().iter().copied().enumerate().collect();
                session.plan.budget = Some(schedule.budget.allowed);
                session.plan.counting = schedule.budget.counting;
            }
        }
        Ok(session)
    }
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
