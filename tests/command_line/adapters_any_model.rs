//! Adapters of any model that can be planned: by the headers of its checkpoint, or by the dense part of a mixture of experts; and
//! vision towers by the names that each family gives them.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::support::{Run, trainer_in};

/// A safetensors file of ones.
fn ones(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape)| 1.0_f32.to_le_bytes().repeat(shape.iter().product())).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// An adapter of rank 2 on modules with their widths, for targets of these names.
fn adapter(folder: &Path, targets: &Value, modules: &[(String, [usize; 2])]) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets});
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let pair = |(name, [d_in, d_out]): &(String, [usize; 2])| {
        let name = |part: &str| format!("base_model.model.{name}.lora_{part}.weight");
        [(name("A"), vec![2, *d_in]), (name("B"), vec![*d_out, 2])]
    };
    ones(&folder.join("adapter_model.safetensors"), &modules.iter().flat_map(pair).collect::<Vec<_>>());
}

/// Modules inside the layers of a stack.
fn stack(path: &str, layers: usize, inside: &[(&str, [usize; 2])]) -> Vec<(String, [usize; 2])> {
    let layer = |layer| inside.iter().map(move |(name, widths)| (format!("{path}.{layer}.{name}"), *widths));
    (0..layers).flat_map(layer).collect()
}

/// The weights of modules, as a checkpoint has them.
fn weights(modules: &[(String, [usize; 2])]) -> Vec<(String, Vec<usize>)> {
    modules.iter().map(|(name, [d_in, d_out])| (format!("{name}.weight"), vec![*d_out, *d_in])).collect()
}

fn verify(folder: &Path, model: &str) -> Run {
    trainer_in(folder, &["verify", "adapter", "--model", model, "--json"], &[])
}

fn export(folder: &Path, base: &str, format: &str, out: &str) -> Run {
    let arguments = ["export", "--adapter=adapter", "--base", base, "--format", format, "--out", out, "--json"];
    trainer_in(folder, &[&arguments[..], &["--device=cpu"]].concat(), &[])
}

const PHI3: [(&str, [usize; 2]); 4] = [
    ("self_attn.qkv_proj", [32, 64]),
    ("self_attn.o_proj", [32, 32]),
    ("mlp.gate_up_proj", [32, 96]),
    ("mlp.down_proj", [48, 32]),
];

