use hydra_playground::messages::performance::{Measured, OWN_STUDY};
use hydra_playground::samples::Sample;
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{Basis, Journal, Origin, PlainStart, StudyMetadata, SyntheticConfig};
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
    let mut live = Live::new(synthetic(ridge()), now()).unwrap();
    while !live.is_over() {
        live.step().unwrap();
    }
    live.shown.search.study().clone()
}

#[test]
fn beginning_measures_the_starts_and_stepping_measures_what_was_proposed() {
    let mut live = Live::new(synthetic(ridge()), now()).unwrap();
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
    let mut live = Live::new(synthetic(ridge()), now()).unwrap();
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
        let live = Live::new(synthetic(SearchConfig { model, ..ridge() }), now()).unwrap();
        let next = proposed(&live);
        let Origin::Proposed { predicted, held_out, .. } = next.origin else { panic!("{:?}", next.origin) };
        let study = live.shown.search.study();
        let fit = model.build().fit(&study.features(), &study.observations(), proposal_seed(3, next.number)).unwrap();
        let ranks = Ranks::new(&study.metadata.layout, next.ranks).unwrap();
        let again = fit.predict(&[ranks]).unwrap()[0].objective;
        // Candidates are predicted many at a time, whose sums may round otherwise.
        assert!((again.mean - predicted.mean).abs() < 1e-4, "{again:?} {predicted:?}");
        let shown = live.fit(model).outcome.unwrap();
        assert_eq!(shown.error, held_out);
        assert_eq!((shown.seen.len(), shown.left_out.len()), (4, 4));
    }
}

#[test]
fn a_dropped_study_gets_the_proposal_that_the_trainers_loop_would_make() {
    let study = study();
    let config = SearchConfig { seed: 11, ..ridge() };
    let begin = Begin { id: 1, source: of_journal(&study), config };
    let mut live = Live::new(begin, now()).unwrap();
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
    let live = Live::new(Begin { id: 1, source: of_journal(&study), config: ridge() }, now()).unwrap();
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
    let live = Live::new(Begin { id: 1, source: of_journal(&empty), config: ridge() }, now()).unwrap();
    assert_eq!(proposed(&live).best, None);
    let one = study.trials[0].clone();
    study.trials = (0..=MOST_TRIALS).map(|number| Trial { number, ..one.clone() }).collect();
    let live = Live::new(Begin { id: 1, source: of_journal(&study), config: ridge() }, now()).unwrap();
    let progress = live.progress();
    assert_eq!(progress.next, Next::TooManyTrials);
    assert!(progress.fits.is_empty() && progress.trials.len() == MOST_TRIALS + 1);
}

#[test]
fn a_trial_that_was_begun_elsewhere_comes_back() {
    let mut study = study();
    if let Some(last) = study.trials.last_mut() {
        last.state = TrialState::Running;
        last.objective = None;
        last.scores.clear();
    }
    let live = Live::new(Begin { id: 1, source: of_journal(&study), config: ridge() }, now()).unwrap();
    let next = proposed(&live);
    assert_eq!((next.number, next.begun), (7, true));
    assert_eq!(live.progress().trials.len(), 7);
}

#[test]
fn random_proposals_keep_the_models_beside_them() {
    let live = Live::new(synthetic(SearchConfig { acquisition: Rule::RANDOM, ..ridge() }), now()).unwrap();
    let progress = live.progress();
    assert_eq!(proposed(&live).origin, Origin::Random { reason: None });
    assert_eq!(progress.curves.iter().map(|curve| curve.model).collect::<Vec<_>>()[0], None);
    assert_eq!(progress.curves.len(), 4);
    assert!(progress.fits.iter().all(|fit| fit.outcome.is_ok()));
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(1_700_000_000_000_000)
}

/// The file of a study, as a search of the trainer's own leaves it.
fn journal(study: &Study) -> String {
    let (mut journal, about) = (Journal::default(), &study.metadata);
    let mut text = journal.begin_study(about).unwrap();
    for trial in &study.trials {
        text += &journal.begin_trial(about, &Trial { state: TrialState::Running, ..trial.clone() }, now()).unwrap();
        if trial.state != TrialState::Running {
            text += &journal.end_trial(about, trial, now()).unwrap();
        }
    }
    text
}

fn of_journal(study: &Study) -> StudySource {
    StudySource::Journal(Box::new(Measured::of_study(study, journal(study))))
}

/// A study that a person begins in the page.
fn begun() -> Begin {
    let mut session = hydra_playground::session::Session::of_sample(Sample::TinyMobileVlm);
    session.peft.dropout = 0.05;
    let measured = Measured::of_session(&session).unwrap();
    let config = SearchConfig { trials: 8, replicates: 4, ..ridge() };
    Begin { id: 9, source: StudySource::Journal(Box::new(measured)), config }
}

