//! POPE (Li et al. 2023): is there such an object? "Yes" is the positive class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::questions::{SHORT_ANSWER, with_instruction};
use super::{BenchmarkError, BenchmarkPicture, BenchmarkQuestion, Id, Predictions, json_lines};
use crate::tasks::scoring::pope::{YesNoScores, says_yes, yes_no_scores};

/// Scores on POPE.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PopeScores {
    /// F1 in percent, the mean over the categories: what papers report.
    pub f1: f64,
    /// Each category (random, popular, adversarial) alone.
    pub categories: BTreeMap<String, YesNoScores>,
    /// All questions as one.
    pub all: YesNoScores,
}

#[derive(Deserialize)]
struct Question {
    question_id: Id,
    label: String,
    #[serde(default)]
    category: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    question_id: Id,
    image: String,
    text: String,
    #[serde(default)]
    category: Option<String>,
}

/// Questions as JSON lines: `{"question_id": 1, "image": "COCO_val2014_….jpg", "text": …, "label": "yes"}`.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let asked = json_lines::<Asked>("questions", text)?.into_iter().map(|(_, asked)| BenchmarkQuestion {
        id: asked.question_id.0,
        picture: BenchmarkPicture::File(asked.image),
        prompt: with_instruction(&asked.text, SHORT_ANSWER),
        category: asked.category,
    });
    Ok(asked.collect())
}

/// Questions as JSON lines: `{"question_id": 1, "text": …, "label": "yes", "category": "random"}`. Without categories all
/// questions are one.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<PopeScores, BenchmarkError> {
    let mut asked = Vec::new();
    for (place, question) in json_lines::<Question>("questions", questions)? {
        if !["yes", "no"].contains(&question.label.as_str()) {
            return Err(BenchmarkError::questions(place, format!("label is {:?}, expected yes or no", question.label)));
        }
        asked.push((
            question.question_id.0,
            question.label == "yes",
            question.category.unwrap_or_else(|| "all".to_owned()),
        ));
    }
    let ids: Vec<String> = asked.iter().map(|(id, ..)| id.clone()).collect();
    let answers = predictions.of(&ids)?;
    let mut categories: BTreeMap<String, Vec<(bool, bool)>> = BTreeMap::new();
    let mut all = Vec::with_capacity(asked.len());
    for ((_, label, category), answer) in asked.into_iter().zip(answers) {
        let pair = (label, says_yes(answer));
        categories.entry(category).or_default().push(pair);
        all.push(pair);
    }
    let categories: BTreeMap<String, YesNoScores> =
        categories.into_iter().map(|(category, pairs)| (category, yes_no_scores(&pairs))).collect();
    let f1 = categories.values().map(|scores| scores.f1).sum::<f64>() / categories.len().max(1) as f64;
    Ok(PopeScores { f1, categories, all: yes_no_scores(&all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_precision_recall_f1_and_yes_ratio_are_those_of_a_table_worked_out_by_hand() {
        // Hits 1, 2; miss 3; false alarm 4; right no 5.
        let questions = ["yes", "yes", "yes", "no", "no"]
            .iter()
            .enumerate()
            .map(|(id, label)| format!("{{\"question_id\": {id}, \"label\": \"{label}\"}}\n"))
            .collect::<String>();
        let predictions = ["Yes", "yes, there is", "No.", "Yes", "There is not"]
            .iter()
            .enumerate()
            .map(|(id, text)| format!("{{\"question_id\": {id}, \"text\": \"{text}\"}}\n"))
            .collect::<String>();
        let scores = score(&questions, &Predictions::from_text(&predictions).unwrap()).unwrap();
        let YesNoScores { samples, accuracy, precision, recall, f1, yes_ratio } = scores.all;
        assert_eq!((samples, accuracy, yes_ratio), (5, 60.0, 60.0));
        assert!([precision, recall, f1].iter().all(|value| (value - 200.0 / 3.0).abs() < 1e-9));
        assert_eq!(scores.categories["all"], scores.all);
    }

    #[test]
    fn a_label_that_is_neither_yes_nor_no_is_named_by_line() {
        let error = score("{\"question_id\": 1, \"label\": \"maybe\"}", &Predictions::default()).unwrap_err();
        assert_eq!(error.to_string(), "questions, line 1: label is \"maybe\", expected yes or no");
    }
}
