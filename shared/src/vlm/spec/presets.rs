//! Models known by name.

use std::sync::Arc;

use super::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec, VisionSpec};
use crate::layout::Layout;

/// Names that [`ModelSpec::preset`] knows.
pub const PRESETS: [&str; 6] =
    ["mobilevlm-1.7b", "mobilevlm-3b", "mobilevlm-v2-1.7b", "mobilevlm-v2-3b", "smollm2-135m", "tiny-mobilevlm"];

/// A name that is not a preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no model preset is called \"{name}\"; the presets are {}", PRESETS.join(", "))]
pub struct UnknownPreset {
    /// What was asked for.
    pub name: String,
}

impl ModelSpec {
    /// The model of that name.
    ///
    /// # Errors
    /// Any name that is not in [`PRESETS`].
    pub fn preset(name: &str) -> Result<Self, UnknownPreset> {
        let spec = match name {
            "mobilevlm-1.7b" => mobilevlm(name, mobile_llama_1_4b(), ProjectorKind::Ldpnet),
            "mobilevlm-3b" => mobilevlm(name, mobile_llama_2_7b(), ProjectorKind::Ldpnet),
            "mobilevlm-v2-1.7b" => mobilevlm(name, mobile_llama_1_4b(), ProjectorKind::Ldpnetv2),
            "mobilevlm-v2-3b" => mobilevlm(name, mobile_llama_2_7b(), ProjectorKind::Ldpnetv2),
            "smollm2-135m" => smollm2_135m(name),
            "tiny-mobilevlm" => tiny_mobilevlm(name),
            _ => return Err(UnknownPreset { name: name.to_owned() }),
        };
        Ok(spec)
    }
}

/// The modules that can get ranks in the preset of that name; none for any other name.
pub fn preset_layout(name: &str) -> Option<Arc<Layout>> {
    ModelSpec::preset(name).ok()?.layout().ok()
}

/// MobileLLaMA-1.4B (mtgv/MobileLLaMA-1.4B-Chat).
fn mobile_llama_1_4b() -> DecoderSpec {
    DecoderSpec {
        hidden: 2048,
        intermediate: 5632,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        head_dim: 128,
        vocab: 32_000,
        tied_embeddings: false,
        attention_bias: false,
        output_bias: false,
        mlp_bias: false,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_positions: 2048,
    }
}

/// MobileLLaMA-2.7B. Its configuration also carries left-over lit-gpt fields that say 16 heads; transformers reads the
/// Hugging Face fields, which say 32.
fn mobile_llama_2_7b() -> DecoderSpec {
    DecoderSpec {
        hidden: 2560,
        intermediate: 6912,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        head_dim: 80,
        ..mobile_llama_1_4b()
    }
}

/// CLIP ViT-L/14 at 336 pixels, MobileVLM's vision tower.
pub(super) fn clip_vit_l_14_336() -> VisionSpec {
    VisionSpec {
        hidden: 1024,
        intermediate: 4096,
        layers: 24,
        heads: 16,
        image_size: 336,
        patch_size: 14,
        layer_norm_eps: 1e-5,
    }
}

fn mobilevlm(name: &str, decoder: DecoderSpec, kind: ProjectorKind) -> ModelSpec {
    let vision = clip_vit_l_14_336();
    ModelSpec {
        name: name.to_owned(),
        layers_path: "model.layers".to_owned(),
        projector: Some(ProjectorSpec { kind, vision_hidden: vision.hidden, hidden: decoder.hidden }),
        vision: Some(vision),
        decoder,
    }
}

fn smollm2_135m(name: &str) -> ModelSpec {
    ModelSpec {
        name: name.to_owned(),
        layers_path: "model.layers".to_owned(),
        decoder: DecoderSpec {
            hidden: 576,
            intermediate: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            vocab: 49_152,
            tied_embeddings: true,
            attention_bias: false,
            output_bias: false,
            mlp_bias: false,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            max_positions: 8192,
        },
        vision: None,
        projector: None,
    }
}

/// MobileVLM V2's structure at the size of a demonstration: trains on two CPU cores and in a browser.
fn tiny_mobilevlm(name: &str) -> ModelSpec {
    let decoder = DecoderSpec {
        hidden: 64,
        intermediate: 128,
        layers: 6,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        vocab: 512,
        tied_embeddings: false,
        attention_bias: false,
        output_bias: false,
        mlp_bias: false,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_positions: 256,
    };
    let vision = VisionSpec {
        hidden: 64,
        intermediate: 128,
        layers: 4,
        heads: 4,
        image_size: 64,
        patch_size: 8,
        layer_norm_eps: 1e-5,
    };
    ModelSpec {
        name: name.to_owned(),
        layers_path: "model.layers".to_owned(),
        projector: Some(ProjectorSpec {
            kind: ProjectorKind::Ldpnetv2,
            vision_hidden: vision.hidden,
            hidden: decoder.hidden,
        }),
        vision: Some(vision),
        decoder,
    }
}
