//! HyDRA's method and everything that runs both natively and in the browser.
//!
//! Modules stand in the order of the data flow; each uses only those over it:
//! [`model_spec`] → [`gradients`] → [`stages`] → [`schedule`] → [`performance`] → [`search`] → [`adapter`] →
//! [`vlm`] → [`tasks`] → [`benchmarks`].

pub mod adapter;
pub mod benchmarks;
pub mod gradients;
pub mod model_spec;
pub mod performance;
pub mod schedule;
pub mod search;
pub mod stages;
pub mod tasks;
#[cfg(feature = "vlm")]
pub mod vlm;
