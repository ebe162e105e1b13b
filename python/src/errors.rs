//! Failures as Python's exceptions: subclasses of `ValueError` by their kind, with the message that the trainer would print.

use hydra_shared::files::error::{Kind, kind_of, message_of};
use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;

create_exception!(hydra_lora, HydraError, PyValueError, "Whatever HyDRA refuses or fails at.");
create_exception!(
    hydra_lora,
    UsageError,
    HydraError,
    "An argument that is unknown, out of its range, or has no effect."
);
create_exception!(hydra_lora, DataError, HydraError, "A file that is missing, damaged, or does not fit the model.");
create_exception!(hydra_lora, BudgetError, HydraError, "No schedule fits the budget.");
create_exception!(hydra_lora, NumericalError, HydraError, "A norm or a score is NaN or infinite.");
create_exception!(hydra_lora, TryAgain, HydraError, "Nothing is wrong: another process must finish first.");

/// What has another name in Python, or is none of its words.
const WORDS: [(&str, &str); 5] = [
    ("--set gradients_run=NAME", "run=NAME"),
    ("--run NAME", "run=NAME"),
    ("--gradients LOG", "log=LOG"),
    ("--gradients", "log"),
    ("plan.min_rank", "min_rank"),
];

/// The exception of a failure.
pub fn to_python(error: &anyhow::Error) -> PyErr {
    let message = in_python(&message_of(error));
    match kind_of(error) {
        Kind::Usage => UsageError::new_err(message),
        Kind::Data => DataError::new_err(message),
        Kind::Budget => BudgetError::new_err(message),
        Kind::Numerical => NumericalError::new_err(message),
        Kind::TryAgain => TryAgain::new_err(message),
        Kind::Failure | Kind::Interrupted => HydraError::new_err(message),
    }
}

/// A message with the trainer's flags as arguments: `base_rank` for `--base-rank`, `log` for `--gradients LOG`. Commands in
/// backticks stay.
pub fn in_python(message: &str) -> String {
    let message = WORDS.iter().fold(message.to_owned(), |message, (flag, argument)| message.replace(flag, argument));
    let in_words = |(at, part): (usize, &str)| if at % 2 == 0 { arguments(part) } else { part.to_owned() };
    message.split('`').enumerate().map(in_words).collect::<Vec<_>>().join("`")
}

fn arguments(text: &str) -> String {
    let mut words = text.split("--");
    let mut renamed = words.next().unwrap_or_default().to_owned();
    for word in words {
        let starts = renamed.is_empty() || renamed.ends_with([' ', '(', '"', '\'']);
        if !starts || !word.starts_with(|first: char| first.is_ascii_lowercase()) {
            renamed += "--";
            renamed += word;
            continue;
        }
        let end = word.find(|letter: char| !letter.is_ascii_lowercase() && letter != '-').unwrap_or(word.len());
        let (flag, rest) = word.split_at(end);
        renamed += &flag.replace('-', "_");
        renamed += rest;
    }
    renamed
}
