//! The configuration of every command that trains.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
pub use hydra_shared::files::outside::budget_of;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::choices::{Choices, modern, older_keys};
use hydra_shared::schedule::{Budget, PlanConfig};
use hydra_shared::search::{Rule, SearchConfig, wrong_replicates};
use hydra_shared::vlm::Storage;
use hydra_shared::vlm::spec::Targets;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::TrainingConfig;
use crate::config::Configuration;
use crate::data::DataConfig;
use crate::error::{Kind, failure};
use crate::model::base::{BaseParts, projector_kind};
use crate::model::recipe::Recipe;

/// What the keys of the plan's choices begin with.
const PLAN: &str = "plan.";

/// The configuration of `profile`, `search`, `train`, `eval` and `demo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// The base model: folder of a Hugging Face checkpoint (or of one that `trainer pretrain` wrote), a GGUF file, or a
    /// model of llama2.c; without it the embedded tiny-mobilevlm.
    pub base: Option<PathBuf>,
    /// Folder of a CLIP checkpoint whose vision tower is used, or `tiny-mobilevlm` for the embedded model's.
    pub vision_tower: Option<PathBuf>,
    /// A new projector in place of the base's: ldpnet, ldpnetv2, linear or mlp2x_gelu (any number of layers). Without it, a
    /// base that has none gets ldpnetv2.
    pub projector: Option<String>,
    /// File of the projector's weights, as stage I or MobileVLM's own scripts write it.
    pub projector_weights: Option<PathBuf>,
    /// How frozen weights are stored: f32, or f16 or bf16 for half the memory. Without it, large models are stored as their
    /// checkpoint is. In which precision they are multiplied is `training.compute`.
    pub storage: Option<Storage>,
    /// Which matrices of the decoder get ranks: all-linear, which is the projections of every layer, or with its ends
    /// all-linear+embeddings, all-linear+head, all-linear+embeddings+head.
    pub targets: Targets,
    /// Seed of the first fine-tune: initial adapters and order of the data. The next fine-tunes take the next numbers.
    pub seed: u64,
    /// Fine-tunes of every arm of a final comparison.
    pub seeds: usize,
    /// The data.
    pub data: DataConfig,
    /// A fine-tune.
    pub training: TrainingConfig,
    /// Peak learning rate of full fine-tuning, which bears less than LoRA.
    pub full_learning_rate: f64,
    /// Gradient log, or a folder of them, that a schedule is planned from; without one `search` measures, and `train` takes
    /// uniform LoRA.
    pub gradients: Option<PathBuf>,
    /// The run to read, where the log holds several.
    pub gradients_run: Option<String>,
    /// From gradient log to profile.
    pub profile: ProfileConfig,
    /// From profile to schedule.
    pub plan: PlanConfig,
    /// The search.
    pub search: SearchConfig,
}

impl Default for ExperimentConfig {
    fn default() -> Self {
        Self {
            base: None,
            vision_tower: None,
            projector: None,
            projector_weights: None,
            storage: None,
            targets: Targets::default(),
            seed: 1,
            seeds: 5,
            data: DataConfig::default(),
            training: TrainingConfig::default(),
            full_learning_rate: 2e-3,
            gradients: None,
            gradients_run: None,
            profile: ProfileConfig::default(),
            plan: PlanConfig { base_rank: 4, delta: 1, ..PlanConfig::default() },
            search: SearchConfig::default(),
        }
    }
}

/// Keys of the tables `plan` and `search` that say nothing under the others, each with the reason.
pub fn idle_choices(plan: &PlanConfig, profile: ProfileConfig, search: &SearchConfig) -> Vec<(String, String)> {
    let choices = Choices { plan: plan.clone(), profile }.idle();
    let mut idle: Vec<(String, String)> = choices.into_iter().map(|(key, why)| (format!("{PLAN}{key}"), why)).collect();
    if let Rule::Proposer(proposer) = search.acquisition {
        let why = format!("search.acquisition is {}, which asks no performance model", proposer.name);
        idle.extend(["search.model", "search.candidates"].map(|key| (key.to_owned(), why.clone())));
    }
    idle
}

impl Configuration for ExperimentConfig {
    const SHARED: bool = true;

    fn modern(path: &str, value: &Value) -> Option<Vec<(String, Value)>> {
        let entries = modern(path.strip_prefix(PLAN)?, value)?;
        Some(entries.into_iter().map(|(choice, value)| (format!("{PLAN}{}", choice.key), value)).collect())
    }

    fn older_keys() -> Vec<String> {
        older_keys().map(|key| format!("{PLAN}{key}")).collect()
    }

    fn idle(&self) -> Vec<(String, String)> {
        let mut idle = idle_choices(&self.plan, self.profile, &self.search);
        idle.extend(self.data.idle().into_iter().map(|(key, why)| (format!("data.{key}"), why)));
        if self.training.epochs.is_some() {
            idle.push((
                "training.steps".to_owned(),
                "training.epochs is given, and the steps follow from it".to_owned(),
            ));
        }
        if self.gradients.is_none() {
            idle.push(("gradients_run".to_owned(), "gradients names no log".to_owned()));
        }
        idle
    }
}

impl ExperimentConfig {
    /// Refuses what no command can run with, before anything large is read.
    ///
    /// # Errors
    /// A number out of its range, a projector of no known kind.
    pub fn validate(&self) -> Result<()> {
        let training = &self.training;
        if (training.steps == 0 && training.epochs.is_none()) || training.batch_size == 0 || self.seeds == 0 {
            return Err(failure(Kind::Usage, "training.steps, training.batch_size and seeds must each be at least 1"));
        }
        if training.epochs.is_some_and(|epochs| !(epochs > 0.0 && epochs.is_finite())) {
            return Err(failure(Kind::Usage, "training.epochs must be above 0"));
        }
        if let Some(message) = wrong_replicates(self.search.replicates) {
            return Err(failure(Kind::Usage, message));
        }
        if !(0.0..1.0).contains(&training.lora_dropout) {
            return Err(failure(Kind::Usage, "training.lora_dropout must be at least 0 and below 1"));
        }
        if training.lora_dropout > 0.0 && self.targets.any_end() {
            let message = "training.lora_dropout thins out what the layers' adapters read, and not what those of the ends do: leave \
                           one of training.lora_dropout and targets at its default";
            return Err(failure(Kind::Usage, message));
        }
        self.base_parts().map(drop)
    }

    /// What the base model is made of.
    ///
    /// # Errors
    /// A projector of no known kind.
    pub fn base_parts(&self) -> Result<BaseParts<'_>> {
        Ok(BaseParts {
            model: self.base.as_deref(),
            vision_tower: self.vision_tower.as_deref(),
            projector: self.projector.as_deref().map(projector_kind).transpose()?,
            projector_weights: self.projector_weights.as_deref(),
            storage: self.storage,
        })
    }

    /// What a schedule of these modules may use.
    pub fn budget(&self, layout: &Layout) -> Budget {
        budget_of(&self.plan, layout)
    }

    /// Uniform LoRA at the base rank.
    ///
    /// # Errors
    /// A base rank of 0.
    pub fn uniform(&self, layout: &Arc<Layout>) -> Result<Recipe> {
        let plan = &self.plan;
        if plan.base_rank == 0 {
            return Err(failure(Kind::Usage, "plan.base_rank is 0; it must be at least 1"));
        }
        Ok(Recipe::lora(Ranks::uniform(layout, plan.base_rank), plan.scale))
    }
}
