//! Commands that train: from a configuration to an adapter, interrupted and resumed, and what bad input gets.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hydra_shared::search::most_replicates;

use crate::support::{Run, names, read, trainer_in};

/// A fine-tune of a few seconds.
const SMALL: [&str; 7] = [
    "--device=cpu",
    "--set=data.train_pictures=40",
    "--set=data.validation_pictures=8",
    "--set=data.test_pictures=8",
    "--set=training.batch_size=4",
    "--set=training.steps=6",
    "--set=training.checkpoint_every=2",
];

fn small(folder: &Path, command: &[&str]) -> Run {
    let arguments: Vec<&str> = command.iter().chain(&SMALL).copied().chain(["--json"]).collect();
    trainer_in(folder, &arguments, &[])
}

/// Scores on the data of [`small`].
fn scored(folder: &Path, arguments: &[&str]) -> Run {
    let data = SMALL.iter().filter(|setting| !setting.starts_with("--set=training.")).copied();
    let arguments: Vec<&str> = ["eval", "--json"].into_iter().chain(arguments.iter().copied()).chain(data).collect();
    trainer_in(folder, &arguments, &[])
}

#[test]
fn a_fine_tune_leaves_logs_gradient_norms_scores_and_an_adapter_that_scores_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let document = small(folder.path(), &["train", "--name=a"]).json();
    assert_eq!(document["trainable_parameters"], 4 * 6 * (4 * 128 + 3 * 192));
    let run = folder.path().join("runs/a");
    assert_eq!(fs::read_to_string(run.join("logs/metrics.jsonl")).unwrap().lines().count(), 6);
    assert_eq!(fs::read_to_string(run.join("profile/grads.jsonl")).unwrap().lines().count(), 7);
    for file in ["adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.safetensors"] {
        assert!(run.join("adapter").join(file).exists(), "{file}");
    }
    let eval = scored(folder.path(), &["--adapter=runs/a/adapter"]).json();
    assert_eq!(eval["scores"]["tasks"], document["scores"]["tasks"]);

    let profile =
        ["plan", "--gradients", "runs/a/profile/grads.jsonl", "--model", "tiny-mobilevlm", "--base-rank", "4"];
    let plan = trainer_in(folder.path(), &[&profile[..], &["--out", "s.json", "--json"]].concat(), &[]).json();
    assert!(plan["budget"]["used"].as_u64() <= plan["budget"]["allowed"].as_u64());
    let scheduled = small(folder.path(), &["train", "--name=b", "--schedule=s.json"]).json();
    assert_eq!(scheduled["trainable_parameters"], plan["budget"]["used"]);

    let merged = small_export(folder.path(), &["export", "--adapter=runs/a/adapter", "--format=merged", "--out=m"]);
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    let base = scored(folder.path(), &["--set=base=m"]).json();
    assert_eq!(base["scores"]["tasks"], document["scores"]["tasks"]);
}

#[test]
fn embedding_and_head_are_adapted_where_the_targets_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let targets = "--set=targets=all-linear+embeddings+head";
    let document = small(path, &["train", "--name=a", targets]).json();
    assert_eq!(document["trainable_parameters"], 4 * (6 * (4 * 128 + 3 * 192) + 2 * (512 + 64)));
    let eval = scored(path, &["--adapter=runs/a/adapter"]).json();
    assert_eq!(eval["scores"]["tasks"], document["scores"]["tasks"]);
    let merged = small_export(path, &["export", "--adapter=runs/a/adapter", "--format=merged", "--out=m"]);
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    assert_eq!(scored(path, &["--set=base=m"]).json()["scores"]["tasks"], document["scores"]["tasks"]);
    let gguf = small_export(path, &["export", "--adapter=runs/a/adapter", "--format=gguf", "--out=a.gguf"]);
    assert_eq!(gguf.code, 3, "{}", gguf.stderr);
    assert!(gguf.stderr.contains("the adapter also changes lm_head, model.embed_tokens"), "{}", gguf.stderr);

    // Their norms are in the log, and a schedule of its budget gives them ranks.
    let planned = small(path, &["train", "--name=b", targets, "--set=gradients=runs/a/profile/grads.jsonl"]).json();
    let (used, allowed) = (planned["trainable_parameters"].as_u64(), document["trainable_parameters"].as_u64());
    assert!(used <= allowed && used > allowed.map(|allowed| allowed - 128), "{used:?} of {allowed:?}");
    assert_eq!(planned["recipe"]["ranks"].as_array().unwrap().len(), 44);

    let schedule = small(path, &["train", "--schedule=runs/a/adapter/schedule.json"]);
    assert!(schedule.stderr.contains("add --set targets=all-linear+embeddings+head"), "{}", schedule.stderr);

    for (settings, said) in [
        (vec!["--set=targets=everything"], "all-linear does, with +embeddings or +head behind it"),
        (vec![targets, "--set=training.lora_dropout=0.1"], "leave one of training.lora_dropout and targets"),
    ] {
        let refused = small(path, &[&["train"], &settings[..]].concat());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}

