//! ScienceQA (Lu et al. 2022): the letter of the right choice, read as LLaVA's `eval_science_qa.py` reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::numbers::percent;
use super::predictions::{Predictions, Wanted};
use super::question::{BenchmarkPicture, BenchmarkQuestion, LETTER, with_instruction, with_options};
use super::records::by_id;

/// ScienceQA as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "sqa",
    same: &[],
    about: "ScienceQA, the letter of the choice; questions as in problems.json",
    max_tokens: 1024,
    pads_pictures: false,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        left_out,
        llava_repeats_ids: false,
    }),
};

/// Scores on ScienceQA.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScienceQaScores {
    /// Right answers in percent.
    pub accuracy: f64,
    /// Right answers in percent of the questions with a picture (SQA-I, what MobileVLM reports).
    pub image_accuracy: f64,
    /// Number of questions.
    pub samples: usize,
    /// Questions with a picture.
    pub image_samples: usize,
    /// Answers without a letter; they count as wrong.
    pub unreadable: usize,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    question: Option<String>,
    choices: Vec<String>,
    answer: usize,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    split: Option<String>,
}

impl Problem {
    /// The picture's file name, where there is one.
    fn picture(&self) -> Option<&str> {
        self.image.as_deref().filter(|image| !image.is_empty())
    }
}

/// Problems by id: `{"1": {"choices": […], "answer": 0, "image": "image.png" or null, "split": "test", …}, …}`. Of a file
/// with all splits the test split is kept, as LLaVA and MobileVLM evaluate it.
fn problems(text: &str) -> Result<BTreeMap<String, Problem>, BenchmarkError> {
    let mut problems = by_id::<Problem>(text)?;
    if let Some((id, problem)) = problems.iter().find(|(_, p)| p.answer >= p.choices.len() || p.choices.len() > 5) {
        let message =
            format!("answer {} of {} choices; A to E can be told apart", problem.answer, problem.choices.len());
        return Err(BenchmarkError::questions(format!("problem {id}"), message));
    }
    let test = |problem: &Problem| problem.split.as_deref() == Some("test");
    if problems.values().any(test) {
        problems.retain(|_, problem| test(problem));
    }
    Ok(problems)
}

/// The problems with a picture, as LLaVA's `llava_test_CQM-A.json` puts them: context, question, one choice a line.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let mut asked = Vec::new();
    for (id, problem) in problems(text)? {
        let Some(picture) = problem.picture().map(|image| format!("{id}/{image}")) else { continue };
        let Some(question) = &problem.question else {
            return Err(BenchmarkError::questions(format!("problem {id}"), "no question"));
        };
        let hint = problem.hint.as_deref().unwrap_or_default().trim();
        let context = if hint.is_empty() { String::new() } else { format!("Context: {hint}\n") };
        let choices: Vec<&str> = problem.choices.iter().map(String::as_str).collect();
        let prompt = with_instruction(&with_options(&format!("{context}{question}"), &choices), LETTER);
        asked.push(BenchmarkQuestion { id, picture: BenchmarkPicture::File(picture), prompt, category: None });
    }
    Ok(asked)
}

