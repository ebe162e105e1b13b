//! POPE: yes/no questions on existence, scored per setting.
//!
//! The rules are those of LLaVA's `eval_pope.py`, which MobileVLM uses too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::questions::{Group, Kind, Setting};
use super::{Answered, ScoringError, mean, percent};

/// Scores of yes/no answers, "yes" being the positive class; all in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct YesNoScores {
    /// Number of questions.
    pub samples: usize,
    /// Right answers.
    pub accuracy: f64,
    /// Right ones among the answers "yes"; 0 where there are none.
    pub precision: f64,
    /// Answers "yes" among the questions whose answer is yes; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 where both are.
    pub f1: f64,
    /// Answers "yes".
    pub yes_ratio: f64,
}

/// Scores of existence questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PopeScores {
    /// Headline: F1 in percent, the mean over the settings.
    pub f1: f64,
    /// Accuracy in percent, the mean over the settings.
    pub accuracy: f64,
    /// Each setting alone.
    pub settings: BTreeMap<Setting, YesNoScores>,
    /// All questions as one.
    pub all: YesNoScores,
}

/// POPE's reading of an answer: the first sentence is "no" if one of its words is "No", "no" or "not", and else "yes".
pub fn says_yes(prediction: &str) -> bool {
    let sentence = prediction.trim().split('.').next().unwrap_or_default().replace(',', "");
    !sentence.split_whitespace().any(|word| ["No", "no", "not"].contains(&word))
}

/// Scores existence questions.
///
/// # Errors
/// A sample without a setting.
pub fn score(answered: &[Answered<'_>]) -> Result<PopeScores, ScoringError> {
    let mut settings: BTreeMap<Setting, Vec<(bool, bool)>> = BTreeMap::new();
    let mut all = Vec::with_capacity(answered.len());
    for (index, Answered { sample, prediction }) in answered.iter().enumerate() {
        let Some(Group::Setting(setting)) = sample.group else {
            return Err(ScoringError::Sample { index, kind: Kind::Existence, lacks: "a setting" });
        };
        // The label is yes unless it says no, as in the official script.
        let pair = (sample.answer != "no", says_yes(prediction));
        settings.entry(setting).or_default().push(pair);
        all.push(pair);
    }
    let settings: BTreeMap<Setting, YesNoScores> =
        settings.into_iter().map(|(setting, pairs)| (setting, yes_no_scores(&pairs))).collect();
    Ok(PopeScores {
        f1: mean(settings.values().map(|scores| scores.f1)),
        accuracy: mean(settings.values().map(|scores| scores.accuracy)),
        settings,
        all: yes_no_scores(&all),
    })
}

/// Scores pairs of (label, prediction), true being "yes".
pub fn yes_no_scores(pairs: &[(bool, bool)]) -> YesNoScores {
    let count = |label: bool, prediction: bool| pairs.iter().filter(|pair| **pair == (label, prediction)).count();
    let (hits, false_alarms, misses) = (count(true, true), count(false, true), count(true, false));
    YesNoScores {
        samples: pairs.len(),
        accuracy: percent(hits + count(false, false), pairs.len()),
        precision: percent(hits, hits + false_alarms),
        recall: percent(hits, hits + misses),
        // 2PR / (P + R) without its 0/0.
        f1: percent(2 * hits, 2 * hits + false_alarms + misses),
        yes_ratio: percent(hits + false_alarms, pairs.len()),
    }
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
    fn only_the_first_sentence_and_only_whole_words_make_a_no() {
        for text in ["no", "No", " no\n", "No, there is none", "There is not a circle.", "it is not. Yes"] {
            assert!(!says_yes(text), "{text}");
        }
        for text in ["yes", "", "Yes. There is no doubt", "none", "nothing here", "NO", "red"] {
            assert!(says_yes(text), "{text}");
        }
    }

    #[test]
    fn a_worked_example_gives_the_known_scores() {
        // Hits 3, false alarms 1, misses 1, correct rejections 3.
        let pairs = [
            (true, true),
            (true, true),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
            (false, false),
            (false, false),
        ];
        let scores = yes_no_scores(&pairs);
        assert_eq!(scores.accuracy, 75.0);
        assert_eq!(scores.precision, 75.0);
        assert_eq!(scores.recall, 75.0);
        assert_eq!(scores.f1, 75.0);
        assert_eq!(scores.yes_ratio, 50.0);
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
    fn a_model_that_never_says_yes_scores_zero_without_dividing_by_zero() {
        let scores = yes_no_scores(&[(true, false), (false, false)]);
        assert_eq!((scores.precision, scores.recall, scores.f1, scores.yes_ratio), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(scores.accuracy, 50.0);
    }

    #[test]
    fn a_sample_without_a_setting_is_an_error() {
        let odd = Sample { group: None, ..sample(Setting::Random, "yes") };
        let error = score(&[Answered { sample: &odd, prediction: "yes" }]).unwrap_err();
        assert_eq!(error.to_string(), "existence sample 0 lacks a setting");
    }
}
