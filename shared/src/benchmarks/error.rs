//! What can be wrong with a benchmark's files.

use crate::json::JsonError;
use crate::names::first_names;

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
        "{} of {asked} questions have no answer: {}; answer them, or leave them out of the question file",
        .missing.len(), first_names(.missing)
    )]
    Unanswered {
        /// Their ids.
        missing: Vec<String>,
        /// Number of questions.
        asked: usize,
    },
    /// Answers that were given to other questions than those of the file.
    #[error(
        "question {id} is {asked:?}, but its answer (line {line} of the predictions) was given to {prompt:?}: the answers are \
         to other questions, or numbered in another way; give the questions that the model was asked"
    )]
    OtherQuestion {
        /// The question's id.
        id: String,
        /// What is asked under it.
        asked: String,
        /// Line of the answer.
        line: usize,
        /// What the model was asked.
        prompt: String,
    },
    /// A question file without questions.
    #[error("there are no questions")]
    Empty,
}

impl BenchmarkError {
    pub(super) fn json(file: &'static str, error: JsonError) -> Self {
        let place = error.line.map_or_else(|| "the whole file".to_owned(), |line| format!("line {line}"));
        Self::Format { file, place, problem: error.problem }
    }

    pub(super) fn questions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "questions", place: place.into(), problem: problem.into() }
    }

    pub(super) fn predictions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "predictions", place: place.into(), problem: problem.into() }
    }
}
