//! Questions about pictures, wherever they come from, and what answers to them are worth.

use anyhow::Result;
use hydra_shared::vlm::conversation::Turn;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::pictures::PictureFile;
use crate::error::{Kind, failure};

/// Pictures, questions with their answers, and the rule that scores them.
pub struct QuestionSet {
    /// The pictures.
    pub pictures: Vec<PictureFile>,
    /// The questions, where answers are generated and scored.
    pub questions: Vec<Question>,
    /// Whole conversations, where the set has them instead of single questions.
    pub dialogues: Vec<Dialogue>,
    /// How its answers are scored; without a rule, by how likely the expected ones are.
    pub rule: Option<Box<dyn Rule>>,
}

/// A conversation about any number of pictures.
pub struct Dialogue {
    /// Number of its record in the file, from 1.
    pub record: usize,
    /// Where it stands, for messages.
    pub place: String,
    /// Indices of its pictures, in the order of their places in the text.
    pub pictures: Vec<usize>,
    /// What is said.
    pub turns: Vec<Turn>,
}

/// One question about one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Index of the picture.
    pub picture: usize,
    /// What is asked.
    pub text: String,
    /// The expected answer.
    pub answer: String,
}

/// Scores of one model on one question set, in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Headline score of each task.
    pub tasks: IndexMap<String, f64>,
    /// Their mean: what a search maximizes.
    pub mean: f64,
    /// Everything that the scoring rules report.
    pub details: serde_json::Value,
}

/// The rule that scores the answers to a question set.
pub trait Rule: Send + Sync {
    /// Names of the scored tasks, in the order of tables.
    fn tasks(&self) -> Vec<String>;

    /// The task of a question, by its index; none where it counts in no task alone.
    fn task_of(&self, question: usize) -> Option<String> {
        let _ = question;
        None
    }

    /// Scores one answer per question.
    ///
    /// # Errors
    /// Another number of answers than questions.
    fn score(&self, answers: &[String]) -> Result<Scores>;
}

impl QuestionSet {
    /// Names of the scored tasks, in the order of tables.
    pub fn tasks(&self) -> Vec<String> {
        match &self.rule {
            Some(rule) => rule.tasks(),
            None => vec![LIKELIHOOD.to_owned()],
        }
    }

    /// The task of a question, by its index; none where it counts in no task alone.
    pub fn task_of(&self, question: usize) -> Option<String> {
        self.rule.as_ref()?.task_of(question)
    }

    /// Whether it is scored by how likely the expected answers are, and none are generated.
    pub fn is_scored_by_likelihood(&self) -> bool {
        self.rule.is_none()
    }

    /// Number of questions or conversations.
    pub fn len(&self) -> usize {
        self.questions.len() + self.dialogues.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scores one answer per question.
    ///
    /// # Errors
    /// Another number of answers than questions.
    pub fn score(&self, answers: &[String]) -> Result<Scores> {
        match &self.rule {
            Some(rule) => rule.score(answers),
            None => Err(failure(
                Kind::Usage,
                "conversations in LLaVA's format are scored by the model that answers them, not by a file of answers",
            )),
        }
    }
}

/// The task of a set that is scored by likelihood: 100 · exp(−loss), the geometric mean of the probabilities that the model
/// gives the expected answers' tokens, in percent.
pub const LIKELIHOOD: &str = "answer-likelihood";
