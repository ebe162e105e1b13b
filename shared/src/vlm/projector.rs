//! MobileVLM V2's projector, LDPNetV2 (Chu et al., arXiv 2402.03766): two linear layers, 2×2 average pooling, and a
//! depth-wise 3×3 convolution as positional encoding (PEG).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::layers::{Linear, exact_gelu};
use super::weights::Loader;
use crate::model_spec::ProjectorSpec;

/// Side of the convolution's kernel.
const KERNEL: usize = 3;
/// How many tokens along one side become one.
const POOL: usize = 2;

/// The LDPNetV2 projector.
#[derive(Module, Debug)]
pub struct Ldpnetv2 {
    first: Linear,
    second: Linear,
    /// Depth-wise kernel, `[hidden, 1, 3, 3]`.
    peg_weight: Param<Tensor<4>>,
    peg_bias: Param<Tensor<1>>,
}

impl Ldpnetv2 {
    pub(super) fn load(loader: &mut Loader<'_>, prefix: &str, spec: &ProjectorSpec) -> Self {
        let ProjectorSpec { vision_hidden, hidden, .. } = *spec;
        Self {
            first: Linear::load(loader, &format!("{prefix}.mlp.mlp.0"), vision_hidden, hidden, true),
            second: Linear::load(loader, &format!("{prefix}.mlp.mlp.2"), hidden, hidden, true),
            peg_weight: loader.tensor(&format!("{prefix}.peg.peg.0.weight"), [hidden, 1, KERNEL, KERNEL]),
            peg_bias: loader.tensor(&format!("{prefix}.peg.peg.0.bias"), [hidden]),
        }
    }

    /// # Shapes
    /// - `features`: `[pictures, grid², vision_hidden]`
    /// - returns: `[pictures, (grid/2)², hidden]`
    pub fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        let [pictures, patches, vision_hidden] = features.dims();
        let x = self.first.forward(features.reshape([pictures * patches, vision_hidden]));
        let x = self.second.forward(exact_gelu(x));
        let [_, hidden] = x.dims();
        let grid = patches.isqrt();
        let side = grid / POOL;
        let pooled = x
            .reshape([pictures * side, POOL, side, POOL, hidden])
            .mean_dim(3)
            .mean_dim(1)
            .reshape([pictures, side, side, hidden]);
        self.positional(pooled).reshape([pictures, side * side, hidden])
    }

    /// `x + conv(x)`. Nine shifted products instead of a grouped convolution, whose weight gradient Burn's CPU backend
    /// computes channel by channel.
    fn positional(&self, x: Tensor<4>) -> Tensor<4> {
        let [pictures, side, _, hidden] = x.dims();
        let kernel = self.peg_weight.val().reshape([hidden, KERNEL * KERNEL]).swap_dims(0, 1);
        let mut sum = x.clone() + self.peg_bias.val().reshape([1, 1, 1, hidden]);
        let padded = pad_sides(x);
        for tap in 0..KERNEL * KERNEL {
            let (dy, dx) = (tap / KERNEL, tap % KERNEL);
            let shifted = padded.clone().slice([0..pictures, dy..dy + side, dx..dx + side, 0..hidden]);
            let weight = kernel.clone().slice([tap..tap + 1, 0..hidden]).reshape([1, 1, 1, hidden]);
            sum = sum + shifted * weight;
        }
        sum
    }
}

/// One row and column of zeros on every side of the two middle dimensions.
fn pad_sides(x: Tensor<4>) -> Tensor<4> {
    let [pictures, side, _, hidden] = x.dims();
    let device = x.device();
    let row = Tensor::zeros([pictures, 1, side, hidden], &device);
    let x = Tensor::cat(vec![row.clone(), x, row], 1);
    let column = Tensor::zeros([pictures, side + 2, 1, hidden], &device);
    Tensor::cat(vec![column.clone(), x, column], 2)
}
