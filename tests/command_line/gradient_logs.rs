//! `trainer plan` with the logs that people bring: each gives the norms of its run, or says what helps.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Run, trainer, trainer_in};

/// A file of `tests/data`.
fn data(name: &str) -> String {
    format!("{}/../tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A plan for the small model of the cases.
fn plan_of_case(name: &str, more: &[&str]) -> Run {
    let (log, model) = (data(&format!("gradient-logs/{name}")), data("gradient-logs/config.json"));
    let arguments = ["plan", "--gradients", &log, "--model", &model, "--base-rank", "2", "--json"];
    trainer(&[&arguments, more].concat())
}

fn layer_norms(run: &Run) -> Vec<f64> {
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.json()["layer_norms"].as_array().unwrap().iter().map(|norm| norm.as_f64().unwrap()).collect()
}

/// Norms to three digits.
fn are(run: &Run, expected: [f64; 2]) {
    let norms = layer_norms(run);
    assert_eq!(norms.len(), 2);
    for (norm, expected) in norms.iter().zip(expected) {
        assert!((norm / expected - 1.0).abs() < 0.05, "{norms:?}, not {expected:?}");
    }
}

#[test]
fn json_lists_quoted_numbers_and_bare_names_are_read() {
    for name in ["list-of-rows.json.gz", "numbers-as-text.jsonl.gz", "bare-parameter-names.jsonl.gz"] {
        are(&plan_of_case(name, &[]), [0.014, 0.055]);
    }
}

#[test]
#[cfg(unix)]
fn a_log_that_comes_through_a_pipe_is_read_though_it_can_be_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("log");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let log = fs::read(data("gradient-logs/bare-parameter-names.jsonl.gz")).unwrap();
    let (to, model) = (pipe.clone(), data("gradient-logs/config.json"));
    let writer = std::thread::spawn(move || fs::write(to, log));
    let pipe = pipe.display().to_string();
    are(&trainer(&["plan", "--gradients", &pipe, "--model", &model, "--base-rank", "2", "--json"]), [0.014, 0.055]);
    writer.join().unwrap().unwrap();
}

#[test]
fn a_histogram_of_zeros_is_a_norm_of_zero() {
    are(&plan_of_case("histogram-of-zeros.jsonl.gz", &[]), [0.0108, 0.0437]);
}

#[test]
fn norms_that_are_all_zero_are_a_numerical_error() {
    plan_of_case("all-zero.jsonl.gz", &[]).fails(
        5,
        "numerical",
        &["all-zero.jsonl.gz", "every norm after warm-up is 0"],
    );
}

#[test]
fn of_two_runs_in_one_file_one_is_asked_for() {
    plan_of_case("two-runs.csv.gz", &[]).fails(2, "usage", &["two-runs.csv.gz", "2 runs: run-a, run-b", "--run NAME"]);
    let (a, b) =
        (plan_of_case("two-runs.csv.gz", &["--run", "run-a"]), plan_of_case("two-runs.csv.gz", &["--run", "run-b"]));
    let ratios: Vec<f64> = layer_norms(&b).iter().zip(layer_norms(&a)).map(|(b, a)| b / a).collect();
    assert!(ratios.iter().all(|ratio| (ratio - 100.0).abs() < 5.0), "{ratios:?}");
    plan_of_case("two-runs.csv.gz", &["--run", "c"]).fails(2, "usage", &["no run \"c\", but run-a, run-b"]);
}

#[test]
fn a_run_that_tensorboard_saw_restarted_ends_where_the_restart_ended() {
    let run = plan_of_case("tensorboard-restart", &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["steps"]["last"], 12);
    assert!(run.stderr.contains("the run was started again at step 10"), "{}", run.stderr);
}

fn ranks(run: &Run) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.json()["ranks"].clone()
}

#[test]
fn the_file_of_every_tracker_gives_the_same_ranks() {
    let plan = |folder: &Path, log: &str| {
        let model = data("tracker-logs/config.json");
        trainer_in(
            folder,
            &["plan", "--gradients", log, "--model", &model, "--base-rank", "8", "--json", "--quiet"],
            &[],
        )
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = ranks(&plan(here, &data("tracker-logs/reference-grads.jsonl.gz")));
    assert_eq!(reference.as_object().map(serde_json::Map::len), Some(21));
    for name in ["flat.wandb.gz", "trackio.db.gz", "mlflow.db.gz", "wide.parquet.gz", "records.json.gz", "long.csv.gz"]
    {
        assert_eq!(ranks(&plan(here, &data(&format!("tracker-logs/{name}")))), reference, "{name}");
    }
}

#[test]
fn a_folder_of_folders_is_looked_through_and_its_runs_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = data("gradient-logs/config.json");
    let log = fs::read(data("gradient-logs/list-of-rows.json.gz")).unwrap();
    let put = |path: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &log).unwrap();
    };
    put("runs/first/log.json.gz");
    fs::write(folder.path().join("runs/README.md"), "My runs.\n").unwrap();
    let plan = |more: &[&str]| {
        let arguments = ["plan", "--gradients", "runs", "--model", &model, "--base-rank", "2", "--json"];
        trainer_in(folder.path(), &[&arguments, more].concat(), &[])
    };
    are(&plan(&[]), [0.014, 0.055]);
    put("runs/second/log.json.gz");
    plan(&[]).fails(2, "usage", &["it holds 2 runs: first, second"]);
    are(&plan(&["--run", "second"]), [0.014, 0.055]);
}
