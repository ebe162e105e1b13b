//! The projectors between vision tower and decoder: MobileVLM's LDPNet (Chu et al., arXiv 2312.16886), MobileVLM V2's
//! LDPNetV2 (arXiv 2402.03766), and LLaVA's linear layers.
//!
//! Pictures lie as `[pictures, side, side, channels]` here. Depth-wise convolutions are nine shifted products instead of
//! a grouped convolution, whose weight gradient Burn's CPU backend computes channel by channel.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::layers::{LayerNorm, Linear, exact_gelu};
use super::spec::{ProjectorKind, ProjectorSpec};
use super::weights::Loader;

/// Side of the convolutions' kernels.
const KERNEL: usize = 3;
/// How many tokens along one side become one.
const POOL: usize = 2;
/// Epsilon of LDPNet's channel norms.
const NORM_EPS: f64 = 1e-5;

/// A projector of any kind.
#[derive(Module, Debug)]
pub enum Projector {
    /// MobileVLM's: a quarter of the tokens.
    Ldpnet(Ldpnet),
    /// MobileVLM V2's: a quarter of the tokens.
    Ldpnetv2(Ldpnetv2),
    /// `linear` and `mlpNx_gelu`: as many tokens as patches.
    Mlp(Mlp),
}

impl Projector {
    pub(super) fn load(loader: &mut Loader<'_>, prefix: &str, spec: &ProjectorSpec) -> Self {
        match spec.kind {
            ProjectorKind::Ldpnet => Self::Ldpnet(Ldpnet::load(loader, prefix, spec)),
            ProjectorKind::Ldpnetv2 => Self::Ldpnetv2(Ldpnetv2::load(loader, prefix, spec)),
            ProjectorKind::Linear | ProjectorKind::Mlp { .. } => Self::Mlp(Mlp::load(loader, prefix, spec)),
        }
    }

    /// # Shapes
    /// - `features`: `[pictures, patches, vision_hidden]`
    /// - returns: `[pictures, tokens, hidden]`, see [`ProjectorSpec::tokens`]
    pub fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Ldpnet(projector) => projector.forward(features),
            Self::Ldpnetv2(projector) => projector.forward(features),
            Self::Mlp(projector) => projector.forward(features),
        }
    }
}

/// Linear layers with GELU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn load(loader: &mut Loader<'_>, prefix: &str, spec: &ProjectorSpec) -> Self {
        let names: Vec<String> = match spec.kind {
            ProjectorKind::Mlp { depth } => (0..depth).map(|layer| format!("{prefix}.{}", 2 * layer)).collect(),
            _ => vec![prefix.to_owned()],
        };
        let width = |layer: usize| if layer == 0 { spec.vision_hidden } else { spec.hidden };
        Self {
            layers: names
                .iter()
                .enumerate()
                .map(|(layer, name)| Linear::load(loader, name, width(layer), spec.hidden, true))
                .collect(),
        }
    }

    fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        let [pictures, patches, width] = features.dims();
        let mut x = features.reshape([pictures * patches, width]);
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(if index == 0 { x } else { exact_gelu(x) });
        }
        let [_, hidden] = x.dims();
        x.reshape([pictures, patches, hidden])
    }
}

/// Two linear layers, then two of MobileNetV3's inverted residual blocks, the second of which halves the grid.
#[derive(Module, Debug)]
pub struct Ldpnet {
    first: Linear,
    second: Linear,
    blocks: Vec<InvertedResidual>,
}

impl Ldpnet {
    fn load(loader: &mut Loader<'_>, prefix: &str, spec: &ProjectorSpec) -> Self {
        let ProjectorSpec { vision_hidden, hidden, .. } = *spec;
        let mut block = |number: usize, stride| {
            InvertedResidual::load(loader, &format!("{prefix}.model.mb_block.{number}.block"), spec, stride)
        };
        let blocks = vec![block(1, 1), block(2, POOL)];
        Self {
            first: Linear::load(loader, &format!("{prefix}.model.mlp.1"), vision_hidden, hidden, true),
            second: Linear::load(loader, &format!("{prefix}.model.mlp.3"), hidden, hidden, true),
            blocks,
        }
    }

    fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        let mut x = two_layers(&self.first, &self.second, features);
        for block in &self.blocks {
            x = block.forward(x);
        }
        tokens(x)
    }
}

