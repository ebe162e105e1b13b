//! The tiny model as its files hold it.

use std::sync::Arc;

use burn::tensor::Device;
use hydra_shared::layout::Layout;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec, VisionSpec};
use hydra_shared::vlm::tokenizer::{SpecialTokens, Tokenizer};
use hydra_shared::vlm::{MobileVlm, Weights};

use super::TrainingError;

/// The files of a model's folder.
pub struct ModelFiles {
    /// `config.json`.
    pub config: String,
    /// `vision_config.json`.
    pub vision_config: String,
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `model.safetensors`.
    pub weights: Vec<u8>,
}

/// The model on the host, from which it can be put onto any device.
pub struct Base {
    /// Its shapes.
    pub spec: ModelSpec,
    /// The modules that get ranks.
    pub layout: Arc<Layout>,
    /// The shapes of its vision tower.
    pub vision: VisionSpec,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The model on the CPU: what the vision tower runs on, and what a GPU is compared with.
    pub cpu: MobileVlm,
    weights: Weights,
}

impl Base {
    /// Reads the files.
    ///
    /// # Errors
    /// Files that are damaged or do not belong together.
    pub fn read(files: &ModelFiles) -> Result<Self, TrainingError> {
        let unusable = |file: &str, problem: String| TrainingError::Unusable(format!("{file}: {problem}"));
        let spec = ModelConfig::from_json(&files.config)
            .map_err(|error| unusable("config.json", error.to_string()))?
            .runnable()
            .map_err(|error| unusable("config.json", error.to_string()))?
            .with_vision_config(&files.vision_config)
            .map_err(|error| unusable("vision_config.json", error.to_string()))?;
        let Some(vision) = spec.vision.clone() else {
            return Err(unusable("vision_config.json", "the model has no vision tower".to_owned()));
        };
        let tokenizer = Tokenizer::from_json(&files.tokenizer, SpecialTokens::default())?;
        let weights = Weights::from_safetensors(&files.weights).map_err(hydra_shared::vlm::ModelError::from)?;
        let cpu = MobileVlm::load(&spec, weights.clone(), &Device::flex())?;
        let layout = spec.layout().map_err(|error| unusable("config.json", error.to_string()))?;
        Ok(Self { spec, layout, vision, tokenizer, cpu, weights })
    }

    /// The model on a device.
    ///
    /// # Errors
    /// Never in practice: it was loaded before.
    pub fn on(&self, device: &Device) -> Result<MobileVlm, TrainingError> {
        if *device == Device::flex() {
            return Ok(self.cpu.clone());
        }
        Ok(MobileVlm::load(&self.spec, self.weights.clone(), device)?)
    }
}
