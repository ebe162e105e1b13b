//! The decoder's forward and backward pass on the CPU, as few passes over memory as it takes.
//!
//! The tensor backend computes one operation after the other, each with a matrix of its own, and remembers all of them for the
//! way back. For a decoder whose weights are frozen, of which adapters alone are trained, the same is computed here by hand:
//!
//! - padding is left out: sequences lie one after the other,
//! - in single precision an adapter is folded into its weight, W + s·A·B, once a step and layer, so that a projection is one product; its gradients
//!   follow from x·A and dy·Bᵀ and never take a whole gradient of W,
//! - attention multiplies what is seen, in blocks of queries; the last layer attends from the positions alone that predict,
//! - norm, rotation, SwiGLU and softmax are one pass each (`hydra_kernels::decoder`), with the vector instructions that the
//!   processor has.
//!
//! Gradients are those of the tensors' automatic differentiation up to rounding (`tests.rs`). With products in bfloat16 their
//! factors are rounded ([`RoundedDecoder`]). Not for half precision, dropout, a decoder that is trained as a whole, and other
//! devices.

mod attention;
mod head;
mod layer;
mod linear;
mod product;
#[cfg(test)]
mod tests;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use hydra_kernels::Level;

use self::attention::{Heads, Rope, Sequence};
use self::layer::{Kept, Layer, Pass, Queries, RoundedLayer, take_rows};
use self::linear::{Gradient, values};
use super::MobileVlm;
use super::batch::Batch;
use super::compute::Compute;
use super::decoder::Decoder;
use super::frozen_loss::{frozen_loss, rounded_loss};
use super::lora::{ForwardOptions, LoraAdapter};
use super::spec::DecoderSpec;
use super::training::{Recompute, backward_from, sum_of_cross_entropies};

pub use self::head::Head;

/// Whether [`decoder_gradients`] computes this model's gradients.
pub fn applies(model: &MobileVlm, options: ForwardOptions<'_>) -> bool {
    options.compute != Compute::F16
        && options.dropout.is_none()
        && model.device() == Device::flex()
        && model.decoder.is_frozen()
}

/// A frozen decoder's matrices, rounded to bfloat16 and laid out for products both ways: what all steps of a run share.
pub struct RoundedDecoder {
    layers: Vec<RoundedLayer>,
    head: Head,
}

impl RoundedDecoder {
    /// Rounds them; it takes as much memory as they do in single precision.
    pub fn load(decoder: &Decoder) -> Self {
        let layers = 0..decoder.spec().layers;
        Self {
            layers: layers.map(|layer| RoundedLayer::load(decoder.layer(layer))).collect(),
            head: Head::load(decoder),
        }
    }
}

/// Loss of a batch's answers and its gradients.
pub struct DecoderGradients {
    /// Sum of the cross-entropies of the answer tokens, `[1]`.
    pub loss: Tensor<1>,
    /// Of A and B of every adapter that is trained.
    pub adapters: GradientsParams,
    /// By what came in, `[rows·length, hidden]`, 0 for padding; none where it was not wanted.
    pub input: Option<Tensor<2>>,
}

