//! A job: one fine-tune and its scores, which is the same thing whether it is a profile run, a trial of a search or an arm of
//! the final comparison.

use anyhow::Result;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Storage;
use hydra_shared::vlm::training::OptimizerConfig;
use serde::Serialize;

use super::config::TrainingConfig;
use super::workbench::Workbench;
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
    /// The job of a recipe under a workbench's configuration and data.
    ///
    /// # Errors
    /// Training data that cannot be read, where its size says how many steps there are.
    pub fn new(bench: &Workbench, recipe: Recipe, seed: u64, score: Split) -> Result<Self> {
        let mut training = bench.training()?;
        if recipe == Recipe::Full {
            let learning_rate = bench.config.full_learning_rate;
            training.optimizer = OptimizerConfig { learning_rate, ..training.optimizer };
        }
        // Where the data lies does not change what is computed; what is in it does.
        let data = DataConfig {
            folder: None,
            questions: None,
            validation_questions: None,
            test_questions: None,
            feature_memory: DataConfig::default().feature_memory,
            feature_cache: None,
            decoding_threads: DataConfig::default().decoding_threads,
            ..bench.config.data.clone()
        };
        let questions = bench.question_files.clone();
        Ok(Self {
            base: bench.base.sha256.clone(),
            storage: bench.base.storage,
            recipe,
            seed,
            training,
            data,
            questions,
            score,
        })
    }

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
