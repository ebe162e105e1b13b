//! Published benchmarks in their own file formats: what a model is asked, and answers that any model gave, scored by the
//! official rules.
//!
//! Nothing is generated here. A question file goes in, prompts come out; a question file and a file of answers go in, scores
//! come out.

mod gqa;
mod mmbench;
mod mme;
mod pope;
mod predictions;
mod questions;
mod refcoco;
mod scienceqa;
mod textvqa;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use gqa::GqaScores;
pub use mmbench::{MmBenchCategoryScores, MmBenchScores};
pub use mme::{MmeScores, MmeTaskScores, mme_questions, mme_result_line};
pub use pope::PopeScores;
pub use predictions::Predictions;
pub use questions::{BenchmarkPicture, BenchmarkQuestion, questions};
pub use refcoco::RefcocoScores;
pub use scienceqa::ScienceQaScores;
pub use textvqa::{TextVqaScores, normalize_answer};

/// A benchmark whose questions and answers are two files. MME is not among them: its questions are a file per picture, and
/// its result files hold both, see [`mme_questions`] and [`MmeScores::from_results`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Benchmark {
    /// GQA: exact match. Questions as in `testdev_balanced_questions.json`.
    Gqa,
    /// ScienceQA: the letter of the right choice. Questions as in `problems.json`.
    Sqa,
    /// TextVQA: soft accuracy over ten answers. Questions as in `TextVQA_0.5.1_val.json`.
    TextVqa,
    /// POPE: accuracy, precision, recall, F1 and yes-ratio. Questions as in `coco_pope_*.json`, with `label`.
    Pope,
    /// RefCOCO, RefCOCO+ and RefCOCOg: IoU of at least 0.5. Questions as JSON lines with `bbox`.
    Refcoco,
    /// MMBench: the letter of the right choice, once and in every order of the choices. Questions as in
    /// `mmbench_dev_20230712.tsv`.
    MmBench,
}

/// Scores of any benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BenchmarkScores {
    /// MME.
    Mme(MmeScores),
    /// GQA.
    Gqa(GqaScores),
    /// ScienceQA.
    Sqa(ScienceQaScores),
    /// TextVQA.
    TextVqa(TextVqaScores),
    /// POPE.
    Pope(PopeScores),
    /// RefCOCO.
    Refcoco(RefcocoScores),
    /// MMBench.
    MmBench(MmBenchScores),
}

/// Why questions could not be asked, or answers not be scored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
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
    fn questions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "questions", place: place.into(), problem: problem.into() }
    }

    fn predictions(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: "predictions", place: place.into(), problem: problem.into() }
    }
}

/// Scores answers to a benchmark's questions. Every question must have an answer; answers to other questions are ignored.
///
/// # Errors
/// Files in another format, questions without an answer.
pub fn score(
    benchmark: Benchmark,
    questions: &str,
    predictions: &Predictions,
) -> Result<BenchmarkScores, BenchmarkError> {
    match benchmark {
        Benchmark::Gqa => gqa::score(questions, predictions).map(BenchmarkScores::Gqa),
        Benchmark::Sqa => scienceqa::score(questions, predictions).map(BenchmarkScores::Sqa),
        Benchmark::TextVqa => textvqa::score(questions, predictions).map(BenchmarkScores::TextVqa),
        Benchmark::Pope => pope::score(questions, predictions).map(BenchmarkScores::Pope),
        Benchmark::Refcoco => refcoco::score(questions, predictions).map(BenchmarkScores::Refcoco),
        Benchmark::MmBench => mmbench::score(questions, predictions).map(BenchmarkScores::MmBench),
    }
}

/// An id; some files write numbers, some text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "RawId")]
struct Id(String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "an id must be a string or a number")]
enum RawId {
    Text(String),
    Number(serde_json::Number),
}

impl From<RawId> for Id {
    fn from(raw: RawId) -> Self {
        match raw {
            RawId::Text(text) => Self(text),
            RawId::Number(number) => Self(number.to_string()),
        }
    }
}

/// The records of a file of JSON lines, each with its place; `file` is for the message.
fn json_lines<T: DeserializeOwned>(file: &'static str, text: &str) -> Result<Vec<(String, T)>, BenchmarkError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = format!("line {}", index + 1);
            match serde_json::from_str(line) {
                Ok(record) => Ok((place, record)),
                Err(error) => Err(BenchmarkError::Format { file, place, problem: error.to_string() }),
            }
        })
        .collect()
}

/// Share in percent; 0 of nothing is 0.
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}
