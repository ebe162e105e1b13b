//! What a search came to.

use anyhow::{Context as _, Result};
use hydra_shared::files::outside::best_of;
use hydra_shared::performance::LeaveOneOut;
use hydra_shared::search::{StopReason, Study, Trial};
use serde_json::Value;

use super::conversation::Conversation;

/// The trials of a search that is over.
#[derive(Debug)]
pub struct Searched {
    /// Every trial.
    pub study: Study,
    /// Why the search ended.
    pub reason: StopReason,
    /// How well the performance model predicts trials that it did not see, fitted on all of them; none with too few.
    pub leave_one_out: Option<LeaveOneOut>,
}

impl Searched {
    /// What a conversation came to.
    pub fn new(conversation: &Conversation, reason: StopReason) -> Self {
        let (study, config) = (conversation.study().clone(), conversation.config());
        let fitted = config.model.build().fit(&study.features(), &study.observations(), config.seed);
        let leave_one_out = fitted.ok().map(|fitted| fitted.leave_one_out().clone());
        Self { study, reason, leave_one_out }
    }

    /// The trial with the best mean score.
    ///
    /// # Errors
    /// A study in which every trial failed.
    pub fn best(&self) -> Result<&Trial> {
        best_of(&self.study)
    }

    /// The number of trials and the best one, for `--json`.
    ///
    /// # Errors
    /// A study in which every trial failed.
    pub fn summary(&self) -> Result<Value> {
        let best = self.best()?;
        let used = self.study.metadata.budget.used(&best.ranks);
        let loo = self.leave_one_out.as_ref().map(|loo| {
            serde_json::json!({
                "rmse": loo.objective.rmse,
                "baseline_rmse": loo.objective.baseline_rmse,
                "rank_correlation": loo.objective.rank_correlation,
            })
        });
        Ok(serde_json::json!({
            "trials": self.study.trials.len(),
            "stopped": serde_json::to_value(self.reason).context("stop reason")?,
            "best": {
                "trial": best.number,
                "mean": best.objective,
                "scores": best.scores,
                "origin": best.origin,
                "used": used,
            },
            "leave_one_out": loo,
        }))
    }
}
