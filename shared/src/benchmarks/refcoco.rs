//! RefCOCO, RefCOCO+ and RefCOCOg (Yu et al. 2016, Mao et al. 2016): a box is right where its intersection over union with
//! the target is at least 0.5.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::bounding_box::BoundingBox;
use super::error::BenchmarkError;
use super::numbers::percent;
use super::predictions::{Predictions, Wanted};
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
        left_out: |_, _| None,
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
    /// Those of them whose box is written in another way, how many by the way's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other_notations: BTreeMap<&'static str, usize>,
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
        other_notations: BTreeMap::new(),
    }
}

#[derive(Deserialize)]
struct Expression {
    question_id: Id,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    expression: Option<String>,
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
/// it. Boxes in pixels, in thousandths or in another model's words cannot be told from each other: they are named and not read.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<RefcocoScores, BenchmarkError> {
    let mut asked = Vec::new();
    for (place, expression) in json_lines::<Expression>("questions", questions)? {
        if !(expression.width > 0.0 && expression.height > 0.0 && expression.bbox[2] > 0.0 && expression.bbox[3] > 0.0)
        {
            return Err(BenchmarkError::questions(place, "width and height of picture and box must be above 0"));
        }
        let [x, y, width, height] = expression.bbox;
        // Boxes are rounded, and some reach a little beyond.
        let reaches = |to: f32, side: f32| to > 1.05 * side + 1.0;
        if reaches(x + width, expression.width) || reaches(y + height, expression.height) {
            let problem = format!(
                "the box {:?} reaches beyond the picture of {} × {}: [left, top, width, height] belongs there, not [left, top, \
                 right, bottom]",
                expression.bbox, expression.width, expression.height
            );
            return Err(BenchmarkError::questions(place, problem));
        }
        asked.push(expression);
    }
    let wanted = |expression: &Expression| Wanted {
        id: expression.question_id.0.clone(),
        question: expression.expression.clone().or_else(|| expression.text.clone()),
    };
    let answers = predictions.of(&asked.iter().map(wanted).collect::<Vec<_>>())?;
    let mut boxes = Vec::with_capacity(asked.len());
    let mut other_notations = BTreeMap::new();
    for (expression, answer) in asked.iter().zip(&answers) {
        let predicted = match read_box(answer) {
            Said::Shares(numbers) => Some(in_pixels(numbers, expression)),
            Said::Other(notation) => {
                *other_notations.entry(notation).or_default() += 1;
                None
            }
            Said::Nothing => None,
        };
        boxes.push((predicted, target(expression)));
    }
    if boxes.iter().all(|(predicted, _)| predicted.is_none())
        && let Some((notation, _)) = other_notations.first_key_value()
    {
        let first =
            answers.iter().find(|answer| matches!(read_box(answer), Said::Other(_))).copied().unwrap_or_default();
        let problem = format!(
            "no box is in the notation of this benchmark, they are {notation} (the first is {first:?}); write each as [left, \
             top, right, bottom] in shares from 0 to 1 of the sides of the picture, which is padded to a square with its \
             middle in the square's"
        );
        return Err(BenchmarkError::predictions("the whole file", problem));
    }
    Ok(RefcocoScores { other_notations, ..tally(&boxes) })
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

/// What an answer says of a box.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    /// Left, top, right and bottom in shares of the square's sides.
    Shares([f32; 4]),
    /// A box in another notation: its name.
    Other(&'static str),
    /// No box: not four numbers, or without an area.
    Nothing,
}

/// The box of an answer: the first four numbers in brackets, or the four numbers that it holds.
fn read_box(text: &str) -> Said {
    let Some(numbers) = four_numbers(text) else {
        return if ["<loc", "<bin_", "<patch_index_"].iter().any(|token| text.contains(token)) {
            Said::Other("location tokens")
        } else {
            Said::Nothing
        };
    };
    if text.contains("box_2d") && !text.contains("bbox_2d") {
        return Said::Other("box_2d, whose first number is the top");
    }
    let outside = numbers.iter().any(|number| !(0.0..=1.0).contains(number));
    match outside {
        true if text.contains("bbox_2d") => Said::Other("bbox_2d"),
        true if text.contains("<box") || text.contains("<|box") => Said::Other("<box>, from 0 to 1000"),
        true if numbers.iter().all(|number| (-0.5..=1.5).contains(number)) => Said::Other("shares below 0 or above 1"),
        true => Said::Other("in pixels or from 0 to 1000"),
        false if numbers[0] < numbers[2] && numbers[1] < numbers[3] => Said::Shares(numbers),
        false => Said::Nothing,
    }
}

/// The numbers of the first bracket that holds four, of two brackets that hold two each, or the only four of the text.
fn four_numbers(text: &str) -> Option<[f32; 4]> {
    let mut pairs = Vec::new();
    for part in text.split(['[', '(', '{', '<', '>']).skip(1) {
        let Some(end) = part.find([']', ')', '}']) else { continue };
        let numbers = numbers(part.get(..end).unwrap_or_default());
        if let Ok(four) = <[f32; 4]>::try_from(numbers.as_slice()) {
            return Some(four);
        }
        if numbers.len() == 2 && pairs.len() < 4 {
            pairs.extend(numbers);
        }
    }
    let found = if pairs.len() == 4 { pairs } else { numbers(text) };
    <[f32; 4]>::try_from(found.as_slice()).ok()
}

/// The numbers of a text that stand by themselves; those in a word, such as `x1`, are none.
fn numbers(text: &str) -> Vec<f32> {
    let in_word = |c: char| c.is_alphanumeric() || "._-+".contains(c);
    let words = text.split(|c: char| !in_word(c)).map(|word| word.trim_end_matches(['.', '-']));
    words.filter_map(|word| word.parse::<f32>().ok().filter(|number| number.is_finite())).collect()
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
    fn a_box_is_read_in_brackets_in_pairs_and_in_prose() {
        let right = Said::Shares([0.2, 0.35, 0.6, 0.55]);
        for text in [
            "[0.20, 0.35, 0.60, 0.55]",
            "0.2 0.35 0.6 0.55",
            "(0.2, 0.35), (0.6, 0.55)",
            "<box>(0.2,0.35),(0.6,0.55)</box>",
            "{\"bbox_2d\": [0.2, 0.35, 0.6, 0.55], \"label\": \"dog 2\"}",
            "Of the 2 dogs, the left one is at [0.2, 0.35, 0.6, 0.55].",
            "Its corners are x1=0.2, y1=0.35, x2=0.6 and y2=0.55.",
            "[2e-1, .35, 0.6, 0.55] [0, 0, 1, 1]",
        ] {
            assert_eq!(read_box(text), right, "{text}");
        }
    }

    #[test]
    fn boxes_in_another_notation_are_named_and_never_scored() {
        for (text, notation) in [
            ("[20, 10, 60, 30]", "in pixels or from 0 to 1000"),
            ("<box>(200,350),(600,550)</box>", "<box>, from 0 to 1000"),
            ("<|box_start|>(200,350),(600,550)<|box_end|>", "<box>, from 0 to 1000"),
            ("```json\n[{\"bbox_2d\": [20, 10, 60, 30], \"label\": \"dog\"}]\n```", "bbox_2d"),
            ("The dog is at x=200, y=350 up to x=600, y=550.", "in pixels or from 0 to 1000"),
            ("<loc0350><loc0200><loc0550><loc0600>", "location tokens"),
            ("<patch_index_0044><patch_index_0863>", "location tokens"),
            ("{\"box_2d\": [0.35, 0.2, 0.55, 0.6]}", "box_2d, whose first number is the top"),
            ("[-0.2, 0.1, 0.5, 0.5]", "shares below 0 or above 1"),
            ("[0.2, 0.35, 1.02, 0.55]", "shares below 0 or above 1"),
            ("[0.2, 0.35, 40, 0.55]", "in pixels or from 0 to 1000"),
        ] {
            assert_eq!(read_box(text), Said::Other(notation), "{text}");
        }
        let line = |id: u32| {
            format!("{{\"question_id\": {id}, \"bbox\": [20, 10, 40, 20], \"width\": 100, \"height\": 50}}\n")
        };
        let answers = |texts: [&str; 2]| {
            let lines = texts.iter().zip(1..).map(|(text, id)| serde_json::json!({"question_id": id, "text": text}));
            let lines: String = lines.map(|line| format!("{line}\n")).collect();
            score(&[line(1), line(2)].concat(), &Predictions::from_text(&lines).unwrap())
        };
        let mixed = answers(["[0.20, 0.35, 0.60, 0.55]", "[20, 10, 60, 30]"]).unwrap();
        assert_eq!((mixed.accuracy, mixed.unreadable), (50.0, 1));
        assert_eq!(mixed.other_notations["in pixels or from 0 to 1000"], 1);
        let error = answers(["[20, 10, 60, 30]", "nothing"]).unwrap_err().to_string();
        assert!(error.contains("no box is in the notation of this benchmark, they are in pixels"), "{error}");
    }

    #[test]
    fn a_question_whose_box_is_given_by_its_corners_is_refused_where_that_shows() {
        let predictions = Predictions::from_text("[{\"question_id\": 1, \"text\": \"[0, 0, 1, 1]\"}]").unwrap();
        let of = |bbox: &str| {
            score(&format!("{{\"question_id\": 1, \"bbox\": {bbox}, \"width\": 100, \"height\": 50}}"), &predictions)
        };
        let refused = of("[50, 10, 100, 30]").unwrap_err().to_string();
        assert!(
            refused.contains("line 1") && refused.contains("[left, top, width, height] belongs there"),
            "{refused}"
        );
        assert!(of("[50, 10, 50.4, 40.3]").is_ok(), "rounded");
    }

    #[test]
    fn texts_without_a_box_count_as_wrong() {
        for text in ["there", "[0.2, 0.3, 0.4]", "[0.6, 0.3, 0.2, 0.5]"] {
            let scores = scores(text);
            assert_eq!((scores.accuracy, scores.unreadable), (0.0, 1), "{text}");
        }
    }
}
