//! Trials and the study that holds them.

use std::collections::BTreeSet;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::gradients::GradientProfile;
use crate::layout::{Layout, Ranks, WrongCount, in_arc};
use crate::performance::{Estimate, HeldOutError};
#[cfg(feature = "performance")]
use crate::performance::{FeatureSpace, Observations};
use crate::schedule::Budget;

/// What a study is about: fixed when it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyMetadata {
    /// Name; unique within a journal.
    pub name: String,
    /// What gets the ranks.
    #[serde(with = "in_arc")]
    pub layout: Arc<Layout>,
    /// What a schedule may use.
    pub budget: Budget,
    /// Largest rank that a module may get, where the search is to be held below min(d_in, d_out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_cap: Option<u32>,
    /// Rank of the uniform schedule that defines the budget.
    pub base_rank: u32,
    /// Names of the scores that every trial reports, in the order of reports; empty until the first trial names them.
    pub benchmarks: Vec<String>,
    /// The gradient profile that the planned schedule came from, where there is one.
    pub profile: Option<GradientProfile>,
}

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialState {
    /// Begun, not yet told. A study that is reopened runs it again.
    Running,
    /// Fine-tuned and scored.
    Complete,
    /// Ended without scores, e.g. because its loss diverged.
    Failed,
}

/// Why a schedule was tried.
// Read by way of `OriginText`: serde's own reader of such an enum takes 14 kB in each part of the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", try_from = "OriginText")]
pub enum Origin {
    /// One of the schedules that the search starts with.
    Start {
        /// Its name, e.g. `uniform`.
        name: String,
    },
    /// Drawn at random from the feasible schedules.
    Random {
        /// Why no performance model was asked; absent where random proposals were asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Chosen by a performance model.
    Proposed {
        /// The model, e.g. `transformer`.
        model: String,
        /// The rule by which it chose, e.g. `predicted-mean`.
        acquisition: String,
        /// Predicted mean score.
        predicted: Estimate,
        /// Predicted score by benchmark.
        predicted_scores: IndexMap<String, Estimate>,
        /// Leave-one-out error of the mean score at that time: how far the model could be trusted.
        held_out: HeldOutError,
        /// Complete trials that the model was fitted on.
        fitted_on: usize,
    },
    /// Chosen by a proposer that predicts no score.
    Chosen {
        /// The proposer's name.
        proposer: String,
    },
    /// The schedule of another trial once more, with a fresh seed: to tell its worth from its luck.
    Replicate {
        /// Number of that trial.
        of: usize,
    },
    /// Put into the study by another program.
    Foreign,
}

/// The written form of an [`Origin`]: what any kind has.
#[derive(Deserialize)]
struct OriginText {
    kind: OriginKind,
    name: Option<String>,
    reason: Option<String>,
    model: Option<String>,
    acquisition: Option<String>,
    predicted: Option<Estimate>,
    predicted_scores: Option<IndexMap<String, Estimate>>,
    held_out: Option<HeldOutError>,
    fitted_on: Option<usize>,
    proposer: Option<String>,
    of: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OriginKind {
    Start,
    Random,
    Proposed,
    Chosen,
    Replicate,
    Foreign,
}

/// A key that an origin of this kind needs.
#[derive(Debug, thiserror::Error)]
#[error("missing field `{0}`")]
struct MissingKey(&'static str);

impl TryFrom<OriginText> for Origin {
    type Error = MissingKey;

    fn try_from(text: OriginText) -> Result<Self, MissingKey> {
        Ok(match text.kind {
            OriginKind::Start => Self::Start { name: text.name.ok_or(MissingKey("name"))? },
            OriginKind::Random => Self::Random { reason: text.reason },
            OriginKind::Proposed => Self::Proposed {
                model: text.model.ok_or(MissingKey("model"))?,
                acquisition: text.acquisition.ok_or(MissingKey("acquisition"))?,
                predicted: text.predicted.ok_or(MissingKey("predicted"))?,
                predicted_scores: text.predicted_scores.ok_or(MissingKey("predicted_scores"))?,
                held_out: text.held_out.ok_or(MissingKey("held_out"))?,
                fitted_on: text.fitted_on.ok_or(MissingKey("fitted_on"))?,
            },
            OriginKind::Chosen => Self::Chosen { proposer: text.proposer.ok_or(MissingKey("proposer"))? },
            OriginKind::Replicate => Self::Replicate { of: text.of.ok_or(MissingKey("of"))? },
            OriginKind::Foreign => Self::Foreign,
        })
    }
}

impl Origin {
    /// Whether the trial belongs to the search's start, so that it does not count as a proposal that brought no gain.
    pub fn is_start(&self) -> bool {
        matches!(self, Self::Start { .. })
    }

    /// Whether it is a schedule that was tried before, so that it is no candidate of its own.
    pub fn is_replicate(&self) -> bool {
        matches!(self, Self::Replicate { .. })
    }

    /// Whether the search chose it after its start.
    pub(super) fn is_proposal(&self) -> bool {
        matches!(self, Self::Proposed { .. } | Self::Random { .. } | Self::Chosen { .. })
    }
}

/// One fine-tune under one schedule, and its scores.
///
/// Where a trial is written or sent it is a [`PlainTrial`], which is bound to its study's layout when it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial<R = Ranks> {
    /// Position in the study, counted from 0.
    pub number: usize,
    /// A rank for every module.
    pub ranks: R,
    /// Where it stands.
    pub state: TrialState,
    /// Score by benchmark; empty unless complete.
    pub scores: IndexMap<String, f64>,
    /// Mean of the scores, which the search maximises; absent unless complete.
    pub objective: Option<f64>,
    /// Why this schedule was tried.
    pub origin: Origin,
    /// Seed of the fine-tune.
    pub seed: u64,
    /// Wall time of the fine-tune and its evaluation, in seconds, where known.
    pub wall_seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A trial whose ranks are a list in the order of its study's layout.
pub type PlainTrial = Trial<Vec<u32>>;

impl PlainTrial {
    /// The trial with its ranks bound to a layout.
    ///
    /// # Errors
    /// Not one rank per module.
    pub fn bound(self, layout: &Arc<Layout>) -> Result<Trial, WrongCount> {
        let Self { number, ranks, state, scores, objective, origin, seed, wall_seconds, error } = self;
        let ranks = Ranks::new(layout, ranks)?;
        Ok(Trial { number, ranks, state, scores, objective, origin, seed, wall_seconds, error })
    }
}

impl From<Trial> for PlainTrial {
    fn from(trial: Trial) -> Self {
        let Trial { number, ranks, state, scores, objective, origin, seed, wall_seconds, error } = trial;
        let ranks = ranks.as_slice().to_vec();
        Self { number, ranks, state, scores, objective, origin, seed, wall_seconds, error }
    }
}

impl<R> Trial<R> {
    /// Mean of the scores; absent without scores.
    pub(super) fn mean_score(&self) -> Option<f64> {
        let count = self.scores.len();
        (count > 0).then(|| self.scores.values().sum::<f64>() / count as f64)
    }
}

/// An entry of the journal that is no trial of this search, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredTrial {
    /// Its number in the study.
    pub number: usize,
    /// Why it was passed over.
    pub reason: String,
}

/// The trials of one search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "StudyText", try_from = "StudyText")]
pub struct Study {
    /// What the study is about.
    pub metadata: StudyMetadata,
    /// Trials in the order of their numbers.
    pub trials: Vec<Trial>,
    /// Entries of another program that hold no usable schedule; their numbers are taken.
    pub ignored: Vec<IgnoredTrial>,
}

/// A study as it is sent.
#[derive(Serialize, Deserialize)]
struct StudyText {
    metadata: StudyMetadata,
    trials: Vec<PlainTrial>,
    ignored: Vec<IgnoredTrial>,
}

impl From<Study> for StudyText {
    fn from(study: Study) -> Self {
        let trials = study.trials.into_iter().map(Trial::into).collect();
        Self { metadata: study.metadata, trials, ignored: study.ignored }
    }
}

impl TryFrom<StudyText> for Study {
    type Error = WrongCount;

