//! The rules by which a search chooses its next schedule, by name.

use serde::{Deserialize, Serialize};

/// The rule by which the next schedule is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acquisition {
    /// The highest predicted mean score (paper: Z* = argmax p(Z)).
    #[default]
    PredictedMean,
    /// The highest expected improvement over the best mean score so far.
    ExpectedImprovement,
    /// Any feasible schedule, without a model.
    Random,
}

impl Acquisition {
    /// Every rule.
    pub const ALL: [Self; 3] = [Self::PredictedMean, Self::ExpectedImprovement, Self::Random];

    /// Name for reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PredictedMean => "predicted-mean",
            Self::ExpectedImprovement => "expected-improvement",
            Self::Random => "random",
        }
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PredictedMean => "Highest predicted score (paper)",
            Self::ExpectedImprovement => "Expected improvement",
            Self::Random => "At random, without a model",
        }
    }

    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}
