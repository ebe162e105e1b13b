//! One question to a model, worded as in MobileVLM's evaluation.

/// The instruction with GQA, TextVQA, POPE and MME.
pub(super) const SHORT_ANSWER: &str = "Answer the question using a single word or phrase.";

/// The instruction with ScienceQA and MMBench.
pub(super) const LETTER: &str = "Answer with the option's letter from the given choices directly.";

/// One question to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchmarkQuestion {
    /// The id under which scoring looks for the answer.
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

/// The instruction stands on a line of its own; a question that ends with it already is left as it is.
pub(super) fn with_instruction(question: &str, instruction: &str) -> String {
    if question.ends_with(instruction) { question.to_owned() } else { format!("{question}\n{instruction}") }
}

/// The choices follow the question, one a line, after their letters.
pub(super) fn with_options(question: &str, choices: &[&str]) -> String {
    let lettered: Vec<(char, &str)> = ('A'..='Z').zip(choices.iter().copied()).collect();
    with_lettered(question, &lettered)
}

/// The choices follow the question, one a line, each after its own letter.
pub(super) fn with_lettered(question: &str, choices: &[(char, &str)]) -> String {
    let mut text = question.to_owned();
    for (letter, choice) in choices {
        text.push_str(&format!("\n{letter}. {choice}"));
    }
    text
}
