//! The loop *start → propose → run → append → refit*, as a state machine without I/O.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::acquisition::Acquisition;
use super::proposer::{ProposeError, Proposer};
use super::sampling::SearchSpace;
use super::study::{Origin, Study, Trial, TrialState};
use crate::layout::Ranks;
use crate::performance::{FEWEST_TRIALS, FeatureSpace, ModelKind};
use crate::schedule::BudgetError;

/// How to search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Trials with schedules that no model chose; random feasible ones fill up what the caller gives.
    pub starts: usize,
    /// Trials in all, failed ones included.
    pub trials: usize,
    /// Proposals in a row that do not improve the best mean score before the search ends.
    pub patience: usize,
    /// Smallest improvement of the mean score that counts as one.
    pub min_gain: f64,
    /// Candidates that the performance model chooses from, and half as many again around the best of them.
    pub candidates: usize,
    /// Which performance model.
    pub model: ModelKind,
    /// How it chooses.
    pub acquisition: Acquisition,
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
            model: ModelKind::default(),
            acquisition: Acquisition::default(),
            seed: 0,
        }
    }
}

/// A schedule to start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its name, e.g. `uniform`.
    pub name: String,
    /// A rank for every module.
    pub ranks: Ranks,
}

/// A trial to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The trial, with the state running.
    pub trial: Trial,
    /// Whether the study held it already, begun and never reported: its beginning must not be written again.
    pub resumed: bool,
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// As many trials as were asked for.
    TrialsSpent,
    /// The last proposals did not improve the best mean score.
    NoGain,
    /// Every schedule within the budget that was found has been tried.
    SpaceExhausted,
    /// Every trial so far failed: the cause is not in the schedules.
    EveryTrialFailed,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Run this trial, then call [`SearchLoop::record`].
    Run(Box<Proposal>),
    /// The search is over.
    Done(StopReason),
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Fine-tuned and scored.
    Complete {
        /// Score by benchmark.
        scores: IndexMap<String, f64>,
        /// Wall time in seconds, where measured.
        wall_seconds: Option<f64>,
    },
    /// Ended without scores.
    Failed {
        /// Why.
        error: String,
        /// Wall time in seconds, where measured.
        wall_seconds: Option<f64>,
    },
}

/// Why a search cannot begin or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// No score to maximise.
    #[error("study {0:?} names no benchmark; a search needs at least one score to maximise")]
    NoBenchmarks(String),
    /// A starting schedule that is not one of this search.
    #[error(
        "starting schedule {name:?} is not feasible: it must hold a rank from 1 to its cap for each of {modules} \
         modules and stay within the budget of {allowed}"
    )]
    InfeasibleStart {
        /// Its name.
        name: String,
        /// Modules of the model.
        modules: usize,
        /// The budget.
        allowed: u64,
    },
    /// The budget repair failed.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A report without a trial.
    #[error("no trial is running, so nothing can be recorded")]
    NothingRunning,
    /// Scores of other benchmarks than the study's.
    #[error("the trial must report the scores {expected:?}, it reported {found:?}")]
    Scores {
        /// Benchmarks of the study.
        expected: Vec<String>,
        /// Benchmarks reported.
        found: Vec<String>,
    },
    /// The performance model failed.
    #[error("no schedule could be proposed: {0}")]
    Propose(String),
}

impl From<ProposeError> for SearchError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Budget(error) => Self::Budget(error),
            ProposeError::Predict(error) => Self::Propose(error.to_string()),
        }
    }
}

/// A search for the best schedule.
///
/// [`SearchLoop::next`] and [`SearchLoop::record`] take turns. What comes next is a function of the configuration, the
/// starting schedules and the study alone: a search that is taken up from its study goes on as if it had never
/// stopped.
#[derive(Debug, Clone)]
pub struct SearchLoop {
    config: SearchConfig,
    study: Study,
    starts: Vec<Start>,
    space: SearchSpace,
    features: FeatureSpace,
}

impl SearchLoop {
    /// Begins a search, or takes one up where `study` holds trials. Starting schedules run in the order given, each
    /// different schedule once.
    ///
    /// # Errors
    /// A study without benchmarks, a budget below rank 1 everywhere, an infeasible starting schedule.
    pub fn new(config: SearchConfig, study: Study, starts: Vec<Start>) -> Result<Self, SearchError> {
        let about = &study.metadata;
        if about.benchmarks.is_empty() {
            return Err(SearchError::NoBenchmarks(about.name.clone()));
        }
        let space = SearchSpace::new(&about.layout, about.budget, about.rank_cap, about.profile.as_ref())?;
        if let Some(start) = starts.iter().find(|start| !space.contains(&start.ranks)) {
            return Err(SearchError::InfeasibleStart {
                name: start.name.clone(),
                modules: about.layout.len(),
                allowed: about.budget.allowed,
            });
        }
        let features = FeatureSpace::new(&about.layout, about.base_rank, about.profile.as_ref());
        Ok(Self { config, study, starts, space, features })
    }

    /// The study so far.
    pub fn study(&self) -> &Study {
        &self.study
    }

    /// The features that the performance models see.
    pub fn features(&self) -> &FeatureSpace {
        &self.features
    }

