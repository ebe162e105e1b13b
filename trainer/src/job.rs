//! A job: one fine-tune and its scores, which is the same thing whether it is a profile run, a trial of a search or an arm of
//! the final comparison.

use anyhow::Result;
use hydra_shared::model_spec::{ModelSpec, ModuleId};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::{AdapterShape, Storage, Trainable};
use serde::{Deserialize, Serialize};

use crate::data::{DataConfig, Part, Scores};
use crate::runs::atomic::sha256_hex;
use crate::train_loop::TrainingConfig;

/// What a job trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Recipe {
    /// Nothing: the base model as it is.
    Base,
    /// Projector and adapters of these ranks, in module order.
    Lora {
        /// A rank per module.
        ranks: Vec<u32>,
        /// How a module's update is scaled.
        scale: ScalePolicy,
    },
    /// Projector and the whole decoder.
    Full,
    /// The projector alone: MobileVLM's stage I.
    Projector,
}

impl Recipe {
    /// The parameters that it trains; none for the untouched base.
    pub fn trainable(&self) -> Option<Trainable> {
        match self {
            Self::Base => None,
            Self::Lora { .. } => Some(Trainable::ProjectorAndLora),
            Self::Full => Some(Trainable::ProjectorAndDecoder),
            Self::Projector => Some(Trainable::Projector),
        }
    }

    /// Shape of every module's adapter; empty without LoRA.
    pub fn adapters(&self) -> Vec<AdapterShape> {
        match self {
            Self::Lora { ranks, scale } => {
                ranks.iter().map(|&rank| AdapterShape { rank, scale: scale.scale(rank) }).collect()
            }
            Self::Base | Self::Full | Self::Projector => Vec::new(),
        }
    }

    /// Number of parameters that it trains outside the projector, which every recipe trains alike: what the budget
    /// counts.
    pub fn trainable_parameters(&self, spec: &ModelSpec) -> u64 {
        match self {
            Self::Base | Self::Projector => 0,
            Self::Lora { ranks, .. } => spec
                .modules()
                .zip(ranks)
                .map(|(ModuleId { projection, .. }, &rank)| spec.rank_unit_cost(projection) * u64::from(rank))
                .sum(),
            Self::Full => spec.decoder_parameters(),
        }
    }
}

/// One fine-tune and its scores, complete in itself: the same job gives the same result wherever and whenever it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// SHA-256 of the base model's weights.
    pub base: String,
    /// How its frozen matrices are stored.
    #[serde(default, skip_serializing_if = "is_single")]
    pub storage: Storage,
    /// What is trained.
    pub recipe: Recipe,
    /// Seed of initial adapters and data order.
    pub seed: u64,
    /// How it is trained.
    pub training: TrainingConfig,
    /// On what.
    pub data: DataConfig,
    /// SHA-256 of the files of conversations, where the data comes from such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<String>,
    /// What is scored afterwards.
    pub score: Part,
}

/// Single precision goes without saying.
fn is_single(storage: &Storage) -> bool {
    *storage == Storage::F32
}

/// What a job measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Parameters that were trained outside the projector.
    pub trainable_parameters: u64,
    /// Scores by task, and their mean.
    pub scores: Scores,
    /// Mean loss over the last tenth of the steps; none without training.
    pub final_loss: Option<f64>,
    /// Wall time in seconds, training and scoring together.
    pub wall_seconds: f64,
}

impl Job {
    /// Name of the job's folder: the hash of its content.
    ///
    /// # Errors
    /// Never in practice; the job is plain data.
    pub fn hash(&self) -> Result<String> {
        let mut hash = sha256_hex(serde_json::to_string(self)?.as_bytes());
        hash.truncate(16);
        Ok(hash)
    }
}
