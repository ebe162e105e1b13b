//! How to search.

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use crate::performance::ModelKind;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Trials with schedules that no model chose; random feasible ones fill up what the caller gives.
    pub starts: usize,
    /// Trials of different schedules in all, failed ones included.
    pub trials: usize,
    /// Proposals in a row that do not improve the best mean score before the search ends.
    pub patience: usize,
    /// Smallest improvement of the mean score that counts as one.
    pub min_gain: f64,
    /// Candidates that the performance model chooses from, and half as many again around the best of them.
    pub candidates: usize,
    /// Which performance model.
    pub model: ModelKind,
    /// How it chooses, or the name of a proposer that asks no model, as `random`.
    pub acquisition: Rule,
    /// Fresh seeds of the last two schedules when the trials are over, of which one is recommended (see [`Pick`](super::Pick)): at
    /// least [`FEWEST_REPLICATES`](super::FEWEST_REPLICATES), or 0 for none.
    pub replicates: usize,
    /// Seed of the proposals, and of every trial's fine-tune: with one seed the trials differ by their schedules alone.
    pub seed: u64,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            starts: 8,
            trials: 16,
            patience: 4,
            min_gain: 0.0,
            candidates: 256,
            replicates: 0,
            model: ModelKind::default(),
            acquisition: Rule::default(),
            seed: 0,
        }
    }
}

impl SearchConfig {
    /// The performance model that proposes; `None` where a proposer of its own does.
    pub fn proposing_model(&self) -> Option<ModelKind> {
        match self.acquisition {
            Rule::Model(_) => Some(self.model),
            Rule::Proposer(_) => None,
        }
    }

    /// Name of what proposes: a performance model's, or another proposer's.
    pub fn proposer(&self) -> &'static str {
        match self.acquisition {
            Rule::Model(_) => self.model.name(),
            Rule::Proposer(proposer) => proposer.name,
        }
    }

    /// What proposes, for people.
    pub fn proposer_title(&self) -> &'static str {
        match self.acquisition {
            Rule::Model(_) => self.model.title(),
            Rule::Proposer(proposer) => proposer.title,
        }
    }
}
