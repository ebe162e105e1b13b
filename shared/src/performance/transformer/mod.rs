//! The paper's performance model: one Transformer encoder layer, an ensemble of it.

#[cfg(all(test, feature = "vlm", not(target_family = "wasm")))]
mod oracle;

use hydra_kernels::Level;
use hydra_kernels::encoder::{Encoder, Schedules, Shape, Targets, Training};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::leave_one_out::folds;
use super::{
    Estimate, FeatureSpace, FitError, FittedModel, LeaveOneOut, Observations, PerformanceModel, PredictError,
    Prediction,
};
use crate::layout::Ranks;
use crate::par_map::par_map;

/// Schedules that one thread predicts with one network at a time.
const SCHEDULES_AT_ONCE: usize = 64;

/// The performance model p(Z): one Transformer encoder layer (4 heads, width 32, feed-forward 128) over one token per
/// decoder layer, mean pooling, one output per benchmark. An ensemble of `ensemble` seeds is trained from scratch on
/// standardised scores with AdamW and full batches; the prediction is its mean and the uncertainty its spread.
///
/// The leave-one-out error is that of one further network per trial (or group of trials, in large studies), trained without
/// it for as many epochs: the error of a single member, slightly larger than the ensemble's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transformer {
    /// Networks in the ensemble.
    pub ensemble: usize,
    /// Passes over the trials.
    pub epochs: usize,
    /// Learning rate at the start; it falls linearly to zero.
    pub learning_rate: f64,
    /// AdamW's weight decay.
    pub weight_decay: f32,
}

impl Default for Transformer {
    fn default() -> Self {
        Self { ensemble: 5, epochs: 40, learning_rate: 1e-2, weight_decay: 1e-1 }
    }
}

/// Mean and standard deviation of one target among the trials that a member sees.
#[derive(Debug, Clone, Copy)]
struct Scale {
    mean: f64,
    std: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let std = (values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
        // Equal scores: nothing to scale, and the network learns to answer 0.
        Self { mean, std: if std > 1e-12 * mean.abs().max(1e-300) { std } else { 1.0 } }
    }

    fn standardise(self, value: f64) -> f32 {
        ((value - self.mean) / self.std) as f32
    }

    fn restore(self, value: f32) -> f64 {
        self.mean + self.std * f64::from(value)
    }
}

/// One network to train.
#[derive(Debug, Clone, Copy)]
struct Member {
    seed: u64,
    /// The group of trials that it does not see, and how many groups there are.
    left_out: Option<(usize, usize)>,
}

impl Member {
    fn sees(self, trial: usize) -> bool {
        self.left_out.is_none_or(|(fold, folds)| trial % folds != fold)
    }

    /// The scale of every benchmark.
    fn scales(self, data: &Observations) -> Vec<Scale> {
        (0..data.benchmarks())
            .map(|b| {
                let column = data.column(b);
                Scale::of(column.iter().copied().enumerate().filter(|(t, _)| self.sees(*t)).map(|(_, v)| v))
            })
            .collect()
    }
}

/// A network that was trained, and how to read its outputs.
#[derive(Debug)]
struct Trained {
    encoder: Encoder,
    /// By benchmark.
    scales: Vec<Scale>,
}

impl Transformer {
    /// Trains a network on the trials that it sees. It depends on nothing but these and its seed: not on the processor, on other
    /// networks or on threads.
    fn train(&self, space: &FeatureSpace, tokens: &[f32], data: &Observations, member: Member) -> Trained {
        let scales = member.scales(data);
        let seen = (0..data.len()).filter(|&trial| member.sees(trial)).count();
        let weight = 1.0 / (seen * data.benchmarks()) as f32;
        let weights: Vec<f32> = (0..data.len()).map(|t| if member.sees(t) { weight } else { 0.0 }).collect();
        let standardised = |scores: &Vec<f64>| -> Vec<f32> {
            scores.iter().zip(&scales).map(|(&score, scale)| scale.standardise(score)).collect()
        };
        let targets: Vec<f32> = data.scores.iter().flat_map(standardised).collect();

        let mut rng = ChaCha8Rng::seed_from_u64(member.seed);
        let shape = Shape { features: space.token_width(), outputs: data.benchmarks() };
        let mut encoder = Encoder::random(shape, || rng.random::<f32>());
        let Self { epochs, learning_rate, weight_decay, .. } = *self;
        let training = Training { epochs, learning_rate, weight_decay };
        let schedules = Schedules { tokens, layers: space.layers() };
        encoder.train(Level::best(), schedules, Targets { scores: &targets, weights: &weights }, &training);
        Trained { encoder, scales }
    }
}

