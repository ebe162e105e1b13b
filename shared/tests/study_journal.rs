//! The study file against Optuna's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

use hydra_shared::layout::Ranks;
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{
    Journal, JournalError, Origin, Study, StudyError, StudyMetadata, Timestamp, Trial, TrialState, TrialStatus,
};
use hydra_shared::vlm::spec::ModelSpec;

/// Written by Optuna 5.0.0: a study with a complete, a pruned, a failed and a queued trial, and a deleted second study.
const BY_OPTUNA: &str = include_str!("fixtures/optuna-5.0.journal");

fn model(layers: usize) -> ModelSpec {
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    model.decoder.layers = layers;
    model
}

fn metadata(name: &str) -> StudyMetadata {
    metadata_of(name, 2)
}

fn metadata_of(name: &str, layers: usize) -> StudyMetadata {
    let layout = model(layers).layout().unwrap();
    StudyMetadata {
        name: name.to_owned(),
        budget: Budget::uniform(&layout, 8, Counting::Parameters),
        layout,
        rank_cap: Some(64),
        base_rank: 8,
        benchmarks: vec!["pope".to_owned(), "gqa".to_owned()],
        profile: None,
    }
}

fn trial(number: usize, state: TrialState) -> Trial {
    let scores = [("pope".to_owned(), 0.1 + 0.2), ("gqa".to_owned(), 1.0 / 3.0)];
    let complete = state == TrialState::Complete;
    let ranks = (0..14).map(|i| 1 + (i + u32::try_from(number).unwrap()) % 8).collect();
    Trial {
        number,
        ranks: Ranks::new(&metadata("").layout, ranks).unwrap(),
        state,
        scores: if complete { scores.into() } else { Default::default() },
        objective: complete.then_some((0.1 + 0.2 + 1.0 / 3.0) / 2.0),
        origin: Origin::Start { name: format!("start-{number}") },
        seed: u64::MAX,
        wall_seconds: (state != TrialState::Running).then_some(12.25),
        error: (state == TrialState::Failed).then(|| "the loss is NaN \u{2014} \"diverged\"\n".to_owned()),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_795_500_996_000_000 + seconds * 1_000_000)
}

/// A study with one trial of every state.
fn example(name: &str, journal: &mut Journal) -> (Study, String) {
    let mut study = Study::new(metadata(name));
    let mut text = journal.begin_study(&study.metadata).unwrap();
    for (number, state) in [TrialState::Complete, TrialState::Failed, TrialState::Running].into_iter().enumerate() {
        let running = trial(number, TrialState::Running);
        text += &journal.begin_trial(&study.metadata, &running, at(10 * number as i64)).unwrap();
        if state != TrialState::Running {
            text += &journal.end_trial(&study.metadata, &trial(number, state), at(10 * number as i64 + 5)).unwrap();
        }
        study.trials.push(trial(number, state));
    }
    (study, text)
}

#[test]
fn a_study_comes_back_from_its_journal_to_the_last_bit() {
    let mut journal = Journal::default();
    let (study, text) = example("a", &mut journal);
    let read = Journal::parse(text.as_bytes()).unwrap();
    assert_eq!(read, journal, "what was appended is what a reader finds");
    assert_eq!(read.study("a").unwrap().to_study().unwrap(), study);
    assert_eq!((read.whole_bytes, read.torn_bytes), (text.len(), 0));
}

#[test]
fn what_becomes_known_of_a_study_is_written_once_and_read_back() {
    let begun = StudyMetadata { benchmarks: Vec::new(), ..metadata("a") };
    let mut journal = Journal::default();
    let mut text = journal.begin_study_with(&begun, &[("mine", serde_json::json!({"x": 1}))]).unwrap();
    assert_eq!(journal.describe(&begun).unwrap(), "");
    text += &journal.describe(&metadata("a")).unwrap();
    assert_eq!(journal.describe(&metadata_of("a", 2)).unwrap(), "");
    let read = Journal::parse(text.as_bytes()).unwrap();
    assert_eq!(read, journal);
    assert_eq!(read.study("a").unwrap().to_study().unwrap().metadata, metadata("a"));
    assert_eq!(read.study("a").unwrap().user_attrs["mine"]["x"], 1);
}

#[test]
fn a_trial_that_is_handed_out_again_keeps_its_number_and_has_a_new_time() {
    let about = metadata("a");
    let mut journal = Journal::default();
    journal.begin_study(&about).unwrap();
    journal.begin_trial(&about, &trial(0, TrialState::Running), at(0)).unwrap();
    assert_eq!(journal.study("a").unwrap().trials[0].asked(), Some(at(0)));
    journal.ask_again(&about, 0, at(60)).unwrap();
    assert_eq!(journal.study("a").unwrap().trials[0].asked(), Some(at(60)));
    assert_eq!(journal.study("a").unwrap().to_study().unwrap().trials, [trial(0, TrialState::Running)]);
    journal.end_trial(&about, &trial(0, TrialState::Complete), at(70)).unwrap();
    assert!(journal.ask_again(&about, 0, at(80)).is_err(), "it has ended");
}

