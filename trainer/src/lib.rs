//! HyDRA's native trainer.
//!
//! `main.rs` only calls [`cli::main`]; this library exists so that the parts can be tested and so that commands share
//! them: [`error`] and its exit codes, [`output`], [`config`], [`runs`] (run folders and everything that is written
//! whole or not at all), [`report`], and one file per command in [`commands`].

pub mod adapters;
pub mod base;
pub mod benchmark_run;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod experiment;
pub mod feature_cache;
pub mod feed;
pub mod gguf_adapter;
pub mod interrupt;
pub mod job;
pub mod output;
pub mod parity;
pub mod peft_folder;
pub mod pretrain;
pub mod report;
pub mod report_data;
pub mod runs;
pub mod search_run;
pub mod tokenizer_files;
pub mod train_loop;
pub mod training_run;
