//! One file per command: its `Args`, and `run`.

pub mod bench;
pub mod common;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod executor;
pub mod experiment;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod open;
pub mod parity;
pub mod plan;
pub mod pretrain;
pub mod profile;
pub mod report;
pub mod search;
pub mod study;
pub mod train;
pub mod verify;
