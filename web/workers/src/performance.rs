//! The search that the page watches: the trainer's own, a step at a time, and its rivals on the same response.

use hydra_playground::messages::performance::{
    Begin, Choices, Curve, Ending, Fit, Fitted, Improvement, MOST_TRIALS, ModelChoice, Next, Progress, Proposed,
    StudySource, Synthetic, Why,
};
use hydra_shared::layout::Ranks;
use hydra_shared::performance::{FitError, ModelKind};
use hydra_shared::schedule::BudgetError;
use hydra_shared::search::{
    Acquisition, Optimum, Origin, Outcome, SearchConfig, SearchError, SearchLoop, SearchSpace, Start, Step, StopReason,
    Study, SyntheticSurface, Trial, TrialState,
};

/// A study in the page's hands.
pub struct Live {
    id: u32,
    seed: u64,
    shown: Search,
    rivals: Vec<Search>,
    response: Option<(SyntheticSurface, Optimum)>,
}

/// One search, and how it has fared.
struct Search {
    model: Option<ModelKind>,
    search: SearchLoop,
    next: Next,
    best: Vec<f64>,
}

impl Live {
    /// Begins a study and measures its starting schedules, where they can be.
    ///
    /// # Errors
    /// As [`SearchLoop::new`] and [`SearchLoop::next`].
    pub fn new(begin: Begin) -> Result<Self, SearchError> {
        let Begin { id, source, choices } = begin;
        match source {
            StudySource::Journal(study) => Self::of_journal(id, study, choices),
            StudySource::Synthetic(synthetic) => Self::of_response(id, synthetic, choices),
        }
    }

    fn of_journal(id: u32, study: Study, choices: Choices) -> Result<Self, SearchError> {
        let too_many = study.complete().count() > MOST_TRIALS;
        // The trials were started elsewhere, so that what comes next is a proposal, however few they are.
        let starts = study.trials.iter().filter(|trial| trial.origin.is_start()).count();
        let config =
            SearchConfig { starts, trials: study.trials.len() + 1, ..config(choices, choices.model, choices.rule) };
        let model = (choices.rule != Acquisition::Random).then_some(choices.model);
        let mut search = Search::new(model, SearchLoop::new(config, study, Vec::new())?);
        if too_many {
            search.next = Next::Over(Ending::TooManyTrials);
        } else {
            search.propose(None)?;
        }
        Ok(Self { id, seed: choices.seed, shown: search, rivals: Vec::new(), response: None })
    }

    fn of_response(id: u32, synthetic: Synthetic, choices: Choices) -> Result<Self, SearchError> {
        let Synthetic { mut about, response, starts } = synthetic;
        about.benchmarks = SyntheticSurface::BENCHMARKS.map(str::to_owned).to_vec();
        let surface = SyntheticSurface::new(&about.layout, about.base_rank, about.profile.as_ref(), response);
        let optimum = surface.optimum(&about.budget, about.rank_cap)?;
        let space = SearchSpace::new(&about.layout, about.budget, about.rank_cap, about.profile.as_ref())?;
        let starts: Vec<Start> = starts
            .into_iter()
            .filter_map(|start| Some(Start { name: start.name, ranks: Ranks::new(&about.layout, start.ranks).ok()? }))
            .filter(|start| space.contains(&start.ranks))
            .take(choices.starts)
            .collect();

        let begin = |model: Option<ModelKind>| {
            let config = match (model, choices.rule) {
                (None, _) => config(choices, choices.model, Acquisition::Random),
                (Some(model), Acquisition::Random) => config(choices, model, Acquisition::PredictedMean),
                (Some(model), rule) => config(choices, model, rule),
            };
            let mut search = Search::new(model, SearchLoop::new(config, Study::new(about.clone()), starts.clone())?);
            search.propose(Some(&surface))?;
            Ok(search)
        };
        let shown = (choices.rule != Acquisition::Random).then_some(choices.model);
        let rivals = ModelKind::ALL.map(Some).into_iter().chain([None]).filter(|model| *model != shown);
        let (shown, rivals) = (begin(shown)?, rivals.map(begin).collect::<Result<_, SearchError>>()?);
        Ok(Self { id, seed: choices.seed, shown, rivals, response: Some((surface, optimum)) })
    }

    /// Measures what every search has proposed and lets it propose again. Without a response to measure nothing happens.
    ///
    /// # Errors
    /// As [`SearchLoop::next`].
    pub fn step(&mut self) -> Result<(), SearchError> {
        let Some((surface, _)) = &self.response else { return Ok(()) };
        for search in std::iter::once(&mut self.shown).chain(&mut self.rivals) {
            if let Next::Try(proposed) = &search.next {
                let ranks =
                    Ranks::new(search.search.features().layout(), proposed.ranks.clone()).map_err(BudgetError::from)?;
                search.measure(&ranks, surface)?;
                search.propose(Some(surface))?;
            }
        }
        Ok(())
    }

    /// Whether no step would change anything.
    pub fn is_over(&self) -> bool {
        self.response.is_none() || matches!(self.shown.next, Next::Over(_))
    }

