//! Reading a Hugging Face `config.json`.
//!
//! Names and defaults follow transformers' configuration classes. A model type whose decoder is not built as LLaMA's is
//! refused rather than counted wrongly.

mod family;
mod fields;
mod mixture;
mod vision;

use std::sync::Arc;

use serde_json::Value;

use super::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec};
use crate::json::{self, JsonError};
use crate::layout::{Catalog, Layout, LayoutError, MOST_LAYERS, MOST_WIDTH, ModuleShape};
use family::{Family, Norms, absent_text, family, text_type};
use fields::Fields;
use mixture::Mixture;

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
    /// Parameters that the decoder has beyond LLaMA's and these, or lacks.
    correction: i64,
    /// What its layers compute other than LLaMA's, where that is known.
    differs: Option<String>,
    /// The matrices of a vision tower, whether or not it can be run.
    tower: Option<Tower>,
    /// Which layers hold experts, in a mixture of them.
    mixture: Option<Mixture>,
    /// What was taken for granted.
    notes: Vec<String>,
    /// The decoder's `model_type`, in lower case; none where the model was put together here.
    model_type: Option<String>,
}

/// The matrices of a vision tower's layers.
#[derive(Debug, Clone, PartialEq)]
struct Tower {
    /// The paths that its list of layers has in one release or another.
    paths: Vec<&'static str>,
    layers: usize,
    /// Those of a layer.
    modules: Vec<(String, ModuleShape)>,
}

impl Tower {
    /// Full names and shapes under one of its paths.
    fn under(&self, path: &str) -> impl Iterator<Item = (String, ModuleShape)> {
        (0..self.layers).flat_map(move |layer| {
            self.modules.iter().map(move |(name, shape)| (format!("{path}.{layer}.{name}"), *shape))
        })
    }
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
        let tower = tower_of(&shapes);
        Self {
            shapes,
            extra_norms: 0,
            correction: 0,
            differs: None,
            tower,
            mixture: None,
            notes: Vec::new(),
            model_type: None,
        }
    }
}

fn tower_of(shapes: &ModelSpec) -> Option<Tower> {
    let vision = shapes.vision.as_ref()?;
    Some(Tower::clip(vision.hidden, vision.intermediate, vision.layers))
}

