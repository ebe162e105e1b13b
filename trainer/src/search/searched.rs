//! What a search came to.

use anyhow::{Context as _, Result};
use hydra_playground::text::significant;
use hydra_shared::files::outside::{best_of, picked_of};
use hydra_shared::performance::LeaveOneOut;
use hydra_shared::search::{Basis, LastRound, Pick, StopReason, Study, Trial};
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
    /// The schedule to use; none where no trial is complete.
    pub pick: Option<Pick>,
}

impl Searched {
    /// What a conversation came to.
    pub fn new(conversation: &Conversation, reason: StopReason) -> Self {
        let (study, config) = (conversation.study().clone(), conversation.config());
        let fitted = config.model.build().fit(&study.features(), &study.observations(), config.seed);
        let leave_one_out = fitted.ok().map(|fitted| fitted.leave_one_out().clone());
        Self { study, reason, leave_one_out, pick: conversation.pick() }
    }

    /// The trial whose schedule is recommended.
    ///
    /// # Errors
    /// A study in which every trial failed.
    pub fn picked(&self) -> Result<&Trial> {
        picked_of(&self.study, self.pick.as_ref())
    }

    /// The number of trials, the one with the best score and the recommended one, for `--json`.
    ///
    /// # Errors
    /// A study in which every trial failed.
    pub fn summary(&self) -> Result<Value> {
        let (best, picked) = (best_of(&self.study)?, self.picked()?);
        let about = |trial: &Trial| {
            serde_json::json!({
                "trial": trial.number,
                "mean": trial.objective,
                "scores": trial.scores,
                "origin": trial.origin,
                "used": self.study.metadata.budget.used(&trial.ranks),
            })
        };
        let mut pick = about(picked);
        pick["reason"] = self.pick.as_ref().map(reason_of).into();
        pick["basis"] = serde_json::to_value(self.pick.map(|pick| pick.basis)).context("basis")?;
        pick["last_round"] = serde_json::to_value(self.pick.and_then(|pick| pick.last_round)).context("last round")?;
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
            "best": about(best),
            "pick": pick,
            "leave_one_out": loo,
        }))
    }
}

/// What a recommendation rests on, in words that follow the trial's number.
pub fn reason_of(pick: &Pick) -> String {
    match (pick.basis, &pick.last_round) {
        (Basis::Shown, Some(round)) => format!("better than trial {} {}", round.safe, on_fresh_seeds(round)),
        (Basis::NotShown, Some(round)) => format!(
            "which needs no search: trial {}, the best that was found, was not shown to be better, {}",
            round.found,
            on_fresh_seeds(round)
        ),
        _ => "the largest posterior mean; its score is of one seed, and not compared with uniform LoRA's on others \
              (search.replicates)"
            .to_owned(),
    }
}

fn on_fresh_seeds(round: &LastRound) -> String {
    let seeds = round.seeds;
    let (Some(low), Some(high), Some(probability)) = (round.low, round.high, round.probability) else {
        return "since one of the two failed with fresh seeds".to_owned();
    };
    let difference = [round.difference, low, high].map(significant);
    let [by, low, high] = difference;
    format!("by {by} [{low}, {high}] on {seeds} fresh seeds (probability {:.0} %)", 100.0 * probability)
}
