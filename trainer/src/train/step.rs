//! A state in training: the step that trainer and page share, with the optimizer whose state can be saved.

use anyhow::{Context, Result};
use burn::optim::ModuleOptimizer;
use burn::tensor::Bytes;
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{self, Features, StepConfig, StepReport};
use hydra_shared::vlm::{Compute, LossScale, Trainable, Weights};
use pollster::block_on;

use crate::error::{Kind, failure};

/// A training run between two steps. Its optimizer is Burn's own, whose state can be saved.
pub type TrainingState = training::TrainingState<ModuleOptimizer>;

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

impl SavedState {
    /// Copies a state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub fn of(state: &TrainingState, trainable: Trainable) -> Result<Self> {
        let trained = block_on(state.model.names().read(&state.model, |name| trainable.includes(name)))?;
        let optimizer = state.optimizer.clone().into_bytes().context("the optimizer's state cannot be written")?;
        Ok(Self {
            trained,
            optimizer: optimizer.to_vec(),
            step: state.step,
            roll_backs: state.roll_backs,
            loss_scale: state.loss_scale,
        })
    }
}

/// A fresh state with AdamW's moments, the step's number, how often the run went back and the loss scale of a saved one; the
/// weights are the model's already.
///
/// # Errors
/// Bytes that are not an optimizer's state.
pub fn resume(
    fresh: TrainingState,
    optimizer: Vec<u8>,
    step: usize,
    roll_backs: usize,
    loss_scale: LossScale,
) -> Result<TrainingState> {
    let optimizer = fresh
        .optimizer
        .from_bytes(Bytes::from_bytes_vec(optimizer))
        .context("the optimizer's saved state cannot be read; delete this checkpoint to go on from an older one")?;
    Ok(TrainingState { optimizer, step, roll_backs, loss_scale, ..fresh })
}

/// Takes one optimizer step on its micro-batches. Loss and norms are read from the device only if `wanted`, and in half
/// precision always, where the step itself reads them.
///
/// # Errors
/// A device that fails, and a loss that is not finite.
pub fn train_step(
    state: TrainingState,
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
    wanted: bool,
) -> Result<(TrainingState, Option<StepReport>)> {
    let (state, measured) = block_on(training::train_step(state, config, micro_batches, features))?;
    if !wanted && config.compute != Compute::F16 {
        return Ok((state, None));
    }
    let report = finite(block_on(measured.read())?, config.compute)?;
    Ok((state, Some(report)))
}

/// The report of a step whose loss and gradients are finite.
fn finite(report: StepReport, compute: Compute) -> Result<StepReport> {
    let StepReport { step, loss, global_norm, .. } = report;
    if loss.is_finite() && global_norm.is_finite() {
        return Ok(report);
    }
    let precision = match compute {
        Compute::F32 => "",
        Compute::Bf16 | Compute::F16 => " or training.compute=f32",
    };
    Err(failure(
        Kind::Numerical,
        format!(
            "the loss is {loss} and the norm of its gradients {global_norm} at step {step}: lower \
             training.optimizer.learning_rate or the stage ratio, or set training.non_finite=roll-back{precision}"
        ),
    ))
}

/// Mean over the last tenth of the logged steps' losses.
pub fn final_loss(losses: &[f64]) -> Option<f64> {
    let last = losses.len().div_ceil(10);
    let tail = &losses[losses.len() - last..];
    (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / tail.len() as f64)
}
