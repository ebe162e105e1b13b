//! The training step of trainer and page: sum the gradients of the micro-batches, measure, clip, update.
//!
//! A step is a function of the model, the seed, the step's number and, in half precision, the loss scale alone. So a run that
//! was interrupted and resumed ends in the same bytes as one that was not, and so does a run on another number of threads.

#[cfg(not(target_family = "wasm"))]
use std::sync::{Arc, OnceLock};

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};

use super::gradients::{GradientSquares, StepReadout, scale_gradients};
use super::loss::{Backward, Recompute, loss_and_gradients};
use super::optimizer::{FlatAdamW, OptimizerConfig, StepOptimizer};
use crate::par_map::par_map;
use crate::vlm::batch::Batch;
#[cfg(not(target_family = "wasm"))]
use crate::vlm::fused::{self, RoundedDecoder};
use crate::vlm::{AdapterShape, Compute, ForwardOptions, LoraDropout, LossScale, MobileVlm, ModelError, Trainable};

/// What the steps of a run have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct StepConfig {
    /// What is trained.
    pub trainable: Trainable,
    /// Steps of the run, at whose end the learning rate is 0.
    pub steps: usize,
    /// AdamW and its learning rate.
    pub optimizer: OptimizerConfig,
    /// What is kept for the backward pass.
    pub recompute: Recompute,
    /// Precision of the decoder's matrix products.
    pub compute: Compute,
    /// Share of what the adapters read that is dropped.
    pub lora_dropout: f64,
    /// Seed of what is dropped.
    pub seed: u64,
}

/// A training run between two steps.
#[derive(Clone)]
pub struct TrainingState<O> {
    /// The model, its trained parameters tracked.
    pub model: MobileVlm,
    /// AdamW and its moments.
    pub optimizer: O,
    /// Steps that have been taken.
    pub step: usize,
    /// How often the run went back to an earlier state; each time halves the learning rate.
    pub roll_backs: usize,
    /// Factor of the loss where products are in half precision.
    pub loss_scale: LossScale,
    /// The decoder's matrices in bfloat16, once a step has multiplied with them.
    #[cfg(not(target_family = "wasm"))]
    pub rounded: Arc<OnceLock<RoundedDecoder>>,
}

