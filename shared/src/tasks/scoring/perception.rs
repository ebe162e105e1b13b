//! Pairs of perception questions, scored by MME's rule: accuracy + accuracy+ per topic (MME: subtask).
//!
//! Each topic is worth 200, and topics are summed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Kind, Topic};
use super::{Answered, ScoringError};
use crate::benchmarks::mme::{self, MmeTaskScores};

/// Scores of one topic (MME: subtask).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TopicScores {
    /// Number of pairs.
    pub pairs: usize,
    /// Right answers in percent of the questions.
    pub accuracy: f64,
    /// Pairs with both answers right in percent of the pairs.
    pub accuracy_plus: f64,
    /// Sum of the two: 0 to 200.
    pub score: f64,
    /// Answers that are neither yes nor no; they count as wrong.
    pub other: usize,
}

/// Scores of perception questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PerceptionScores {
    /// Sum over the topics: 0 to 200 times their number.
    pub score: f64,
    /// Each topic alone.
    pub topics: BTreeMap<Topic, TopicScores>,
}

impl From<MmeTaskScores> for TopicScores {
    fn from(scores: MmeTaskScores) -> Self {
        let MmeTaskScores { pictures: pairs, accuracy, accuracy_plus, score, other } = scores;
        Self { pairs, accuracy, accuracy_plus, score, other }
    }
}

impl PerceptionScores {
    /// Headline: the sum on a scale of 0 to 100.
    pub fn headline(&self) -> f64 {
        if self.topics.is_empty() { 0.0 } else { self.score / (2.0 * self.topics.len() as f64) }
    }
}

/// Scores perception questions.
///
/// # Errors
/// A sample without a topic or pair, or a pair that does not have two samples.
pub(super) fn score(answered: &[Answered<'_>]) -> Result<PerceptionScores, ScoringError> {
    let mut pairs: BTreeMap<(Topic, usize), Vec<Option<bool>>> = BTreeMap::new();
    for (index, Answered { sample, prediction }) in answered.iter().enumerate() {
        let (Some(Group::Topic(topic)), Some(pair)) = (sample.group, sample.pair) else {
            return Err(ScoringError::Sample { index, kind: Kind::Perception, lacks: "a topic and a pair" });
        };
        pairs.entry((topic, pair)).or_default().push(mme::is_right(prediction, sample.answer == "yes"));
    }
    let mut topics: BTreeMap<Topic, Vec<[Option<bool>; 2]>> = BTreeMap::new();
    for ((topic, pair), answers) in pairs {
        let Ok(both) = <[Option<bool>; 2]>::try_from(answers.as_slice()) else {
            return Err(ScoringError::Pair { pair, samples: answers.len() });
        };
        topics.entry(topic).or_default().push(both);
    }
    let topics: BTreeMap<Topic, TopicScores> =
        topics.into_iter().map(|(topic, pairs)| (topic, mme::tally(&pairs).into())).collect();
    Ok(PerceptionScores { score: topics.values().map(|scores| scores.score).sum(), topics })
}

#[cfg(test)]
mod tests {
    use super::super::super::Sample;
    use super::*;

    fn sample(topic: Topic, pair: usize, answer: &str) -> Sample {
        Sample {
            picture: 0,
            kind: Kind::Perception,
            group: Some(Group::Topic(topic)),
            pair: Some(pair),
            question: String::new(),
            answer: answer.into(),
            target_box: None,
        }
    }

    fn score_texts(rows: &[(Topic, usize, &str, &str)]) -> Result<PerceptionScores, ScoringError> {
        let samples: Vec<_> = rows.iter().map(|(topic, pair, answer, _)| sample(*topic, *pair, answer)).collect();
        let answered: Vec<_> =
            samples.iter().zip(rows).map(|(sample, (_, _, _, prediction))| Answered { sample, prediction }).collect();
        score(&answered)
    }

    #[test]
    fn a_worked_example_gives_the_known_scores() {
        let scores = score_texts(&[
            (Topic::Count, 0, "yes", "yes"),
            (Topic::Count, 0, "no", "no"),
            (Topic::Count, 1, "yes", "yes"),
            (Topic::Count, 1, "no", "yes"),
            (Topic::Color, 2, "no", "no"),
            (Topic::Color, 2, "yes", "blue"),
        ])
        .unwrap();
        let count = scores.topics[&Topic::Count];
        assert_eq!((count.pairs, count.accuracy, count.accuracy_plus, count.score), (2, 75.0, 50.0, 125.0));
        let color = scores.topics[&Topic::Color];
        assert_eq!((color.accuracy, color.accuracy_plus, color.score, color.other), (50.0, 0.0, 50.0, 1));
        assert_eq!(scores.score, 175.0);
        assert_eq!(scores.headline(), 43.75);
    }

    #[test]
    fn half_a_pair_is_an_error() {
        let error = score_texts(&[(Topic::Size, 7, "yes", "yes")]).unwrap_err();
        assert_eq!(error, ScoringError::Pair { pair: 7, samples: 1 });
    }
}
