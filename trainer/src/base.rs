//! The base model that is adapted: weights, tokenizer and shapes, embedded or in a folder that `pretrain` wrote.

use std::path::Path;

use anyhow::Result;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::vlm::tokenizer::Tokenizer;
use hydra_shared::vlm::{MobileVlm, Weights};
use sha2::{Digest, Sha256};

use crate::error::{Kind, ResultExt, failure};

/// Preset that the embedded base has.
pub const TINY: &str = "tiny-mobilevlm";
/// File of the weights in a base folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// File of the tokenizer in a base folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

static EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../static/tiny-mobilevlm/model.safetensors");
static EMBEDDED_TOKENIZER: &str = include_str!("../../static/tiny-mobilevlm/tokenizer.json");

/// A pretrained base model on the host.
#[derive(Debug, Clone)]
pub struct Base {
    /// Shapes.
    pub spec: ModelSpec,
    /// Every weight.
    pub weights: Weights,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// SHA-256 of the weight file: which base an adapter belongs to.
    pub sha256: String,
}

impl Base {
    /// The tiny MobileVLM that this project pretrained (`trainer pretrain`).
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn embedded() -> Result<Self> {
        Self::from_bytes("the embedded tiny-mobilevlm", EMBEDDED_WEIGHTS, EMBEDDED_TOKENIZER)
    }

    /// A folder that `trainer pretrain` wrote.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another model.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).or_fail(Kind::Data, || {
                format!("{}: cannot be read; --base takes a folder that `trainer pretrain` wrote", path.display())
            })
        };
        let tokenizer = String::from_utf8(read(TOKENIZER_FILE)?)
            .or_fail(Kind::Data, || format!("{}: not UTF-8 text", folder.join(TOKENIZER_FILE).display()))?;
        Self::from_bytes(&folder.display().to_string(), &read(WEIGHTS_FILE)?, &tokenizer)
    }

    fn from_bytes(origin: &str, bytes: &[u8], tokenizer: &str) -> Result<Self> {
        let spec = ModelSpec::preset(TINY)?;
        let weights = Weights::from_safetensors(bytes).or_fail(Kind::Data, || format!("{origin}: {WEIGHTS_FILE}"))?;
        let tokenizer =
            Tokenizer::from_json(tokenizer).or_fail(Kind::Data, || format!("{origin}: {TOKENIZER_FILE}"))?;
        if tokenizer.vocab() > spec.decoder.vocab {
            return Err(failure(
                Kind::Data,
                format!(
                    "{origin}: the tokenizer has {} tokens, the model {}: they do not belong together",
                    tokenizer.vocab(),
                    spec.decoder.vocab
                ),
            ));
        }
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { spec, weights, tokenizer, sha256 })
    }

    /// The model on a device, nothing in it trained.
    ///
    /// # Errors
    /// Weights that do not fit the shapes.
    pub fn load(&self, device: &burn::tensor::Device) -> Result<MobileVlm> {
        MobileVlm::load(&self.spec, self.weights.clone(), device)
            .or_fail(Kind::Data, || "the base model's weights".to_owned())
    }
}
