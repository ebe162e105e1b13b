//! What a model is asked: a benchmark's question file as pictures and prompts, worded as in MobileVLM's evaluation.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Benchmark, BenchmarkError, Id, gqa, json_lines, mmbench, pope, refcoco, scienceqa, textvqa};

/// The instruction with GQA, TextVQA, POPE and MME.
pub(super) const SHORT_ANSWER: &str = "Answer the question using a single word or phrase.";

/// The instruction with ScienceQA and MMBench.
pub(super) const LETTER: &str = "Answer with the option's letter from the given choices directly.";

/// One question to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchmarkQuestion {
    /// The id under which [`score`](super::score) looks for the answer.
    pub id: String,
    /// What the question is about.
    pub picture: BenchmarkPicture,
    /// The user's turn, with the benchmark's instruction, without a placeholder for the picture.
    pub prompt: String,
    /// Part of the benchmark, where the file names one.
    pub category: Option<String>,
}

/// Where a question's picture is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BenchmarkPicture {
    /// The question has none.
    None,
    /// A file, by its path in the benchmark's folder of pictures.
    File(String),
    /// The picture's file itself, in Base64.
    Base64(String),
}

/// LLaVA's form of any benchmark's questions.
#[derive(Deserialize)]
struct Line {
    question_id: Id,
    text: String,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    category: Option<String>,
    /// POPE's own lines have this.
    #[serde(default)]
    label: Option<IgnoredAny>,
    /// RefCOCO's own lines have this.
    #[serde(default)]
    bbox: Option<IgnoredAny>,
}

/// The questions of a benchmark's own file, in the formats that [`Benchmark`] names, or of LLaVA's JSON lines
/// `{"question_id": …, "image": …, "text": …}`, whose text is the prompt as it is.
///
/// Of ScienceQA only questions with a picture are asked. LLaVA's lines for TextVQA give questions their picture's id, several
/// the same: their answers are found only where they are kept with their prompt.
///
/// # Errors
/// A file in another format or without questions, an id that stands for two questions.
pub fn questions(benchmark: Benchmark, text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let llava = is_llavas(text);
    let questions = match benchmark {
        _ if llava => json_lines::<Line>("questions", text)?.into_iter().map(|(_, line)| asked(line)).collect(),
        Benchmark::Gqa => gqa::questions(text)?,
        Benchmark::Sqa => scienceqa::questions(text)?,
        Benchmark::TextVqa => textvqa::questions(text)?,
        Benchmark::Pope => pope::questions(text)?,
        Benchmark::Refcoco => refcoco::questions(text)?,
        Benchmark::MmBench => mmbench::questions(text)?,
    };
    if questions.is_empty() {
        return Err(BenchmarkError::Empty);
    }
    let mut ids = BTreeSet::new();
    let mut again = questions.iter().filter(|question| !ids.insert(question.id.as_str()));
    match again.next() {
        Some(question) if !(llava && benchmark == Benchmark::TextVqa) => {
            Err(BenchmarkError::questions(format!("question {}", question.id), "the id stands for two questions"))
        }
        _ => Ok(questions),
    }
}

/// Whether the first line is in LLaVA's form, not the benchmark's own.
fn is_llavas(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str::<Line>(first).is_ok_and(|line| line.label.is_none() && line.bbox.is_none())
}

fn asked(line: Line) -> BenchmarkQuestion {
    BenchmarkQuestion {
        id: line.question_id.0,
        picture: line.image.map_or(BenchmarkPicture::None, BenchmarkPicture::File),
        prompt: line.text,
        category: line.category,
    }
}

/// The instruction stands on a line of its own; a question that ends with it already is left as it is.
pub(super) fn with_instruction(question: &str, instruction: &str) -> String {
    if question.ends_with(instruction) { question.to_owned() } else { format!("{question}\n{instruction}") }
}

/// The choices follow the question, one a line, after their letters.
pub(super) fn with_options(question: &str, choices: &[&str]) -> String {
    let mut text = question.to_owned();
    for (letter, choice) in ('A'..='Z').zip(choices) {
        text.push_str(&format!("\n{letter}. {choice}"));
    }
    text
}

#[cfg(test)]
mod tests;