#[test]
fn every_kind_of_schedule_can_be_trained_from_one_file_that_plan_reads_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_eq!(small(path, &["profile", "--name=p"]).code, 0);
    let log = "runs/p/profile/grads.jsonl";
    let plan =
        ["plan", "--gradients", log, "--model", "tiny-mobilevlm", "--config", "c.toml", "--out", "s.json", "--json"];
    let kinds = [
        "hydra",
        "hydra-coarse",
        "uniform",
        "linear",
        "exponential",
        "random-feasible",
        "norm-proportional",
        "eva-like",
    ];
    for kind in kinds {
        let config = format!(
            "gradients = \"{log}\"\n\n[plan]\nbase_rank = 4\ndelta = 1\nseed = 5\nschedule_kind = \"{kind}\"\n"
        );
        fs::write(path.join("c.toml"), config).unwrap();
        let planned = trainer_in(path, &plan, &[]);
        assert_eq!(planned.code, 0, "{}", planned.stderr);
        let schedule = small(path, &["train", "--schedule=s.json", "--dry-run"]).json();
        let trained = small(path, &["train", "--config=c.toml", "--set=training.steps=2"]).json();
        assert_eq!(trained["recipe"]["ranks"], schedule["recipe"]["ranks"], "{kind}");
        assert_eq!(trained["trainable_parameters"], planned.json()["trainable_parameters"], "{kind}");
        let gradients = format!("--gradients={log}");
        let flags = ["train", "--schedule-kind", kind, &gradients, "--set=plan.seed=5", "--dry-run"];
        assert_eq!(small(path, &flags).json()["recipe"]["ranks"], schedule["recipe"]["ranks"], "{kind}");
    }
}

#[test]
fn a_schedule_that_follows_from_norms_asks_for_their_log_and_uniform_lora_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let train = |more: &[&str]| small(folder.path(), &[&["train", "--dry-run"], more].concat());
    train(&["--schedule-kind=linear"]).fails(2, "usage", &["the schedule linear", "--gradients", "trainer profile"]);
    train(&["--set=plan.schedule_kind=hydra"]).fails(2, "usage", &["the schedule hydra", "--gradients"]);
    assert_eq!(train(&["--schedule-kind=uniform"]).json()["recipe"], train(&[]).json()["recipe"]);
}

#[test]
fn a_search_takes_a_given_log_and_plans_the_configured_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_eq!(small(path, &["profile", "--name=p"]).code, 0);
    let gradients = "--set=gradients=runs/p/profile/grads.jsonl";
    let sets = [gradients, "--set=plan.schedule_kind=random-feasible", "--set=plan.seed=5"];
    let search = [
        "search",
        "--name=s",
        "--set=search.starts=3",
        "--set=search.trials=3",
        "--set=training.steps=2",
        "--set=search.replicates=0",
    ];
    let run = small(path, &[&search[..], &sets].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!path.join("runs/s/profile/grads.jsonl").exists() && path.join("runs/s/profile/summary.json").exists());
    let planned = small(path, &["train", "--schedule=runs/s/plan/schedule.json", "--dry-run"]).json();
    let configured = small(path, &[&["train", "--dry-run"], &sets[..]].concat()).json();
    assert_eq!(planned["recipe"]["ranks"], configured["recipe"]["ranks"]);
}

