//! Adapters of PEFT: `verify` checks what it says, and every command takes them. `tests/reference/adapters` holds what PEFT
//! saved, or what a broken run leaves, for a LLaMA of two layers of width 8 (`config.json`), a LLaVA around it
//! (`config-vlm.json`), and the built-in model.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Run, read, reference, trainer, trainer_in};

const TEXT: &str = "config.json";
const VISION: &str = "config-vlm.json";

fn verify_path(folder: &Path, model: &str) -> Run {
    let model = reference("adapters").join(model);
    let model = if model.exists() { model.to_str().unwrap().to_owned() } else { "tiny-mobilevlm".to_owned() };
    trainer(&["verify", folder.to_str().unwrap(), "--model", &model, "--json"])
}

fn verify(case: &str, model: &str) -> Run {
    verify_path(&reference(&format!("adapters/{case}")), model)
}

/// A copy of a case with other values in its configuration.
fn changed(case: &str, changes: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = reference(&format!("adapters/{case}"));
    let mut config: Value = serde_json::from_slice(&read(source.join("adapter_config.json"))).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::copy(source.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors")).unwrap();
    folder
}

/// A copy of a case whose tensors are renamed.
fn renamed(case: &str, changes: &[(&str, Value)], rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = changed(case, changes);
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = read(&path);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<_> = file.iter().map(|(name, view)| (rename(name), view)).collect();
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    folder
}

#[test]
fn broken_adapters_fail_and_the_module_and_the_reason_are_named() {
    let first = "model.layers.0.self_attn.q_proj";
    for (case, model, parts) in [
        ("no-tensors", TEXT, &["holds no tensors"][..]),
        ("no-lora-b", TEXT, &["lora_B is missing for", first, "and 9 more"]),
        ("one-b-missing", TEXT, &["lora_B is missing for model.layers.0.self_attn.q_proj"]),
        ("b-other-rank", TEXT, &[first, "lora_B.weight is [8, 1], and [8, 2] belongs there"]),
        ("other-width", TEXT, &[first, "lora_A.weight is [2, 16], and [2, 8] belongs there"]),
        (
            "layers-to-transform-without-them",
            TEXT,
            &["does not target", "PEFT drops them", "model.layers.1.self_attn.q_proj"],
        ),
        ("alpha-zero", TEXT, &["alpha is 0", "PEFT applies nothing", first]),
        (
            "key-also-hits-vision-tower",
            VISION,
            &[
                "adapts 6 modules of the vision tower",
                "\"layers.0.self_attn.q_proj\" also matches 1 modules",
                "exclude_modules",
            ],
        ),
        (
            "text-path-for-vlm",
            VISION,
            &["lie under model.layers", "under model.language_model.layers", "trained on the language model alone"],
        ),
    ] {
        let run = verify(case, model);
        assert_eq!(run.code, 1, "{case}: {}{}", run.stdout, run.stderr);
        let document = run.json();
        assert_eq!(document["passed"], false);
        let problems = document["problems"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
        let problems = problems.collect::<Vec<_>>().join("; ");
        for part in parts {
            assert!(problems.contains(part) && run.stderr.contains(part), "{case}: {part:?} is missing in {problems}");
        }
    }
}

#[test]
fn good_adapters_pass_and_what_lies_outside_the_decoder_is_named_as_not_checked_in_full() {
    for (case, model, outside) in [
        ("key-of-one-projection", TEXT, &[][..]),
        ("key-of-one-layer", TEXT, &[]),
        ("live-names", TEXT, &[]),
        ("with-lm-head-lora", TEXT, &["lm_head"]),
        (
            "with-vision-tower",
            VISION,
            &[
                "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
                "model.vision_tower.vision_model.encoder.layers.0.self_attn.v_proj",
                "model.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj",
                "model.vision_tower.vision_model.encoder.layers.1.self_attn.v_proj",
            ],
        ),
    ] {
        let run = verify(case, model);
        assert_eq!(run.code, 0, "{case}: {}{}", run.stdout, run.stderr);
        let document = run.json();
        assert_eq!((&document["passed"], &document["modules"]), (&json!(true), &json!([14, 14])), "{case}");
        assert_eq!(document["not_checked"], json!(outside), "{case}");
        assert_eq!(
            run.stderr.contains("not checked in full, since they lie outside the decoder"),
            !outside.is_empty(),
            "{case}"
        );
    }
}

#[test]
fn tensors_whose_names_peft_does_not_find_fail_and_are_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let base = format!("--base={}", reference("adapters/config.json").display());
    let prefix = "base_model.model.";
    for (what, begin) in [
        ("bare", ""),
        ("compiled", "_orig_mod.base_model.model."),
        ("inside", "base_model.model._orig_mod."),
        ("sharded", "_fsdp_wrapped_module.base_model.model._fsdp_wrapped_module."),
        ("checkpointed", "base_model.model._checkpoint_wrapped_module."),
    ] {
        let adapter = renamed("key-of-one-projection", &[], |name| name.replacen(prefix, begin, 1));
        let run = verify_path(adapter.path(), TEXT);
        assert_eq!(run.code, 1, "{what}: {}", run.stderr);
        for part in ["28 tensors have names that do not begin with base_model.model.", "export --format peft"] {
            assert!(run.stderr.contains(part), "{what}: {}", run.stderr);
        }
        assert_eq!(export(folder.path(), adapter.path(), &[&base], "peft", what).code, 0);
        assert_eq!(verify_path(&folder.path().join(what), TEXT).code, 0, "{what}");
    }
    let model = changed("live-names", &[]);
    let weights = renamed("live-names", &[], |name| {
        name.replace(".lora_A.default", "").replace(".lora_B.default.weight", ".bias")
    });
    fs::copy(weights.path().join("adapter_model.safetensors"), model.path().join("adapter_model.safetensors")).unwrap();
    let run = verify_path(model.path(), TEXT);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("holds the weights of a model"), "{}", run.stderr);
}

