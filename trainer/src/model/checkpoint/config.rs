//! `config.json` of a model that was put together here, so that what is written reads back.

use hydra_shared::vlm::spec::ModelSpec;
use serde_json::{Value, json};

/// Configuration of a model.
const CONFIG: &str = "config.json";
/// Configuration of the tower beside a checkpoint that only names it.
pub(super) const VISION_CONFIG: &str = "vision_config.json";

/// The files, with what `config.json` says about vision brought up to date (a whole one where there was none), and
/// `vision_config.json` for a model with a vision tower.
pub fn config_files(spec: &ModelSpec, mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let old = files.iter().find(|(name, _)| name == CONFIG).and_then(|(_, bytes)| serde_json::from_slice(bytes).ok());
    let mut config: Value = old.filter(Value::is_object).unwrap_or_else(|| decoder(spec));
    files.retain(|(name, _)| name != CONFIG && name != VISION_CONFIG);
    if let (Some(vision), Some(projector)) = (&spec.vision, &spec.projector) {
        let (architecture, model_type) = match biases_of_qwen2(spec) {
            true => ("LlavaQwen2ForCausalLM", "llava_qwen2"),
            false => ("MobileLlamaForCausalLM", "mobilevlm"),
        };
        config["architectures"] = json!([architecture]);
        config["model_type"] = json!(model_type);
        config["mm_hidden_size"] = json!(vision.hidden);
        config["mm_projector_type"] = json!(projector.kind.name());
        config["mm_vision_tower"] = json!(VISION_CONFIG);
        config["vision_tower_type"] = json!("clip");
        config["image_aspect_ratio"] = json!("pad");
        let tower = json!({
            "model_type": "clip_vision_model", "hidden_size": vision.hidden, "intermediate_size": vision.intermediate,
            "num_hidden_layers": vision.layers, "num_attention_heads": vision.heads, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "layer_norm_eps": vision.layer_norm_eps, "hidden_act": "quick_gelu",
        });
        files.push((VISION_CONFIG.to_owned(), pretty(&tower)));
    }
    files.push((CONFIG.to_owned(), pretty(&config)));
    files
}

/// The configuration of a decoder that came without one.
fn decoder(spec: &ModelSpec) -> Value {
    let d = &spec.decoder;
    let (architecture, model_type) = match biases_of_qwen2(spec) {
        true => ("Qwen2ForCausalLM", "qwen2"),
        false => ("LlamaForCausalLM", "llama"),
    };
    json!({
        "architectures": [architecture], "model_type": model_type, "_name_or_path": spec.name,
        "hidden_size": d.hidden, "intermediate_size": d.intermediate, "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads, "head_dim": d.head_dim,
        "vocab_size": d.vocab, "tie_word_embeddings": d.tied_embeddings, "rms_norm_eps": d.rms_norm_eps,
        "rope_theta": d.rope_theta, "max_position_embeddings": d.max_positions, "hidden_act": "silu",
        "attention_bias": d.output_bias, "mlp_bias": d.mlp_bias,
    })
}

/// Biases at q, k and v and none at o: LLaMA's one `attention_bias` for all four cannot say that, Qwen2 always has them so.
fn biases_of_qwen2(spec: &ModelSpec) -> bool {
    spec.decoder.attention_bias && !spec.decoder.output_bias
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::spec::ModelConfig;

    use super::*;

    fn read_back(files: &[(String, Vec<u8>)]) -> ModelSpec {
        let text = |wanted: &str| {
            let file = files.iter().find(|(name, _)| name == wanted);
            file.map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
        };
        let spec = ModelConfig::from_json(text(CONFIG).unwrap()).unwrap().runnable().unwrap();
        match text(VISION_CONFIG) {
            Some(vision) => spec.with_vision_config(vision).unwrap(),
            None => spec,
        }
    }

    #[test]
    fn whatever_biases_the_attention_has_are_read_back() {
        for vision in [false, true] {
            for (attention_bias, output_bias) in [(false, false), (true, false), (true, true)] {
                let mut spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
                if !vision {
                    (spec.vision, spec.projector) = (None, None);
                }
                spec.decoder.attention_bias = attention_bias;
                spec.decoder.output_bias = output_bias;
                assert_eq!(read_back(&config_files(&spec, Vec::new())).decoder, spec.decoder, "with vision: {vision}");
            }
        }
    }
}