/// Sum of the cross-entropies of a batch's answer tokens, and the gradients of `factor` times that sum; in bfloat16 where the
/// decoder's matrices are given in it. Scores of a head whose adapter is trained are computed in single precision.
///
/// # Shapes
/// - `spliced`: `[rows·length, hidden]`, right-padded, not tracked
pub fn decoder_gradients(
    decoder: &Decoder,
    batch: &Batch,
    spliced: Tensor<2>,
    input_wanted: bool,
    factor: f32,
    recompute: Recompute,
    rounded: Option<&RoundedDecoder>,
) -> DecoderGradients {
    let device = spliced.device();
    let spec = decoder.spec();
    let hidden = spec.hidden;
    let packed = Packed::new(batch);
    let pass = packed.pass(spec, batch.length);
    let (all, answers) = (packed.every_row(), packed.answers(batch));
    let last = spec.layers.saturating_sub(1);
    let queries = |layer: usize| if layer == last { &answers } else { &all };

    let mut inputs = vec![take_rows(&values(spliced), &packed.rows, hidden)];
    let mut kept: Vec<Kept> = Vec::new();
    let wanted = input_wanted || decoder.has_trained_adapters();
    let load = |layer: usize| Layer::load(decoder.layer(layer), rounded.map(|rounded| &rounded.layers[layer]));
    for layer in 0..spec.layers {
        let (y, own) = load(layer).forward(&pass, queries(layer), &inputs[layer], None);
        inputs.push(y);
        if wanted && recompute == Recompute::None {
            kept.push(own);
        }
    }
    let top = answer_rows(inputs.pop().unwrap_or_default(), spec, &answers, &device);
    // Norm and head are computed of the answers alone, and are the tensors'.
    let leaf = top.autodiff().require_grad();
    let states = decoder.final_norm(leaf.clone());
    let mut adapters = GradientsParams::new();
    let (loss, mut upstream) = if let Some(LoraAdapter { a, b, .. }) = decoder.trained_head_adapter() {
        let loss = sum_of_cross_entropies(decoder, states, &batch.answer_ids);
        let mut grads = loss.clone().mul_scalar(factor).backward();
        for param in [a, b] {
            if let Some(gradient) = param.val().grad_remove(&mut grads) {
                adapters.register(param.id, gradient);
            }
        }
        (loss.inner(), wanted.then(|| leaf.grad_remove(&mut grads).map(values)).flatten())
    } else {
        let (loss, gradient) = match rounded {
            Some(rounded) => rounded_loss(decoder, &states.clone().inner(), &batch.answer_ids, &rounded.head),
            None => frozen_loss(decoder, &states.clone().inner(), &batch.answer_ids, Compute::F32),
        };
        let back = || leaf.grad_remove(&mut backward_from(states, gradient.mul_scalar(factor))).map(values);
        (loss, wanted.then(back).flatten())
    };

    let mut gradients: Vec<Gradient> = Vec::new();
    for index in (0..spec.layers).rev() {
        let (Some(dy), Some(x)) = (upstream.take(), inputs.pop()) else { break };
        let layer = load(index);
        let kept = kept.pop().unwrap_or_else(|| layer.forward(&pass, queries(index), &x, None).1);
        upstream = layer.back(&pass, queries(index), (&x, kept), dy, index > 0 || input_wanted, &mut gradients);
    }
    for Gradient { id, shape, values } in gradients {
        adapters.register(id, Tensor::<2>::from_data(TensorData::new(values, shape), &device));
    }
    let input = upstream.filter(|_| input_wanted).map(|gradient| {
        let mut padded = vec![0.0; batch.rows * batch.length * hidden];
        attention::add_rows(Level::best(), &mut padded, &packed.rows, &gradient, hidden);
        Tensor::from_data(TensorData::new(padded, [batch.rows * batch.length, hidden]), &device)
    });
    DecoderGradients { loss, adapters, input }
}

/// What came out of the last layer, `[answers, hidden]`; without layers, those of all rows.
fn answer_rows(top: Vec<f32>, spec: &DecoderSpec, answers: &Queries, device: &Device) -> Tensor<2> {
    let rows = if spec.layers == 0 { take_rows(&top, &answers.rows, spec.hidden) } else { top };
    Tensor::from_data(TensorData::new(rows, [answers.rows.len(), spec.hidden]), device)
}

/// Final states at the answer positions of a batch, nothing of which is tracked, a layer after the other.
///
/// # Shapes
/// - `spliced`: `[rows·length, hidden]`
/// - returns: `[answers, hidden]`
pub fn decoder_states(decoder: &Decoder, batch: &Batch, spliced: Tensor<2>) -> Tensor<2> {
    let device = spliced.device();
    let spec = decoder.spec();
    let packed = Packed::new(batch);
    let pass = packed.pass(spec, batch.length);
    let (all, answers) = (packed.every_row(), packed.answers(batch));
    let mut x = take_rows(&values(spliced), &packed.rows, spec.hidden);
    for index in 0..spec.layers {
        let queries = if index + 1 == spec.layers { &answers } else { &all };
        x = Layer::load(decoder.layer(index), None).forward(&pass, queries, &x, None).0;
    }
    decoder.final_norm(answer_rows(x, spec, &answers, &device))
}

/// Bytes of a decoder's weights up to which a copy of all of them is held for a generation. Larger ones would have to be copied
/// for every token.
const HELD: usize = 64 << 20;

/// Whether a decoder is small enough for a [`Continuation`].
pub fn continues(decoder: &Decoder) -> bool {
    let spec = decoder.spec();
    let layer = 4 * spec.hidden * spec.heads * spec.head_dim + 3 * spec.hidden * spec.intermediate;
    4 * layer * spec.layers <= HELD
}

/// Sequences that grow at their ends, with the keys and values of what they hold.
pub struct Continuation<'a> {
    decoder: &'a Decoder,
    layers: Vec<Layer<'a>>,
    /// By layer and sequence.
    past: Vec<Vec<Vec<f32>>>,
    /// Positions of every sequence.
    lengths: Vec<usize>,
    device: Device,
}

