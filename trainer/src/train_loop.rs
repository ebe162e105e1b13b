//! The training loop: pick examples, sum the gradients of the micro-batches, clip, step, log.
//!
//! A step is a function of the model, the seed, the step's number and, in half precision, the loss scale alone. So a run that was interrupted and resumed
//! ends in the same bytes as one that was not, and so does a run on another number of threads.

use anyhow::{Context, Result};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Device, Tensor};
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{
    Backward, GradientSquares, OptimizerConfig, Recompute, StepReadout, loss_and_gradients, scale_gradients,
};
use hydra_shared::vlm::{Compute, LoraDropout, LossScale, Manner, MobileVlm, Trainable, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::device::guarded;
use crate::error::{Kind, failure, kind_of};
use crate::feed::{Examples, StepInput, with_steps};

/// Returns to an earlier state before a run whose loss stays non-finite is given up.
const ROLL_BACKS: usize = 3;

/// What a fine-tune does, apart from its data and its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Optimizer steps.
    pub steps: usize,
    /// Examples per optimizer step.
    pub batch_size: usize,
    /// Parts in which a step's examples are computed; their gradients are added up. On a CPU the parts run in threads.
    pub micro_batches: usize,
    /// Passes over the data; where it is given, `steps` is computed from it.
    pub epochs: Option<f64>,
    /// What is kept for the backward pass: `none` recomputes nothing, `blocks` keeps each layer's input alone and computes
    /// the layer again, which takes about 40 % more time on a CPU and half the memory (docs/performance.md).
    pub recompute: Recompute,
    /// Precision of the decoder's matrix products: `f32`, or `f16` for the matrix units of a GPU, with dynamic loss scaling.
    /// Scores and losses of evaluations are in f32.
    pub compute: Compute,
    /// Share of what the adapters read that is dropped in training. MobileVLM's is 0.05.
    pub lora_dropout: f64,
    /// Whether a batch holds examples of similar lengths.
    pub group_by_length: bool,
    /// Every how many steps loss and gradient norms are logged, and read from the device, which half precision does every step.
    pub log_every: usize,
    /// Every how many steps the state is saved; 0 saves only when interrupted.
    pub checkpoint_every: usize,
    /// What follows a loss that is NaN or infinite.
    pub non_finite: NonFinite,
    /// AdamW and its learning rate.
    pub optimizer: OptimizerConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: 140,
            batch_size: 12,
            micro_batches: 2,
            epochs: None,
            recompute: Recompute::None,
            compute: Compute::F32,
            lora_dropout: 0.0,
            group_by_length: false,
            log_every: 1,
            checkpoint_every: 50,
            non_finite: NonFinite::Stop,
            // The tiny model bears 25 times MobileVLM's learning rate, and needs it in so few steps.
            optimizer: OptimizerConfig { learning_rate: 5e-3, ..OptimizerConfig::default() },
        }
    }
}

/// What follows a loss that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonFinite {
    /// The run ends; its checkpoints are from before.
    #[default]
    Stop,
    /// The run goes back to the newest state that is known to have a finite loss, and on from there with half the learning
    /// rate; the fourth time it ends.
    RollBack,
}

/// A training run between two steps.
#[derive(Clone)]
pub struct TrainingState {
    /// The model, its trained parameters tracked.
    pub model: MobileVlm,
    /// AdamW's moments.
    pub optimizer: ModuleOptimizer,
    /// Steps that have been taken.
    pub step: usize,
    /// How often the run went back to an earlier state; each time halves the learning rate.
    pub roll_backs: usize,
    /// Factor of the loss where products are in half precision.
    pub loss_scale: LossScale,
}

/// A [`TrainingState`] on the host.
pub struct SavedState {
    /// The trained parameters, by checkpoint name.
    pub trained: Weights,
    /// AdamW's moments, as Burn writes them.
    pub optimizer: Vec<u8>,
    /// Steps that have been taken.
    pub step: usize,
    /// How often the run went back to an earlier state.
    pub roll_backs: usize,
    /// Factor of the loss where products are in half precision.
    pub loss_scale: LossScale,
}

