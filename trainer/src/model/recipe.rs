//! What of a base model is trained.

use std::sync::Arc;

use anyhow::Result;
use hydra_shared::adapter::is_lora;
use hydra_shared::gradients::LogMeta;
use hydra_shared::layout::{Layout, Ranks, WrongCount};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::spec::{End, ModelSpec};
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
        /// Other ranks, in proportion to which modules are scaled instead: for comparisons of ranks with scales.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale_of: Option<R>,
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
            Self::Lora { ranks, scale, scale_of } => {
                let scale_of = scale_of.map(|ranks| Ranks::new(layout, ranks)).transpose()?;
                Recipe::Lora { ranks: Ranks::new(layout, ranks)?, scale, scale_of }
            }
            Self::Full => Recipe::Full,
            Self::Projector => Recipe::Projector,
        })
    }
}

impl Recipe {
    /// Adapters of these ranks, scaled by their own.
    pub fn lora(ranks: Ranks, scale: ScalePolicy) -> Self {
        Self::Lora { ranks, scale, scale_of: None }
    }

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
            Self::Lora { ranks, scale, scale_of } => {
                let mut shapes = adapter_shapes(spec, ranks, *scale);
                // Uniform rank r₀ at scale 2 becomes 2·r/r₀ with the other rank r.
                let others = scale_of.iter().flat_map(|others| adapter_shapes(spec, others, *scale));
                for (shape, other) in shapes.iter_mut().zip(others).filter(|(shape, _)| shape.rank > 0) {
                    shape.scale *= f64::from(other.rank) / f64::from(shape.rank);
                }
                shapes
            }
            Self::Base | Self::Full | Self::Projector => Vec::new(),
        }
    }

    /// Whether it trains what makes scores of states, or an adapter of that.
    pub fn trains_head(&self, spec: &ModelSpec) -> bool {
        match self {
            Self::Base | Self::Projector => false,
            Self::Lora { ranks, .. } => ranks.get(&spec.end_name(End::Head)).is_some_and(|rank| rank > 0),
            Self::Full => true,
        }
    }

    /// Header of a gradient log of its training.
    pub fn log_meta(&self, spec: &ModelSpec) -> LogMeta {
        match self {
            Self::Lora { ranks, scale, .. } => LogMeta::of_lora(&spec.name, ranks, |rank| scale.alpha(rank)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_scaled_in_proportion_to_other_ranks_where_a_recipe_names_them() {
        let spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
        let layout = spec.layout().unwrap();
        let uniform = Ranks::uniform(&layout, 4);
        let others = uniform.clone().with(0, 8).with(1, 1);
        let scale = ScalePolicy::Constant { factor: 2.0 };
        let recipe = Recipe::Lora { ranks: uniform.clone(), scale, scale_of: Some(others.clone()) };
        let of =
            |recipe: &Recipe| recipe.adapters(&spec).iter().map(|shape| (shape.rank, shape.scale)).collect::<Vec<_>>();
        assert_eq!(of(&recipe)[..3], [(4, 4.0), (4, 0.5), (4, 2.0)]);
        assert_eq!(of(&recipe)[2..], of(&Recipe::lora(uniform.clone(), scale))[2..]);
        let dropped = Recipe::Lora { ranks: uniform.clone().with(0, 0), scale, scale_of: Some(others) };
        assert_eq!(of(&dropped)[0], (0, 0.0));

        // As it goes to an executor's job and comes back.
        let text = serde_json::to_string(&recipe).unwrap();
        let read: Recipe<Vec<u32>> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.bound(&layout).unwrap(), recipe);
        let plain = serde_json::to_string(&Recipe::lora(uniform.clone(), scale)).unwrap();
        assert!(!plain.contains("scale_of"), "{plain}");
        let read: Recipe<Vec<u32>> = serde_json::from_str(&plain).unwrap();
        assert_eq!(read.bound(&layout).unwrap(), Recipe::lora(uniform, scale));
    }
}
