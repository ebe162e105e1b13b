//! The search as its callers drive it: loop, study and journal together.

#![cfg(feature = "performance")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

use hydra_shared::layout::Ranks;
use hydra_shared::performance::{ModelKind, Observations};
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{
    Journal, Origin, Outcome, Proposal, Rule, Search, SearchConfig, SearchError, SearchSpace, Start, Step, StopReason,
    Study, StudyMetadata, Timestamp, Trial, TrialState,
};
use hydra_shared::vlm::spec::ModelSpec;

fn metadata() -> StudyMetadata {
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    model.decoder.layers = 4;
    let layout = model.layout().unwrap();
    StudyMetadata {
        name: "tests".to_owned(),
        budget: Budget::uniform(&layout, 8, Counting::Parameters),
        layout,
        rank_cap: None,
        base_rank: 8,
        benchmarks: vec!["pope".to_owned(), "gqa".to_owned()],
        profile: None,
    }
}

fn config() -> SearchConfig {
    SearchConfig {
        starts: 4,
        trials: 9,
        patience: 9,
        candidates: 24,
        model: ModelKind::Ridge,
        seed: 5,
        ..SearchConfig::default()
    }
}

fn starts() -> Vec<Start> {
    let uniform = |rank| Ranks::uniform(&metadata().layout, rank);
    vec![Start { name: "uniform".to_owned(), ranks: uniform(8) }, Start { name: "ones".to_owned(), ranks: uniform(1) }]
}

/// Later layers and the feed-forward deserve more rank; with diminishing returns.
fn score(ranks: &[u32]) -> f64 {
    let gain = |i: usize| if i % 7 >= 4 { 2.0 } else { 0.5 } * (1.0 + (i / 7) as f64);
    ranks.iter().enumerate().map(|(i, &r)| gain(i) * (1.0 - 1.0 / f64::from(r + 1))).sum::<f64>() / 100.0
}

fn outcome(trial: &Trial) -> Outcome {
    let score = score(trial.ranks.as_slice());
    let scores = [("gqa".to_owned(), score / 2.0), ("pope".to_owned(), score)];
    Outcome::Complete { scores: scores.into(), wall_seconds: Some(1.5) }
}

fn run(step: Step) -> Proposal {
    match step {
        Step::Run(proposal) => *proposal,
        Step::Done(reason) => panic!("done: {reason:?}"),
    }
}

fn finish(mut search: Search) -> (Search, StopReason) {
    loop {
        match search.ask().unwrap() {
            Step::Run(proposal) => {
                search.tell(proposal.trial.number, outcome(&proposal.trial)).unwrap();
            }
            Step::Done(reason) => return (search, reason),
        }
    }
}

