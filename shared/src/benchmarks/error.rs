//! What can be wrong with a benchmark's files.

/// Why questions could not be asked, or answers not be scored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BenchmarkError {
    /// A file that is not in the benchmark's format.
    #[error("{file}, {place}: {problem}")]
    Format {
        /// Which of the two files.
        file: &'static str,
        /// Line or record.
        place: String,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// Questions without an answer.
    #[error(
        "{} of {asked} questions have no answer: {}{}; answer them, or leave them out of the question file",
        .missing.len(), .missing.iter().take(5).cloned().collect::<Vec<_>>().join(", "),
        if .missing.len() > 5 { ", …" } else { "" }
    )]
    Unanswered {
        /// Their ids.
        missing: Vec<String>,
        /// Number of questions.
        asked: usize,
    },
    /// A question file without questions.
    #[error("there are no questions")]
    Empty,
}

impl BenchmarkError {
    pub(super) fn questions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "questions", place: place.into(), problem: problem.into() }
    }

    pub(super) fn predictions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "predictions", place: place.into(), problem: problem.into() }
    }
}
