//! Searches over somebody else's training, as a command that is run for every trial.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hydra_shared::search::{Journal, PlainTrial, Study};
use serde_json::{Value, json};

use crate::support::{Run, case, names, read, trainer_in};

/// A search of a few seconds.
pub const SMALL: [&str; 10] = [
    "--model=config.json",
    "--base-rank=4",
    "--set=search.model=ridge",
    "--set=search.starts=3",
    "--set=search.trials=8",
    "--set=search.patience=8",
    "--set=search.candidates=16",
    "--set=search.replicates=0",
    "--set=search.seed=3",
    "--json",
];
pub const TRAIN: &str = "sh train.sh {schedule} {result} {gradients}";

/// A folder with a model's configuration and a training.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "train.sh"] {
        fs::copy(case("training-command").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

pub fn arguments<'a>(name: &'a str, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["search", "--name", name, "--trial", command], &SMALL[..], more].concat()
}

pub fn search(folder: &Path, name: &str, command: &str, more: &[&str]) -> Run {
    trainer_in(folder, &arguments(name, command, more), &[])
}

pub fn resume(folder: &Path, name: &str, more: &[&str]) -> Run {
    let run = format!("runs/{name}");
    trainer_in(folder, &[&["search", "--resume", &run, "--json"], more].concat(), &[])
}

pub fn study_in(file: &Path) -> Study {
    Journal::parse(&read(file)).unwrap().study("hydra").unwrap().to_study().unwrap()
}

pub fn study(folder: &Path, name: &str) -> Study {
    study_in(&folder.join("runs").join(name).join("search/study.journal"))
}

/// The trials without their wall time, which no two runs share.
pub fn trials(study: Study) -> Vec<PlainTrial> {
    study.trials.into_iter().map(|trial| PlainTrial { wall_seconds: None, ..trial.into() }).collect()
}

/// How often the training ran.
pub fn trained(folder: &Path) -> usize {
    fs::read_to_string(folder.join("trained.txt")).unwrap_or_default().lines().count()
}

/// The folder of a trial.
fn trial_folder(folder: &Path, name: &str, number: usize) -> PathBuf {
    let trials = folder.join("runs").join(name).join("search/trials");
    let ranks: BTreeMap<String, u32> =
        study(folder, name).trials[number].ranks.iter().map(|(module, rank)| (module.name.clone(), rank)).collect();
    let is_its = |path: &PathBuf| {
        let schedule: Value = serde_json::from_slice(&read(path.join("schedule.json"))).unwrap();
        schedule["ranks"] == json!(ranks)
    };
    fs::read_dir(trials).unwrap().map(|entry| entry.unwrap().path()).find(is_its).unwrap()
}

