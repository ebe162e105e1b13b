//! Models on the disk. Checkpoints in Hugging Face's layout: a folder with `config.json` and weights as safetensors or
//! PyTorch files, whole or in shards. Decoders alone: GGUF and llama2.c files.

mod config;
mod gguf;
mod llama2c;

use std::path::Path;

use anyhow::Result;
pub use hydra_shared::files::checkpoint::CheckpointWeights;
use hydra_shared::vlm::VISION_PREFIX;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec};

use crate::error::{Kind, ResultExt, failure};
use crate::input;
use config::VISION_CONFIG;
pub use config::config_files;
pub use gguf::{Gguf, halves, pairs};
pub use llama2c::{Llama2c, tokenizer as llama2c_tokenizer};

/// Prefix of the tower's weights in a CLIP checkpoint of its own.
const CLIP_PREFIX: &str = "vision_model";

/// A model on the disk: its shapes are known, its weights are read when they are taken.
pub struct Checkpoint {
    /// Shapes.
    pub spec: ModelSpec,
    /// Weights under MobileVLM's names.
    pub weights: CheckpointWeights,
}

impl Checkpoint {
    /// Opens a folder. `vision_tower` is the folder of a CLIP checkpoint whose tower is used, in place of the
    /// checkpoint's own if that holds one.
    ///
    /// # Errors
    /// Files that are missing, damaged or contradict each other.
    pub fn open(folder: &Path, vision_tower: Option<&Path>) -> Result<Self> {
        Self::open_with(folder, vision_tower, true)
    }

    /// [`Self::open`] for a model whose projector is used or, without `own_projector`, will be replaced, so that the tower
    /// need not fit it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(folder: &Path, vision_tower: Option<&Path>, own_projector: bool) -> Result<Self> {
        if !folder.join("config.json").is_file() {
            return Err(failure(
                Kind::Data,
                format!("{}: no config.json here; expected the folder of a Hugging Face checkpoint", folder.display()),
            ));
        }
        let config = folder.join("config.json");
        let place = || config.display().to_string();
        let described = ModelConfig::from_json(&input::text(&config)?).or_fail(Kind::Data, place)?;
        let mut spec = described.runnable().or_fail(Kind::Data, place)?;
        if !own_projector {
            spec.projector = None;
        }
        let mut weights = CheckpointWeights::open(folder)?;
        // Buffers that some versions of transformers save beside the weights.
        weights.discard(|name| name.ends_with("rotary_emb.inv_freq") || name.ends_with("embeddings.position_ids"));
        if spec.decoder.tied_embeddings {
            weights.discard(|name| name == "lm_head.weight");
        }
        let vision_config = match vision_tower {
            Some(tower) => Some(tower.join("config.json")),
            None => Some(folder.join(VISION_CONFIG)).filter(|path| path.is_file()),
        };
        if let Some(path) = vision_config {
            spec = spec.with_vision_config(&input::text(&path)?).or_fail(Kind::Data, || path.display().to_string())?;
        }
        if let Some(tower) = vision_tower {
            weights.discard(|name| name.starts_with(VISION_PREFIX));
            weights.join(clip_tower(tower)?.1, tower)?;
        }
        if spec.vision.is_some() && !weights.contains(|name| name.starts_with(VISION_PREFIX)) {
            return Err(failure(
                Kind::Data,
                format!(
                    "{}: the vision tower is not in this checkpoint; name the folder of the CLIP model that its \
                     config.json calls for with --vision-tower",
                    folder.display()
                ),
            ));
        }
        Ok(Self { spec, weights })
    }
}

/// The configuration and the weights, under MobileVLM's names, of the vision tower in a CLIP checkpoint.
///
/// # Errors
/// Files that are missing or damaged.
pub fn clip_tower(folder: &Path) -> Result<(String, CheckpointWeights)> {
    let config = input::text(&folder.join("config.json"))?;
    let mut weights = CheckpointWeights::open(folder)?;
    // The text side of CLIP.
    weights.discard(|name| !name.starts_with(CLIP_PREFIX) || name.ends_with("embeddings.position_ids"));
    weights.rename(|name| name.replacen(CLIP_PREFIX, VISION_PREFIX, 1));
    Ok((config, weights))
}

#[cfg(test)]
mod tests;