#[test]
fn a_file_can_hold_several_studies() {
    let mut journal = Journal::parse(BY_OPTUNA.as_bytes()).unwrap();
    let (first, one) = example("a", &mut journal);
    let (second, two) = example("b", &mut journal);
    let read = Journal::parse([BY_OPTUNA, &one, &two].concat().as_bytes()).unwrap();
    assert_eq!(read.studies.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["foreign", "a", "b"]);
    assert_eq!(read.study("a").unwrap().to_study().unwrap(), first);
    assert_eq!(read.study("b").unwrap().to_study().unwrap(), second);
    // The deleted study and its trial keep their ids, as in Optuna.
    assert_eq!(read.study("a").unwrap().id, 2);
    assert_eq!(read.study("a").unwrap().trials[0].id, 5);
}

#[test]
fn a_study_by_optuna_is_read_and_refused_as_a_search() {
    let journal = Journal::parse(BY_OPTUNA.as_bytes()).unwrap();
    let study = journal.study("foreign").unwrap();
    assert_eq!(study.user_attrs["note"], "made by Optuna");
    assert_eq!(study.maximise, [true]);
    let states: Vec<_> = study.trials.iter().map(|t| t.status).collect();
    // The queued trial was taken from the queue later and completed.
    assert_eq!(states, [TrialStatus::Complete, TrialStatus::Pruned, TrialStatus::Failed, TrialStatus::Complete]);
    assert_eq!(study.trials[0].values, [6.039_168_337_649_377]);
    assert_eq!(study.trials[0].params["n"], 7.0);
    assert_eq!(study.trials[0].params["c"], "b");
    assert_eq!(study.trials[3].params["x"], 0.5);
    assert_eq!(study.trials[0].started.as_deref(), Some("2026-11-24T06:16:36.669832+00:00"));
    assert_eq!(study.to_study().unwrap_err(), StudyError::Foreign { name: "foreign".to_owned() });
    assert!(journal.study("second").is_none(), "it was deleted");
}

#[test]
fn a_torn_last_line_is_dropped_and_counted_wherever_it_was_cut() {
    let mut journal = Journal::default();
    let (_, text) = example("a", &mut journal);
    let bytes = text.as_bytes();
    for cut in 0..bytes.len() {
        let read = Journal::parse(&bytes[..cut]).unwrap();
        let whole = bytes[..cut].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        assert_eq!((read.whole_bytes, read.torn_bytes), (whole, cut - whole));
    }
    let garbage = [bytes, b"{\"op_co\n"].concat();
    assert_eq!(Journal::parse(&garbage).unwrap().torn_bytes, 8, "a cut line that something ended is torn as well");
}

