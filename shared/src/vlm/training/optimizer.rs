//! AdamW, the schedule of its learning rate, and the two ways in which it is applied.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor, TensorData, Transaction};
use serde::{Deserialize, Serialize};

use super::gradients::scale_gradients;
use crate::vlm::{MobileVlm, ModelError, WeightError};

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
    /// A fresh optimizer of Burn's.
    pub fn init(&self) -> ModuleOptimizer {
        self.adamw().init()
    }

    /// Burn's AdamW with these numbers.
    fn adamw(&self) -> AdamWConfig {
        AdamWConfig::new()
            .with_beta_1(self.beta1)
            .with_beta_2(self.beta2)
            .with_epsilon(self.epsilon)
            .with_weight_decay(self.weight_decay)
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

/// What changes a model's trained parameters by their gradients: AdamW in one of its forms, whose results are equal.
pub trait StepOptimizer: Sized {
    /// A fresh optimizer. The trained parameters of `model` are tracked.
    fn new(config: &OptimizerConfig, model: &MobileVlm) -> Self;

    /// The model after an update, its trained parameters tracked. Gradients are multiplied by `factor` first, where there is
    /// one.
    fn update(
        &mut self,
        model: MobileVlm,
        gradients: GradientsParams,
        factor: Option<&Tensor<1>>,
        learning_rate: f64,
    ) -> MobileVlm;
}

/// Burn's own, parameter by parameter: needs no copy of the parameters, and saves its state as Burn does.
impl StepOptimizer for ModuleOptimizer {
    fn new(config: &OptimizerConfig, _: &MobileVlm) -> Self {
        config.init()
    }

    fn update(
        &mut self,
        model: MobileVlm,
        gradients: GradientsParams,
        factor: Option<&Tensor<1>>,
        learning_rate: f64,
    ) -> MobileVlm {
        let gradients = match factor {
            Some(factor) => scale_gradients(&model, gradients, factor),
            None => gradients,
        };
        self.step(learning_rate, model, gradients)
    }
}

/// AdamW on one vector of all that is trained, for the browser.
///
/// It takes a dozen operations then instead of a dozen for each of ninety small matrices, and on a GPU it is the number of
/// operations that costs. Burn's own cannot be used in the browser: its state can be read only synchronously, which a browser
/// does not allow, and is loaded on a default device, which a browser does not have.
#[derive(Clone)]
pub struct FlatAdamW {
    adamw: AdamW,
    /// The trained parameters, in the model's order.
    values: Tensor<1>,
    momentum: Option<AdaptiveMomentumState<1>>,
}

/// Trained parameters and a [`FlatAdamW`] on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatSnapshot {
    values: Vec<f32>,
    /// AdamW's steps and moments; none before the first step.
    momentum: Option<(usize, Vec<f32>, Vec<f32>)>,
}

impl StepOptimizer for FlatAdamW {
    fn new(config: &OptimizerConfig, model: &MobileVlm) -> Self {
        Self { adamw: config.adamw().build(), values: flat(model, None), momentum: None }
    }

    fn update(
        &mut self,
        model: MobileVlm,
        gradients: GradientsParams,
        factor: Option<&Tensor<1>>,
        learning_rate: f64,
    ) -> MobileVlm {
        let mut gradient = flat(&model, Some(&gradients));
        if let Some(factor) = factor {
            gradient = gradient * factor.clone();
        }
        let state = self.momentum.take().map(AdamWState::new);
        let (values, state) = self.adamw.step(learning_rate, self.values.clone(), gradient, state);
        self.momentum = state.map(|state| state.momentum);
        self.replace(model, values)
    }
}

impl FlatAdamW {
    /// Copies the trained parameters and the moments to the host, in one transfer.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn snapshot(&self) -> Result<FlatSnapshot, ModelError> {
        let mut transaction = Transaction::default().register(self.values.clone());
        if let Some(momentum) = &self.momentum {
            transaction = transaction.register(momentum.moment_1.clone()).register(momentum.moment_2.clone());
        }
        let failed = |error: String| ModelError::Weights(WeightError::Device(error));
        let data = transaction.execute_async().await.map_err(|error| failed(format!("{error:?}")))?;
        let mut vectors = data.into_iter().map(|data| data.convert::<f32>().try_to_vec::<f32>());
        let mut next = || vectors.next().transpose().map_err(|error| failed(format!("{error:?}")));
        let (values, first, second) = (next()?, next()?, next()?);
        let time = self.momentum.as_ref().map(|momentum| momentum.time);
        let momentum = match (time, first, second) {
            (Some(time), Some(first), Some(second)) => Some((time, first, second)),
            _ => None,
        };
        Ok(FlatSnapshot { values: values.unwrap_or_default(), momentum })
    }

    /// Takes the state of a snapshot, which may be of another device, and returns the model with its parameters.
    #[must_use]
    pub fn restore(&mut self, model: MobileVlm, snapshot: &FlatSnapshot) -> MobileVlm {
        let device = model.device();
        self.momentum = snapshot.momentum.as_ref().map(|(time, first, second)| {
            AdaptiveMomentumState::new(*time, vector(first, &device), vector(second, &device))
        });
        self.replace(model, vector(&snapshot.values, &device))
    }

    /// Makes `values` the model's trained parameters.
    fn replace(&mut self, model: MobileVlm, values: Tensor<1>) -> MobileVlm {
        self.values = values.clone();
        model.map(&mut Unflatten { values, next: 0 })
    }
}

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The trained parameters as one vector, in the model's order; with `gradients`, their gradients instead.
fn flat(model: &MobileVlm, gradients: Option<&GradientsParams>) -> Tensor<1> {
    let mut flatten = Flatten { gradients, parts: Vec::new() };
    model.visit(&mut flatten);
    if flatten.parts.is_empty() {
        return Tensor::zeros([0], &model.device());
    }
    Tensor::cat(flatten.parts, 0)
}

struct Flatten<'a> {
    gradients: Option<&'a GradientsParams>,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let value = param.val().inner();
        let elements = value.shape().num_elements();
        let value = match self.gradients {
            None => value,
            // A parameter that nothing depends on has no gradient.
            Some(gradients) => gradients.get::<D>(param.id).unwrap_or_else(|| value.zeros_like()),
        };
        self.parts.push(value.reshape([elements]));
    }
}

/// The inverse of [`Flatten`].
struct Unflatten {
    values: Tensor<1>,
    next: usize,
}

impl ModuleMapper for Unflatten {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let (id, shape) = (param.id, param.val().shape());
        let elements = shape.num_elements();
        let value = self.values.clone().narrow(0, self.next, elements).reshape(shape);
        self.next += elements;
        Param::initialized(id, value.autodiff().require_grad())
    }
}
