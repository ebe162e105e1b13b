//! `trainer plan` on bad input: message, exit code, and nothing left behind.

use std::fs;
use std::path::Path;

use crate::support::{Run, names, sample, trainer, trainer_in};

/// Runs a plan that asks for every output file, in a folder of its own that must hold only `log` afterwards.
fn plan_of(log: &str, more: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.jsonl"), log).unwrap();
    let run = plan_in(folder.path(), more);
    assert_eq!(names(folder.path()), ["log.jsonl"], "{}", run.stderr);
    run
}

fn plan_in(folder: &Path, more: &[&str]) -> Run {
    let model = sample("smollm2-config.json");
    let mut arguments = vec!["plan", "--gradients", "log.jsonl", "--model", &model, "--base-rank", "16", "--json"];
    arguments.extend_from_slice(&["--out", "schedule.json", "--peft", "lora.json"]);
    arguments.extend_from_slice(more);
    trainer_in(folder, &arguments, &[])
}

/// A log of two steps over that many layers; `change` edits each line's value of one parameter.
fn log(layers: usize, change: impl Fn(u64, &str, f64) -> String) -> String {
    let projections = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let mut text = String::new();
    for step in 1..=2_u64 {
        let mut norms = Vec::new();
        for layer in 0..layers {
            for projection in projections {
                for matrix in ["A", "B"] {
                    let name =
                        format!("base_model.model.model.layers.{layer}.{projection}.lora_{matrix}.default.weight");
                    let value = change(step, &name, 0.01 * (layer + 1) as f64);
                    norms.push(format!("\"{name}\":{value}"));
                }
            }
        }
        text.push_str(&format!("{{\"step\":{step},\"grad_norms\":{{{}}}}}\n", norms.join(",")));
    }
    text
}

fn good(layers: usize) -> String {
    log(layers, |_, _, value| value.to_string())
}

#[test]
fn a_small_good_log_passes_so_that_the_cases_below_fail_for_their_own_reason() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.jsonl"), good(30)).unwrap();
    let run = plan_in(folder.path(), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(names(folder.path()), ["log.jsonl", "lora.json", "schedule.json"]);
}

#[test]
fn nan_in_a_log_names_file_line_module_and_the_way_out() {
    let nan = |step, name: &str, value: f64| {
        if step == 2 && name.contains("layers.3.mlp.up_proj.lora_B") { "NaN".to_owned() } else { value.to_string() }
    };
    let parts = ["log.jsonl", "line 2", "layers.3.mlp.up_proj", "NaN", "--skip-non-finite"];
    plan_of(&log(30, nan), &[]).fails(5, "numerical", &parts);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.jsonl"), log(30, nan)).unwrap();
    assert_eq!(plan_in(folder.path(), &["--skip-non-finite"]).code, 0);
}

#[test]
fn a_log_of_fewer_or_more_layers_than_the_model_lists_them() {
    plan_of(&good(28), &[]).fails(3, "data", &["log.jsonl", "layers 28–29", "configuration of the model"]);
    plan_of(&good(31), &[]).fails(3, "data", &["log.jsonl", "layer 30", "of 30 layers"]);
}

#[test]
fn a_model_of_other_shapes_is_noticed_by_its_layers() {
    let log = sample("grad-norms.jsonl.gz");
    let run = trainer(&["plan", "--gradients", &log, "--model", "mobilevlm-1.7b", "--base-rank", "16", "--json"]);
    run.fails(3, "data", &["grad-norms.jsonl.gz", "mobilevlm-1.7b", "layers 24–29"]);
}

#[test]
fn names_that_match_no_module_are_shown() {
    let odd = log(30, |_, _, value| value.to_string()).replace("model.layers.", "transformer.stuff_");
    plan_of(&odd, &[]).fails(3, "data", &["log.jsonl", "stuff_0", "layers are named like"]);
}

