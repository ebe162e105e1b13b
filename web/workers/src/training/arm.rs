//! One adapter and its optimizer.
//!
//! Everything that is trained lies in one vector: AdamW takes a dozen operations then instead of a dozen for each of
//! ninety small matrices, and on a GPU it is the number of operations that costs. Its arithmetic is element by element, so
//! the result is the same. Burn's own optimizer cannot be used here: its state can be read only synchronously, which
//! a browser does not allow, and is loaded on a default device, which a browser does not have.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer};
use burn::tensor::{Device, Tensor, TensorData, Transaction};
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{Backward, GradientSquares, OptimizerConfig, StepReadout, loss_and_gradients};
use hydra_shared::vlm::{AdapterShape, MobileVlm, ModelError, ParamNames, Trainable, WeightError, initial_adapters};

use super::TrainingError;

/// What is trained: as in MobileVLM's second stage with LoRA, and in the trainer.
pub const TRAINABLE: Trainable = Trainable::ProjectorAndLora;

/// An adapter in training.
pub struct ArmState {
    model: MobileVlm,
    optimizer: AdamW,
    max_grad_norm: f64,
    /// The trained parameters, in the model's order.
    values: Tensor<1>,
    momentum: Option<AdaptiveMomentumState<1>>,
}

/// An [`ArmState`] on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmSnapshot {
    values: Vec<f32>,
    /// AdamW's steps and moments; none before the first step.
    momentum: Option<(usize, Vec<f32>, Vec<f32>)>,
}

impl ArmState {
    /// A new adapter on a model.
    ///
    /// # Errors
    /// Ranks that do not fit the model.
    pub fn new(
        base: &MobileVlm,
        shapes: &[AdapterShape],
        seed: u32,
        config: &OptimizerConfig,
    ) -> Result<Self, TrainingError> {
        let adapters = initial_adapters(base.spec(), shapes, u64::from(seed));
        let model = base.clone().with_adapters(shapes, adapters)?.trained(TRAINABLE);
        let values = flat(&model, None);
        let optimizer = AdamWConfig::new()
            .with_beta_1(config.beta1)
            .with_beta_2(config.beta2)
            .with_epsilon(config.epsilon)
            .with_weight_decay(config.weight_decay)
            .build();
        Ok(Self { model, optimizer, max_grad_norm: config.max_grad_norm, values, momentum: None })
    }

    /// The model with the adapter as it is, nothing in it tracked.
    pub fn model(&self) -> MobileVlm {
        self.model.frozen()
    }

    /// Takes one step; the report is of before the update.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn step(
        &mut self,
        batch: &Batch,
        features: Option<Tensor<3>>,
        learning_rate: f64,
    ) -> Result<StepReadout, TrainingError> {
        let answers = batch.answer_ids.len();
        let (loss, grads) = loss_and_gradients(&self.model, batch, features, answers, &Backward::default());
        let squares = GradientSquares::new(&self.model, &grads);
        let mut gradient = flat(&self.model, Some(&grads));
        if let Some(factor) = squares.clip_factor(self.max_grad_norm) {
            gradient = gradient * factor;
        }
        let state = self.momentum.take().map(AdamWState::new);
        let (values, state) = self.optimizer.step(learning_rate, self.values.clone(), gradient, state);
        self.momentum = state.map(|state| state.momentum);
        self.put(values);
        Ok(squares.read(loss, true).await?)
    }

    /// Copies the state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn snapshot(&self) -> Result<ArmSnapshot, TrainingError> {
        let mut transaction = Transaction::default().register(self.values.clone());
        if let Some(momentum) = &self.momentum {
            transaction = transaction.register(momentum.moment_1.clone()).register(momentum.moment_2.clone());
        }
        let failed = |error: String| TrainingError::Model(ModelError::Weights(WeightError::Device(error)));
        let data = transaction.execute_async().await.map_err(|error| failed(format!("{error:?}")))?;
        let mut vectors = data.into_iter().map(|data| data.convert::<f32>().try_to_vec::<f32>());
        let mut next = || vectors.next().transpose().map_err(|error| failed(format!("{error:?}")));
        let (values, first, second) = (next()?, next()?, next()?);
        let time = self.momentum.as_ref().map(|momentum| momentum.time);
        let momentum = match (time, first, second) {
            (Some(time), Some(first), Some(second)) => Some((time, first, second)),
            _ => None,
        };
        Ok(ArmSnapshot { values: values.unwrap_or_default(), momentum })
    }

    /// Takes the state of a snapshot, which may be of another device.
    pub fn restore(&mut self, snapshot: &ArmSnapshot) {
        let device = self.model.device();
        self.momentum = snapshot.momentum.as_ref().map(|(time, first, second)| {
            AdaptiveMomentumState::new(*time, vector(first, &device), vector(second, &device))
        });
        self.put(vector(&snapshot.values, &device));
    }

    /// Makes `values` the model's trained parameters.
    fn put(&mut self, values: Tensor<1>) {
        self.values = values.clone();
        let mut put = Put { names: self.model.names().clone(), values, next: 0 };
        self.model = self.model.clone().map(&mut put);
    }
}

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The trained parameters as one vector, in the model's order; with `grads`, their gradients instead.
fn flat(model: &MobileVlm, grads: Option<&GradientsParams>) -> Tensor<1> {
    let mut flatten = Flatten { names: model.names(), grads, parts: Vec::new() };
    model.visit(&mut flatten);
    Tensor::cat(flatten.parts, 0)
}

struct Flatten<'a> {
    names: &'a ParamNames,
    grads: Option<&'a GradientsParams>,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !is_trained(self.names, param) {
            return;
        }
        let value = param.val().inner();
        let elements = value.shape().num_elements();
        let value = match self.grads {
            None => value,
            // A parameter that nothing depends on has no gradient.
            Some(grads) => grads.get::<D>(param.id).unwrap_or_else(|| value.zeros_like()),
        };
        self.parts.push(value.reshape([elements]));
    }
}

struct Put {
    names: ParamNames,
    values: Tensor<1>,
    next: usize,
}

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !is_trained(&self.names, &param) {
            return param;
        }
        let (id, shape) = (param.id, param.val().shape());
        let end = self.next + shape.num_elements();
        let value = self.values.clone().narrow(0, self.next, shape.num_elements()).reshape(shape);
        self.next = end;
        Param::initialized(id, value.autodiff().require_grad())
    }
}

fn is_trained<const D: usize>(names: &ParamNames, param: &Param<Tensor<D>>) -> bool {
    names.name(param.id).is_some_and(|name| TRAINABLE.includes(name))
}