#[test]
fn the_headers_of_a_checkpoint_are_enough_to_verify_and_export_an_adapter_of_an_architecture_that_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let modules = stack("model.layers", 2, &PHI3);
    let targets = json!(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]);
    adapter(&folder.join("adapter"), &targets, &modules);
    fs::create_dir(folder.join("base")).unwrap();
    fs::write(folder.join("base/config.json"), r#"{"model_type": "phi3", "hidden_size": 32}"#).unwrap();
    ones(&folder.join("base/model.safetensors"), &weights(&modules));
    fs::create_dir(folder.join("shards")).unwrap();
    let mut map = serde_json::Map::new();
    for (at, part) in weights(&modules).chunks(4).enumerate() {
        let shard = format!("model-0000{}-of-00002.safetensors", at + 1);
        ones(&folder.join("shards").join(&shard), part);
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(shard))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.join("shards/model.safetensors.index.json"), index).unwrap();
    for model in [
        "base",
        "base/model.safetensors",
        "shards",
        "shards/model.safetensors.index.json",
        // One shard means all of them.
        "shards/model-00001-of-00002.safetensors",
    ] {
        let run = verify(folder, model);
        assert_eq!(run.code, 0, "{model}: {}", run.stderr);
        assert_eq!(run.json()["modules"], json!([8, 8]), "{model}");
        for format in ["peft", "uniform", "mlx"] {
            let run = export(folder, model, format, &format!("{}-{format}", model.replace('/', "-")));
            assert_eq!(run.code, 0, "{model} {format}: {}", run.stderr);
        }
    }
    export(folder, "base", "gguf", "x.gguf").fails(2, "usage", &["convert_lora_to_gguf.py", "--format uniform"]);
    let mlx: Value = serde_json::from_slice(&fs::read(folder.join("base-mlx/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(mlx["lora_parameters"]["keys"].as_array().unwrap().len(), 4);
    assert_eq!(mlx["num_layers"], 2);

    // What is broken is found as in any other model.
    let mut broken = modules.clone();
    broken[5].1 = [32, 31];
    adapter(&folder.join("adapter"), &targets, &broken);
    let run = verify(folder, "base");
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("lora_B.weight is [31, 2], and [32, 2] belongs there"), "{}", run.stderr);
    fs::remove_file(folder.join("shards/model.safetensors.index.json")).unwrap();
    let run = verify(folder, "shards/model-00001-of-00002.safetensors");
    run.fails(3, "data", &["one shard of several", "model.safetensors.index.json"]);
    verify(folder, "base/config.json").fails(3, "data", &["\"phi3\" is not known", "give the checkpoint instead"]);
}

#[test]
fn of_a_mixture_the_dense_part_is_planned_and_checked_and_experts_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = json!({
        "model_type": "qwen2_moe", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "num_experts": 4, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let attention = [("self_attn.q_proj", [32, 32]), ("self_attn.v_proj", [32, 16])];
    let shared = [("mlp.shared_expert.up_proj", [32, 24])];
    let modules = stack("model.layers", 2, &[&attention[..], &shared].concat());
    adapter(&folder.join("adapter"), &json!(["q_proj", "v_proj", "shared_expert.up_proj"]), &modules);
    let run = verify(folder, "config.json");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["modules"], json!([6, 14]));
    assert!(run.stderr.contains("only the dense part") && run.stderr.contains("shared experts"), "{}", run.stderr);

    // Experts, as PEFT with an older transformers adapts them.
    let expert = stack("model.layers", 2, &[("mlp.experts.3.up_proj", [32, 16])]);
    let all = [modules.clone(), expert.clone()].concat();
    adapter(&folder.join("adapter"), &json!(["q_proj", "v_proj", "up_proj"]), &all);
    let run = verify(folder, "config.json");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("not checked, since they are experts"), "{}", run.stderr);
    assert_eq!(run.json()["not_checked"].as_array().unwrap().len(), 2);

    let row = |step: u64| {
        let norms = all.iter().enumerate().flat_map(|(at, (name, _))| {
            ["A", "B"].map(|part| {
                (format!("grad_norm/base_model.model.{name}.lora_{part}.default.weight"), json!(0.1 * (at + 1) as f64))
            })
        });
        let mut row: serde_json::Map<String, Value> = norms.collect();
        row.insert("step".to_owned(), json!(step));
        Value::Object(row).to_string()
    };
    fs::write(folder.join("log.jsonl"), format!("{}\n{}\n", row(1), row(2))).unwrap();
    let arguments = ["plan", "--gradients=log.jsonl", "--model=config.json", "--base-rank=4", "--json"];
    let run = trainer_in(folder, &arguments, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.json()["budget"]["allowed"], 4 * 2 * (64 + 48 + 56));
    for part in ["mlp.experts.3.up_proj", "doubles rank and alpha"] {
        assert!(run.stderr.contains(part), "{part:?} is missing in {}", run.stderr);
    }
    let included = [&arguments[..], &["--include=experts"]].concat();
    trainer_in(folder, &included, &[]).fails(2, "usage", &["model.layers.0.mlp.experts.3.up_proj", "experts"]);
    let inspect = trainer_in(folder, &["inspect", "--model=config.json", "--base-rank=4", "--json"], &[]);
    assert_eq!(inspect.json()["modules"], 14, "{}", inspect.stderr);
    // Weights of such a model hold the same.
    let rest = [("self_attn.k_proj", [32, 16]), ("self_attn.o_proj", [32, 32])];
    let more =
        [("mlp.shared_expert.gate_proj", [32, 24]), ("mlp.shared_expert.down_proj", [24, 32]), ("mlp.gate", [32, 4])];
    let tensors = [all.clone(), stack("model.layers", 2, &[&rest[..], &more].concat())].concat();
    ones(&folder.join("model.safetensors"), &weights(&tensors));
    let run = verify(folder, ".");
    assert_eq!((run.code, &run.json()["modules"]), (0, &json!([6, 14])), "{}", run.stderr);
    assert!(!run.stderr.contains("the shapes are those of the tensors"), "{}", run.stderr);
}

