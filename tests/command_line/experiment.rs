//! `experiment`: raw results that do not depend on how often it was stopped, and a page that follows from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hydra_shared::search::{Journal, Origin};
use serde_json::Value;

use crate::support::{Run, trainer_in};

/// Where rank is worth most, on replicates of its own: what follows the settings.
pub const GROUPS: &str = r#"
[report]
replicates = { first = 301, count = 2 }

[[arms]]
name = "uniform"
ranks = { uniform = 4 }

[[arms]]
name = "more in q"
ranks = { concentrate = { modules = "q_proj", share = 0.25 } }
"#;

/// Fine-tunes of three steps: nothing is learned, everything is run.
pub const SMALL: &str = r#"
question = "Does it run?"
about = "Three steps."
order = 1
steps = [3]
fresh-pictures = true
baseline = "uniform"

[settings]
plan.base_rank = 4
data.train_pictures = 16
data.validation_pictures = 4
data.test_pictures = 4
training.batch_size = 2
training.optimizer.projector_learning_rate = 2e-3

[tuning]
whose = "baseline"
replicates = { first = 1, count = 1 }
rates = [5e-3, 1e-2]

[report]
replicates = { first = 101, count = 2 }
full = "full"
signals = true
nested = { steps = [4], replicates = { first = 201, count = 2 } }
replay = { trials = [3], repetitions = 4, transformer-repetitions = 2, gains-of = "groups" }

[[arms]]
name = "uniform"
ranks = { uniform = 4 }

[[arms]]
name = "HyDRA"
ranks = { schedule = "hydra" }
plan = { stages = 2, delta = 1 }

[[arms]]
name = "more in q"
ranks = { concentrate = { modules = "q_proj", share = 0.25 } }

[[arms]]
name = "more in layer 0"
ranks = { concentrate = { modules = "layers\\.0\\.", share = 0.25 } }

[[arms]]
name = "its scales alone"
ranks = { uniform = 4 }
scale-of = { concentrate = { modules = "layers\\.0\\.", share = 0.25 } }

[[arms]]
name = "HyDRA, norms of 2 steps"
ranks = { schedule = "hydra" }
profile-steps = 2

[[arms]]
name = "q and k dropped"
ranks = { hold = { modules = "[qk]_proj", rank = 0 } }

[[arms]]
name = "random"
ranks = { random = 3 }
count = 4

[[arms]]
name = "full"
train = "decoder"

[[rules]]
name = "B"
meaning = "nothing is far ahead."
below = 10.0
by = "high"
"#;

fn run(folder: &Path, arguments: &[&str]) -> Run {
    trainer_in(folder, &[&["experiment"], arguments, &["--json"]].concat(), &[])
}

/// The results without the seconds that they took, in an order of their own: trials run side by side.
pub fn results(file: &Path) -> BTreeSet<String> {
    let line = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("seconds");
        record.to_string()
    };
    fs::read_to_string(file).unwrap().lines().map(line).collect()
}

