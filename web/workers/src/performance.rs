//! The search that the page watches: the trainer's own, a step at a time, and its rivals on the same response.

use hydra_playground::messages::performance::{
    Begin, Curve, Fit, Fitted, MOST_TRIALS, Next, Progress, Proposed, StudySource, Synthetic,
};
use hydra_shared::layout::Ranks;
use hydra_shared::performance::{FitError, FittedModel, ModelKind};
use hydra_shared::schedule::BudgetError;
use hydra_shared::search::{
    Acquisition, Optimum, Outcome, Rule, Search, SearchConfig, SearchError, SearchSpace, Start, Step, StopReason,
    Study, SyntheticSurface, Trial, TrialState, proposal_seed,
};

/// A study in the page's hands.
pub struct Live {
    id: u32,
    shown: Contender,
    rivals: Vec<Contender>,
    response: Option<(SyntheticSurface, Optimum)>,
}

/// One search, and how it has fared.
struct Contender {
    search: Search,
    next: Next,
    best: Vec<f64>,
}

impl Live {
    /// Begins a study and measures its starting schedules, where they can be.
    ///
    /// # Errors
    /// As [`Search::new`] and [`Search::ask`].
    pub fn new(begin: Begin) -> Result<Self, SearchError> {
        let Begin { id, source, config } = begin;
        match source {
            StudySource::Journal(study) => Self::of_journal(id, study, config),
            StudySource::Synthetic(synthetic) => Self::of_response(id, synthetic, config),
        }
    }

    fn of_journal(id: u32, study: Study, config: SearchConfig) -> Result<Self, SearchError> {
        let too_many = study.complete().count() > MOST_TRIALS;
        // The trials were started elsewhere, so that what comes next is a proposal, however few they are.
        let starts = study.trials.iter().filter(|trial| trial.origin.is_start()).count();
        let config = SearchConfig { starts, trials: study.trials.len() + 1, ..endless(config) };
        let search = Search::new(config, study, Vec::new())?;
        let shown = if too_many {
            Contender { search, next: Next::TooManyTrials, best: Vec::new() }
        } else {
            Contender::new(search, None)?
        };
        Ok(Self { id, shown, rivals: Vec::new(), response: None })
    }

    fn of_response(id: u32, synthetic: Synthetic, config: SearchConfig) -> Result<Self, SearchError> {
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
        Ok(Self { id, shown: begin(shown)?, rivals, response: Some((surface, optimum)) })
    }