/// Depth-wise convolution, squeeze-and-excite, 1×1 convolution (torchvision's `InvertedResidual` without expansion,
/// with a norm over channels in place of batch normalization).
#[derive(Module, Debug)]
struct InvertedResidual {
    /// Depth-wise kernel, `[hidden, 1, 3, 3]`.
    depthwise: Param<Tensor<4>>,
    depthwise_norm: LayerNorm,
    /// `[squeeze, hidden, 1, 1]`.
    squeeze_weight: Param<Tensor<4>>,
    squeeze_bias: Param<Tensor<1>>,
    /// `[hidden, squeeze, 1, 1]`.
    excite_weight: Param<Tensor<4>>,
    excite_bias: Param<Tensor<1>>,
    /// `[hidden, hidden, 1, 1]`.
    pointwise: Param<Tensor<4>>,
    pointwise_norm: LayerNorm,
    #[module(skip)]
    stride: usize,
}

impl InvertedResidual {
    fn load(loader: &mut Loader<'_>, name: &str, spec: &ProjectorSpec, stride: usize) -> Self {
        let (hidden, squeeze) = (spec.hidden, spec.squeeze());
        let norm =
            |loader: &mut Loader<'_>, part: &str| LayerNorm::load(loader, &format!("{name}.{part}"), hidden, NORM_EPS);
        Self {
            depthwise: loader.tensor(&format!("{name}.0.0.weight"), [hidden, 1, KERNEL, KERNEL]),
            depthwise_norm: norm(loader, "0.1"),
            squeeze_weight: loader.tensor(&format!("{name}.1.fc1.weight"), [squeeze, hidden, 1, 1]),
            squeeze_bias: loader.tensor(&format!("{name}.1.fc1.bias"), [squeeze]),
            excite_weight: loader.tensor(&format!("{name}.1.fc2.weight"), [hidden, squeeze, 1, 1]),
            excite_bias: loader.tensor(&format!("{name}.1.fc2.bias"), [hidden]),
            pointwise: loader.tensor(&format!("{name}.2.0.weight"), [hidden, hidden, 1, 1]),
            pointwise_norm: norm(loader, "2.1"),
            stride,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = depthwise(x.clone(), self.depthwise.val(), self.stride);
        let [pictures, side, _, hidden] = y.dims();
        let y = hard_swish(self.depthwise_norm.forward(y.reshape([pictures * side * side, hidden])));

        let mean = y.clone().reshape([pictures, side * side, hidden]).mean_dim(1).reshape([pictures, hidden]);
        let squeezed = relu(one_by_one(mean, &self.squeeze_weight) + self.squeeze_bias.val().unsqueeze());
        let gate = hard_sigmoid(one_by_one(squeezed, &self.excite_weight) + self.excite_bias.val().unsqueeze());
        let y = y.reshape([pictures, side * side, hidden]) * gate.reshape([pictures, 1, hidden]);

        let y = one_by_one(y.reshape([pictures * side * side, hidden]), &self.pointwise);
        let y = self.pointwise_norm.forward(y).reshape([pictures, side, side, hidden]);
        if self.stride == 1 { x + y } else { y }
    }
}

/// Two linear layers, 2×2 average pooling, and a depth-wise 3×3 convolution as positional encoding (PEG).
#[derive(Module, Debug)]
pub struct Ldpnetv2 {
    first: Linear,
    second: Linear,
    /// Depth-wise kernel, `[hidden, 1, 3, 3]`.
    peg_weight: Param<Tensor<4>>,
    peg_bias: Param<Tensor<1>>,
}

impl Ldpnetv2 {
    fn load(loader: &mut Loader<'_>, prefix: &str, spec: &ProjectorSpec) -> Self {
        let ProjectorSpec { vision_hidden, hidden, .. } = *spec;
        Self {
            first: Linear::load(loader, &format!("{prefix}.mlp.mlp.0"), vision_hidden, hidden, true),
            second: Linear::load(loader, &format!("{prefix}.mlp.mlp.2"), hidden, hidden, true),
            peg_weight: loader.tensor(&format!("{prefix}.peg.peg.0.weight"), [hidden, 1, KERNEL, KERNEL]),
            peg_bias: loader.tensor(&format!("{prefix}.peg.peg.0.bias"), [hidden]),
        }
    }