/// What one step reports.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Steps that have been taken, this one included.
    pub step: usize,
    /// Loss of the step's examples, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// L2 norm of each trained parameter's gradient before clipping, by checkpoint name.
    pub norms: Vec<(String, f64)>,
    /// L2 norm of all gradients together.
    pub global_norm: f64,
}

impl TrainingState {
    /// The state before the first step.
    pub fn new(model: MobileVlm, trainable: Trainable, config: &OptimizerConfig) -> Self {
        Self {
            model: model.trained(trainable),
            optimizer: config.init(),
            step: 0,
            roll_backs: 0,
            loss_scale: LossScale::default(),
        }
    }

    /// Copies the state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub fn save(&self, trainable: Trainable) -> Result<SavedState> {
        let trained = pollster::block_on(self.model.names().read(&self.model, |name| trainable.includes(name)))?;
        let optimizer = self.optimizer.clone().into_bytes().context("the optimizer's state cannot be written")?;
        Ok(SavedState {
            trained,
            optimizer: optimizer.to_vec(),
            step: self.step,
            roll_backs: self.roll_backs,
            loss_scale: self.loss_scale,
        })
    }

    /// Takes AdamW's moments, the step's number, how often the run went back and the loss scale from a saved state; the weights
    /// are the model's already.
    ///
    /// # Errors
    /// Bytes that are not an optimizer's state.
    pub fn resume(mut self, optimizer: Vec<u8>, step: usize, roll_backs: usize, loss_scale: LossScale) -> Result<Self> {
        self.optimizer = self
            .optimizer
            .from_bytes(Bytes::from_bytes_vec(optimizer))
            .context("the optimizer's saved state cannot be read; delete this checkpoint to go on from an older one")?;
        self.step = step;
        self.roll_backs = roll_backs;
        self.loss_scale = loss_scale;
        Ok(self)
    }
}

/// Computes the vision features of a micro-batch.
pub type Features<'a> = dyn Fn(&MobileVlm, &Batch) -> Option<Tensor<3>> + Sync + 'a;

/// Applies `work` to the micro-batches of a step and their numbers: on a CPU in threads, on a GPU, which has one queue, one
/// after the other.
pub fn each_shard<R: Send>(
    device: &Device,
    shards: &[Batch],
    work: impl Fn((usize, &Batch)) -> R + Sync + Send,
) -> Vec<R> {
    // Inside Rayon's pool, where Burn's own parallel kernels run too: from a thread of another kind each of them would
    // wait for the pool.
    if *device == Device::flex() {
        shards.par_iter().enumerate().map(work).collect()
    } else {
        shards.iter().enumerate().map(work).collect()
    }
}

/// Losses of the micro-batches of the next step and the sum of their gradients.
pub fn step_gradients(
    state: &TrainingState,
    trainable: Trainable,
    shards: &[Batch],
    features: &Features<'_>,
    config: &TrainingConfig,
    seed: u64,
) -> (Vec<Tensor<1>>, GradientsParams) {
    let TrainingState { model, step, .. } = state;
    let loss_scale = match config.compute {
        Compute::F32 => 1.0,
        Compute::F16 => state.loss_scale.value(),
    };
    let answers = shards.iter().map(|shard| shard.answer_ids.len()).sum();
    let results = each_shard(&model.device(), shards, |(index, shard)| {
        // Fresh leaves: the threads' autodiff graphs share nothing.
        let model = model.clone().trained(trainable);
        // No two micro-batches of a run share a mask.
        let key = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(((*step as u64) << 16) + index as u64);
        let dropout = (config.lora_dropout > 0.0).then_some(LoraDropout { rate: config.lora_dropout, key });
        let features = features(&model, shard);
        let manner = Manner { compute: config.compute, dropout: dropout.as_ref() };
        let backward = Backward { manner, recompute: config.recompute, loss_scale };
        loss_and_gradients(&model, shard, features, answers, &backward)
    });
    let mut accumulator = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(results.len());
    for (loss, grads) in results {
        losses.push(loss);
        accumulator.accumulate(model, grads);
    }
    let grads = accumulator.grads();
    if loss_scale == 1.0 {
        return (losses, grads);
    }
    let factor = Tensor::from_data([loss_scale.recip()], &model.device());
    (losses, scale_gradients(model, grads, &factor))
}