#[test]
fn a_budget_below_rank_one_everywhere_exits_with_4_and_names_the_least() {
    plan_of(&good(30), &["--budget", "1000"]).fails(4, "budget", &["1000", "305280"]);
}

#[test]
fn an_empty_a_missing_and_a_foreign_file_are_data_errors() {
    plan_of("", &[]).fails(3, "data", &["log.jsonl", "empty"]);
    plan_of("Dear diary,\n", &[]).fails(3, "data", &["log.jsonl", "no gradient log that is known"]);
    plan_of(&good(30), &["--gradients", "missing.jsonl"]).fails(3, "data", &["missing.jsonl"]);
    let (state, model) = (sample("trainer_state.json"), sample("smollm2-config.json"));
    let run = trainer(&["plan", "--gradients", &state, "--model", &model, "--base-rank", "16", "--json"]);
    run.fails(3, "data", &["trainer_state.json", "global gradient norm", "hydra_grad_logger.py"]);
}

#[test]
fn a_truncated_line_names_its_number() {
    let good = good(30);
    let (first, second) = good.split_once('\n').unwrap();
    let broken = format!("{}\n{second}", &first[..first.len() / 2]);
    plan_of(&broken, &[]).fails(3, "data", &["log.jsonl", "line 1"]);
}

#[test]
fn settings_that_cannot_be_used_are_usage_errors() {
    let good = good(30);
    for (more, part) in [
        (&["--stage-ranks", "256,64,128"][..], "do not ascend"),
        (&["--stages", "0"], "0 stages"),
        (&["--signs", "x=+"], "is no projection"),
        (&["--scale", "often"], "constant:2"),
        (&["--ratio", "0.5"], "0.5"),
        (&["--warm-up-share", "1.5"], "1.5"),
        (&["--stage-layers", "0-28"], "leave out layer(s) 29"),
        (&["--schedule-kind", "cubic"], "[possible values: hydra, hydra-coarse, uniform, linear"),
        (&["--signal", "l3"], "[possible values: l2, rms, fisher]"),
        (&["--stage-ranks", "8,16", "--ratio", "2"], "cannot be used with"),
        (&["--delta", "5000000000"], "is not in"),
        (&["--set", "stagse=4"], "did you mean `stages`?"),
        (&["--set", "stages=many"], "--set: stages"),
        (&["--python", "nowhere/lora.py"], "there is no folder nowhere"),
    ] {
        let mut arguments = more.to_vec();
        arguments.push("--quiet");
        plan_of(&good, &arguments).fails(2, "usage", &[part]);
    }
}

#[test]
fn a_missing_base_rank_is_asked_for() {
    let (log, model) = (sample("grad-norms.jsonl.gz"), sample("smollm2-config.json"));
    let run = trainer(&["plan", "--gradients", &log, "--model", &model, "--json"]);
    run.fails(2, "usage", &["the base rank is missing", "--base-rank"]);
}

#[test]
fn an_unknown_key_in_a_configuration_file_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.jsonl"), good(30)).unwrap();
    fs::write(folder.path().join("plan.toml"), "delta = 2\nstage_rank = [1]\n").unwrap();
    let run = plan_in(folder.path(), &["--config", "plan.toml"]);
    run.fails(2, "usage", &["plan.toml:2", "there is no key `stage_rank`", "did you mean `stage_ranks`?"]);
    assert_eq!(names(folder.path()), ["log.jsonl", "plan.toml"]);
}

#[test]
fn a_file_that_cannot_be_replaced_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("log.jsonl"), good(30)).unwrap();
    fs::write(folder.path().join("schedule.json"), "mine").unwrap();
    fs::create_dir(folder.path().join("lora.json")).unwrap();
    let run = plan_in(folder.path(), &[]);
    run.fails(2, "usage", &["lora.json", "this is a folder"]);
    assert_eq!(fs::read(folder.path().join("schedule.json")).unwrap(), b"mine");
}
