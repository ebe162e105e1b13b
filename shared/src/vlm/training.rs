//! One training step in parts: loss, gradients, their norms, clipping, AdamW, learning rate. The loop is the caller's.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Gradients, Tensor, Transaction};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::frozen_loss::frozen_loss;
use super::spec::ModelSpec;
use super::{Manner, MobileVlm, ModelError, WeightError, adapter_names, indices};
use crate::gradients::ModuleGradient;

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

/// How a step's gradients are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Every layer's intermediate results are kept until the backward pass: fast.
    None,
    /// Only the layers' inputs are kept, and each layer is computed again for its backward pass: a third more work, and
    /// memory for the intermediate results of one layer instead of all (Chen et al., arXiv 1604.06174).
    Blocks,
}

/// How a step computes its loss and gradients. The default is single precision, nothing dropped and everything kept.
#[derive(Debug, Clone, Copy)]
pub struct Backward<'a> {
    /// Precision of the products, and dropout.
    pub manner: Manner<'a>,
    /// What is kept for the backward pass.
    pub recompute: Recompute,
    /// The gradients are those of the loss times this factor ([`LossScale`](super::LossScale)).
    pub loss_scale: f32,
}

impl Default for Backward<'_> {
    fn default() -> Self {
        Self { manner: Manner::default(), recompute: Recompute::None, loss_scale: 1.0 }
    }
}

/// Sum of the cross-entropies of a batch's answer tokens, divided by `answers`.
///
/// `answers` is the number of answer tokens of the whole optimizer step: then the losses and gradients of its
/// micro-batches add up to those of one large batch.
pub fn answer_loss(model: &MobileVlm, batch: &Batch, features: Option<Tensor<3>>, answers: usize) -> Tensor<1> {
    cross_entropy(model, answer_states(model, batch, features, Manner::default()), batch, answers)
}

/// Final states at the answer positions.
fn answer_states(model: &MobileVlm, batch: &Batch, features: Option<Tensor<3>>, manner: Manner<'_>) -> Tensor<2> {
    let states = model.decoder.forward(model.splice(batch, features), batch.rows, batch.length, manner);
    states.select(0, indices(&batch.answer_positions, &model.device()))
}

/// [`cross_entropy`], and the gradients of what it depends on, of the scaled loss. `states` are tracked.
fn cross_entropy_backward(
    model: &MobileVlm,
    states: Tensor<2>,
    batch: &Batch,
    answers: usize,
    backward: &Backward<'_>,
) -> (Tensor<1>, Gradients) {
    if model.decoder.head_is_trained() {
        let loss = cross_entropy(model, states, batch, answers);
        let grads = loss.clone().mul_scalar(backward.loss_scale).backward();
        return (loss.inner(), grads);
    }
    let answers = answers.max(1) as f64;
    let compute = backward.manner.compute;
    let (loss, gradient) = frozen_loss(&model.decoder, &states.clone().inner(), &batch.answer_ids, compute);
    // There is no backward pass from a given gradient: this sum has it as its derivative.
    let grads = (states * gradient.div_scalar(answers / f64::from(backward.loss_scale))).sum().backward();
    (loss.div_scalar(answers), grads)
}

/// `states` are the final states at the answer positions.
fn cross_entropy(model: &MobileVlm, states: Tensor<2>, batch: &Batch, answers: usize) -> Tensor<1> {
    let targets = indices(&batch.answer_ids, &model.device()).reshape([batch.answer_ids.len(), 1]);
    let log_likelihoods = log_softmax(model.decoder.logits(states), 1).gather(1, targets);
    log_likelihoods.sum().neg().div_scalar(answers.max(1) as f64)
}

/// Gradients of `loss` with respect to the model's trained parameters.
pub fn gradients(loss: &Tensor<1>, model: &MobileVlm) -> GradientsParams {
    GradientsParams::from_grads(loss.backward(), model)
}

/// [`answer_loss`] and its [`gradients`].
pub fn loss_and_gradients(
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    answers: usize,
    backward: &Backward<'_>,
) -> (Tensor<1>, GradientsParams) {
    match backward.recompute {
        Recompute::None => {
            let states = answer_states(model, batch, features, backward.manner);
            if !states.is_tracked() && !model.decoder.head_is_trained() {
                // The projector alone is trained, and there is no picture; or nothing is trained.
                let (loss, _) = frozen_loss(&model.decoder, &states, &batch.answer_ids, backward.manner.compute);
                return (loss.div_scalar(answers.max(1) as f64), GradientsParams::new());
            }
            let (loss, grads) = cross_entropy_backward(model, states, batch, answers, backward);
            (loss, GradientsParams::from_grads(grads, model))
        }
        Recompute::Blocks => by_blocks(model, batch, features, answers, backward),
    }
}