#[test]
fn programs_are_judged_by_version_and_the_rank_that_vllm_takes_is_printed() {
    let judged = |run: &Run| -> Vec<(String, bool)> {
        let document = run.json();
        let consumers = document["consumers"].as_array().unwrap();
        let row = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["right"].as_bool().unwrap());
        consumers.iter().map(row).collect()
    };
    let rows = |right: [bool; 6]| -> Vec<(String, bool)> {
        let names = ["PEFT", "vLLM 0.32", "vLLM 0.26 to 0.31", "llama.cpp", "Ollama", "mlx-lm"];
        names.map(str::to_owned).into_iter().zip(right).collect()
    };
    // Ranks 2 and 1, one scale.
    let run = verify("tiny-q-and-v", "tiny-mobilevlm");
    assert_eq!(judged(&run), rows([true, true, true, false, false, false]));
    assert_eq!((&run.json()["largest_rank"], &run.json()["vllm_max_lora_rank"]), (&json!(2), &json!(8)));
    // One alpha: only the versions of vLLM without patterns are wrong.
    let run = verify_path(changed("key-of-one-projection", &[("alpha_pattern", json!({}))]).path(), TEXT);
    assert_eq!(judged(&run), rows([true, true, false, true, true, false]));
    assert_eq!(judged(&verify("alpha-zero", TEXT)), rows([true, true, true, false, false, false]));
    // Names as in memory are PEFT's alone.
    let run = verify("live-names", TEXT);
    assert_eq!(judged(&run), rows([true, false, false, false, false, false]));
    for (key, value) in [
        ("init_lora_weights", json!("pissa")),
        ("bias", json!("all")),
        ("alora_invocation_tokens", json!([5])),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["gate_up_proj"])),
    ] {
        let run = verify_path(changed("key-of-one-projection", &[(key, value)]).path(), TEXT);
        assert_eq!((run.code, judged(&run)), (0, rows([true, false, false, false, false, false])), "{key}");
        assert!(run.stderr.contains(&format!("more than plain LoRA: {key}")), "{}", run.stderr);
    }
    // DoRA without its magnitudes is broken, and nobody is right about what is broken.
    let run = verify_path(changed("key-of-one-projection", &[("use_dora", json!(true))]).path(), TEXT);
    assert_eq!((run.code, judged(&run)), (1, rows([false; 6])));
    for part in
        ["more than plain LoRA: use_dora", "lora_magnitude_vector, which PEFT leaves at its beginning, is missing"]
    {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn the_budget_is_that_of_uniform_lora_on_the_modules_that_are_adapted() {
    let budget = |case: &str, model: &str, rank: &str| {
        let model = reference("adapters").join(model);
        let folder = reference(&format!("adapters/{case}"));
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let run = trainer(&["verify", &path(&folder), "--model", &path(&model), "--base-rank", rank, "--json"]);
        (run.code, run.json()["budget"].clone())
    };
    // Per unit of rank the seven modules of a layer have 16, 12, 12, 16, 24, 24 and 24 parameters.
    assert_eq!(budget("live-names", TEXT, "2"), (0, json!(2 * 2 * 128)));
    assert_eq!(budget("live-names", TEXT, "1"), (1, json!(2 * 128)));
    let less = changed("live-names", &[("target_modules", json!(["q_proj", "v_proj"]))]);
    let run = trainer(&[
        "verify",
        less.path().to_str().unwrap(),
        "--model",
        reference("adapters/config.json").to_str().unwrap(),
        "--base-rank=2",
        "--json",
    ]);
    assert_eq!(run.json()["budget"], 2 * 2 * (16 + 12));
}

#[test]
fn keys_that_peft_sorts_into_another_order_when_it_saves_are_an_error() {
    let alphas = |text: &str| {
        let folder = changed("live-names", &[]);
        let path = folder.path().join("adapter_config.json");
        let config = String::from_utf8(read(&path)).unwrap();
        fs::write(&path, config.replace(r#""alpha_pattern":{}"#, &format!(r#""alpha_pattern":{text}"#))).unwrap();
        verify_path(folder.path(), TEXT)
    };
    let unsorted = alphas(r#"{"q_proj": 8, "model.layers.1.self_attn.q_proj": 2}"#);
    assert_eq!(unsorted.code, 1);
    assert!(unsorted.stderr.contains("sorts the keys when it saves"), "{}", unsorted.stderr);
    // As saved: whether the order was another one in training, nobody can tell.
    let sorted = alphas(r#"{"model.layers.1.self_attn.q_proj": 2, "q_proj": 8}"#);
    assert_eq!(sorted.code, 1, "{}", sorted.stderr);
    assert!(sorted.stderr.contains("it was trained with another scale"), "{}", sorted.stderr);
    assert_eq!(alphas(r#"{"model.layers.1.self_attn.q_proj": 8, "q_proj": 8}"#).code, 0);
    // Tensors tell it: every q_proj has rank 2, as the key that came first in training said.
    let ranks = json!({"model.layers.1.self_attn.q_proj": 1, "q_proj": 2});
    let run = verify_path(changed("live-names", &[("rank_pattern", ranks)]).path(), TEXT);
    assert_eq!(run.code, 1);
    for part in
        ["gives model.layers.1.self_attn.q_proj rank 1, and its tensor has 2", "the key \"q_proj\"", "sorts the keys"]
    {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn modules_are_targeted_by_pefts_rule() {
    let passes = |changes: &[(&str, Value)]| verify_path(changed("live-names", changes).path(), TEXT).code;
    assert_eq!(passes(&[("target_modules", json!(r"(?!.*vision).*\.(self_attn|mlp)\.\w+_proj"))]), 0);
    assert_eq!(passes(&[("target_modules", json!("all-linear"))]), 0);
    assert_eq!(passes(&[("layers_to_transform", json!([0, 1]))]), 0);
    assert_eq!(passes(&[("exclude_modules", json!(["lm_head"]))]), 0);
    // Less than there are tensors for, and more.
    assert_eq!(passes(&[("exclude_modules", json!(["up_proj"]))]), 1);
    assert_eq!(passes(&[("target_modules", json!(["q_proj", "v_proj"]))]), 1);
    assert_eq!(passes(&[("rank_pattern", json!({"nothing": 2}))]), 1);
    let less = renamed("live-names", &[], |name| name.replace("layers.1.mlp.up_proj", "layers.7.mlp.up_proj"));
    let run = verify_path(less.path(), TEXT);
    assert_eq!(run.code, 1);
    for part in
        ["llama has no module for model.layers.7.mlp.up_proj", "which stay untrained: model.layers.1.mlp.up_proj"]
    {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn an_adapter_that_was_never_trained_and_one_without_values_are_said() {
    let with = |values: fn(usize) -> Vec<f32>, shape: fn(&[usize]) -> Vec<usize>| {
        let folder = changed("live-names", &[]);
        let path = folder.path().join("adapter_model.safetensors");
        let bytes = read(&path);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = Vec::new();
        for (name, view) in file.iter() {
            let shape = shape(view.shape());
            let values = if name.contains("lora_B") {
                values(shape.iter().product())
            } else {
                vec![1.0; shape.iter().product()]
            };
            tensors.push((
                name.to_owned(),
                shape,
                values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(),
            ));
        }
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (
                name.as_str(),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap(),
            )
        });
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        verify_path(folder.path(), TEXT)
    };
    let untrained = with(|count| vec![0.0; count], <[usize]>::to_vec);
    assert_eq!(untrained.code, 1);
    assert!(untrained.stderr.contains("never trained and changes nothing"), "{}", untrained.stderr);
    let empty = with(|_| Vec::new(), |_| vec![0]);
    assert_eq!(empty.code, 1);
    assert!(empty.stderr.contains("ZeRO-3") && empty.stderr.contains("layers.0.self_attn.q_proj"), "{}", empty.stderr);
}

/// Tensors of an adapter folder, by name.
fn tensors(folder: &Path, file: &str) -> Vec<(String, Vec<usize>)> {
    let bytes = read(folder.join(file));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut found: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    found.sort();
    found
}

fn export(folder: &Path, adapter: &Path, base: &[&str], format: &str, out: &str) -> Run {
    let adapter = adapter.to_str().unwrap();
    let arguments = ["export", "--adapter", adapter, "--format", format, "--out", out, "--device=cpu", "--json"];
    trainer_in(folder, &[&arguments[..], base].concat(), &[])
}

#[test]
fn every_command_takes_an_adapter_that_peft_saved() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = reference("adapters/tiny-q-and-v");
    for (format, out) in [("peft", "p"), ("uniform", "u"), ("gguf", "a.gguf"), ("mlx", "m"), ("merged", "base")] {
        let run = export(folder.path(), &adapter, &[], format, out);
        assert_eq!(run.code, 0, "{format}: {}", run.stderr);
    }
    for out in ["p", "u"] {
        let run = trainer_in(folder.path(), &["verify", out, "--model", "tiny-mobilevlm", "--json"], &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    let run = trainer_in(folder.path(), &["verify", "u", "--model", "tiny-mobilevlm", "--json"], &[]).json();
    assert!(run["consumers"].as_array().unwrap().iter().take(5).all(|row| row["right"] == true), "{run}");
    assert!(tensors(&folder.path().join("u"), "adapter_model.safetensors").iter().any(|(_, shape)| shape == &[2, 64]));
    let mlx = tensors(&folder.path().join("m"), "adapters.safetensors");
    assert_eq!(mlx[0], ("model.layers.0.self_attn.q_proj.lora_a".to_owned(), vec![64, 2]));

    let adapter = adapter.to_str().unwrap();
    let text = |arguments: &[&str]| {
        let fixed = ["--device=cpu", "--json", "--max-tokens=4"];
        let run = trainer_in(folder.path(), &[&["generate", "What color is it?"], arguments, &fixed].concat(), &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.json()["text"].clone()
    };
    let answer = text(&["--adapter", adapter]);
    for same in [&["--adapter", "p"][..], &["--adapter", "u"], &["--base", "base"]] {
        assert_eq!(text(same), answer, "{same:?}");
    }
    let small = ["--set=data.validation_pictures=4", "--device=cpu", "--json"];
    let eval = trainer_in(folder.path(), &[&["eval", "--adapter", adapter][..], &small].concat(), &[]);
    assert_eq!(eval.code, 0, "{}", eval.stderr);
}

#[test]
fn an_export_without_a_base_says_which_it_takes_and_names_the_flag_where_that_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let own = export(folder.path(), &reference("adapters/tiny-q-and-v"), &[], "uniform", "own");
    assert_eq!(own.code, 0, "{}", own.stderr);
    assert!(
        own.stderr.contains("no --base is given: the adapter is taken for the embedded tiny-mobilevlm's"),
        "{}",
        own.stderr
    );
    let other = reference("adapters/key-of-one-projection");
    for format in ["peft", "uniform", "gguf", "mlx", "merged"] {
        let run = export(folder.path(), &other, &[], format, "other");
        run.fails(3, "data", &["tiny-mobilevlm", "name the adapter's own with --base"]);
    }
}

#[test]
fn a_configuration_is_enough_of_a_base_even_of_one_that_is_not_run_here() {
    let folder = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_slice(&read(reference("adapters/config.json"))).unwrap();
    // Not one of them is run here.
    for (model_type, key, value) in [
        ("llama", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("qwen3", "head_dim", json!(4)),
        ("granite", "rope_scaling", Value::Null),
        ("gemma2", "head_dim", json!(4)),
    ] {
        (config["model_type"], config[key]) = (json!(model_type), value);
        let base = format!("{model_type}.json");
        fs::write(folder.path().join(&base), config.to_string()).unwrap();
        let adapter = reference("adapters/key-of-one-projection");
        for format in ["peft", "uniform", "gguf", "mlx"] {
            let run = export(folder.path(), &adapter, &["--base", &base], format, &format!("{model_type}-{format}"));
            assert_eq!(run.code, 0, "{model_type}, {format}: {}", run.stderr);
        }
        let gguf = read(folder.path().join(format!("{model_type}-gguf")));
        let architecture =
            format!("general.architecture\u{8}\0\0\0{}\0\0\0\0\0\0\0{model_type}", char::from(model_type.len() as u8));
        let found = gguf.windows(architecture.len()).any(|window| window == architecture.as_bytes());
        assert!(found, "{model_type}");
    }
    let broken = export(folder.path(), &reference("adapters/one-b-missing"), &["--base=llama.json"], "uniform", "x");
    broken.fails(3, "data", &["lora_B is missing for model.layers.0.self_attn.q_proj"]);
    let pissa = changed("live-names", &[("init_lora_weights", json!("pissa"))]);
    export(folder.path(), pissa.path(), &["--base=llama.json"], "gguf", "x").fails(
        3,
        "data",
        &["only plain LoRA", "pissa"],
    );
}

#[test]
fn what_a_format_cannot_hold_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let base = |name: &str| format!("--base={}", reference(&format!("adapters/{name}")).display());
    let head = reference("adapters/with-lm-head-lora");
    export(folder.path(), &head, &[&base(TEXT)], "gguf", "h.gguf").fails(3, "data", &["also changes lm_head"]);
    let padded = export(folder.path(), &head, &[&base(TEXT)], "uniform", "h");
    assert_eq!(padded.code, 0, "{}", padded.stderr);
    assert_eq!(tensors(&folder.path().join("h"), "adapter_model.safetensors").len(), 30);
    let tower = reference("adapters/with-vision-tower");
    let run = export(folder.path(), &tower, &[&base(VISION)], "gguf", "t.gguf");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("is left out") && run.stderr.contains("vision_tower"), "{}", run.stderr);
    export(folder.path(), &tower, &[&base(VISION)], "mlx", "t").fails(2, "usage", &["mlx-lm runs language models"]);
    let idle = export(folder.path(), &reference("adapters/alpha-zero"), &[&base(TEXT)], "peft", "i");
    assert_eq!(idle.code, 0, "{}", idle.stderr);
    assert!(idle.stderr.contains("warning: alpha is 0"), "{}", idle.stderr);
}

#[test]
fn the_old_path_of_a_decoder_inside_a_vision_language_model_is_read_and_written_anew() {
    let old = |name: &str| name.replace("model.language_model.layers", "language_model.model.layers");
    let keys = json!({"language_model.model.layers.0.self_attn.q_proj": 1});
    let alphas = json!({"language_model.model.layers.0.self_attn.q_proj": 2});
    let targets = json!(r"language_model\.model\.layers\..*_proj");
    let changes = [("rank_pattern", keys), ("alpha_pattern", alphas), ("target_modules", targets)];
    let adapter = renamed("key-also-hits-vision-tower", &changes, old);
    let run = verify_path(adapter.path(), VISION);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("before 4.52"), "{}", run.stderr);
    let folder = tempfile::tempdir().unwrap();
    let base = format!("--base={}", reference("adapters/config-vlm.json").display());
    assert_eq!(export(folder.path(), adapter.path(), &[&base], "peft", "new").code, 0);
    let new: PathBuf = folder.path().join("new");
    assert_eq!(
        tensors(&new, "adapter_model.safetensors"),
        tensors(&reference("adapters/key-also-hits-vision-tower"), "adapter_model.safetensors")
    );
    let run = verify_path(&new, VISION);
    assert_eq!((run.code, run.stderr.contains("4.52")), (0, false), "{}", run.stderr);
}
