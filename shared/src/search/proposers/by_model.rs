//! The best, by an acquisition rule, of the schedules that a performance model predicts (paper: Z* = argmax p(Z)).

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::random::draw;
use super::{Choice, Proposer};
use crate::layout::Ranks;
use crate::performance::{
    FeatureSpace, FitError, FittedModel, HeldOutError, ModelKind, Observations, PredictError, Prediction,
};
use crate::search::acquisition::Acquisition;
use crate::search::ask_tell::SearchError;
use crate::search::config::SearchConfig;
use crate::search::sampling::SearchSpace;
use crate::search::seed::following_seed;
use crate::search::study::{Origin, Study, Trial};

/// Schedules that the best candidates are varied from in the second round.
const SURVIVORS: usize = 8;
/// Complete trials that candidates are varied from.
const PARENTS: usize = 6;

/// The proposer of a search whose model is asked by this rule.
pub fn new<'a>(config: &SearchConfig, acquisition: Acquisition, space: &'a SearchSpace) -> Box<dyn Proposer + 'a> {
    Box::new(ByModel { space, model: config.model, acquisition, candidates: config.candidates })
}

/// Proposes what a performance model thinks best.
///
/// Schedules that are still running count as observed with the scores that the model predicts for them, from the trials that
/// have ended (kriging believer, Ginsbourger et al. 2010): the model is then fitted again. What is recorded of a proposal is
/// the second fit's prediction, and the leave-one-out error of the first, which saw measured scores alone.
struct ByModel<'a> {
    space: &'a SearchSpace,
    model: ModelKind,
    acquisition: Acquisition,
    candidates: usize,
}

impl Proposer for ByModel<'_> {
    fn propose(&self, study: &Study, pending: &[&Trial], count: usize, seed: u64) -> Result<Vec<Choice>, SearchError> {
        let features = study.features();
        let mut choices: Vec<Choice> = Vec::new();
        for nth in 0..count {
            let running = pending.iter().map(|trial| &trial.ranks).chain(choices.iter().map(|choice| &choice.ranks));
            let running: Vec<Ranks> = running.cloned().collect();
            let Some(choice) = self.choose(study, &features, &running, following_seed(seed, nth))? else { break };
            choices.push(choice);
        }
        Ok(choices)
    }
}

/// What is known of the schedules, measured or believed.
struct Knowledge {
    fit: Arc<dyn FittedModel>,
    /// Whether it is a fit on measured scores alone.
    believes_nothing: bool,
    /// The best mean score, measured or believed.
    best: f64,
    /// Leave-one-out error of a fit on measured scores alone.
    held_out: HeldOutError,
    /// Complete trials.
    fitted_on: usize,
}

impl ByModel<'_> {
    /// The next schedule and why, where those of `running` are still running; `None` where every schedule has been tried.
    fn choose(
        &self,
        study: &Study,
        features: &FeatureSpace,
        running: &[Ranks],
        seed: u64,
    ) -> Result<Option<Choice>, SearchError> {
        let mut tried = study.schedules();
        tried.extend(running.iter().map(Ranks::as_slice));
        match self.learn(study, features, running, seed) {
            Ok(known) => Ok(self.best_candidate(study, &known, tried, seed)?),
            // Too few trials, or scores on which the arithmetic fails: a random trial adds information.
            Err(error @ (FitError::TooFewTrials { .. } | FitError::Numeric(_))) => {
                let origin = Origin::Random { reason: Some(error.to_string()) };
                Ok(draw(self.space, &tried, seed)?.map(|ranks| Choice::new(ranks, origin)))
            }
            Err(error) => Err(PredictError::Numeric(error.to_string()).into()),
        }
    }

    fn learn(
        &self,
        study: &Study,
        features: &FeatureSpace,
        running: &[Ranks],
        seed: u64,
    ) -> Result<Knowledge, FitError> {
        let model = self.model.build();
        let mut data = study.observations();
        let fit: Arc<dyn FittedModel> = model.fit(features, &data, seed)?.into();
        let (held_out, fitted_on) = (fit.leave_one_out().objective, data.len());
        let best = study.best().and_then(|trial| trial.objective).unwrap_or(f64::NEG_INFINITY);
        if running.is_empty() {
            return Ok(Knowledge { fit, believes_nothing: true, best, held_out, fitted_on });
        }
        let believed = fit.predict(running).map_err(|error| FitError::Numeric(error.to_string()))?;
        let best = believed.iter().map(|prediction| prediction.objective.mean).fold(best, f64::max);
        believe(&mut data, running, &believed);
        let fit = model.fit(features, &data, seed)?.into();
        Ok(Knowledge { fit, believes_nothing: false, best, held_out, fitted_on })
    }

    fn best_candidate(
        &self,
        study: &Study,
        known: &Knowledge,
        tried: BTreeSet<&[u32]>,
        seed: u64,
    ) -> Result<Option<Choice>, SearchError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut trials: Vec<_> = study.complete().collect();
        let score = |trial: &Trial| trial.objective.unwrap_or(known.best);
        trials.sort_by(|a, b| score(b).total_cmp(&score(a)));
        let parents: Vec<&[u32]> = trials.iter().take(PARENTS).map(|t| t.ranks.as_slice()).collect();

        let mut first = self.rank(known, self.space.draw(&mut rng, self.candidates.max(1), &parents, &tried)?)?;
        // A second round around the most promising: the optimum is rarely among the first draws.
        first.truncate(SURVIVORS);
        let survivors: Vec<&[u32]> = first.iter().map(|candidate| candidate.ranks.as_slice()).collect();
        let mut tried: BTreeSet<&[u32]> = tried;
        tried.extend(&survivors);
        let second = self.rank(known, self.space.draw(&mut rng, self.candidates / 2, &survivors, &tried)?)?;

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
                held_out: known.held_out,
                fitted_on: known.fitted_on,
            };
            let fit = known.believes_nothing.then(|| Arc::clone(&known.fit));
            Choice { ranks: candidate.ranks, origin, fit }
        }))
    }

    /// Candidates with their predictions, the most promising first; draws keep their order among equals.
    fn rank(&self, known: &Knowledge, schedules: Vec<Ranks>) -> Result<Vec<Candidate>, PredictError> {
        let predictions = known.fit.predict(&schedules)?;
        let mut candidates: Vec<Candidate> = schedules
            .into_iter()
            .zip(predictions)
            .map(|(ranks, prediction)| {
                let value = self.acquisition.value(prediction.objective, known.best);
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

/// Adds schedules that are still running, as if they had scored what is predicted.
fn believe(data: &mut Observations, running: &[Ranks], predicted: &[Prediction]) {
    data.schedules.extend_from_slice(running);
    data.scores.extend(predicted.iter().map(|one| one.scores.iter().map(|score| score.mean).collect()));
}