/// Loss and gradient norms of a step, read from the device in one transfer.
fn read(squares: GradientSquares, losses: Vec<Tensor<1>>) -> Result<StepReadout> {
    Ok(pollster::block_on(squares.read(Tensor::cat(losses, 0).sum(), true))?)
}

/// Takes one optimizer step on `shards`, the micro-batches of the step.
///
/// `seed` is that of the run. Loss and norms are read from the device only if `wanted`, and in half precision always: there
/// they say whether a gradient overflowed, after which the step is computed again with a smaller loss scale.
///
/// # Errors
/// A device that fails, and a loss that is not finite.
pub fn train_step(
    mut state: TrainingState,
    trainable: Trainable,
    shards: &[Batch],
    features: &Features<'_>,
    config: &TrainingConfig,
    seed: u64,
    wanted: bool,
) -> Result<(TrainingState, Option<StepReport>)> {
    let (mut grads, factor, pending, early) = loop {
        let (losses, grads) = step_gradients(&state, trainable, shards, features, config, seed);
        let squares = GradientSquares::new(&state.model, &grads);
        let factor = squares.clip_factor(config.optimizer.max_grad_norm);
        if config.compute == Compute::F32 {
            break (grads, factor, wanted.then_some((squares, losses)), None);
        }
        let readout = read(squares, losses)?;
        match (readout.loss.is_finite(), readout.global_norm().is_finite()) {
            (true, true) => state.loss_scale.succeeded(),
            (true, false) if state.loss_scale.halve() => continue,
            // No scale mends that: the report says what may.
            _ => {}
        }
        break (grads, factor, None, Some(readout));
    };
    let TrainingState { model, mut optimizer, step, roll_backs, loss_scale } = state;
    if let Some(factor) = factor {
        grads = scale_gradients(&model, grads, &factor);
    }
    let learning_rate = config.optimizer.learning_rate_at(step, config.steps) * 0.5_f64.powi(roll_backs as i32);
    let model = optimizer.step(learning_rate, model, grads);
    // In single precision only now, so that the device has the update to compute while it is waited for.
    let readout = match pending {
        Some((squares, losses)) => Some(read(squares, losses)?),
        None => early,
    };
    let report = readout.map(|readout| report(readout, step + 1, learning_rate, config.compute)).transpose()?;
    Ok((TrainingState { model, optimizer, step: step + 1, roll_backs, loss_scale }, report))
}

/// The report of a step whose loss and gradients are finite.
fn report(readout: StepReadout, step: usize, learning_rate: f64, compute: Compute) -> Result<StepReport> {
    let global_norm = readout.global_norm();
    let StepReadout { loss, norms } = readout;
    if loss.is_finite() && global_norm.is_finite() {
        return Ok(StepReport { step, loss, learning_rate, norms, global_norm });
    }
    let precision = match compute {
        Compute::F32 => "",
        Compute::F16 => " or training.compute=f32",
    };
    Err(failure(
        Kind::Numerical,
        format!(
            "the loss is {loss} and the norm of its gradients {global_norm} at step {step}: lower \
             training.optimizer.learning_rate or the stage ratio, or set training.non_finite=roll-back{precision}"
        ),
    ))
}