    fn try_from(text: StudyText) -> Result<Self, WrongCount> {
        let trials =
            text.trials.into_iter().map(|trial| trial.bound(&text.metadata.layout)).collect::<Result<_, _>>()?;
        Ok(Self { metadata: text.metadata, trials, ignored: text.ignored })
    }
}

impl Study {
    /// A study without trials.
    pub fn new(metadata: StudyMetadata) -> Self {
        Self { metadata, trials: Vec::new(), ignored: Vec::new() }
    }

    /// Number of the next trial.
    pub fn next_number(&self) -> usize {
        let trials = self.trials.iter().map(|t| t.number);
        trials.chain(self.ignored.iter().map(|t| t.number)).max().map_or(0, |last| last + 1)
    }

    /// The features that a performance model sees of a schedule.
    #[cfg(feature = "performance")]
    pub fn features(&self) -> FeatureSpace {
        let about = &self.metadata;
        FeatureSpace::new(&about.layout, about.base_rank, about.profile.as_ref())
    }

    /// What a performance model learns from: the complete trials, scores in the order of the benchmarks. Failed
    /// trials have no scores, so no model is fitted on them.
    #[cfg(feature = "performance")]
    pub fn observations(&self) -> Observations {
        let mut data = Observations::default();
        for trial in self.complete() {
            data.schedules.push(trial.ranks.clone());
            data.scores.push(self.metadata.benchmarks.iter().filter_map(|b| trial.scores.get(b).copied()).collect());
        }
        data
    }

    /// The trials of different schedules, in order: all but replicates.
    pub fn candidates(&self) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(|t| !t.origin.is_replicate())
    }

    /// Complete trials of different schedules, in order.
    pub fn complete(&self) -> impl Iterator<Item = &Trial> {
        self.candidates().filter(|t| t.state == TrialState::Complete)
    }

    /// The complete trial with the highest mean score; the earliest of equals.
    pub fn best(&self) -> Option<&Trial> {
        self.complete().fold(None, |best: Option<&Trial>, trial| match best {
            Some(b) if trial.objective <= b.objective => Some(b),
            _ => Some(trial),
        })
    }

    /// Trials that were begun and not told, in order.
    pub fn pending(&self) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(|t| t.state == TrialState::Running)
    }

    /// The ranks of every trial, whatever became of it.
    pub(super) fn schedules(&self) -> BTreeSet<&[u32]> {
        self.trials.iter().map(|t| t.ranks.as_slice()).collect()
    }

    /// Whether a schedule has been tried already, with or without success.
    pub fn has_tried(&self, ranks: &Ranks) -> bool {
        self.trials.iter().any(|t| t.ranks == *ranks)
    }
}
