//! GQA (Hudson & Manning 2019): exact match with the one right answer, as LLaVA prepares answers for GQA's `eval.py`.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::questions::{SHORT_ANSWER, with_instruction};
use super::{BenchmarkError, BenchmarkPicture, BenchmarkQuestion, Id, Predictions, percent};
use crate::tasks::scoring::gqa::normalize;

/// Scores on GQA.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GqaScores {
    /// Exact matches in percent.
    pub accuracy: f64,
    /// Number of questions.
    pub samples: usize,
}

#[derive(Deserialize)]
struct Question {
    answer: String,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    #[serde(rename = "imageId")]
    image_id: Id,
}

/// Questions by id: `{"201307251": {"question": "Is it overcast?", "imageId": "n161313", …}, …}`.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let asked = by_id::<Asked>(text)?.into_iter().map(|(id, asked)| BenchmarkQuestion {
        id,
        picture: BenchmarkPicture::File(format!("{}.jpg", asked.image_id.0)),
        prompt: with_instruction(&asked.question, SHORT_ANSWER),
        category: None,
    });
    Ok(asked.collect())
}

fn by_id<T: DeserializeOwned>(text: &str) -> Result<BTreeMap<String, T>, BenchmarkError> {
    serde_json::from_str(text).map_err(|error| BenchmarkError::questions("an object by id", error.to_string()))
}

/// Questions by id: `{"201307251": {"question": …, "answer": "yes", …}, …}`.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<GqaScores, BenchmarkError> {
    let questions = by_id::<Question>(questions)?;
    let ids: Vec<String> = questions.keys().cloned().collect();
    let answers = predictions.of(&ids)?;
    let right = questions.values().zip(answers).filter(|(q, answer)| normalize(answer) == normalize(&q.answer)).count();
    Ok(GqaScores { accuracy: percent(right, ids.len()), samples: ids.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_a_final_full_stop_do_not_matter_and_anything_else_does() {
        let questions = r#"{"1": {"answer": "yes"}, "2": {"answer": "light blue"}, "3": {"answer": "no"}}"#;
        let predictions = r#"[{"question_id": 1, "text": "Yes."}, {"question_id": 2, "text": "blue"},
            {"question_id": "3", "text": " no"}]"#;
        let scores = score(questions, &Predictions::from_text(predictions).unwrap()).unwrap();
        assert_eq!((scores.samples, scores.accuracy.round()), (3, 67.0));
    }

    #[test]
    fn another_format_is_refused() {
        let error = score("[1]", &Predictions::default()).unwrap_err().to_string();
        assert!(error.starts_with("questions, an object by id:"), "{error}");
    }
}
