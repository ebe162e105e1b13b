//! Model types whose decoder layers hold LLaMA's seven matrices, with what transformers 5.24 takes where a configuration says
//! nothing. `fixtures/families.json` holds what PEFT adapts in each.

use serde_json::{Map, Value, json};

use super::ConfigError;
use super::fields::Fields;

/// What a model type adds to LLaMA's layers, and transformers' defaults for it.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// q, k and v carry a bias whatever the configuration says.
    pub qkv_bias: bool,
    /// Whether `attention_bias` of the configuration is heeded.
    pub reads_attention_bias: bool,
    /// Its default.
    pub attention_bias: bool,
    /// Whether o has no bias where q, k and v have one for its sake.
    pub plain_output: bool,
    /// Whether `mlp_bias` is.
    pub reads_mlp_bias: bool,
    /// Norms beside the two of a layer's width.
    pub norms: Norms,
    /// Whether the output head is the embedding.
    pub tied_embeddings: bool,
    /// `None`: hidden_size / num_attention_heads.
    pub head_dim: Option<u64>,
    /// `None`: as many as num_attention_heads.
    pub kv_heads: Option<u64>,
    /// Sizes of a configuration that gives none; not known for a type that is not transformers' own.
    pub sizes: Option<Sizes>,
    /// Experts in place of the feed-forward.
    pub experts: Option<Experts>,
}

/// The experts of a mixture; keys of the configuration come with transformers' defaults.
#[derive(Clone, Copy)]
pub(super) struct Experts {
    /// How many there are.
    pub count: (&'static str, u64),
    /// Another name for it that transformers reads where the first is not there.
    pub count_alias: Option<&'static str>,
    /// Inner width of one; `None`: intermediate_size.
    pub width: Option<(&'static str, u64)>,
    /// What every token goes through beside its experts.
    pub shared: Shared,
    /// Layers without experts.
    pub dense: Dense,
    /// Whether experts and router carry biases, and attention its sinks.
    pub biased: bool,
    /// Whether PEFT 0.21, with transformers 5, takes the names gate_proj, up_proj and down_proj for the experts' wherever they
    /// stand, so that it adapts no shared expert and no dense feed-forward, and the experts in their place.
    pub claims_names: bool,
}

/// Shared experts.
#[derive(Clone, Copy)]
pub(super) enum Shared {
    None,
    /// One of a width of its own, with a gate.
    Width {
        key: &'static str,
        default: u64,
        path: &'static str,
    },
    /// As wide as so many experts.
    Times {
        key: &'static str,
        default: u64,
        path: &'static str,
    },
}

/// Layers that have a dense feed-forward.
#[derive(Clone, Copy)]
pub(super) enum Dense {
    None,
    /// As `decoder_sparse_step` and `mlp_only_layers` say.
    Step,
    /// The first ones, `first_k_dense_replace` of them.
    First(u64),
}

/// Norms of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Two, as in LLaMA.
    Two,
    /// Two, and one each on the heads of q and k.
    Heads,
    /// Two around attention and two around the feed-forward.
    Four,
    /// Both of these.
    FourAndHeads,
    /// Two, and one each on all of q and all of k.
    Widths,
    /// Two with a bias.
    Biased,
    /// One for attention and feed-forward together.
    One,
}

/// Sizes of a decoder.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub hidden: u64,
    pub intermediate: u64,
    pub layers: u64,
    pub heads: u64,
    pub vocab: u64,
}

const fn sizes(hidden: u64, intermediate: u64, layers: u64, heads: u64, vocab: u64) -> Option<Sizes> {
    Some(Sizes { hidden, intermediate, layers, heads, vocab })
}

