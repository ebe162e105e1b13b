//! The search: a trial, and the run that proposes one after the other.

pub mod run;
pub mod trial;
