//! The rules by which the candidates of a performance model are compared, by name.

use crate::performance::Estimate;

/// The rule by which the best of a performance model's candidates is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acquisition {
    /// The highest predicted mean score (paper: Z* = argmax p(Z)).
    #[default]
    PredictedMean,
    /// The highest expected improvement over the best mean score so far.
    ExpectedImprovement,
}

impl Acquisition {
    /// Every rule.
    pub const ALL: [Self; 2] = [Self::PredictedMean, Self::ExpectedImprovement];

    /// Name for reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PredictedMean => "predicted-mean",
            Self::ExpectedImprovement => "expected-improvement",
        }
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::PredictedMean => "Highest predicted score (paper)",
            Self::ExpectedImprovement => "Expected improvement",
        }
    }

    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// What the rule maximises, of a schedule whose mean score is predicted, where `best` is the best mean score so far.
    pub fn value(self, predicted: Estimate, best: f64) -> f64 {
        match self {
            Self::PredictedMean => predicted.mean,
            Self::ExpectedImprovement => expected_improvement(predicted, best).total(),
        }
    }
}

/// The two terms of an expected improvement, in the score's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImprovementTerms {
    /// (mean − best)·Φ(z): what is to be had if the prediction is right. Negative below the best.
    pub exploit: f64,
    /// std·φ(z): what is to be had because the prediction may be wrong.
    pub explore: f64,
}

impl ImprovementTerms {
    /// The expected improvement.
    pub fn total(self) -> f64 {
        self.exploit + self.explore
    }
}

/// E[max(0, score − best)] of a normally distributed score, with z = (mean − best)/std (Jones et al. 1998).
pub fn expected_improvement(predicted: Estimate, best: f64) -> ImprovementTerms {
    let gain = predicted.mean - best;
    if predicted.std <= 0.0 {
        return ImprovementTerms { exploit: gain.max(0.0), explore: 0.0 };
    }
    let z = gain / predicted.std;
    let density = libm::exp(-0.5 * z * z) / (2.0 * std::f64::consts::PI).sqrt();
    let distribution = 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
    ImprovementTerms { exploit: gain * distribution, explore: predicted.std * density }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_improvement_agrees_with_its_closed_form_and_its_limits() {
        let improvement = |mean, std| expected_improvement(Estimate { mean, std }, 1.5);
        // scipy: (m-b)*norm.cdf((m-b)/s) + s*norm.pdf((m-b)/s) with m = 1, s = 2, b = 1.5
        assert!((improvement(1.0, 2.0).total() - 0.572_689_396_447_160_4).abs() < 1e-15);
        assert_eq!(improvement(1.0, 0.0).total(), 0.0);
        assert_eq!(improvement(2.0, 0.0).total(), 0.5);
        assert!(improvement(1.0, 1.0).total() > improvement(1.0, 0.5).total());
        assert!(improvement(1.0, 2.0).exploit < 0.0 && improvement(1.0, 2.0).explore > 0.0);
    }
}