impl Trained {
    /// Scores of schedules by benchmark.
    fn scores(&self, tokens: &[f32], layers: usize) -> Vec<Vec<f64>> {
        let scores = self.encoder.scores(Level::best(), Schedules { tokens, layers });
        let rows = scores.chunks_exact(self.scales.len().max(1));
        rows.map(|row| row.iter().zip(&self.scales).map(|(&v, s)| s.restore(v)).collect()).collect()
    }
}

/// A trained ensemble.
#[derive(Debug)]
struct Ensemble {
    space: FeatureSpace,
    members: Vec<Trained>,
    leave_one_out: LeaveOneOut,
}

impl PerformanceModel for Transformer {
    fn name(&self) -> &'static str {
        "transformer"
    }

    fn fit(&self, space: &FeatureSpace, data: &Observations, seed: u64) -> Result<Box<dyn FittedModel>, FitError> {
        data.check(space.layout())?;
        // Seeds of neighbouring fits must not share members: the generator's stream is chosen by the full 64 bits.
        let seed_of = |i: usize| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64);
        let ensemble = self.ensemble.max(1);
        let count = folds(data.len());
        let left_out = |fold: usize| Member { seed: seed_of(ensemble + fold), left_out: Some((fold, count)) };
        let members = (0..ensemble).map(|i| Member { seed: seed_of(i), left_out: None });
        let networks: Vec<Member> = members.chain((0..count).map(left_out)).collect();

        let tokens: Vec<f32> = data.schedules.iter().flat_map(|ranks| space.tokens(ranks)).collect();
        let of_trial = tokens.len() / data.len();
        let mut members = par_map(&networks, |&member| self.train(space, &tokens, data, member));
        let mut held_out = vec![Vec::new(); data.len()];
        for (member, trained) in networks.iter().skip(ensemble).zip(members.split_off(ensemble)) {
            for trial in (0..data.len()).filter(|&trial| !member.sees(trial)) {
                let tokens = tokens.get(trial * of_trial..(trial + 1) * of_trial).unwrap_or_default();
                held_out[trial] = trained.scores(tokens, space.layers()).into_iter().flatten().collect();
            }
        }
        if held_out.iter().flatten().any(|s| !s.is_finite()) {
            return Err(FitError::Numeric("the network's training diverged".to_owned()));
        }
        let objectives = held_out.iter().map(|scores| mean(scores)).collect();
        let leave_one_out = LeaveOneOut::new(data, objectives, &held_out);
        Ok(Box::new(Ensemble { space: space.clone(), members, leave_one_out }))
    }
}

impl FittedModel for Ensemble {
    fn predict(&self, schedules: &[Ranks]) -> Result<Vec<Prediction>, PredictError> {
        PredictError::check(schedules, self.space.layout())?;
        let parts: Vec<&[Ranks]> = schedules.chunks(SCHEDULES_AT_ONCE).collect();
        let predicted = par_map(&parts, |schedules| {
            let tokens: Vec<f32> = schedules.iter().flat_map(|ranks| self.space.tokens(ranks)).collect();
            let members: Vec<_> = self.members.iter().map(|m| m.scores(&tokens, self.space.layers())).collect();
            let of_schedule = |schedule: usize| {
                let of_members: Vec<&Vec<f64>> = members.iter().filter_map(|m| m.get(schedule)).collect();
                let benchmarks = of_members.first().map_or(0, |m| m.len());
                let score = |b: usize| of_members.iter().filter_map(|m| m.get(b).copied()).collect::<Vec<_>>();
                let objectives: Vec<f64> = of_members.iter().map(|m| mean(m)).collect();
                Prediction {
                    objective: estimate(&objectives),
                    scores: (0..benchmarks).map(|b| estimate(&score(b))).collect(),
                }
            };
            (0..schedules.len()).map(of_schedule).collect::<Vec<_>>()
        });
        Ok(predicted.into_iter().flatten().collect())
    }