#[test]
fn a_study_that_is_measured_elsewhere_is_asked_told_saved_and_goes_on_from_its_file_to_a_verdict() {
    let worth = |ranks: &[u32]| 50.0 + ranks.iter().rev().take(14).map(|rank| f64::from(*rank)).sum::<f64>() / 10.0;
    let mut live = Live::new(begun(), now()).unwrap();
    let first = proposed(&live);
    assert_eq!((first.number, &first.origin), (0, &Origin::Start { name: "uniform".to_owned() }));
    // A score that is none is refused, and nothing is lost.
    assert!(live.tell(0, Ok(Vec::new()), now()).is_err());
    assert!(live.tell(7, Ok(vec![("vqa".to_owned(), 1.0)]), now()).is_err());
    for _ in 0..3 {
        let next = proposed(&live);
        live.tell(next.number, Ok(vec![("vqa".to_owned(), worth(&next.ranks))]), now()).unwrap();
    }
    live.tell(3, Err("out of memory".to_owned()), now()).unwrap();

    // Next week, from the file, whose last line was torn.
    let kept = live.progress().written.unwrap();
    assert_eq!(
        (kept.trials, kept.ended, kept.benchmarks.as_slice()),
        (5, 4, &["vqa".to_owned()][..]),
        "what was handed out stands in it"
    );
    // A test of the trainer goes on with this file.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/page-study.journal");
    if std::env::var_os("UPDATE_SAMPLES").is_some() {
        std::fs::write(file, &kept.text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), kept.text, "{file} is stale: set UPDATE_SAMPLES=1");
    let text = format!("{}{{\"op_code\": 6, \"wor", kept.text);
    let study = Journal::parse(text.as_bytes()).unwrap().study(OWN_STUDY).unwrap().to_study().unwrap();
    let source = StudySource::Journal(Box::new(Measured::of_study(&study, text)));
    let mut live = Live::new(Begin { id: 10, source, config: SearchConfig { trials: 99, ..ridge() } }, now()).unwrap();
    assert!(proposed(&live).begun, "the trial that was handed out comes first");
    let mut replicated = false;
    while let Next::Try(next) = live.progress().next {
        replicated |= next.origin.is_replicate();
        live.tell(next.number, Ok(vec![("vqa".to_owned(), worth(&next.ranks))]), now()).unwrap();
    }
    let progress = live.progress();
    assert_eq!(progress.trials.len(), 8, "as the file says, not the page's choices");
    assert!(replicated && progress.fresh.len() >= 4);
    let pick = progress.pick.unwrap();
    assert!(pick.last_round.is_some());
    assert_eq!(progress.trials[3].error.as_deref(), Some("out of memory"));
}

#[test]
fn what_was_told_last_is_taken_back_its_trial_is_asked_again_and_the_file_is_as_it_was() {
    let mut live = Live::new(begun(), now()).unwrap();
    let asked = live.progress().written.unwrap();
    assert_eq!(asked.told, None);
    assert!(live.take_back().is_err(), "nothing was told");
    // A slip, in the score and in its name.
    live.tell(0, Ok(vec![("vqs".to_owned(), 6.15)]), now()).unwrap();
    assert_eq!(live.progress().written.unwrap().told, Some(0));
    live.take_back().unwrap();
    assert_eq!(live.progress().written.unwrap(), asked);
    let next = proposed(&live);
    assert_eq!((next.number, next.begun), (0, true));
    for score in [61.5, 62.0, 60.5] {
        let number = proposed(&live).number;
        live.tell(number, Ok(vec![("vqa".to_owned(), score)]), now()).unwrap();
    }
    live.tell(3, Err("out of memory".to_owned()), now()).unwrap();
    // One after the other, and of what was told here alone.
    for number in [3, 2] {
        assert_eq!(live.progress().written.unwrap().told, Some(number));
        live.take_back().unwrap();
        assert_eq!(proposed(&live).number, number);
    }
    let written = live.progress().written.unwrap();
    let kept = Journal::parse(written.text.as_bytes()).unwrap().study(OWN_STUDY).unwrap().to_study().unwrap();
    let scores: Vec<Option<f64>> = kept.trials.iter().map(|trial| trial.objective).collect();
    assert_eq!((scores, written.ended), (vec![Some(61.5), Some(62.0), None], 2));
    let source = StudySource::Journal(Box::new(Measured::of_study(&kept, written.text)));
    let mut opened = Live::new(Begin { id: 10, source, config: ridge() }, now()).unwrap();
    assert_eq!(opened.progress().written.unwrap().told, None, "somebody may have gone on from that file");
    assert!(opened.take_back().is_err());
}

#[test]
fn a_search_on_a_made_up_response_ends_with_a_recommendation_from_fresh_seeds() {
    let mut live = Live::new(synthetic(SearchConfig { replicates: 8, ..ridge() }), now()).unwrap();
    assert_eq!(live.progress().pick.unwrap().basis, Basis::Untested);
    while !live.is_over() {
        live.step().unwrap();
    }
    let progress = live.progress();
    let last = progress.pick.unwrap().last_round.unwrap();
    assert_eq!(last.seeds, 4);
    assert_eq!((progress.trials.len(), progress.truths.len(), progress.curves[0].best.len()), (8, 8, 8));
    let scores: Vec<f64> = progress.fresh.iter().filter(|(of, _)| *of == last.found).map(|(_, score)| *score).collect();
    assert!(scores.len() == 8 && scores.windows(2).all(|pair| pair[0] != pair[1]), "each seed has its own noise");
    let mean = scores.iter().sum::<f64>() / 8.0;
    assert!((mean - progress.truths[last.found]).abs() < 0.5, "around the worth");
}
