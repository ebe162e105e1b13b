//! The search that the page watches: the trainer's own, a step at a time, and its rivals on the same response.

mod measured;

use hydra_playground::messages::performance::{
    Begin, Curve, Fit, Fitted, MOST_TRIALS, Next, Progress, Proposed, StudySource, Synthetic,
};
use hydra_shared::layout::Ranks;
use hydra_shared::performance::{FitError, FittedModel, ModelKind};
use hydra_shared::schedule::{BudgetError, PlanError};
use hydra_shared::search::{
    Acquisition, JournalError, Optimum, Origin, Outcome, Rule, Search, SearchConfig, SearchError, SearchSpace, Start,
    Step, StopReason, Study, StudyError, SyntheticSurface, Timestamp, Trial, TrialState, proposal_seed,
};

use self::measured::Paper;

/// A study in the page's hands.
pub struct Live {
    id: u32,
    shown: Contender,
    rivals: Vec<Contender>,
    response: Option<(SyntheticSurface, Optimum)>,
    /// The file of a study that is measured elsewhere.
    paper: Option<Paper>,
}

/// Why a study cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The search.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The study's file.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The study in it.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// The schedules that it begins with.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A study that the trainer has to go on with.
    #[error("{0}")]
    Elsewhere(&'static str),
}

impl From<BudgetError> for LiveError {
    fn from(error: BudgetError) -> Self {
        Self::Search(error.into())
    }
}

/// One search, and how it has fared.
struct Contender {
    search: Search,
    next: Next,
    best: Vec<f64>,
}

impl Live {
    /// Begins a study and measures its starting schedules, where they can be; `at` is now.
    ///
    /// # Errors
    /// As [`Search::new`] and [`Search::ask`]; the file of a study that cannot be read.
    pub fn new(begin: Begin, at: Timestamp) -> Result<Self, LiveError> {
        let Begin { id, source, config } = begin;
        match source {
            StudySource::Journal(measured) => Self::of_measured(id, *measured, config, at),
            StudySource::Synthetic(synthetic) => Self::of_response(id, synthetic, config),
        }
    }

    fn of_response(id: u32, synthetic: Synthetic, config: SearchConfig) -> Result<Self, LiveError> {
        let Synthetic { mut about, response, starts } = synthetic;
        about.benchmarks = SyntheticSurface::BENCHMARKS.map(str::to_owned).to_vec();
        let surface = SyntheticSurface::new(&about.layout, about.base_rank, about.profile.as_ref(), response);
        let optimum = surface.optimum(&about.budget, about.rank_cap)?;
        let space = SearchSpace::new(&about.layout, about.budget, about.rank_cap, about.profile.as_ref())?;
        let starts: Vec<Start> = starts
            .into_iter()
            .filter_map(|start| Some(Start { name: start.name, ranks: Ranks::new(&about.layout, start.ranks).ok()? }))
            .filter(|start| space.contains(&start.ranks))
            .take(config.starts)
            .collect();

        let shown = endless(config);
        let begin =
            |config| Contender::new(Search::new(config, Study::new(about.clone()), starts.clone())?, Some(&surface));
        let rivals = rivals(&shown).into_iter().map(begin).collect::<Result<_, SearchError>>()?;
        Ok(Self { id, shown: begin(shown)?, rivals, response: Some((surface, optimum)), paper: None })
    }

    /// Measures what every search has proposed and lets it propose again. Without a response to measure nothing happens.
    ///
    /// # Errors
    /// As [`Search::ask`].
    pub fn step(&mut self) -> Result<(), LiveError> {
        let Some((surface, _)) = &self.response else { return Ok(()) };
        for search in std::iter::once(&mut self.shown).chain(&mut self.rivals) {
            if let Next::Try(proposed) = &search.next {
                let ranks = Ranks::new(&search.search.study().metadata.layout, proposed.ranks.clone())
                    .map_err(BudgetError::from)?;
                search.measure(proposed.number, &ranks, None, surface)?;
                search.propose(Some(surface))?;
            }
        }
        Ok(())
    }

    /// Whether no step would change anything.
    pub fn is_over(&self) -> bool {
        self.response.is_none() || !matches!(self.shown.next, Next::Try(_))
    }

    /// Where the study stands: fits every model on the trials so far.
    pub fn progress(&self) -> Progress {
        let Contender { search, next, .. } = &self.shown;
        let study = search.study();
        let few_enough = study.complete().count() <= MOST_TRIALS;
        let curves = match self.response {
            Some(_) => {
                std::iter::once(self.shown.curve(true)).chain(self.rivals.iter().map(|r| r.curve(false))).collect()
            }
            None => Vec::new(),
        };
        let ended = study.candidates().filter(|trial| trial.state != TrialState::Running);
        Progress {
            id: self.id,
            trials: ended.cloned().map(Trial::into).collect(),
            fits: if few_enough { ModelKind::ALL.map(|model| self.fit(model)).into() } else { Vec::new() },
            next: next.clone(),
            optimum: self.response.as_ref().map(|(_, optimum)| optimum.clone().into()),
            curves,
            pick: if few_enough { search.pick() } else { None },
            fresh: study.trials.iter().filter_map(fresh).collect(),
            truths: self.truths(),
            written: self.paper.as_ref().map(|paper| paper.written(study)),
            milliseconds: 0.0,
        }
    }