    /// Where the study stands: fits every model on the trials so far.
    pub fn progress(&self) -> Progress {
        let Search { search, next, .. } = &self.shown;
        let study = search.study();
        let few_enough = study.complete().count() <= MOST_TRIALS;
        let curves = match self.response {
            Some(_) => {
                std::iter::once(self.shown.curve(true)).chain(self.rivals.iter().map(|r| r.curve(false))).collect()
            }
            None => Vec::new(),
        };
        let ended = study.trials.iter().filter(|trial| trial.state != TrialState::Running);
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
        let Search { search, next, .. } = &self.shown;
        let number = match next {
            Next::Try(proposed) => proposed.number,
            Next::Over(_) => search.study().next_number(),
        };
        let data = search.study().observations();
        let outcome = model.build().fit(search.features(), &data, proposal_seed(self.seed, number));
        let outcome = outcome.and_then(|fit| {
            let seen = fit.predict(&data.schedules).map_err(|error| FitError::Numeric(error.to_string()))?;
            let left_out = fit.leave_one_out();
            Ok(Fitted {
                seen: seen.into_iter().map(|prediction| prediction.objective).collect(),
                left_out: left_out.predicted.clone(),
                error: left_out.objective,
            })
        });
        Fit { model, outcome: outcome.map_err(|error| error.to_string()) }
    }
}

impl Search {
    fn new(model: Option<ModelKind>, search: SearchLoop) -> Self {
        Self { model, search, next: Next::Over(Ending::TrialsSpent), best: Vec::new() }
    }

    /// Asks for the next trial. Starting schedules are measured at once, where there is a response.
    fn propose(&mut self, surface: Option<&SyntheticSurface>) -> Result<(), SearchError> {
        self.next = loop {
            match (self.search.next()?, surface) {
                (Step::Run(proposal), Some(surface)) if proposal.trial.origin.is_start() => {
                    self.measure(&proposal.trial.ranks, surface)?;
                }
                (Step::Run(proposal), _) => {
                    break Next::Try(Box::new(self.proposed(proposal.trial, proposal.resumed)));
                }
                (Step::Done(reason), _) => break Next::Over(ending(reason)),
            }
        };
        Ok(())
    }

    fn measure(&mut self, ranks: &Ranks, surface: &SyntheticSurface) -> Result<(), SearchError> {
        self.search.record(Outcome::Complete { scores: surface.measure(ranks), wall_seconds: None })?;
        self.best.extend(self.search.study().best().map(|best| surface.expected(&best.ranks)));
        Ok(())
    }

    fn curve(&self, shown: bool) -> Curve {
        Curve { model: self.model, shown, best: self.best.clone() }
    }

    fn proposed(&self, trial: Trial, begun: bool) -> Proposed {
        let best = self.search.study().best();
        let score = best.and_then(|trial| trial.objective).unwrap_or(f64::NEG_INFINITY);
        let why = match trial.origin {
            Origin::Start { name } => Why::Start(name),
            Origin::Random { reason } => Why::Random(reason),
            Origin::Proposed { model, acquisition, predicted, held_out, fitted_on, .. } => {
                let improvement = Improvement::new(predicted, score);
                let expected = acquisition == Acquisition::ExpectedImprovement.name();
                Why::Model(Box::new(ModelChoice {
                    model,
                    rule: acquisition,
                    predicted,
                    value: if expected { improvement.total() } else { predicted.mean },
                    improvement,
                    error: held_out,
                    fitted_on,
                }))
            }
            Origin::Foreign => Why::Foreign,
        };
        let ranks = trial.ranks.as_slice().to_vec();
        Proposed { number: trial.number, ranks, why, begun, best: best.map(|trial| trial.number) }
    }
}

/// The configuration of one search. It goes on for all of its trials: whoever watches can stop it.
fn config(choices: Choices, model: ModelKind, rule: Acquisition) -> SearchConfig {
    SearchConfig {
        starts: choices.starts.min(MOST_TRIALS),
        trials: choices.trials.max(choices.starts).min(MOST_TRIALS),
        patience: usize::MAX,
        model,
        acquisition: rule,
        seed: choices.seed,
        ..SearchConfig::default()
    }
}

fn ending(reason: StopReason) -> Ending {
    match reason {
        StopReason::TrialsSpent => Ending::TrialsSpent,
        StopReason::NoGain => Ending::NoGain,
        StopReason::SpaceExhausted => Ending::SpaceExhausted,
        StopReason::EveryTrialFailed => Ending::EveryTrialFailed,
    }
}

