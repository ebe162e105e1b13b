//! The network: several independent copies side by side, so that one tensor operation serves them all.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Attention heads (paper).
pub(super) const HEADS: usize = 4;
/// Width of a token (paper).
pub(super) const WIDTH: usize = 32;
/// Inner width of the feed-forward.
pub(super) const FEED_FORWARD: usize = 128;
/// LayerNorm's epsilon (PyTorch's default).
const EPSILON: f64 = 1e-5;

/// One Transformer encoder layer between a linear embedding and a linear head, `members` times with weights of their
/// own. The layer is PyTorch's `TransformerEncoderLayer(32, 4, 128, norm_first=True)` without dropout, tensor for
/// tensor; every weight has a leading member dimension and is stored input × output.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    embed_weight: Param<Tensor<3>>,
    embed_bias: Param<Tensor<3>>,
    layer: Layer,
    head_weight: Param<Tensor<3>>,
    head_bias: Param<Tensor<3>>,
}

/// The encoder layer proper.
#[derive(Module, Debug)]
pub(super) struct Layer {
    norm1_weight: Param<Tensor<3>>,
    norm1_bias: Param<Tensor<3>>,
    /// Query, key and value side by side, each head's columns together.
    in_proj_weight: Param<Tensor<3>>,
    in_proj_bias: Param<Tensor<3>>,
    out_proj_weight: Param<Tensor<3>>,
    out_proj_bias: Param<Tensor<3>>,
    norm2_weight: Param<Tensor<3>>,
    norm2_bias: Param<Tensor<3>>,
    linear1_weight: Param<Tensor<3>>,
    linear1_bias: Param<Tensor<3>>,
    linear2_weight: Param<Tensor<3>>,
    linear2_bias: Param<Tensor<3>>,
}

/// Draws initial weights: every member from a generator of its own, so that a member does not depend on how many
/// others are trained beside it.
struct Initializer<'a> {
    members: Vec<ChaCha8Rng>,
    device: &'a Device,
}

impl Initializer<'_> {
    /// U(−1/√fan_in, 1/√fan_in), PyTorch's default for linear layers.
    fn uniform(&mut self, fan_in: usize, rows: usize, columns: usize) -> Param<Tensor<3>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let mut values = Vec::with_capacity(self.members.len() * rows * columns);
        for member in &mut self.members {
            values.extend((0..rows * columns).map(|_| (2.0 * member.random::<f32>() - 1.0) * bound));
        }
        self.param(values, rows, columns)
    }

    fn constant(&self, value: f32, columns: usize) -> Param<Tensor<3>> {
        self.param(vec![value; self.members.len() * columns], 1, columns)
    }

    fn param(&self, values: Vec<f32>, rows: usize, columns: usize) -> Param<Tensor<3>> {
        Param::from_data(TensorData::new(values, [self.members.len(), rows, columns]), self.device)
    }
}

impl Encoder {
    /// One member per seed, for tokens of `features` numbers and `outputs` scores.
    pub(super) fn new(seeds: &[u64], features: usize, outputs: usize, device: &Device) -> Self {
        let members = seeds.iter().map(|&seed| ChaCha8Rng::seed_from_u64(seed)).collect();
        let mut init = Initializer { members, device };
        Self {
            embed_weight: init.uniform(features, features, WIDTH),
            embed_bias: init.uniform(features, 1, WIDTH),
            layer: Layer::new(&mut init),
            head_weight: init.uniform(WIDTH, WIDTH, outputs),
            head_bias: init.constant(0.0, outputs),
        }
    }

    /// Scores of schedules.
    ///
    /// # Shapes
    /// - `tokens`: `[1, schedules · layers, features]`, shared by all members
    /// - output: `[members, schedules, outputs]`
    pub(super) fn forward(&self, tokens: Tensor<3>, layers: usize) -> Tensor<3> {
        let embedded = tokens.matmul(self.embed_weight.val()) + self.embed_bias.val();
        self.layer.forward_pooled(embedded, layers).matmul(self.head_weight.val()) + self.head_bias.val()
    }
}

impl Layer {
    fn new(init: &mut Initializer<'_>) -> Self {
        Self {
            norm1_weight: init.constant(1.0, WIDTH),
            norm1_bias: init.constant(0.0, WIDTH),
            in_proj_weight: init.uniform(WIDTH, WIDTH, 3 * WIDTH),
            in_proj_bias: init.constant(0.0, 3 * WIDTH),
            out_proj_weight: init.uniform(WIDTH, WIDTH, WIDTH),
            out_proj_bias: init.constant(0.0, WIDTH),
            norm2_weight: init.constant(1.0, WIDTH),
            norm2_bias: init.constant(0.0, WIDTH),
            linear1_weight: init.uniform(WIDTH, WIDTH, FEED_FORWARD),
            linear1_bias: init.uniform(WIDTH, 1, FEED_FORWARD),
            linear2_weight: init.uniform(FEED_FORWARD, FEED_FORWARD, WIDTH),
            linear2_bias: init.uniform(FEED_FORWARD, 1, WIDTH),
        }
    }

