//! Referring expressions, scored by RefCOCO's rule: a predicted box is right where its IoU with the target is at least 0.5.

use serde::{Deserialize, Serialize};

use super::{Answered, ScoringError};
use crate::benchmarks::BoundingBox;
use crate::benchmarks::numbers::mean;
use crate::benchmarks::refcoco::{self, RefcocoScores};

/// Scores of referring expressions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReferringScores {
    /// Headline: boxes with an IoU of at least 0.5, in percent.
    pub accuracy: f64,
    /// Number of expressions.
    pub samples: usize,
    /// Mean IoU in percent; a text that is no box counts as 0.
    pub mean_iou: f64,
    /// Texts that are no box; they count as wrong.
    pub unparseable: usize,
}

/// Scores referring expressions on pictures of `width` × `height` pixels.
///
/// # Errors
/// A sample without a target box.
pub(super) fn score(answered: &[Answered<'_>], width: u32, height: u32) -> Result<ReferringScores, ScoringError> {
    let mut boxes = Vec::with_capacity(answered.len());
    for (index, Answered { sample, prediction }) in answered.iter().enumerate() {
        let target =
            sample.target_box.ok_or(ScoringError::Sample { index, kind: sample.kind, lacks: "a target box" })?;
        boxes.push((BoundingBox::from_location_tokens(prediction, width, height), target));
    }
    let iou = |(predicted, target): &(Option<BoundingBox>, BoundingBox)| predicted.map_or(0.0, |own| own.iou(target));
    let RefcocoScores { accuracy, samples, unreadable, .. } = refcoco::tally(&boxes);
    let mean_iou = 100.0 * mean(boxes.iter().map(|pair| f64::from(iou(pair))));
    Ok(ReferringScores { accuracy, samples, mean_iou, unparseable: unreadable })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Kind, Sample};
    use super::*;

    fn score_texts(rows: &[(BoundingBox, &str)]) -> ReferringScores {
        let samples: Vec<Sample> = rows
            .iter()
            .map(|(target, _)| Sample {
                picture: 0,
                kind: Kind::Referring,
                group: None,
                pair: None,
                question: String::new(),
                answer: String::new(),
                target_box: Some(*target),
            })
            .collect();
        let answered: Vec<_> =
            samples.iter().zip(rows).map(|(sample, (_, prediction))| Answered { sample, prediction }).collect();
        score(&answered, 64, 64).unwrap()
    }

    #[test]
    fn a_worked_example_counts_half_an_overlap_as_right_and_no_box_as_wrong() {
        let target = BoundingBox { x1: 0.0, y1: 0.0, x2: 16.0, y2: 16.0 };
        let scores = score_texts(&[
            (target, "<loc00><loc00><loc07><loc07>"),
            // The left half: IoU exactly 0.5.
            (target, "<loc00><loc00><loc03><loc07>"),
            // A quarter.
            (target, "<loc00><loc00><loc03><loc03>"),
            (target, "yes"),
        ]);
        assert_eq!(scores.accuracy, 50.0);
        assert_eq!(scores.mean_iou, 43.75);
        assert_eq!(scores.unparseable, 1);
    }
}
