//! The layers that tower, projector and decoder share. Field names are the checkpoint's.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softmax};

use super::compute::{Compute, widened};
use super::weights::Loader;

/// A linear layer: `x·W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight, `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// Bias, `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, d_in: usize, d_out: usize, bias: bool) -> Self {
        Self {
            weight: loader.linear(&format!("{name}.weight"), d_in, d_out),
            bias: bias.then(|| loader.tensor(&format!("{name}.bias"), [d_out])),
        }
    }

    /// `[rows, d_in]` → `[rows, d_out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.matmul(widened(self.weight.val()));
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// Layer normalization over the last dimension.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[width]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub eps: f64,
}

impl LayerNorm {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, width: usize, eps: f64) -> Self {
        Self {
            weight: loader.tensor(&format!("{name}.weight"), [width]),
            bias: loader.tensor(&format!("{name}.bias"), [width]),
            eps,
        }
    }

    /// `[rows, width]` → `[rows, width]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        burn::tensor::module::layer_norm(x, self.weight.val(), Some(self.bias.val()), self.eps)
    }
}

/// Root-mean-square normalization over the last dimension.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Gain, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub eps: f64,
}

impl RmsNorm {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, width: usize, eps: f64) -> Self {
        Self { weight: loader.tensor(&format!("{name}.weight"), [width]), eps }
    }

    /// `[rows, width]` → `[rows, width]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mean_square = x.clone().square().mean_dim(1);
        let scale = mean_square.add_scalar(self.eps).sqrt().recip();
        x * scale * self.weight.val().unsqueeze()
    }
}

/// CLIP's activation: `x · σ(1.702 x)`.
pub fn quick_gelu(x: Tensor<2>) -> Tensor<2> {
    x.clone() * sigmoid(x.mul_scalar(1.702))
}

/// The exact GELU, as `torch.nn.GELU()` computes it: `x · (1 + erf(x/√2)) / 2`.
///
/// Burn's own has the derivative of the approximation with tanh, which is not exact, and whose tanh is no number where a
/// browser's GPU computes it of more than 88.
pub fn exact_gelu(x: Tensor<2>) -> Tensor<2> {
    let half = x.clone().mul_scalar(std::f64::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
    x * half
}

/// Scaled dot-product attention. Queries, keys and values are `[batch, heads, length, head_dim]`; `mask` is added to
/// the scores. The result is in single precision.
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<Tensor<4>>, compute: Compute) -> Tensor<4> {
    let [.., head_dim] = q.dims();
    // Scaling q instead of the scores touches length × head_dim numbers, not length².
    let q = compute.factor(q.mul_scalar((head_dim as f64).powf(-0.5)));
    let scores = widened(q.matmul(compute.factor(k).swap_dims(2, 3)));
    let scores = match mask {
        Some(mask) => scores + mask,
        None => scores,
    };
    widened(compute.factor(softmax(scores, 3)).matmul(compute.factor(v)))
}

/// `[batch·length, heads·head_dim]` → `[batch, heads, length, head_dim]`.
pub fn split_heads(x: Tensor<2>, batch: usize, length: usize, heads: usize) -> Tensor<4> {
    let [_, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// The inverse of [`split_heads`].
pub fn merge_heads(x: Tensor<4>) -> Tensor<2> {
    let [batch, heads, length, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch * length, heads * head_dim])
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_derivative_of_gelu_is_exact_and_finite_far_out() {
        // Φ(x) + x·φ(x), computed in double precision with Python's math.erf.
        let expected =
            [(-200.0, 0.0), (-1.5, -0.127_469_2), (0.0, 0.5), (0.7, 0.976_614_1), (3.0, 1.011_945_6), (200.0, 1.0)];
        let points: Vec<f32> = expected.iter().map(|(x, _)| *x).collect();
        let x = Tensor::<1>::from_data(points.as_slice(), &Device::flex()).reshape([1, points.len()]).autodiff();
        let x = x.require_grad();
        let grads = exact_gelu(x.clone()).sum().backward();
        let found: Vec<f32> = x.grad(&grads).unwrap().into_data().try_to_vec().unwrap();
        for (found, (x, expected)) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{x}: {found}");
        }
    }
}
