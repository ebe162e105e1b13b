//! Scores of predicted texts, each kind of question by the rule of the benchmark that it imitates.
//!
//! Every number is in percent, 0 to 100, unless its field says otherwise. Each kind has one *headline*, the number that
//! its benchmark is usually reported by; [`TaskScores::mean`] is their mean.
//!
//! | kind | headline | always "yes" gets |
//! | --- | --- | --- |
//! | existence | F1, averaged over the settings, as LLaVA and MobileVLM report POPE | 66.7 |
//! | perception | (accuracy + accuracy+) / 2, averaged over the topics: MME's sum on a scale of 100 | 25 |
//! | open | exact match | 0 |
//! | referring, referring-plus | boxes with IoU ≥ 0.5 | 0 |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::questions::{Kind, Sample};
use crate::benchmarks::numbers::mean;

mod existence;
mod open;
mod perception;
mod question_only;
mod referring;

pub use existence::ExistenceScores;
pub use open::OpenScores;
pub use perception::{PerceptionScores, TopicScores};
pub use question_only::QuestionOnly;
pub use referring::ReferringScores;

/// A sample and what was predicted for it.
#[derive(Debug, Clone, Copy)]
struct Answered<'a> {
    /// The question.
    sample: &'a Sample,
    /// The predicted text, as decoded.
    prediction: &'a str,
}

/// Why predictions cannot be scored.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoringError {
    /// Not one prediction per sample.
    #[error("{predictions} predictions for {samples} samples: give one prediction per sample, in the same order")]
    Count {
        /// Number of samples.
        samples: usize,
        /// Number of predictions.
        predictions: usize,
    },
    /// A perception pair that is not two samples of one topic.
    #[error("perception pair {pair} has {samples} samples: score both questions of a pair together")]
    Pair {
        /// The pair's number.
        pair: usize,
        /// How many of its samples were given.
        samples: usize,
    },
    /// A sample lacks what its kind is scored by.
    #[error("{} sample {index} lacks {lacks}", kind.name())]
    Sample {
        /// Index of the sample among those that were given for its kind.
        index: usize,
        /// Its kind.
        kind: Kind,
        /// What is missing.
        lacks: &'static str,
    },
}

/// Scores of all kinds that occur among the samples.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TaskScores {
    /// The headline of each kind that occurs, 0 to 100.
    pub headlines: BTreeMap<Kind, f64>,
    /// Mean of the headlines; 0 where there are none.
    pub mean: f64,
    /// Details of existence questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existence: Option<ExistenceScores>,
    /// Details of perception questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perception: Option<PerceptionScores>,
    /// Details of open questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenScores>,
    /// Details of referring expressions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referring: Option<ReferringScores>,
    /// Details of referring expressions without location words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referring_plus: Option<ReferringScores>,
}

/// Scores predicted texts, one per sample in the same order, on pictures of `width` × `height` pixels.
///
/// Captions are not scored.
///
/// # Errors
/// Numbers of samples and predictions that differ, half a perception pair, or a sample without what it is scored by.
pub fn score<T: AsRef<str>>(
    samples: &[Sample],
    predictions: &[T],
    width: u32,
    height: u32,
) -> Result<TaskScores, ScoringError> {
    if samples.len() != predictions.len() {
        return Err(ScoringError::Count { samples: samples.len(), predictions: predictions.len() });
    }
    let of = |kind: Kind| -> Option<Vec<Answered<'_>>> {
        let answered: Vec<_> = samples
            .iter()
            .zip(predictions)
            .filter(|(sample, _)| sample.kind == kind)
            .map(|(sample, prediction)| Answered { sample, prediction: prediction.as_ref() })
            .collect();
        (!answered.is_empty()).then_some(answered)
    };
    let mut scores = TaskScores {
        existence: of(Kind::Existence).map(|answered| existence::score(&answered)).transpose()?,
        perception: of(Kind::Perception).map(|answered| perception::score(&answered)).transpose()?,
        open: of(Kind::Open).map(|answered| open::score(&answered)),
        referring: of(Kind::Referring).map(|answered| referring::score(&answered, width, height)).transpose()?,
        referring_plus: of(Kind::ReferringPlus)
            .map(|answered| referring::score(&answered, width, height))
            .transpose()?,
        ..TaskScores::default()
    };
    let headlines = [
        (Kind::Existence, scores.existence.as_ref().map(|s| s.f1)),
        (Kind::Perception, scores.perception.as_ref().map(PerceptionScores::headline)),
        (Kind::Open, scores.open.as_ref().map(|s| s.accuracy)),
        (Kind::Referring, scores.referring.as_ref().map(|s| s.accuracy)),
        (Kind::ReferringPlus, scores.referring_plus.as_ref().map(|s| s.accuracy)),
    ];
    scores.headlines = headlines.into_iter().filter_map(|(kind, score)| score.map(|score| (kind, score))).collect();
    scores.mean = mean(scores.headlines.values().copied());
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::super::{Split, TaskConfig, generate};
    use super::*;

    fn score_all(predict: impl Fn(&Sample) -> String) -> TaskScores {
        let set = generate(&TaskConfig::default(), Split::Validation, 5, 48).unwrap();
        let predictions: Vec<String> = set.samples.iter().map(predict).collect();
        score(&set.samples, &predictions, 64, 64).unwrap()
    }

    #[test]
    fn the_right_answers_score_a_hundred_on_every_kind() {
        let scores = score_all(|sample| sample.answer.clone());
        assert_eq!(scores.headlines, Kind::SCORED.map(|kind| (kind, 100.0)).into_iter().collect());
        assert_eq!(scores.mean, 100.0);
        assert_eq!(scores.perception.unwrap().score, 800.0);
    }

    #[test]
    fn always_yes_scores_what_the_table_in_the_documentation_says() {
        let scores = score_all(|_| "yes".to_owned());
        let headlines: Vec<f64> = scores.headlines.values().copied().collect();
        assert!((headlines[0] - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!(headlines[1..], [25.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn kinds_that_do_not_occur_have_no_score_and_do_not_count_in_the_mean() {
        let set = generate(&TaskConfig::default(), Split::Validation, 5, 12).unwrap();
        let open: Vec<Sample> = set.samples.into_iter().filter(|sample| sample.kind == Kind::Open).collect();
        let predictions: Vec<&str> = open.iter().map(|sample| sample.answer.as_str()).collect();
        let scores = score(&open, &predictions, 64, 64).unwrap();
        assert_eq!(scores.mean, 100.0);
        assert_eq!(scores.headlines.len(), 1);
        assert_eq!(score::<&str>(&[], &[], 64, 64).unwrap(), TaskScores::default());
    }

    #[test]
    fn a_missing_prediction_is_an_error_with_both_counts() {
        let set = generate(&TaskConfig::default(), Split::Validation, 5, 1).unwrap();
        let error = score(&set.samples, &["yes"], 64, 64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "1 predictions for 10 samples: give one prediction per sample, in the same order"
        );
    }

    #[test]
    fn scores_round_trip_through_json_and_list_the_kinds_in_order() {
        let scores = score_all(|sample| if sample.picture % 2 == 0 { sample.answer.clone() } else { "no".into() });
        let json = serde_json::to_string(&scores).unwrap();
        assert!(json.starts_with("{\"headlines\":{\"existence\":"), "{json}");
        assert_eq!(serde_json::from_str::<TaskScores>(&json).unwrap(), scores);
    }
}
