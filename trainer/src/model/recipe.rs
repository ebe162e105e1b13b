//! What of a base model is trained.

use anyhow::Result;
use hydra_shared::model_spec::{ModelSpec, ModuleId};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::{AdapterShape, MobileVlm, Storage, Trainable, Weights, initial_adapters};
use serde::{Deserialize, Serialize};

use super::base::Base;
use crate::error::{Kind, failure};

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

impl Base {
    /// The model of a recipe before its first step, with the trained weights of a checkpoint where there is one.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn model_of(&self, recipe: &Recipe, seed: u64, trained: Option<Weights>) -> Result<MobileVlm> {
        let shapes = recipe.adapters();
        let mut base = Weights::default();
        let mut adapters = initial_adapters(&self.spec, &shapes, seed);
        for (name, weight) in trained.unwrap_or_default().tensors {
            let target = if name.contains(".lora_") { &mut adapters } else { &mut base };
            target.tensors.insert(name, weight);
        }
        if *recipe == Recipe::Full && self.storage != Storage::F32 {
            return Err(failure(
                Kind::Usage,
                "full fine-tuning trains every weight in single precision: set storage=f32",
            ));
        }
        // Tensors are shared: a copy of the model costs no memory until it is changed.
        let model = self.model.clone().with_weights(base)?;
        let model = if shapes.is_empty() { model } else { model.with_adapters(&shapes, adapters)? };
        Ok(model)
    }
}
