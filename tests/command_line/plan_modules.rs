//! `trainer plan` on LoRA of any modules, in any decoder: what the log holds decides.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Run, sample, trainer_in};

/// A log of two steps with LoRA on these modules; norms differ by the place in the list.
fn log(modules: &[String]) -> String {
    let line = |step: u64| {
        let norms: Vec<String> = modules
            .iter()
            .enumerate()
            .flat_map(|(at, module)| {
                ["A", "B"].map(|matrix| (at, format!("base_model.model.{module}.lora_{matrix}.default.weight")))
            })
            .map(|(at, name)| format!("\"grad_norm/{name}\":{}", 0.01 * (at + 1) as f64))
            .collect();
        format!("{{\"step\":{step},{}}}\n", norms.join(","))
    };
    line(1) + &line(2)
}

/// `layers` times the modules of a layer.
fn stack(path: &str, layers: usize, inside: &[&str]) -> Vec<String> {
    (0..layers).flat_map(|layer| inside.iter().map(move |leaf| format!("{path}.{layer}.{leaf}"))).collect()
}

const QUERIES_AND_VALUES: [&str; 2] = ["self_attn.q_proj", "self_attn.v_proj"];

fn plan_in(folder: &Path, model: &str, modules: &[String], more: &[&str]) -> Run {
    fs::write(folder.join("log.jsonl"), log(modules)).unwrap();
    let arguments = ["plan", "--gradients", "log.jsonl", "--model", model, "--base-rank", "4", "--json"];
    trainer_in(folder, &[&arguments, more].concat(), &[])
}

fn plan(model: &str, modules: &[String], more: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let run = plan_in(folder.path(), model, modules, more);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run
}

fn ranks(run: &Run) -> BTreeMap<String, u64> {
    serde_json::from_value(run.json()["ranks"].clone()).unwrap()
}

#[test]
fn q_and_v_alone_as_peft_trains_them_by_default_are_planned_within_their_own_budget() {
    let folder = tempfile::tempdir().unwrap();
    let model = sample("smollm2-config.json");
    let modules = stack("model.layers", 30, &QUERIES_AND_VALUES);
    let files = ["--peft", "lora.json", "--out", "schedule.json"];
    let run = plan_in(folder.path(), &model, &modules, &files);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document = run.json();
    // q is 576 → 576, v is 576 → 192.
    let cost = |name: &str| if name.ends_with("q_proj") { 1152 } else { 768 };
    assert_eq!(document["budget"]["allowed"], 4 * 30 * (1152 + 768));
    let ranks = ranks(&run);
    let used: u64 = ranks.iter().map(|(name, rank)| rank * cost(name)).sum();
    assert_eq!((ranks.len(), document["budget"]["used"].as_u64()), (60, Some(used)));
    assert!(4 * 30 * (1152 + 768) - used < 768);
    assert_eq!(document["outside"], json!([]));
    assert!(run.stderr.contains("the log holds 60 of the 210 modules of llama: q, v in 30 layers"), "{}", run.stderr);
    let peft: Value = serde_json::from_slice(&fs::read(folder.path().join("lora.json")).unwrap()).unwrap();
    let targets = peft["target_modules"].as_array().unwrap();
    assert_eq!(targets.len(), 60);
    assert!(targets.iter().all(|name| ranks.contains_key(name.as_str().unwrap())));
    let schedule = fs::read_to_string(folder.path().join("schedule.json")).unwrap();
    assert!(!schedule.contains("k_proj"));
}

#[test]
fn layers_that_were_trained_alone_keep_their_numbers() {
    let modules: Vec<String> = stack("model.layers", 30, &QUERIES_AND_VALUES).split_off(2 * 24);
    let run = plan(&sample("smollm2-config.json"), &modules, &["--stages", "2"]);
    let layers = |stage: usize| run.json()["stages"][stage]["layers"].clone();
    assert_eq!((layers(0), layers(1)), (json!([24, 25, 26]), json!([27, 28, 29])));
    let by_hand = plan(&sample("smollm2-config.json"), &modules, &["--stage-layers", "25-28/24,29"]);
    assert_eq!(by_hand.json()["stages"][1]["layers"], json!([24, 29]));
}

