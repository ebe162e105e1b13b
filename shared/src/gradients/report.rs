//! What was recognised in a log, what was left out, and why.

use serde::{Deserialize, Serialize};

use super::format::Format;

/// Examples kept of each group of keys.
const EXAMPLES: usize = 3;

/// Why a key's gradients are left out of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SkipReason {
    /// A vision tower's parameter.
    VisionTower,
    /// A projector's parameter.
    Projector,
    /// An audio or speech tower's parameter.
    OtherTower,
    /// Token or position embeddings.
    Embeddings,
    /// The output head.
    OutputHead,
    /// Normalisation layers.
    Norms,
    /// A bias.
    Biases,
    /// Several projections in one matrix.
    Fused,
    /// An expert of a mixture.
    Experts,
    /// Attention to another stack of layers.
    CrossAttention,
    /// A second adapter on modules that another one already has.
    OtherAdapter,
    /// AdaLoRA's singular values or DoRA's magnitudes.
    LoraExtra,
    /// Layers of a second stack, such as the encoder of an encoder-decoder.
    OtherStack,
    /// The second model that `wandb.watch` was given.
    SecondModel,
    /// Another key of the same file gives the same matrix.
    Repeated,
    /// A norm other than L2.
    NotL2,
    /// A mean, smallest or largest value over several steps.
    Aggregates,
    /// A norm of weights, moments or updates.
    NotAGradient,
    /// A norm over all parameters together.
    GlobalNorm,
    /// A name that matches nothing.
    Unknown,
}

impl SkipReason {
    /// Whether it is said of keys that are no gradient of a module, or of one that another key gives.
    pub fn is_no_module(self) -> bool {
        matches!(
            self,
            Self::Norms
                | Self::Biases
                | Self::OtherAdapter
                | Self::LoraExtra
                | Self::SecondModel
                | Self::Repeated
                | Self::NotL2
                | Self::Aggregates
                | Self::NotAGradient
                | Self::GlobalNorm
        )
    }

    /// The part of a model that a module with this reason belongs to, in words.
    pub fn part(self) -> &'static str {
        match self {
            Self::VisionTower => "vision tower",
            Self::Projector => "projector",
            Self::OtherTower => "audio tower",
            Self::Embeddings => "embeddings",
            Self::OutputHead => "output head",
            Self::Experts => "experts",
            Self::CrossAttention => "cross-attention",
            Self::OtherStack => "another stack of layers",
            _ => "other modules",
        }
    }

    /// The reason in words.
    pub fn why(self) -> &'static str {
        match self {
            Self::VisionTower => "vision tower: its layers are not the language model's",
            Self::Projector => "projector between vision tower and language model",
            Self::OtherTower => "audio tower: its layers are not the language model's",
            Self::Embeddings => "embeddings are not a projection of a layer",
            Self::OutputHead => "the output head is not a projection of a layer",
            Self::Norms => "normalisation layers get no rank",
            Self::Biases => "biases get no rank",
            Self::Fused => "several projections in one matrix: which part is whose cannot be told from its norm",
            Self::Experts => "experts of a mixture are not among the seven projections",
            Self::CrossAttention => "cross-attention is not among the seven projections",
            Self::OtherAdapter => "a second adapter; the first one named in the file is used",
            Self::LoraExtra => "AdaLoRA's singular values or DoRA's magnitudes: only A and B count",
            Self::OtherStack => "a second stack of layers; the one with more modules is used",
            Self::SecondModel => "the second model given to wandb.watch; the first one is used",
            Self::Repeated => "another key of the file gives the same matrix; the first one is used",
            Self::NotL2 => "not an L2 norm; log grad_norm(module, norm_type=2)",
            Self::Aggregates => "a mean, smallest or largest value over several steps",
            Self::NotAGradient => "norms of weights, moments or updates, not of gradients",
            Self::GlobalNorm => "one norm over all parameters together",
            Self::Unknown => "the name matches no projection of a layer",
        }
    }
}

/// Keys of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGroup {
    /// What they are: `q lora_A`, or a reason's name.
    pub what: String,
    /// Why they were left out; empty for keys that were recognised.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Number of keys.
    pub count: usize,
    /// The first few of them, as the file has them.
    pub examples: Vec<String>,
}

impl KeyGroup {
    pub(super) fn add(&mut self, key: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(key.to_owned());
        }
    }
}

/// What one file held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its name, as the caller gave it.
    pub name: String,
    /// Its format; `None` where it was not recognised.
    pub format: Option<Format>,
    /// Whether it was gzipped.
    pub gzipped: bool,
    /// Rows, lines or records that were read.
    pub rows: u64,
    /// Keys that entered the log, by projection and matrix.
    pub recognised: Vec<KeyGroup>,
    /// Keys of gradients that were left out, by reason.
    pub skipped: Vec<KeyGroup>,
    /// Keys that have nothing to do with gradients.
    pub other_keys: usize,
    /// What else the reader of a report should know.
    pub notes: Vec<String>,
}

/// What was recognised in a log, what was left out, and why.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct IngestReport {
    /// One entry per file, in the order in which they were read.
    pub files: Vec<FileReport>,
    /// Steps of which a value was given more than once; the last one was kept.
    pub duplicate_steps: Vec<u64>,
    /// Values that are NaN or infinite.
    pub non_finite: usize,
    /// What concerns the log as a whole.
    pub notes: Vec<String>,
}

impl IngestReport {
    /// All notes, those of a file with its name before them.
    pub fn all_notes(&self) -> impl Iterator<Item = String> + '_ {
        let of_files = self.files.iter().flat_map(|f| f.notes.iter().map(move |note| format!("{}: {note}", f.name)));
        of_files.chain(self.notes.iter().cloned())
    }
}