/// LLaMA's layers in a model of unknown sizes.
pub(super) const UNSIZED: Family = Family {
    qkv_bias: false,
    reads_attention_bias: true,
    attention_bias: false,
    plain_output: false,
    reads_mlp_bias: true,
    norms: Norms::Two,
    tied_embeddings: false,
    head_dim: None,
    kv_heads: None,
    sizes: None,
    experts: None,
};
const LLAMA: Family = Family { sizes: sizes(4096, 11008, 32, 32, 32000), ..UNSIZED };
const MISTRAL: Family = Family {
    reads_attention_bias: false,
    reads_mlp_bias: false,
    kv_heads: Some(8),
    sizes: sizes(4096, 14336, 32, 32, 32000),
    ..UNSIZED
};
const MINISTRAL3: Family = Family { head_dim: Some(128), sizes: sizes(4096, 14336, 34, 32, 131_072), ..MISTRAL };
const QWEN2: Family =
    Family { qkv_bias: true, kv_heads: Some(32), sizes: sizes(4096, 22016, 32, 32, 151_936), ..MISTRAL };
const QWEN2_VL: Family = Family { kv_heads: Some(8), sizes: sizes(8192, 29568, 80, 64, 152_064), ..QWEN2 };
const QWEN3: Family =
    Family { qkv_bias: false, reads_attention_bias: true, norms: Norms::Heads, head_dim: Some(128), ..QWEN2 };
const GEMMA: Family = Family {
    reads_attention_bias: true,
    tied_embeddings: true,
    head_dim: Some(256),
    kv_heads: Some(16),
    sizes: sizes(3072, 24576, 28, 16, 256_000),
    ..MISTRAL
};
const GEMMA2: Family =
    Family { norms: Norms::Four, kv_heads: Some(4), sizes: sizes(2304, 9216, 26, 8, 256_000), ..GEMMA };
const GEMMA3: Family = Family { norms: Norms::FourAndHeads, sizes: sizes(2304, 9216, 26, 8, 262_208), ..GEMMA2 };
const SMOLLM3: Family =
    Family { tied_embeddings: true, kv_heads: Some(4), sizes: sizes(2048, 11008, 36, 16, 128_256), ..UNSIZED };
const OLMO: Family = Family { reads_mlp_bias: false, sizes: sizes(4096, 11008, 32, 32, 50304), ..UNSIZED };
const OLMO2: Family = Family { norms: Norms::Widths, ..OLMO };
const STABLELM: Family =
    Family { norms: Norms::Biased, kv_heads: Some(32), sizes: sizes(2560, 6912, 32, 32, 50304), ..MISTRAL };
const COHERE: Family = Family {
    reads_mlp_bias: false,
    norms: Norms::One,
    tied_embeddings: true,
    sizes: sizes(8192, 22528, 40, 64, 256_000),
    ..UNSIZED
};

/// Experts as wide as `intermediate_size`, and nothing shared.
const fn experts(key: &'static str, default: u64) -> Experts {
    Experts {
        count: (key, default),
        count_alias: None,
        width: None,
        shared: Shared::None,
        dense: Dense::None,
        biased: false,
        claims_names: false,
    }
}

const MIXTRAL: Family = Family {
    experts: Some(Experts { count_alias: Some("num_experts"), ..experts("num_local_experts", 8) }),
    ..MISTRAL
};
const PHIMOE: Family = Family {
    reads_attention_bias: true,
    norms: Norms::Biased,
    sizes: sizes(4096, 6400, 32, 32, 32064),
    experts: Some(experts("num_local_experts", 16)),
    ..MISTRAL
};
const GRANITEMOE: Family = Family { reads_mlp_bias: false, experts: Some(experts("num_local_experts", 8)), ..LLAMA };
const OLMOE: Family =
    Family { sizes: sizes(2048, 2048, 16, 16, 50304), experts: Some(experts("num_experts", 64)), ..OLMO2 };
const FLEX_OLMO: Family =
    Family { sizes: sizes(4096, 11008, 32, 32, 100_352), experts: Some(experts("num_experts", 7)), ..OLMO2 };
