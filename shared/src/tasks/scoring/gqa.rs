//! GQA: exact match of short answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Topic};
use super::{Answered, percent};

/// Scores of open questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GqaScores {
    /// Headline: exact matches in percent.
    pub accuracy: f64,
    /// Number of questions.
    pub samples: usize,
    /// Exact matches of each topic in percent.
    pub topics: BTreeMap<Topic, f64>,
}

/// An answer as it is compared: without surrounding white space and final full stops, in lower case.
///
/// This is LLaVA's preparation of answers for GQA's official `eval.py`, which then asks for equality.
pub fn normalize(answer: &str) -> String {
    answer.trim().trim_end_matches('.').trim_end().to_lowercase()
}

/// Scores open questions.
pub fn score(answered: &[Answered<'_>]) -> GqaScores {
    let mut topics: BTreeMap<Topic, (usize, usize)> = BTreeMap::new();
    let mut right = 0;
    for Answered { sample, prediction } in answered {
        let hit = usize::from(normalize(prediction) == normalize(&sample.answer));
        right += hit;
        if let Some(Group::Topic(topic)) = sample.group {
            let (hits, asked) = topics.entry(topic).or_default();
            *hits += hit;
            *asked += 1;
        }
    }
    GqaScores {
        accuracy: percent(right, answered.len()),
        samples: answered.len(),
        topics: topics.into_iter().map(|(topic, (hits, asked))| (topic, percent(hits, asked))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Kind, Sample};
    use super::*;

    #[test]
    fn case_white_space_and_a_final_full_stop_do_not_matter_and_all_else_does() {
        for (prediction, answer, equal) in [
            ("Red.", "red", true),
            (" top left \n", "top left", true),
            ("red circle", "red", false),
            ("topleft", "top left", false),
            ("", "red", false),
        ] {
            assert_eq!(normalize(prediction) == normalize(answer), equal, "{prediction}");
        }
    }

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
