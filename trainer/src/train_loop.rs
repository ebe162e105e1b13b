//! The training loop: pick examples, sum the gradients of the micro-batches, clip, step, log.
//!
//! A step is a function of the model, the seed and the step's number alone. So a run that was interrupted and resumed
//! ends in the same bytes as one that was not, and so does a run on another number of threads.

use anyhow::{Context, Result};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Device, Tensor};
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{GradientSquares, OptimizerConfig, Recompute, loss_and_gradients, scale_gradients};
use hydra_shared::vlm::{LoraDropout, MobileVlm, Trainable, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, failure};
use crate::feed::{Examples, StepInput, with_steps};

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
    /// the layer again, which takes a third more time and far less memory.
    pub recompute: Recompute,
    /// Share of what the adapters read that is dropped in training. MobileVLM's is 0.05.
    pub lora_dropout: f64,
    /// Whether a batch holds examples of similar lengths.
    pub group_by_length: bool,
    /// Every how many steps loss and gradient norms are read from the device and logged.
    pub log_every: usize,
    /// Every how many steps the state is saved; 0 saves only when interrupted.
    pub checkpoint_every: usize,
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
            lora_dropout: 0.0,
            group_by_length: false,
            log_every: 1,
            checkpoint_every: 50,
            // The tiny model bears 25 times MobileVLM's learning rate, and needs it in so few steps.
            optimizer: OptimizerConfig { learning_rate: 5e-3, ..OptimizerConfig::default() },
        }
    }
}

/// A training run between two steps.
pub struct TrainingState {
    /// The model, its trained parameters tracked.
    pub model: MobileVlm,
    /// AdamW's moments.
    pub optimizer: ModuleOptimizer,
    /// Steps that have been taken.
    pub step: usize,
}

/// A [`TrainingState`] on the host.
pub struct SavedState {
    /// The trained parameters, by checkpoint name.
    pub trained: Weights,
    /// AdamW's moments, as Burn writes them.
    pub optimizer: Vec<u8>,
    /// Steps that have been taken.
    pub step: usize,
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
        Self { model: model.trained(trainable), optimizer: config.init(), step: 0 }
    }

    /// Copies the state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub fn save(&self, trainable: Trainable) -> Result<SavedState> {
        let trained = pollster::block_on(self.model.names().read(&self.model, |name| trainable.includes(name)))?;
        let optimizer = self.optimizer.clone().into_bytes().context("the optimizer's state cannot be written")?;
        Ok(SavedState { trained, optimizer: optimizer.to_vec(), step: self.step })
    }

    /// Takes AdamW's moments and the step's number from a saved state; the weights are the model's already.
    ///
    /// # Errors
    /// Bytes that are not an optimizer's state.
    pub fn resume(mut self, optimizer: Vec<u8>, step: usize) -> Result<Self> {
        self.optimizer = self
            .optimizer
            .from_bytes(Bytes::from_bytes_vec(optimizer))
            .context("the optimizer's saved state cannot be read; delete this checkpoint to go on from an older one")?;
        self.step = step;
        Ok(self)
    }
}

/// Takes one optimizer step on `shards`, the micro-batches of the step.
///
/// `features` computes the vision features of a micro-batch; `seed` is that of the run. Loss and norms are read from the
/// device only if `log` is set.
///
/// # Errors
/// A device that fails, and a loss that is not finite.
pub fn train_step(
    state: TrainingState,
    trainable: Trainable,
    shards: &[Batch],
    features: &(dyn Fn(&MobileVlm, &Batch) -> Option<Tensor<3>> + Sync),
    config: &TrainingConfig,
    seed: u64,
    log: bool,
) -> Result<(TrainingState, Option<StepReport>)> {
    let TrainingState { model, mut optimizer, step } = state;
    let answers = shards.iter().map(|shard| shard.answer_ids.len()).sum();
    let one = |(index, shard): (usize, &Batch)| {
        // Fresh leaves: the threads' autodiff graphs share nothing.
        let model = model.clone().trained(trainable);
        // No two micro-batches of a run share a mask.
        let key = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(((step as u64) << 16) + index as u64);
        let dropout = (config.lora_dropout > 0.0).then_some(LoraDropout { rate: config.lora_dropout, key });
        let features = features(&model, shard);
        loss_and_gradients(&model, shard, features, answers, dropout.as_ref(), config.recompute)
    };
    // Inside Rayon's pool, where Burn's own parallel kernels run too: from a thread of another kind each of them would
    // wait for the pool. A GPU has one queue.
    let results: Vec<(Tensor<1>, GradientsParams)> = if model.device() == Device::flex() {
        shards.par_iter().enumerate().map(one).collect()
    } else {
        shards.iter().enumerate().map(one).collect()
    };
    let mut accumulator = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(results.len());
    for (loss, grads) in results {
        losses.push(loss);
        accumulator.accumulate(&model, grads);
    }
    let mut grads = accumulator.grads();
    let squares = GradientSquares::new(&model, &grads);
    if let Some(factor) = squares.clip_factor(config.optimizer.max_grad_norm) {
        grads = scale_gradients(&model, grads, &factor);
    }
    let learning_rate = config.optimizer.learning_rate_at(step, config.steps);
    let model = optimizer.step(learning_rate, model, grads);
    let report = if log {
        let loss = Tensor::cat(losses, 0).sum();
        let readout = pollster::block_on(squares.read(loss, true))?;
        if !readout.loss.is_finite() || !readout.global_norm().is_finite() {
            return Err(failure(
                Kind::Numerical,
                format!(
                    "the loss is {} at step {}: lower training.optimizer.learning_rate or the stage ratio",
                    readout.loss,
                    step + 1
                ),
            ));
        }
        let global_norm = readout.global_norm();
        Some(StepReport { step: step + 1, loss: readout.loss, learning_rate, norms: readout.norms, global_norm })
    } else {
        None
    };
    Ok((TrainingState { model, optimizer, step: step + 1 }, report))
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
    let tokens = state.model.tokens_per_picture();
    with_steps(examples, tokens, state.step, config, seed, decoding_threads, |next_input| {
        while state.step < config.steps {
            let StepInput { shards, pixels } = next_input()?;
            let log = config.log_every > 0 && (state.step + 1).is_multiple_of(config.log_every);
            let features = |model: &MobileVlm, batch: &Batch| examples.features(model, batch, &pixels);
            let (next, report) = train_step(state, trainable, &shards, &features, config, seed, log)?;
            state = next;
            if on_step(report.as_ref(), &state)? == Flow::Stop {
                return Ok((state, Flow::Stop));
            }
        }
        Ok((state, Flow::Continue))
    })
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It was asked to stop; its state is complete.
    Stop,
}
