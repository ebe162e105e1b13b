//! The loss of a head that is not trained.
//!
//! The scores over the vocabulary are larger than everything else in a step. Where their matrix is frozen, loss and gradient
//! by the states come from one pass over a part of the states after the other, and no scores are kept for a backward pass.

use burn::tensor::{Device, IndexingUpdateOp, Tensor};
use hydra_kernels::Level;
use hydra_kernels::decoder::likelihoods;

use super::compute::{Compute, widened};
use super::decoder::Decoder;
#[cfg(not(target_family = "wasm"))]
use super::fused::Head;
use super::indices;

/// Most scores that are held at a time: 64 MiB of them. Fewer would mean to lay out the head's matrix for a product more
/// often.
pub(super) const SCORES_AT_ONCE: usize = 1 << 24;

/// What softmaxes less the chosen tokens are multiplied by in half precision, whose smallest normal number is 6e-5: an even
/// choice among a large vocabulary is below that. They add up to 2 at most, so that no product overflows.
const RESIDUAL_SCALE: f32 = 1024.0;

/// Sum of the cross-entropies of states and the tokens that they should predict, and its gradient by the states, both in single
/// precision.
///
/// # Shapes
/// - `states`: `[answers, hidden]`, not tracked
/// - returns: `[1]` and `[answers, hidden]`
pub(super) fn frozen_loss(
    decoder: &Decoder,
    states: &Tensor<2>,
    targets: &[i32],
    compute: Compute,
) -> (Tensor<1>, Tensor<2>) {
    #[cfg(not(target_family = "wasm"))]
    if compute == Compute::Bf16 {
        return rounded_loss(decoder, states, targets, &Head::load(decoder));
    }
    let head = decoder.head(compute);
    let by = |matrix: Tensor<2>| move |rows| widened(compute.factor(rows).matmul(matrix.clone()));
    loss_by(decoder, states, targets, compute, by(head.clone()), by(head.swap_dims(0, 1)))
}

/// [`frozen_loss`] with the head's matrix rounded to bfloat16.
#[cfg(not(target_family = "wasm"))]
pub(super) fn rounded_loss(
    decoder: &Decoder,
    states: &Tensor<2>,
    targets: &[i32],
    head: &Head,
) -> (Tensor<1>, Tensor<2>) {
    loss_by(decoder, states, targets, Compute::Bf16, |rows| head.scores(rows), |by_scores| head.back(by_scores))
}

/// [`frozen_loss`], where `scores_of` multiplies with the head's matrix, and `back_of` with its transpose.
fn loss_by(
    decoder: &Decoder,
    states: &Tensor<2>,
    targets: &[i32],
    compute: Compute,
    scores_of: impl Fn(Tensor<2>) -> Tensor<2>,
    back_of: impl Fn(Tensor<2>) -> Tensor<2>,
) -> (Tensor<1>, Tensor<2>) {
    let device = states.device();
    let vocab = decoder.spec().vocab;
    let at_once = (SCORES_AT_ONCE / vocab.max(1)).max(1);
    // Parts of one size, rather than a small one at the end.
    let at_once = targets.len().div_ceil(targets.len().div_ceil(at_once).max(1)).max(1);
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for (part, targets) in targets.chunks(at_once).enumerate() {
        let rows = states.clone().narrow(0, part * at_once, targets.len());
        let ids = indices(targets, &device);
        let scores = scores_of(rows.clone());
        let (loss, gradient) = match compute {
            Compute::F32 => {
                let columns = decoder.head_columns(ids);
                let chosen = (rows * columns.clone()).sum_dim(1);
                let Likelihoods { values, largest, sum } = Likelihoods::of(scores, &device);
                // The softmax is divided after the product, which has fewer columns.
                (sum.clone().log() + largest - chosen, back_of(values) / sum - columns)
            }
            Compute::Bf16 | Compute::F16 => {
                let ids = ids.unsqueeze_dim(1);
                // The same rounded score that is in the sum: no loss is negative.
                let chosen = scores.clone().gather(1, ids.clone());
                let Likelihoods { values, largest, sum } = Likelihoods::of(scores, &device);
                // The chosen token is taken off before the product is rounded: where the model is sure, both are nearly equal.
                let minus_one = chosen.full_like(-1.0);
                let residual = (values / sum.clone()).scatter(1, ids, minus_one, IndexingUpdateOp::Add);
                let product = back_of(residual.mul_scalar(RESIDUAL_SCALE));
                (sum.log() + largest - chosen, product.div_scalar(RESIDUAL_SCALE))
            }
        };
        losses.push(loss.sum());
        gradients.push(gradient);
    }
    if losses.is_empty() {
        return (Tensor::zeros([1], &device), states.zeros_like());
    }
    (Tensor::cat(losses, 0).sum(), Tensor::cat(gradients, 0))
}

/// Exponentials of scores, row by row: what a softmax is before its division.
struct Likelihoods {
    /// exp(score − largest), `[rows, vocab]`.
    values: Tensor<2>,
    /// The largest score of each row, `[rows, 1]`.
    largest: Tensor<2>,
    /// Sum of each row of `values`, `[rows, 1]`.
    sum: Tensor<2>,
}

impl Likelihoods {
    fn of(scores: Tensor<2>, device: &Device) -> Self {
        if *device == Device::flex() {
            return Self::in_place(scores, device);
        }
        let largest = scores.clone().max_dim(1);
        let values = (scores - largest.clone()).exp();
        let sum = values.clone().sum_dim(1);
        Self { values, largest, sum }
    }

    /// On the CPU: one pass over a row that is still in the cache, nothing allocated, and an exponential that the compiler
    /// can compute for several numbers at once.
    fn in_place(scores: Tensor<2>, device: &Device) -> Self {
        let [rows, vocab] = scores.dims();
        let mut data = scores.into_data();
        // Scores are always in single precision; were they not, the loss would say so.
        let (mut largest, mut sum) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
        if let Ok(values) = data.as_mut_slice::<f32>() {
            let level = Level::best();
            #[cfg(not(target_family = "wasm"))]
            {
                use rayon::prelude::*;
                let rows = values.par_chunks_mut(vocab.max(1)).zip(&mut largest).zip(&mut sum);
                rows.for_each(|((row, largest), sum)| {
                    likelihoods(level, row, vocab, std::slice::from_mut(largest), std::slice::from_mut(sum));
                });
            }
            #[cfg(target_family = "wasm")]
            likelihoods(level, values, vocab, &mut largest, &mut sum);
        }
        let column = |values: Vec<f32>| Tensor::<1>::from_data(values.as_slice(), device).reshape([rows, 1]);
        Self { values: Tensor::from_data(data, device), largest: column(largest), sum: column(sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_in_place_are_those_of_tensor_operations() {
        let device = Device::flex();
        let values: Vec<f32> = (0..3 * 37).map(|i| ((i * 7919) % 100) as f32 / 7.0 - 5.0).collect();
        let scores = Tensor::<1>::from_data(values.as_slice(), &device).reshape([3, 37]);
        let ours = Likelihoods::in_place(scores.clone(), &device);
        let largest = scores.clone().max_dim(1);
        let plain = (scores - largest.clone()).exp();
        let near = |a: Tensor<2>, b: Tensor<2>| (a - b).abs().max().into_scalar::<f32>() < 1e-5;
        assert!(near(ours.largest, largest));
        assert!(near(ours.sum, plain.clone().sum_dim(1)));
        assert!(near(ours.values, plain));
    }
}
