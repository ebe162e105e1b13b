//! MobileVLM in Burn: CLIP vision tower, projector, LLaMA decoder with LoRA.
//!
//! Chu et al., *MobileVLM*, arXiv 2312.16886, and *MobileVLM V2*, arXiv 2402.03766. Original code:
//! Meituan-AutoML/MobileVLM. Weights carry the original's state-dict names ([`Weights`]).

mod adapter;
pub mod batch;
mod compute;
pub mod conversation;
mod decoder;
mod frozen_loss;
#[cfg(not(target_family = "wasm"))]
mod fused;
pub mod generate;
pub mod init;
mod layers;
mod lora;
pub mod memory;
pub mod order;
mod projector;
pub mod spec;
pub mod tokenizer;
pub mod training;
mod vision;
mod weights;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

pub use compute::{Compute, LossScale, bfloat16_units};
pub use decoder::{Decoder, KvCache};
#[cfg(not(target_family = "wasm"))]
pub use fused::RoundedDecoder;
pub use lora::{AdapterShape, ForwardOptions, LoraAdapter, LoraDropout, LoraLinear, adapter_shapes, initial_adapters};
pub use projector::Projector;
pub use vision::{CLIP_MEAN, CLIP_STD, VisionTower, patchify, patchify_normalized};
pub use weights::ParamNames;

pub use crate::weights::{Precision, Storage, Weight, WeightError, WeightSource, Weights};

use batch::Batch;
use spec::{EndsError, ModelSpec};
use weights::Loader;

use crate::adapter::is_lora;

/// Prefix of the vision tower's weights in a MobileVLM checkpoint.
pub const VISION_PREFIX: &str = "model.vision_tower.vision_tower.vision_model";
/// Prefix of the projector's weights in a MobileVLM checkpoint.
pub const PROJECTOR_PREFIX: &str = "model.mm_projector";

/// Why a model could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Weights that do not fit.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A specification that this implementation has no code for.
    #[error("{0}")]
    Unsupported(String),
}

/// A vision-language model.
#[derive(Module, Debug)]
pub struct MobileVlm {
    /// Tower and projector; none in a model that only reads text.
    pub vision: Option<Vision>,
    /// LLaMA decoder.
    pub decoder: Decoder,
    #[module(skip)]
    spec: ModelSpec,
    #[module(skip)]
    names: ParamNames,
}

/// What turns pictures into tokens.
#[derive(Module, Debug)]
pub struct Vision {
    /// CLIP vision tower.
    pub tower: VisionTower,
    /// Projector.
    pub projector: Projector,
}

/// Which parameters a training run changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trainable {
    /// Adapters alone.
    Lora,
    /// The projector alone: MobileVLM's stage I.
    Projector,
    /// Projector and adapters: MobileVLM's stage II with LoRA.
    ProjectorAndLora,
    /// Projector and the whole decoder: full fine-tuning.
    ProjectorAndDecoder,
    /// Every weight, the vision tower included: pretraining of the tiny model.
    Everything,
}

impl Trainable {
    /// Whether the parameter of that checkpoint name is trained.
    pub fn includes(self, name: &str) -> bool {
        match self {
            Self::Lora => is_lora(name),
            Self::Projector => name.starts_with(PROJECTOR_PREFIX),
            Self::ProjectorAndLora => name.starts_with(PROJECTOR_PREFIX) || is_lora(name),
            Self::ProjectorAndDecoder => !name.starts_with(VISION_PREFIX),
            Self::Everything => true,
        }
    }
}

impl MobileVlm {
    /// Builds the model from a checkpoint's weights; nothing in it is trained yet.
    ///
    /// # Errors
    /// Weights that are missing, left over or of another shape (all of them are listed), and constructions that this
    /// implementation has no code for.
    pub fn load(spec: &ModelSpec, weights: impl WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::load_as(spec, weights, device, Storage::F32)
    }

