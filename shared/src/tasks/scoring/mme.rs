//! MME: pairs of yes/no questions, scored by accuracy + accuracy+ per subtask.
//!
//! The rules are those of MME's `calculation.py`: each subtask is worth 200, and subtasks are summed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Kind, Topic};
use super::{Answered, ScoringError, percent};

/// Scores of one topic (MME: subtask).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmeTopicScores {
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
pub struct MmeScores {
    /// Sum over the topics: 0 to 200 times their number.
    pub score: f64,
    /// Each topic alone.
    pub topics: BTreeMap<Topic, MmeTopicScores>,
}

impl MmeScores {
    /// Headline: the sum on a scale of 0 to 100.
    pub fn headline(&self) -> f64 {
        if self.topics.is_empty() { 0.0 } else { self.score / (2.0 * self.topics.len() as f64) }
    }
}

/// MME's reading of an answer: `Some(true)` where the first four letters hold "yes", else `Some(false)` where they hold
/// "no", else `None`. Case does not matter.
pub fn parse_answer(prediction: &str) -> Option<bool> {
    let prefix: String = prediction.trim().to_lowercase().chars().take(4).collect();
    if prefix.contains("yes") {
        Some(true)
    } else if prefix.contains("no") {
        Some(false)
    } else {
        None
    }
}

/// Scores perception questions.
///
/// # Errors
/// A sample without a topic or pair, or a pair that does not have two samples.
pub fn score(answered: &[Answered<'_>]) -> Result<MmeScores, ScoringError> {
    let mut pairs: BTreeMap<(Topic, usize), Vec<Option<bool>>> = BTreeMap::new();
    let mut other: BTreeMap<Topic, usize> = BTreeMap::new();
    for (index, Answered { sample, prediction }) in answered.iter().enumerate() {
        let (Some(Group::Topic(topic)), Some(pair)) = (sample.group, sample.pair) else {
            return Err(ScoringError::Sample { index, kind: Kind::Perception, lacks: "a topic and a pair" });
        };
        let answer = parse_answer(prediction);
        pairs.entry((topic, pair)).or_default().push(answer.map(|yes| yes == (sample.answer == "yes")));
        *other.entry(topic).or_default() += usize::from(answer.is_none());
    }
    let mut counts: BTreeMap<Topic, (usize, usize, usize)> = BTreeMap::new();
    for ((topic, pair), answers) in pairs {
        if answers.len() != 2 {
            return Err(ScoringError::Pair { pair, samples: answers.len() });
        }
        let right = answers.iter().filter(|answer| **answer == Some(true)).count();
        let (pairs, singles, both) = counts.entry(topic).or_default();
        *pairs += 1;
        *singles += right;
        *both += usize::from(right == 2);
    }
    let topics: BTreeMap<Topic, MmeTopicScores> = counts
        .into_iter()
        .map(|(topic, (pairs, singles, both))| {
            let (accuracy, accuracy_plus) = (percent(singles, 2 * pairs), percent(both, pairs));
            let other = other.get(&topic).copied().unwrap_or_default();
            (topic, MmeTopicScores { pairs, accuracy, accuracy_plus, score: accuracy + accuracy_plus, other })
        })
        .collect();
    Ok(MmeScores { score: topics.values().map(|scores| scores.score).sum(), topics })
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

    fn score_texts(rows: &[(Topic, usize, &str, &str)]) -> Result<MmeScores, ScoringError> {
        let samples: Vec<_> = rows.iter().map(|(topic, pair, answer, _)| sample(*topic, *pair, answer)).collect();
        let answered: Vec<_> =
            samples.iter().zip(rows).map(|(sample, (_, _, _, prediction))| Answered { sample, prediction }).collect();
        score(&answered)
    }

    #[test]
    fn yes_wins_over_no_and_only_the_first_four_letters_count() {
        for (text, expected) in [
            ("yes", Some(true)),
            (" Yes, it is", Some(true)),
            ("NO", Some(false)),
            ("not at all", Some(false)),
            ("I no", Some(false)),
            ("maybe no", None),
            ("red", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(parse_answer(text), expected, "{text}");
        }
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