/// The seed that [`SearchLoop`] proposes a trial with, so that the fit that is shown is the one that proposed.
fn proposal_seed(seed: u64, number: usize) -> u64 {
    seed.wrapping_add((number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use hydra_playground::messages::performance::NamedSchedule;
    use hydra_shared::performance::{Estimate, FeatureSpace};
    use hydra_shared::schedule::{Budget, Counting};
    use hydra_shared::search::{StudyMetadata, SyntheticConfig, expected_improvement};
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

    fn synthetic(choices: Choices) -> Begin {
        let starts = vec![
            NamedSchedule { name: "uniform".to_owned(), ranks: vec![8; 14] },
            NamedSchedule { name: "too dear".to_owned(), ranks: vec![9; 14] },
            NamedSchedule { name: "of another model".to_owned(), ranks: vec![1; 7] },
        ];
        let source = StudySource::Synthetic(Synthetic { about: about(), response: SyntheticConfig::default(), starts });
        Begin { id: 7, source, choices }
    }

    fn ridge() -> Choices {
        Choices { starts: 4, trials: 8, model: ModelKind::Ridge, seed: 3, ..Choices::default() }
    }

    fn proposed(live: &Live) -> Proposed {
        match live.progress().next {
            Next::Try(proposed) => *proposed,
            Next::Over(ending) => panic!("{ending:?}"),
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
        assert_eq!(progress.next, Next::Over(Ending::TrialsSpent));
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
            let live = Live::new(synthetic(Choices { model, ..ridge() })).unwrap();
            let next = proposed(&live);
            let Why::Model(choice) = next.why else { panic!("{:?}", next.why) };
            let search = &live.shown.search;
            let data = search.study().observations();
            let fit = model.build().fit(search.features(), &data, proposal_seed(3, next.number)).unwrap();
            let ranks = Ranks::new(search.features().layout(), next.ranks).unwrap();
            let again = fit.predict(&[ranks]).unwrap()[0].objective;
            // Candidates are predicted many at a time, whose sums may round otherwise.
            assert!((again.mean - choice.predicted.mean).abs() < 1e-4, "{again:?} {choice:?}");
            let shown = live.fit(model).outcome.unwrap();
            assert_eq!(shown.error, choice.error);
            assert_eq!((shown.seen.len(), shown.left_out.len()), (4, 4));
        }
    }

    #[test]
    fn a_dropped_study_gets_the_proposal_that_the_trainers_loop_would_make() {
        let study = study();
        let choices = Choices { seed: 11, ..ridge() };
        let begin = Begin { id: 1, source: StudySource::Journal(study.clone()), choices };
        let mut live = Live::new(begin).unwrap();
        let config = SearchConfig {
            starts: 4,
            trials: 99,
            patience: 99,
            model: ModelKind::Ridge,
            seed: 11,
            ..SearchConfig::default()
        };
        let mut trainers = SearchLoop::new(config, study, Vec::new()).unwrap();
        let Step::Run(expected) = trainers.next().unwrap() else { panic!() };
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
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study), choices: ridge() }).unwrap();
        let Why::Random(Some(reason)) = proposed(&live).why else { panic!() };
        assert!(reason.contains("at least 3"), "{reason}");
        for fit in live.progress().fits {
            assert_eq!(fit.outcome.unwrap_err(), reason);
        }
    }

    #[test]
    fn a_study_without_any_trial_and_one_with_too_many_are_told_apart() {
        let mut study = study();
        let empty = Study { trials: Vec::new(), ..study.clone() };
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(empty), choices: ridge() }).unwrap();
        assert_eq!(proposed(&live).best, None);
        let one = study.trials[0].clone();
        study.trials = (0..=MOST_TRIALS).map(|number| Trial { number, ..one.clone() }).collect();
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study), choices: ridge() }).unwrap();
        let progress = live.progress();
        assert_eq!(progress.next, Next::Over(Ending::TooManyTrials));
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
        let live = Live::new(Begin { id: 1, source: StudySource::Journal(study.clone()), choices: ridge() }).unwrap();
        let next = proposed(&live);
        assert_eq!((next.number, next.begun), (7, true));
        assert_eq!(live.progress().trials.len(), 7);

        study.trials.pop();
        let mut model = ModelSpec::preset("smollm2-135m").unwrap();
        model.decoder.layers = 3;
        study.metadata.layout = model.layout().unwrap();
        let refused = Live::new(Begin { id: 1, source: StudySource::Journal(study), choices: ridge() });
        assert!(refused.err().unwrap().to_string().contains("14 modules"));
    }

    #[test]
    fn random_proposals_keep_the_models_beside_them() {
        let live = Live::new(synthetic(Choices { rule: Acquisition::Random, ..ridge() })).unwrap();
        let progress = live.progress();
        assert_eq!(proposed(&live).why, Why::Random(None));
        assert_eq!(progress.curves.iter().map(|curve| curve.model).collect::<Vec<_>>()[0], None);
        assert_eq!(progress.curves.len(), 4);
        assert!(progress.fits.iter().all(|fit| fit.outcome.is_ok()));
    }

    #[test]
    fn the_two_terms_of_the_improvement_agree_with_shared() {
        for (mean, std) in [(1.0, 2.0), (3.0, 0.5), (1.0, 0.0), (2.0, 0.0), (1.4, 1e-3)] {
            let estimate = Estimate { mean, std };
            let terms = Improvement::new(estimate, 1.5);
            assert!((terms.total() - expected_improvement(estimate, 1.5)).abs() < 1e-15);
        }
        assert_eq!(FeatureSpace::new(&about().layout, 8, None).layout().len(), 14);
    }
}
