//! What a model looks like from the outside: layers × projections, their shapes and what a unit of rank costs.
//!
//! A [`ModelSpec`] comes from a [preset](ModelSpec::preset) or from a Hugging Face `config.json`
//! ([`ModelSpec::from_config_json`]). It holds no weights.

mod huggingface;
mod parameters;
mod presets;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use huggingface::ConfigError;
pub use presets::{PRESETS, UnknownPreset};

/// One adapted matrix kind of a decoder layer (the paper says *component*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate of the SwiGLU feed-forward.
    Gate,
    /// Up projection of the feed-forward.
    Up,
    /// Down projection of the feed-forward.
    Down,
}

impl Projection {
    /// Every projection, in the order in which a layer's modules are listed everywhere.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Short name: `q`, `k`, `v`, `o`, `gate`, `up`, `down`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Path inside a decoder layer, as LLaMA's state dict names it: `self_attn.q_proj`, `mlp.up_proj`, …
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Position in [`Projection::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One projection of one decoder layer: the unit that gets a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleId {
    /// Decoder layer, counted from 0.
    pub layer: usize,
    /// Which matrix of the layer.
    pub projection: Projection,
}

impl ModuleId {
    /// Position in layer-major order, the order of every per-module vector in this crate.
    pub fn index(self) -> usize {
        self.layer * Projection::ALL.len() + self.projection.index()
    }
}

/// Input and output width of a projection; its weight is `[d_out, d_in]` in a PyTorch checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleShape {
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

impl ModuleShape {
    /// Trainable parameters that one unit of rank adds: `d_in + d_out`.
    pub fn rank_unit_cost(self) -> u64 {
        (self.d_in + self.d_out) as u64
    }

    /// Largest rank that a low-rank update of this matrix can use: `min(d_in, d_out)`.
    pub fn full_rank(self) -> u32 {
        u32::try_from(self.d_in.min(self.d_out)).unwrap_or(u32::MAX)
    }
}

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
    /// Parameters of each layer's norms beyond LLaMA's two: q and k norms (Qwen 3), norms around the feed-forward
    /// (Gemma 2 and 3).
    pub extra_norms: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Longest sequence that the model was trained for.
    pub max_positions: usize,
    /// What its layers compute other than LLaMA's, where that is known: such a model can be planned for, but not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
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

/// Layers × projections with their shapes, and what surrounds them.
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
    /// Number of adapted modules: layers × projections.
    pub fn module_count(&self) -> usize {
        self.decoder.layers * Projection::ALL.len()
    }

    /// Every module in layer-major order, projections in the order of [`Projection::ALL`].
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

    /// Trainable parameters of one unit of rank in this projection.
    pub fn rank_unit_cost(&self, projection: Projection) -> u64 {
        self.shape(projection).rank_unit_cost()
    }

    /// Trainable parameters of uniform LoRA at `rank`: Σ rank·(d_in + d_out). This is the budget C of the paper's
    /// Eq. 4 when `rank` is the base rank.
    pub fn lora_parameters(&self, rank: u32) -> u64 {
        let layer: u64 = Projection::ALL.into_iter().map(|p| self.rank_unit_cost(p)).sum();
        (layer * self.decoder.layers as u64).saturating_mul(u64::from(rank))
    }
}