const QWEN2_MOE: Family = Family {
    kv_heads: Some(16),
    sizes: sizes(2048, 5632, 24, 16, 151_936),
    experts: Some(Experts {
        width: Some(("moe_intermediate_size", 1408)),
        shared: Shared::Width { key: "shared_expert_intermediate_size", default: 5632, path: "mlp.shared_expert" },
        dense: Dense::Step,
        ..experts("num_experts", 60)
    }),
    ..QWEN2
};
const QWEN3_MOE: Family = Family {
    head_dim: None,
    kv_heads: Some(4),
    sizes: sizes(2048, 6144, 24, 32, 151_936),
    experts: Some(Experts {
        width: Some(("moe_intermediate_size", 768)),
        dense: Dense::Step,
        claims_names: true,
        ..experts("num_experts", 128)
    }),
    ..QWEN3
};
const QWEN3_VL_MOE: Family = Family {
    kv_heads: Some(16),
    sizes: sizes(2048, 5632, 24, 16, 151_936),
    experts: Some(Experts {
        width: Some(("moe_intermediate_size", 1408)),
        dense: Dense::Step,
        ..experts("num_experts", 60)
    }),
    ..QWEN3_MOE
};
const GLM4_MOE: Family = Family {
    plain_output: true,
    reads_mlp_bias: false,
    kv_heads: Some(8),
    sizes: sizes(4096, 10944, 46, 96, 151_552),
    experts: Some(Experts {
        width: Some(("moe_intermediate_size", 1408)),
        shared: Shared::Times { key: "n_shared_experts", default: 1, path: "mlp.shared_experts" },
        dense: Dense::First(1),
        claims_names: true,
        ..experts("n_routed_experts", 128)
    }),
    ..UNSIZED
};
const GLM4V_MOE: Family = Family { attention_bias: true, sizes: sizes(4096, 10944, 46, 96, 151_424), ..GLM4_MOE };
const DOTS1: Family = Family {
    norms: Norms::Heads,
    reads_mlp_bias: false,
    kv_heads: Some(32),
    sizes: sizes(4608, 10944, 62, 32, 152_064),
    experts: Some(Experts {
        width: Some(("moe_intermediate_size", 1408)),
        shared: Shared::Times { key: "n_shared_experts", default: 2, path: "mlp.shared_experts" },
        dense: Dense::First(0),
        claims_names: true,
        // transformers has no defaults for how many: they are those of dots.llm1.
        ..experts("n_routed_experts", 128)
    }),
    ..UNSIZED
};
const GPT_OSS: Family = Family {
    attention_bias: true,
    reads_mlp_bias: false,
    head_dim: Some(64),
    kv_heads: Some(8),
    sizes: sizes(2880, 2880, 36, 64, 201_088),
    experts: Some(Experts { count_alias: Some("num_experts"), biased: true, ..experts("num_local_experts", 128) }),
    ..UNSIZED
};

/// The family of a model type; a configuration without one counts as `default`, or as LLaMA's.
pub(super) fn family(fields: &Fields, default: Option<&str>) -> Result<Family, ConfigError> {
    let name = fields.text("model_type").or(default).map(str::to_lowercase);
    if let Some(family) = name.as_deref().and_then(mixture) {
        return Ok(family);
    }
    fields.refuse_experts()?;
    let Some(name) = name else { return Ok(UNSIZED) };
    match name.as_str() {
        "llama" => Ok(LLAMA),
        "mistral" | "ministral" | "llava_mistral" => Ok(MISTRAL),
        "ministral3" => Ok(MINISTRAL3),
        "qwen2" | "llava_qwen" | "llava_qwen2" => Ok(QWEN2),
        "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" => Ok(QWEN2_VL),
        "qwen3" | "qwen3_vl_text" => Ok(QWEN3),
        "gemma" => Ok(GEMMA),
        "gemma2" => Ok(GEMMA2),
        "gemma3_text" => Ok(GEMMA3),
        "smollm3" => Ok(SMOLLM3),
        "olmo" => Ok(OLMO),
        "olmo2" | "olmo3" => Ok(OLMO2),
        "stablelm" => Ok(STABLELM),
        "cohere" | "cohere2" => Ok(COHERE),

        "granite" => Ok(LLAMA),
        "mobilevlm" | "llava" | "smollm" | "smollm2" | "yi" | "vicuna" => Ok(UNSIZED),
        // LLaMA 4 has experts, mllama cross-attention layers.
        name if name.contains("llama") && !name.starts_with("llama4") && !name.starts_with("mllama") => Ok(UNSIZED),
        _ => Err(ConfigError::Unsupported(format!(
            "the model type \"{name}\" is not known to be built as LLaMA's decoder (as llama, mistral, qwen3, gemma3_text, the dense \
             part of mixtral and others are, docs/real-models.md lists them); give the checkpoint instead (its folder, model.safetensors or model.safetensors.index.json), \
             whose tensors tell the shapes of any model; or, if its layers hold just q_proj, k_proj, v_proj, o_proj, gate_proj, \
             up_proj and down_proj, set {} to \"llama\"",
            fields.place("model_type")
        ))),
    }
}

