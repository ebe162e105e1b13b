//! HyDRA's method and everything that runs both natively and in the browser.
//!
//! Modules stand in the order of the data flow; each uses only those over it:
//! [`layout`] → [`gradients`] → [`stages`] → [`schedule`] → `weights` → [`adapter`] → [`performance`] →
//! [`search`] → [`vlm`] → [`benchmarks`] → [`tasks`] → `files`. [`shell`], [`json`], [`file_kind`],
//! [`names`] and [`statistics`] stand beside them.
//!
//! ```
//! use hydra_shared::layout::Ranks;
//! use hydra_shared::vlm::spec::ModelSpec;
//!
//! let layout = ModelSpec::preset("smollm2-135m")?.layout()?;
//! let uniform = Ranks::uniform(&layout, 16);
//! assert_eq!((uniform.iter().count(), uniform.parameters()), (210, 4_884_480));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/plan_from_log.rs` goes from a gradient log to PEFT's configuration; `examples/ask_tell.rs` searches with a trainer
//! of one's own.
//!
//! | feature | adds |
//! | --- | --- |
//! | `performance` | the performance models |
//! | `vlm` | MobileVLM in Burn and its LoRA |
//! | `weights` | named weights in safetensors, headers of their files, and what an adapter holds; part of `vlm` |
//! | `any-tokenizer` | tokenizers of every kind, not only the tiny model's; with `vlm` |
//! | `files` | what reads and writes files: gradient logs, checkpoints' headers, adapters, studies; natively |
//! | `simd` | Burn's vector instructions |
//!
//! All but `simd` are on by default.

pub mod adapter;
pub mod benchmarks;
pub mod expression;
pub mod file_kind;
#[cfg(all(feature = "files", not(target_family = "wasm")))]
pub mod files;
pub mod gradients;
pub mod json;
pub mod layout;
pub mod names;
mod par_map;
pub mod performance;
pub mod schedule;
pub mod search;
pub mod shell;
pub mod stages;
pub mod statistics;
pub mod tasks;
#[cfg(feature = "vlm")]
pub mod vlm;
/// Without the feature `vlm`: what a model is made of, and not the code that runs it.
#[cfg(not(feature = "vlm"))]
pub mod vlm {
    pub mod spec;
}
#[cfg(feature = "weights")]
pub mod weights;