/// Forward without a graph, keeping each block's input; then backward from the top, one block's graph at a time.
fn by_blocks(
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    answers: usize,
    backward: &Backward<'_>,
) -> (Tensor<1>, GradientsParams) {
    let device = model.device();
    let decoder = &model.decoder;
    let frozen = model.frozen();
    let pass = decoder.pass(batch.rows, batch.length, backward.manner, &device);
    let spliced = model.splice(batch, features);
    let layers = model.spec().decoder.layers;
    let mut inputs = vec![spliced.clone().inner()];
    for layer in 0..layers {
        inputs.push(frozen.decoder.block(layer, inputs[layer].clone(), &pass));
    }
    let leaf = |x: Tensor<2>| x.autodiff().require_grad();
    let mut accumulator = GradientsAccumulator::new();

    let top = leaf(inputs.pop().unwrap_or_else(|| spliced.clone().inner()));
    let states = decoder.final_norm(top.clone().select(0, indices(&batch.answer_positions, &device)));
    let (loss, mut grads) = cross_entropy_backward(model, states, batch, answers, backward);
    let mut upstream = top.grad_remove(&mut grads);
    accumulator.accumulate(model, GradientsParams::from_grads(grads, model));
    for layer in (0..layers).rev() {
        let (Some(input), Some(gradient)) = (inputs.pop(), upstream.take()) else { break };
        let input = leaf(input);
        // There is no backward pass from a given gradient: this sum has it as its derivative.
        let output = decoder.block(layer, input.clone(), &pass);
        let mut grads = (output * gradient).sum().backward();
        upstream = input.grad_remove(&mut grads);
        accumulator.accumulate(model, GradientsParams::from_grads(grads, model));
    }
    if let Some(gradient) = upstream.filter(|_| spliced.is_tracked()) {
        accumulator.accumulate(model, gradients(&(spliced * gradient).sum(), model));
    }
    (loss, accumulator.grads())
}

/// Gradients of all trained parameters on the host, by checkpoint name, in one transfer.
///
/// # Errors
/// A device that fails.
pub async fn read_gradients(model: &MobileVlm, grads: &GradientsParams) -> Result<Vec<(String, Vec<f32>)>, ModelError> {
    let mut visitor = GradientReader { model, grads, names: Vec::new(), transaction: Some(Transaction::default()) };
    model.visit(&mut visitor);
    let failed = |error| ModelError::Weights(WeightError::Device(error));
    let data = match visitor.transaction {
        Some(transaction) if !visitor.names.is_empty() => {
            transaction.execute_async().await.map_err(|error| failed(format!("{error:?}")))?
        }
        _ => Vec::new(),
    };
    let values = data.into_iter().map(|data| data.convert::<f32>().try_to_vec::<f32>());
    visitor
        .names
        .into_iter()
        .zip(values)
        .map(|(name, values)| Ok((name, values.map_err(|error| failed(format!("{error:?}")))?)))
        .collect()
}

struct GradientReader<'a> {
    model: &'a MobileVlm,
    grads: &'a GradientsParams,
    names: Vec<String>,
    transaction: Option<Transaction>,
}

impl ModuleVisitor for GradientReader<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.get::<D>(param.id) else { return };
        let Some(name) = self.model.names().name(param.id) else { return };
        self.names.push(name.to_owned());
        self.transaction = self.transaction.take().map(|transaction| transaction.register(grad));
    }
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

/// Gradient norms of a step, by module: A and B of adapters, or the full weight.
pub fn module_gradients(spec: &ModelSpec, norms: &[(String, f64)]) -> Vec<(String, ModuleGradient)> {
    let norms: BTreeMap<&str, f64> = norms.iter().map(|(name, norm)| (name.as_str(), *norm)).collect();
    let norm = |name: &str| norms.get(name).copied();
    spec.modules()
        .map(|module| {
            let [a, b] = adapter_names(spec, module);
            let name = spec.module_name(module);
            let weight = norm(&format!("{name}.weight"));
            (name, ModuleGradient { a: norm(&a), b: norm(&b), weight })
        })
        .collect()
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
