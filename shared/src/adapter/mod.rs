//! PEFT's adapters: everything that is known of their folders, read and written.
//!
//! A folder holds a configuration ([`LoraConfig`]) and tensors under PEFT's names ([`lora_names`]). [`AdapterFolder`] is
//! its bytes; an [`Adapter`] is one that fits a layout, and [`judge()`] says what other programs make of it. Disks, and the
//! containers of other programs, are the caller's.

mod config;
#[cfg(feature = "weights")]
mod fit;
#[cfg(feature = "weights")]
mod folder;
mod judge;
mod names;
#[cfg(feature = "weights")]
mod pad;
mod pattern;
mod snippet;

pub use config::{ConfigError, LoraConfig, Modules, OneOrMore, PeftOptions};
#[cfg(feature = "weights")]
pub use fit::{Adapter, FitError};
#[cfg(feature = "weights")]
pub use folder::{AdapterFolder, FolderError};
pub use judge::{Consumer, judge};
pub use names::{ADAPTER_FILE, CONFIG_FILE, PEFT_PREFIX, PROJECTOR_FILE, is_lora, lora_names, plain_name};
#[cfg(feature = "weights")]
pub use pad::{PadError, in_one_rank};
pub use pattern::{PatternError, Patterns, Targets};
pub use snippet::python_snippet;