fn llava() -> Value {
    json!({
        "model_type": "llava",
        "text_config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "vocab_size": 100},
        "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
                          "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    })
}

/// LoRA on q and v, which also hits the tower, and on the output head.
fn llava_modules() -> Vec<String> {
    let mut modules = stack("model.language_model.layers", 2, &QUERIES_AND_VALUES);
    modules.extend(stack("model.vision_tower.encoder.layers", 3, &QUERIES_AND_VALUES));
    modules.push("lm_head".to_owned());
    modules
}

#[test]
fn modules_outside_the_decoder_are_named_with_their_parameters() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), llava().to_string()).unwrap();
    let run = plan_in(folder.path(), "config.json", &llava_modules(), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(ranks(&run).len(), 4);
    let outside = &run.json()["outside"];
    assert_eq!(outside[0]["part"], "vision tower");
    assert_eq!(
        (outside[0]["modules"].as_array().unwrap().len(), outside[0]["parameters"].as_u64()),
        (6, Some(6 * 4 * 32))
    );
    assert_eq!((&outside[1]["part"], outside[1]["parameters"].as_u64()), (&json!("output head"), Some(4 * 132)));
    for part in [
        "7 modules of the log are outside the planned decoder and get no LoRA in this plan",
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "and 1 more; 768 parameters",
        "output head (lm_head; 528 parameters)",
    ] {
        assert!(run.stderr.contains(part), "{part:?} is missing in {}", run.stderr);
    }
}

#[test]
fn a_tower_or_a_head_is_planned_where_it_is_included_and_passed_over_where_it_is_excluded() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), llava().to_string()).unwrap();
    let plan = |more: &[&str]| {
        let run = plan_in(folder.path(), "config.json", &llava_modules(), more);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    let all = plan(&["--include", "vision_tower", "--include", "^lm_head$", "--peft", "lora.json"]);
    let ranks_of_all = ranks(&all);
    assert_eq!(ranks_of_all.len(), 11);
    assert_eq!(all.json()["budget"]["allowed"], 4 * (4 * 64 + 6 * 32 + 132));
    assert_eq!(all.json()["outside"], json!([]));
    assert!(!all.stderr.contains("get no LoRA"), "{}", all.stderr);
    let stages = all.json()["stages"].to_string();
    for block in ["\"lm_head\"", "\"model.vision_tower.encoder.layers.2\"", "\"model.language_model.layers.0\""] {
        assert!(stages.contains(block), "{block} is missing in {stages}");
    }
    let peft: Value = serde_json::from_slice(&fs::read(folder.path().join("lora.json")).unwrap()).unwrap();
    assert!(peft["target_modules"].as_array().unwrap().contains(&json!("lm_head")));
    let silent = plan(&["--exclude", "vision_tower|lm_head", "--exclude", r"layers\.1\.self_attn\.v_proj"]);
    assert_eq!((ranks(&silent).len(), silent.json()["outside"].clone()), (3, json!([])));
    let run = plan_in(folder.path(), "config.json", &llava_modules(), &["--include", "audio"]);
    run.fails(2, "usage", &["--include audio", "no module"]);
}