#[test]
fn the_nested_keys_of_earlier_runs_are_read_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[plan]\nbase_rank = 4\ncap = 12\nsigns = [\"lower\", \"lower\", \"keep\", \"keep\", \"keep\", \
                  \"raise\", \"keep\"]\n\n[plan.stages.clustered]\ncount = 2\ncontiguous = true\nseed = 3\nrestarts = 8\n\n\
                  [plan.stage_ranks]\nratio = 1.5\n\n[plan.scale]\npolicy = \"constant\"\nfactor = 4.0\n";
    fs::write(folder.path().join("c.toml"), config).unwrap();
    let arguments = ["train", "--config=c.toml", "--dry-run", "--device=cpu", "--json"];
    let run = trainer_in(folder.path(), &arguments, &[("HYDRA_PLAN_STAGE_RANKS_RATIO", "2.5")]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let plan = &run.json()["config"]["plan"];
    for (key, value) in [
        ("stages", serde_json::json!(2)),
        ("contiguous", true.into()),
        ("seed", 3.into()),
        ("restarts", 8.into()),
        ("rank_cap", 12.into()),
        ("ratio", 2.5.into()),
        ("scale", "constant:4".into()),
        ("signs", "q=-,k=-,v=0,o=0,gate=0,up=+,down=0".into()),
    ] {
        assert_eq!(plan[key], value, "{key}");
    }
    for note in [
        "c.toml:3: `plan.cap` is written `plan.rank_cap = 12` now",
        "c.toml:6: `plan.stages` is written `plan.stages = 2`, `plan.contiguous = true`",
        "environment variable HYDRA_PLAN_STAGE_RANKS_RATIO: `plan.stage_ranks.ratio` is written `plan.ratio = 2.5` now",
    ] {
        assert!(run.stderr.contains(note), "{note:?} is missing in {}", run.stderr);
    }
}

fn small_export(folder: &Path, arguments: &[&str]) -> Run {
    trainer_in(folder, &[arguments, &["--device=cpu", "--json"]].concat(), &[])
}

/// Starts a command and kills it, without a chance to save, once `path` exists.
fn kill_when(folder: &Path, arguments: &[&str], path: &Path) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(arguments)
        .args(SMALL)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(300), "{} never came", path.display());
        assert!(child.try_wait().unwrap().is_none(), "ended before {} was there", path.display());
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_training_resumes_and_ends_in_the_same_bytes() {
    killed_and_resumed(&[], &[]);
}

#[test]
fn a_killed_training_in_half_precision_resumes_and_ends_in_the_same_bytes() {
    // The file counts the steps since the scale changed.
    killed_and_resumed(&["--set=training.compute=f16"], &["checkpoints/step-000006/loss-scale.json"]);
}