    fn leave_one_out(&self) -> &LeaveOneOut {
        &self.leave_one_out
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and sample standard deviation; a single member gives no spread.
fn estimate(members: &[f64]) -> Estimate {
    let mean = mean(members);
    let squares = members.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>();
    Estimate { mean, std: if members.len() < 2 { 0.0 } else { (squares / (members.len() - 1) as f64).sqrt() } }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{observations, smooth_response, space};
    use super::*;

    #[test]
    fn the_transformer_predicts_a_smooth_response_of_16_trials_better_than_the_mean_does() {
        let space = space(6);
        let data = observations(&space, 16, 3, smooth_response);
        let fit = Transformer::default().fit(&space, &data, 1).unwrap();
        let error = &fit.leave_one_out().objective;
        assert!(error.skill() > 0.2, "{error:?}");
        let fresh = observations(&space, 40, 5, smooth_response);
        let predicted: Vec<f64> = fit.predict(&fresh.schedules).unwrap().iter().map(|p| p.objective.mean).collect();
        let correlation = super::super::rank_correlation(&predicted, &fresh.objectives()).unwrap();
        assert!(correlation > 0.5, "{correlation}");
    }

    #[test]
    fn the_same_seed_gives_the_same_ensemble_and_another_seed_another() {
        let space = space(3);
        let data = observations(&space, 6, 3, smooth_response);
        let model = Transformer { epochs: 5, ..Transformer::default() };
        let predict = |seed| model.fit(&space, &data, seed).unwrap().predict(&data.schedules).unwrap();
        assert_eq!(predict(1), predict(1));
        assert_ne!(predict(1), predict(2));
    }

    #[test]
    #[cfg(not(target_family = "wasm"))]
    fn fits_and_predictions_have_the_same_bits_with_one_thread_and_with_several() {
        let space = space(5);
        let data = observations(&space, 9, 3, smooth_response);
        let fresh = observations(&space, 150, 6, smooth_response);
        let model = Transformer { epochs: 5, ..Transformer::default() };
        let fit = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let fit = model.fit(&space, &data, 1).unwrap();
                (fit.predict(&fresh.schedules).unwrap(), fit.leave_one_out().clone())
            })
        };
        let one = fit(1);
        assert_eq!(one, fit(3));
        assert_eq!(one, fit(1), "nor does it depend on what was computed before");
    }

    #[test]
    fn a_schedule_is_predicted_the_same_alone_and_among_others() {
        let space = space(3);
        let data = observations(&space, 6, 3, smooth_response);
        let model = Transformer { epochs: 5, ..Transformer::default() };
        let fit = model.fit(&space, &data, 1).unwrap();
        let all = fit.predict(&data.schedules).unwrap();
        assert_eq!(fit.predict(&data.schedules[2..3]).unwrap(), all[2..3]);
    }

    #[test]
    fn a_left_out_trials_scores_do_not_reach_its_own_prediction() {
        let space = space(3);
        let mut data = observations(&space, 6, 3, smooth_response);
        let model = Transformer { epochs: 5, ..Transformer::default() };
        let before = model.fit(&space, &data, 1).unwrap().leave_one_out().predicted.clone();
        data.scores[2] = vec![9.0, -9.0];
        let after = model.fit(&space, &data, 1).unwrap().leave_one_out().predicted.clone();
        assert_eq!(before[2], after[2]);
        assert_ne!(before[0], after[0]);
    }

    #[test]
    fn trials_that_all_scored_the_same_are_predicted_to_score_so() {
        let space = space(3);
        let data = observations(&space, 8, 3, |_, _| vec![0.5, 0.25]);
        let fit = Transformer::default().fit(&space, &data, 1).unwrap();
        for prediction in fit.predict(&data.schedules).unwrap() {
            assert!((prediction.objective.mean - 0.375).abs() < 0.2, "{prediction:?}");
        }
        assert_eq!(fit.leave_one_out().objective.skill(), 0.0);
    }

    #[test]
    fn every_benchmark_gets_an_output_in_its_own_unit() {
        let space = space(3);
        let data = observations(&space, 8, 3, |space, ranks| {
            let score = smooth_response(space, ranks)[0];
            vec![score, 1000.0 + 100.0 * score]
        });
        let fit = Transformer::default().fit(&space, &data, 1).unwrap();
        let prediction = &fit.predict(&data.schedules).unwrap()[0];
        assert_eq!(prediction.scores.len(), 2);
        assert!(prediction.scores[0].mean < 10.0 && prediction.scores[1].mean > 900.0);
    }
}
