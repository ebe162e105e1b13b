//! A job: one fine-tune and its scores, which is the same thing whether it is a profile run, a trial of a search or an arm of
//! the final comparison.

use anyhow::Result;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Storage;
use serde::Serialize;

use super::config::TrainingConfig;
use crate::data::DataConfig;
use crate::digest::sha256_hex;
use crate::model::recipe::Recipe;

/// One fine-tune and its scores, complete in itself: the same job gives the same result wherever and whenever it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// SHA-256 of the base model's weights.
    pub base: String,
    /// How its frozen matrices are stored.
    #[serde(skip_serializing_if = "is_single")]
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<String>,
    /// What is scored afterwards.
    pub score: Split,
}

/// Single precision goes without saying.
fn is_single(storage: &Storage) -> bool {
    *storage == Storage::F32
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
