//! Reading a Hugging Face `config.json`.
//!
//! Names and defaults follow transformers' configuration classes. A model type whose decoder is not built as LLaMA's is
//! refused rather than counted wrongly.

mod fields;
mod vision;

use std::sync::Arc;

use serde_json::Value;

use super::{DecoderSpec, ModelSpec};
use crate::json::{self, JsonError};
use crate::layout::{Layout, LayoutError, MOST_LAYERS, MOST_WIDTH};
use fields::Fields;

/// Why a `config.json` could not be used. The caller names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON.
    #[error("this is not a model configuration: it is not JSON ({0})")]
    Json(#[from] JsonError),
    /// JSON, but a list or a plain value.
    #[error("this is not a model configuration: a JSON object is expected, as in a Hugging Face config.json")]
    NotAnObject,
    /// Fields that are needed and not there.
    #[error(
        "the configuration lacks {}; write a complete one with \
         AutoConfig.from_pretrained(…).to_json_file(\"config.json\", use_diff=False)",
        .fields.join(", ")
    )]
    Missing {
        /// Their names, with the object that should hold them.
        fields: Vec<String>,
    },
    /// Fields whose values cannot be meant.
    #[error("the configuration holds values that cannot be used: {}", .fields.join("; "))]
    Invalid {
        /// Name, value and what was expected.
        fields: Vec<String>,
    },
    /// A model of another kind.
    #[error("{0}")]
    Unsupported(String),
}

/// What a `config.json` says of a model: which modules can get ranks, and whether the model can be run here.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Its shapes, with the layers counted as LLaMA's.
    shapes: ModelSpec,
    /// Parameters of each layer's norms beyond LLaMA's two: q and k norms (Qwen 3), norms around the feed-forward
    /// (Gemma 2 and 3).
    extra_norms: usize,
    /// What its layers compute other than LLaMA's, where that is known.
    differs: Option<String>,
}

/// Why a model can be planned for and not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{model}: {reason}; it can be planned for, but not run")]
pub struct NotRunnable {
    /// Name of the model.
    pub model: String,
    /// What there is no code for.
    pub reason: String,
}

impl From<ModelSpec> for ModelConfig {
    fn from(shapes: ModelSpec) -> Self {
        Self { shapes, extra_norms: 0, differs: None }
    }
}

impl ModelConfig {
    /// Reads the text of a `config.json`: of a LLaMA-like decoder, of MobileVLM or LLaVA (a decoder with `mm_` fields
    /// beside), or of a vision-language model that nests a decoder under `text_config` or `llm_config`.
    ///
    /// The decoder layers' path is `model.layers`, for nested ones `model.language_model.layers` (as transformers names
    /// it since 4.52; `model.text_model.layers` for Idefics and SmolVLM, `language_model.model.layers` for InternVL's own
    /// code). A vision tower or projector whose construction is not known is left out.
    ///
    /// # Errors
    /// Text that is not the configuration of a LLaMA-like decoder, with what is missing or wrong and the remedy.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Value = json::from_str(text)?;
        let Value::Object(top) = &config else { return Err(ConfigError::NotAnObject) };
        let mut top = Fields::new(top, "");
        top.refuse_other_kinds()?;
        let nested = ["text_config", "llm_config"].into_iter().find_map(|key| top.object(key));
        let (shapes, extra_norms, differs) = match nested {
            Some(mut inner) => {
                inner.refuse_other_kinds()?;
                let decoder = decoder(&mut inner, Some(&top))?;
                (vision::nested(&top, decoder.spec), decoder.extra_norms, decoder.differs)
            }
            None => {
                let decoder = decoder(&mut top, None)?;
                (vision::flat(&top, decoder.spec), decoder.extra_norms, decoder.differs)
            }
        };
        Ok(Self { shapes, extra_norms, differs })
    }

    /// The shapes of decoder, vision tower and projector. They tell what a layer's matrices look like, not that this
    /// project can run the model: see [`Self::runnable`].
    pub fn shapes(&self) -> &ModelSpec {
        &self.shapes
    }

    /// What its layers compute other than LLaMA's, where that is known.
    pub fn differs(&self) -> Option<String> {
        self.differs.clone()
    }

    /// Parameters of each layer's norms beyond LLaMA's two.
    pub fn extra_norms(&self) -> usize {
        self.extra_norms
    }

    /// Parameters of the decoder: embedding, layers, final norm, and the head unless it is tied.
    pub fn decoder_parameters(&self) -> u64 {
        self.shapes.decoder_parameters() + (self.shapes.decoder.layers as u64) * (self.extra_norms as u64)
    }

    /// Parameters of everything that is known: decoder, vision tower and projector.
    pub fn total_parameters(&self) -> u64 {
        self.shapes.total_parameters() - self.shapes.decoder_parameters() + self.decoder_parameters()
    }

    /// The modules that can get ranks.
    ///
    /// # Errors
    /// None for a configuration that was read.
    pub fn layout(&self) -> Result<Arc<Layout>, LayoutError> {
        let layout = Arc::unwrap_or_clone(self.shapes.layout()?);
        Ok(Arc::new(layout.with_decoder_parameters(self.decoder_parameters())))
    }

    /// The model, where there is code to run it.
    ///
    /// # Errors
    /// Layers that compute something else than LLaMA's.
    pub fn runnable(self) -> Result<ModelSpec, NotRunnable> {
        let reason = match self.differs {
            Some(differs) => format!("{differs}, for which there is no code here"),
            None if self.extra_norms > 0 => "its decoder layers have more norms than LLaMA's".to_owned(),
            None => return Ok(self.shapes),
        };
        Err(NotRunnable { model: self.shapes.name, reason })
    }
}

