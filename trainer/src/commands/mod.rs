//! One file per command: its `Args`, and `run`.

pub mod doctor;
pub mod inspect;
pub mod model;
pub mod plan;
pub mod report;
