//! RefCOCO, RefCOCO+ and RefCOCOg (Yu et al. 2016, Mao et al. 2016): a box is right where its intersection over union with
//! the target is at least 0.5.

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::bounding_box::BoundingBox;
use super::error::BenchmarkError;
use super::numbers::percent;
use super::predictions::Predictions;
use super::question::{BenchmarkPicture, BenchmarkQuestion};
use super::records::{Id, json_lines};

/// RefCOCO as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "refcoco",
    same: &["refcoco+", "refcocog"],
    about: "IoU of at least 0.5; JSON lines with question_id, bbox [x, y, w, h], width, height",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        llava_repeats_ids: false,
    }),
};

/// Intersection over union from which on a box is right (accuracy@0.5).
const IOU_THRESHOLD: f32 = 0.5;

/// Scores on referring expressions.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RefcocoScores {
    /// Boxes with an IoU of at least 0.5, in percent.
    pub accuracy: f64,
    /// Number of expressions.
    pub samples: usize,
    /// Answers that hold no box; they count as wrong.
    pub unreadable: usize,
}

/// Whether a box is right.
pub fn is_right(predicted: &BoundingBox, target: &BoundingBox) -> bool {
    predicted.iou(target) >= IOU_THRESHOLD
}

/// The scores of answers, each the box that it holds, if it holds one, and the right box.
pub fn tally(answers: &[(Option<BoundingBox>, BoundingBox)]) -> RefcocoScores {
    let right =
        answers.iter().filter(|(predicted, target)| predicted.is_some_and(|predicted| is_right(&predicted, target)));
    RefcocoScores {
        accuracy: percent(right.count(), answers.len()),
        samples: answers.len(),
        unreadable: answers.iter().filter(|(predicted, _)| predicted.is_none()).count(),
    }
}

#[derive(Deserialize)]
struct Expression {
    question_id: Id,
    /// Left, top, width, height in pixels, as in COCO.
    bbox: [f32; 4],
    /// Of the picture, in pixels.
    width: f32,
    height: f32,
}

#[derive(Deserialize)]
struct Asked {
    question_id: Id,
    image: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    expression: Option<String>,
}

/// How LLaVA-1.5's training data, which MobileVLM shares, asks for a box.
const REQUEST: &str = "Please provide the bounding box coordinate of the region this sentence describes: ";

/// Expressions as JSON lines: `{"question_id": …, "image": …, "expression": "the left cup", "bbox": …}`. Where there is
/// `text`, it is the whole prompt.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let asked = json_lines::<Asked>("questions", text)?.into_iter().map(|(place, asked)| {
        let prompt = match (asked.text, asked.expression) {
            (Some(text), _) => text,
            (None, Some(expression)) => format!("{REQUEST}{expression}"),
            (None, None) => return Err(BenchmarkError::questions(place, "neither text nor expression")),
        };
        let (id, picture) = (asked.question_id.0, BenchmarkPicture::File(asked.image));
        Ok(BenchmarkQuestion { id, picture, prompt, category: None })
    });
    asked.collect()
}

/// Expressions as JSON lines: `{"question_id": …, "bbox": [x, y, w, h], "width": …, "height": …}`. An answer holds four
/// numbers, left, top, right and bottom: shares of the sides of the picture, which was padded to a square as MobileVLM pads
/// it.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<RefcocoScores, BenchmarkError> {
    let mut asked = Vec::new();
    for (place, expression) in json_lines::<Expression>("questions", questions)? {
        if !(expression.width > 0.0 && expression.height > 0.0 && expression.bbox[2] > 0.0 && expression.bbox[3] > 0.0)
        {
            return Err(BenchmarkError::questions(place, "width and height of picture and box must be above 0"));
        }
        asked.push(expression);
    }
    let ids: Vec<String> = asked.iter().map(|expression| expression.question_id.0.clone()).collect();
    let boxes = asked.iter().zip(predictions.of(&ids)?).map(|(expression, answer)| {
        (four_numbers(answer).map(|numbers| in_pixels(numbers, expression)), target(expression))
    });
    Ok(tally(&boxes.collect::<Vec<_>>()))
}

fn target(expression: &Expression) -> BoundingBox {
    let [x, y, width, height] = expression.bbox;
    BoundingBox { x1: x, y1: y, x2: x + width, y2: y + height }
}

/// The picture stands in the middle of its square.
fn in_pixels([x1, y1, x2, y2]: [f32; 4], expression: &Expression) -> BoundingBox {
    let side = expression.width.max(expression.height);
    let (left, top) = ((side - expression.width) / 2.0, (side - expression.height) / 2.0);
    BoundingBox { x1: x1 * side - left, y1: y1 * side - top, x2: x2 * side - left, y2: y2 * side - top }
}

/// The first four numbers of a text, if they are a box with an area.
fn four_numbers(text: &str) -> Option<[f32; 4]> {
    let mut numbers = text
        .split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'))
        .filter_map(|part| part.trim_end_matches('.').parse::<f32>().ok())
        .filter(|number| number.is_finite());
    let found = [numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?];
    (found[0] < found[2] && found[1] < found[3]).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(answer: &str) -> RefcocoScores {
        // A wide picture: 100 × 50, so that the square has bars of 25 above and below.
        let questions = r#"{"question_id": 1, "bbox": [20, 10, 40, 20], "width": 100, "height": 50}"#;
        let predictions = serde_json::json!([{"question_id": 1, "text": answer}]).to_string();
        score(questions, &Predictions::from_text(&predictions).unwrap()).unwrap()
    }

    #[test]
    fn a_box_is_right_from_an_iou_of_one_half_and_lies_in_the_padded_square() {
        assert_eq!(scores("[0.20, 0.35, 0.60, 0.55]").accuracy, 100.0);
        // Half as wide: an IoU of exactly 0.5.
        assert_eq!(scores("[0.20, 0.35, 0.40, 0.55]").accuracy, 100.0);
        assert_eq!(scores("[0.20, 0.35, 0.39, 0.55]").accuracy, 0.0);
        // In the picture's own coordinates it would be right.
        assert_eq!(scores("[0.20, 0.10, 0.60, 0.30]").accuracy, 0.0);
    }

    #[test]
    fn texts_without_a_box_count_as_wrong() {
        for text in ["there", "[0.2, 0.3, 0.4]", "[0.6, 0.3, 0.2, 0.5]"] {
            let scores = scores(text);
            assert_eq!((scores.accuracy, scores.unreadable), (0.0, 1), "{text}");
        }
    }
}