    /// Measures what every search has proposed and lets it propose again. Without a response to measure nothing happens.
    ///
    /// # Errors
    /// As [`Search::ask`].
    pub fn step(&mut self) -> Result<(), SearchError> {
        let Some((surface, _)) = &self.response else { return Ok(()) };
        for search in std::iter::once(&mut self.shown).chain(&mut self.rivals) {
            if let Next::Try(proposed) = &search.next {
                let ranks = Ranks::new(&search.search.study().metadata.layout, proposed.ranks.clone())
                    .map_err(BudgetError::from)?;
                search.measure(proposed.number, &ranks, surface)?;
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
            milliseconds: 0.0,
        }
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

    /// Asks for the next trial. Starting schedules are measured at once, where there is a response.
    fn propose(&mut self, surface: Option<&SyntheticSurface>) -> Result<(), SearchError> {
        self.next = loop {
            match (self.search.ask()?, surface) {
                (Step::Run(proposal), Some(surface)) if proposal.trial.origin.is_start() => {
                    self.measure(proposal.trial.number, &proposal.trial.ranks, surface)?;
                }
                (Step::Run(proposal), _) => {
                    break Next::Try(Box::new(self.proposed(proposal.trial, proposal.resumed)));
                }
                (Step::Done(reason), _) => break Next::Over(reason),
            }
        };
        Ok(())
    }

    fn measure(&mut self, number: usize, ranks: &Ranks, surface: &SyntheticSurface) -> Result<(), SearchError> {
        self.search.tell(number, Outcome::Complete { scores: surface.measure(ranks), wall_seconds: None })?;
        self.best.extend(self.search.study().best().map(|best| surface.expected(&best.ranks)));
        Ok(())
    }

    fn curve(&self, shown: bool) -> Curve {
        let config = self.search.config();
        let title = config.proposer_title().to_owned();
        Curve { model: config.proposing_model(), title, shown, best: self.best.clone() }
    }

    fn proposed(&self, trial: Trial, begun: bool) -> Proposed {
        let best = self.search.study().best().map(|trial| trial.number);
        let Trial { number, ranks, origin, .. } = trial;
        Proposed { number, ranks: ranks.as_slice().to_vec(), origin, begun, best }
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
    let models = ModelKind::ALL.map(|model| SearchConfig { model, acquisition: rule, ..*shown });
    let all = models.into_iter().chain([SearchConfig { acquisition: Rule::RANDOM, ..*shown }]);
    all.filter(|rival| rival.proposer() != shown.proposer()).collect()
}

#[cfg(test)]
mod tests {
    use hydra_shared::schedule::{Budget, Counting};
    use hydra_shared::search::{Origin, PlainStart, StudyMetadata, SyntheticConfig};
    use hydra_shared::vlm::spec::ModelSpec;

    use super::*;

    fn about() -> StudyMetadata {
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = 2;
        let layout = model.layout().unwrap();
        StudyMetadata {
            name: "page".to_owned(),
            budget: Budget::uniform(&layout, 8, Counting::Parameters),
            layout,
            rank_cap: None,
            base_rank: 8,
            benchmarks: Vec::new(),
            profile: None,
        }
    }

    fn synthetic(config: SearchConfig) -> Begin {
        let starts = vec![
            PlainStart { name: "uniform".to_owned(), ranks: vec![8; 14] },
            PlainStart { name: "too dear".to_owned(), ranks: vec![9; 14] },
            PlainStart { name: "of another model".to_owned(), ranks: vec![1; 7] },
        ];
        let source = StudySource::Synthetic(Synthetic { about: about(), response: SyntheticConfig::default(), starts });
        Begin { id: 7, source, config }
    }

    fn ridge() -> SearchConfig {
        SearchConfig { starts: 4, trials: 8, model: ModelKind::Ridge, seed: 3, ..SearchConfig::default() }
    }

    fn proposed(live: &Live) -> Proposed {
        match live.progress().next {
            Next::Try(proposed) => *proposed,
            over => panic!("{over:?}"),
        }
    }

    /// The study of a synthetic search that has been run to its end, as a trainer would have left it.
    fn study() -> Study {
        let mut live = Live::new(synthetic(ridge())).unwrap();
        while !live.is_over() {
            live.step().unwrap();
        }
        live.shown.search.study().clone()
    }

    #[test]
    fn beginning_measures_the_starts_and_stepping_measures_what_was_proposed() {
        let mut live = Live::new(synthetic(ridge())).unwrap();
        let progress = live.progress();
        let names: Vec<_> = progress
            .trials
            .iter()
            .map(|trial| match &trial.origin {
                Origin::Start { name } => name.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["uniform", "random-2", "random-3", "random-4"], "infeasible starts are left out");
        let next = proposed(&live);
        assert_eq!((next.number, next.begun), (4, false));
        live.step().unwrap();
        let trials = live.progress().trials;
        assert_eq!((trials.len(), &trials[4].ranks), (5, &next.ranks));
        while !live.is_over() {
            live.step().unwrap();
        }
        let progress = live.progress();
        assert_eq!(progress.trials.len(), 8);
        assert_eq!(progress.next, Next::Over(StopReason::TrialsSpent));
        assert_eq!(progress.id, 7);
    }

    #[test]
    fn rivals_share_the_starts_and_no_curve_passes_the_known_optimum() {
        let mut live = Live::new(synthetic(ridge())).unwrap();
        while !live.is_over() {
            live.step().unwrap();
        }
        let progress = live.progress();
        let optimum = progress.optimum.unwrap();
        let models: Vec<_> = progress.curves.iter().map(|curve| (curve.model, curve.shown)).collect();
        let rivals = [Some(ModelKind::Transformer), Some(ModelKind::GaussianProcess), None].map(|model| (model, false));
        assert_eq!(models[0], (Some(ModelKind::Ridge), true));
        assert_eq!(models[1..], rivals);
        for curve in &progress.curves {
            assert_eq!(curve.best.len(), 8);
            assert_eq!(curve.best[..4], progress.curves[0].best[..4]);
            assert!(curve.best.iter().all(|score| *score <= optimum.bound), "{curve:?} {optimum:?}");
        }
    }

    #[test]
    fn the_fit_that_is_shown_is_the_one_that_proposed() {
        for model in ModelKind::ALL {
            let live = Live::new(synthetic(SearchConfig { model, ..ridge() })).unwrap();
            let next = proposed(&live);
            let Origin::Proposed { predicted, held_out, .. } = next.origin else { panic!("{:?}", next.origin) };
            let study = live.shown.search.study();
            let fit =
                model.build().fit(&study.features(), &study.observations(), proposal_seed(3, next.number)).unwrap();
            let ranks = Ranks::new(&study.metadata.layout, next.ranks).unwrap();
            let again = fit.predict(&[ranks]).unwrap()[0].objective;
            assert_eq!(again, predicted);
            let shown = live.fit(model).outcome.unwrap();
            assert_eq!(shown.error, held_out);
            assert_eq!((shown.seen.len(), shown.left_out.len()), (4, 4));
        }
    }

    #[test]
    fn a_dropped_study_gets_the_proposal_that_the_trainers_loop_would_make() {
        let study = study();
        let config = SearchConfig { seed: 11, ..ridge() };
        let begin = Begin { id: 1, source: StudySource::Journal(study.clone()), config };
        let mut live = Live::new(begin).unwrap();
        let config = SearchConfig {
            starts: 4,
            trials: 99,
            patience: 99,
            model: ModelKind::Ridge,
            seed: 11,
            ..SearchConfig::default()
        };
        let mut trainers = Search::new(config, study, Vec::new()).unwrap();
        let Step::Run(expected) = trainers.ask().unwrap() else { panic!() };
        let next = proposed(&live);
        assert_eq!((next.number, next.ranks.as_slice()), (8, expected.trial.ranks.as_slice()));
        assert!(live.is_over());
        live.step().unwrap();
        assert_eq!(proposed(&live), next, "it cannot be measured here");
        assert_eq!(live.progress().optimum, None);
    }

    #[test]
    fn a_study_with_too_few_trials_gets_a_random_proposal_and_no_fit() {
        let mut study = study();
        study.trials.truncate(2);
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study), config: ridge() }).unwrap();
        let Origin::Random { reason: Some(reason) } = proposed(&live).origin else { panic!() };
        assert!(reason.contains("at least 3"), "{reason}");
        for fit in live.progress().fits {
            assert_eq!(fit.outcome.unwrap_err(), reason);
        }
    }

    #[test]
    fn a_study_without_any_trial_and_one_with_too_many_are_told_apart() {
        let mut study = study();
        let empty = Study { trials: Vec::new(), ..study.clone() };
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(empty), config: ridge() }).unwrap();
        assert_eq!(proposed(&live).best, None);
        let one = study.trials[0].clone();
        study.trials = (0..=MOST_TRIALS).map(|number| Trial { number, ..one.clone() }).collect();
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study), config: ridge() }).unwrap();
        let progress = live.progress();
        assert_eq!(progress.next, Next::TooManyTrials);
        assert!(progress.fits.is_empty() && progress.trials.len() == MOST_TRIALS + 1);
    }

    #[test]
    fn a_trial_that_was_begun_elsewhere_comes_back_and_a_study_of_another_model_is_refused() {
        let mut study = study();
        if let Some(last) = study.trials.last_mut() {
            last.state = TrialState::Running;
            last.objective = None;
            last.scores.clear();
        }
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study.clone()), config: ridge() }).unwrap();
        let next = proposed(&live);
        assert_eq!((next.number, next.begun), (7, true));
        assert_eq!(live.progress().trials.len(), 7);

        study.trials.pop();
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = 3;
        study.metadata.layout = model.layout().unwrap();
        let refused = Live::new(Begin { id: 1, source: StudySource::Journal(study), config: ridge() });
        assert!(refused.err().unwrap().to_string().contains("14 modules"));
    }

    #[test]
    fn random_proposals_keep_the_models_beside_them() {
        let live = Live::new(synthetic(SearchConfig { acquisition: Rule::RANDOM, ..ridge() })).unwrap();
        let progress = live.progress();
        assert_eq!(proposed(&live).origin, Origin::Random { reason: None });
        assert_eq!(progress.curves.iter().map(|curve| curve.model).collect::<Vec<_>>()[0], None);
        assert_eq!(progress.curves.len(), 4);
        assert!(progress.fits.iter().all(|fit| fit.outcome.is_ok()));
    }
}
