//! A study as a conversation: `trainer study create | ask | tell | best | status`.

#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::outside::{SMALL, TRAIN, folder, gradient_log, search, study, study_in, trials, wait_for};
use crate::support::{Run, read, trainer_in};

/// A study to ask and tell.
fn create(folder: &Path, more: &[&str]) -> Run {
    trainer_in(folder, &[&["study", "create", "s.journal"], &SMALL[..], more].concat(), &[])
}

fn ask(folder: &Path) -> Value {
    let run = trainer_in(folder, &["study", "ask", "s.journal", "--json"], &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.json()
}

fn tell(folder: &Path, trial: &Value, more: &[&str]) -> Run {
    trainer_in(folder, &[&["study", "tell", "s.journal", &trial["number"].to_string(), "--json"], more].concat(), &[])
}

/// The playground's worker wrote the file.
#[test]
fn a_study_that_was_begun_in_the_page_goes_on_with_the_trainer() {
    let folder = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/page-study.journal");
    fs::copy(file, folder.path().join("s.journal")).unwrap();
    let status = trainer_in(folder.path(), &["study", "status", "s.journal", "--json"], &[]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    let status = status.json();
    let told = ["trials", "complete", "failed", "running", "most"].map(|key| status[key].as_u64().unwrap());
    assert_eq!(told, [5, 3, 1, 1, 8]);
    assert_eq!(status["awaits_profile"], false);
    // What the page handed out is told here, and the next is asked for.
    let tell = ["study", "tell", "s.journal", "4", "--scores", "{\"vqa\": 55.5}", "--json"];
    let run = trainer_in(folder.path(), &tell, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(ask(folder.path())["trial"]["number"], 5);
}

#[test]
fn a_conversation_gives_the_study_that_a_search_gives() {
    let folder = folder();
    let path = folder.path();
    gradient_log(path);
    let flags = ["--gradients=grads.jsonl", "--set=search.replicates=4"];
    let run = search(path, "a", TRAIN, &flags);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let created = create(path, &flags);
    assert_eq!(created.code, 0, "{}", created.stderr);
    let stopped = loop {
        let asked = ask(path);
        let trial = &asked["trial"];
        if trial.is_null() {
            break asked["stopped"].clone();
        }
        let [schedule, result] = ["schedule", "result"].map(|key| trial[key].as_str().unwrap());
        assert!(Command::new("sh").args(["train.sh", schedule, result]).current_dir(path).status().unwrap().success());
        assert_eq!(tell(path, trial, &[]).code, 0);
    };
    assert_eq!(stopped, run.json()["stopped"]);
    assert_eq!(trials(study_in(&path.join("s.journal"))), trials(study(path, "a")));
    let best = trainer_in(path, &["study", "best", "s.journal", "--peft", "best-lora.json"], &[]);
    assert_eq!(best.code, 0, "{}", best.stderr);
    let [said, found]: [Value; 2] = [best.stdout.as_bytes().to_vec(), read(path.join("runs/a/search/best.json"))]
        .map(|text| serde_json::from_slice(&text).unwrap());
    assert_eq!(said, found);
    assert_eq!(read(path.join("best-lora.json")), read(path.join("runs/a/search/lora.json")));
    // This training has no luck: what it found is better with every seed, or with none.
    let pick = &run.json()["pick"];
    let best = trainer_in(path, &["study", "best", "s.journal", "--json"], &[]).json();
    assert_eq!([&best["trial"], &best["basis"]], [&pick["trial"], &pick["basis"]]);
    assert_eq!(best["last_round"], pick["last_round"]);
    let round = &pick["last_round"];
    let better = round["difference"].as_f64().unwrap() > 0.0;
    assert_eq!([&round["seeds"], &round["probability"]], [&json!(2), &json!(if better { 1.0 } else { 0.0 })]);
    let (basis, recommended) = if better { ("shown", "found") } else { ("not-shown", "safe") };
    assert_eq!([&pick["basis"], &pick["trial"]], [&json!(basis), &round[recommended]]);
    let again = study(path, "a").trials.iter().filter(|trial| trial.origin.is_replicate()).count();
    assert!((9..=13).contains(&again), "{again}");
    let status = trainer_in(path, &["study", "status", "s.journal", "--json"], &[]).json();
    assert_eq!([&status["complete"], &status["running"], &status["most"]], [&json!(8 + again), &json!(0), &json!(8)]);
    assert_eq!([&status["trials"], &status["replicates"]], [&json!(8), &json!(again)]);
}

#[test]
fn a_number_of_fresh_seeds_that_gives_no_interval_is_refused() {
    let folder = folder();
    for command in [&["search", "--trial", TRAIN][..], &["study", "create", "s.journal"]] {
        let arguments = [command, &SMALL[..], &["--set=search.replicates=3"]].concat();
        trainer_in(folder.path(), &arguments, &[]).fails(2, "usage", &["search.replicates must be 0, or from 4"]);
    }
}

#[test]
fn two_who_ask_get_different_trials_and_one_that_is_never_told_is_asked_again() {
    let folder = folder();
    let path = folder.path();
    gradient_log(path);
    create(path, &["--gradients=grads.jsonl", "--expires=6"]);
    let (first, second) = (ask(path)["trial"].clone(), ask(path)["trial"].clone());
    assert_eq!([&first["number"], &second["number"]], [&json!(0), &json!(1)]);
    assert_ne!(first["lora"], second["lora"]);
    assert_eq!(tell(path, &second, &["--scores", "{\"a\": 0.5, \"b\": 2}"]).code, 0);
    let status = || trainer_in(path, &["study", "status", "s.journal", "--json"], &[]).json();
    wait_for("the end of the first trial's time", || status()["expired"] == 1);
    let again = ask(path)["trial"].clone();
    assert_eq!([&again["number"], &again["again"], &again["lora"]], [&json!(0), &json!(true), &first["lora"]]);
    assert_eq!(ask(path)["trial"]["number"], 2, "its time begins anew");
}

#[test]
fn tell_refuses_what_is_unknown_told_not_finite_or_of_other_tasks() {
    let folder = folder();
    let path = folder.path();
    gradient_log(path);
    create(path, &["--gradients=grads.jsonl"]);
    let first = json!({ "number": 0 });
    tell(path, &first, &["--scores", "{\"a\": 1}"]).fails(2, "usage", &["trial 0 is unknown", "`ask` gives one"]);
    ask(path);
    let scores = |scores: &'static str| tell(path, &first, &["--scores", scores]);
    scores("{\"a\": NaN}").fails(5, "numerical", &["trial 0", "the score of a is NaN or infinite"]);
    scores("{\"a\": 1, \"b\": -Infinity}").fails(5, "numerical", &["trial 0", "the score of b"]);
    scores("{}").fails(3, "data", &["trial 0", "holds no score"]);
    scores("half").fails(2, "usage", &["--scores is not {\"task\": number"]);
    tell(path, &first, &[]).fails(3, "data", &["trial 0", "result.json was not written"]);
    tell(path, &json!({ "number": 7 }), &["--scores", "{\"a\": 1}"]).fails(
        2,
        "usage",
        &["trial 7 is unknown", "trial 0"],
    );
    assert_eq!(scores("{\"a\": 1}").code, 0);
    scores("{\"a\": 2}").fails(2, "usage", &["trial 0 was told already, with 1"]);
    ask(path);
    let second = json!({ "number": 1 });
    tell(path, &second, &["--scores", "{\"b\": 1}"]).fails(
        3,
        "data",
        &["trial 1", "\"a\"", "\"b\"", "still to be told"],
    );
    assert_eq!(tell(path, &second, &["--failed", "out of memory"]).json()["state"], "failed");
    let study = study_in(&path.join("s.journal"));
    assert_eq!(study.trials.iter().map(|trial| trial.objective).collect::<Vec<_>>(), [Some(1.0), None]);
    assert_eq!(study.trials[1].error.as_deref(), Some("out of memory"));
    create(path, &["--gradients=grads.jsonl"]).fails(2, "usage", &["s.journal", "a study in this file already"]);
    let missing = trainer_in(path, &["study", "ask", "none.journal", "--json"], &[]);
    missing.fails(3, "data", &["none.journal", "trainer study create"]);
}

#[test]
fn without_a_log_the_first_trial_is_told_with_its_own_and_the_others_wait_for_it() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(create(path, &[]).json()["awaits_profile"], true);
    let first = ask(path)["trial"].clone();
    let [schedule, result, gradients] = ["schedule", "result", "gradients"].map(|key| first[key].as_str().unwrap());
    let waiting = trainer_in(path, &["study", "ask", "s.journal", "--json"], &[]);
    waiting.fails(75, "try_again", &["trial 0", "tell it first", "--gradients LOG"]);
    tell(path, &first, &["--scores", "{\"a\": 1}"]).fails(2, "usage", &["trial 0", "--gradients LOG"]);
    assert_eq!(tell(path, &first, &["--failed", "the disk was full"]).json()["state"], "asked again");
    assert_eq!(ask(path)["trial"]["again"], true);
    let train = Command::new("sh").args(["train.sh", schedule, result, gradients]).current_dir(path).status();
    assert!(train.unwrap().success());
    let told = tell(path, &first, &[]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(ask(path)["trial"]["origin"]["name"], "coarse");
    assert!(study_in(&path.join("s.journal")).metadata.profile.is_some());
}