    /// What every schedule that was tried is worth, where that is known.
    fn truths(&self) -> Vec<f64> {
        let Some((surface, _)) = &self.response else { return Vec::new() };
        let ended = self.shown.search.study().candidates().filter(|trial| trial.state != TrialState::Running);
        ended.map(|trial| surface.expected(&trial.ranks)).collect()
    }

    /// The fit that proposed what comes next, or would have.
    fn fit(&self, model: ModelKind) -> Fit {
        let Contender { search, next, .. } = &self.shown;
        let number = match next {
            Next::Try(proposed) => proposed.number,
            Next::Over(_) | Next::TooManyTrials => search.study().next_number(),
        };
        let (study, seed) = (search.study(), proposal_seed(search.config().seed, number));
        let data = study.observations();
        let summed_up = |fit: &dyn FittedModel| -> Result<Fitted, FitError> {
            let seen = fit.predict(&data.schedules).map_err(|error| FitError::Numeric(error.to_string()))?;
            let left_out = fit.leave_one_out();
            Ok(Fitted {
                seen: seen.into_iter().map(|prediction| prediction.objective).collect(),
                left_out: left_out.predicted.clone(),
                error: left_out.objective,
            })
        };
        let known = search.fitted().filter(|_| search.config().proposing_model() == Some(model));
        let outcome = match known {
            Some(fit) => summed_up(fit),
            None => model.build().fit(&study.features(), &data, seed).and_then(|fit| summed_up(&*fit)),
        };
        Fit { model, outcome: outcome.map_err(|error| error.to_string()) }
    }
}

impl Contender {
    fn new(search: Search, surface: Option<&SyntheticSurface>) -> Result<Self, SearchError> {
        let mut contender = Self { search, next: Next::Over(StopReason::TrialsSpent), best: Vec::new() };
        contender.propose(surface)?;
        Ok(contender)
    }

    /// Asks for the next trial. Starting schedules and those that are tried again are measured at once, where there is a
    /// response.
    fn propose(&mut self, surface: Option<&SyntheticSurface>) -> Result<(), SearchError> {
        self.next = loop {
            match (self.search.ask()?, surface) {
                (Step::Run(proposal), Some(surface)) if proposal.trial.origin.is_start() => {
                    self.measure(proposal.trial.number, &proposal.trial.ranks, None, surface)?;
                }
                (Step::Run(proposal), Some(surface)) if proposal.trial.origin.is_replicate() => {
                    let Trial { number, ranks, seed, .. } = proposal.trial;
                    self.measure(number, &ranks, Some(seed), surface)?;
                }
                (Step::Run(proposal), _) => {
                    break Next::Try(Box::new(self.proposed(proposal.trial, proposal.resumed)));
                }
                (Step::Done(reason), _) => break Next::Over(reason),
            }
        };
        Ok(())
    }

    /// Measures a trial, with the noise of `seed` where its schedule is tried again.
    fn measure(
        &mut self,
        number: usize,
        ranks: &Ranks,
        seed: Option<u64>,
        surface: &SyntheticSurface,
    ) -> Result<(), SearchError> {
        let scores = match seed {
            None => surface.measure(ranks),
            Some(seed) => surface.measure_again(ranks, seed),
        };
        self.search.tell(number, Outcome::Complete { scores, wall_seconds: None })?;
        if seed.is_none() {
            self.best.extend(self.search.study().best().map(|best| surface.expected(&best.ranks)));
        }
        Ok(())
    }

    fn curve(&self, shown: bool) -> Curve {
        let config = self.search.config();
        let title = config.proposer_title().to_owned();
        Curve { model: config.proposing_model(), title, shown, best: self.best.clone() }
    }

    fn proposed(&self, trial: Trial, begun: bool) -> Proposed {
        let best = self.search.study().best().map(|trial| trial.number);
        let Trial { number, ranks, origin, seed, .. } = trial;
        Proposed { number, ranks: ranks.as_slice().to_vec(), origin, begun, best, seed }
    }
}

/// The score of a schedule that was tried again, and whose it is.
fn fresh(trial: &Trial) -> Option<(usize, f64)> {
    match trial.origin {
        Origin::Replicate { of } => Some((of, trial.objective?)),
        _ => None,
    }
}

/// A configuration whose search goes on for all of its trials, as many as the page can bear.
fn endless(config: SearchConfig) -> SearchConfig {
    SearchConfig {
        starts: config.starts.min(MOST_TRIALS),
        trials: config.trials.max(config.starts).min(MOST_TRIALS),
        patience: usize::MAX,
        ..config
    }
}

/// Every model and random schedules, but for what proposes in the search that is shown.
fn rivals(shown: &SearchConfig) -> Vec<SearchConfig> {
    let rule = match shown.acquisition {
        Rule::Model(_) => shown.acquisition,
        Rule::Proposer(_) => Acquisition::default().into(),
    };
    // What they would recommend nobody asks.
    let base = SearchConfig { replicates: 0, ..*shown };
    let models = ModelKind::ALL.map(|model| SearchConfig { model, acquisition: rule, ..base });
    let all = models.into_iter().chain([SearchConfig { acquisition: Rule::RANDOM, ..base }]);
    all.filter(|rival| rival.proposer() != shown.proposer()).collect()
}

#[cfg(test)]
mod tests;
