//! The network in Burn, as a test's oracle: tensors and automatic gradients know nothing of the fused passes.

#![allow(clippy::unwrap_used, reason = "part of a test, which may fail loudly")]

use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use hydra_kernels::Level;
use hydra_kernels::encoder::{self, FEED_FORWARD, HEADS, Schedules, Shape, Targets, Training, WIDTH};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// LayerNorm's epsilon (PyTorch's default).
const EPSILON: f64 = 1e-5;

/// One Transformer encoder layer between a linear embedding and a linear head. The layer is PyTorch's
/// `TransformerEncoderLayer(32, 4, 128, norm_first=True)` without dropout, tensor for tensor; every weight has a leading
/// dimension of 1 and is stored input × output.
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

/// Hands out the weights of a network of the same shape, one after the other.
struct Weights<'a> {
    left: &'a [f32],
    device: &'a Device,
}

impl Weights<'_> {
    fn take(&mut self, rows: usize, columns: usize) -> Param<Tensor<3>> {
        let (values, left) = self.left.split_at(rows * columns);
        self.left = left;
        Param::from_data(TensorData::new(values.to_vec(), [1, rows, columns]), self.device)
    }
}

impl Encoder {
    /// The same network.
    fn of(network: &encoder::Encoder, device: &Device) -> Self {
        let Shape { features, outputs } = network.shape();
        let mut weights = Weights { left: network.weights(), device };
        let encoder = Self {
            embed_weight: weights.take(features, WIDTH),
            embed_bias: weights.take(1, WIDTH),
            layer: Layer::of(&mut weights),
            head_weight: weights.take(WIDTH, outputs),
            head_bias: weights.take(1, outputs),
        };
        assert!(weights.left.is_empty());
        encoder
    }

    /// Its weights in the order of the other's.
    fn tensors(&self) -> Vec<&Param<Tensor<3>>> {
        let Layer {
            norm1_weight,
            norm1_bias,
            in_proj_weight,
            in_proj_bias,
            out_proj_weight,
            out_proj_bias,
            norm2_weight,
            norm2_bias,
            linear1_weight,
            linear1_bias,
            linear2_weight,
            linear2_bias,
        } = &self.layer;
        vec![
            &self.embed_weight,
            &self.embed_bias,
            norm1_weight,
            norm1_bias,
            in_proj_weight,
            in_proj_bias,
            out_proj_weight,
            out_proj_bias,
            norm2_weight,
            norm2_bias,
            linear1_weight,
            linear1_bias,
            linear2_weight,
            linear2_bias,
            &self.head_weight,
            &self.head_bias,
        ]
    }

    /// Scores of schedules.
    ///
    /// # Shapes
    /// - `tokens`: `[1, schedules · layers, features]`
    /// - output: `[1, schedules, outputs]`
    pub(super) fn forward(&self, tokens: Tensor<3>, layers: usize) -> Tensor<3> {
        let embedded = tokens.matmul(self.embed_weight.val()) + self.embed_bias.val();
        self.layer.forward_pooled(embedded, layers).matmul(self.head_weight.val()) + self.head_bias.val()
    }
}

impl Layer {
    fn of(weights: &mut Weights<'_>) -> Self {
        Self {
            norm1_weight: weights.take(1, WIDTH),
            norm1_bias: weights.take(1, WIDTH),
            in_proj_weight: weights.take(WIDTH, 3 * WIDTH),
            in_proj_bias: weights.take(1, 3 * WIDTH),
            out_proj_weight: weights.take(WIDTH, WIDTH),
            out_proj_bias: weights.take(1, WIDTH),
            norm2_weight: weights.take(1, WIDTH),
            norm2_bias: weights.take(1, WIDTH),
            linear1_weight: weights.take(WIDTH, FEED_FORWARD),
            linear1_bias: weights.take(1, FEED_FORWARD),
            linear2_weight: weights.take(FEED_FORWARD, WIDTH),
            linear2_bias: weights.take(1, WIDTH),
        }
    }

