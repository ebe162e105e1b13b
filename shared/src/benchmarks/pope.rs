//! POPE (Li et al. 2023): is there such an object? "Yes" is the positive class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::numbers::{mean, percent};
use super::predictions::Predictions;
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};
use super::records::{Id, json_lines};

/// POPE as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "pope",
    same: &[],
    about: "Accuracy, precision, recall, F1, yes-ratio; questions as in coco_pope_random.json",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        llava_repeats_ids: false,
    }),
};

/// Scores on POPE.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PopeScores<Category: Ord = String> {
    /// F1 in percent, the mean over the categories: what papers report.
    pub f1: f64,
    /// Each category (random, popular, adversarial) alone.
    pub categories: BTreeMap<Category, YesNoScores>,
    /// All questions as one.
    pub all: YesNoScores,
}

/// Scores of yes/no answers, "yes" being the positive class; all in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct YesNoScores {
    /// Number of questions.
    pub samples: usize,
    /// Right answers.
    pub accuracy: f64,
    /// Right ones among the answers "yes"; 0 where there are none.
    pub precision: f64,
    /// Answers "yes" among the questions whose answer is yes; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 where both are.
    pub f1: f64,
    /// Answers "yes".
    pub yes_ratio: f64,
}

/// Whether an answer is a yes: its first sentence is "no" if one of its words is "No", "no" or "not", and else "yes".
///
/// This is the rule of LLaVA's `eval_pope.py`, which MobileVLM uses too.
pub fn says_yes(answer: &str) -> bool {
    let sentence = answer.trim().split('.').next().unwrap_or_default().replace(',', "");
    !sentence.split_whitespace().any(|word| ["No", "no", "not"].contains(&word))
}

/// The scores of answers, each with its category and its label, true being "yes".
pub fn tally<'a, Category: Ord>(answers: impl IntoIterator<Item = (Category, bool, &'a str)>) -> PopeScores<Category> {
    let mut categories: BTreeMap<Category, Vec<(bool, bool)>> = BTreeMap::new();
    let mut all = Vec::new();
    for (category, label, answer) in answers {
        let pair = (label, says_yes(answer));
        categories.entry(category).or_default().push(pair);
        all.push(pair);
    }
    let categories: BTreeMap<Category, YesNoScores> =
        categories.into_iter().map(|(category, pairs)| (category, yes_no_scores(&pairs))).collect();
    PopeScores { f1: mean(categories.values().map(|scores| scores.f1)), categories, all: yes_no_scores(&all) }
}

/// Scores pairs of label and answer, true being "yes".
fn yes_no_scores(pairs: &[(bool, bool)]) -> YesNoScores {
    let count = |label: bool, answer: bool| pairs.iter().filter(|pair| **pair == (label, answer)).count();
    let (hits, false_alarms, misses) = (count(true, true), count(false, true), count(true, false));
    YesNoScores {
        samples: pairs.len(),
        accuracy: percent(hits + count(false, false), pairs.len()),
        precision: percent(hits, hits + false_alarms),
        recall: percent(hits, hits + misses),
        // 2PR / (P + R) without its 0/0.
        f1: percent(2 * hits, 2 * hits + false_alarms + misses),
        yes_ratio: percent(hits + false_alarms, pairs.len()),
    }
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
    Ok(tally(asked.into_iter().zip(answers).map(|((_, label, category), answer)| (category, label, answer))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_sentence_and_only_whole_words_make_a_no() {
        for text in ["no", "No", " no\n", "No, there is none", "There is not a circle.", "it is not. Yes"] {
            assert!(!says_yes(text), "{text}");
        }
        for text in ["yes", "", "Yes. There is no doubt", "none", "nothing here", "NO", "red"] {
            assert!(says_yes(text), "{text}");
        }
    }

    #[test]
    fn a_worked_example_gives_the_known_scores() {
        // Hits 3, false alarms 1, misses 1, correct rejections 3.
        let pairs = [
            (true, true),
            (true, true),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
            (false, false),
            (false, false),
        ];
        let scores = yes_no_scores(&pairs);
        assert_eq!(scores.accuracy, 75.0);
        assert_eq!(scores.precision, 75.0);
        assert_eq!(scores.recall, 75.0);
        assert_eq!(scores.f1, 75.0);
        assert_eq!(scores.yes_ratio, 50.0);
    }

    #[test]
    fn a_model_that_never_says_yes_scores_zero_without_dividing_by_zero() {
        let scores = yes_no_scores(&[(true, false), (false, false)]);
        assert_eq!((scores.precision, scores.recall, scores.f1, scores.yes_ratio), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(scores.accuracy, 50.0);
    }

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