/// What of a file is not asked, or not scored.
fn left_out(text: &str, predictions: Option<&Predictions>) -> Option<String> {
    let all = by_id::<Problem>(text).ok()?.len();
    let problems = problems(text).ok()?;
    let pictures = problems.values().filter(|problem| problem.picture().is_some()).count();
    let mut said = Vec::new();
    if problems.len() < all {
        said.push(format!("of {all} problems only the {} of the test split count", problems.len()));
    }
    let only_pictures = predictions.is_none_or(|predictions| only_pictures(&problems, predictions));
    if only_pictures && pictures < problems.len() {
        let done = if predictions.is_some() { "scored, since no answer is to one of them" } else { "asked" };
        said.push(format!("{} problems without a picture are not {done}", problems.len() - pictures));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// Whether answers were given to the problems with a picture alone.
fn only_pictures(problems: &BTreeMap<String, Problem>, predictions: &Predictions) -> bool {
    problems.values().any(|problem| problem.picture().is_some())
        && problems.iter().all(|(id, problem)| problem.picture().is_some() || predictions.all(id).next().is_none())
}

/// Where no problem without a picture is answered, only those with one are scored.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<ScienceQaScores, BenchmarkError> {
    let mut problems = problems(questions)?;
    if only_pictures(&problems, predictions) {
        problems.retain(|_, problem| problem.picture().is_some());
    }
    let wanted = |(id, problem): (&String, &Problem)| Wanted { id: id.clone(), question: problem.question.clone() };
    let wanted: Vec<Wanted> = problems.iter().map(wanted).collect();
    let (mut right, mut image_right, mut image_samples, mut unreadable) = (0, 0, 0, 0);
    for (problem, answer) in problems.values().zip(predictions.of(&wanted)?) {
        let letter = letter(answer);
        let hit = letter == Some(problem.answer);
        let has_image = problem.picture().is_some();
        right += usize::from(hit);
        image_right += usize::from(hit && has_image);
        image_samples += usize::from(has_image);
        unreadable += usize::from(letter.is_none());
    }
    Ok(ScienceQaScores {
        accuracy: percent(right, wanted.len()),
        image_accuracy: percent(image_right, image_samples),
        samples: wanted.len(),
        image_samples,
        unreadable,
    })
}

/// The choice that an answer names: a letter alone, a letter before ". ", or the one capital letter in "The answer is X." (or
/// with any other letter behind it, as the script's expression has it).
fn letter(answer: &str) -> Option<usize> {
    let choice = |letter: char| "ABCDE".find(letter);
    let mut letters = answer.chars();
    match (letters.next(), letters.next(), letters.next()) {
        (Some(first), None, None) => return choice(first),
        (Some(first), Some('.'), Some(' ')) if choice(first).is_some() => return choice(first),
        _ => {}
    }
    let mut named = answer.split("The answer is ").skip(1).filter_map(|rest| {
        let mut letters = rest.chars();
        let first = letters.next().filter(char::is_ascii_uppercase)?;
        // The script's full stop stands for any letter.
        letters.next().filter(|next| *next != '\n').map(|_| first)
    });
    match (named.next(), named.next()) {
        (Some(only), None) => choice(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_read_where_the_official_script_reads_one() {
        for (answer, expected) in [
            ("A", Some(0)),
            ("C. the moon", Some(2)),
            ("The answer is B.", Some(1)),
            ("Because it rains. The answer is D. It does.", Some(3)),
            ("The answer is B, as it rains", Some(1)),
            ("The answer is B", None),
            ("The answer is B. The answer is A.", None),
            ("the moon", None),
            ("b", None),
            ("F", None),
            ("B.", None),
            ("", None),
        ] {
            assert_eq!(letter(answer), expected, "{answer}");
        }
    }

    #[test]
    fn questions_with_a_picture_are_also_counted_alone() {
        let problems = r#"{"1": {"choices": ["x", "y"], "answer": 1, "image": "image.png"},
            "2": {"choices": ["x", "y"], "answer": 0, "image": null}, "3": {"choices": ["x", "y"], "answer": 0}}"#;
        let predictions = r#"[{"question_id": 1, "text": "B"}, {"question_id": 2, "text": "B"},
            {"question_id": 3, "text": "A. x"}]"#;
        let scores = score(problems, &Predictions::from_text(predictions).unwrap()).unwrap();
        assert_eq!((scores.image_accuracy, scores.image_samples, scores.samples), (100.0, 1, 3));
        assert!((scores.accuracy - 200.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn problems_without_a_picture_may_be_left_unanswered_all_together() {
        let problems = r#"{"1": {"choices": ["x", "y"], "answer": 1, "image": "image.png"},
            "2": {"choices": ["x", "y"], "answer": 0, "image": null}, "3": {"choices": ["x", "y"], "answer": 0}}"#;
        let score = |predictions: &str| score(problems, &Predictions::from_text(predictions).unwrap());
        let scores = score(r#"[{"question_id": 1, "text": "B"}]"#).unwrap();
        assert_eq!(
            (scores.accuracy, scores.image_accuracy, scores.samples, scores.image_samples),
            (100.0, 100.0, 1, 1)
        );
        let error = score(r#"[{"question_id": 1, "text": "B"}, {"question_id": 2, "text": "A"}]"#).unwrap_err();
        assert!(error.to_string().starts_with("1 of 3 questions have no answer: 3;"), "{error}");
    }

    #[test]
    fn of_a_file_with_all_splits_the_test_split_is_scored() {
        let problems = r#"{"1": {"choices": ["x"], "answer": 0, "image": "image.png", "split": "train"},
            "2": {"choices": ["x"], "answer": 0, "image": "image.png", "split": "test"}}"#;
        let scores = score(problems, &Predictions::from_text(r#"[{"question_id": 2, "text": "A"}]"#).unwrap()).unwrap();
        assert_eq!((scores.accuracy, scores.samples), (100.0, 1));
    }

    #[test]
    fn an_answer_beyond_the_choices_is_named_by_problem() {
        let error = score(r#"{"7": {"choices": ["x"], "answer": 1}}"#, &Predictions::default()).unwrap_err();
        assert!(error.to_string().starts_with("questions, problem 7: answer 1 of 1 choices"));
    }
}