/// The family of a mixture of experts; none for any other model type.
fn mixture(name: &str) -> Option<Family> {
    Some(match name {
        "mixtral" => MIXTRAL,
        "phimoe" => PHIMOE,
        "granitemoe" => GRANITEMOE,
        "olmoe" => OLMOE,
        "flex_olmo" => FLEX_OLMO,
        "qwen2_moe" => QWEN2_MOE,
        "qwen3_moe" => QWEN3_MOE,
        "qwen3_vl_moe_text" => QWEN3_VL_MOE,
        "glm4_moe" => GLM4_MOE,
        "glm4v_moe_text" => GLM4V_MOE,
        "dots1" => DOTS1,
        "gpt_oss" => GPT_OSS,
        _ => return None,
    })
}

/// What the layers of a model type compute other than LLaMA's.
pub(super) fn differs(model_type: &str) -> Option<&'static str> {
    match model_type {
        name if mixture(name).is_some() => Some("experts"),
        name if name.starts_with("gemma") => Some("norms that add 1 to their weight, and GELU"),
        "granite" => Some("multipliers of embedding, attention, residual and logits"),
        "smollm3" => Some("layers without rotary embedding"),
        "olmo" => Some("norms without weights"),
        "olmo2" | "olmo3" => Some("norms after attention and feed-forward, and on q and k"),
        "ministral3" => Some("queries that are scaled by position"),
        "stablelm" => Some("LayerNorm, and rotary embedding of a part of each head"),
        "cohere" | "cohere2" => Some("attention and feed-forward side by side, and scaled logits"),
        _ => None,
    }
}

/// The model type of the decoder in a model that sees or hears whose configuration does not name it.
pub(super) fn text_type(outer: &str) -> Option<&'static str> {
    Some(match outer {
        "llava" | "llava_next" | "llava_next_video" | "video_llava" | "vipllava" | "idefics3" | "smolvlm" => "llama",
        "llava_onevision" | "internvl" => "qwen2",
        "qwen2_vl" => "qwen2_vl_text",
        "qwen2_5_vl" => "qwen2_5_vl_text",
        "qwen3_vl" => "qwen3_vl_text",
        "qwen3_vl_moe" => "qwen3_vl_moe_text",
        "glm4v_moe" => "glm4v_moe_text",
        "voxtral" | "glmasr" => "llama",
        "qwen2_audio" | "audioflamingo3" | "musicflamingo" | "vibevoice_asr" => "qwen2",
        "qwen3_asr" => "qwen3",
        "granite_speech" => "granite",
        "gemma3" => "gemma3_text",
        "idefics2" | "mistral3" => "mistral",
        "paligemma" => "gemma",
        "aya_vision" | "cohere2_vision" => "cohere2",
        _ => return None,
    })
}

/// Whether transformers takes what a `text_config` leaves out from that of a model without one, and not from its own type's
/// defaults.
pub(super) fn completes_text(outer: &str) -> bool {
    matches!(outer, "voxtral" | "glmasr")
}

/// The `text_config` that transformers gives a model that sees or hears without one.
pub(super) fn absent_text(outer: &str) -> Option<Map<String, Value>> {
    let text = text_type(outer)?;
    let config = match outer {
        "paligemma" => json!({
            "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
            "num_key_value_heads": 1, "vocab_size": 257_152
        }),
        "mistral3" => json!({
            "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131_072
        }),
        "voxtral" => json!({
            "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 30, "num_key_value_heads": 8,
            "head_dim": 128, "vocab_size": 131_072
        }),
        "glmasr" => json!({
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 4, "vocab_size": 59264
        }),
        "qwen3_asr" => json!({
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "vocab_size": 151_936
        }),
        _ => json!({}),
    };
    let Value::Object(mut config) = config else { return None };
    config.insert("model_type".to_owned(), text.into());
    Some(config)
}