fn killed_and_resumed(settings: &[&str], also: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let train = |name: &'static str| [&["train", name][..], settings].concat();
    let whole = small(folder.path(), &train("--name=whole"));
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let checkpoint = folder.path().join("runs/killed/checkpoints/step-000002");
    kill_when(folder.path(), &train("--name=killed"), &checkpoint);
    let resumed = trainer_in(folder.path(), &["train", "--device=cpu", "--resume=runs/killed", "--json"], &[]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let files = [
        "adapter/adapter_model.safetensors",
        "adapter/non_lora_trainables.safetensors",
        "logs/metrics.jsonl",
        "profile/grads.jsonl",
    ];
    for file in files.iter().chain(also) {
        let (a, b) =
            (read(folder.path().join("runs/whole").join(file)), read(folder.path().join("runs/killed").join(file)));
        assert!(a == b, "{file} differs after a resume");
    }
}

#[test]
fn a_killed_search_resumes_with_the_trials_of_one_that_was_never_killed() {
    let folder = tempfile::tempdir().unwrap();
    let sets =
        ["--set=search.starts=3", "--set=search.trials=4", "--set=search.replicates=4", "--set=training.steps=3"];
    let search = |name: &'static str| [&["search", name][..], &sets].concat();
    let whole = small(folder.path(), &search("--name=whole"));
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let trials = folder.path().join("runs/killed/search/trials");
    kill_when(folder.path(), &search("--name=killed"), &trials);
    let resumed = trainer_in(folder.path(), &["search", "--device=cpu", "--resume=runs/killed", "--json"], &[]);
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    for key in ["best", "pick"] {
        assert_eq!(whole.json()[key], resumed.json()[key]);
    }
    let tried_again = most_replicates(4) - 2;
    assert_eq!(
        whole.json()["trials"],
        4 + tried_again,
        "uniform, two planned ones, one that was found, one of them no more"
    );
    for file in ["search/best.json", "profile/grads.jsonl", "plan/schedule.json", "adapter/adapter_model.safetensors"] {
        let (a, b) =
            (read(folder.path().join("runs/whole").join(file)), read(folder.path().join("runs/killed").join(file)));
        assert!(a == b, "{file} differs after a resume");
    }
}

#[test]
fn the_quick_demo_answers_what_scripts_ask_for_and_writes_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let run = trainer_in(folder.path(), &["demo", "--quick", "--device=cpu", "--json", "--set=training.steps=4"], &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document = run.json();
    let arms = document["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 6);
    let allowed = document["budget"].as_u64().unwrap();
    for arm in arms {
        assert_eq!(arm["scores"].as_object().unwrap().len(), 5, "{arm}");
        assert!(arm["mean"]["mean"].is_number() && arm["seeds"].is_array() && arm["name"].is_string());
        let full = arm["name"] == "full fine-tuning";
        assert!(full || arm["trainable_parameters"].as_u64().unwrap() <= allowed, "{arm}");
    }
    assert!(document["study"]["trials"].as_u64().unwrap() >= 4);
    assert!(document["study"]["best"]["trial"].is_number());
    let report = fs::read_to_string(folder.path().join("runs/demo-001/report.html")).unwrap();
    assert!(report.contains("</html>") && !report.contains("<script"));
    assert!(document["run"].as_str().unwrap().ends_with("demo-001"));
}

#[test]
fn unknown_keys_and_impossible_values_are_usage_errors_that_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.toml"), "[training]\nstepz = 3\n").unwrap();
    let run = trainer_in(folder.path(), &["train", "--config=c.toml", "--json"], &[]);
    run.fails(2, "usage", &["c.toml:2", "stepz", "steps"]);
    let run = trainer_in(folder.path(), &["train", "--set=training.steps=0", "--device=cpu", "--json"], &[]);
    run.fails(2, "usage", &["training.steps"]);
    let run =
        trainer_in(folder.path(), &["search", "--set=data.tasks.scene.max_objects=10", "--device=cpu", "--json"], &[]);
    run.fails(2, "usage", &["scene.max_objects is 10"]);
    let run = trainer_in(folder.path(), &["train", "--resume=nowhere", "--device=cpu", "--json"], &[]);
    run.fails(3, "data", &["nowhere"]);
    assert_eq!(names(folder.path()), ["c.toml"]);
}

#[test]
fn a_schedule_for_another_model_or_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sample = crate::support::sample("grad-norms.jsonl.gz");
    let config = crate::support::sample("smollm2-config.json");
    let plan = ["plan", "--gradients", &sample, "--model", &config, "--base-rank", "16", "--out", "s.json", "--json"];
    assert_eq!(trainer_in(folder.path(), &plan, &[]).code, 0);
    let run = small(folder.path(), &["train", "--schedule=s.json"]);
    run.fails(3, "data", &["s.json", "30 layers", "plan again with"]);
    let text = fs::read_to_string(folder.path().join("s.json")).unwrap();
    fs::write(folder.path().join("half.json"), &text[..text.len() / 2]).unwrap();
    small(folder.path(), &["train", "--schedule=half.json"]).fails(3, "data", &["half.json", "trainer plan"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn a_truncated_weight_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    fs::create_dir(&base).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/tiny-mobilevlm");
    for file in ["config.json", "vision_config.json", "tokenizer.json"] {
        fs::copy(source.join(file), base.join(file)).unwrap();
    }
    let weights = read(source.join("model.safetensors"));
    fs::write(base.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let run = small(folder.path(), &["train", "--set=base=base"]);
    run.fails(3, "data", &["base/model.safetensors", "not a whole safetensors file"]);
    assert_eq!(names(folder.path()), ["base"]);
}

#[test]
fn a_damaged_adapter_and_one_for_another_base_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(small(folder.path(), &["train", "--name=a"]).code, 0);
    let file = folder.path().join("runs/a/adapter/adapter_model.safetensors");
    let bytes = read(&file);
    fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    scored(folder.path(), &["--adapter=runs/a/adapter"]).fails(3, "data", &["runs/a/adapter", "damaged"]);
    fs::write(&file, bytes).unwrap();
    let export = ["export", "--adapter=runs/a/adapter", "--format=merged", "--out=m", "--device=cpu", "--json"];
    assert_eq!(trainer_in(folder.path(), &export, &[]).code, 0);
    let run = scored(folder.path(), &["--adapter=runs/a/adapter", "--set=base=m"]);
    run.fails(3, "data", &["another base model"]);
    trainer_in(folder.path(), &export, &[]).fails(2, "usage", &["exists already"]);
}

#[test]
fn an_adapter_is_whole_with_another_card_line_ends_and_base_path_but_not_with_other_ranks_or_scales() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(small(folder.path(), &["train", "--name=a"]).code, 0);
    let adapter = folder.path().join("runs/a/adapter");
    let expected = scored(folder.path(), &["--adapter=runs/a/adapter"]).json();
    for name in ["README.md", "adapter_config.json", "schedule.json", "base.sha256"] {
        let text = String::from_utf8(read(adapter.join(name))).unwrap();
        let text =
            text.replace('\n', "\r\n").replace("\"tiny-mobilevlm\",\r\n  \"bias\"", "\"/elsewhere\",\r\n  \"bias\"");
        fs::write(adapter.join(name), format!("{text}\r\n")).unwrap();
    }
    let config = String::from_utf8(read(adapter.join("adapter_config.json"))).unwrap();
    assert!(config.contains("/elsewhere"), "{config}");
    assert_eq!(scored(folder.path(), &["--adapter=runs/a/adapter"]).json()["scores"], expected["scores"]);
    let alpha = config.lines().find(|line| line.contains("\"lora_alpha\"")).unwrap();
    fs::write(adapter.join("adapter_config.json"), config.replace(alpha, "  \"lora_alpha\": 3,")).unwrap();
    scored(folder.path(), &["--adapter=runs/a/adapter"]).fails(
        3,
        "data",
        &["disagree on model.layers", "schedule.json"],
    );
}

#[test]
fn a_picture_that_is_none_and_missing_data_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let train = folder.path().join("vqa/train/images");
    fs::create_dir_all(&train).unwrap();
    let sets = ["train", "--set=data.source=easy-vqa", "--set=data.folder=vqa"];
    small(folder.path(), &sets).fails(3, "data", &["questions.json", "scripts/easy-vqa"]);
    let questions: Vec<String> = (0..12).map(|image| format!("[\"is there a circle?\", \"yes\", {image}]")).collect();
    fs::write(folder.path().join("vqa/train/questions.json"), format!("[{}]", questions.join(","))).unwrap();
    for image in 0..12 {
        fs::write(train.join(format!("{image}.png")), "this is no picture").unwrap();
    }
    small(folder.path(), &sets).fails(3, "data", &[".png", "cannot be read"]);
    assert_eq!(names(folder.path()), ["vqa"]);
}
