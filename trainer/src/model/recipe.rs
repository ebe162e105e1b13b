//! What of a base model is trained.

use std::sync::Arc;

use anyhow::Result;
use hydra_shared::adapter::is_lora;
use hydra_shared::gradients::LogMeta;
use hydra_shared::layout::{Layout, Ranks, WrongCount};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::{AdapterShape, MobileVlm, Storage, Trainable, Weights, adapter_shapes, initial_adapters};
use serde::{Deserialize, Serialize};

use super::base::Base;
use crate::error::{Kind, failure};

/// What a job trains. Read from a file, its ranks are a list until they are bound to the model's layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Recipe<R = Ranks> {
    /// Nothing: the base model as it is.
    Base,
    /// Projector and adapters of these ranks.
    Lora {
        /// A rank per module.
        ranks: R,
        /// How a module's update is scaled.
        scale: ScalePolicy,
    },
    /// Projector and the whole decoder.
    Full,
    /// The projector alone: MobileVLM's stage I.
    Projector,
}

impl Recipe<Vec<u32>> {
    /// The recipe with its ranks bound to a layout.
    ///
    /// # Errors
    /// Not one rank per module.
    pub fn bound(self, layout: &Arc<Layout>) -> Result<Recipe, WrongCount> {
        Ok(match self {
            Self::Base => Recipe::Base,
            Self::Lora { ranks, scale } => Recipe::Lora { ranks: Ranks::new(layout, ranks)?, scale },
            Self::Full => Recipe::Full,
            Self::Projector => Recipe::Projector,
        })
    }
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

    /// Shape of every module's adapter in a model; empty without LoRA.
    pub fn adapters(&self, spec: &ModelSpec) -> Vec<AdapterShape> {
        match self {
            Self::Lora { ranks, scale } => adapter_shapes(spec, ranks, *scale),
            Self::Base | Self::Full | Self::Projector => Vec::new(),
        }
    }

    /// Header of a gradient log of its training.
    pub fn log_meta(&self, spec: &ModelSpec) -> LogMeta {
        match self {
            Self::Lora { ranks, scale } => LogMeta::of_lora(&spec.name, ranks, |rank| scale.alpha(rank)),
            Self::Base | Self::Full | Self::Projector => LogMeta::of_training(&spec.name),
        }
    }

    /// Number of parameters that it trains outside the projector, which every recipe trains alike: what the budget
    /// counts.
    pub fn trainable_parameters(&self, spec: &ModelSpec) -> u64 {
        match self {
            Self::Base | Self::Projector => 0,
            Self::Lora { ranks, .. } => ranks.parameters(),
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
        let shapes = recipe.adapters(&self.spec);
        let mut base = Weights::default();
        let mut adapters = initial_adapters(&self.spec, &shapes, seed);
        for (name, weight) in trained.unwrap_or_default().tensors {
            let target = if is_lora(&name) { &mut adapters } else { &mut base };
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
