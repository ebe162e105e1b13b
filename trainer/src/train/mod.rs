//! Training: one step, a whole fine-tune, a fine-tune in a run folder, and pretraining of the tiny base.

pub mod config;
pub mod experiment;
pub mod fine_tune;
pub mod flops;
pub mod job;
pub mod memory;
pub mod pretrain;
pub mod run;
pub mod step;
pub mod workbench;
