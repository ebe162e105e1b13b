//! One training step: sum the gradients of the micro-batches, clip, step, log.
//!
//! A step is a function of the model, the seed, the step's number and, in half precision, the loss scale alone. So a run that was interrupted and resumed
//! ends in the same bytes as one that was not, and so does a run on another number of threads.

use anyhow::{Context, Result};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Device, Tensor};
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{
    Backward, GradientSquares, OptimizerConfig, StepReadout, loss_and_gradients, scale_gradients,
};
use hydra_shared::vlm::{Compute, LoraDropout, LossScale, Manner, MobileVlm, Trainable, Weights};
use rayon::prelude::*;

use super::config::TrainingConfig;
use crate::error::{Kind, failure};

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

/// Mean loss over the last tenth of the logged steps.
pub fn final_loss(reports: &[StepReport]) -> Option<f64> {
    let last = reports.len().div_ceil(10);
    let tail = &reports[reports.len() - last..];
    (!tail.is_empty()).then(|| tail.iter().map(|report| report.loss).sum::<f64>() / tail.len() as f64)
}
