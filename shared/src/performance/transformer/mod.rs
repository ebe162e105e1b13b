//! The paper's performance model: one Transformer encoder layer, an ensemble of it.

mod encoder;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};

use self::encoder::Encoder;
use super::leave_one_out::folds;
use super::{
    Estimate, FeatureSpace, FitError, FittedModel, LeaveOneOut, Observations, PerformanceModel, PredictError,
    Prediction,
};
use crate::layout::Ranks;
use crate::par_map::par_map;

/// Most members that are trained together: enough to fill the matrix products.
const MOST_MEMBERS_AT_ONCE: usize = 4;

/// Most tokens of all members that are trained together: few enough for their activations to stay in a processor's cache.
const TOKENS_AT_ONCE: usize = 1536;

/// Schedules that are predicted together.
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

/// Networks that were trained together, and how to read their outputs.
struct Trained {
    encoder: Encoder,
    /// A scale per member and benchmark.
    scales: Vec<Vec<Scale>>,
}

impl Transformer {
    /// Trains `members` side by side. They do not influence each other: the loss is the sum of theirs, and AdamW
    /// treats every weight by itself.
    fn train(&self, space: &FeatureSpace, data: &Observations, members: &[Member]) -> Trained {
        let device = Device::flex().autodiff();
        let (trials, benchmarks) = (data.len(), data.benchmarks());
        let scales: Vec<Vec<Scale>> = members.iter().map(|m| m.scales(data)).collect();
        let (mut targets, mut weights) = (Vec::new(), Vec::new());
        for (member, scales) in members.iter().zip(&scales) {
            let seen = (0..trials).filter(|&t| member.sees(t)).count();
            for (trial, scores) in data.scores.iter().enumerate() {
                targets.extend(scores.iter().zip(scales).map(|(&score, scale)| scale.standardise(score)));
                weights.push(if member.sees(trial) { 1.0 / (seen * benchmarks) as f32 } else { 0.0 });
            }
        }
        let tokens = tokens(space, &data.schedules, &device);
        let targets = Tensor::<3>::from_data(TensorData::new(targets, [members.len(), trials, benchmarks]), &device);
        let weights = Tensor::<3>::from_data(TensorData::new(weights, [members.len(), trials, 1]), &device);

        let seeds: Vec<u64> = members.iter().map(|m| m.seed).collect();
        let mut encoder = Encoder::new(&seeds, space.token_width(), benchmarks, &device);
        // Burn's own defaults for epsilon and decay differ from PyTorch's.
        let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(self.weight_decay).init();
        for epoch in 0..self.epochs {
            let error = encoder.forward(tokens.clone(), space.layers()) - targets.clone();
            let loss = (error.square() * weights.clone()).sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &encoder);
            let rate = self.learning_rate * (1.0 - epoch as f64 / self.epochs as f64);
            encoder = optimizer.step(rate, encoder, gradients);
        }
        Trained { encoder: encoder.valid(), scales }
    }
}

/// `[1, schedules · layers, features]`
fn tokens(space: &FeatureSpace, schedules: &[Ranks], device: &Device) -> Tensor<3> {
    let values: Vec<f32> = schedules.iter().flat_map(|ranks| space.tokens(ranks)).collect();
    let rows = values.len() / space.token_width();
    Tensor::from_data(TensorData::new(values, [1, rows, space.token_width()]), device)
}

impl Trained {
    /// Scores by member, schedule and benchmark.
    fn scores(&self, space: &FeatureSpace, schedules: &[Ranks]) -> Result<Vec<Vec<Vec<f64>>>, String> {
        if schedules.is_empty() {
            return Ok(vec![Vec::new(); self.scales.len()]);
        }
        let outputs = self.encoder.forward(tokens(space, schedules, &Device::flex()), space.layers());
        let [_, _, benchmarks] = outputs.dims();
        let values: Vec<f32> = outputs.try_into_vec_as().map_err(|e| e.to_string())?;
        let of_members = values.chunks(schedules.len() * benchmarks);
        Ok(of_members
            .zip(&self.scales)
            .map(|(member, scales)| {
                let rows = member.chunks(benchmarks);
                rows.map(|row| row.iter().zip(scales).map(|(&v, s)| s.restore(v)).collect()).collect()
            })
            .collect())
    }
}

/// A trained ensemble.
struct Ensemble {
    space: FeatureSpace,
    groups: Vec<Trained>,
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
        let ensemble: Vec<Member> =
            (0..self.ensemble.max(1)).map(|i| Member { seed: seed_of(i), left_out: None }).collect();
        let count = folds(data.len());
        let folds: Vec<Member> = (0..count)
            .map(|fold| Member { seed: seed_of(ensemble.len() + fold), left_out: Some((fold, count)) })
            .collect();

        // Members do not influence each other: how many are trained together changes the time alone.
        let at_once = (TOKENS_AT_ONCE / (data.len() * space.layers())).clamp(1, MOST_MEMBERS_AT_ONCE);
        let parts: Vec<&[Member]> = ensemble.chunks(at_once).chain(folds.chunks(at_once)).collect();
        let mut groups = par_map(&parts, |members| self.train(space, data, members));
        let fold_groups = groups.split_off(ensemble.len().div_ceil(at_once));
        let mut held_out = vec![Vec::new(); data.len()];
        for (members, trained) in folds.chunks(at_once).zip(fold_groups) {
            let scores = trained.scores(space, &data.schedules).map_err(FitError::Numeric)?;
            for (member, scores) in members.iter().zip(scores) {
                for (trial, scores) in scores.into_iter().enumerate().filter(|(trial, _)| !member.sees(*trial)) {
                    held_out[trial] = scores;
                }
            }
        }
        if held_out.iter().flatten().any(|s| !s.is_finite()) {
            return Err(FitError::Numeric("the network's training diverged".to_owned()));
        }
        let objectives = held_out.iter().map(|scores| mean(scores)).collect();
        let leave_one_out = LeaveOneOut::new(data, objectives, &held_out);
        Ok(Box::new(Ensemble { space: space.clone(), groups, leave_one_out }))
    }
}

impl FittedModel for Ensemble {
    fn predict(&self, schedules: &[Ranks]) -> Result<Vec<Prediction>, PredictError> {
        PredictError::check(schedules, self.space.layout())?;
        let mut predictions = Vec::with_capacity(schedules.len());
        for chunk in schedules.chunks(SCHEDULES_AT_ONCE) {
            let mut members = Vec::new();
            for group in &self.groups {
                members.extend(group.scores(&self.space, chunk).map_err(PredictError::Numeric)?);
            }
            for schedule in 0..chunk.len() {
                let of_members: Vec<&Vec<f64>> = members.iter().filter_map(|m| m.get(schedule)).collect();
                let benchmarks = of_members.first().map_or(0, |m| m.len());
                let score = |b: usize| of_members.iter().filter_map(|m| m.get(b).copied()).collect::<Vec<_>>();
                let objectives: Vec<f64> = of_members.iter().map(|m| mean(m)).collect();
                predictions.push(Prediction {
                    objective: estimate(&objectives),
                    scores: (0..benchmarks).map(|b| estimate(&score(b))).collect(),
                });
            }
        }
        Ok(predictions)
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
