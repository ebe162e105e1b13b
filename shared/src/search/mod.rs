//! The search for a schedule: trials, the study that holds them, and what is asked next.
//!
//! Nothing here reads a file, a clock or the environment: [`Search`] is a state machine that is asked which trials to run and
//! told how they went, and [`Journal`] turns a study into the bytes of Optuna's journal and back. What chooses a schedule is
//! a proposer: random, or a performance model with an [`Acquisition`] rule, which needs the feature `performance`.

mod acquisition;
mod ask_tell;
mod config;
mod confirm;
mod journal;
#[cfg(feature = "performance")]
mod made_up;
mod proposers;
mod rule;
mod sampling;
mod seed;
mod starts;
mod study;
mod synthetic;

pub use acquisition::{Acquisition, ImprovementTerms, expected_improvement};
pub use ask_tell::{Outcome, Proposal, Search, SearchError, Step, StopReason};
pub use config::SearchConfig;
pub use confirm::{Basis, CONFIDENCE, FEWEST_REPLICATES, LastRound, Pick, most_replicates, wrong_replicates};
pub use journal::{
    Journal, JournalError, JournalStudy, JournalTrial, Mended, StudyError, Timestamp, TrialStatus, mended,
};
#[cfg(feature = "performance")]
pub use made_up::{made_up_number, made_up_study};
pub use proposers::NamedProposer;
pub use rule::Rule;
pub use sampling::SearchSpace;
pub use seed::proposal_seed;
pub use starts::{PlainStart, Start, starting_schedules};
pub use study::{IgnoredTrial, Origin, PlainTrial, Study, StudyMetadata, Trial, TrialState};
pub use synthetic::{Optimum, SyntheticConfig, SyntheticSurface};
