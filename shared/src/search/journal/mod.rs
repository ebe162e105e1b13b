//! The study file: Optuna's journal (`JournalFileBackend`, read in Optuna 5.0.0), one JSON record per line.
//!
//! The file only grows, so a study survives an interruption at any byte: a torn last line is told apart from a damaged
//! file and dropped. optuna-dashboard and `optuna.load_study` open it. How a trial is laid out for them:
//!
//! - *value*: the mean score, maximised (it has no name of its own there: with one, `trials_dataframe()` would have no
//!   column `value`);
//! - *params*: the mean rank of every projection and of the early, middle and late third of the layers, ten numbers
//!   that plots of importance and of parallel coordinates can show (a rank per module would be hundreds);
//! - *enqueued trials* are run: their parameters, or an attribute `ranks`, are the schedule that they ask for;
//! - *user attributes*: the full `ranks`, one `score:<benchmark>` each, `origin`, `seed`, `wall_seconds`, `error`.
//!
//! Reading and writing are functions of bytes; opening, locking, truncating and syncing the file is the caller's.
//! There must be one writer at a time: trial ids are positions in the file.

mod json;
mod mend;
mod queue;
mod replay;
mod study;
mod timestamp;

pub use mend::{Mended, mended};
pub use replay::{Journal, JournalError, JournalStudy, JournalTrial, TrialStatus};
pub use study::StudyError;
pub use timestamp::Timestamp;