impl ModelSpec {
    /// Takes the vision tower of a CLIP configuration: a `clip_vision_model` or a whole CLIP model's `config.json`, for a
    /// checkpoint whose own configuration only names its tower.
    ///
    /// # Errors
    /// Text that is no CLIP configuration, or one of another width than the projector reads.
    pub fn with_vision_config(mut self, text: &str) -> Result<Self, ConfigError> {
        let config: Value = json::from_str(text)?;
        let Value::Object(top) = &config else { return Err(ConfigError::NotAnObject) };
        let top = Fields::new(top, "");
        let tower = top.object("vision_config").as_ref().map_or_else(|| vision::clip(&top), vision::clip);
        let Some(tower) = tower else {
            return Err(ConfigError::Unsupported(
                "this is not the configuration of a CLIP vision tower (model_type clip_vision_model, with hidden_size, \
                 intermediate_size, num_hidden_layers, num_attention_heads, image_size and patch_size)"
                    .to_owned(),
            ));
        };
        if let Some(projector) = self.projector.as_ref().filter(|projector| projector.vision_hidden != tower.hidden) {
            return Err(ConfigError::Unsupported(format!(
                "the vision tower is {} wide, and the projector reads features of width {}: they do not belong together",
                tower.hidden, projector.vision_hidden
            )));
        }
        self.vision = Some(tower);
        Ok(self)
    }
}

/// What a model type adds to LLaMA's layers, and transformers' defaults for it.
struct Family {
    /// q, k and v carry a bias whatever the configuration says.
    qkv_bias: bool,
    /// Whether `attention_bias` and `mlp_bias` of the configuration are heeded.
    reads_attention_bias: bool,
    reads_mlp_bias: bool,
    /// q and k are normalised per head, with a weight of `head_dim` each.
    qk_norm: bool,
    /// The feed-forward has a norm before and after it, beside the two of LLaMA.
    four_norms: bool,
    tied_embeddings: bool,
    /// `None`: hidden_size / num_attention_heads.
    head_dim: Option<u64>,
}

const LLAMA: Family = Family {
    qkv_bias: false,
    reads_attention_bias: true,
    reads_mlp_bias: true,
    qk_norm: false,
    four_norms: false,
    tied_embeddings: false,
    head_dim: None,
};
const MISTRAL: Family = Family { reads_attention_bias: false, reads_mlp_bias: false, ..LLAMA };
const QWEN2: Family = Family { qkv_bias: true, ..MISTRAL };
const QWEN3: Family = Family { reads_attention_bias: true, qk_norm: true, head_dim: Some(128), ..MISTRAL };
const GEMMA: Family = Family { reads_attention_bias: true, tied_embeddings: true, head_dim: Some(256), ..MISTRAL };
const GEMMA2: Family = Family { four_norms: true, ..GEMMA };
const GEMMA3: Family = Family { qk_norm: true, ..GEMMA2 };

/// The family of a model type; a configuration without one counts as LLaMA's.
fn family(fields: &Fields) -> Result<Family, ConfigError> {
    let Some(name) = fields.text("model_type") else { return Ok(LLAMA) };
    let name = name.to_lowercase();
    match name.as_str() {
        "mistral" | "ministral" | "llava_mistral" => Ok(MISTRAL),
        "qwen2" | "llava_qwen" | "llava_qwen2" | "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" => {
            Ok(QWEN2)
        }
        "qwen3" | "qwen3_vl_text" => Ok(QWEN3),
        "gemma" => Ok(GEMMA),
        "gemma2" => Ok(GEMMA2),
        "gemma3_text" => Ok(GEMMA3),
        "smollm3" => Ok(Family { tied_embeddings: true, ..LLAMA }),
        "granite" | "mobilevlm" | "llava" | "smollm" | "smollm2" | "yi" | "vicuna" => Ok(LLAMA),
        // LLaMA 4 has experts, mllama cross-attention layers.
        name if name.contains("llama") && !name.starts_with("llama4") && !name.starts_with("mllama") => Ok(LLAMA),
        _ => Err(ConfigError::Unsupported(format!(
            "the model type \"{name}\" is not known to be built as LLaMA's decoder (llama, mistral, qwen2, qwen3, \
             gemma, gemma2, gemma3_text, smollm3, granite and vision-language models around them are); if its layers \
             hold just q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj and two RMSNorms, set \
             {} to \"llama\"",
            fields.place("model_type")
        ))),
    }
}

