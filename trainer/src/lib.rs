//! HyDRA's native trainer.
//!
//! `main.rs` only calls [`cli::main`]; this library exists so that the parts can be tested and so that commands share
//! them: the base [`model`], the [`data`], how it is [`train`]ed and judged ([`evaluation`]), the [`search`], what comes of
//! it ([`adapter`], [`report`]), [`runs`] (run folders and everything that is written whole or not at all), and one file per
//! command in [`commands`]. Which room may use which stands in ARCHITECTURE.md.

pub mod adapter;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod digest;
pub mod error;
pub mod evaluation;
pub mod input;
pub mod interrupt;
pub mod model;
pub mod output;
pub mod report;
pub mod runs;
pub mod search;
pub mod train;