    /// [`Self::load`] with the matrices of tower and decoder, which LoRA leaves as they are, stored otherwise.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_as(
        spec: &ModelSpec,
        weights: impl WeightSource,
        device: &Device,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let seen = match (&spec.vision, &spec.projector) {
            (Some(vision), Some(projector)) => Some((vision, projector)),
            (None, None) => None,
            (vision, _) => {
                let missing = if vision.is_none() { "vision tower" } else { "projector" };
                return Err(ModelError::Unsupported(format!(
                    "{}: the construction of its {missing} is not known",
                    spec.name
                )));
            }
        };
        if seen.is_some_and(|(vision, projector)| projector.tokens(4) == 1 && vision.grid() % 2 != 0) {
            return Err(ModelError::Unsupported(format!(
                "{}: the projector halves the grid of patches, so the grid's side must be even",
                spec.name
            )));
        }
        let mut loader = Loader::new(weights, device);
        let vision = seen.map(|(vision, projector)| {
            // The projector is trained, and training needs single precision.
            let projector = Projector::load(&mut loader, PROJECTOR_PREFIX, projector);
            loader.storage = storage;
            Vision { tower: VisionTower::load(&mut loader, VISION_PREFIX, vision), projector }
        });
        loader.storage = storage;
        let decoder = Decoder::load(&mut loader, spec);
        Ok(Self { vision, decoder, names: loader.finish()?, spec: spec.clone() })
    }

    /// Puts adapters of the given shapes onto the decoder, one per module as [`adapter_shapes`] gives them (those of the ends may
    /// be left out), with the weights that [`initial_adapters`] made or a file held.
    ///
    /// # Errors
    /// Weights that do not fit the shapes, ends of a decoder that has one matrix for both.
    pub fn with_adapters(mut self, shapes: &[AdapterShape], weights: Weights) -> Result<Self, ModelError> {
        let ends = shapes.get(self.spec.modules().count()..).unwrap_or_default();
        if self.spec.decoder.tied_embeddings && ends.iter().any(|shape| shape.rank > 0) {
            return Err(ModelError::Unsupported(EndsError::Tied { model: self.spec.name.clone() }.to_string()));
        }
        let device = self.device();
        let (adapters, names) = lora::load_adapters(&self.spec, shapes, weights, &device)?;
        self.decoder.set_adapters(adapters);
        self.names = self.names.merged(&names);
        Ok(self)
    }

    /// Puts other values into parameters, by checkpoint name.
    ///
    /// # Errors
    /// A name that the model does not have, a weight of another shape; all of them are listed.
    pub fn with_weights(self, weights: Weights) -> Result<Self, ModelError> {
        let names = self.names.clone();
        let mut replace = Replace { names, weights, problems: Vec::new(), device: self.device() };
        let model = self.map(&mut replace);
        let unknown = replace.weights.tensors.into_keys().map(|name| format!("{name} is not part of the model"));
        replace.problems.extend(unknown);
        match replace.problems.as_slice() {
            [] => Ok(model),
            _ => Err(WeightError::Mismatch(replace.problems).into()),
        }
    }

    /// Folds the adapters into the decoder's weights.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.decoder = self.decoder.merged();
        self
    }

    /// The model with every adapter cut to the first directions of it, as many as `shapes` say, as [`adapter_shapes`] gives them: a
    /// schedule of lower ranks within this one, under the same parameters. Nothing of the adapters is tracked.
    #[must_use]
    pub fn truncated(mut self, shapes: &[AdapterShape]) -> Self {
        self.decoder.truncate_adapters(shapes);
        self
    }

    /// Tracks the gradients of what `trainable` includes, and of nothing else.
    #[must_use]
    pub fn trained(self, trainable: Trainable) -> Self {
        let names = self.names.clone();
        self.map(&mut Track { names, trainable: Some(trainable) })
    }

    /// Tracks nothing: for evaluation.
    #[must_use]
    pub fn frozen(&self) -> Self {
        self.clone().map(&mut Track { names: self.names.clone(), trainable: None })
    }

    /// What the model looks like.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Checkpoint names of the parameters.
    pub fn names(&self) -> &ParamNames {
        &self.names
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.devices().into_iter().next().unwrap_or_default().inner()
    }

    /// Tokens that one picture takes in the sequence.
    pub fn tokens_per_picture(&self) -> usize {
        let (Some(vision), Some(projector)) = (&self.spec.vision, &self.spec.projector) else { return 0 };
        projector.tokens(vision.patches())
    }

    /// Scores of the next token at the batch's answer positions.
    ///
    /// # Shapes
    /// - `features`: `[pictures of the batch, patches, vision width]`, from [`Self::vision_features`]; none for a batch
    ///   of text alone
    /// - returns: `[answer positions, vocab]`
    pub fn forward(&self, batch: &Batch, features: Option<Tensor<3>>) -> Tensor<2> {
        let spliced = self.splice(batch, features);
        #[cfg(not(target_family = "wasm"))]
        if !spliced.is_tracked()
            && !self.decoder.has_trained_adapters()
            && fused::applies(self, ForwardOptions::default())
        {
            return self.decoder.logits(fused::decoder_states(&self.decoder, batch, spliced));
        }
        let states = self.decoder.forward(spliced, batch.rows, batch.length, ForwardOptions::default());
        let device = self.device();
        self.decoder.logits(states.select(0, indices(&batch.answer_positions, &device)))
    }

    /// Features of pictures that [`patchify`] cut into patches; none where the model has no vision tower.
    ///
    /// # Shapes
    /// `[pictures, patches, 3·p·p]` → `[pictures, patches, vision width]`
    pub fn vision_features(&self, patches: Tensor<3>) -> Option<Tensor<3>> {
        self.vision.as_ref().map(|vision| vision.tower.forward(patches))
    }

    /// The sequences of a batch: text embeddings with the projected image features in their places.
    ///
    /// # Shapes
    /// - `features`: `[pictures of the batch, patches, vision width]`
    /// - returns: `[rows·length, hidden]`
    pub fn splice(&self, batch: &Batch, features: Option<Tensor<3>>) -> Tensor<2> {
        let device = self.device();
        let text = self.decoder.embed(indices(&batch.text_ids, &device));
        let rows = match (&self.vision, features) {
            (Some(vision), Some(features)) => {
                let image = vision.projector.forward(features);
                let [pictures, tokens, hidden] = image.dims();
                Tensor::cat(vec![text, image.reshape([pictures * tokens, hidden])], 0)
            }
            _ => text,
        };
        // One gather does it for all rows.
        rows.select(0, indices(&batch.source, &device))
    }
}

/// A vector of row numbers on the device.
pub(crate) fn indices(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

struct Track {
    names: ParamNames,
    trainable: Option<Trainable>,
}

impl ModuleMapper for Track {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        let tracked = self.trainable.is_some_and(|set| self.names.name(id).is_some_and(|name| set.includes(name)));
        let plain = param.into_value().inner();
        // A fresh leaf each time: two clones of a model never share a node of the autodiff graph, so that they can be
        // trained in two threads.
        Param::initialized(id, if tracked { plain.autodiff().require_grad() } else { plain })
    }
}

struct Replace {
    names: ParamNames,
    weights: Weights,
    problems: Vec<String>,
    device: Device,
}

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = self.names.name(param.id) else { return param };
        let Some(weight) = self.weights.tensors.remove(name) else { return param };
        match self.names.value(param.id, weight, &self.device) {
            Ok(value) => Param::initialized(param.id, value),
            Err(problem) => {
                self.problems.push(problem);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests;
