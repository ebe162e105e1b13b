//! TextVQA (Singh et al. 2019): soft accuracy over ten people's answers, with VQA's normalisation of answers.

mod normalize;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::predictions::{Answer, Predictions, holds};
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};
use super::records::Id;
use crate::json;
use crate::names::first_names;

use normalize::normalize_answer;

/// TextVQA as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "textvqa",
    same: &[],
    about: "Soft accuracy; questions as in TextVQA_0.5.1_val.json",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        left_out: |_, _| None,
        llava_repeats_ids: true,
    }),
};

/// Scores on TextVQA.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TextVqaScores {
    /// Mean soft accuracy in percent.
    pub accuracy: f64,
    /// Number of questions.
    pub samples: usize,
}

#[derive(Deserialize)]
struct Annotations<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: Id,
    image_id: String,
    question: String,
    answers: Vec<String>,
}

#[derive(Deserialize)]
struct Asked {
    question_id: Id,
    image_id: String,
    question: String,
}

/// Questions as in `TextVQA_0.5.1_val.json`, which has no text recognised in the picture: LLaVA's own file gives it with
/// each question.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let asked = annotations::<Asked>(text)?.into_iter().map(|asked| BenchmarkQuestion {
        id: asked.question_id.0,
        picture: BenchmarkPicture::File(format!("{}.jpg", asked.image_id)),
        prompt: with_instruction(&asked.question, SHORT_ANSWER),
        category: None,
    });
    Ok(asked.collect())
}

fn annotations<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, BenchmarkError> {
    json::from_str(text)
        .map(|Annotations { data }| data)
        .map_err(|error| BenchmarkError::questions("an object with data", error.to_string()))
}

/// Questions as in `TextVQA_0.5.1_val.json`. Answers are found by the question's id, or, as LLaVA's files have it, by the
/// picture's id and a prompt that holds the question.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<TextVqaScores, BenchmarkError> {
    let annotations = annotations::<Annotation>(questions)?;
    if annotations.is_empty() {
        return Err(BenchmarkError::Empty);
    }
    let mut sum = 0.0;
    let mut missing = Vec::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let place = || format!("record {}", index + 1);
        let Id(id) = &annotation.question_id;
        if annotation.answers.len() < 2 {
            return Err(BenchmarkError::questions(place(), "two answers or more are needed; TextVQA has ten"));
        }
        match answer(predictions, annotation, &place())? {
            Some(answer) => sum += soft_accuracy(&answer.text, &annotation.answers),
            None => missing.push(id.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(BenchmarkError::Unanswered { missing, asked: annotations.len() });
    }
    let samples = annotations.len();
    Ok(TextVqaScores { accuracy: 100.0 * sum / samples as f64, samples })
}

/// The answer to one question: that under its own id, or the one under its picture's id whose prompt asks it.
fn answer<'a>(
    predictions: &'a Predictions,
    annotation: &Annotation,
    place: &str,
) -> Result<Option<&'a Answer>, BenchmarkError> {
    let Annotation { question_id: Id(id), image_id, question, .. } = annotation;
    let of_id: Vec<&Answer> = predictions.all(id).collect();
    let candidates = if of_id.is_empty() {
        let of_picture: Vec<&Answer> = predictions.all(image_id).filter(|answer| answer.prompt.is_some()).collect();
        let exact = |answer: &&Answer| answer.prompt.as_deref().is_some_and(|prompt| asked(prompt) == asked(question));
        match of_picture.iter().copied().filter(exact).collect::<Vec<_>>() {
            none if none.is_empty() => of_picture.into_iter().filter(|answer| answer.may_answer(question)).collect(),
            exact => exact,
        }
    } else {
        of_id
    };
    match candidates.as_slice() {
        [] => Ok(None),
        [only] => match only.prompt.as_deref().filter(|prompt| !holds(prompt, question)) {
            Some(prompt) => Err(BenchmarkError::OtherQuestion {
                id: id.clone(),
                asked: question.clone(),
                line: only.line,
                prompt: prompt.to_owned(),
            }),
            None => Ok(Some(only)),
        },
        several => {
            let lines = first_names(several.iter().map(|answer| answer.line));
            let problem =
                format!("question {id} has {} answers (lines {lines}); keep one of each question", several.len());
            Err(BenchmarkError::predictions(place, problem))
        }
    }
}

