//! AdamW, the schedule of its learning rate, and the two ways in which it is applied.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor, TensorData, Transaction};
use serde::{Deserialize, Serialize};

use super::gradients::{part_gradients, scale_gradients};
use crate::vlm::{AdapterShape, MobileVlm, ModelError, PROJECTOR_PREFIX, Trainable, WeightError};

/// AdamW and its schedule; the defaults are PyTorch's and MobileVLM's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Peak learning rate of the projector; without it that of everything else. With a rate of its own, tuning that of LoRA does
    /// not tune the projector as well.
    pub projector_learning_rate: Option<f64>,
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
            projector_learning_rate: None,
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
        self.learning_rate * self.factor_at(step, steps)
    }

    /// Learning rates of a step, as [`Self::learning_rate_at`].
    pub fn rates_at(&self, step: usize, steps: usize) -> StepRates {
        let factor = self.factor_at(step, steps);
        let projector = self.projector_learning_rate.unwrap_or(self.learning_rate);
        StepRates { rest: self.learning_rate * factor, projector: projector * factor }
    }

    fn factor_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = (self.warmup_ratio * steps as f64).ceil() as usize;
        let factor = if step < warmup {
            step as f64 / warmup.max(1) as f64
        } else {
            let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
            0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        };
        factor.max(0.0)
    }
}

/// Learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRates {
    /// That of the projector.
    pub projector: f64,
    /// That of everything else.
    pub rest: f64,
}

impl StepRates {
    /// Both rates times `factor`.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { projector: self.projector * factor, rest: self.rest * factor }
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
        rates: StepRates,
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
        rates: StepRates,
    ) -> MobileVlm {
        let gradients = match factor {
            Some(factor) => scale_gradients(&model, gradients, factor),
            None => gradients,
        };
        if rates.projector == rates.rest {
            return self.step(rates.rest, model, gradients);
        }
        // Its state is kept by parameter: two steps of half the parameters each are one step of all.
        let (projector, rest) = part_gradients(&model, gradients, is_projector);
        let model = self.step(rates.rest, model, rest);
        self.step(rates.projector, model, projector)
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
    /// Where the projector has a learning rate of its own: by how much each parameter's differs from the rest's.
    factors: Option<Tensor<1>>,
}

/// Trained parameters and a [`FlatAdamW`] on the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlatSnapshot {
    values: Vec<f32>,
    /// AdamW's steps and moments; none before the first step.
    momentum: Option<(usize, Vec<f32>, Vec<f32>)>,
}

impl FlatSnapshot {
    /// Whether it is of as many parameters as another one, so that [`FlatAdamW::restore`] takes it where it takes that.
    pub fn fits(&self, other: &Self) -> bool {
        let count = other.values.len();
        let moments = self.momentum.iter().flat_map(|(_, first, second)| [first.len(), second.len()]);
        std::iter::once(self.values.len()).chain(moments).all(|length| length == count)
    }
}

impl StepOptimizer for FlatAdamW {
    fn new(config: &OptimizerConfig, model: &MobileVlm) -> Self {
        let factors = config.projector_learning_rate.map(|projector| {
            let factor = projector / config.learning_rate;
            flat_factors(model, &|name| if is_projector(name) { factor } else { 1.0 })
        });
        Self { adamw: config.adamw().build(), values: flat(model, None), momentum: None, factors }
    }

    fn update(
        &mut self,
        model: MobileVlm,
        gradients: GradientsParams,
        factor: Option<&Tensor<1>>,
        rates: StepRates,
    ) -> MobileVlm {
        let mut gradient = flat(&model, Some(&gradients));
        if let Some(factor) = factor {
            gradient = gradient * factor.clone();
        }
        let state = self.momentum.take().map(AdamWState::new);
        let (stepped, state) = self.adamw.step(rates.rest, self.values.clone(), gradient, state);
        self.momentum = state.map(|state| state.momentum);
        let values = match &self.factors {
            // A step of AdamW, decay included, is in proportion to its learning rate.
            Some(factors) => self.values.clone() + (stepped - self.values.clone()) * factors.clone(),
            None => stepped,
        };
        self.replace(model, values)
    }
}

impl FlatAdamW {
    /// [`StepOptimizer::update`] of what lies within the truncation of every adapter; parameters and moments outside of it stay as
    /// they are.
    pub(super) fn update_truncated(
        &mut self,
        model: MobileVlm,
        shapes: &[AdapterShape],
        trainable: Trainable,
        (gradients, factor): (GradientsParams, Option<&Tensor<1>>),
        rates: StepRates,
    ) -> MobileVlm {
        let inside = flat(&model.clone().map(&mut Ones).truncated(shapes).trained(trainable), None);
        let (values, momentum) = (self.values.clone(), self.momentum.clone());
        let model = self.update(model, gradients, factor, rates);
        let outside = inside.ones_like() - inside.clone();
        let joined = |new: Tensor<1>, old: Tensor<1>| new * inside.clone() + old * outside.clone();
        self.momentum = self.momentum.take().map(|AdaptiveMomentumState { time, moment_1, moment_2, .. }| {
            let [first, second] = match momentum {
                Some(before) => [before.moment_1, before.moment_2],
                None => [moment_1.zeros_like(), moment_2.zeros_like()],
            };
            AdaptiveMomentumState::new(time, joined(moment_1, first), joined(moment_2, second))
        });
        let values = joined(self.values.clone(), values);
        self.replace(model, values)
    }

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

fn is_projector(name: &str) -> bool {
    name.starts_with(PROJECTOR_PREFIX)
}

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The trained parameters as one vector, in the model's order; with `gradients`, their gradients instead.
fn flat(model: &MobileVlm, gradients: Option<&GradientsParams>) -> Tensor<1> {
    flat_parts(model, FlatKind::Values { gradients })
}

/// A number for each trained parameter, by its checkpoint name, as one vector in the model's order.
fn flat_factors(model: &MobileVlm, factor: &dyn Fn(&str) -> f64) -> Tensor<1> {
    flat_parts(model, FlatKind::Factors { model, factor })
}

fn flat_parts(model: &MobileVlm, kind: FlatKind<'_>) -> Tensor<1> {
    let mut flatten = Flatten { kind, parts: Vec::new() };
    model.visit(&mut flatten);
    if flatten.parts.is_empty() {
        return Tensor::zeros([0], &model.device());
    }
    Tensor::cat(flatten.parts, 0)
}

/// What [`Flatten`] puts into its vector.
enum FlatKind<'a> {
    /// The parameters, or their gradients.
    Values { gradients: Option<&'a GradientsParams> },
    /// A number for each of them.
    Factors { model: &'a MobileVlm, factor: &'a dyn Fn(&str) -> f64 },
}

struct Flatten<'a> {
    kind: FlatKind<'a>,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let value = param.val().inner();
        let elements = value.shape().num_elements();
        let value = match &self.kind {
            FlatKind::Values { gradients: None } => value,
            // A parameter that nothing depends on has no gradient.
            FlatKind::Values { gradients: Some(gradients) } => {
                gradients.get::<D>(param.id).unwrap_or_else(|| value.zeros_like())
            }
            FlatKind::Factors { model, factor } => {
                let name = model.names().name(param.id).unwrap_or_default();
                value.ones_like().mul_scalar(factor(name))
            }
        };
        self.parts.push(value.reshape([elements]));
    }
}

/// 1 in place of everything that is trained.
struct Ones;

impl ModuleMapper for Ones {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let id = param.id;
        Param::initialized(id, param.into_value().inner().ones_like())
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
