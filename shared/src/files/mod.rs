//! What the trainer and the Python package read from a disk and write to it: gradient logs, models' headers, adapters, studies.
//!
//! Natively only. Everything else of this crate is given bytes and gives bytes; here stands what two programs do with files, so
//! that they do the same. Failures carry their kind ([`error`]), from which the trainer makes its exit code and Python its
//! exception; what is said besides a result goes to a [`voice`].

pub mod atomic;
pub mod checkpoint;
pub mod conversation;
pub mod digest;
pub mod error;
pub mod gradient_logs;
pub mod input;
pub mod journal_file;
pub mod lock;
mod log_files;
pub mod outside;
pub mod peft;
pub mod plan;
pub mod spec;
pub mod time;
pub mod trial_folder;
pub mod verify;
pub mod voice;
