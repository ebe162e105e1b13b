//! `config.json` of a model that was put together here, so that what is written reads back, here and in transformers.

use hydra_shared::model_spec::ModelSpec;
use serde_json::json;

use super::VISION_CONFIG;

/// The files, with `config.json` and, for a model with a vision tower, `vision_config.json` written anew.
pub fn config_files(spec: &ModelSpec, mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files.retain(|(name, _)| name != "config.json" && name != VISION_CONFIG);
    let d = &spec.decoder;
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "_name_or_path": spec.name,
        "hidden_size": d.hidden, "intermediate_size": d.intermediate, "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads, "num_key_value_heads": d.kv_heads, "head_dim": d.head_dim,
        "vocab_size": d.vocab, "tie_word_embeddings": d.tied_embeddings, "rms_norm_eps": d.rms_norm_eps,
        "rope_theta": d.rope_theta, "max_position_embeddings": d.max_positions, "hidden_act": "silu",
        "attention_bias": d.output_bias, "mlp_bias": d.mlp_bias,
    });
    if let (Some(vision), Some(projector)) = (&spec.vision, &spec.projector) {
        config["architectures"] = json!(["MobileLlamaForCausalLM"]);
        config["model_type"] = json!("mobilevlm");
        config["mm_hidden_size"] = json!(vision.hidden);
        config["mm_projector_type"] = json!(projector.kind.name());
        config["mm_vision_tower"] = json!(VISION_CONFIG);
        config["image_aspect_ratio"] = json!("pad");
        let tower = json!({
            "model_type": "clip_vision_model", "hidden_size": vision.hidden, "intermediate_size": vision.intermediate,
            "num_hidden_layers": vision.layers, "num_attention_heads": vision.heads, "image_size": vision.image_size,
            "patch_size": vision.patch_size, "layer_norm_eps": vision.layer_norm_eps, "hidden_act": "quick_gelu",
        });
        files.push((VISION_CONFIG.to_owned(), pretty(&tower)));
    }
    files.push(("config.json".to_owned(), pretty(&config)));
    files
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