    /// What to do next. A trial that was begun and not reported comes again, under the same number.
    ///
    /// # Errors
    /// A performance model that cannot predict; never a failed trial.
    #[expect(clippy::should_implement_trait, reason = "fallible, and the caller reports in between")]
    pub fn next(&mut self) -> Result<Step, SearchError> {
        if let Some(trial) = self.study.running() {
            return Ok(Step::Run(Box::new(Proposal { trial: trial.clone(), resumed: true })));
        }
        if self.study.trials.len() >= self.config.trials {
            return Ok(Step::Done(StopReason::TrialsSpent));
        }
        let chosen = match self.next_start()? {
            Some(start) => Some(start),
            None if self.nothing_ever_worked() => {
                return Ok(Step::Done(StopReason::EveryTrialFailed));
            }
            None if self.proposals_without_gain() >= self.config.patience => {
                return Ok(Step::Done(StopReason::NoGain));
            }
            None => self.proposer().propose(&self.study, self.proposal_seed())?,
        };
        let Some((ranks, origin)) = chosen else {
            return Ok(Step::Done(StopReason::SpaceExhausted));
        };
        let trial = Trial {
            number: self.study.next_number(),
            ranks,
            state: TrialState::Running,
            scores: IndexMap::new(),
            objective: None,
            origin,
            seed: self.config.seed,
            wall_seconds: None,
            error: None,
        };
        self.study.trials.push(trial.clone());
        Ok(Step::Run(Box::new(Proposal { trial, resumed: false })))
    }

    /// Takes down how the running trial went, and gives it back as it stands in the study. A score that is not a
    /// finite number makes it a failed trial.
    ///
    /// # Errors
    /// No running trial; other benchmarks than the study's, in which case the trial is still running.
    pub fn record(&mut self, outcome: Outcome) -> Result<&Trial, SearchError> {
        let benchmarks = &self.study.metadata.benchmarks;
        let outcome = match outcome {
            Outcome::Complete { scores, wall_seconds } => {
                let known = benchmarks.iter().all(|b| scores.contains_key(b));
                if !known || scores.len() != benchmarks.len() {
                    let found = scores.into_keys().collect();
                    return Err(SearchError::Scores { expected: benchmarks.clone(), found });
                }
                match scores.iter().find(|(_, score)| !score.is_finite()) {
                    Some((benchmark, score)) => {
                        Outcome::Failed { error: format!("the score of {benchmark} is {score}"), wall_seconds }
                    }
                    None => {
                        let in_order = benchmarks.iter().filter_map(|b| Some((b.clone(), *scores.get(b)?)));
                        Outcome::Complete { scores: in_order.collect(), wall_seconds }
                    }
                }
            }
            failed @ Outcome::Failed { .. } => failed,
        };
        let running = self.study.trials.iter_mut().find(|t| t.state == TrialState::Running);
        let trial = running.ok_or(SearchError::NothingRunning)?;
        match outcome {
            Outcome::Complete { scores, wall_seconds } => {
                trial.state = TrialState::Complete;
                trial.scores = scores;
                trial.objective = trial.mean_score();
                trial.wall_seconds = wall_seconds;
            }
            Outcome::Failed { error, wall_seconds } => {
                trial.state = TrialState::Failed;
                trial.error = Some(error);
                trial.wall_seconds = wall_seconds;
            }
        }
        Ok(trial)
    }

    /// The next starting schedule: those given first, then random ones up to the configured number.
    fn next_start(&self) -> Result<Option<(Ranks, Origin)>, SearchError> {
        let given = self.starts.iter().find(|start| !self.study.has_tried(&start.ranks));
        if let Some(start) = given {
            return Ok(Some((start.ranks.clone(), Origin::Start { name: start.name.clone() })));
        }
        let started = self.study.trials.iter().filter(|t| t.origin.is_start()).count();
        if started >= self.config.starts {
            return Ok(None);
        }
        let ranks = self.proposer().random(&self.study, self.proposal_seed())?;
        Ok(ranks.map(|ranks| (ranks, Origin::Start { name: format!("random-{}", started + 1) })))
    }

    fn proposer(&self) -> Proposer<'_> {
        Proposer {
            space: &self.space,
            features: &self.features,
            model: self.config.model,
            acquisition: self.config.acquisition,
            candidates: self.config.candidates,
        }
    }

    /// Whether the starts are over, or as many trials as a model needs where there are fewer, and all have failed.
    fn nothing_ever_worked(&self) -> bool {
        let enough = self.config.starts.max(FEWEST_TRIALS);
        self.study.trials.len() >= enough && self.study.complete().next().is_none()
    }

    /// A seed for each trial, far from its neighbours'.
    fn proposal_seed(&self) -> u64 {
        let number = self.study.next_number() as u64;
        self.config.seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Proposals since the best mean score last improved. Starting schedules and trials of other programs can improve
    /// it but are not counted.
    fn proposals_without_gain(&self) -> usize {
        let (mut best, mut without_gain) = (f64::NEG_INFINITY, 0);
        for trial in &self.study.trials {
            match trial.objective {
                Some(objective) if objective > best + self.config.min_gain => (best, without_gain) = (objective, 0),
                _ if matches!(trial.origin, Origin::Proposed { .. } | Origin::Random { .. }) => without_gain += 1,
                _ => {}
            }
        }
        without_gain
    }
}
