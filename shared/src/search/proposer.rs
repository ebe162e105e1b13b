//! Which schedule to try next.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::acquisition::Acquisition;
use super::sampling::SearchSpace;
use super::study::{Origin, Study};
use crate::layout::Ranks;
use crate::performance::{Estimate, FeatureSpace, FitError, FittedModel, ModelKind, PredictError, Prediction};
use crate::schedule::BudgetError;

/// Schedules that the best candidates are varied from in the second round.
const SURVIVORS: usize = 8;
/// Complete trials that candidates are varied from.
const PARENTS: usize = 6;

impl Acquisition {
    fn value(self, estimate: Estimate, best: f64) -> f64 {
        match self {
            Self::PredictedMean => estimate.mean,
            Self::ExpectedImprovement => expected_improvement(estimate, best),
            Self::Random => 0.0,
        }
    }
}

/// E[max(0, score − best)] of a normally distributed score (Jones et al. 1998).
pub fn expected_improvement(estimate: Estimate, best: f64) -> f64 {
    let gain = estimate.mean - best;
    if estimate.std <= 0.0 {
        return gain.max(0.0);
    }
    let z = gain / estimate.std;
    let density = libm::exp(-0.5 * z * z) / (2.0 * std::f64::consts::PI).sqrt();
    let distribution = 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
    gain * distribution + estimate.std * density
}

/// Why no schedule could be proposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProposeError {
    #[error(transparent)]
    Budget(#[from] BudgetError),
    #[error(transparent)]
    Predict(#[from] PredictError),
}

/// What a proposal is made with.
pub(super) struct Proposer<'a> {
    pub space: &'a SearchSpace,
    pub features: &'a FeatureSpace,
    pub model: ModelKind,
    pub acquisition: Acquisition,
    pub candidates: usize,
}

impl Proposer<'_> {
    /// The next schedule and why; `None` where every schedule has been tried. A function of the study and `seed`
    /// alone.
    pub(super) fn propose(&self, study: &Study, seed: u64) -> Result<Option<(Ranks, Origin)>, ProposeError> {
        if self.acquisition == Acquisition::Random {
            return Ok(self.random(study, seed)?.map(|ranks| (ranks, Origin::Random { reason: None })));
        }
        let data = study.observations();
        match self.model.build().fit(self.features, &data, seed) {
            Ok(fit) => self.by_model(study, fit.as_ref(), data.len(), seed),
            // Too few trials, or scores on which the arithmetic fails: a random trial adds information.
            Err(error @ (FitError::TooFewTrials { .. } | FitError::Numeric(_))) => {
                Ok(self.random(study, seed)?.map(|ranks| (ranks, Origin::Random { reason: Some(error.to_string()) })))
            }
            Err(error) => Err(PredictError::Numeric(error.to_string()).into()),
        }
    }

    /// A feasible schedule that has not been tried; `None` where there is none.
    pub(super) fn random(&self, study: &Study, seed: u64) -> Result<Option<Ranks>, BudgetError> {
        let tried = study.trials.iter().map(|t| t.ranks.as_slice()).collect();
        Ok(self.space.draw(&mut ChaCha8Rng::seed_from_u64(seed), 1, &[], &tried)?.pop())
    }

    fn by_model(
        &self,
        study: &Study,
        fit: &dyn FittedModel,
        fitted_on: usize,
        seed: u64,
    ) -> Result<Option<(Ranks, Origin)>, ProposeError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let best = study.best().and_then(|t| t.objective).unwrap_or(f64::NEG_INFINITY);
        let mut trials: Vec<_> = study.complete().collect();
        trials.sort_by(|a, b| b.objective.unwrap_or(best).total_cmp(&a.objective.unwrap_or(best)));
        let parents: Vec<&[u32]> = trials.iter().take(PARENTS).map(|t| t.ranks.as_slice()).collect();
        let mut tried: BTreeSet<&[u32]> = study.trials.iter().map(|t| t.ranks.as_slice()).collect();

        let mut first = self.rank(fit, self.space.draw(&mut rng, self.candidates.max(1), &parents, &tried)?, best)?;
        // A second round around the most promising: the optimum is rarely among the first draws.
        first.truncate(SURVIVORS);
        let survivors: Vec<&[u32]> = first.iter().map(|c| c.ranks.as_slice()).collect();
        tried.extend(&survivors);
        let second = self.rank(fit, self.space.draw(&mut rng, self.candidates / 2, &survivors, &tried)?, best)?;

        // The first of equals is kept: both rounds are sorted, the first comes first.
        let chosen = first.into_iter().next().into_iter().chain(second.into_iter().next());
        let chosen = chosen.reduce(|a, b| if b.value > a.value { b } else { a });
        Ok(chosen.map(|candidate| {
            let scores = study.metadata.benchmarks.iter().cloned().zip(candidate.prediction.scores);
            let origin = Origin::Proposed {
                model: self.model.name().to_owned(),
                acquisition: self.acquisition.name().to_owned(),
                predicted: candidate.prediction.objective,
                predicted_scores: scores.collect(),
                held_out: fit.leave_one_out().objective,
                fitted_on,
            };
            (candidate.ranks, origin)
        }))
    }

    /// Candidates with their predictions, the most promising first; draws keep their order among equals.
    fn rank(&self, fit: &dyn FittedModel, schedules: Vec<Ranks>, best: f64) -> Result<Vec<Candidate>, PredictError> {
        let predictions = fit.predict(&schedules)?;
        let mut candidates: Vec<Candidate> = schedules
            .into_iter()
            .zip(predictions)
            .map(|(ranks, prediction)| {
                let value = self.acquisition.value(prediction.objective, best);
                Candidate { ranks, prediction, value }
            })
            .collect();
        candidates.sort_by(|a, b| b.value.total_cmp(&a.value));
        Ok(candidates)
    }
}

struct Candidate {
    ranks: Ranks,
    prediction: Prediction,
    value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_improvement_agrees_with_its_closed_form_and_its_limits() {
        let estimate = |mean, std| Estimate { mean, std };
        // scipy: (m-b)*norm.cdf((m-b)/s) + s*norm.pdf((m-b)/s) with m = 1, s = 2, b = 1.5
        assert!((expected_improvement(estimate(1.0, 2.0), 1.5) - 0.572_689_396_447_160_4).abs() < 1e-15);
        assert_eq!(expected_improvement(estimate(1.0, 0.0), 1.5), 0.0);
        assert_eq!(expected_improvement(estimate(2.0, 0.0), 1.5), 0.5);
        assert!(expected_improvement(estimate(1.0, 1.0), 1.5) > expected_improvement(estimate(1.0, 0.5), 1.5));
    }
}
