//! What is measured of gradients, and done to all of them: norms, clipping, reading them.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, Transaction};

use crate::gradients::ModuleGradient;
use crate::vlm::lora::{Adapted, adapted_modules};
use crate::vlm::spec::ModelSpec;
use crate::vlm::{MobileVlm, ModelError, WeightError};

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

/// Gradient norms of a step, by module: A and B of adapters, or the full weight. Ends of the decoder are among them where they
/// have adapters.
pub fn module_gradients(spec: &ModelSpec, norms: &[(String, f64)]) -> Vec<(String, ModuleGradient)> {
    let norms: BTreeMap<&str, f64> = norms.iter().map(|(name, norm)| (name.as_str(), *norm)).collect();
    let norm = |name: &str| norms.get(name).copied();
    let gradient = |module: Adapted| {
        let [a, b] = module.names(spec).map(|name| norm(&name));
        let name = module.name(spec);
        let weight = norm(&format!("{name}.weight"));
        let counts = matches!(module, Adapted::Layer(_)) || a.is_some() || b.is_some();
        counts.then_some((name, ModuleGradient { a, b, weight }))
    };
    adapted_modules(spec).filter_map(gradient).collect()
}

impl GradientSquares {
    /// Queues the sums of squares on the device.
    pub fn new(model: &MobileVlm, grads: &GradientsParams) -> Self {
        let mut visitor = SquaresVisitor { model, grads, names: Vec::new(), squares: Vec::new() };
        model.visit(&mut visitor);
        Self { names: visitor.names, squares: visitor.squares }
    }

    /// Reads the loss and every gradient norm, in one transfer.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn read(self, loss: Tensor<1>) -> Result<StepReadout, ModelError> {
        let mut transaction = Transaction::default().register(loss.inner());
        if !self.squares.is_empty() {
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

/// The gradients of the parameters whose checkpoint names `first` takes, and those of the others.
pub fn part_gradients(
    model: &MobileVlm,
    grads: GradientsParams,
    first: fn(&str) -> bool,
) -> (GradientsParams, GradientsParams) {
    let mut visitor = PartVisitor { model, first, part: GradientsParams::new(), rest: grads };
    model.visit(&mut visitor);
    (visitor.part, visitor.rest)
}

struct PartVisitor<'a> {
    model: &'a MobileVlm,
    first: fn(&str) -> bool,
    part: GradientsParams,
    rest: GradientsParams,
}

impl ModuleVisitor for PartVisitor<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.model.names().name(param.id).is_some_and(self.first) {
            return;
        }
        if let Some(grad) = self.rest.remove::<D>(param.id) {
            self.part.register(param.id, grad);
        }
    }
}
