//! Experiments: many fine-tunes that answer one question, their raw results, and the page that follows from them.
//!
//! An experiment's file says before the first run what is compared, on which seeds, and at which numbers a stop rule fires
//! (`file.rs`, `arm.rs`). A run adds a line per trial to a file beside it (`run.rs`, `trial.rs`, `record.rs`), here or by an executor (`jobs.rs`); what is said of the
//! results is computed from these lines alone (`analysis.rs`, `signals.rs`, `nested.rs`, `transfer.rs`, `replay.rs`) and becomes a page
//! (`page.rs`, `figures.rs`) or a study for other tools (`study.rs`).

pub mod analysis;
pub mod arm;
pub mod figures;
pub mod file;
pub mod jobs;
pub mod nested;
pub mod page;
pub mod record;
pub mod replay;
pub mod run;
pub mod signals;
pub mod study;
mod transfer;
pub mod trial;
