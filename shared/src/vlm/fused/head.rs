//! Scores over the vocabulary with factors in bfloat16.

use burn::tensor::{Tensor, TensorData};
use hydra_kernels::bfloat16::{Packed, Units};

use super::linear::{Matrix, values};
use super::product::{View, multiplied_packed, packed};
use crate::vlm::decoder::Decoder;

/// A head that is not trained, laid out for both ways.
pub struct Head {
    /// `[hidden, vocab]`.
    forward: Packed,
    /// `[vocab, hidden]`.
    back: Packed,
    units: Units,
}

impl Head {
    /// Reads it.
    pub fn load(decoder: &Decoder) -> Self {
        let (matrix, by_token) = decoder.stored_head();
        let [_, width] = matrix.dims();
        let stored = Matrix::load(matrix);
        let view = View::new(stored.values(), width);
        let (plain, turned) = (packed(view), packed(view.transposed()));
        let (forward, back) = if by_token { (turned, plain) } else { (plain, turned) };
        Self { forward, back, units: Units::best() }
    }

    /// States `[rows, hidden]` → scores `[rows, vocab]`.
    pub fn scores(&self, states: Tensor<2>) -> Tensor<2> {
        self.product(states, &self.forward)
    }

    /// The gradient by the states, of the one by the scores.
    pub fn back(&self, by_scores: Tensor<2>) -> Tensor<2> {
        self.product(by_scores, &self.back)
    }

    fn product(&self, x: Tensor<2>, right: &Packed) -> Tensor<2> {
        let (device, [rows, _]) = (x.device(), x.dims());
        let product = multiplied_packed(self.units, &values(x), right);
        Tensor::from_data(TensorData::new(product, [rows, right.columns()]), &device)
    }
}