    fn forward(&self, features: Tensor<3>) -> Tensor<3> {
        let x = two_layers(&self.first, &self.second, features);
        let [pictures, grid, _, hidden] = x.dims();
        let side = grid / POOL;
        let pooled = x
            .reshape([pictures * side, POOL, side, POOL, hidden])
            .mean_dim(3)
            .mean_dim(1)
            .reshape([pictures, side, side, hidden]);
        let positions = depthwise(pooled.clone(), self.peg_weight.val(), 1);
        tokens(pooled + positions + self.peg_bias.val().reshape([1, 1, 1, hidden]))
    }
}

/// Linear, GELU, linear; the patches of a picture become a grid.
fn two_layers(first: &Linear, second: &Linear, features: Tensor<3>) -> Tensor<4> {
    let [pictures, patches, vision_hidden] = features.dims();
    let x = second.forward(exact_gelu(first.forward(features.reshape([pictures * patches, vision_hidden]))));
    let [_, hidden] = x.dims();
    let grid = patches.isqrt();
    x.reshape([pictures, grid, grid, hidden])
}

/// The grid of a picture becomes a sequence.
fn tokens(x: Tensor<4>) -> Tensor<3> {
    let [pictures, side, _, hidden] = x.dims();
    x.reshape([pictures, side * side, hidden])
}

/// A 1×1 convolution of rows of channels; its kernel is `[out, in, 1, 1]`.
fn one_by_one(x: Tensor<2>, kernel: &Param<Tensor<4>>) -> Tensor<2> {
    let [d_out, d_in, ..] = kernel.dims();
    x.matmul(kernel.val().reshape([d_out, d_in]).swap_dims(0, 1))
}

/// Depth-wise 3×3 convolution without bias, padded with one zero on every side; `stride` divides the grid's side.
fn depthwise(x: Tensor<4>, kernel: Tensor<4>, stride: usize) -> Tensor<4> {
    let [pictures, grid, _, hidden] = x.dims();
    let side = grid / stride;
    let kernel = kernel.reshape([hidden, KERNEL * KERNEL]).swap_dims(0, 1);
    let padded = pad_sides(x);
    let taps = (0..KERNEL * KERNEL).map(|tap| {
        let (dy, dx) = (tap / KERNEL, tap % KERNEL);
        let mut shifted = padded.clone().slice([0..pictures, dy..dy + grid, dx..dx + grid, 0..hidden]);
        if stride > 1 {
            shifted = shifted
                .reshape([pictures * side, stride, side, stride * hidden])
                .slice([0..pictures * side, 0..1, 0..side, 0..hidden])
                .reshape([pictures, side, side, hidden]);
        }
        shifted * kernel.clone().slice([tap..tap + 1, 0..hidden]).reshape([1, 1, 1, hidden])
    });
    taps.reduce(|sum, tap| sum + tap).unwrap_or(padded)
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

/// MobileNetV3's `clamp(x/6 + 1/2, 0, 1)`.
fn hard_sigmoid(x: Tensor<2>) -> Tensor<2> {
    x.div_scalar(6.0).add_scalar(0.5).clamp(0.0, 1.0)
}

/// MobileNetV3's `x · hard_sigmoid(x)`.
fn hard_swish(x: Tensor<2>) -> Tensor<2> {
    x.clone() * hard_sigmoid(x)
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, Tolerance};

    use super::super::init::random_weights;
    use super::super::spec::ModelSpec;
    use super::super::{MobileVlm, PROJECTOR_PREFIX};
    use super::*;

    fn wave<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::<1>::from_data(values.as_slice(), &Device::flex()).reshape(shape)
    }

    #[test]
    fn shifted_products_are_burns_grouped_convolution_at_both_strides() {
        let (x, kernel) = (wave([2, 6, 6, 5]), wave([5, 1, 3, 3]));
        for stride in [1, 2] {
            let options = ConvOptions::new([stride, stride], [1, 1], [1, 1], 5);
            let expected = conv2d(x.clone().permute([0, 3, 1, 2]), kernel.clone(), None, options).permute([0, 2, 3, 1]);
            let found = depthwise(x.clone(), kernel.clone(), stride);
            found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn every_kind_gives_the_tokens_and_has_the_parameters_that_its_specification_says() {
        for kind in [
            ProjectorKind::Ldpnet,
            ProjectorKind::Ldpnetv2,
            ProjectorKind::Linear,
            ProjectorKind::Mlp { depth: 2 },
            ProjectorKind::Mlp { depth: 3 },
        ] {
            let mut spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
            let projector = ProjectorSpec { kind, ..spec.projector.clone().unwrap() };
            spec.projector = Some(projector.clone());
            let weights = random_weights(&spec, 1);
            let own = weights.tensors.iter().filter(|(name, _)| name.starts_with(PROJECTOR_PREFIX));
            assert_eq!(
                own.map(|(_, weight)| weight.values.len() as u64).sum::<u64>(),
                projector.parameters(),
                "{kind:?}"
            );
            let model = MobileVlm::load(&spec, weights, &Device::flex()).unwrap();
            let tokens = model.vision.unwrap().projector.forward(wave([2, 64, 64]));
            assert_eq!(tokens.dims(), [2, projector.tokens(64), 64], "{kind:?}");
            let spread = tokens.var(2).mean().into_scalar::<f32>();
            assert!(spread.is_finite() && spread > 0.0, "{kind:?}");
        }
    }
}