#[test]
fn an_experiment_goes_on_where_it_was_stopped_here_or_on_an_executor_and_its_page_follows_from_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("e")).unwrap();
    fs::write(path.join("e/small.toml"), SMALL).unwrap();
    let (settings, _) = SMALL.split_once("[tuning]").unwrap();
    for file in ["groups", "empty"] {
        fs::write(path.join(format!("e/{file}.toml")), format!("{settings}{GROUPS}")).unwrap();
    }
    assert_eq!(run(path, &["e/groups.toml"]).code, 0);
    let ran = run(path, &["e/small.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // Two rates of the baseline, then twelve arms with two replicates each.
    assert_eq!(ran.json()[0]["trials"], 2 + 12 * 2);
    let whole = results(&path.join("e/small.jsonl"));
    let nested = fs::read_to_string(path.join("e/small.nested.jsonl")).unwrap();
    let nested: Vec<Value> = nested.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(nested.len(), 2);
    for run in &nested {
        let losses = run["held_out_loss"].as_object().unwrap();
        let arms: BTreeSet<&str> = losses.keys().map(String::as_str).collect();
        // Neither what is no LoRA nor what leaves modules out or is scaled by other ranks is a truncation.
        let expected = [
            "uniform",
            "HyDRA",
            "HyDRA, norms of 2 steps",
            "more in q",
            "more in layer 0",
            "random 1",
            "random 2",
            "random 3",
            "random 4",
        ];
        assert_eq!(arms, expected.into());
        for losses in losses.values() {
            assert!(losses.as_object().unwrap().values().all(|loss| loss.as_f64().unwrap() > 0.0), "{losses}");
        }
    }

    for record in &whole {
        let record: Value = serde_json::from_str(record).unwrap();
        let arm = record["arm"].as_str().unwrap();
        let parameters = record["parameters"].as_u64().unwrap();
        let uniform = 4 * 6 * (4 * 128 + 3 * 192);
        if arm != "full" {
            assert!(parameters <= uniform && uniform - parameters < 128, "{arm}: {parameters}");
        }
        for key in ["training_loss", "clipped", "flops"] {
            assert!(record["measured"][key].as_f64().unwrap() >= 0.0, "{arm}: {key}");
        }
        for task in record["measured"]["scores"].as_object().unwrap().keys() {
            assert!(record["measured"]["held_out_loss"][task].as_f64().unwrap() > 0.0, "{arm}: {task}");
        }
    }

    // The same ranks under other scales are another fine-tune.
    let losses = |arm: &str| -> Vec<String> {
        let records = whole.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records
            .filter(|record| record["arm"] == arm && record["stage"] == "report")
            .map(|r| r["measured"].to_string())
            .collect()
    };
    assert_ne!(losses("its scales alone"), losses("uniform"));

    // Half of the lines, the last one torn: what a crash leaves.
    let text = fs::read_to_string(path.join("e/small.jsonl")).unwrap();
    fs::write(path.join("e/small.jsonl"), &text[..text.len() / 2]).unwrap();
    run(path, &["e/small.toml"]).fails(2, "usage", &["small.jsonl", "--resume"]);
    // As jobs of an executor what is missing is the same.
    let jobs = run(path, &["e/small.toml", "--resume", "--executor", "local:2"]);
    assert_eq!(jobs.code, 0, "{}", jobs.stderr);
    assert!(jobs.json()[0]["trials"].as_u64().unwrap() > 10);
    assert_eq!(results(&path.join("e/small.jsonl")), whole);
    assert!(path.join("runs/experiment-small/trials").read_dir().unwrap().count() > 10);
    assert_eq!(run(path, &["e/small.toml", "--resume"]).json()[0]["trials"], 0);
    assert_eq!(fs::read_to_string(path.join("e/small.nested.jsonl")).unwrap().lines().count(), 2);

    let report = ["report", "e", "--out", "docs"];
    assert_eq!(run(path, &report).code, 0);
    let page = fs::read_to_string(path.join("docs/evidence.md")).unwrap();
    for part in [
        "## Does it run?",
        "| more in q |",
        "norm of [∇A; ∇B]",
        "ridge regression",
        "a nested run of 4 steps",
        "greedy on",
        "TPE",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    // The same fine-tunes as a study: three schedules, each with two seeds, the baseline first.
    assert_eq!(run(path, &["study", "e/small.toml", "--most", "3"]).code, 0);
    let journal = Journal::parse(&fs::read(path.join("e/small.journal")).unwrap()).unwrap();
    let study = journal.study("small").unwrap().to_study().unwrap();
    let origins: Vec<&Origin> = study.trials.iter().map(|trial| &trial.origin).collect();
    let start = |name: &str| Origin::Start { name: name.to_owned() };
    let again = |of| Origin::Replicate { of };
    let expected = [start("uniform"), start("HyDRA"), start("more in q"), again(0), again(1), again(2)];
    run(path, &["study", "e/empty.toml"]).fails(3, "data", &["run the experiment first"]);
    assert_eq!(origins, expected.iter().collect::<Vec<_>>());
    for trial in &study.trials {
        let record = whole.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|record| {
            record["replicate"] == trial.seed
                && record["stage"] == "report"
                && record["arm"] != "its scales alone"
                && record["ranks"] == serde_json::json!(trial.ranks.as_slice())
        });
        assert_eq!(serde_json::json!(trial.scores), record.unwrap()["measured"]["scores"]);
    }
    let check = [&report[..], &["--check"]].concat();
    assert_eq!(run(path, &check).code, 0);
    fs::write(path.join("docs/evidence.md"), page.replace("uniform", "Uniform")).unwrap();
    run(path, &check).fails(1, "failure", &["docs/evidence.md", "trainer experiment report"]);
}

#[test]
fn the_published_page_follows_from_the_published_results() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let check = run(&project, &["report", "--check"]);
    assert_eq!(check.code, 0, "{}", check.stderr);
}

#[test]
fn the_pages_measured_study_is_of_the_published_table() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study.journal");
    let sample = fs::read_to_string(project.join("static/samples/schedules.journal")).unwrap();
    let journal = Journal::parse(sample.as_bytes()).unwrap();
    let [study] = journal.studies.as_slice() else { panic!("{} studies", journal.studies.len()) };
    let (name, out) = (study.name.as_str(), out.to_str().unwrap());
    let written = run(&project, &["study", "bench/evidence/table.toml", "--most", "41", "--name", name, "--out", out]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    assert_eq!(fs::read_to_string(out).unwrap(), sample);
}

#[test]
fn an_experiment_that_would_compare_unfairly_is_refused_before_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let refused = |from: &str, to: &str, parts: &[&str]| {
        assert!(SMALL.contains(from), "{from}");
        fs::write(path.join("e.toml"), SMALL.replacen(from, to, 1)).unwrap();
        run(path, &["e.toml"]).fails(2, "usage", parts);
    };
    refused("first = 101", "first = 1", &["e.toml", "share replicates"]);
    refused("first = 201", "first = 1", &["e.toml", "neither tuning nor report"]);
    refused("full = \"full\"", "full = \"fool\"", &["e.toml", "no arm is called \"fool\""]);
    refused("name = \"full\"", "name = \"uniform\"", &["e.toml", "two arms are called \"uniform\""]);
    refused("profile-steps = 2", "profile-steps = 4", &["HyDRA, norms of 2 steps", "from 2 to the steps"]);
    refused("train = \"decoder\"", "train = \"decoder\"\nprofile-steps = 2", &["arm \"full\"", "for adapters"]);
    refused("whose = \"baseline\"", "whose = \"bassline\"", &["e.toml", "tuning.whose"]);
    refused("modules = \"q_proj\"", "modules = \"z_proj\"", &["more in q", "matches no module"]);
    refused("data.test_pictures = 4", "data.test_pitures = 4", &["e.toml", "data.test_pitures", "test_pictures"]);
    refused("train = \"decoder\"", "train = \"decoder\"\nrates = [1e-3]", &["arm \"full\" needs 2 rates"]);
}
