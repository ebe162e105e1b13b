//! Run folders, and everything in them that must survive a crash.
//!
//! A run folder holds all of a run and can be moved. Whatever is written there is whole or absent: files and folders
//! appear by a rename ([`atomic`]), checkpoints are believed only if their manifest verifies ([`checkpoint`]), logs
//! that grow line by line lose at most a torn last line ([`journal_file`]), and one process writes at a time
//! ([`lock`]).

pub mod checkpoint;
pub mod events;
pub mod folder;
pub mod metrics;
pub mod process;

pub use hydra_shared::files::{atomic, journal_file, lock, time};

pub use checkpoint::{Checkpoint, CheckpointStore};
pub use folder::RunFolder;
pub use journal_file::JournalFile;
pub use metrics::MetricsLog;
pub use time::utc_now;
