//! What a model that can be run is made of: the shapes of decoder, vision tower and projector, without weights.
//!
//! A [`ModelSpec`] comes from a [preset](ModelSpec::preset) or from a Hugging Face `config.json`
//! ([`ModelConfig::from_json`]), and gives the [`Layout`] of the modules that get ranks. A configuration of a model that
//! cannot be run here gives a layout all the same.

mod config;
mod ends;
#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod families_test;
mod parameters;
mod presets;
mod tensors;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use config::{ConfigError, ModelConfig, NotRunnable};
pub use ends::{End, EndsError, Targets};
pub use presets::{PRESETS, UnknownPreset, preset_layout};
pub use tensors::{TensorsError, experts_note};

use crate::layout::{Layout, LayoutError, ModuleId, ModuleShape, Projection};

/// A LLaMA-like decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the SwiGLU feed-forward.
    pub intermediate: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; fewer than `heads` with grouped-query attention.
    pub kv_heads: usize,
    /// Width of one head; `hidden / heads` unless the configuration says otherwise.
    pub head_dim: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Whether the output head shares the embedding's weight.
    pub tied_embeddings: bool,
    /// Whether q, k and v carry a bias.
    pub attention_bias: bool,
    /// Whether o carries a bias.
    pub output_bias: bool,
    /// Whether gate, up and down carry a bias.
    pub mlp_bias: bool,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Longest sequence that the model was trained for.
    pub max_positions: usize,
}

impl DecoderSpec {
    /// Whether a projection carries a bias.
    pub fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::Q | Projection::K | Projection::V => self.attention_bias,
            Projection::O => self.output_bias,
            Projection::Gate | Projection::Up | Projection::Down => self.mlp_bias,
        }
    }
}

/// A vision tower in CLIP's layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionSpec {
    /// Width.
    pub hidden: usize,
    /// Inner width of the feed-forward.
    pub intermediate: usize,
    /// Number of encoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of the square input picture, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Epsilon of LayerNorm.
    pub layer_norm_eps: f64,
}

impl VisionSpec {
    /// Patches along one side of the picture.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of one picture, the class token not counted.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }
}

/// Which projector maps vision features to the decoder's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorKind {
    /// MobileVLM's lightweight downsample projector.
    Ldpnet,
    /// MobileVLM V2's: two linear layers, average pooling, a depth-wise positional convolution.
    Ldpnetv2,
    /// One linear layer.
    Linear,
    /// `depth` linear layers with GELU between them (LLaVA's `mlp2x_gelu` has depth 2).
    #[serde(untagged)]
    Mlp {
        /// Number of linear layers.
        depth: usize,
    },
}

impl ProjectorKind {
    /// From `mm_projector_type` as MobileVLM and LLaVA write it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ldpnet" => Some(Self::Ldpnet),
            "ldpnetv2" => Some(Self::Ldpnetv2),
            "linear" => Some(Self::Linear),
            _ => {
                let depth: usize = name.strip_prefix("mlp")?.strip_suffix("x_gelu")?.parse().ok()?;
                (1..=16).contains(&depth).then_some(Self::Mlp { depth })
            }
        }
    }

    /// As MobileVLM and LLaVA write it.
    pub fn name(self) -> String {
        match self {
            Self::Ldpnet => "ldpnet".to_owned(),
            Self::Ldpnetv2 => "ldpnetv2".to_owned(),
            Self::Linear => "linear".to_owned(),
            Self::Mlp { depth } => format!("mlp{depth}x_gelu"),
        }
    }
}

/// The projector between vision tower and decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectorSpec {
    /// Its construction.
    pub kind: ProjectorKind,
    /// Width of the vision features that it reads.
    pub vision_hidden: usize,
    /// Width of the decoder that it writes for.
    pub hidden: usize,
}

/// A vision-language model, or a decoder alone: the shapes of its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Preset name, or the model's name in its configuration.
    pub name: String,
    /// Path of the decoder layers in the module tree, e.g. `model.layers`.
    pub layers_path: String,
    /// The decoder.
    pub decoder: DecoderSpec,
    /// The vision tower, where the model has one and its shapes are known.
    pub vision: Option<VisionSpec>,
    /// The projector, where the model has one and its construction is known.
    pub projector: Option<ProjectorSpec>,
}

impl ModelSpec {
    /// The modules that can get ranks: the seven projections of every layer.
    ///
    /// # Errors
    /// No layers, widths of 0, or more than a layout holds; none for a preset or a configuration that was read.
    pub fn layout(&self) -> Result<Arc<Layout>, LayoutError> {
        let layout = Layout::decoder(self.name.clone(), &self.layers_path, self.decoder.layers, |p| self.shape(p))?;
        Ok(Arc::new(layout.with_decoder_parameters(self.decoder_parameters())))
    }

    /// Every module of the decoder, in the order of [`Self::layout`].
    pub fn modules(&self) -> impl Iterator<Item = ModuleId> + use<> {
        (0..self.decoder.layers)
            .flat_map(|layer| Projection::ALL.into_iter().map(move |projection| ModuleId { layer, projection }))
    }

    /// Input and output width of a projection; the same in every layer.
    pub fn shape(&self, projection: Projection) -> ModuleShape {
        let d = &self.decoder;
        let (d_in, d_out) = match projection {
            Projection::Q => (d.hidden, d.heads * d.head_dim),
            Projection::K | Projection::V => (d.hidden, d.kv_heads * d.head_dim),
            Projection::O => (d.heads * d.head_dim, d.hidden),
            Projection::Gate | Projection::Up => (d.hidden, d.intermediate),
            Projection::Down => (d.intermediate, d.hidden),
        };
        ModuleShape { d_in, d_out }
    }

    /// Full module name as PEFT sees it, e.g. `model.layers.3.self_attn.q_proj`.
    pub fn module_name(&self, module: ModuleId) -> String {
        format!("{}.{}.{}", self.layers_path, module.layer, module.projection.path())
    }
}