    /// The layer and the mean over each schedule's tokens.
    ///
    /// The last linear map is applied after the mean instead of before it, which is the same function for a
    /// fraction of the arithmetic.
    ///
    /// # Shapes
    /// - `x`: `[members, schedules · layers, width]`
    /// - output: `[members, schedules, width]`
    fn forward_pooled(&self, x: Tensor<3>, layers: usize) -> Tensor<3> {
        let normed = layer_norm(x.clone(), self.norm1_weight.val(), self.norm1_bias.val());
        let x = x + self.attention(normed, layers);
        let normed = layer_norm(x.clone(), self.norm2_weight.val(), self.norm2_bias.val());
        let hidden = relu(normed.matmul(self.linear1_weight.val()) + self.linear1_bias.val());
        mean_of_tokens(x, layers)
            + mean_of_tokens(hidden, layers).matmul(self.linear2_weight.val())
            + self.linear2_bias.val()
    }

    fn attention(&self, x: Tensor<3>, layers: usize) -> Tensor<3> {
        let [members, tokens, _] = x.dims();
        let schedules = members * tokens / layers;
        let head = WIDTH / HEADS;
        let projected = x.matmul(self.in_proj_weight.val()) + self.in_proj_bias.val();
        // [schedules, layers, q|k|v and head, head width] → [schedules, q|k|v and head, layers, head width]
        let projected = projected.reshape([schedules, layers, 3 * HEADS, head]).swap_dims(1, 2);
        let query = projected.clone().narrow(1, 0, HEADS);
        let key = projected.clone().narrow(1, HEADS, HEADS);
        let value = projected.narrow(1, 2 * HEADS, HEADS);
        let scores = (query / (head as f32).sqrt()).matmul(key.swap_dims(2, 3));
        // softmax(scores)·value, divided by the rows' sums after the product instead of before it: of what is done for every
        // pair of layers, backward pass included, that leaves out half. A column of ones beside the values gives the sums.
        let weights = (scores.clone() - scores.detach().max_dim(3)).exp();
        let ones = Tensor::ones([schedules, HEADS, layers, 1], &value.device());
        let mixed = weights.matmul(Tensor::cat(vec![value, ones], 3));
        let mixed = mixed.clone().narrow(3, 0, head) / mixed.narrow(3, head, 1);
        let mixed = mixed.swap_dims(1, 2).reshape([members, tokens, WIDTH]);
        mixed.matmul(self.out_proj_weight.val()) + self.out_proj_bias.val()
    }
}

/// `[members, schedules · layers, width]` → `[members, schedules, width]`
fn mean_of_tokens(x: Tensor<3>, layers: usize) -> Tensor<3> {
    let [members, tokens, width] = x.dims();
    x.reshape([members, tokens / layers, layers, width]).mean_dim(2).reshape([members, tokens / layers, width])
}

fn layer_norm(x: Tensor<3>, weight: Tensor<3>, bias: Tensor<3>) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    centred / (variance + EPSILON).sqrt() * weight + bias
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(schedules: usize, layers: usize, features: usize) -> Vec<f32> {
        (0..schedules * layers * features).map(|i| (i as f32 * 0.7).sin()).collect()
    }

    fn forward(encoder: &Encoder, values: Vec<f32>, layers: usize, features: usize) -> Vec<f32> {
        let rows = values.len() / features;
        let tokens = Tensor::from_data(TensorData::new(values, [1, rows, features]), &Device::flex());
        encoder.forward(tokens, layers).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn the_encoder_layer_has_exactly_the_12704_parameters_of_pytorchs() {
        let encoder = Encoder::new(&[1], 15, 3, &Device::flex());
        assert_eq!(encoder.layer.num_params(), 12_704);
        assert_eq!(encoder.num_params(), 12_704 + (15 * 32 + 32) + (32 * 3 + 3));
        assert_eq!(Encoder::new(&[1, 2, 3], 15, 3, &Device::flex()).layer.num_params(), 3 * 12_704);
    }

    #[test]
    fn a_member_computes_the_same_alone_and_among_others() {
        let (layers, features) = (4, 15);
        let together = Encoder::new(&[7, 8], features, 2, &Device::flex());
        let alone = Encoder::new(&[8], features, 2, &Device::flex());
        let values = tokens(3, layers, features);
        let (both, one) =
            (forward(&together, values.clone(), layers, features), forward(&alone, values, layers, features));
        assert_eq!(&both[6..], &one[..]);
        assert_ne!(&both[..6], &one[..]);
    }

    #[test]
    fn a_schedules_score_depends_on_its_own_tokens_alone_and_not_on_their_order() {
        let (layers, features) = (5, 15);
        let encoder = Encoder::new(&[3], features, 1, &Device::flex());
        let values = tokens(2, layers, features);
        let both = forward(&encoder, values.clone(), layers, features);
        let second = values[layers * features..].to_vec();
        let alone = forward(&encoder, second.clone(), layers, features);
        assert!((both[1] - alone[0]).abs() < 1e-6);
        let reversed: Vec<f32> = second.chunks(features).rev().flatten().copied().collect();
        assert!((forward(&encoder, reversed, layers, features)[0] - alone[0]).abs() < 1e-5);
    }
}