/// A decoder as its configuration has it.
struct ConfiguredDecoder {
    spec: DecoderSpec,
    extra_norms: usize,
    differs: Option<String>,
}

fn decoder(fields: &mut Fields, outer: Option<&Fields>) -> Result<ConfiguredDecoder, ConfigError> {
    let family = family(fields)?;
    let hidden = fields.count("hidden_size", MOST_WIDTH);
    let intermediate = fields.count("intermediate_size", MOST_WIDTH);
    let layers = fields.count("num_hidden_layers", MOST_LAYERS);
    let heads = fields.count("num_attention_heads", MOST_WIDTH);
    let vocab = fields.count("vocab_size", 1 << 24);
    let kv_heads = fields.count_or("num_key_value_heads", heads, MOST_WIDTH);
    let default_head_dim = match family.head_dim {
        Some(width) => width,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    let explicit_head_dim = family.head_dim.is_some() || fields.has("head_dim");
    let head_dim = fields.count_or("head_dim", default_head_dim, MOST_WIDTH);
    let rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6);
    // transformers 5 moved it.
    let rope_theta = match fields.object("rope_parameters").and_then(|rope| rope.float("rope_theta")) {
        Some(theta) if !fields.has("rope_theta") => theta,
        _ => fields.number_or("rope_theta", 10_000.0),
    };
    let max_positions = fields.count_or("max_position_embeddings", 2048, 1 << 30);
    let tied = fields.flag("tie_word_embeddings");
    let outer_tied = outer.and_then(|outer| outer.boolean("tie_word_embeddings"));
    let attention_bias = family.reads_attention_bias && fields.flag("attention_bias").unwrap_or(false);
    let mlp_bias = family.reads_mlp_bias && fields.flag("mlp_bias").unwrap_or(false);
    fields.finish()?;

    if !explicit_head_dim && !hidden.is_multiple_of(heads) {
        fields
            .invalid("hidden_size", &format!("{hidden} does not divide into {heads} heads and head_dim is not given"));
    }
    if !heads.is_multiple_of(kv_heads) {
        fields.invalid("num_attention_heads", &format!("{heads} is no multiple of num_key_value_heads, {kv_heads}"));
    }
    if heads.saturating_mul(head_dim) > MOST_WIDTH as u64 {
        let most = MOST_WIDTH;
        fields.invalid("head_dim", &format!("{heads} heads of width {head_dim} are wider than {most} together"));
    }
    fields.finish()?;

    let extra_norms = if family.qk_norm { 2 * head_dim } else { 0 } + if family.four_norms { 2 * hidden } else { 0 };
    // Every count is below its limit, so that the conversions lose nothing even on 32 bits.
    let spec = DecoderSpec {
        hidden: hidden as usize,
        intermediate: intermediate as usize,
        layers: layers as usize,
        heads: heads as usize,
        kv_heads: kv_heads as usize,
        head_dim: head_dim as usize,
        vocab: vocab as usize,
        tied_embeddings: tied.or(outer_tied).unwrap_or(family.tied_embeddings),
        attention_bias: family.qkv_bias || attention_bias,
        output_bias: attention_bias,
        mlp_bias,
        rms_norm_eps,
        rope_theta,
        max_positions: max_positions as usize,
    };
    Ok(ConfiguredDecoder { spec, extra_norms: extra_norms as usize, differs: differs(fields) })
}

/// What a configuration asks for that LLaMA's layers do not compute.
fn differs(fields: &Fields) -> Option<String> {
    let model_type = fields.text("model_type").unwrap_or_default().to_lowercase();
    let family = match model_type.as_str() {
        name if name.starts_with("gemma") => Some("norms that add 1 to their weight, and GELU"),
        "granite" => Some("multipliers of embedding, attention, residual and logits"),
        "smollm3" => Some("layers without rotary embedding"),
        _ => None,
    };
    if let Some(what) = family {
        return Some(format!("{model_type} has {what}"));
    }
    let scaling = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| {
        let scaling = fields.object(key)?;
        let kind = scaling.text("rope_type").or_else(|| scaling.text("type")).unwrap_or("default");
        (kind != "default").then(|| format!("{} asks for rotary embeddings scaled as {kind:?}", fields.place(key)))
    });
    let activation = fields.text("hidden_act").filter(|name| !["silu", "swish"].contains(name));
    scaling.or_else(|| activation.map(|name| format!("{} is {name:?}, not silu", fields.place("hidden_act"))))
}

#[cfg(test)]
mod tests;
