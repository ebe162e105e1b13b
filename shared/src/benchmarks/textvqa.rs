//! TextVQA (Singh et al. 2019): soft accuracy over ten people's answers, with VQA's normalisation of answers.

use serde::{Deserialize, Serialize};

use super::{BenchmarkError, Id, Predictions};

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
struct Annotations {
    data: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: Id,
    image_id: String,
    question: String,
    answers: Vec<String>,
}

/// Questions as in `TextVQA_0.5.1_val.json`. Answers are found by the question's id, or, as LLaVA's files have it, by the
/// picture's id and a prompt that holds the question.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<TextVqaScores, BenchmarkError> {
    let annotations: Annotations = serde_json::from_str(questions)
        .map_err(|error| BenchmarkError::questions("an object with data", error.to_string()))?;
    if annotations.data.is_empty() {
        return Err(BenchmarkError::Empty);
    }
    let mut sum = 0.0;
    let mut missing = Vec::new();
    for (index, annotation) in annotations.data.iter().enumerate() {
        let place = || format!("record {}", index + 1);
        let Id(id) = &annotation.question_id;
        if annotation.answers.len() < 2 {
            return Err(BenchmarkError::questions(place(), "two answers or more are needed; TextVQA has ten"));
        }
        let question = annotation.question.to_lowercase();
        let by_prompt = predictions
            .all(&annotation.image_id)
            .iter()
            .find(|answer| answer.prompt.as_ref().is_some_and(|prompt| prompt.to_lowercase().contains(&question)));
        match predictions.all(id).first().or(by_prompt) {
            Some(answer) => sum += soft_accuracy(&answer.text, &annotation.answers),
            None => missing.push(id.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(BenchmarkError::Unanswered { missing, asked: annotations.data.len() });
    }
    let samples = annotations.data.len();
    Ok(TextVqaScores { accuracy: 100.0 * sum / samples as f64, samples })
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

const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Contractions that get their apostrophes back.
const CONTRACTIONS: [&str; 68] = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hasn't",
    "haven't",
    "he'd",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "i'm",
    "i've",
    "isn't",
    "it'd",
    "it'll",
    "let's",
    "ma'am",
    "might've",
    "mightn't",
    "must've",
    "mustn't",
    "needn't",
    "o'clock",
    "oughtn't",
    "shan't",
    "she's",
    "should've",
    "shouldn't",
    "somebody'd",
    "somebody's",
    "someone'd",
    "someone's",
    "something'd",
    "that'd",
    "that's",
    "there'd",
    "there's",
    "they'd",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "when's",
    "where'd",
    "where's",
    "who'd",
    "who'll",
    "who's",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "y'all",
    "you'd",
    "you're",
    "you've",
];

/// VQA's normalisation: lower case, punctuation, articles, number words and contractions made alike.
///
/// The rules are those of the official evaluation; its list of contractions also holds rarer ones with two apostrophes,
/// which are left alone here.
pub fn normalize_answer(answer: &str) -> String {
    let lower = answer.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    let text = lower.trim().replace(['\n', '\t'], " ");
    let text = text.trim();
    let mut plain = text.to_owned();
    for mark in PUNCTUATION {
        // Beside a space a mark vanishes; inside a word it parts the word in two.
        let beside_space = text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        plain = plain.replace(mark, if beside_space { "" } else { " " });
    }
    let plain = without_full_stops(&plain);
    let words = plain.split_whitespace().filter_map(|word| {
        let word = NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits);
        (!["a", "an", "the"].contains(&word)).then_some(word)
    });
    let contracted = words.map(|word| {
        CONTRACTIONS
            .iter()
            .find(|full| !word.contains('\'') && full.replace('\'', "") == word)
            .map_or(word, |full| full)
    });
    contracted.collect::<Vec<_>>().join(" ")
}

/// Drops full stops that no digit follows: decimal points stay.
fn without_full_stops(text: &str) -> String {
    let mut letters = text.chars().peekable();
    let mut kept = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        if letter != '.' || letters.peek().is_some_and(char::is_ascii_digit) {
            kept.push(letter);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_made_alike_as_in_vqas_evaluation() {
        for (answer, expected) in [
            ("The Coca-Cola.", "coca cola"),
            ("two", "2"),
            ("None", "0"),
            ("a STOP sign!", "stop sign"),
            ("3.5", "3.5"),
            ("1,000", "1000"),
            ("dont walk", "don't walk"),
            ("tom's", "tom 's"),
            ("red - white", "red white"),
            ("what?", "what"),
            ("  ", ""),
        ] {
            assert_eq!(normalize_answer(answer), expected, "{answer:?}");
        }
    }

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
        let error = score(questions, &Predictions::from_text("[]").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("2 of 2 questions have no answer: 34602, 34603;"), "{error}");
    }
}
