//! Files of answers, as LLaVA's evaluation scripts write and read them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::BenchmarkError;
use super::records::{Id, json_lines};

/// Answers by question id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Predictions {
    answers: BTreeMap<String, Vec<Answer>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// What the model was asked, where the file says so.
    pub prompt: Option<String>,
    pub text: String,
}

/// One answer in a file: LLaVA's `question_id`, `prompt` and `text`, or GQA's `questionId` and `prediction`.
#[derive(Deserialize)]
struct Record {
    #[serde(alias = "questionId")]
    question_id: Id,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(alias = "prediction", alias = "answer")]
    text: String,
}

impl Predictions {
    /// Reads JSON lines, or one JSON list, of `{"question_id": …, "text": …}` (or `questionId` and `prediction`).
    ///
    /// # Errors
    /// A record in another form, with its line or number.
    pub fn from_text(text: &str) -> Result<Self, BenchmarkError> {
        let records: Vec<Record> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text).map_err(|error| BenchmarkError::predictions("as a list", error.to_string()))?
        } else {
            json_lines("predictions", text)?.into_iter().map(|(_, record)| record).collect()
        };
        let mut answers: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
        for Record { question_id: Id(id), prompt, text } in records {
            answers.entry(id).or_default().push(Answer { prompt, text });
        }
        Ok(Self { answers })
    }

    /// The answers to the given questions, in their order.
    ///
    /// # Errors
    /// Questions without an answer, or with several.
    pub(super) fn of<'a>(&'a self, ids: &[String]) -> Result<Vec<&'a str>, BenchmarkError> {
        if ids.is_empty() {
            return Err(BenchmarkError::Empty);
        }
        let missing: Vec<String> = ids.iter().filter(|id| !self.answers.contains_key(*id)).cloned().collect();
        if !missing.is_empty() {
            return Err(BenchmarkError::Unanswered { missing, asked: ids.len() });
        }
        ids.iter()
            .map(|id| match self.all(id) {
                [only] => Ok(only.text.as_str()),
                several => {
                    Err(BenchmarkError::predictions(format!("question {id}"), format!("{} answers", several.len())))
                }
            })
            .collect()
    }

    /// All answers under one id.
    pub(super) fn all(&self, id: &str) -> &[Answer] {
        self.answers.get(id).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_and_lists_in_llavas_and_gqas_words_are_read() {
        let lines = "{\"question_id\": 1, \"text\": \"yes\"}\n\n{\"question_id\": \"b\", \"text\": \"no\", \"model_id\": \"x\"}\n";
        let list = r#"[{"questionId": "1", "prediction": "yes"}, {"questionId": "b", "prediction": "no"}]"#;
        assert_eq!(Predictions::from_text(lines), Predictions::from_text(list));
    }

    #[test]
    fn a_broken_line_a_missing_text_and_a_second_answer_are_named() {
        let error = |text: &str| Predictions::from_text(text).unwrap_err().to_string();
        assert!(error("{\"question_id\": 1, \"text\": \"a\"}\n{").starts_with("predictions, line 2:"));
        assert!(error("{\"question_id\": 1}").contains("missing field `text`"));
        let twice = r#"[{"question_id": 1, "text": "a"}, {"question_id": "1", "text": "b"}]"#;
        let error = Predictions::from_text(twice).unwrap().of(&["1".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "predictions, question 1: 2 answers");
    }

    #[test]
    fn questions_without_an_answer_are_listed() {
        let predictions = Predictions::from_text("{\"question_id\": 1, \"text\": \"a\"}").unwrap();
        let error = predictions.of(&["1".to_owned(), "2".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "1 of 2 questions have no answer: 2; answer them, or leave them out of the question file");
        assert_eq!(predictions.of(&[]), Err(BenchmarkError::Empty));
    }
}
