//! GQA (Hudson & Manning 2019): exact match with the one right answer, as LLaVA prepares answers for GQA's `eval.py`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BenchmarkError, Predictions, percent};
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

/// Questions by id: `{"201307251": {"question": …, "answer": "yes", …}, …}`.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<GqaScores, BenchmarkError> {
    let questions: BTreeMap<String, Question> = serde_json::from_str(questions)
        .map_err(|error| BenchmarkError::questions("an object by id", error.to_string()))?;
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