/// Takes the remaining steps of a fine-tune whose vision tower is frozen.
///
/// `on_step` sees each step's report and the state after it, and may end the run early.
///
/// # Errors
/// A device that fails, a loss that is not finite, a picture that cannot be read, and whatever `on_step` returns.
pub fn fine_tune(
    mut state: TrainingState,
    trainable: Trainable,
    examples: Examples<'_>,
    config: &TrainingConfig,
    seed: u64,
    decoding_threads: usize,
    mut on_step: impl FnMut(Option<&StepReport>, &TrainingState) -> Result<Flow>,
) -> Result<(TrainingState, Flow)> {
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    let tokens = state.model.tokens_per_picture();
    loop {
        // The newest state that is known to have a finite loss. Tensors are shared: it takes memory of its own only where a
        // later step has changed them.
        let mut good = (config.non_finite == NonFinite::RollBack).then(|| state.clone());
        let result = with_steps(examples, tokens, state.step, config, seed, decoding_threads, |next_input| {
            while state.step < config.steps {
                let StepInput { shards, gathered } = next_input()?;
                let step = state.step + 1;
                let log = due(config.log_every, step);
                // Nothing is saved, and no run ends well, whose gradients were not looked at.
                let read = log || due(config.checkpoint_every, step) || step == config.steps;
                let features = |model: &MobileVlm, batch: &Batch| examples.features(model, batch, &gathered);
                let before = good.as_ref().filter(|_| read).map(|_| state.clone());
                let take = || train_step(state, trainable, &shards, &features, config, seed, read);
                let (next, report) = guarded("a training step", take)??;
                state = next;
                // The loss is that of the weights before the step.
                if before.is_some() {
                    good = before;
                }
                if on_step(report.as_ref().filter(|_| log), &state)? == Flow::Stop {
                    return Ok((state, Flow::Stop));
                }
            }
            Ok((state, Flow::Continue))
        });
        match (result, good) {
            (Err(error), Some(last)) if kind_of(&error) == Kind::Numerical && last.roll_backs < ROLL_BACKS => {
                let (step, roll_backs) = (last.step, last.roll_backs + 1);
                tracing::warn!("{error}; going on from step {step} with 1/{} of the learning rate", 1 << roll_backs);
                state = TrainingState { roll_backs, ..last };
            }
            (result, _) => return result,
        }
    }
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It was asked to stop; its state is complete.
    Stop,
}

#[cfg(test)]
mod tests {
    use hydra_shared::model_spec::ModelSpec;
    use hydra_shared::vlm::batch::{Encoded, Segment};
    use hydra_shared::vlm::init::random_weights;
    use hydra_shared::vlm::{AdapterShape, initial_adapters};

    use super::*;
    use crate::feed::PictureSource;

    /// A model with adapters and no tower, and what it is trained on.
    fn small() -> Result<(MobileVlm, Vec<Encoded>)> {
        let mut spec = ModelSpec::preset("tiny-mobilevlm")?;
        (spec.vision, spec.projector, spec.decoder.layers) = (None, None, 1);
        let shapes = vec![AdapterShape { rank: 2, scale: 2.0 }; spec.module_count()];
        let model = MobileVlm::load(&spec, random_weights(&spec, 1), &Device::flex())?
            .with_adapters(&shapes, initial_adapters(&spec, &shapes, 1))?;
        let encoded = (0..2)
            .map(|row| Encoded { parts: vec![Segment::Text(vec![1, 5 + row]), Segment::Answer(vec![7, 8 + row])] })
            .collect();
        Ok((model, encoded))
    }