/// The question in a prompt, as LLaVA's `eval_textvqa.py` takes it: the line before the instruction, after the recognised text
/// where that stands first.
fn asked(prompt: &str) -> String {
    let lines: Vec<&str> = prompt.trim().lines().collect();
    let line = match lines.as_slice() {
        [first, second, _] if first.starts_with("Reference OCR token") => second,
        [first, ..] => first,
        [] => "",
    };
    line.trim().to_lowercase()
}

/// How far people agree with an answer: each person in turn is left out, and of the others three who gave the answer make
/// it fully right.
fn soft_accuracy(answer: &str, people: &[String]) -> f64 {
    let answer = normalize_answer(answer);
    let people: Vec<String> = people.iter().map(|given| normalize_answer(given)).collect();
    let same = people.iter().filter(|given| **given == answer).count();
    if same == 0 {
        return 0.0;
    }
    let credit = |others: usize| (others as f64 / 3.0).min(1.0);
    let (agreeing, disagreeing) = (same as f64, (people.len() - same) as f64);
    (agreeing * credit(same - 1) + disagreeing * credit(same)) / people.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_accuracy_is_that_of_a_table_worked_out_by_hand() {
        let people = |n: usize| -> Vec<String> {
            (0..10).map(|i| if i < n { "stop".to_owned() } else { format!("other {i}") }).collect()
        };
        // n agree: n of the ten leave-one-out sets hold n − 1 of them, the others n.
        for (n, expected) in [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)] {
            assert!((soft_accuracy("Stop.", &people(n)) - expected).abs() < 1e-12, "{n}");
        }
    }

    #[test]
    fn of_questions_that_hold_each_other_each_gets_its_own_answer() {
        let questions = r#"{"data": [
            {"question_id": 1, "image_id": "p", "question": "what is this?", "answers": ["red", "red", "red", "red"]},
            {"question_id": 2, "image_id": "p", "question": "What is", "answers": ["cup", "cup", "cup", "cup"]}]}"#;
        let answers = r#"[{"question_id": "p", "prompt": "What is this?\nReference OCR token: A, B\nShortly.", "text": "red"},
            {"question_id": "p", "prompt": "Reference OCR token: A\nWhat is\nShortly.", "text": "cup"}]"#;
        let scores = score(questions, &Predictions::from_text(answers).unwrap()).unwrap();
        assert_eq!(scores.accuracy, 100.0);
    }

    #[test]
    fn answers_are_found_by_question_or_by_picture_and_prompt() {
        let questions = r#"{"data": [
            {"question_id": 34602, "image_id": "p1", "question": "What brand?", "answers": ["dakota", "dakota", "dakota", "dakota"]},
            {"question_id": 34603, "image_id": "p1", "question": "What colour?", "answers": ["red", "red", "red", "red"]}]}"#;
        let by_id = r#"[{"question_id": 34602, "text": "Dakota"}, {"question_id": 34603, "text": "blue"}]"#;
        let by_prompt = r#"[{"question_id": "p1", "prompt": "what colour?\nAnswer shortly.", "text": "blue"},
            {"question_id": "p1", "prompt": "What brand?\nAnswer shortly.", "text": "Dakota"}]"#;
        for predictions in [by_id, by_prompt] {
            let scores = score(questions, &Predictions::from_text(predictions).unwrap()).unwrap();
            assert_eq!((scores.samples, scores.accuracy), (2, 50.0));
        }
        let of = |predictions: &str| score(questions, &Predictions::from_text(predictions).unwrap());
        let twice = r#"[{"question_id": 34602, "text": "a"}, {"question_id": 34602, "text": "b"}]"#;
        let error = of(twice).unwrap_err().to_string();
        assert!(error.contains("question 34602 has 2 answers (lines 1, 1)"), "{error}");
        let other = r#"[{"question_id": 34602, "prompt": "What colour?", "text": "a"}]"#;
        assert!(matches!(of(other), Err(BenchmarkError::OtherQuestion { line: 1, .. })));
        let error = of("[]").unwrap_err().to_string();
        assert!(error.starts_with("2 of 2 questions have no answer: 34602, 34603;"), "{error}");
    }
}
