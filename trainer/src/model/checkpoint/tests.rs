use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec};
use hydra_shared::vlm::{MobileVlm, Precision, VISION_PREFIX, Weights};
use tempfile::TempDir;

use super::Checkpoint;
use crate::error::{Kind, kind_of, message_of};

const CONFIG: &str = r#"{
    "model_type": "mobilevlm", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20, "rms_norm_eps": 1e-6,
    "mm_projector_type": "ldpnet", "mm_hidden_size": 8, "mm_vision_tower": "openai/clip-vit-large-patch14-336"
}"#;
const VISION_CONFIG: &str = r#"{
    "model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 16, "patch_size": 4
}"#;

fn spec() -> ModelSpec {
    ModelConfig::from_json(CONFIG).unwrap().runnable().unwrap().with_vision_config(VISION_CONFIG).unwrap()
}

/// A folder with the configurations, and the weights that belong in it.
fn folder() -> (TempDir, Weights) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    std::fs::write(folder.path().join("vision_config.json"), VISION_CONFIG).unwrap();
    (folder, random_weights(&spec(), 3))
}

fn write(weights: &Weights, path: &Path) {
    std::fs::write(path, weights.to_safetensors(Precision::F32).unwrap()).unwrap();
}

/// The weights in two files and their index.
fn write_shards(weights: &Weights, folder: &Path) {
    let mut halves = [Weights::default(), Weights::default()];
    let mut index = BTreeMap::new();
    for (number, (name, weight)) in weights.tensors.iter().enumerate() {
        halves[number % 2].tensors.insert(name.clone(), weight.clone());
        index.insert(name.clone(), format!("part-{}.safetensors", number % 2));
    }
    for (number, half) in halves.iter().enumerate() {
        write(half, &folder.join(format!("part-{number}.safetensors")));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": index});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn load(folder: &Path) -> anyhow::Result<Weights> {
    let checkpoint = Checkpoint::open(folder, None)?;
    let model = MobileVlm::load(&checkpoint.spec, checkpoint.weights, &Device::flex())?;
    Ok(pollster::block_on(model.names().read(&model, |_| true))?)
}

fn refusal(folder: &Path) -> String {
    message_of(&load(folder).unwrap_err())
}

#[test]
fn a_checkpoint_in_one_file_or_in_shards_loads_to_the_last_bit() {
    let (folder, weights) = folder();
    write(&weights, &folder.path().join("model.safetensors"));
    assert_eq!(load(folder.path()).unwrap(), weights);
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    write_shards(&weights, folder.path());
    assert_eq!(load(folder.path()).unwrap(), weights);
}

#[test]
fn every_missing_left_over_and_misshapen_tensor_is_listed_by_name() {
    let (folder, mut weights) = folder();
    weights.tensors.remove("model.norm.weight");
    let odd = weights.tensors["lm_head.weight"].clone();
    weights.tensors.insert("model.layers.2.mlp.up_proj.weight".to_owned(), odd.clone());
    weights.tensors.insert("model.layers.0.self_attn.k_proj.weight".to_owned(), odd);
    write(&weights, &folder.path().join("model.safetensors"));
    let message = refusal(folder.path());
    for part in [
        "model.norm.weight is missing",
        "model.layers.2.mlp.up_proj.weight is not part of the model",
        "model.layers.0.self_attn.k_proj.weight has shape [20, 16], the model wants [8, 16]",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[test]
fn buffers_that_transformers_saves_are_no_weights() {
    let (folder, weights) = folder();
    let buffer = weights.tensors["model.norm.weight"].clone();
    let mut more = weights.clone();
    more.tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), buffer.clone());
    more.tensors.insert(format!("{VISION_PREFIX}.embeddings.position_ids"), buffer);
    write(&more, &folder.path().join("model.safetensors"));
    assert_eq!(load(folder.path()).unwrap(), weights);
}

#[test]
fn a_tower_in_its_own_folder_replaces_that_of_the_checkpoint() {
    let (folder, weights) = folder();
    let clip = TempDir::new().unwrap();
    std::fs::write(clip.path().join("config.json"), format!(r#"{{"vision_config": {VISION_CONFIG}}}"#)).unwrap();
    let of_tower = |name: &str| name.starts_with(VISION_PREFIX);
    let (mut decoder, mut tower) = (Weights::default(), Weights::default());
    for (name, weight) in &weights.tensors {
        if of_tower(name) {
            tower.tensors.insert(name.replacen(VISION_PREFIX, "vision_model", 1), weight.clone());
        } else {
            decoder.tensors.insert(name.clone(), weight.clone());
        }
    }
    tower.tensors.insert("text_projection.weight".to_owned(), weights.tensors["model.norm.weight"].clone());
    write(&decoder, &folder.path().join("model.safetensors"));
    write(&tower, &clip.path().join("model.safetensors"));
    assert!(refusal(folder.path()).contains("--vision-tower"));
    let checkpoint = Checkpoint::open(folder.path(), Some(clip.path())).unwrap();
    let model = MobileVlm::load(&checkpoint.spec, checkpoint.weights, &Device::flex()).unwrap();
    assert_eq!(pollster::block_on(model.names().read(&model, |_| true)).unwrap(), weights);
}

#[test]
fn damaged_and_contradicting_files_are_named_with_a_remedy() {
    let (folder, weights) = folder();
    let path = folder.path();
    let error = load(path).unwrap_err();
    assert_eq!(kind_of(&error), Kind::Data);
    assert!(message_of(&error).contains("no weights here; expected model.safetensors"));

    let bytes = weights.to_safetensors(Precision::F32).unwrap();
    std::fs::write(path.join("model.safetensors"), &bytes[..bytes.len() - 5]).unwrap();
    assert!(refusal(path).contains("model.safetensors: not a whole safetensors file; download it again"));
    std::fs::write(path.join("model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{").unwrap();
    assert!(refusal(path).contains("not a whole safetensors file"));
    std::fs::remove_file(path.join("model.safetensors")).unwrap();

    std::fs::write(path.join("pytorch_model.bin"), b"PK\x03\x04 and nothing").unwrap();
    assert!(refusal(path).contains("pytorch_model.bin: not a whole PyTorch file"));
    std::fs::remove_file(path.join("pytorch_model.bin")).unwrap();

    write_shards(&weights, path);
    std::fs::remove_file(path.join("part-1.safetensors")).unwrap();
    assert!(refusal(path).contains("shards are missing: part-1.safetensors"));
    let index = path.join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"a": "part-0.safetensors", "a": "part-0.safetensors"}}"#).unwrap();
    assert!(refusal(path).contains("weight_map names a twice"));
    std::fs::write(&index, r#"{"weight_map": {"a": "part-0.safetensors"}}"#).unwrap();
    assert!(refusal(path).contains("a is not in part-0.safetensors"));
    std::fs::write(&index, r#"{"weight_map": {"a": "../part-0.safetensors"}}"#).unwrap();
    assert!(refusal(path).contains("is no file name"));
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let (folder, mut weights) = folder();
    weights.tensors.get_mut("model.norm.weight").unwrap().values[3] = f32::NAN;
    write(&weights, &folder.path().join("model.safetensors"));
    assert!(refusal(folder.path()).contains("tensor model.norm.weight holds a value that is not finite, at element 3"));
}

#[test]
fn a_tower_of_another_width_than_the_projector_reads_is_refused() {
    let (folder, weights) = folder();
    write(&weights, &folder.path().join("model.safetensors"));
    let wide = VISION_CONFIG.replace("\"hidden_size\": 8", "\"hidden_size\": 12");
    std::fs::write(folder.path().join("vision_config.json"), wide).unwrap();
    assert!(
        refusal(folder.path()).contains("the vision tower is 12 wide, and the projector reads features of width 8")
    );
}