/// A gradient log as the training leaves it.
pub fn gradient_log(folder: &Path) {
    let run = search(folder, "log", TRAIN, &["--set=search.trials=1"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    fs::copy(trial_folder(folder, "log", 0).join("gradients.jsonl"), folder.join("grads.jsonl")).unwrap();
    fs::remove_file(folder.join("trained.txt")).unwrap();
}

pub fn start(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Interrupts a program as Ctrl-C does, and waits for its end.
pub fn interrupt(child: &mut Child) {
    // The shell's own, which is there everywhere.
    let kill = format!("kill -s INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

pub fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} never came");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_search_over_a_command_begins_with_uniform_lora_and_leaves_a_configuration_for_peft() {
    let folder = folder();
    let path = folder.path();
    let run = search(path, "a", TRAIN, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document = run.json();
    assert_eq!(document["trials"], 8);
    assert_eq!(trained(path), 8);
    let study = study(path, "a");
    assert_eq!(study.metadata.benchmarks, ["deep", "wide"]);
    assert!(study.metadata.profile.is_some());
    assert!(study.trials[0].ranks.as_slice().iter().all(|rank| *rank == 4), "uniform LoRA");
    let best = study.best().unwrap();
    assert_eq!(document["best"]["trial"], best.number);
    assert_eq!(document["pick"]["basis"], "untested");
    assert_eq!(best.objective, Some((best.scores["deep"] + best.scores["wide"]) / 2.0));
    let files = ["gradients.jsonl", "log.txt", "lora.json", "result.json", "schedule.json"];
    assert_eq!(names(&trial_folder(path, "a", 0)), files);
    let log = String::from_utf8(read(trial_folder(path, "a", 0).join("log.txt"))).unwrap();
    assert!(log.contains("\ntrained with /"), "{log}");
    let picked = document["pick"]["trial"].as_u64().unwrap();
    let its_folder = trial_folder(path, "a", usize::try_from(picked).unwrap());
    assert_eq!(read(path.join("runs/a/search/lora.json")), read(its_folder.join("lora.json")));
    let lora: Value = serde_json::from_slice(&read(its_folder.join("lora.json"))).unwrap();
    assert_eq!(lora["inference_mode"], false);
    assert_eq!(lora["target_modules"].as_array().unwrap().len(), 4 * 7);

    let again = resume(path, "a", &[]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(again.json()["best"], document["best"]);
    assert_eq!(trained(path), 8, "a search that is over runs nothing");
}

#[test]
fn a_killed_search_over_a_command_goes_on_to_the_same_study_and_trains_nothing_twice() {
    let folder = folder();
    let path = folder.path();
    let whole = search(path, "whole", TRAIN, &["--parallel=2"]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    fs::remove_file(path.join("trained.txt")).unwrap();
    let slow = "sh -c 'sh train.sh \"$@\" && sleep 0.3' train {schedule} {result} {gradients}";
    let mut child = start(path, &arguments("killed", slow, &["--parallel=2"]));
    wait_for("the fourth trial", || trained(path) >= 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = resume(path, "killed", &["--trial", TRAIN]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert_eq!(trials(study(path, "killed")), trials(study(path, "whole")));
    assert_eq!(trained(path), 8, "{}", resumed.stderr);
    assert_eq!(read(path.join("runs/killed/search/best.json")), read(path.join("runs/whole/search/best.json")));
}

#[test]
fn an_interrupted_search_ends_its_command_and_all_that_it_started() {
    let folder = folder();
    let path = folder.path();
    let slow = "sh -c 'touch begun; (sleep 4; touch survived) & wait'";
    let mut child = start(path, &arguments("a", slow, &[]));
    wait_for("the command", || path.join("begun").exists());
    interrupt(&mut child);
    sleep(Duration::from_secs(5));
    assert!(!path.join("survived").exists());
    let resumed = resume(path, "a", &["--trial", TRAIN]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
}

#[test]
fn a_failing_command_is_tried_again_then_named_with_the_end_of_its_log_and_can_be_mended() {
    let folder = folder();
    let path = folder.path();
    let failing = "sh -c 'echo attempt >> tried.txt; echo out of memory >&2; exit 7'";
    let run = search(path, "a", failing, &["--trial-retries=1"]);
    let parts = [
        "trial 0",
        "exit code 7 (2 attempts)",
        "log.txt, ends with:\n  out of memory",
        "go on with: trainer search --resume runs/a",
    ];
    run.fails(1, "failure", &parts);
    assert_eq!(fs::read_to_string(path.join("tried.txt")).unwrap().lines().count(), 2);
    let resumed = resume(path, "a", &["--trial", TRAIN]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert_eq!(resumed.json()["trials"], 8);
}

#[test]
fn what_a_command_wrote_before_it_failed_is_no_result_when_the_search_goes_on() {
    let folder = folder();
    let path = folder.path();
    let failing = "sh -c 'sh train.sh \"$@\"; exit 1' train {schedule} {result} {gradients}";
    assert_eq!(search(path, "a", failing, &["--trial-retries=0"]).code, 1);
    let result = trial_folder(path, "a", 0);
    assert!(!result.join("result.json").exists() && result.join("result.refused.json").exists());
    assert_eq!(resume(path, "a", &["--trial", TRAIN]).code, 0);
    assert_eq!(trained(path), 1 + 8);
}

#[test]
fn a_half_written_result_is_run_again() {
    let folder = folder();
    let path = folder.path();
    let half =
        "if [ ! -e tried ]; then touch tried; printf '{\"scores\": {\"deep' > \"$2\"; else sh train.sh \"$@\"; fi";
    fs::write(path.join("half.sh"), half).unwrap();
    let run = search(path, "a", "sh half.sh {schedule} {result} {gradients}", &["--set=search.trials=2"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("only half written") && run.stderr.contains("attempt 2 of 3"), "{}", run.stderr);
    assert_eq!(trained(path), 2);
}

#[test]
fn what_no_search_can_go_on_with_is_named_with_the_trial_and_loses_nothing() {
    let folder = folder();
    let path = folder.path();
    fs::write(path.join("nan.sh"), "sh train.sh \"$@\"; echo '{\"scores\": {\"deep\": NaN}}' > \"$2\"").unwrap();
    for (at, (command, code, kind, parts)) in [
        ("./nowhere {result}", 2, "usage", &["trial 0", "cannot be started: ./nowhere", "--trial"][..]),
        ("true", 3, "data", &["trial 0", "result.json was not written"]),
        ("sh nan.sh {schedule} {result} {gradients}", 5, "numerical", &["trial 0", "result.json", "deep is NaN"]),
        ("sh -c 'echo {} > $0' {result}", 3, "data", &["trial 0", "is not {\"scores\"", "missing field"]),
        ("sh train.sh {schedule} {result}", 3, "data", &["trial 0", "no gradient log", "--gradients LOG"]),
        (
            "sh -c 'echo begun; sleep 60'",
            1,
            "failure",
            &["trial 0", "after 1 s, the limit of --trial-timeout", "begun"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("run-{at}");
        let limit = if command.contains("sleep") { "--trial-timeout=1" } else { "--trial-timeout=100" };
        let run = search(path, &name, command, &["--trial-retries=0", limit]);
        run.fails(code, kind, parts);
        assert!(run.stderr.contains(&format!("--resume runs/{name}")), "{}", run.stderr);
        let resumed = resume(path, &name, &["--trial", TRAIN, "--trial-timeout=100"]);
        assert_eq!(resumed.code, 0, "{command}: {}", resumed.stderr);
        assert_eq!(study(path, &name).complete().count(), 8, "{command}");
    }
}

#[test]
fn a_trial_that_fails_after_others_were_scored_is_counted_and_the_search_goes_on() {
    let folder = folder();
    let path = folder.path();
    for (name, then) in [("exit", "exit 3"), ("nan", "echo '{\"scores\": {\"deep\": NaN, \"wide\": 1}}' > \"$2\"")] {
        fs::write(path.join("t.sh"), format!("sh train.sh \"$1\" \"$2\" \"$3\"\nif [ \"$4\" = 2 ]; then {then}; fi"))
            .unwrap();
        let command = "sh t.sh {schedule} {result} {gradients} {trial}";
        let run = search(path, name, command, &["--trial-retries=0"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("warning: trial 2: "), "{}", run.stderr);
        let study = study(path, name);
        assert_eq!((study.complete().count(), study.trials.len()), (7, 8));
        assert!(study.trials[2].error.as_ref().unwrap().contains("trial 2"));
    }
}

#[test]
fn scores_of_other_tasks_than_the_first_trials_stop_the_search_until_the_command_is_mended() {
    let folder = folder();
    let path = folder.path();
    fs::write(
        path.join("t.sh"),
        "sh train.sh \"$1\" \"$2\" \"$3\"\nif [ \"$4\" = 2 ]; then sed s/deep/deeper/ \"$2\" > r && mv r \"$2\"; fi",
    )
    .unwrap();
    let run = search(path, "a", "sh t.sh {schedule} {result} {gradients} {trial}", &[]);
    run.fails(3, "data", &["trial 2", "result.json", "wide, deeper", "deep, wide", "the same scores in every trial"]);
    let resumed = resume(path, "a", &["--trial", TRAIN]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert_eq!(study(path, "a").complete().count(), 8);
}

#[test]
fn with_two_at_a_time_the_study_is_the_same_whichever_ends_first() {
    let folder = folder();
    let path = folder.path();
    gradient_log(path);
    fs::write(path.join("t.sh"), "sh train.sh \"$1\" \"$2\"\nif [ $((($3 + $4) % 2)) = 0 ]; then sleep 0.3; fi")
        .unwrap();
    for (name, odd) in [("even", "0"), ("odd", "1")] {
        let command = format!("sh t.sh {{schedule}} {{result}} {{trial}} {odd}");
        let run = search(path, name, &command, &["--parallel=2", "--gradients=grads.jsonl"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert_eq!(trials(study(path, "even")), trials(study(path, "odd")));
    let one = search(path, "one", TRAIN, &["--gradients=grads.jsonl"]);
    assert_eq!(one.code, 0, "{}", one.stderr);
    let (one, two) = (trials(study(path, "one")), trials(study(path, "even")));
    assert_eq!(one[..3], two[..3], "the starts are the same");
}

#[test]
fn a_second_submitter_is_told_who_holds_the_study() {
    let folder = folder();
    let path = folder.path();
    let mut first = start(path, &arguments("a", "sh -c 'touch begun; exec sleep 60'", &[]));
    wait_for("the first command", || path.join("begun").exists());
    let begun = Instant::now();
    resume(path, "a", &[]).fails(75, "try_again", &["runs/a", "is being written by process"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits for a whole search");
    interrupt(&mut first);
}

#[test]
fn schedules_for_another_model_are_refused_when_a_search_goes_on() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(search(path, "a", TRAIN, &["--set=search.trials=2"]).code, 0);
    let config = fs::read_to_string(path.join("config.json")).unwrap();
    for (from, to, part) in [
        (
            "\"num_hidden_layers\": 4",
            "\"num_hidden_layers\": 3",
            "model.layers.3.self_attn.q_proj is in no layer of it",
        ),
        (
            "\"intermediate_size\": 64",
            "\"intermediate_size\": 48",
            "mlp.gate_proj is 32×48 there, and 32×64 in the study",
        ),
    ] {
        fs::write(path.join("config.json"), config.replace(from, to)).unwrap();
        resume(path, "a", &[]).fails(3, "data", &["--model config.json", "another model", part]);
    }
    fs::remove_file(path.join("config.json")).unwrap();
    let run = resume(path, "a", &[]);
    assert_eq!(run.code, 0, "the study has all that it needs: {}", run.stderr);
}

#[test]
fn flags_that_say_nothing_or_not_enough_are_usage_errors_that_write_nothing() {
    let folder = folder();
    let path = folder.path();
    let search = |flags: &[&str]| trainer_in(path, &[&["search", "--json"], flags].concat(), &[]);
    search(&["--parallel=2"]).fails(2, "usage", &["--parallel", "--trial COMMAND"]);
    search(&["--model=config.json"]).fails(2, "usage", &["--trial COMMAND"]);
    search(&["--trial=t {result}", "--base-rank=4"]).fails(2, "usage", &["--model"]);
    search(&["--trial=t {result}", "--model=config.json"]).fails(2, "usage", &["--base-rank"]);
    let whole = ["--model=config.json", "--base-rank=4"];
    search(&[&["--trial=t {loar}"], &whole[..]].concat()).fails(2, "usage", &["{loar} is no placeholder", "{lora}"]);
    search(&[&["--trial=t", "--set=training.steps=3"], &whole[..]].concat()).fails(2, "usage", &["training.steps"]);
    search(&[&["--trial=t", "--include=lm_head"], &whole[..]].concat()).fails(2, "usage", &["--gradients LOG"]);
    search(&[&["--trial=t", "--exclude=."], &whole[..]].concat()).fails(2, "usage", &["leaves no module"]);
    search(&[&["--trial=t", "--trial-gpus=0.5"], &whole[..]].concat()).fails(2, "usage", &["gpus is 0.5", "only Ray"]);
    search(&[&["--trial=t", "--trial-resource=tpu"], &whole[..]].concat()).fails(2, "usage", &["NAME=AMOUNT"]);
    let ray = ["--trial=t", "--executor=ray", "--trial-gpus=0.5", "--trial-resource=tpu=2", "--dry-run"];
    let ray = search(&[&ray, &whole[..]].concat()).json();
    assert_eq!(ray["config"]["trial"]["resources"]["custom"], json!({ "tpu": 2.0 }));
    let four = search(&[&["--trial=t", "--executor=local:4", "--dry-run"], &whole[..]].concat()).json();
    assert_eq!(four["config"]["trial"]["parallel"], 4);
    let dry = search(&[&["--trial=t {lora}", "--exclude=mlp", "--dry-run"], &whole[..]].concat());
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    assert_eq!(dry.json()["modules"], 4 * 4);
    assert!(dry.json()["command"].as_str().unwrap().ends_with("/lora.json"));
    assert_eq!(names(path), ["config.json", "train.sh"]);
}
