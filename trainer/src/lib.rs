//! HyDRA's native trainer.
//!
//! `main.rs` only calls [`cli::main`]; this library exists so that the parts can be tested and so that commands share
//! them: the base `model`, the `data`, how it is trained (`train`) and judged (`evaluation`), the `search`, what comes of
//! it (`adapter`, `report`), `runs` (run folders and everything that is written whole or not at all), and one file per
//! command in `commands`. Which room may use which stands in ARCHITECTURE.md.

pub(crate) mod adapter;
pub mod cli;
pub(crate) mod commands;
pub(crate) mod config;
pub mod data;
pub(crate) mod device;
pub(crate) mod evaluation;
pub(crate) mod evidence;
pub(crate) mod interrupt;
pub mod model;
pub mod output;
pub(crate) mod report;
pub(crate) mod runs;
pub mod search;
pub(crate) mod train;

pub use hydra_shared::files::error;
pub(crate) use hydra_shared::files::{digest, input};
