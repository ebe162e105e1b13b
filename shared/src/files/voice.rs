//! What is said besides a result.

use std::fmt::Arguments;

/// Whoever tells a person what happens: the trainer's standard error, Python's warnings.
pub trait Voice {
    /// What happens.
    fn note(&self, line: Arguments<'_>);
    /// What must be seen.
    fn warn(&self, line: Arguments<'_>);
}