impl<O: StepOptimizer> TrainingState<O> {
    /// The state before the first step.
    pub fn new(model: MobileVlm, trainable: Trainable, config: &OptimizerConfig) -> Self {
        let model = model.trained(trainable);
        let optimizer = O::new(config, &model);
        Self {
            model,
            optimizer,
            step: 0,
            roll_backs: 0,
            loss_scale: LossScale::default(),
            #[cfg(not(target_family = "wasm"))]
            rounded: Arc::default(),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
impl<O> TrainingState<O> {
    /// The decoder's matrices in bfloat16, where steps multiply with them: laid out by the first step for all of them.
    pub fn rounded(&self, config: &StepConfig) -> Option<&RoundedDecoder> {
        let forward = ForwardOptions { compute: config.compute, dropout: None };
        let needed =
            config.compute == Compute::Bf16 && config.lora_dropout <= 0.0 && fused::applies(&self.model, forward);
        needed.then(|| self.rounded.get_or_init(|| RoundedDecoder::load(&self.model.decoder)))
    }
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

/// What a step measured, still on the device: whoever reads it waits for the step.
pub struct Measurement {
    step: usize,
    learning_rate: f64,
    values: Values,
}

enum Values {
    OnDevice { losses: Vec<Tensor<1>>, squares: GradientSquares },
    Read(StepReadout),
}

impl Measurement {
    /// Reads loss and gradient norms, in one transfer.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn read(self) -> Result<StepReport, ModelError> {
        let readout = match self.values {
            Values::OnDevice { losses, squares } => read(losses, squares).await?,
            Values::Read(readout) => readout,
        };
        let global_norm = readout.global_norm();
        let StepReadout { loss, norms } = readout;
        Ok(StepReport { step: self.step, loss, learning_rate: self.learning_rate, norms, global_norm })
    }
}

/// Computes the vision features of a micro-batch; none where it has no pictures.
///
/// The model is the step's, so that a tower that is trained gets its gradients.
pub type Features<'a> = dyn Fn(&MobileVlm, &Batch) -> Option<Tensor<3>> + Sync + 'a;

/// Applies `work` to the micro-batches of a step and their numbers: on a CPU in threads, on a GPU, which has one queue, one
/// after the other.
pub fn map_micro_batches<R: Send>(
    device: &Device,
    micro_batches: &[Batch],
    work: impl Fn(usize, &Batch) -> R + Send + Sync,
) -> Vec<R> {
    let numbered: Vec<(usize, &Batch)> = micro_batches.iter().enumerate().collect();
    let work = |(index, micro_batch): &(usize, &Batch)| work(*index, micro_batch);
    if *device == Device::flex() { par_map(&numbered, work) } else { numbered.iter().map(work).collect() }
}

/// Losses of the micro-batches of the next step and the sum of their gradients.
pub fn step_gradients<O>(
    state: &TrainingState<O>,
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
) -> (Vec<Tensor<1>>, GradientsParams) {
    gradients_of(&state.model, state, config, micro_batches, features)
}

/// [`step_gradients`] of another model with the state's parameters.
fn gradients_of<O>(
    model: &MobileVlm,
    state: &TrainingState<O>,
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
) -> (Vec<Tensor<1>>, GradientsParams) {
    // Not the whole state: an optimizer need not be one that threads can share.
    let step = state.step as u64;
    let loss_scale = match config.compute {
        Compute::F32 | Compute::Bf16 => 1.0,
        Compute::F16 => state.loss_scale.value(),
    };
    let answers = micro_batches.iter().map(|micro_batch| micro_batch.answer_ids.len()).sum();
    // Before there are threads, which would wait for one another.
    #[cfg(not(target_family = "wasm"))]
    let rounded = state.rounded(config);
    let results = map_micro_batches(&model.device(), micro_batches, |index, micro_batch| {
        // Fresh leaves: the threads' autodiff graphs share nothing.
        let model = model.clone().trained(config.trainable);
        // No two micro-batches of a run share a mask.
        let key = config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add((step << 16) + index as u64);
        let dropout = (config.lora_dropout > 0.0).then_some(LoraDropout { rate: config.lora_dropout, key });
        let features = features(&model, micro_batch);
        let forward = ForwardOptions { compute: config.compute, dropout: dropout.as_ref() };
        let backward = Backward {
            forward,
            recompute: config.recompute,
            loss_scale,
            #[cfg(not(target_family = "wasm"))]
            rounded,
        };
        loss_and_gradients(&model, micro_batch, features, answers, &backward)
    });
    let mut accumulator = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(results.len());
    for (loss, gradients) in results {
        losses.push(loss);
        accumulator.accumulate(model, gradients);
    }
    let gradients = accumulator.grads();
    if loss_scale == 1.0 {
        return (losses, gradients);
    }
    let factor = Tensor::from_data([loss_scale.recip()], &model.device());
    (losses, scale_gradients(model, gradients, &factor))
}

/// Takes one optimizer step on its micro-batches, of which there is at least one.
///
/// In single precision nothing is read from the device, so that it always has work queued. In half precision loss and norms
/// are: they say whether a gradient overflowed, after which the step is computed again with a smaller loss scale.
///
/// # Errors
/// A device that fails.
pub async fn train_step<O: StepOptimizer>(
    mut state: TrainingState<O>,
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
) -> Result<(TrainingState<O>, Measurement), ModelError> {
    let (gradients, factor, values) = loop {
        let (losses, gradients) = step_gradients(&state, config, micro_batches, features);
        let squares = GradientSquares::new(&state.model, &gradients);
        let factor = squares.clip_factor(config.optimizer.max_grad_norm);
        if config.compute != Compute::F16 {
            break (gradients, factor, Values::OnDevice { losses, squares });
        }
        let readout = read(losses, squares).await?;
        match (readout.loss.is_finite(), readout.global_norm().is_finite()) {
            (true, true) => state.loss_scale.succeeded(),
            (true, false) if state.loss_scale.halve() => continue,
            // No scale mends that: the report says so.
            _ => {}
        }
        break (gradients, factor, Values::Read(readout));
    };
    let TrainingState { model, mut optimizer, step, roll_backs, .. } = state;
    let rates = config.optimizer.rates_at(step, config.steps).times(0.5_f64.powi(roll_backs as i32));
    let model = optimizer.update(model, gradients, factor.as_ref(), rates);
    let (step, learning_rate) = (step + 1, rates.rest);
    Ok((TrainingState { model, optimizer, step, ..state }, Measurement { step, learning_rate, values }))
}

/// Takes one optimizer step on the truncation of every adapter to its rank in `shapes`, one shape per module: what lies outside
/// keeps its parameters and its moments.
///
/// A moment that went on without a gradient would move directions that are drawn seldom many times as far as others: AdamW divides
/// by the root of a mean that has hardly begun. Not for half precision, whose scale of the loss is not looked for.
///
/// # Errors
/// A device that fails.
pub async fn nested_step(
    state: TrainingState<FlatAdamW>,
    shapes: &[AdapterShape],
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
) -> Result<(TrainingState<FlatAdamW>, StepReport), ModelError> {
    let part = state.model.clone().truncated(shapes);
    let (losses, gradients) = gradients_of(&part, &state, config, micro_batches, features);
    let squares = GradientSquares::new(&state.model, &gradients);
    let factor = squares.clip_factor(config.optimizer.max_grad_norm);
    let TrainingState { model, mut optimizer, step, .. } = state;
    let rates = config.optimizer.rates_at(step, config.steps);
    let model = optimizer.update_truncated(model, shapes, config.trainable, (gradients, factor.as_ref()), rates);
    let (step, learning_rate) = (step + 1, rates.rest);
    let measured = Measurement { step, learning_rate, values: Values::OnDevice { losses, squares } };
    Ok((TrainingState { model, optimizer, step, ..state }, measured.read().await?))
}

/// Loss and gradient norms of a step, read from the device in one transfer.
async fn read(losses: Vec<Tensor<1>>, squares: GradientSquares) -> Result<StepReadout, ModelError> {
    squares.read(Tensor::cat(losses, 0).sum()).await
}