fn search(config: SearchConfig) -> Search {
    Search::new(config, Study::new(metadata()), starts()).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_study_and_another_seed_another() {
    let (a, _) = finish(search(config()));
    let (b, _) = finish(search(config()));
    let (c, _) = finish(search(SearchConfig { seed: 6, ..config() }));
    assert_eq!(a.study(), b.study());
    assert_ne!(a.study().trials[5].ranks, c.study().trials[5].ranks);
}

#[test]
fn starts_come_first_filled_up_at_random_then_the_model_proposes() {
    let (search, reason) = finish(search(config()));
    assert_eq!(reason, StopReason::TrialsSpent);
    let trials = &search.study().trials;
    assert_eq!(trials.len(), 9);
    let names: Vec<_> = trials
        .iter()
        .map(|t| match &t.origin {
            Origin::Start { name } => name.as_str(),
            Origin::Proposed { model, acquisition, .. } => {
                assert_eq!(acquisition, "predicted-mean");
                model.as_str()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["uniform", "ones", "random-3", "random-4", "ridge", "ridge", "ridge", "ridge", "ridge"]);
    assert!(trials.iter().all(|t| t.seed == 5 && t.state == TrialState::Complete));
    assert_eq!(trials[0].scores.keys().collect::<Vec<_>>(), ["pope", "gqa"], "scores take the study's order");
}

#[test]
fn every_model_and_rule_proposes_feasible_maximal_schedules_that_were_never_tried() {
    let about = metadata();
    let space = SearchSpace::new(&about.layout, about.budget, None, None).unwrap();
    for model in ModelKind::ALL {
        for acquisition in Rule::all() {
            let (search, _) = finish(search(SearchConfig { model, acquisition, trials: 6, ..config() }));
            let trials = &search.study().trials;
            for (i, trial) in trials.iter().enumerate().skip(2) {
                let used = about.budget.used(&trial.ranks);
                let maximal = trial.ranks.iter().all(|(module, rank)| {
                    rank >= module.highest_rank(None) || used + about.budget.unit_cost(module) > about.budget.allowed
                });
                assert!(space.contains(&trial.ranks) && maximal, "{model:?} {acquisition:?}");
                assert!(trials[..i].iter().all(|other| other.ranks != trial.ranks));
            }
            let random = trials.iter().filter(|t| matches!(t.origin, Origin::Random { .. })).count();
            assert_eq!(random, if acquisition == Rule::RANDOM { 2 } else { 0 });
        }
    }
}

#[test]
fn proposals_say_what_was_predicted_and_how_far_to_trust_it() {
    let (search, _) = finish(search(config()));
    let Origin::Proposed { predicted, predicted_scores, held_out, fitted_on, .. } = &search.study().trials[6].origin
    else {
        panic!("no proposal");
    };
    assert_eq!(*fitted_on, 6);
    assert_eq!(predicted_scores.keys().collect::<Vec<_>>(), ["pope", "gqa"]);
    let mean = (predicted_scores["pope"].mean + predicted_scores["gqa"].mean) / 2.0;
    assert!((mean - predicted.mean).abs() < 0.05);
    assert!(held_out.rmse > 0.0 && held_out.baseline_rmse > 0.0);
}

#[test]
fn the_search_ends_when_proposals_bring_no_gain() {
    let config = SearchConfig { patience: 2, min_gain: 1e6, trials: 50, ..config() };
    let (search, reason) = finish(search(config));
    assert_eq!(reason, StopReason::NoGain);
    assert_eq!(search.study().trials.len(), 4 + 2);
}

#[test]
fn the_search_ends_when_every_schedule_has_been_tried() {
    let mut about = metadata();
    about.budget = Budget::uniform(&about.layout, 1, Counting::Parameters);
    let search = Search::new(config(), Study::new(about), Vec::new()).unwrap();
    let (search, reason) = finish(search);
    assert_eq!(reason, StopReason::SpaceExhausted);
    assert_eq!(search.study().trials.len(), 1);
}

#[test]
fn the_search_ends_when_every_trial_fails() {
    let mut search = search(config());
    for number in 0..4 {
        run(search.ask().unwrap());
        search.tell(number, Outcome::Failed { error: "loss is NaN".to_owned(), wall_seconds: None }).unwrap();
    }
    assert_eq!(search.ask().unwrap(), Step::Done(StopReason::EveryTrialFailed));
}

#[test]
fn failed_trials_are_kept_never_fitted_on_and_never_proposed_again() {
    let mut search = search(config());
    for number in 0..9 {
        let trial = run(search.ask().unwrap()).trial;
        assert_eq!(trial.number, number);
        let outcome = match number {
            1 => Outcome::Failed { error: "diverged".to_owned(), wall_seconds: Some(2.0) },
            3 => Outcome::Complete {
                scores: [("pope".into(), f64::NAN), ("gqa".into(), 0.5)].into(),
                wall_seconds: None,
            },
            _ => outcome(&trial),
        };
        search.tell(number, outcome).unwrap();
    }
    let trials = &search.study().trials;
    assert_eq!((trials[1].state, trials[1].error.as_deref()), (TrialState::Failed, Some("diverged")));
    assert_eq!(trials[3].error.as_deref(), Some("the score of pope is NaN"));
    // After two complete trials of four there is too little to fit: the fifth is random and says why.
    assert!(matches!(&trials[4].origin, Origin::Random { reason: Some(reason) } if reason.contains("at least 3")));
    assert!(matches!(&trials[5].origin, Origin::Proposed { fitted_on: 3, .. }));
    let failed = &trials[1].ranks;
    assert_eq!(trials.iter().filter(|t| &t.ranks == failed).count(), 1);
}

#[test]
fn a_report_must_name_the_studys_scores_and_belong_to_a_running_trial() {
    let mut search = search(config());
    assert_eq!(
        search.tell(0, Outcome::Failed { error: String::new(), wall_seconds: None }).unwrap_err(),
        SearchError::NotPending(0)
    );
    let first = run(search.ask().unwrap());
    let wrong = Outcome::Complete { scores: [("pope".to_owned(), 0.5)].into(), wall_seconds: None };
    assert!(matches!(search.tell(first.trial.number, wrong), Err(SearchError::Scores { .. })));
    let again = run(search.ask().unwrap());
    assert_eq!((again.trial, again.resumed), (first.trial, true), "it is still to be run");
}

#[test]
fn the_first_trial_with_scores_names_the_benchmarks_of_a_study_that_has_none() {
    let about = StudyMetadata { benchmarks: Vec::new(), ..metadata() };
    let mut search = Search::new(config(), Study::new(about), starts()).unwrap();
    let Step::Run(trials) = search.ask_many(3).unwrap() else { panic!() };
    let told = |scores: &[(&str, f64)]| Outcome::Complete {
        scores: scores.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect(),
        wall_seconds: None,
    };
    assert_eq!(search.tell(trials[0].number, told(&[])), Err(SearchError::NoScores(0)));
    search.tell(trials[0].number, told(&[("z", f64::NAN)])).unwrap();
    assert!(search.study().metadata.benchmarks.is_empty(), "a failed trial names none");
    search.tell(trials[2].number, told(&[("pope", 2.0), ("gqa", 1.0)])).unwrap();
    assert_eq!(search.study().metadata.benchmarks, ["gqa", "pope"], "by name, whichever trial is told first");
    assert!(matches!(search.tell(trials[1].number, told(&[("gqa", 1.0)])), Err(SearchError::Scores { .. })));
    assert_eq!(search.study().best().unwrap().objective, Some(1.5));
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let mut three_layers = ModelSpec::preset("smollm2-135m").unwrap();
    three_layers.decoder.layers = 3;
    let (own, other) = (metadata().layout, three_layers.layout().unwrap());
    for (layout, rank) in [(&own, 9), (&other, 8), (&own, 0)] {
        let start = Start { name: "bad".to_owned(), ranks: Ranks::uniform(layout, rank) };
        let error = Search::new(config(), Study::new(metadata()), vec![start]).unwrap_err();
        assert!(error.to_string().contains("\"bad\""), "{error}");
    }
}

#[test]
fn a_searched_schedule_beats_the_schedules_it_started_with() {
    let (search, _) = finish(search(SearchConfig { trials: 12, patience: 12, ..config() }));
    assert!(!search.study().best().unwrap().origin.is_start());
}

/// Runs a search with a journal beside it, as a trainer would, until its end.
fn run_with_journal(text: &mut String) -> StopReason {
    let mut journal = Journal::parse(text.as_bytes()).unwrap();
    text.truncate(journal.whole_bytes);
    let about = metadata();
    let study = match journal.study(&about.name).filter(|s| s.is_hydra()) {
        Some(study) => study.to_study().unwrap(),
        None => {
            text.push_str(&journal.begin_study(&about).unwrap());
            Study::new(about.clone())
        }
    };
    let mut search = Search::new(config(), study, starts()).unwrap();
    let mut clock = (1..).map(|second| Timestamp::from_unix_micros(second * 1_000_000));
    loop {
        match search.ask().unwrap() {
            Step::Done(reason) => return reason,
            Step::Run(proposal) => {
                if !proposal.resumed {
                    text.push_str(&journal.begin_trial(&about, &proposal.trial, clock.next().unwrap()).unwrap());
                }
                let trial = search.tell(proposal.trial.number, outcome(&proposal.trial)).unwrap();
                text.push_str(&journal.end_trial(&about, trial, clock.next().unwrap()).unwrap());
            }
        }
    }
}

#[test]
fn a_search_that_was_interrupted_at_any_byte_ends_in_the_same_study() {
    let mut whole = String::new();
    assert_eq!(run_with_journal(&mut whole), StopReason::TrialsSpent);
    let expected = Journal::parse(whole.as_bytes()).unwrap().study("tests").unwrap().to_study().unwrap();
    assert_eq!(expected.trials.len(), 9);
    // Every 211th byte: inside and between records of every kind.
    for cut in (0..whole.len()).step_by(211) {
        let mut text = whole[..cut].to_owned();
        assert_eq!(run_with_journal(&mut text), StopReason::TrialsSpent, "cut at {cut}");
        let study = Journal::parse(text.as_bytes()).unwrap().study("tests").unwrap().to_study().unwrap();
        assert_eq!(study, expected, "cut at {cut}");
    }
}

#[test]
fn the_study_read_from_the_journal_is_the_one_that_was_searched() {
    let mut text = String::new();
    run_with_journal(&mut text);
    let (search, _) = finish(search(config()));
    assert_eq!(&Journal::parse(text.as_bytes()).unwrap().study("tests").unwrap().to_study().unwrap(), search.study());
}

/// Begins several trials at once.
fn run_many(search: &mut Search, count: usize) -> Vec<Trial> {
    match search.ask_many(count).unwrap() {
        Step::Run(trials) => trials,
        Step::Done(reason) => panic!("done: {reason:?}"),
    }
}

/// A search by each rule, with a model that is fitted in no time, whose starts have been run.
fn after_the_starts() -> Vec<Search> {
    let by = |rule| search(SearchConfig { acquisition: rule, trials: 12, ..config() });
    let started = Rule::all().map(by).map(|mut search| {
        for trial in run_many(&mut search, 4) {
            search.tell(trial.number, outcome(&trial)).unwrap();
        }
        search
    });
    started.collect()
}

#[test]
fn trials_that_run_at_once_are_different_and_may_be_told_in_any_order() {
    for mut search in after_the_starts() {
        let mut pending = run_many(&mut search, 3);
        pending.extend(run_many(&mut search, 2));
        assert_eq!(pending.iter().map(|trial| trial.number).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
        assert_eq!(search.study().pending().collect::<Vec<_>>(), pending.iter().collect::<Vec<_>>());
        for trial in pending.iter().rev() {
            search.tell(trial.number, outcome(trial)).unwrap();
            assert_eq!(search.tell(trial.number, outcome(trial)), Err(SearchError::NotPending(trial.number)));
        }
        assert_eq!(run_many(&mut search, 9).len(), 3, "no more than the twelve that were asked for");
        let trials = &search.study().trials;
        for (i, trial) in trials.iter().enumerate() {
            assert!(trials[..i].iter().all(|other| other.ranks != trial.ranks), "{:?}", search.config());
        }
    }
}

#[test]
fn asking_for_several_trials_gives_what_asking_for_each_would() {
    for mut at_once in after_the_starts() {
        let mut one_by_one = at_once.clone();
        let expected: Vec<Trial> = (0..3).flat_map(|_| run_many(&mut one_by_one, 1)).collect();
        assert_eq!(run_many(&mut at_once, 3), expected);
    }
    let (mut at_once, mut one_by_one) = (search(config()), search(config()));
    let expected: Vec<Trial> = (0..6).flat_map(|_| run_many(&mut one_by_one, 1)).collect();
    assert_eq!(run_many(&mut at_once, 6), expected);
    let reasons: Vec<bool> =
        expected.iter().map(|trial| matches!(trial.origin, Origin::Random { reason: Some(_) })).collect();
    assert_eq!(reasons, [false, false, false, false, true, true], "without any score the model cannot be asked");
}

#[test]
fn a_pending_trial_counts_as_observed_with_what_the_measured_trials_predict_of_it() {
    let mut search = after_the_starts().swap_remove(0);
    let measured = search.study().clone();
    let pair = run_many(&mut search, 2);
    let proposed = |trial: &Trial| match &trial.origin {
        Origin::Proposed { predicted, held_out, fitted_on, .. } => (*predicted, *held_out, *fitted_on),
        other => panic!("{other:?}"),
    };
    let (features, mut data) = (measured.features(), measured.observations());
    // Ridge has no use for a seed.
    let fit = |data: &Observations| ModelKind::Ridge.build().fit(&features, data, 0).unwrap();
    let on_measured = fit(&data);
    let believed = on_measured.predict(&[pair[0].ranks.clone()]).unwrap().remove(0);
    data.schedules.push(pair[0].ranks.clone());
    data.scores.push(believed.scores.iter().map(|score| score.mean).collect());
    let expected = fit(&data).predict(&[pair[1].ranks.clone()]).unwrap()[0].objective;
    let (predicted, held_out, fitted_on) = proposed(&pair[1]);
    assert!((predicted.mean - expected.mean).abs() < 1e-9 && (predicted.std - expected.std).abs() < 1e-9);
    let without_it = on_measured.predict(&[pair[1].ranks.clone()]).unwrap()[0].objective;
    assert!((predicted.std - without_it.std).abs() > 1e-6, "the belief makes a difference");
    // How far to trust it is what the measured trials alone say.
    assert_eq!((held_out, fitted_on), (on_measured.leave_one_out().objective, 4));
}

#[test]
fn trials_that_still_run_bring_no_end() {
    let patient = SearchConfig { patience: 2, min_gain: 1e6, trials: 50, ..config() };
    let mut search = search(patient);
    for trial in run_many(&mut search, 4) {
        search.tell(trial.number, outcome(&trial)).unwrap();
    }
    let pending = [run_many(&mut search, 2), run_many(&mut search, 1)].concat();
    for trial in &pending[..2] {
        search.tell(trial.number, outcome(trial)).unwrap();
    }
    assert_eq!(search.ask_many(1).unwrap(), Step::Done(StopReason::NoGain));
    // The trial that still runs is told all the same.
    search.tell(pending[2].number, outcome(&pending[2])).unwrap();
    assert_eq!(search.study().pending().count(), 0);
}

#[test]
fn a_study_that_was_left_with_several_trials_running_runs_them_first() {
    let mut left = search(config());
    let begun = run_many(&mut left, 3);
    left.tell(begun[1].number, outcome(&begun[1])).unwrap();
    let mut taken_up = Search::new(config(), left.study().clone(), starts()).unwrap();
    for expected in [0, 2, 3] {
        let proposal = run(taken_up.ask().unwrap());
        assert_eq!((proposal.trial.number, proposal.resumed), (expected, expected < 3));
        taken_up.tell(proposal.trial.number, outcome(&proposal.trial)).unwrap();
    }
}

#[test]
fn a_proposal_without_a_prediction_comes_back_from_the_journal_and_counts_as_one() {
    let about = metadata();
    let mut journal = Journal::default();
    let mut text = journal.begin_study(&about).unwrap();
    let mut random = search(SearchConfig { acquisition: Rule::RANDOM, ..config() });
    let mut trial = run_many(&mut random, 1).remove(0);
    trial.origin = Origin::Chosen { proposer: "halton".to_owned() };
    text.push_str(&journal.begin_trial(&about, &trial, Timestamp::from_unix_micros(0)).unwrap());
    assert!(text.contains(r#""origin":{"kind":"chosen","proposer":"halton"}"#), "{text}");
    let study = Journal::parse(text.as_bytes()).unwrap().study("tests").unwrap().to_study().unwrap();
    assert_eq!(study.trials[0], trial);
    let mut search = Search::new(SearchConfig { starts: 0, patience: 1, ..config() }, study, Vec::new()).unwrap();
    search.tell(0, Outcome::Failed { error: "diverged".to_owned(), wall_seconds: None }).unwrap();
    assert_eq!(search.ask().unwrap(), Step::Done(StopReason::NoGain));
}