fn qwen(model_type: &str) -> Value {
    json!({
        "model_type": model_type,
        "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "vocab_size": 96},
        "vision_config": {"depth": 3, "hidden_size": 16, "intermediate_size": 24}
    })
}

#[test]
fn targets_that_also_adapt_a_vision_tower_are_counted_in_the_names_of_its_family() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let vision = |model_type: &str| json!({"model_type": model_type, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3});
    let of = |model_type: &str, tower: &str| {
        let mut config = qwen(model_type);
        config["vision_config"] = vision(tower);
        config
    };
    let down = |path: &str| stack(path, 2, &[("mlp.down_proj", [48, 32])]);
    let query = |path: &str| stack(path, 2, &[("self_attn.q_proj", [32, 32])]);
    let nested = "model.language_model.layers";
    let idefics = "model.text_model.layers";
    for (config, target, modules, found) in [
        (qwen("qwen2_5_vl"), "down_proj", down(nested), Some("model.visual.blocks.0.mlp.down_proj")),
        // q, k and v are one matrix there.
        (qwen("qwen2_5_vl"), "q_proj", query(nested), None),
        (qwen("qwen2_vl"), "down_proj", down(nested), None),
        (
            of("smolvlm", "smolvlm_vision"),
            "q_proj",
            query(idefics),
            Some("model.vision_model.encoder.layers.0.self_attn.q_proj"),
        ),
        (
            of("idefics3", "idefics3_vision"),
            "q_proj",
            query(idefics),
            Some("model.vision_model.encoder.layers.0.self_attn.q_proj"),
        ),
        (
            of("internvl", "internvl_vision"),
            "q_proj",
            query(nested),
            Some("model.vision_tower.encoder.layer.0.attention.q_proj"),
        ),
        (
            of("mistral3", "pixtral"),
            "down_proj",
            down(nested),
            Some("model.vision_tower.transformer.layers.0.feed_forward.down_proj"),
        ),
        (of("gemma3", "siglip_vision_model"), "q_proj", query(nested), Some("encoder.layers.0.self_attn.q_proj")),
    ] {
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        adapter(&folder.join("adapter"), &json!([target]), &modules);
        let run = verify(folder, "config.json");
        assert_eq!(run.code, i32::from(found.is_some()), "{config}: {}", run.stderr);
        if let Some(first) = found {
            assert!(run.stderr.contains("also adapts 3 modules of the vision tower"), "{}", run.stderr);
            assert!(run.stderr.contains(first), "{config}: {}", run.stderr);
        }
    }
}

#[test]
fn the_old_path_of_qwens_decoder_is_named_as_one_that_peft_no_longer_finds_and_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("config.json"), qwen("qwen2_vl").to_string()).unwrap();
    let old = [
        stack("model.layers", 2, &[("self_attn.q_proj", [32, 32])]),
        stack("visual.blocks", 3, &[("attn.qkv", [16, 48])]),
    ];
    adapter(&folder.join("adapter"), &json!(["q_proj", "qkv"]), &old.concat());
    let run = verify(folder, "config.json");
    assert_eq!(run.code, 1);
    for part in ["the modules are named model.layers", "before 4.52", "export --format peft"] {
        assert!(run.stderr.contains(part), "{part:?} is missing in {}", run.stderr);
    }
    let run = export(folder, "config.json", "peft", "new");
    assert_eq!(run.code, 0, "{}", run.stderr);
    fs::remove_dir_all(folder.join("adapter")).unwrap();
    fs::rename(folder.join("new"), folder.join("adapter")).unwrap();
    let run = verify(folder, "config.json");
    assert_eq!(run.code, 0, "{}", run.stderr);
    let outside = run.json()["not_checked"].clone();
    assert_eq!(outside[0], "model.visual.blocks.0.attn.qkv");
    let tensors = fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap();
    let names = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    assert!(names.names().iter().any(|name| name.starts_with("base_model.model.model.language_model.layers.1.")));
}
