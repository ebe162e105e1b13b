//! `trainer plan` on the sample logs: what it must give.

use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::support::{names, sample, trainer, trainer_in};

/// 16 · 30 layers · Σ (d_in + d_out) of SmolLM2's projections.
const BUDGET: u64 = 4_884_480;

fn plan(log: &str, more: &[&str]) -> Value {
    let (log, model) = (sample(log), sample("smollm2-config.json"));
    let mut arguments = vec!["plan", "--gradients", &log, "--model", &model, "--base-rank", "16", "--json"];
    arguments.extend_from_slice(more);
    let run = trainer(&arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.json()
}

/// Parameters of a plan's ranks, from SmolLM2's shapes: hidden 576, feed-forward 1536, 3 of 9 heads for keys and values.
fn used(document: &Value) -> u64 {
    let ranks = document["ranks"].as_object().unwrap();
    let cost = |name: &str| match name.rsplit('.').next().unwrap() {
        "q_proj" | "o_proj" => 576 + 576,
        "k_proj" | "v_proj" => 576 + 192,
        "gate_proj" | "up_proj" | "down_proj" => 576 + 1536,
        other => panic!("{other}"),
    };
    ranks.iter().map(|(name, rank)| cost(name) * rank.as_u64().unwrap()).sum()
}

#[test]
fn the_sample_log_gives_a_schedule_of_thirty_layers_that_meets_its_budget() {
    let document = plan("grad-norms.jsonl.gz", &[]);
    assert_eq!(document["budget"]["allowed"], BUDGET);
    assert_eq!(document["budget"]["used"], used(&document));
    assert!(used(&document) <= BUDGET);
    // One unit of the cheapest module would not fit.
    assert!(BUDGET - used(&document) < 576 + 192);
    assert_eq!(document["signal"], "l2");
    let ranks = document["ranks"].as_object().unwrap();
    assert_eq!(ranks.len(), 30 * 7);
    assert!(ranks.contains_key("model.layers.29.mlp.down_proj"));
    assert!(ranks.values().all(|rank| rank.as_u64().unwrap() >= 1));

    let stages = document["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3);
    let mut layers: Vec<u64> =
        stages.iter().flat_map(|stage| stage["layers"].as_array().unwrap()).map(|l| l.as_u64().unwrap()).collect();
    layers.sort_unstable();
    assert_eq!(layers, (0..30).collect::<Vec<_>>());
    let values = |key: &str| stages.iter().map(|stage| stage[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(values("norm").is_sorted() && values("rank").is_sorted());
}

/// Layers and rank of each stage.
fn stages(document: &Value) -> Vec<(Value, Value)> {
    let stages = document["stages"].as_array().unwrap();
    stages.iter().map(|stage| (stage["layers"].clone(), stage["rank"].clone())).collect()
}

#[test]
fn lightnings_csv_gives_exactly_the_same_ranks_although_it_rounds_norms_to_six_decimals() {
    let (lines, csv) = (plan("grad-norms.jsonl.gz", &[]), plan("lightning-metrics.csv.gz", &[]));
    assert_eq!(lines["ranks"], csv["ranks"]);
    assert_eq!(lines["budget"], csv["budget"]);
    assert_eq!(stages(&lines), stages(&csv));
}

#[test]
fn what_differs_in_logs_of_every_fifth_step_comes_from_the_steps_and_from_histograms_alone() {
    // The exact log, cut to the steps that the other two hold.
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    let packed = fs::File::open(sample("grad-norms.jsonl.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let every_fifth = |line: &&str| {
        let step = serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap();
        step.is_multiple_of(5)
    };
    let kept: Vec<&str> = text.lines().filter(every_fifth).collect();
    fs::write(folder.path().join("fifth.jsonl"), kept.join("\n") + "\n").unwrap();
    let model = sample("smollm2-config.json");
    let arguments = ["plan", "--gradients", "fifth.jsonl", "--model", &model, "--base-rank", "16", "--json"];
    let exact = trainer_in(folder.path(), &arguments, &[]).json();

    let events = plan("tensorboard", &[]);
    assert_eq!(events["estimated"], false);
    assert_eq!(events["ranks"], exact["ranks"]);

    // A norm that is estimated can fall on the other side of its layer's mean: then −Δd becomes +Δd.
    let histograms = plan("wandb-history.jsonl.gz", &[]);
    assert_eq!(histograms["estimated"], true);
    assert_eq!(stages(&histograms), stages(&exact));
    let ranks = |document: &Value| document["ranks"].as_object().unwrap().clone();
    let estimated = ranks(&histograms);
    let differences: Vec<u64> = ranks(&exact)
        .iter()
        .map(|(name, rank)| rank.as_i64().unwrap().abs_diff(estimated[name].as_i64().unwrap()))
        .filter(|difference| *difference > 0)
        .collect();
    assert!(differences.len() <= 10 && differences.iter().all(|d| *d <= 4), "{differences:?}");
    assert!(used(&histograms) <= BUDGET);
}

#[test]
fn the_same_command_writes_the_same_bytes() {
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let files = || {
        let folder = tempfile::tempdir().unwrap();
        let arguments = [
            "plan",
            "--gradients",
            &log,
            "--model",
            &model,
            "--base-rank",
            "16",
            "--out",
            "schedule.json",
            "--peft",
            "lora.json",
            "--python",
            "lora.py",
            "--quiet",
        ];
        let run = trainer_in(folder.path(), &arguments, &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert_eq!(names(folder.path()), ["lora.json", "lora.py", "schedule.json"]);
        names(folder.path()).into_iter().map(|name| fs::read(folder.path().join(name)).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(files(), files());
}

#[test]
fn the_peft_configuration_holds_the_ranks_of_the_plan_at_one_scale_and_is_for_training() {
    let folder = tempfile::tempdir().unwrap();
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let arguments =
        ["plan", "--gradients", &log, "--model", &model, "--base-rank", "16", "--peft", "lora.json", "--json"];
    let run = trainer_in(folder.path(), &arguments, &[]);
    let document = run.json();
    assert_eq!(document["written"]["peft"], "lora.json");
    let peft: Value = serde_json::from_slice(&fs::read(folder.path().join("lora.json")).unwrap()).unwrap();
    assert_eq!(peft["inference_mode"], false);
    for (name, rank) in document["ranks"].as_object().unwrap() {
        let rank = rank.as_u64().unwrap();
        let of = |pattern: &str, default: &str| peft[pattern].get(name).unwrap_or(&peft[default]).as_u64().unwrap();
        assert_eq!(of("rank_pattern", "r"), rank, "{name}");
        assert_eq!(of("alpha_pattern", "lora_alpha"), 2 * rank, "{name}");
    }
}

#[test]
fn flags_reach_the_plan() {
    let document =
        plan("grad-norms.jsonl.gz", &["--stages", "4", "--contiguous", "--delta", "0", "--budget", "3000000"]);
    assert_eq!(document["budget"]["allowed"], 3_000_000);
    let stages = document["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 4);
    for stage in stages {
        let layers: Vec<u64> = stage["layers"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap()).collect();
        assert!(layers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{layers:?}");
    }
    let document =
        plan("grad-norms.jsonl.gz", &["--stage-ranks", "8,32", "--signs", "q=-,k=-,up=+", "--count-rank-units"]);
    assert_eq!(document["stages"].as_array().unwrap().len(), 2);
    assert_eq!(document["budget"]["allowed"], 16 * 30 * 7);
    let units: u64 = document["ranks"].as_object().unwrap().values().map(|rank| rank.as_u64().unwrap()).sum();
    assert_eq!(units, 16 * 30 * 7);
}

/// Names of the schedules.
const KINDS: [&str; 8] =
    ["hydra", "hydra-coarse", "uniform", "linear", "exponential", "random-feasible", "norm-proportional", "eva-like"];

#[test]
fn every_kind_of_schedule_can_be_planned_within_its_own_budget() {
    let log = "grad-norms.jsonl.gz";
    let documents = KINDS.map(|kind| plan(log, &["--schedule-kind", kind]));
    for (kind, document) in KINDS.iter().zip(&documents) {
        let ranks: Vec<u64> = document["ranks"].as_object().unwrap().values().map(|r| r.as_u64().unwrap()).collect();
        assert_eq!(document["trainable_parameters"], used(document), "{kind}");
        if *kind == "eva-like" {
            assert_eq!(document["budget"]["counting"], "rank-units");
            assert_eq!(ranks.iter().sum::<u64>(), 16 * 30 * 7);
            assert!(ranks.iter().all(|rank| *rank <= 32));
        } else {
            assert_eq!(document["budget"]["allowed"], BUDGET, "{kind}");
            assert!(used(document) <= BUDGET && BUDGET - used(document) < 576 + 192, "{kind}");
        }
    }
    let [hydra, coarse, uniform, ..] = &documents;
    assert_eq!(hydra["ranks"], plan(log, &[])["ranks"]);
    assert_eq!(coarse["ranks"], plan(log, &["--delta", "0"])["ranks"]);
    assert!(uniform["ranks"].as_object().unwrap().values().all(|rank| *rank == 16));
    for (index, one) in documents.iter().enumerate() {
        assert!(documents[..index].iter().all(|other| one["ranks"] != other["ranks"]), "{}", KINDS[index]);
    }
    let seeded = |seed| plan(log, &["--schedule-kind", "random-feasible", "--seed", seed])["ranks"].clone();
    assert_ne!(seeded("1"), seeded("2"));
}

#[test]
fn a_schedule_to_compare_with_says_that_it_keeps_uniform_loras_budget() {
    let document = plan("grad-norms.jsonl.gz", &["--schedule-kind", "linear", "--budget", "3000000"]);
    assert_eq!(document["budget"]["allowed"], BUDGET);
    let notes = document["notes"].to_string();
    assert!(notes.contains("the ranks are those of linear") && notes.contains("uniform LoRA's"), "{notes}");
}

#[test]
fn the_keys_of_earlier_versions_are_read_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let flat = "base_rank = 16\ncount_rank_units = true\nrank_cap = 24\nstage_layers = \"0-9/10-29\"\n";
    fs::write(folder.path().join("flat.toml"), flat).unwrap();
    let nested = "seed = 9\n[training]\nsteps = 3\n\n[plan]\nbase_rank = 16\ncounting = \"rank-units\"\ncap = 24\n\
                  [plan.stages]\nby-hand = [[0,1,2,3,4,5,6,7,8,9], \
                  [10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29]]\n[plan.scale]\nfactor = 4.0\n";
    fs::write(folder.path().join("nested.toml"), nested).unwrap();
    let today = "base_rank = 16\ncounting = \"rank-units\"\nrank_cap = 24\nstage_layers = \"0-9/10-29\"\n";
    fs::write(folder.path().join("today.toml"), today).unwrap();
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let run = |file: &str, more: &[&str]| {
        let arguments = ["plan", "--gradients", &log, "--model", &model, "--config", file, "--json"];
        let run = trainer_in(folder.path(), &[&arguments[..], more].concat(), &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    let today = run("today.toml", &[]);
    let (flat, nested) = (run("flat.toml", &[]), run("nested.toml", &[]));
    assert!(!today.stderr.contains("is written"), "{}", today.stderr);
    for (run, notes) in [
        (&flat, &["flat.toml:2: `count_rank_units` is written `counting = \"rank-units\"` now"][..]),
        (
            &nested,
            &[
                "nested.toml:8: `cap` is written `rank_cap = 24` now",
                "nested.toml:9: `stages` is written `stage_layers = \"0-9/10-29\"` now",
                "nested.toml:11: `scale` is written `scale = \"constant:4\"` now",
                "only its tables plan and profile are read here, not seed, training",
            ],
        ),
    ] {
        for note in notes {
            assert!(run.stderr.contains(note), "{note:?} is missing in {}", run.stderr);
        }
        assert_eq!(run.json()["ranks"], today.json()["ranks"]);
        assert_eq!(run.json()["budget"]["allowed"], 16 * 30 * 7);
    }
    // Layers by hand take the place of a number of stages.
    fs::write(folder.path().join("plain.toml"), "base_rank = 16\ncounting = \"rank-units\"\n").unwrap();
    let set = run("plain.toml", &["--set", "stages.clustered.count=4", "--set", "count_rank_units=false"]);
    assert!(set.stderr.contains("--set: `stages.clustered.count` is written `stages = 4` now"), "{}", set.stderr);
    assert_eq!(set.json()["budget"]["allowed"], BUDGET);
}

#[test]
fn a_dry_run_says_what_it_would_write_and_writes_nothing() {
    let document = plan("grad-norms.jsonl.gz", &["--out", "schedule.json", "--dry-run"]);
    assert_eq!(document["dry_run"], true);
    assert_eq!(document["written"]["schedule"], "schedule.json");
}

#[test]
fn people_get_tables_and_a_budget_line_on_standard_output_only() {
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let run = trainer(&["plan", "--gradients", &log, "--model", &model, "--base-rank", "16", "--quiet"]);
    assert!(
        run.stdout.contains("stage") && run.stdout.contains("of 4,884,480 trainable parameters used"),
        "{}",
        run.stdout
    );
    assert!(run.stderr.is_empty(), "{}", run.stderr);
}

#[test]
fn a_file_the_environment_set_and_flags_each_win_over_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.toml"), "base_rank = 8\nstages = 2\ndelta = 1\nseed = 1\n").unwrap();
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let arguments = [
        "plan",
        "--gradients",
        &log,
        "--model",
        &model,
        "--config",
        "plan.toml",
        "--set",
        "delta=4",
        "--base-rank",
        "16",
        "--json",
    ];
    let run = trainer_in(folder.path(), &arguments, &[("HYDRA_STAGES", "5"), ("HYDRA_DELTA", "3")]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document = run.json();
    assert_eq!(document["base_rank"], 16);
    assert_eq!(document["delta"], 4);
    assert_eq!(document["stages"].as_array().unwrap().len(), 5);
}

#[test]
fn the_command_in_a_schedule_can_be_pasted_into_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(sample("grad-norms.jsonl.gz"), folder.path().join("my log.jsonl.gz")).unwrap();
    fs::copy(sample("smollm2-config.json"), folder.path().join("config.json")).unwrap();
    let arguments = ["plan", "--gradients", "my log.jsonl.gz", "--model=config.json", "--base-rank=16", "--out=s.json"];
    let run = trainer_in(folder.path(), &arguments, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let schedule: Value = serde_json::from_slice(&fs::read(folder.path().join("s.json")).unwrap()).unwrap();
    assert_eq!(
        schedule["provenance"]["command"],
        "trainer plan --gradients 'my log.jsonl.gz' --model=config.json --base-rank=16 --out=s.json"
    );
}
