//! Answers about the sample pictures: whether they are right, and boxes as they lie in the picture.

use hydra_shared::benchmarks::{BoundingBox, gqa, refcoco};
use hydra_shared::tasks::Kind;

use super::loss::paint;
use crate::drawing::{Drawing, Mark, Paint};
use crate::messages::training::{Answers, Arm, Ready, SampleQuestion};
use crate::table::Table;

/// An answer, held against what was expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What a person reads: the text, or the box in words.
    pub text: String,
    /// The box, where the answer is one.
    pub place: Option<BoundingBox>,
    /// Whether it is right: words by GQA's rule, a box by RefCOCO's.
    pub right: bool,
}

/// Judges an answer about a picture of `side` pixels.
pub fn judge(question: &SampleQuestion, answer: &str, side: u32) -> Judged {
    if !matches!(question.kind, Kind::Referring | Kind::ReferringPlus) {
        let text = if answer.trim().is_empty() { "(nothing)".to_owned() } else { answer.to_owned() };
        return Judged { text, place: None, right: gqa::is_right(answer, &question.answer) };
    }
    let place = BoundingBox::from_location_tokens(answer, side, side);
    let pair = place.zip(question.target);
    let text = match (place, pair) {
        (_, Some((place, target))) => {
            let BoundingBox { x1, y1, x2, y2 } = place;
            format!("box {x1:.0}, {y1:.0} to {x2:.0}, {y2:.0}; IoU {:.2}", place.iou(&target))
        }
        (Some(_), None) => "a box".to_owned(),
        (None, _) if answer.trim().is_empty() => "(nothing)".to_owned(),
        (None, _) => format!("no box: {answer}"),
    };
    Judged { text, place, right: pair.is_some_and(|(place, target)| refcoco::is_right(&place, &target)) }
}

/// What lies over the picture of a question that asks for a box: the right box dashed, those of the arms in their colours.
/// None for other questions.
pub fn overlay(ready: &Ready, question: usize, answers: Option<&Answers>) -> Option<Drawing> {
    let asked = ready.questions.get(question)?;
    let target = asked.target?;
    let side = f64::from(ready.side);
    let mut marks = Vec::new();
    for (from, to) in edges(target) {
        // A dark line under a light one is seen upon every picture.
        marks.push(Mark { stroke_width: 1.4, ..Mark::line(from.0, from.1, to.0, to.1, Paint::Page) });
        marks.push(Mark { stroke_width: 0.8, ..Mark::dashed(from.0, from.1, to.0, to.1, Paint::Text) });
    }
    let mut told = Vec::new();
    for arm in Arm::BOTH {
        let answer = match answers {
            Some(answers) => answers.texts[arm.index()].get(question)?,
            // Before the first step the arms are the untouched model.
            None => ready.before.get(question)?,
        };
        let judged = judge(asked, answer, ready.side);
        told.push(format!("{}: {}", if answers.is_some() { arm.name() } else { "untouched" }, judged.text));
        if let Some(BoundingBox { x1, y1, x2, y2 }) = judged.place {
            // Half a unit apart, so that equal boxes are both seen.
            let shift = 0.5 * arm.index() as f64;
            let (x, y) = (f64::from(x1) + shift, f64::from(y1) + shift);
            let rect = Mark::rect(x, y, f64::from(x2 - x1), f64::from(y2 - y1), Paint::None);
            let paint = if answers.is_some() { paint(arm) } else { Paint::Soft };
            marks.push(rect.clone().outlined(Paint::Page, 1.8));
            marks.push(rect.outlined(paint, 1.0));
        }
        if answers.is_none() {
            break;
        }
    }
    let title = asked.text.clone();
    Some(Drawing { width: side, height: side, title, summary: format!("{}.", told.join("; ")), marks })
}

fn edges(place: BoundingBox) -> [((f64, f64), (f64, f64)); 4] {
    let [x1, y1, x2, y2] = [place.x1, place.y1, place.x2, place.y2].map(f64::from);
    [((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))]
}

/// Every question with all answers, to take away.
pub fn table(ready: &Ready, answers: Option<&Answers>) -> Table {
    let mut table =
        Table::new(["picture", "kind", "question", "expected", "untouched", "schedule", "uniform LoRA", "steps"]);
    for (index, question) in ready.questions.iter().enumerate() {
        let of = |arm: Arm| answers.and_then(|a| a.texts[arm.index()].get(index)).cloned().unwrap_or_default();
        table.push([
            question.picture.to_string(),
            question.kind.name().to_owned(),
            question.text.clone(),
            question.answer.clone(),
            ready.before.get(index).cloned().unwrap_or_default(),
            of(Arm::Schedule),
            of(Arm::Uniform),
            answers.map(|answers| answers.step.to_string()).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use hydra_shared::schedule::ScalePolicy;

    use super::*;
    use crate::messages::training::TrainingSetup;

    fn question(kind: Kind, answer: &str, target: Option<BoundingBox>) -> SampleQuestion {
        SampleQuestion { picture: 0, kind, text: "red circle".to_owned(), answer: answer.to_owned(), target }
    }

    fn ready() -> Ready {
        let target = BoundingBox { x1: 6.0, y1: 20.0, x2: 16.0, y2: 32.0 };
        Ready {
            setup: TrainingSetup::new(vec![4; 42], 4, ScalePolicy::default()),
            parameters: [1.0; 2],
            pictures: 1,
            conversations: 1,
            side: 64,
            samples: vec![vec![0; 3 * 64 * 64].into()],
            questions: vec![
                question(Kind::Referring, "<loc03><loc10><loc07><loc15>", Some(target)),
                question(Kind::Existence, "yes", None),
            ],
            before: vec!["circle".to_owned(), "no".to_owned()],
        }
    }

    #[test]
    fn a_box_is_right_from_an_iou_of_one_half_on() {
        let ready = ready();
        let exact = judge(&ready.questions[0], "<loc03><loc10><loc07><loc15>", 64);
        assert!(exact.right && exact.text.ends_with("IoU 1.00"), "{exact:?}");
        let far = judge(&ready.questions[0], "<loc20><loc20><loc22><loc22>", 64);
        assert!(!far.right && far.place.is_some());
        let none = judge(&ready.questions[0], "circle", 64);
        assert_eq!((none.right, none.text.as_str()), (false, "no box: circle"));
    }

    #[test]
    fn words_are_compared_without_case_and_full_stop() {
        let ready = ready();
        assert!(judge(&ready.questions[1], " Yes.", 64).right);
        assert!(!judge(&ready.questions[1], "", 64).right);
    }

    #[test]
    fn only_questions_for_a_box_have_something_over_their_picture() {
        let ready = ready();
        let answers = Answers {
            step: 9,
            texts: [
                vec!["<loc03><loc10><loc07><loc15>".to_owned(), "yes".to_owned()],
                vec!["<loc20><loc20><loc22><loc22>".to_owned(), "no".to_owned()],
            ],
        };
        let drawing = overlay(&ready, 0, Some(&answers)).unwrap();
        let outlined = drawing.marks.iter().filter(|m| [Paint::First, Paint::Second].contains(&m.stroke)).count();
        assert_eq!(outlined, 2);
        assert!(overlay(&ready, 0, None).unwrap().summary.contains("untouched: no box"));
        assert_eq!(overlay(&ready, 1, Some(&answers)), None);
        assert_eq!(table(&ready, Some(&answers)).rows[0][7], "9");
    }
}
