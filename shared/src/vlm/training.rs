//! One training step in parts: loss, gradients, their norms, clipping, AdamW, learning rate. The loop is the caller's.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, Transaction};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::{MobileVlm, ModelError, WeightError, indices};

/// AdamW and its schedule; the defaults are PyTorch's and MobileVLM's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay. MobileVLM trains with 0; PyTorch's own default is 0.01.
    pub weight_decay: f32,
    /// Largest global gradient norm; 0 switches clipping off.
    pub max_grad_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 2e-4,
            warmup_ratio: 0.03,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// A fresh optimizer.
    pub fn init(&self) -> ModuleOptimizer {
        AdamWConfig::new()
            .with_beta_1(self.beta1)
            .with_beta_2(self.beta2)
            .with_epsilon(self.epsilon)
            .with_weight_decay(self.weight_decay)
            .init()
    }

    /// Learning rate of a step, counted from 0: linear warm-up from 0, then half a cosine down to 0, as in
    /// Transformers' `get_cosine_schedule_with_warmup`.
    pub fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = (self.warmup_ratio * steps as f64).ceil() as usize;
        let factor = if step < warmup {
            step as f64 / warmup.max(1) as f64
        } else {
            let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
            0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        };
        self.learning_rate * factor.max(0.0)
    }
}

/// Sum of the cross-entropies of a batch's answer tokens, divided by `answers`.
///
/// `answers` is the number of answer tokens of the whole optimizer step: then the losses and gradients of its
/// micro-batches add up to those of one large batch.
pub fn answer_loss(model: &MobileVlm, batch: &Batch, features: Option<Tensor<3>>, answers: usize) -> Tensor<1> {
    let logits = model.forward(batch, features);
    let device = model.device();
    let targets = indices(&batch.answer_ids, &device).reshape([batch.answer_ids.len(), 1]);
    log_softmax(logits, 1).gather(1, targets).sum().neg().div_scalar(answers.max(1) as f64)
}

/// Gradients of `loss` with respect to the model's trained parameters.
pub fn gradients(loss: &Tensor<1>, model: &MobileVlm) -> GradientsParams {
    GradientsParams::from_grads(loss.backward(), model)
}

/// Squared L2 norms of all gradients of one step, still on the device.
pub struct GradientSquares {
    names: Vec<String>,
    squares: Vec<Tensor<1>>,
}

/// What one transfer from the device tells about a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReadout {
    /// Loss.
    pub loss: f64,
    /// L2 norm of each trained parameter's gradient before clipping, by checkpoint name.
    pub norms: Vec<(String, f64)>,
}

impl StepReadout {
    /// L2 norm of all gradients together.
    pub fn global_norm(&self) -> f64 {
        self.norms.iter().map(|(_, norm)| norm * norm).sum::<f64>().sqrt()
    }
}

impl GradientSquares {
    /// Queues the sums of squares on the device.
    pub fn new(model: &MobileVlm, grads: &GradientsParams) -> Self {
        let mut visitor = SquaresVisitor { model, grads, names: Vec::new(), squares: Vec::new() };
        model.visit(&mut visitor);
        Self { names: visitor.names, squares: visitor.squares }
    }

    /// Reads the loss and, if `norms` is set, every gradient norm, in one transfer.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn read(self, loss: Tensor<1>, norms: bool) -> Result<StepReadout, ModelError> {
        let mut transaction = Transaction::default().register(loss.inner());
        let wanted = norms && !self.squares.is_empty();
        if wanted {
            transaction = transaction.register(Tensor::cat(self.squares, 0));
        }
        let failed = |error| ModelError::Weights(WeightError::Device(error));
        let data = transaction.execute_async().await.map_err(|error| failed(format!("{error:?}")))?;
        let mut values = data.into_iter().map(|data| data.convert::<f32>().try_to_vec::<f32>());
        let mut next = || values.next().transpose().map_err(|error| failed(format!("{error:?}")));
        let loss = next()?.and_then(|values| values.first().copied()).unwrap_or(f32::NAN);
        let squares = next()?.unwrap_or_default();
        let norms = self.names.into_iter().zip(squares).map(|(name, s)| (name, f64::from(s).sqrt())).collect();
        Ok(StepReadout { loss: f64::from(loss), norms })
    }

    /// The factor that brings the global norm down to `max_norm`, at most 1; computed on the device, as PyTorch's
    /// `clip_grad_norm_` does.
    pub fn clip_factor(&self, max_norm: f64) -> Option<Tensor<1>> {
        if max_norm <= 0.0 || self.squares.is_empty() {
            return None;
        }
        let norm = Tensor::cat(self.squares.clone(), 0).sum().sqrt();
        Some(norm.add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0))
    }
}

/// Multiplies every gradient by `factor`.
pub fn scale_gradients(model: &MobileVlm, grads: GradientsParams, factor: &Tensor<1>) -> GradientsParams {
    let mut visitor = ScaleVisitor { grads, factor };
    model.visit(&mut visitor);
    visitor.grads
}

struct SquaresVisitor<'a> {
    model: &'a MobileVlm,
    grads: &'a GradientsParams,
    names: Vec<String>,
    squares: Vec<Tensor<1>>,
}

impl ModuleVisitor for SquaresVisitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.get::<D>(param.id) else { return };
        let Some(name) = self.model.names().name(param.id) else { return };
        self.names.push(name.to_owned());
        self.squares.push(grad.square().sum());
    }
}

struct ScaleVisitor<'a> {
    grads: GradientsParams,
    factor: &'a Tensor<1>,
}

impl ModuleVisitor for ScaleVisitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad * self.factor.clone().unsqueeze());
        }
    }
}