impl<'a> Continuation<'a> {
    /// Reads prompts, whose batch was made for generation: the final states of their last positions, `[prompts, hidden]`.
    pub fn new(decoder: &'a Decoder, batch: &Batch, spliced: Tensor<2>) -> (Self, Tensor<2>) {
        let spec = decoder.spec();
        let packed = Packed::new(batch);
        let pass = packed.pass(spec, batch.length);
        let (all, answers) = (packed.every_row(), packed.answers(batch));
        let mut started = Self {
            decoder,
            layers: (0..spec.layers).map(|index| Layer::load(decoder.layer(index), None)).collect(),
            past: vec![vec![Vec::new(); batch.rows]; spec.layers],
            lengths: batch.lengths.clone(),
            device: spliced.device(),
        };
        let mut x = take_rows(&values(spliced), &packed.rows, spec.hidden);
        for (index, (layer, past)) in started.layers.iter().zip(&mut started.past).enumerate() {
            let queries = if index + 1 == spec.layers { &answers } else { &all };
            let mut past: Vec<&mut Vec<f32>> = past.iter_mut().collect();
            x = layer.forward(&pass, queries, &x, Some(&mut past)).0;
        }
        let states = decoder.final_norm(answer_rows(x, spec, &answers, &started.device));
        (started, states)
    }

    /// Adds a position to each of some sequences, which are named in ascending order: the final states of the new positions.
    ///
    /// # Shapes
    /// `[sequences named, hidden]` → the same
    pub fn extend(&mut self, sequences: &[usize], embedded: Tensor<2>) -> Tensor<2> {
        let spec = self.decoder.spec();
        let positions: Vec<usize> = sequences.iter().map(|sequence| self.lengths[*sequence]).collect();
        let own = positions.iter().enumerate();
        let queries = Queries {
            rows: (0..sequences.len()).collect(),
            sequences: own
                .map(|(row, position)| Sequence {
                    rows: row..row + 1,
                    queries: row..row + 1,
                    positions: vec![*position],
                })
                .collect(),
        };
        let longest = positions.iter().max().map_or(0, |position| position + 1);
        let pass = pass_over(spec, longest, positions);
        let mut x = values(embedded);
        for (layer, past) in self.layers.iter().zip(&mut self.past) {
            let named = past.iter_mut().enumerate().filter(|(sequence, _)| sequences.binary_search(sequence).is_ok());
            let mut past: Vec<&mut Vec<f32>> = named.map(|(_, past)| past).collect();
            x = layer.forward(&pass, &queries, &x, Some(&mut past)).0;
        }
        for sequence in sequences {
            self.lengths[*sequence] += 1;
        }
        let shape = [sequences.len(), spec.hidden];
        self.decoder.final_norm(Tensor::from_data(TensorData::new(x, shape), &self.device))
    }
}

fn pass_over(spec: &DecoderSpec, longest: usize, positions: Vec<usize>) -> Pass {
    Pass {
        level: Level::best(),
        heads: Heads::new(spec),
        rope: Rope::new(spec, longest),
        positions,
        hidden: spec.hidden,
        intermediate: spec.intermediate,
    }
}

/// The sequences of a batch, one after the other, without their padding.
struct Packed {
    /// Where each row stands in the batch.
    rows: Vec<usize>,
    /// Rows before each sequence, and of all.
    starts: Vec<usize>,
    /// Positions in front of each sequence that are padding.
    padding: Vec<usize>,
    /// Positions of a sequence in the batch.
    length: usize,
}

impl Packed {
    fn new(batch: &Batch) -> Self {
        let mut packed = Self { rows: Vec::new(), starts: vec![0], padding: Vec::new(), length: batch.length };
        for (row, (length, padding)) in batch.lengths.iter().zip(&batch.padding).enumerate() {
            let first = row * batch.length + padding;
            packed.rows.extend(first..first + length);
            packed.starts.push(packed.rows.len());
            packed.padding.push(*padding);
        }
        packed
    }

    fn pass(&self, spec: &DecoderSpec, longest: usize) -> Pass {
        let positions = self.starts.windows(2).flat_map(|bounds| 0..bounds[1] - bounds[0]).collect();
        pass_over(spec, longest, positions)
    }

    /// Every row goes on.
    fn every_row(&self) -> Queries {
        self.queries((0..self.rows.len()).collect())
    }

    /// The rows go on that predict an answer token, in the order of the batch.
    fn answers(&self, batch: &Batch) -> Queries {
        let packed = |position: &i32| {
            let position = usize::try_from(*position).unwrap_or(0);
            let (row, column) = (position / self.length.max(1), position % self.length.max(1));
            self.starts[row] + column - self.padding[row]
        };
        self.queries(batch.answer_positions.iter().map(packed).collect())
    }

    /// `rows` are in ascending order.
    fn queries(&self, rows: Vec<usize>) -> Queries {
        let mut sequences = Vec::with_capacity(self.starts.len());
        let mut first = 0;
        for bounds in self.starts.windows(2) {
            let own = rows[first..].iter().take_while(|row| **row < bounds[1]);
            let positions: Vec<usize> = own.map(|row| row - bounds[0]).collect();
            let end = first + positions.len();
            sequences.push(Sequence { rows: bounds[0]..bounds[1], queries: first..end, positions });
            first = end;
        }
        Queries { rows, sequences }
    }
}
