//! What a benchmark is, whichever it is.

use std::collections::BTreeSet;

use super::error::BenchmarkError;
use super::llava;
use super::predictions::Predictions;
use super::question::BenchmarkQuestion;

/// Scores of any benchmark, to be written.
pub type BenchmarkScores = Box<dyn erased_serde::Serialize>;

/// A published benchmark.
#[derive(Debug)]
pub struct Benchmark {
    /// Its name, as options have it.
    pub name: &'static str,
    /// Other benchmarks whose files have the same form and are scored by the same rule.
    pub same: &'static [&'static str],
    /// What is scored, and what its files are: a line of the command line's help.
    pub about: &'static str,
    /// Longest answer in tokens, as in MobileVLM's evaluation.
    pub max_tokens: usize,
    /// Whether MobileVLM's evaluation pads its pictures to squares, instead of cutting squares out of them.
    pub pads_pictures: bool,
    /// How it is asked and scored.
    pub form: Form,
}

/// In which files a benchmark comes.
#[derive(Debug)]
pub enum Form {
    /// Questions in one file, answers in another.
    QuestionFile(QuestionFile),
    /// A folder per task, in it a text for each picture; result files hold questions and answers, see [`mme`](super::mme).
    TaskFolders,
}

/// What can be done with a file of questions.
#[derive(Debug)]
pub struct QuestionFile {
    /// Reads the benchmark's own format.
    pub(super) read: fn(&str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError>,
    /// Scores answers to the questions of a file in the benchmark's own format.
    pub(super) score: fn(&str, &Predictions) -> Result<BenchmarkScores, BenchmarkError>,
    /// What of a file in the benchmark's own format is not asked, or with answers not scored; none where all of it is.
    pub(super) left_out: fn(&str, Option<&Predictions>) -> Option<String>,
    /// Whether several lines of LLaVA's form may have one id: their answers are told apart by their prompts.
    pub(super) llava_repeats_ids: bool,
}

impl QuestionFile {
    /// The questions of a benchmark's own file, or of LLaVA's JSON lines `{"question_id": …, "image": …, "text": …}`, whose
    /// text is the prompt as it is.
    ///
    /// Of ScienceQA only questions with a picture are asked. LLaVA's lines for TextVQA give questions their picture's id,
    /// several the same: their answers are found only where they are kept with their prompt.
    ///
    /// # Errors
    /// A file in another format or without questions, an id that stands for two questions.
    pub fn questions(&self, text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
        let llava = llava::is_llavas(text);
        let questions = if llava { llava::questions(text)? } else { (self.read)(text)? };
        if questions.is_empty() {
            return Err(BenchmarkError::Empty);
        }
        let mut ids = BTreeSet::new();
        let mut again = questions.iter().filter(|question| !ids.insert(question.id.as_str()));
        match again.next() {
            Some(question) if !(llava && self.llava_repeats_ids) => {
                Err(BenchmarkError::questions(format!("question {}", question.id), "the id stands for two questions"))
            }
            _ => Ok(questions),
        }
    }

    /// What of a file is not asked, or with answers not scored, in words; none where all of it is.
    pub fn left_out(&self, text: &str, predictions: Option<&Predictions>) -> Option<String> {
        if llava::is_llavas(text) { None } else { (self.left_out)(text, predictions) }
    }

    /// Scores answers to the questions of a benchmark's own file. Every question must have an answer; answers to other
    /// questions are ignored.
    ///
    /// # Errors
    /// A file in another format, questions without an answer.
    pub fn score(&self, questions: &str, predictions: &Predictions) -> Result<BenchmarkScores, BenchmarkError> {
        (self.score)(questions, predictions)
    }
}

/// One benchmark's scores as those of any.
pub(super) fn any_scores<S: serde::Serialize + 'static>(
    scores: Result<S, BenchmarkError>,
) -> Result<BenchmarkScores, BenchmarkError> {
    scores.map(|scores| Box::new(scores) as BenchmarkScores)
}
