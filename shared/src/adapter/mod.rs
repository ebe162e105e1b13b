//! A schedule in the form that other programs read.

mod pattern;
mod peft;
mod snippet;

pub use pattern::{key_matches, suffix_matches};
pub use peft::{PeftConfig, PeftError, PeftOptions};
pub use snippet::python_snippet;