impl ModelConfig {
    /// Reads the text of a `config.json`: of a LLaMA-like decoder, of MobileVLM or LLaVA (a decoder with `mm_` fields
    /// beside), or of a model that sees or hears and nests a decoder under `text_config` or `llm_config`.
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
        let model_type = top.text("model_type").unwrap_or_default().to_lowercase();
        let mut notes = Vec::new();
        // A configuration of an older kind has the decoder's fields on top.
        let absent = if top.has("hidden_size") { None } else { absent_text(&model_type) };
        let inner = ["text_config", "llm_config"].into_iter().find_map(|key| top.object(key));
        let completed = match (&inner, &absent) {
            (Some(inner), Some(absent)) if family::completes_text(&model_type) => {
                Some(inner.completed(absent, &model_type, &mut notes))
            }
            _ => None,
        };
        let inner = match &completed {
            Some(completed) => Some(Fields::new(completed, "text_config.")),
            None => inner,
        };
        let nested = match (inner, &absent) {
            (Some(inner), _) => Some(inner),
            (None, Some(absent)) => {
                notes.push(format!(
                    "the configuration has no text_config: the decoder is taken to be transformers' default for {model_type}"
                ));
                Some(Fields::new(absent, "text_config."))
            }
            (None, None) => None,
        };
        let tower = top.object("vision_config").and_then(|vision| vision::tower(&vision, &model_type));
        let own_type = match &nested {
            Some(inner) => inner.text("model_type").or_else(|| text_type(&model_type)).map(str::to_lowercase),
            None => top.text("model_type").map(str::to_lowercase),
        };
        let (shapes, decoder) = match nested {
            Some(mut inner) => {
                inner.refuse_other_kinds()?;
                let decoder = decoder(&mut inner, Some(&top), text_type(&model_type))?;
                // An absent one was told of as a whole.
                if absent.is_none() || top.has("text_config") {
                    notes.append(&mut inner.take_notes());
                }
                (vision::nested(&top, decoder.spec.clone()), decoder)
            }
            None => {
                let decoder = decoder(&mut top, None, None)?;
                notes.append(&mut top.take_notes());
                (vision::flat(&top, decoder.spec.clone()), decoder)
            }
        };
        let ConfiguredDecoder { extra_norms, correction, differs, mixture, .. } = decoder;
        notes.extend(mixture.as_ref().map(Mixture::note));
        let tower = tower.or_else(|| tower_of(&shapes));
        Ok(Self { shapes, extra_norms, correction, differs, tower, mixture, notes, model_type: own_type })
    }

    /// What was taken for granted because the configuration does not say it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every matrix that is known: the decoder's projections, and outside it the output head, the embedding, the vision tower's
    /// and an MLP projector's.
    ///
    /// # Errors
    /// None for a configuration that was read.
    pub fn catalog(&self) -> Result<Catalog, LayoutError> {
        let decoder = &self.shapes.decoder;
        let shape = |d_in, d_out| ModuleShape { d_in, d_out };
        let mut others = vec![
            ("lm_head".to_owned(), shape(decoder.hidden, decoder.vocab)),
            ("embed_tokens".to_owned(), shape(decoder.vocab, decoder.hidden)),
        ];
        if let Some(tower) = &self.tower {
            others.extend(tower.paths.iter().flat_map(|path| tower.under(path)));
        }
        let mut projector = Vec::new();
        if let Some(ProjectorSpec { kind: ProjectorKind::Mlp { depth }, vision_hidden, hidden }) = self.shapes.projector
        {
            let in_transformers = self.shapes.layers_path == vision::NESTED_PATH;
            for at in 0..depth {
                let shape = shape(if at == 0 { vision_hidden } else { hidden }, hidden);
                others.push((format!("multi_modal_projector.linear_{}", at + 1), shape));
                others.push((format!("mm_projector.{}", 2 * at), shape));
                if in_transformers {
                    projector.push(format!("model.multi_modal_projector.linear_{}", at + 1));
                }
            }
        }
        let towers = self
            .tower
            .iter()
            .flat_map(|tower| tower.paths.iter().map(move |path| tower.under(path).map(|(name, _)| name).collect()));
        Ok(Catalog::new(self.layout()?, others).with_towers(towers).with_projector(projector))
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

    /// The decoder's `model_type`, in lower case; none where the configuration has none.
    pub fn model_type(&self) -> Option<&str> {
        self.model_type.as_deref()
    }

    /// Whether its layers hold experts, which get no ranks here.
    pub fn is_mixture(&self) -> bool {
        self.mixture.is_some()
    }

    /// What is to be known of a mixture of experts; none for any other model.
    pub fn mixture_note(&self) -> Option<String> {
        self.mixture.as_ref().map(Mixture::note)
    }

    /// Parameters of each layer's norms beyond LLaMA's two.
    pub fn extra_norms(&self) -> usize {
        self.extra_norms
    }

    /// Parameters of the decoder: embedding, layers, final norm, and the head unless it is tied.
    pub fn decoder_parameters(&self) -> u64 {
        let norms = (self.shapes.decoder.layers as u64) * (self.extra_norms as u64);
        (self.shapes.decoder_parameters() + norms).saturating_add_signed(self.correction)
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
        let layout = match &self.mixture {
            Some(mixture) => mixture.layout(&self.shapes)?,
            None => Arc::unwrap_or_clone(self.shapes.layout()?),
        };
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

/// A decoder as its configuration has it.
struct ConfiguredDecoder {
    spec: DecoderSpec,
    extra_norms: usize,
    correction: i64,
    differs: Option<String>,
    mixture: Option<Mixture>,
}

fn decoder(
    fields: &mut Fields,
    outer: Option<&Fields>,
    default_type: Option<&str>,
) -> Result<ConfiguredDecoder, ConfigError> {
    let family = family(fields, default_type)?;
    let sizes = family.sizes;
    let hidden = fields.size("hidden_size", sizes.map(|sizes| sizes.hidden), MOST_WIDTH);
    let intermediate = fields.size("intermediate_size", sizes.map(|sizes| sizes.intermediate), MOST_WIDTH);
    let layers = fields.size("num_hidden_layers", sizes.map(|sizes| sizes.layers), MOST_LAYERS);
    let heads = fields.size("num_attention_heads", sizes.map(|sizes| sizes.heads), MOST_WIDTH);
    let vocab = fields.size("vocab_size", sizes.map(|sizes| sizes.vocab), 1 << 24);
    let kv_heads = match family.kv_heads {
        // transformers takes null for "as many as heads", and only a missing key for the default.
        Some(default) if !fields.is_null("num_key_value_heads") => {
            fields.size("num_key_value_heads", Some(default), MOST_WIDTH)
        }
        _ => fields.count_or("num_key_value_heads", heads, MOST_WIDTH),
    };
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
    let attention_bias = family.reads_attention_bias && fields.flag("attention_bias").unwrap_or(family.attention_bias);
    let mlp_bias = family.reads_mlp_bias && fields.flag("mlp_bias").unwrap_or(false);
    // Only mixtures read it.
    let biased = family.qkv_bias && (family.experts.is_none() || fields.flag("qkv_bias").unwrap_or(true));
    // StableLM's name for it.
    let qkv_bias = biased || (family.norms == Norms::Biased && fields.flag("use_qkv_bias") == Some(true));
    let mixture = Mixture::of(&family, fields, layers, intermediate);
    fields.finish()?;

    // transformers rounds down for mixtures and refuses all others.
    if !explicit_head_dim && family.experts.is_none() && !hidden.is_multiple_of(heads) {
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

    let (extra_norms, correction) = norms(&family, fields, [hidden, layers, heads, kv_heads, head_dim]);
    let experts = mixture.as_ref().map_or(0, |mixture| mixture.more_parameters(hidden, intermediate, mlp_bias));
    // Phi's mixture may have a bias on its output head.
    let head = if family.experts.is_some() && fields.boolean("lm_head_bias") == Some(true) { vocab } else { 0 };
    let correction = correction.saturating_add(experts).saturating_add_unsigned(head);
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
        attention_bias: qkv_bias || attention_bias,
        output_bias: attention_bias && !family.plain_output,
        mlp_bias,
        rms_norm_eps,
        rope_theta,
        max_positions: max_positions as usize,
    };
    Ok(ConfiguredDecoder {
        spec,
        extra_norms: extra_norms as usize,
        correction,
        differs: differs(fields, default_type),
        mixture,
    })
}

/// Parameters of each layer's norms beyond LLaMA's two, and what the decoder has beside or lacks as a whole.
fn norms(family: &Family, fields: &Fields, [hidden, layers, heads, kv_heads, head_dim]: [u64; 5]) -> (u64, i64) {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    match family.norms {
        // GLM's mixture may have those of Qwen 3.
        Norms::Two if fields.boolean("use_qk_norm") == Some(true) && family.experts.is_some() => (2 * head_dim, 0),
        Norms::Two => (0, 0),
        Norms::Heads => (2 * head_dim, 0),
        Norms::Four => (2 * hidden, 0),
        Norms::FourAndHeads => (2 * hidden + 2 * head_dim, 0),
        Norms::Widths => ((heads + kv_heads) * head_dim, 0),
        // The last norm has a bias, too.
        Norms::Biased => (2 * hidden, signed(hidden)),
        Norms::One => {
            let on_heads = fields.boolean("use_qk_norm") == Some(true);
            (if on_heads { (heads + kv_heads) * head_dim } else { 0 }, -signed(layers * hidden))
        }
    }
}

/// What a configuration asks for that LLaMA's layers do not compute.
fn differs(fields: &Fields, default_type: Option<&str>) -> Option<String> {
    let model_type = fields.text("model_type").or(default_type).unwrap_or_default().to_lowercase();
    if let Some(what) = family::differs(&model_type) {
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
