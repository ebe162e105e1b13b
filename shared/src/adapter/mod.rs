//! A schedule in the form that other programs read.

mod pattern;
mod peft;
mod snippet;

pub use pattern::{key_matches, suffix_matches};
pub use peft::{PeftConfig, PeftError, PeftOptions};
pub use snippet::python_snippet;

/// PEFT's prefix of every adapter tensor.
pub const PEFT_PREFIX: &str = "base_model.model.";
/// PEFT's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Adapter tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The projector, which MobileVLM trains beside the adapters and saves apart.
pub const PROJECTOR_FILE: &str = "non_lora_trainables.safetensors";