    /// Steps at a learning rate, and their losses.
    fn steps(
        config: &TrainingConfig,
        learning_rate: f64,
        loss_scale: LossScale,
    ) -> Result<((TrainingState, Flow), Vec<f64>)> {
        let (model, encoded) = small()?;
        let optimizer = OptimizerConfig { learning_rate, warmup_ratio: 0.0, ..OptimizerConfig::default() };
        let config =
            TrainingConfig { batch_size: 2, micro_batches: 1, checkpoint_every: 0, optimizer, ..config.clone() };
        let examples = Examples { encoded: &encoded, pictures: &PictureSource::None };
        let state = TrainingState { loss_scale, ..TrainingState::new(model, Trainable::Lora, &config.optimizer) };
        let mut losses = Vec::new();
        let end = fine_tune(state, Trainable::Lora, examples, &config, 1, 1, |report, _| {
            losses.extend(report.map(|report| report.loss));
            Ok(Flow::Continue)
        })?;
        Ok((end, losses))
    }

    /// Two steps at a learning rate; the second one's loss shows what the first did.
    fn two_steps(learning_rate: f64, non_finite: NonFinite) -> Result<(TrainingState, Flow)> {
        let config = TrainingConfig { steps: 2, non_finite, ..TrainingConfig::default() };
        Ok(steps(&config, learning_rate, LossScale::default())?.0)
    }

    /// The smallest power of two at which the loss is no longer finite.
    fn too_large() -> f64 {
        (0..120).map(|power| 2.0_f64.powi(power)).find(|rate| two_steps(*rate, NonFinite::Stop).is_err()).unwrap()
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_the_run_with_a_remedy() {
        let error = two_steps(too_large(), NonFinite::Stop).map(|_| ()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Numerical);
        assert!(error.to_string().contains("at step 2: lower training.optimizer.learning_rate"), "{error}");
    }

    #[test]
    fn rolling_back_goes_on_from_the_last_good_state_with_half_the_learning_rate() {
        let rate = too_large();
        let (rolled, flow) = two_steps(rate, NonFinite::RollBack).unwrap();
        assert_eq!((rolled.step, rolled.roll_backs, flow), (2, 1, Flow::Continue));
        let (halved, _) = two_steps(rate / 2.0, NonFinite::Stop).unwrap();
        assert_eq!(trained(&rolled), trained(&halved));
    }

    fn trained(state: &TrainingState) -> Weights {
        state.save(Trainable::Lora).unwrap().trained
    }

    #[test]
    fn a_gradient_that_overflows_in_half_precision_halves_the_loss_scale_and_loses_no_step() {
        let mut largest = LossScale::default();
        for _ in 0..20_000 {
            largest.succeeded();
        }
        let config = TrainingConfig { steps: 3, compute: Compute::F16, ..TrainingConfig::default() };
        let ((overflown, _), losses) = steps(&config, 1e-3, largest).unwrap();
        assert_eq!((overflown.step, overflown.roll_backs, losses.len()), (3, 0, 3));
        let found = overflown.loss_scale.value();
        assert!(found < largest.value(), "{found}");
        // As if it had begun with the scale that it found.
        let mut begin = LossScale::default();
        while begin.value() > found {
            begin.halve();
        }
        let ((direct, _), _) = steps(&config, 1e-3, begin).unwrap();
        assert_eq!(trained(&overflown), trained(&direct));
    }

    #[test]
    fn losses_in_half_precision_follow_those_of_single_precision() {
        let curve = |compute| {
            let config = TrainingConfig { steps: 40, compute, ..TrainingConfig::default() };
            steps(&config, 5e-3, LossScale::default()).unwrap().1
        };
        let (single, half) = (curve(Compute::F32), curve(Compute::F16));
        assert!(single[39] < 0.5 * single[0], "{single:?}");
        for (step, (single, half)) in single.iter().zip(&half).enumerate() {
            assert!((single - half).abs() < 2e-2 * single.max(0.1), "step {step}: {single} and {half}");
        }
    }

    #[test]
    fn a_run_that_stays_non_finite_is_given_up() {
        let error = two_steps(f64::from(f32::MAX), NonFinite::RollBack).map(|_| ()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Numerical);
    }
}
