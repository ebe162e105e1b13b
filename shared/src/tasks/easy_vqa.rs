//! easy-VQA 1.0 (Victor Zhou, MIT licence): 5,000 pictures of one shape each, with published train and test questions.
//!
//! `scripts/easy-vqa` fetches it. In its folder are `answers.txt` and, under `train` and `test`, `questions.json` and
//! `images/N.png` (64 × 64 px, RGB). Here are its text formats and its scores; reading files is the caller's part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::scoring::QuestionOnly;
use crate::benchmarks::gqa;
use crate::benchmarks::numbers::percent;
use crate::json::{self, JsonError};

/// One question of easy-VQA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EasyVqaQuestion {
    /// The question, lower case.
    pub question: String,
    /// The answer, one word.
    pub answer: String,
    /// The picture: `images/<image>.png` beside the question's file.
    pub image: u32,
}

/// What an answer is. Scores are given per type, since the types' floors differ widely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuestionType {
    /// Yes or no.
    YesNo,
    /// One of three shapes.
    Shape,
    /// One of eight colours.
    Color,
}

impl EasyVqaQuestion {
    /// The question's type, which its answer tells.
    pub fn question_type(&self) -> QuestionType {
        match self.answer.as_str() {
            "yes" | "no" => QuestionType::YesNo,
            "circle" | "rectangle" | "triangle" => QuestionType::Shape,
            _ => QuestionType::Color,
        }
    }
}

/// Why a file of easy-VQA cannot be read, or predictions not be scored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EasyVqaError {
    /// Not the JSON that it must be.
    #[error(
        "questions.json is not a list of [question, answer, image number]: {0}; fetch it again with scripts/easy-vqa"
    )]
    Json(#[from] JsonError),
    /// No question.
    #[error("questions.json is empty: fetch it again with scripts/easy-vqa")]
    Empty,
    /// Not one prediction per question.
    #[error("{predictions} predictions for {questions} questions: give one prediction per question, in the same order")]
    Count {
        /// Number of questions.
        questions: usize,
        /// Number of predictions.
        predictions: usize,
    },
}

/// Reads `questions.json`: `[[question, answer, image number], …]`.
///
/// # Errors
/// Other JSON, or no question at all.
pub fn parse_questions(text: &str) -> Result<Vec<EasyVqaQuestion>, EasyVqaError> {
    let rows: Vec<(String, String, u32)> = json::from_str(text)?;
    if rows.is_empty() {
        return Err(EasyVqaError::Empty);
    }
    Ok(rows.into_iter().map(|(question, answer, image)| EasyVqaQuestion { question, answer, image }).collect())
}

/// Share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Accuracy {
    /// Number of questions.
    pub questions: usize,
    /// Right answers.
    pub right: usize,
}

impl Accuracy {
    /// In percent; 0 of nothing.
    pub fn percent(&self) -> f64 {
        percent(self.right, self.questions)
    }

    fn count(&mut self, right: bool) {
        self.questions += 1;
        self.right += usize::from(right);
    }
}

/// Scores on easy-VQA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EasyVqaScores {
    /// All questions.
    pub all: Accuracy,
    /// Yes/no questions.
    pub yes_no: Accuracy,
    /// All others: shape and colour together.
    pub open: Accuracy,
    /// Each type alone.
    pub types: BTreeMap<QuestionType, Accuracy>,
}

impl EasyVqaScores {
    /// Whether these are above a floor on all questions and on open ones, which is what a model that looks must reach.
    pub fn is_above(&self, floor: &EasyVqaScores) -> bool {
        self.all.percent() > floor.all.percent() && self.open.percent() > floor.open.percent()
    }
}

/// Scores predicted texts, one per question in the same order, by [exact match](gqa::is_right).
///
/// # Errors
/// Numbers of questions and predictions that differ.
pub fn score<T: AsRef<str>>(questions: &[EasyVqaQuestion], predictions: &[T]) -> Result<EasyVqaScores, EasyVqaError> {
    if questions.len() != predictions.len() {
        return Err(EasyVqaError::Count { questions: questions.len(), predictions: predictions.len() });
    }
    let mut scores = EasyVqaScores::default();
    for (question, prediction) in questions.iter().zip(predictions) {
        let right = gqa::is_right(prediction.as_ref(), &question.answer);
        let question_type = question.question_type();
        scores.all.count(right);
        match question_type {
            QuestionType::YesNo => scores.yes_no.count(right),
            QuestionType::Shape | QuestionType::Color => scores.open.count(right),
        }
        scores.types.entry(question_type).or_default().count(right);
    }
    Ok(scores)
}