    /// The layer and the mean over each schedule's tokens.
    ///
    /// # Shapes
    /// - `x`: `[1, schedules · layers, width]`
    /// - output: `[1, schedules, width]`
    fn forward_pooled(&self, x: Tensor<3>, layers: usize) -> Tensor<3> {
        let (x, hidden) = self.hidden(x, layers);
        mean_of_tokens(x + relu(hidden).matmul(self.linear2_weight.val()) + self.linear2_bias.val(), layers)
    }

    /// Tokens after attention, and what its ReLU gets of them.
    fn hidden(&self, x: Tensor<3>, layers: usize) -> (Tensor<3>, Tensor<3>) {
        let normed = layer_norm(x.clone(), self.norm1_weight.val(), self.norm1_bias.val());
        let x = x + self.attention(normed, layers);
        let normed = layer_norm(x.clone(), self.norm2_weight.val(), self.norm2_bias.val());
        (x, normed.matmul(self.linear1_weight.val()) + self.linear1_bias.val())
    }

    fn attention(&self, x: Tensor<3>, layers: usize) -> Tensor<3> {
        let [one, tokens, _] = x.dims();
        let schedules = tokens / layers;
        let head = WIDTH / HEADS;
        let projected = x.matmul(self.in_proj_weight.val()) + self.in_proj_bias.val();
        // [schedules, layers, q|k|v and head, head width] → [schedules, q|k|v and head, layers, head width]
        let projected = projected.reshape([schedules, layers, 3 * HEADS, head]).swap_dims(1, 2);
        let query = projected.clone().narrow(1, 0, HEADS);
        let key = projected.clone().narrow(1, HEADS, HEADS);
        let value = projected.narrow(1, 2 * HEADS, HEADS);
        let scores = (query / (head as f32).sqrt()).matmul(key.swap_dims(2, 3));
        let mixed = softmax(scores, 3).matmul(value);
        let mixed = mixed.swap_dims(1, 2).reshape([one, tokens, WIDTH]);
        mixed.matmul(self.out_proj_weight.val()) + self.out_proj_bias.val()
    }
}

/// `[1, schedules · layers, width]` → `[1, schedules, width]`
fn mean_of_tokens(x: Tensor<3>, layers: usize) -> Tensor<3> {
    let [one, tokens, width] = x.dims();
    x.reshape([one, tokens / layers, layers, width]).mean_dim(2).reshape([one, tokens / layers, width])
}

fn layer_norm(x: Tensor<3>, weight: Tensor<3>, bias: Tensor<3>) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    centred / (variance + EPSILON).sqrt() * weight + bias
}

/// A network and what it is to learn, at random.
struct Case {
    network: encoder::Encoder,
    layers: usize,
    tokens: Vec<f32>,
    scores: Vec<f32>,
    weights: Vec<f32>,
}