#[test]
fn a_lowest_rank_of_zero_lets_the_plan_drop_modules_and_the_budget_stays_exact() {
    let folder = tempfile::tempdir().unwrap();
    let model = sample("smollm2-config.json");
    let modules = stack("model.layers", 30, &QUERIES_AND_VALUES);
    let more = ["--min-rank", "0", "--ratio", "8", "--delta", "3", "--peft", "lora.json", "--python", "lora.py"];
    let run = plan_in(folder.path(), &model, &modules, &[&more[..], &["--out", "schedule.json"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let ranks = ranks(&run);
    let dropped: Vec<&String> = ranks.iter().filter(|(_, rank)| **rank == 0).map(|(name, _)| name).collect();
    assert!(!dropped.is_empty() && dropped.len() < 60);
    let used: u64 = ranks.iter().map(|(name, rank)| rank * if name.ends_with("q_proj") { 1152 } else { 768 }).sum();
    assert_eq!(run.json()["budget"]["used"], used);
    assert!(4 * 30 * 1920 - used < 768);
    let peft: Value = serde_json::from_slice(&fs::read(folder.path().join("lora.json")).unwrap()).unwrap();
    assert_eq!(peft["target_modules"].as_array().unwrap().len(), 60 - dropped.len());
    let (peft, python) = (peft.to_string(), fs::read_to_string(folder.path().join("lora.py")).unwrap());
    assert!(dropped.iter().all(|name| !peft.contains(name.as_str()) && !python.contains(&format!("\"{name}\""))));
    // By hand: the first stage gets none.
    let by_hand = plan(&model, &modules, &["--min-rank", "0", "--stage-ranks", "0,4,8", "--delta", "0"]);
    let layers = by_hand.json()["stages"][0]["layers"].clone();
    let ranks: BTreeMap<String, u64> = serde_json::from_value(by_hand.json()["ranks"].clone()).unwrap();
    for layer in layers.as_array().unwrap() {
        assert_eq!(ranks[&format!("model.layers.{layer}.self_attn.q_proj")], 0);
    }
}

/// A safetensors file of zeros.
fn safetensors(path: &Path, tensors: &[(String, [usize; 2])]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape[0] * shape[1];
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    fs::write(path, bytes).unwrap();
}

/// The tensors of one layer of Phi-3.
fn phi3(layer: usize) -> Vec<(String, [usize; 2])> {
    let tensor = |inside: &str, shape| (format!("model.layers.{layer}.{inside}.weight"), shape);
    vec![
        tensor("self_attn.qkv_proj", [64, 32]),
        tensor("self_attn.o_proj", [32, 32]),
        tensor("mlp.gate_up_proj", [96, 32]),
        tensor("mlp.down_proj", [32, 48]),
    ]
}

const PHI3: [&str; 4] = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"];

#[test]
fn the_headers_of_a_checkpoint_tell_the_shapes_of_an_architecture_that_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("whole");
    fs::create_dir(&weights).unwrap();
    fs::write(weights.join("config.json"), r#"{"model_type": "phi3", "hidden_size": 32}"#).unwrap();
    safetensors(
        &weights.join("model.safetensors"),
        &[phi3(0), phi3(1), vec![("lm_head.weight".to_owned(), [100, 32])]].concat(),
    );
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    let mut map = serde_json::Map::new();
    for layer in 0..2 {
        let file = format!("model-0000{layer}-of-00002.safetensors");
        safetensors(&shards.join(&file), &phi3(layer));
        map.extend(phi3(layer).into_iter().map(|(name, _)| (name, json!(file))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(shards.join("model.safetensors.index.json"), index).unwrap();

    let mut modules = stack("model.layers", 2, &PHI3);
    let of = |model: &str| {
        let run = plan_in(folder.path(), model, &modules, &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    let whole = of("whole");
    assert_eq!(whole.json()["budget"]["allowed"], 4 * 2 * (96 + 64 + 128 + 80));
    assert_eq!(ranks(&whole).len(), 8);
    for model in ["whole/model.safetensors", "shards", "shards/model.safetensors.index.json"] {
        assert_eq!(ranks(&of(model)), ranks(&whole), "{model}");
    }
    modules.push("lm_head".to_owned());
    let with_head = plan_in(folder.path(), "whole", &modules, &["--include", "lm_head"]);
    assert_eq!(with_head.json()["budget"]["allowed"], 4 * (2 * (96 + 64 + 128 + 80) + 132));
    let run = plan_in(folder.path(), "whole/config.json", &modules, &[]);
    run.fails(3, "data", &["\"phi3\" is not known", "give the checkpoint instead"]);
    let inspect = trainer_in(folder.path(), &["inspect", "--model", "whole", "--base-rank", "4", "--json"], &[]);
    assert_eq!((inspect.code, &inspect.json()["lora_parameters"]), (0, &json!(4 * 2 * (96 + 64 + 128 + 80))));
    assert_eq!(inspect.json()["kinds"].as_array().unwrap().len(), 4);
}

/// Modules of a layer with the shapes of their tensors.
const GPT2: [(&str, [usize; 2]); 4] =
    [("attn.c_attn", [32, 96]), ("attn.c_proj", [32, 32]), ("mlp.c_fc", [32, 128]), ("mlp.c_proj", [128, 32])];
const NEOX: [(&str, [usize; 2]); 2] = [("attention.query_key_value", [96, 32]), ("mlp.dense_4h_to_h", [32, 128])];
const QWEN3: [(&str, [usize; 2]); 2] = [("self_attn.q_proj", [64, 32]), ("mlp.down_proj", [32, 48])];

#[test]
fn a_checkpoint_and_a_log_with_and_without_the_models_head_meet() {
    for (inside, under_a_head, alone, parameters) in [
        (&GPT2[..], "transformer.h", "h", 128 + 64 + 160 + 160),
        (&NEOX, "gpt_neox.layers", "layers", 128 + 160),
        (&QWEN3, "model.layers", "layers", 96 + 80),
        (&QWEN3, "model.decoder.layers", "decoder.layers", 96 + 80),
    ] {
        for on_disk in [under_a_head, alone] {
            let folder = tempfile::tempdir().unwrap();
            let tensors: Vec<_> = (0..2)
                .flat_map(|layer| {
                    inside.iter().map(move |(leaf, shape)| (format!("{on_disk}.{layer}.{leaf}.weight"), *shape))
                })
                .collect();
            safetensors(&folder.path().join("model.safetensors"), &tensors);
            for in_log in [under_a_head, alone] {
                let leaves: Vec<&str> = inside.iter().map(|(leaf, _)| *leaf).collect();
                let modules = stack(in_log, 2, &leaves);
                let run = plan_in(folder.path(), "model.safetensors", &modules, &[]);
                assert_eq!(run.code, 0, "{on_disk}, {in_log}: {}", run.stderr);
                assert_eq!(run.json()["budget"]["allowed"], 4 * 2 * parameters, "{on_disk}, {in_log}");
                // PEFT matches the ends of names.
                let found: Vec<String> = ranks(&run).into_keys().collect();
                assert!(found.iter().all(|name| modules.iter().any(|module| module.ends_with(name))), "{found:?}");
            }
        }
    }
}

#[test]
fn the_dense_part_of_a_mixture_is_planned_and_its_experts_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "glm4_moe", "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100,
        "n_routed_experts": 4, "first_k_dense_replace": 1
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut modules = stack("model.layers", 2, &QUERIES_AND_VALUES);
    modules.extend(["0.mlp.up_proj", "1.mlp.shared_experts.up_proj"].map(|name| format!("model.layers.{name}")));
    let run = plan_in(folder.path(), "config.json", &modules, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["budget"]["allowed"], 4 * (4 * 64 + 80 + 48));
    assert!(run.stderr.contains("PEFT 0.21 takes gate_proj, up_proj and down_proj for the experts'"), "{}", run.stderr);
    // PEFT's wrapper of all experts of a layer.
    modules.push("model.layers.1.mlp.experts".to_owned());
    plan_in(folder.path(), "config.json", &modules, &["--include", "experts"]).fails(2, "usage", &["experts"]);
}

#[test]
fn tensors_that_disagree_with_the_configuration_beside_them_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 100
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensor = |inside: &str, shape| (format!("model.layers.0.{inside}.weight"), shape);
    let tensors = [tensor("self_attn.q_proj", [32, 32]), tensor("self_attn.v_proj", [8, 32])];
    safetensors(&folder.path().join("model.safetensors"), &tensors);
    let modules = stack("model.layers", 1, &QUERIES_AND_VALUES);
    let run = plan_in(folder.path(), ".", &modules, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["budget"]["allowed"], 4 * (64 + 40));
    assert!(run.stderr.contains("the shapes are those of the tensors"), "{}", run.stderr);
}

#[test]
fn what_a_configuration_leaves_out_is_said_and_is_transformers_default() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 16, "vocab_size": 100
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let modules = stack("model.layers", 2, &QUERIES_AND_VALUES);
    let run = plan_in(folder.path(), "config.json", &modules, &[]);
    // Eight heads for keys and values, of 4 each.
    assert_eq!(run.json()["budget"]["allowed"], 4 * 2 * (128 + 96));
    assert!(
        run.stderr.contains("num_key_value_heads is missing: 8, transformers' default, is taken"),
        "{}",
        run.stderr
    );
}