#[test]
fn a_damaged_line_before_the_last_is_an_error_with_its_number() {
    let mut journal = Journal::default();
    let (_, text) = example("a", &mut journal);
    let mut lines: Vec<&str> = text.lines().collect();
    for (damage, message) in [
        ("{\"op_code\":0,", "not JSON"),
        ("", "not JSON"),
        ("{}", "op_code is missing"),
        ("{\"op_code\":77}", "operation 77 is unknown"),
        ("{\"op_code\":6,\"trial_id\":0,\"state\":9,\"values\":null}", "trial state 9"),
        ("{\"op_code\":2,\"study_id\":0,\"user_attr\":3}", "user_attr is no object"),
    ] {
        lines[3] = damage;
        let error = Journal::parse((lines.join("\n") + "\n").as_bytes()).unwrap_err();
        assert!(matches!(error, JournalError::Corrupt { line: 4, .. }), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_study_whose_beginning_was_torn_is_begun_again_and_a_whole_one_is_not() {
    let about = metadata("a");
    let mut journal = Journal::default();
    let text = journal.begin_study(&about).unwrap();
    assert_eq!(journal.begin_study(&about), Err(JournalError::DuplicateStudy("a".to_owned())));
    let first_lines: String = text.split_inclusive('\n').take(4).collect();
    let mut torn = Journal::parse(first_lines.as_bytes()).unwrap();
    assert!(!torn.study("a").unwrap().is_hydra());
    let again = torn.begin_study(&about).unwrap();
    let read = Journal::parse((first_lines + &again).as_bytes()).unwrap();
    assert_eq!(read.study("a").unwrap().to_study().unwrap(), Study::new(about));
    assert_eq!(read.studies.len(), 1);
}

#[test]
fn trials_are_begun_in_order_and_end_once() {
    let about = metadata("a");
    let mut journal = Journal::default();
    let begin = |journal: &mut Journal, n| journal.begin_trial(&about, &trial(n, TrialState::Running), at(0));
    assert!(matches!(begin(&mut journal, 0), Err(JournalError::UnknownStudy(_))));
    journal.begin_study(&about).unwrap();
    assert!(begin(&mut journal, 1).unwrap_err().to_string().contains("the next number is 0"));
    let end = |journal: &mut Journal, state| journal.end_trial(&about, &trial(0, state), at(1));
    assert!(end(&mut journal, TrialState::Failed).unwrap_err().to_string().contains("never begun"));
    begin(&mut journal, 0).unwrap();
    assert!(end(&mut journal, TrialState::Running).unwrap_err().to_string().contains("has not ended"));
    end(&mut journal, TrialState::Complete).unwrap();
    assert!(end(&mut journal, TrialState::Complete).unwrap_err().to_string().contains("ended already"));
}

#[test]
fn a_changed_attribute_and_another_version_are_named() {
    let mut journal = Journal::default();
    let text = journal.begin_study(&metadata("a")).unwrap();
    let change = |key: &str, value: &str| {
        let line =
            format!("{{\"op_code\":2,\"worker_id\":\"x\",\"study_id\":0,\"user_attr\":{{\"{key}\":{value}}}}}\n");
        Journal::parse((text.clone() + &line).as_bytes()).unwrap().study("a").unwrap().to_study().unwrap_err()
    };
    assert!(matches!(change("benchmarks", "3"), StudyError::Attribute { key, .. } if key == "benchmarks"));
    assert!(matches!(change("hydra_study", "3"), StudyError::Version { found, .. } if found == "3"));
}

#[test]
fn optuna_sees_ten_parameters_that_sum_up_the_ranks() {
    let mut journal = Journal::default();
    let about = metadata_of("a", 3);
    journal.begin_study(&about).unwrap();
    let ranks = (0..21).map(|i| if i < 7 { 1 } else { 1 + i % 7 }).collect();
    let ranks = Ranks::new(&about.layout, ranks).unwrap();
    journal.begin_trial(&about, &Trial { ranks, ..trial(0, TrialState::Running) }, at(0)).unwrap();
    let params = &journal.study("a").unwrap().trials[0].params;
    assert_eq!(params["rank_q"], 1.0);
    assert_eq!(params["rank_down"], 5.0);
    assert_eq!((&params["rank_early"], &params["rank_late"]), (&1.0.into(), &4.0.into()));
    assert_eq!(params.len(), 10);
}

#[test]
fn a_study_of_version_1_has_its_layout_under_the_model() {
    let (_, text) = example("a", &mut Journal::default());
    let model = serde_json::to_string(&model(2)).unwrap();
    let old: String = text
        .lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(attribute) = record.get_mut("user_attr").filter(|attribute| attribute.get("layout").is_some()) {
                *attribute = serde_json::json!({ "model": serde_json::from_str::<serde_json::Value>(&model).unwrap() });
            }
            if record.pointer("/user_attr/hydra_study").is_some() {
                record["user_attr"]["hydra_study"] = 1.into();
            }
            format!("{record}\n")
        })
        .collect();
    let study = |text: &str| Journal::parse(text.as_bytes()).unwrap().study("a").unwrap().to_study().unwrap();
    assert!(study(&old).metadata.layout.same_modules(&study(&text).metadata.layout));
    assert_eq!(study(&old).trials, study(&text).trials);
}

/// What Optuna 5.0.0's `enqueue_trial` appends.
fn enqueued(params: &str, user_attrs: &str) -> String {
    format!(
        "{{\"op_code\":4,\"worker_id\":\"o\",\"study_id\":0,\"datetime_start\":null,\"state\":4,\"value\":null,\"values\":null,\
         \"distributions\":{{}},\"params\":{{}},\"user_attrs\":{user_attrs},\"system_attrs\":{{\"fixed_params\":{params}}},\
         \"intermediate_values\":{{}}}}\n"
    )
}

#[test]
fn a_trial_in_optunas_queue_is_to_be_run_with_the_ranks_that_it_asks_for() {
    let about = metadata("a");
    let begun = Journal::default().begin_study(&about).unwrap();
    let of = |params: &str, attributes: &str| {
        let text = begun.clone() + &enqueued(params, attributes);
        Journal::parse(text.as_bytes()).unwrap().study("a").unwrap().to_study().unwrap()
    };
    // Kinds that are not named get the base rank, 8.
    let study = of(r#"{"rank_q": 2, "rank_down": 4.4}"#, "{}");
    let trial = &study.trials[0];
    assert_eq!((trial.number, trial.state, &trial.origin), (0, TrialState::Running, &Origin::Foreign));
    assert_eq!(trial.ranks.as_slice(), [2, 8, 8, 8, 8, 8, 4, 2, 8, 8, 8, 8, 8, 4]);
    // The first of two layers is the early third, the other the middle one.
    let thirds = of(r#"{"rank_early": 2, "rank_middle": 6}"#, "{}");
    assert_eq!(thirds.trials[0].ranks.as_slice(), [[2; 7], [6; 7]].concat());
    let exact = of("{}", &format!("{{\"ranks\":{:?}}}", [[1; 7], [9; 7]].concat()));
    assert_eq!(exact.trials[0].ranks.as_slice(), [[1; 7], [9; 7]].concat());
    // More than the budget is lowered in proportion.
    let much = of(
        r#"{"rank_q": 64, "rank_k": 64, "rank_v": 64, "rank_o": 64, "rank_gate": 64, "rank_up": 64, "rank_down": 64}"#,
        "{}",
    );
    assert_eq!(much.trials[0].ranks.as_slice(), [8; 14]);
    for (params, reason) in [
        ("{}", "it names no ranks"),
        (r#"{"learning_rate": 0.1}"#, "its parameter \"learning_rate\" is none of rank_q"),
        (r#"{"rank_q": -1}"#, "its parameter \"rank_q\" is -1"),
    ] {
        let study = of(params, "{}");
        assert!(study.trials.is_empty() && study.ignored[0].reason.contains(reason), "{:?}", study.ignored);
    }
}

#[test]
fn a_trial_that_is_taken_out_of_the_queue_runs_and_ends_as_any_other() {
    let about = metadata("a");
    let mut text = Journal::default().begin_study(&about).unwrap() + &enqueued(r#"{"rank_q": 2}"#, "{}");
    let mut journal = Journal::parse(text.as_bytes()).unwrap();
    assert!(journal.is_waiting(&about, 0) && !journal.is_waiting(&about, 1));
    let trial = journal.study("a").unwrap().to_study().unwrap().trials.remove(0);
    let taken = journal.take_waiting(&about, &trial, at(0)).unwrap();
    // Until the last line is whole the trial waits.
    let cut = text.clone() + taken.split_inclusive('\n').next().unwrap();
    assert!(Journal::parse(cut.as_bytes()).unwrap().is_waiting(&about, 0));
    text += &taken;
    let read = Journal::parse(text.as_bytes()).unwrap();
    assert_eq!(read, journal);
    let entry = &read.study("a").unwrap().trials[0];
    assert_eq!((entry.status, entry.params.len(), &entry.params["rank_q"]), (TrialStatus::Running, 9, &2.0.into()));
    assert_eq!(
        read.study("a").unwrap().to_study().unwrap().trials,
        std::slice::from_ref(&trial),
        "a search that is resumed runs it again"
    );
    assert!(journal.take_waiting(&about, &trial, at(1)).is_err());
    let ended = Trial {
        state: TrialState::Complete,
        scores: [("pope".to_owned(), 0.5), ("gqa".to_owned(), 0.25)].into(),
        objective: Some(0.375),
        ..trial
    };
    text += &journal.end_trial(&about, &ended, at(2)).unwrap();
    let read = Journal::parse(text.as_bytes()).unwrap();
    assert_eq!(read.study("a").unwrap().trials[0].values, [0.375]);
    assert_eq!(read.study("a").unwrap().to_study().unwrap().best(), Some(&ended));
}

#[test]
fn a_trial_that_was_told_by_hand_without_ranks_is_named_with_its_value() {
    let about = metadata("a");
    let told = "{\"op_code\":4,\"worker_id\":\"o\",\"study_id\":0,\"datetime_start\":null}\n\
        {\"op_code\":6,\"worker_id\":\"o\",\"trial_id\":0,\"state\":1,\"values\":[30.0]}\n";
    let text = Journal::default().begin_study(&about).unwrap() + told;
    let study = Journal::parse(text.as_bytes()).unwrap().study("a").unwrap().to_study().unwrap();
    assert_eq!(study.ignored[0].reason, "it has no attribute \"ranks\" with a rank per module (its value is 30)");
    assert_eq!(study.next_number(), 1);
}

#[test]
fn the_objective_has_no_name_of_its_own() {
    // Optuna's trials_dataframe() calls its column `value_NAME` where a study has one.
    assert!(!Journal::default().begin_study(&metadata("a")).unwrap().contains("metric_names"));
}