impl Case {
    fn new(schedules: usize, layers: usize, shape: Shape, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let network = encoder::Encoder::random(shape, || rng.random());
        let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.5..1.5)).collect() };
        let tokens = numbers(schedules * layers * shape.features);
        let scores = numbers(schedules * shape.outputs);
        // One is left out, where that leaves any.
        let weight = |schedule| if schedule == 1 { 0.0 } else { 1.0 / (schedules * shape.outputs) as f32 };
        Self { network, layers, tokens, scores, weights: (0..schedules).map(weight).collect() }
    }

    fn schedules(&self) -> Schedules<'_> {
        Schedules { tokens: &self.tokens, layers: self.layers }
    }

    fn targets(&self) -> Targets<'_> {
        Targets { scores: &self.scores, weights: &self.weights }
    }

    fn tensor(values: &[f32], columns: usize, device: &Device) -> Tensor<3> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len() / columns, columns]), device)
    }

    fn loss(&self, encoder: &Encoder, device: &Device) -> Tensor<1> {
        let Shape { features, outputs } = self.network.shape();
        let scores = encoder.forward(Self::tensor(&self.tokens, features, device), self.layers);
        let error = scores - Self::tensor(&self.scores, outputs, device);
        (error.square() * Self::tensor(&self.weights, 1, device)).sum()
    }

    fn gradients(&self) -> Vec<f32> {
        let device = Device::flex().autodiff();
        let encoder = Encoder::of(&self.network, &device);
        let gradients = self.loss(&encoder, &device).backward();
        let of = |weight: &Param<Tensor<3>>| -> Vec<f32> {
            weight.val().grad(&gradients).unwrap().into_data().try_into_vec().unwrap()
        };
        encoder.tensors().into_iter().flat_map(of).collect()
    }

    /// Whether a ReLU gets something so near to 0 that sums in another order may put it on the other side, where its gradient is
    /// another one.
    fn is_at_a_kink(&self) -> bool {
        let device = Device::flex();
        let encoder = Encoder::of(&self.network, &device);
        let tokens = Self::tensor(&self.tokens, self.network.shape().features, &device);
        let embedded = tokens.matmul(encoder.embed_weight.val()) + encoder.embed_bias.val();
        let (_, hidden) = encoder.layer.hidden(embedded, self.layers);
        hidden.abs().min().into_scalar::<f32>() < 2e-6
    }

    /// Scores after training.
    fn trained(&self, training: &Training) -> Vec<f32> {
        let device = Device::flex().autodiff();
        let mut encoder = Encoder::of(&self.network, &device);
        let config = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(training.weight_decay);
        let mut optimizer = config.init();
        for epoch in 0..training.epochs {
            let gradients = GradientsParams::from_grads(self.loss(&encoder, &device).backward(), &encoder);
            let rate = training.learning_rate * (1.0 - epoch as f64 / training.epochs as f64);
            encoder = optimizer.step(rate, encoder, gradients);
        }
        let tokens = Self::tensor(&self.tokens, self.network.shape().features, &Device::flex());
        encoder.valid().forward(tokens, self.layers).into_data().try_into_vec().unwrap()
    }
}

fn assert_close(ours: &[f32], oracle: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), oracle.len());
    let largest = oracle.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (at, (ours, oracle)) in ours.iter().zip(oracle).enumerate() {
        assert!((ours - oracle).abs() <= tolerance * largest.max(1.0), "{at}: {ours} instead of {oracle}");
    }
}

#[test]
fn the_encoder_layer_has_exactly_the_12704_parameters_of_pytorchs() {
    let shape = Shape { features: 15, outputs: 3 };
    let case = Case::new(1, 1, shape, 1);
    let encoder = Encoder::of(&case.network, &Device::flex());
    assert_eq!(encoder.layer.num_params(), 12_704);
    assert_eq!(encoder.num_params(), 12_704 + (15 * 32 + 32) + (32 * 3 + 3));
    assert_eq!(shape.len(), encoder.num_params());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn scores_and_gradients_are_those_of_automatic_differentiation(
        schedules in 1usize..6,
        layers in 1usize..44,
        features in 1usize..24,
        outputs in 1usize..6,
        seed in any::<u64>(),
    ) {
        let case = Case::new(schedules, layers, Shape { features, outputs }, seed);
        let scores = case.network.scores(Level::best(), case.schedules());
        let nothing = Training { epochs: 0, learning_rate: 0.0, weight_decay: 0.0 };
        assert_close(&scores, &case.trained(&nothing), 1e-5);
        prop_assume!(!case.is_at_a_kink());
        let gradients = case.network.gradients(Level::best(), case.schedules(), case.targets());
        assert_close(&gradients, &case.gradients(), 1e-5);
    }
}

#[test]
fn a_network_learns_what_the_same_network_learns_in_burn() {
    for (schedules, layers, seed) in [(8, 24, 1), (15, 6, 2), (4, 50, 3)] {
        let mut case = Case::new(schedules, layers, Shape { features: 15, outputs: 4 }, seed);
        let training = Training { epochs: 40, learning_rate: 1e-2, weight_decay: 0.1 };
        let oracle = case.trained(&training);
        let mut network = case.network.clone();
        network.train(Level::best(), case.schedules(), case.targets(), &training);
        assert_close(&network.scores(Level::best(), case.schedules()), &oracle, 1e-4);
        // It has learned something that it did not know.
        case.network = network;
        let loss = |encoder: &Encoder| -> f32 { case.loss(encoder, &Device::flex()).into_scalar::<f32>() };
        assert!(loss(&Encoder::of(&case.network, &Device::flex())) < 0.1, "of about 0.75");
    }
}
