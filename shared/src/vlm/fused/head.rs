//! Scores over the vocabulary with factors in bfloat16.

use burn::tensor::{Tensor, TensorData};

use super::linear::{Matrix, values};
use super::product::{Rounded, View};
use crate::vlm::decoder::Decoder;

/// A head that is not trained.
pub struct Head {
    /// `[hidden, vocab]`
    matrix: Rounded,
    vocab: usize,
}

impl Head {
    /// Reads it.
    pub fn load(decoder: &Decoder) -> Self {
        let (matrix, by_token) = decoder.stored_head();
        let [height, width] = matrix.dims();
        let stored = Matrix::load(matrix);
        let view = View::new(stored.values(), width);
        let (view, vocab) = if by_token { (view.transposed(), height) } else { (view, width) };
        Self { matrix: Rounded::new(view), vocab }
    }

    /// States `[rows, hidden]` → scores `[rows, vocab]`.
    pub fn scores(&self, states: Tensor<2>) -> Tensor<2> {
        let (device, [rows, _]) = (states.device(), states.dims());
        Tensor::from_data(TensorData::new(self.matrix.multiplied(&values(states)), [rows, self.vocab]), &device)
    }

    /// The gradient by the states, of the one by the scores.
    pub fn back(&self, by_scores: Tensor<2>) -> Tensor<2> {
        let (device, [rows, _]) = (by_scores.device(), by_scores.dims());
        let product = self.matrix.multiplied_back(&values(by_scores));
        let hidden = product.len().checked_div(rows).unwrap_or(0);
        Tensor::from_data(TensorData::new(product, [rows, hidden]), &device)
    }
}
