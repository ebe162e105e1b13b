//! PEFT's adapters: everything that is known of their folders, read and written.
//!
//! A folder holds a configuration ([`LoraConfig`]) and tensors under PEFT's names ([`lora_names`]). [`AdapterFolder`] is
//! its bytes; an [`Adapter`] is one that fits a layout, and [`judge()`] says what other programs make of it. Disks, and the
//! containers of other programs, are the caller's.

#[cfg(feature = "weights")]
mod check;
mod config;
#[cfg(feature = "weights")]
mod fit;
#[cfg(feature = "weights")]
mod folder;
mod foreign;
mod judge;
mod meaning;
mod names;
#[cfg(feature = "weights")]
mod pad;
mod pattern;
mod refused;
#[cfg(feature = "weights")]
mod replicate;
#[cfg(feature = "weights")]
mod shapes;
mod snippet;

#[cfg(feature = "weights")]
pub use check::{Check, check};
pub use config::{ConfigError, LoraConfig, Modules, OneOrMore, PeftOptions};
#[cfg(feature = "weights")]
pub use fit::{Adapter, FitError};
#[cfg(feature = "weights")]
pub use folder::{AdapterFolder, FolderError, StrangeNames};
pub use foreign::Foreign;
pub use judge::{Consumer, judge, none_right, vllm_rank};
pub use meaning::Meaning;
#[cfg(feature = "weights")]
pub use names::embedding_names;
pub use names::{ADAPTER_FILE, CONFIG_FILE, PEFT_PREFIX, PROJECTOR_FILE, is_lora, lora_names, plain_name, saved_name};
#[cfg(feature = "weights")]
pub use pad::{OneRank, in_one_rank, schedule_in_one_rank};
pub use pattern::{PatternError, Patterns, Targets};
#[cfg(feature = "weights")]
pub use shapes::{AdaptedModule, AdaptedModules, ShapesError, adapted_modules};
pub use snippet::python_snippet;
