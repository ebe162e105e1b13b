//! The search: what evaluates a schedule, and the run that proposes one after the other.

pub mod command;
pub mod drive;
pub mod engines;
pub mod outside;
pub(crate) mod run;
pub(crate) mod searched;
pub(crate) mod trial;

pub use hydra_shared::files::conversation;
