//! Run folders, and everything in them that must survive a crash.
//!
//! A run folder holds all of a run and can be moved. Whatever is written there is whole or absent: files and folders
//! appear by a rename ([`atomic`]), checkpoints are believed only if their manifest verifies ([`checkpoint`]), logs
//! that grow line by line lose at most a torn last line ([`journal_file`]), and one process writes at a time
//! ([`lock`]).

pub mod atomic;
pub mod checkpoint;
pub mod events;
pub mod folder;
pub mod journal_file;
pub mod lock;
pub mod metrics;

pub use checkpoint::{Checkpoint, CheckpointStore};
pub use folder::{RunFolder, RunStatus};
pub use journal_file::JournalFile;
pub use lock::RunLock;
pub use metrics::MetricsLog;

/// The time now, as `2026-11-24T06:12:13Z`.
pub fn utc_now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
