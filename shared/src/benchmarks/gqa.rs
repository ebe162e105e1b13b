//! GQA (Hudson & Manning 2019): exact match with the one right answer, as LLaVA prepares answers for GQA's `eval.py`.

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::numbers::percent;
use super::predictions::{Predictions, Wanted};
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};
use super::records::{Id, by_id};

/// GQA as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "gqa",
    same: &[],
    about: "Exact match; questions as in testdev_balanced_questions.json",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        left_out: |_, _| None,
        llava_repeats_ids: false,
    }),
};

/// Scores on GQA.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GqaScores {
    /// Exact matches in percent.
    pub accuracy: f64,
    /// Number of questions.
    pub samples: usize,
}

/// Whether an answer is right: the same but for surrounding white space, final full stops and case.
///
/// This is LLaVA's preparation of answers for GQA's official `eval.py`, which then asks for equality.
pub fn is_right(answer: &str, expected: &str) -> bool {
    normalize(answer) == normalize(expected)
}

fn normalize(answer: &str) -> String {
    answer.trim().trim_end_matches('.').trim_end().to_lowercase()
}

/// The scores of answers, each of which [is right](is_right) or not.
pub fn tally(answers: impl IntoIterator<Item = bool>) -> GqaScores {
    let (right, samples) = answers.into_iter().fold((0, 0), |(right, all), hit| (right + usize::from(hit), all + 1));
    GqaScores { accuracy: percent(right, samples), samples }
}

#[derive(Deserialize)]
struct Question {
    answer: String,
    #[serde(default)]
    question: Option<String>,
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

/// Scores answers to questions by id: `{"201307251": {"question": …, "answer": "yes", …}, …}`.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<GqaScores, BenchmarkError> {
    let questions = by_id::<Question>(questions)?;
    let wanted = |(id, question): (&String, &Question)| Wanted { id: id.clone(), question: question.question.clone() };
    let answers = predictions.of(&questions.iter().map(wanted).collect::<Vec<_>>())?;
    Ok(tally(questions.values().zip(answers).map(|(question, answer)| is_right(answer, &question.answer))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_white_space_and_a_final_full_stop_do_not_matter_and_all_else_does() {
        for (prediction, answer, equal) in [
            ("Red.", "red", true),
            (" top left \n", "top left", true),
            ("red circle", "red", false),
            ("topleft", "top left", false),
            ("", "red", false),
        ] {
            assert_eq!(is_right(prediction, answer), equal, "{prediction}");
        }
    }

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
