//! Yes/no questions on existence, scored by POPE's rule, per setting.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Kind, Setting};
use super::{Answered, ScoringError};
use crate::benchmarks::numbers::mean;
use crate::benchmarks::pope::{self, PopeScores, YesNoScores};

/// Scores of existence questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExistenceScores {
    /// Headline: F1 in percent, the mean over the settings.
    pub f1: f64,
    /// Accuracy in percent, the mean over the settings.
    pub accuracy: f64,
    /// Each setting alone.
    pub settings: BTreeMap<Setting, YesNoScores>,
    /// All questions as one.
    pub all: YesNoScores,
}

/// Scores existence questions.
///
/// # Errors
/// A sample without a setting.
pub(super) fn score(answered: &[Answered<'_>]) -> Result<ExistenceScores, ScoringError> {
    let mut answers = Vec::with_capacity(answered.len());
    for (index, Answered { sample, prediction }) in answered.iter().enumerate() {
        let Some(Group::Setting(setting)) = sample.group else {
            return Err(ScoringError::Sample { index, kind: Kind::Existence, lacks: "a setting" });
        };
        // The label is yes unless it says no, as in the official script.
        answers.push((setting, sample.answer != "no", *prediction));
    }
    let PopeScores { f1, categories: settings, all, .. } = pope::tally(answers);
    let accuracy = mean(settings.values().map(|scores| scores.accuracy));
    Ok(ExistenceScores { f1, accuracy, settings, all })
}

#[cfg(test)]
mod tests {
    use super::super::super::Sample;
    use super::*;

    fn sample(setting: Setting, answer: &str) -> Sample {
        Sample {
            picture: 0,
            kind: Kind::Existence,
            group: Some(Group::Setting(setting)),
            pair: None,
            question: "Is there a red circle in the image?".into(),
            answer: answer.into(),
            target_box: None,
        }
    }

    #[test]
    fn the_headline_is_the_mean_of_the_settings_and_not_of_all_questions() {
        let samples = [
            sample(Setting::Random, "yes"),
            sample(Setting::Random, "no"),
            sample(Setting::Adversarial, "yes"),
            sample(Setting::Adversarial, "no"),
            sample(Setting::Adversarial, "yes"),
            sample(Setting::Adversarial, "no"),
        ];
        let predictions = ["yes", "no", "yes", "yes", "no", "yes"];
        let answered: Vec<_> =
            samples.iter().zip(predictions).map(|(sample, prediction)| Answered { sample, prediction }).collect();
        let scores = score(&answered).unwrap();
        assert_eq!(scores.settings[&Setting::Random].f1, 100.0);
        // Hits 1, false alarms 2, misses 1: 2 / 5.
        assert_eq!(scores.settings[&Setting::Adversarial].f1, 40.0);
        assert_eq!(scores.settings[&Setting::Adversarial].accuracy, 25.0);
        assert_eq!(scores.f1, 70.0);
        assert_eq!(scores.accuracy, 62.5);
        // Hits 2, false alarms 2, misses 1: 4 / 7.
        assert_eq!(scores.all.f1, 400.0 / 7.0);
    }

    #[test]
    fn a_sample_without_a_setting_is_an_error() {
        let odd = Sample { group: None, ..sample(Setting::Random, "yes") };
        let error = score(&[Answered { sample: &odd, prediction: "yes" }]).unwrap_err();
        assert_eq!(error.to_string(), "existence sample 0 lacks a setting");
    }
}
