//! The search for a schedule: trials, the study that holds them, and the loop that asks for the next one.
//!
//! Nothing here reads a file, a clock or the environment: [`SearchLoop`] is a state machine that says which trial to
//! run and is told how it went, and [`Journal`] turns a study into the bytes of Optuna's journal and back.

mod acquisition;
mod journal;
#[cfg(feature = "performance")]
mod made_up;
#[cfg(feature = "performance")]
mod proposer;
#[cfg(feature = "performance")]
mod sampling;
#[cfg(feature = "performance")]
mod search_loop;
mod study;
mod synthetic;

pub use acquisition::Acquisition;
pub use journal::{Journal, JournalError, JournalStudy, JournalTrial, StudyError, Timestamp, TrialStatus};
#[cfg(feature = "performance")]
pub use made_up::{made_up_number, made_up_study};
#[cfg(feature = "performance")]
pub use proposer::expected_improvement;
#[cfg(feature = "performance")]
pub use sampling::SearchSpace;
#[cfg(feature = "performance")]
pub use search_loop::{Outcome, Proposal, SearchConfig, SearchError, SearchLoop, Start, Step, StopReason};
pub use study::{IgnoredTrial, Origin, PlainTrial, Study, StudyMetadata, Trial, TrialState};
pub use synthetic::{Optimum, SyntheticConfig, SyntheticSurface};
