//! The search *start → ask → run → tell → ask*, as a state machine without I/O.

#[cfg(feature = "performance")]
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::config::SearchConfig;
use super::confirm::{self, Contestants, Next, Pick};
use super::proposers::random::Random;
use super::proposers::{self, Choice, Proposer};
use super::sampling::SearchSpace;
use super::seed::proposal_seed;
use super::starts::Start;
use super::study::{Origin, Study, Trial, TrialState};
use crate::performance::FEWEST_TRIALS;
#[cfg(feature = "performance")]
use crate::performance::{FittedModel, PredictError};
use crate::schedule::BudgetError;

/// A trial to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The trial, with the state running.
    pub trial: Trial,
    /// Whether the study held it already, begun and never told: its beginning must not be written again.
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
pub enum Step<T = Box<Proposal>> {
    /// Run this, then call [`Search::tell`].
    Run(T),
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
#[non_exhaustive]
pub enum SearchError {
    /// No score to maximise.
    #[error("trial {0} reports no score; a search needs at least one to maximise")]
    NoScores(usize),
    /// A proposer that this build lacks.
    #[error("this build cannot propose with {0:?}, which needs the feature `performance`; `random` needs none")]
    NoProposer(&'static str),
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
    /// The outcome of a trial that is not running.
    #[error("trial {0} is not running, so its outcome cannot be told")]
    NotPending(usize),
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

#[cfg(feature = "performance")]
impl From<PredictError> for SearchError {
    fn from(error: PredictError) -> Self {
        Self::Propose(error.to_string())
    }
}

/// A search for the best schedule.
///
/// [`Search::ask`] says which trial to run, [`Search::tell`] takes how it went. Several trials may run at once, and be told in
/// any order: [`Search::ask_many`] gives new ones beside those that are pending. What is asked next is a function of the
/// configuration, the starting schedules and the study alone: a search that is taken up from its study goes on as if it had
/// never stopped.
#[derive(Debug, Clone)]
pub struct Search {
    config: SearchConfig,
    study: Study,
    starts: Vec<Start>,
    space: SearchSpace,
    /// What is tried with fresh seeds, once that is known: it asks the performance model.
    contestants: Option<Contestants>,
    /// See [`Search::fitted`].
    #[cfg(feature = "performance")]
    fitted: Option<Arc<dyn FittedModel>>,
}

impl Search {
    /// Begins a search, or takes one up where `study` holds trials. Starting schedules run in the order given, each
    /// different schedule once. A study that names no benchmarks takes those of the first trial that is told with scores.
    ///
    /// # Errors
    /// A proposer that this build lacks, a budget below rank 1 everywhere, an infeasible starting schedule.
    pub fn new(config: SearchConfig, study: Study, starts: Vec<Start>) -> Result<Self, SearchError> {
        let about = &study.metadata;
        let space = SearchSpace::new(&about.layout, about.budget, about.rank_cap, about.profile.as_ref())?;
        if let Some(start) = starts.iter().find(|start| !space.contains(&start.ranks)) {
            return Err(SearchError::InfeasibleStart {
                name: start.name.clone(),
                modules: about.layout.len(),
                allowed: about.budget.allowed,
            });
        }
        let search = Self {
            config,
            study,
            starts,
            space,
            contestants: None,
            #[cfg(feature = "performance")]
            fitted: None,
        };
        search.proposer()?;
        Ok(search)
    }

    /// How it searches.
    pub fn config(&self) -> &SearchConfig {
        &self.config
    }

    /// The study so far.
    pub fn study(&self) -> &Study {
        &self.study
    }

    /// The fit that chose the trial that was asked last, which was the only one to run then: of the performance model of the
    /// configuration, on the study's [observations](Study::observations), with [`proposal_seed`]. None where no model chose it,
    /// and none once a trial is told.
    #[cfg(feature = "performance")]
    pub fn fitted(&self) -> Option<&dyn FittedModel> {
        self.fitted.as_deref()
    }

    /// The next trial, where one runs at a time. A trial that was begun and not told comes again, under the same number.
    ///
    /// # Errors
    /// A performance model that cannot predict; never a failed trial.
    pub fn ask(&mut self) -> Result<Step, SearchError> {
        if let Some(trial) = self.study.pending().next() {
            return Ok(Step::Run(Box::new(Proposal { trial: trial.clone(), resumed: true })));
        }
        Ok(match self.begin(1)? {
            Step::Done(reason) => Step::Done(reason),
            Step::Run(trials) => match trials.into_iter().next() {
                Some(trial) => Step::Run(Box::new(Proposal { trial, resumed: false })),
                None => Step::Done(StopReason::SpaceExhausted),
            },
        })
    }

    /// Up to `count` new trials, different from each other and from all before, beside those that are pending. Where a study
    /// is taken up, the caller runs [`Study::pending`] first.
    ///
    /// While trials are pending, the end of a search is told as far as it is known: a gain among them may put it off. A search
    /// whose starts are still running chooses at random.
    ///
    /// # Errors
    /// As [`Search::ask`].
    pub fn ask_many(&mut self, count: usize) -> Result<Step<Vec<Trial>>, SearchError> {
        self.begin(count)
    }

    /// The schedule to use, as far as the trials that were told say; none where none is complete. Before the search is over it
    /// is the largest posterior mean.
    pub fn pick(&self) -> Option<Pick> {
        let posterior = self.posterior();
        if self.config.replicates > 0 && !self.is_searching() {
            let (replicates, seed) = (self.config.replicates, self.config.seed);
            let contestants = self.contestants.clone();
            let contestants = contestants.unwrap_or_else(|| Contestants::new(&self.study, &posterior));
            if let Next::Over(found, safe) = contestants.next(&self.study, replicates, seed) {
                return Some(confirm::judged(&self.study, found, safe, replicates, seed));
            }
        }
        confirm::untested(&self.study, &posterior)
    }

    /// Takes down how a pending trial went, and gives it back as it stands in the study. A score that is not a finite number
    /// makes it a failed trial. Where the study names no benchmarks yet, they are those of this trial from now on, by name.
    ///
    /// # Errors
    /// A trial that is not pending; other benchmarks than the study's or none, in which cases the trial is still pending.
    pub fn tell(&mut self, number: usize, outcome: Outcome) -> Result<&Trial, SearchError> {
        if !self.study.pending().any(|trial| trial.number == number) {
            return Err(SearchError::NotPending(number));
        }
        let outcome = self.checked(number, outcome)?;
        #[cfg(feature = "performance")]
        {
            self.fitted = None;
        }
        let mut trials = self.study.trials.iter_mut();
        let pending = trials.find(|t| t.number == number && t.state == TrialState::Running);
        let trial = pending.ok_or(SearchError::NotPending(number))?;
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

    /// An outcome whose scores are the study's, in its order; a failure where one of them is not a finite number.
    fn checked(&mut self, number: usize, outcome: Outcome) -> Result<Outcome, SearchError> {
        let Outcome::Complete { scores, wall_seconds } = outcome else { return Ok(outcome) };
        let benchmarks = &mut self.study.metadata.benchmarks;
        let known = benchmarks.iter().all(|b| scores.contains_key(b));
        if !benchmarks.is_empty() && (!known || scores.len() != benchmarks.len()) {
            let found = scores.into_keys().collect();
            return Err(SearchError::Scores { expected: benchmarks.clone(), found });
        }
        if scores.is_empty() {
            return Err(SearchError::NoScores(number));
        }
        if let Some((benchmark, score)) = scores.iter().find(|(_, score)| !score.is_finite()) {
            return Ok(Outcome::Failed { error: format!("the score of {benchmark} is {score}"), wall_seconds });
        }
        if benchmarks.is_empty() {
            // By name: which of several trials is told first must not decide the order in which scores are added up.
            *benchmarks = scores.keys().cloned().collect();
            benchmarks.sort_unstable();
        }
        let in_order = benchmarks.iter().filter_map(|b| Some((b.clone(), *scores.get(b)?)));
        Ok(Outcome::Complete { scores: in_order.collect(), wall_seconds })
    }

    /// Begins up to `count` new trials: of schedules that were not tried, then replicates.
    fn begin(&mut self, count: usize) -> Result<Step<Vec<Trial>>, SearchError> {
        let over = match self.begin_candidates(count)? {
            Step::Run(trials) if trials.is_empty() && count > 0 => StopReason::SpaceExhausted,
            Step::Done(reason) => reason,
            step @ Step::Run(_) => return Ok(step),
        };
        let replicates = if over == StopReason::EveryTrialFailed { Vec::new() } else { self.begin_replicates(count) };
        Ok(if replicates.is_empty() { Step::Done(over) } else { Step::Run(replicates) })
    }

    /// Begins up to `count` fine-tunes of known schedules with fresh seeds; none while a schedule is still to be told, or a round
    /// is running.
    fn begin_replicates(&mut self, count: usize) -> Vec<Trial> {
        if self.config.replicates == 0 || self.is_searching() {
            return Vec::new();
        }
        let contestants = match self.contestants.take() {
            Some(contestants) => contestants,
            None => Contestants::new(&self.study, &self.posterior()),
        };
        let next = contestants.next(&self.study, self.config.replicates, self.config.seed);
        self.contestants = Some(contestants);
        let Next::Run(wanted) = next else { return Vec::new() };
        let ranks =
            |of: usize| self.study.trials.iter().find(|trial| trial.number == of).map(|trial| trial.ranks.clone());
        let chosen = wanted
            .into_iter()
            .take(count)
            .filter_map(|(of, seed)| Some((Choice::new(ranks(of)?, Origin::Replicate { of }), seed)));
        let chosen: Vec<_> = chosen.collect();
        chosen.into_iter().map(|(choice, seed)| self.begin_one(choice, seed)).collect()
    }

    /// Whether a schedule is still to be told.
    fn is_searching(&self) -> bool {
        self.study.pending().any(|trial| !trial.origin.is_replicate())
    }

    /// Mean score of every complete trial, as the performance model sees it: less luck than the score itself. Where none is
    /// asked, or it cannot be fitted, it is the score.
    fn posterior(&self) -> Vec<f64> {
        #[cfg(feature = "performance")]
        if let Some(model) = self.config.proposing_model() {
            let (features, data) = (self.study.features(), self.study.observations());
            let fitted = model.build().fit(&features, &data, self.config.seed);
            if let Some(predicted) = fitted.ok().and_then(|fitted| fitted.predict(&data.schedules).ok()) {
                return predicted.iter().map(|prediction| prediction.objective.mean).collect();
            }
        }
        self.study.complete().map(|trial| trial.objective.unwrap_or(f64::NEG_INFINITY)).collect()
    }

    /// Begins up to `count` trials of schedules that were not tried; none where every schedule has been.
    fn begin_candidates(&mut self, count: usize) -> Result<Step<Vec<Trial>>, SearchError> {
        let left = self.config.trials.saturating_sub(self.study.candidates().count());
        if left == 0 {
            return Ok(Step::Done(StopReason::TrialsSpent));
        }
        let count = count.min(left);
        let mut begun = Vec::new();
        while begun.len() < count
            && let Some(start) = self.next_start()?
        {
            begun.push(self.begin_one(start, self.config.seed));
        }
        if begun.len() < count {
            match self.reason_to_stop() {
                Some(reason) if begun.is_empty() => return Ok(Step::Done(reason)),
                Some(_) => {}
                None => {
                    for choice in self.propose(count - begun.len())? {
                        #[cfg(feature = "performance")]
                        {
                            self.fitted.clone_from(&choice.fit);
                        }
                        begun.push(self.begin_one(choice, self.config.seed));
                    }
                }
            }
        }
        Ok(Step::Run(begun))
    }

    fn begin_one(&mut self, Choice { ranks, origin, .. }: Choice, seed: u64) -> Trial {
        let trial = Trial {
            number: self.study.next_number(),
            ranks,
            state: TrialState::Running,
            scores: IndexMap::new(),
            objective: None,
            origin,
            seed,
            wall_seconds: None,
            error: None,
        };
        self.study.trials.push(trial.clone());
        trial
    }

    /// The next starting schedule: those given first, then random ones up to the configured number.
    fn next_start(&self) -> Result<Option<Choice>, SearchError> {
        let given = self.starts.iter().find(|start| !self.study.has_tried(&start.ranks));
        if let Some(Start { name, ranks }) = given {
            return Ok(Some(Choice::new(ranks.clone(), Origin::Start { name: name.clone() })));
        }
        let started = self.study.trials.iter().filter(|t| t.origin.is_start()).count();
        if started >= self.config.starts {
            return Ok(None);
        }
        let origin = Origin::Start { name: format!("random-{}", started + 1) };
        let random = Random { space: &self.space }.propose(&self.study, &[], 1, self.proposal_seed())?;
        Ok(random.into_iter().next().map(|Choice { ranks, .. }| Choice::new(ranks, origin)))
    }

    fn propose(&self, count: usize) -> Result<Vec<Choice>, SearchError> {
        let pending: Vec<&Trial> = self.study.pending().collect();
        self.proposer()?.propose(&self.study, &pending, count, self.proposal_seed())
    }

    fn proposer(&self) -> Result<Box<dyn Proposer + '_>, SearchError> {
        proposers::named(&self.config, &self.space).ok_or(SearchError::NoProposer(self.config.proposer()))
    }

    fn proposal_seed(&self) -> u64 {
        proposal_seed(self.config.seed, self.study.next_number())
    }

    /// Why nothing more is to be proposed, as far as the trials that have ended say.
    fn reason_to_stop(&self) -> Option<StopReason> {
        if self.nothing_ever_worked() {
            return Some(StopReason::EveryTrialFailed);
        }
        (self.proposals_without_gain() >= self.config.patience).then_some(StopReason::NoGain)
    }

    /// Whether the starts are over, or as many trials as a model needs where there are fewer, and all have failed.
    fn nothing_ever_worked(&self) -> bool {
        let enough = self.config.starts.max(FEWEST_TRIALS);
        let ended = self.study.candidates().filter(|trial| trial.state != TrialState::Running).count();
        ended >= enough && self.study.complete().next().is_none()
    }

    /// Proposals since the best mean score last improved. Starting schedules and trials of other programs can improve
    /// it but are not counted, nor are trials that are still running.
    fn proposals_without_gain(&self) -> usize {
        let (mut best, mut without_gain) = (f64::NEG_INFINITY, 0);
        for trial in self.study.candidates() {
            match trial.objective {
                Some(objective) if objective > best + self.config.min_gain => (best, without_gain) = (objective, 0),
                _ if trial.state != TrialState::Running && trial.origin.is_proposal() => without_gain += 1,
                _ => {}
            }
        }
        without_gain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Budget, Counting};
    use crate::search::{Rule, StudyMetadata};
    use crate::vlm::spec::preset_layout;

    #[test]
    fn a_random_search_needs_no_performance_model() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let metadata = StudyMetadata {
            name: "random".to_owned(),
            budget: Budget::uniform(&layout, 4, Counting::Parameters),
            layout,
            rank_cap: None,
            base_rank: 4,
            benchmarks: vec!["score".to_owned()],
            profile: None,
        };
        let random = SearchConfig { acquisition: Rule::RANDOM, starts: 2, trials: 4, ..SearchConfig::default() };
        let mut search = Search::new(random, Study::new(metadata.clone()), Vec::new()).unwrap();
        let Step::Run(trials) = search.ask_many(9).unwrap() else { panic!() };
        assert_eq!(trials.len(), 4);
        assert_eq!(search.ask_many(1).unwrap(), Step::Done(StopReason::TrialsSpent));
        let modelled = Search::new(SearchConfig::default(), Study::new(metadata), Vec::new());
        assert_eq!(modelled.is_ok(), cfg!(feature = "performance"));
    }
}
