//! Open questions, scored by GQA's rule: exact match of short answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Topic};
use super::Answered;
use crate::benchmarks::gqa::{self, GqaScores};

/// Scores of open questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OpenScores {
    /// Headline: exact matches in percent.
    pub accuracy: f64,
    /// Number of questions.
    pub samples: usize,
    /// Exact matches of each topic in percent.
    pub topics: BTreeMap<Topic, f64>,
}

/// Scores open questions.
pub(super) fn score(answered: &[Answered<'_>]) -> OpenScores {
    let mut topics: BTreeMap<Topic, Vec<bool>> = BTreeMap::new();
    let mut all = Vec::with_capacity(answered.len());
    for Answered { sample, prediction } in answered {
        let right = gqa::is_right(prediction, &sample.answer);
        all.push(right);
        if let Some(Group::Topic(topic)) = sample.group {
            topics.entry(topic).or_default().push(right);
        }
    }
    let GqaScores { accuracy, samples } = gqa::tally(all);
    let topics = topics.into_iter().map(|(topic, answers)| (topic, gqa::tally(answers).accuracy)).collect();
    OpenScores { accuracy, samples, topics }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Kind, Sample};
    use super::*;

    #[test]
    fn a_worked_example_gives_the_known_scores() {
        let rows = [
            (Topic::Color, "red", "red"),
            (Topic::Color, "blue", "Blue."),
            (Topic::Color, "blue", "green"),
            (Topic::Count, "two", "2"),
        ];
        let samples: Vec<Sample> = rows
            .iter()
            .map(|(topic, answer, _)| Sample {
                picture: 0,
                kind: Kind::Open,
                group: Some(Group::Topic(*topic)),
                pair: None,
                question: String::new(),
                answer: (*answer).to_owned(),
                target_box: None,
            })
            .collect();
        let answered: Vec<_> =
            samples.iter().zip(rows).map(|(sample, (_, _, prediction))| Answered { sample, prediction }).collect();
        let scores = score(&answered);
        assert_eq!(scores.accuracy, 50.0);
        assert_eq!(scores.topics, BTreeMap::from([(Topic::Color, 200.0 / 3.0), (Topic::Count, 0.0)]));
    }
}