/// The question-only floor: every test question answered by the most frequent training answer to it, the picture ignored.
///
/// On the published split: 67.0 % of all, 82.5 % of the yes/no and 23.3 % of the open questions.
pub fn question_only_floor(train: &[EasyVqaQuestion], test: &[EasyVqaQuestion]) -> EasyVqaScores {
    let floor = QuestionOnly::fit(train.iter().map(|q| (q.question.as_str(), q.answer.as_str())));
    let predictions: Vec<&str> = test.iter().map(|question| floor.answer(&question.question)).collect();
    // As many predictions as questions, so there is no error.
    score(test, &predictions).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_family = "wasm"))]
    use std::collections::BTreeSet;

    use super::*;

    const TRAIN: &str = r#"[
        ["what is the blue shape?", "rectangle", 0],
        ["is there a circle?", "no", 0],
        ["is there a circle?", "no", 1],
        ["is there a circle?", "yes", 2],
        ["what color is the shape?", "blue", 0],
        ["what color is the shape?", "red", 1]
    ]"#;
    const TEST: &str = r#"[
        ["is there a circle?", "no", 7],
        ["is there a circle?", "yes", 8],
        ["what color is the shape?", "blue", 7],
        ["what color is the shape?", "teal", 8],
        ["what is the blue shape?", "circle", 9]
    ]"#;

    #[test]
    fn questions_are_read_in_order() {
        let questions = parse_questions(TRAIN).unwrap();
        assert_eq!(questions.len(), 6);
        assert_eq!(
            questions[0],
            EasyVqaQuestion { question: "what is the blue shape?".into(), answer: "rectangle".into(), image: 0 }
        );
    }

    #[test]
    fn the_floor_on_a_small_set_is_what_counting_by_hand_gives() {
        let floor = question_only_floor(&parse_questions(TRAIN).unwrap(), &parse_questions(TEST).unwrap());
        // "no", "no", "blue", "blue" (seen before red), "rectangle".
        assert_eq!(floor.all, Accuracy { questions: 5, right: 2 });
        assert_eq!(floor.yes_no, Accuracy { questions: 2, right: 1 });
        assert_eq!(floor.open, Accuracy { questions: 3, right: 1 });
        assert_eq!(floor.types[&QuestionType::Shape], Accuracy { questions: 1, right: 0 });
        assert_eq!(floor.types[&QuestionType::Color].percent(), 50.0);
    }

    #[test]
    fn a_model_is_above_the_floor_only_where_it_beats_it_over_all_and_on_open_questions() {
        let test = parse_questions(TEST).unwrap();
        let floor = question_only_floor(&parse_questions(TRAIN).unwrap(), &test);
        assert!(score(&test, &["no", "yes", "blue", "Teal.", "circle"]).unwrap().is_above(&floor));
        assert!(!score(&test, &["no", "yes", "blue", "red", "square"]).unwrap().is_above(&floor));
        assert!(!floor.is_above(&floor));
    }

    #[test]
    fn bad_files_are_refused_with_place_and_remedy() {
        let error = parse_questions(r#"[["is there?", "no"]]"#).unwrap_err().to_string();
        assert!(error.starts_with("questions.json is not a list") && error.contains("line 1"), "{error}");
        assert!(error.ends_with("fetch it again with scripts/easy-vqa"), "{error}");
        assert!(parse_questions("[]").unwrap_err().to_string().contains("questions.json is empty"));
        let error = score::<&str>(&parse_questions(TRAIN).unwrap(), &[]).unwrap_err();
        assert!(error.to_string().starts_with("0 predictions for 6 questions"), "{error}");
    }

    /// `scripts/easy-vqa` fetches the data.
    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn the_published_data_has_its_published_counts_and_known_floors() {
        let Some(folder) = hydra_tests::named_by("HYDRA_EASY_VQA", "folder of easy-VQA") else { return };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let train = parse_questions(&read("train/questions.json")).unwrap();
        let test = parse_questions(&read("test/questions.json")).unwrap();
        assert_eq!((train.len(), test.len()), (38_575, 9_673));
        let listed = read("answers.txt");
        let listed: BTreeSet<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let given: BTreeSet<&str> = train.iter().chain(&test).map(|question| question.answer.as_str()).collect();
        assert!(listed.len() == 13 && given.is_subset(&listed), "{given:?}");
        let images = |questions: &[EasyVqaQuestion]| questions.iter().map(|q| q.image).collect::<BTreeSet<_>>().len();
        assert_eq!((images(&train), images(&test)), (4000, 1000));
        let floor = question_only_floor(&train, &test);
        assert_eq!(floor.all, Accuracy { questions: 9673, right: 6481 });
        assert_eq!(floor.yes_no, Accuracy { questions: 7136, right: 5890 });
        assert_eq!(floor.open, Accuracy { questions: 2537, right: 591 });
        let rounded = [floor.all, floor.yes_no, floor.open].map(|accuracy| format!("{:.1}", accuracy.percent()));
        assert_eq!(rounded, ["67.0", "82.5", "23.3"]);
    }
}
