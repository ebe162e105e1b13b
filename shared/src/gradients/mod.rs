//! Gradient logs of training runs, and the profile that is read from them.
//!
//! ```text
//! bytes ──sniff──► format ──► GradientLog (norms of A and B per module and step) ──profile──► GradientProfile
//! ```
//!
//! [`read()`] and [`read_many`] take any known format, gzipped or not, and report what they recognised and what they left
//! out ([`IngestReport`]). [`fit()`] finds the modules that get ranks, [`profile()`] averages their norms over the steps after
//! warm-up; both refuse a log that does not fit the model. [`LogWriter`] writes the project's own format.

mod blocks;
mod builder;
mod divergence;
mod error;
mod fit;
mod folder;
mod format;
mod formats;
mod histogram;
mod input;
mod known;
#[cfg(feature = "binary-logs")]
mod leveldb_log;
mod log;
mod lookalike;
mod metric;
mod outside;
mod parameter;
mod path;
mod profile;
mod profiling;
mod read;
mod report;
mod rows;
mod running;
mod sniff;
#[cfg(feature = "binary-logs")]
mod sqlite_file;
mod summing;
mod table_template;
mod template;
#[cfg(feature = "binary-logs")]
mod tfrecord;
mod wish;

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod alike_test;
#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod fuzz_test;
#[cfg(test)]
mod profiling_test;
#[cfg(test)]
mod reading_test;
#[cfg(test)]
mod runs_test;
#[cfg(test)]
mod samples_test;
#[cfg(test)]
mod trackers_test;

pub use error::{LogError, LogProblem, Position};
pub use fit::{Fit, Outside, fit};
pub use folder::{
    AIM, AIM_FOLDER, DEEPEST, LAST_VALUES, MOST_FILES, is_hidden, is_read_first, may_be_log, reading_order,
};
pub use format::Format;
pub use formats::hydra::{LogWriter, write_log};
pub use input::Limits;
pub use known::KnownFile;
pub use log::{
    Clip, GradientLog, LogMeta, LogStep, LogUnit, LoggedModule, LoraMeta, ModuleGradient, OtherModule, Place,
};
pub use outside::{OutsidePart, fit_notes, outside_parts, outside_text};
pub use parameter::{Matrix, ParameterName, Tower};
pub use profile::{GradientProfile, LayerNorm, ModuleNorm, ProfiledSteps, Signal};
pub use profiling::{ProfileConfig, ProfileError, profile};
pub use read::{LogFile, read, read_files, read_many, read_summed, read_summed_awaiting, read_with};
pub use report::{FileReport, IngestReport, KeyGroup, SkipReason};
pub use sniff::{SNIFF_BYTES, is_binary_log, is_gzip, sniff};
#[cfg(feature = "binary-logs")]
pub use sqlite_file::with_write_ahead_log;
pub use summing::{END_BYTES, LogEnds, Summing};
#[cfg(feature = "binary-logs")]
pub use tfrecord::tfrecord;
pub use wish::{Wish, WishError, Wishes};
