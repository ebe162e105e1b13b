//! The loss of a micro-batch and its gradients.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Gradients, Tensor};
use serde::{Deserialize, Serialize};

#[cfg(not(target_family = "wasm"))]
use crate::vlm::Compute;
use crate::vlm::batch::Batch;
use crate::vlm::decoder::Decoder;
use crate::vlm::frozen_loss::frozen_loss;
#[cfg(not(target_family = "wasm"))]
use crate::vlm::fused::{self, RoundedDecoder};
use crate::vlm::{ForwardOptions, MobileVlm, indices};

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
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// Precision of the products, and dropout.
    pub forward: ForwardOptions<'a>,
    /// What is kept for the backward pass.
    pub recompute: Recompute,
    /// The gradients are those of the loss times this factor ([`LossScale`](crate::vlm::LossScale)).
    pub loss_scale: f32,
    /// The decoder's matrices in bfloat16, for products in it ([`TrainingState::rounded`](super::TrainingState::rounded)). Without
    /// them they are rounded anew.
    #[cfg(not(target_family = "wasm"))]
    pub rounded: Option<&'a RoundedDecoder>,
}

impl Default for Backward<'_> {
    fn default() -> Self {
        Self {
            forward: ForwardOptions::default(),
            recompute: Recompute::None,
            loss_scale: 1.0,
            #[cfg(not(target_family = "wasm"))]
            rounded: None,
        }
    }
}

/// Sum of the cross-entropies of a batch's answer tokens, divided by `answers`.
///
/// `answers` is the number of answer tokens of the whole optimizer step: then the losses and gradients of its
/// micro-batches add up to those of one large batch.
pub fn answer_loss(model: &MobileVlm, batch: &Batch, features: Option<Tensor<3>>, answers: usize) -> Tensor<1> {
    cross_entropy(model, answer_states(model, batch, features, ForwardOptions::default()), batch, answers)
}

/// Final states at the answer positions.
fn answer_states(
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    options: ForwardOptions<'_>,
) -> Tensor<2> {
    let states = model.decoder.forward(model.splice(batch, features), batch.rows, batch.length, options);
    states.select(0, indices(&batch.answer_positions, &model.device()))
}

/// The gradients of what `output` depends on, given the gradient by it. Burn's backward pass begins with a number: this sum has
/// the gradient as its derivative.
pub(crate) fn backward_from(output: Tensor<2>, gradient: Tensor<2>) -> Gradients {
    (output * gradient).sum().backward()
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
    let compute = backward.forward.compute;
    let (loss, gradient) = frozen_loss(&model.decoder, &states.clone().inner(), &batch.answer_ids, compute);
    let grads = backward_from(states, gradient.div_scalar(answers / f64::from(backward.loss_scale)));
    (loss.div_scalar(answers), grads)
}

/// `states` are the final states at the answer positions.
fn cross_entropy(model: &MobileVlm, states: Tensor<2>, batch: &Batch, answers: usize) -> Tensor<1> {
    sum_of_cross_entropies(&model.decoder, states, &batch.answer_ids).div_scalar(answers.max(1) as f64)
}

/// Sum of the cross-entropies of states and the tokens that they should predict.
pub(in crate::vlm) fn sum_of_cross_entropies(decoder: &Decoder, states: Tensor<2>, targets: &[i32]) -> Tensor<1> {
    let targets = indices(targets, &states.device().inner()).reshape([targets.len(), 1]);
    log_softmax(decoder.logits(states), 1).gather(1, targets).sum().neg()
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
    #[cfg(not(target_family = "wasm"))]
    if !batch.answer_ids.is_empty() && fused::applies(model, backward.forward) {
        return by_hand(model, batch, features, answers, backward);
    }
    match backward.recompute {
        Recompute::None => {
            let states = answer_states(model, batch, features, backward.forward);
            if !states.is_tracked() && !model.decoder.head_is_trained() {
                // The projector alone is trained, and there is no picture; or nothing is trained.
                let (loss, _) = frozen_loss(&model.decoder, &states, &batch.answer_ids, backward.forward.compute);
                return (loss.div_scalar(answers.max(1) as f64), GradientsParams::new());
            }
            let (loss, grads) = cross_entropy_backward(model, states, batch, answers, backward);
            (loss, GradientsParams::from_grads(grads, model))
        }
        Recompute::Blocks => by_blocks(model, batch, features, answers, backward),
    }
}

/// With the decoder's passes on the CPU computed by hand; of the projector the tensors' graph knows.
#[cfg(not(target_family = "wasm"))]
fn by_hand(
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    answers: usize,
    backward: &Backward<'_>,
) -> (Tensor<1>, GradientsParams) {
    let spliced = model.splice(batch, features);
    let answers = answers.max(1) as f32;
    let factor = backward.loss_scale / answers;
    let input = spliced.clone().inner();
    let wanted = spliced.is_tracked();
    let rounds = backward.forward.compute == Compute::Bf16;
    let own = (rounds && backward.rounded.is_none()).then(|| RoundedDecoder::load(&model.decoder));
    let rounded = backward.rounded.filter(|_| rounds).or(own.as_ref());
    let found = fused::decoder_gradients(&model.decoder, batch, input, wanted, factor, backward.recompute, rounded);
    let mut accumulator = GradientsAccumulator::new();
    accumulator.accumulate(model, found.adapters);
    if let Some(gradient) = found.input {
        accumulator.accumulate(model, GradientsParams::from_grads(backward_from(spliced, gradient), model));
    }
    (found.loss.div_scalar(answers), accumulator.grads())
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
    let pass = decoder.pass(batch.rows, batch.length, backward.forward, &device);
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
        let mut grads = backward_from(decoder.block(layer, input.clone(), &pass), gradient);
        upstream = input.grad_remove(&mut grads);
        accumulator.accumulate(model, GradientsParams::from_grads(grads, model));
    }
    if let Some(gradient) = upstream.filter(|_| spliced.is_tracked()) {
        accumulator.accumulate(model, GradientsParams::from_grads(backward_from(spliced, gradient), model));
    }
    (loss, accumulator.grads())
}
