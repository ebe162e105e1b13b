//! Fine-tuning the tiny MobileVLM in the browser.
//!
//! [`base`] reads the model, [`data`] holds pictures and questions, [`arm`] is one adapter that is trained, and
//! [`trainer`] trains two of them side by side, and [`kept`] writes a run down. All of that runs natively, too, where it is
//! tested. In the browser, `gpu` opens WebGPU, and `worker` does what the page asks.

pub mod arm;
pub mod base;
pub mod data;
pub mod kept;
pub mod trainer;

#[cfg(target_family = "wasm")]
mod gpu;
#[cfg(target_family = "wasm")]
pub mod worker;

#[cfg(test)]
mod tests;

use hydra_shared::tasks::TaskError;
use hydra_shared::vlm::ModelError;
use hydra_shared::vlm::conversation::ConversationError;
use hydra_shared::vlm::tokenizer::TokenizerError;

/// Why the tiny model could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// Weights that do not fit, or a device that failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tokenizer that cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A question that cannot be tokenized.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// Pictures that cannot be generated.
    #[error(transparent)]
    Tasks(#[from] TaskError),
    /// Files that are not the tiny model's, or a run that cannot be.
    #[error("{0}")]
    Unusable(String),
    /// The training diverged.
    #[error("step {step}: {what} is {value}; begin again with a lower learning rate, or with lower ranks")]
    NotFinite {
        /// Step, counted from 1.
        step: usize,
        /// What is not finite: the loss, or a parameter's gradient.
        what: String,
        /// What it is.
        value: f64,
    },
}

impl TrainingError {
    /// Whether another device could do what this one did not.
    pub fn is_the_devices(&self) -> bool {
        matches!(self, Self::Model(ModelError::Weights(hydra_shared::vlm::WeightError::Device(_))))
    }
}
