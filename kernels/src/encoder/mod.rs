//! The performance model's network, trained and asked by itself: no tensors, no graph, one pass forward and back.
//!
//! A schedule is a row of T tokens of F features; the network gives it O scores. With x₀ `[T, F]`, every weight stored input ×
//! output, and LN a layer norm of its own weight and bias:
//!
//! ```text
//! x  = x₀·Wₑ + bₑ                         [T, 32]    embedding
//! q, k, v = LN₁(x)·Wᵢ + bᵢ                [T, 3·32]  four heads of width 8 each
//! Eⱼᵢ = exp(sⱼᵢ − maxⱼ sⱼᵢ), s = k·qᵀ/√8   [T, T]     a head's, a column for every query
//! o  = (Eᵀ·v)/ΣⱼE                         [T, 32]    heads side by side
//! z  = x + o·Wₒ + bₒ                      [T, 32]
//! h  = max(LN₂(z)·W₁ + b₁, 0)             [T, 128]
//! y  = mean(z) + mean(h)·W₂ + b₂          [32]       the mean over tokens goes before W₂: the same for a T-th of the work
//! scores = y·W + b                        [O]
//! ```
//!
//! This is PyTorch's `TransformerEncoderLayer(32, 4, 128, norm_first=True)` without dropout, between two linear layers. The
//! loss is Σ over schedules of weight · Σ over scores of (score − target)². Its gradients, with ∂a for that of a:
//!
//! ```text
//! ∂h = [h > 0]·g, g = (∂y·W₂ᵀ)/T          the same g for every token, so ∂W₁ = (LN₂(z)ᵀ·[h > 0])·g: sums without products
//! ∂z = ∂y/T + LN₂'(∂h·W₁ᵀ)
//! ∂o = (∂z·Wₒᵀ)/ΣⱼE                       a head's, by query
//! ∂v = E·∂o,  ∂s = E∘(v·∂oᵀ − Σ o∘∂o),  ∂q = ∂sᵀ·k/√8,  ∂k = ∂s·q/√8
//! ∂x = ∂z + LN₁'(∂(q,k,v)·Wᵢᵀ)
//! ```
//!
//! and of each weight its input's transpose times its output's gradient. One schedule at a time goes forward and back, so that
//! all of it stays in a processor's first cache; networks share nothing, and are trained side by side by whoever calls.

mod adamw;
mod pass;

use self::adamw::{Adam, BETAS, Step, adamw};
use self::pass::Pass;
use crate::Level;

/// Width of a token (paper).
pub const WIDTH: usize = 32;
/// Attention heads (paper).
pub const HEADS: usize = 4;
/// Width of a head.
pub const HEAD: usize = WIDTH / HEADS;
/// Inner width of the feed-forward.
pub const FEED_FORWARD: usize = 128;

/// What a network reads and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Features of a token.
    pub features: usize,
    /// Scores of a schedule.
    pub outputs: usize,
}

/// How a weight begins.
enum Start {
    /// U(−1/√n, 1/√n) of so many inputs, PyTorch's default for linear layers.
    Uniform(usize),
    Everywhere(f32),
}

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident: $rows:expr, $columns:expr, $start:expr;)*) => {
        /// Weights by name.
        #[derive(Clone, Copy)]
        struct Weights<'a> {
            $($(#[$doc])* $name: &'a [f32],)*
        }

        /// Gradients by the same names.
        struct Gradients<'a> {
            $($name: &'a mut [f32],)*
        }

        impl Shape {
            /// Number of weights.
            pub fn len(self) -> usize {
                self.sizes().iter().map(|(_, rows, columns)| rows * columns).sum()
            }

            /// Whether there are no weights, which cannot be.
            pub fn is_empty(self) -> bool {
                self.len() == 0
            }

            /// Name, rows (inputs) and columns (outputs) of every weight, in the order in which they lie in memory.
            pub fn sizes(self) -> Vec<(&'static str, usize, usize)> {
                vec![$((stringify!($name), ($rows)(self), ($columns)(self))),*]
            }

            fn starts(self) -> Vec<(usize, Start)> {
                vec![$((($rows)(self) * ($columns)(self), ($start)(self))),*]
            }

            fn weights(self, values: &[f32]) -> Weights<'_> {
                $(let ($name, values) = values.split_at(($rows)(self) * ($columns)(self));)*
                debug_assert!(values.is_empty());
                Weights { $($name),* }
            }

            fn gradients(self, values: &mut [f32]) -> Gradients<'_> {
                $(let ($name, values) = values.split_at_mut(($rows)(self) * ($columns)(self));)*
                debug_assert!(values.is_empty());
                Gradients { $($name),* }
            }
        }
    };
}

parameters! {
    /// Wₑ and bₑ.
    embed_weight: |s: Shape| s.features, |_| WIDTH, |s: Shape| Start::Uniform(s.features);
    embed_bias: |_| 1, |_| WIDTH, |s: Shape| Start::Uniform(s.features);
    /// LN₁.
    norm1_weight: |_| 1, |_| WIDTH, |_| Start::Everywhere(1.0);
    norm1_bias: |_| 1, |_| WIDTH, |_| Start::Everywhere(0.0);
    /// Wᵢ and bᵢ: query, key and value side by side, each head's columns together.
    in_weight: |_| WIDTH, |_| 3 * WIDTH, |_| Start::Uniform(WIDTH);
    in_bias: |_| 1, |_| 3 * WIDTH, |_| Start::Everywhere(0.0);
    /// Wₒ and bₒ.
    out_weight: |_| WIDTH, |_| WIDTH, |_| Start::Uniform(WIDTH);
    out_bias: |_| 1, |_| WIDTH, |_| Start::Everywhere(0.0);
    /// LN₂.
    norm2_weight: |_| 1, |_| WIDTH, |_| Start::Everywhere(1.0);
    norm2_bias: |_| 1, |_| WIDTH, |_| Start::Everywhere(0.0);
    /// W₁ and b₁.
    linear1_weight: |_| WIDTH, |_| FEED_FORWARD, |_| Start::Uniform(WIDTH);
    linear1_bias: |_| 1, |_| FEED_FORWARD, |_| Start::Uniform(WIDTH);
    /// W₂ and b₂.
    linear2_weight: |_| FEED_FORWARD, |_| WIDTH, |_| Start::Uniform(FEED_FORWARD);
    linear2_bias: |_| 1, |_| WIDTH, |_| Start::Uniform(FEED_FORWARD);
    /// W and b.
    head_weight: |_| WIDTH, |s: Shape| s.outputs, |_| Start::Uniform(WIDTH);
    head_bias: |_| 1, |s: Shape| s.outputs, |_| Start::Everywhere(0.0);
}

/// Schedules as the network sees them.
#[derive(Debug, Clone, Copy)]
pub struct Schedules<'a> {
    /// `[schedules, layers, features]`
    pub tokens: &'a [f32],
    /// Tokens of a schedule.
    pub layers: usize,
}

/// What a network is to learn.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// `[schedules, outputs]`
    pub scores: &'a [f32],
    /// Weight of each schedule's squared errors, `[schedules]`; one of weight 0 is left out.
    pub weights: &'a [f32],
}

/// How it learns: AdamW on all schedules at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Passes over the schedules, a step each.
    pub epochs: usize,
    /// Learning rate at the start; it falls linearly to zero.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f32,
}

/// One network.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoder {
    shape: Shape,
    weights: Vec<f32>,
}

impl Encoder {
    /// A network as it begins, of numbers from 0 to 1 that are drawn in the order of [`Shape::sizes`].
    pub fn random(shape: Shape, mut uniform: impl FnMut() -> f32) -> Self {
        let mut weights = Vec::with_capacity(shape.len());
        for (len, start) in shape.starts() {
            match start {
                Start::Everywhere(value) => weights.extend(std::iter::repeat_n(value, len)),
                Start::Uniform(inputs) => {
                    let bound = 1.0 / (inputs as f32).sqrt();
                    weights.extend((0..len).map(|_| (2.0 * uniform() - 1.0) * bound));
                }
            }
        }
        Self { shape, weights }
    }

    /// A network with these weights, in the order of [`Shape::sizes`], row by row; `None` where they are not as many.
    pub fn new(shape: Shape, weights: Vec<f32>) -> Option<Self> {
        (weights.len() == shape.len()).then_some(Self { shape, weights })
    }

    /// What it reads and gives.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its weights, in the order of [`Shape::sizes`].
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Scores of schedules, `[schedules, outputs]`.
    pub fn scores(&self, level: Level, schedules: Schedules<'_>) -> Vec<f32> {
        let mut pass = Pass::new(self.shape, schedules.layers);
        let weights = self.shape.weights(&self.weights);
        let tokens = schedules.tokens.chunks_exact((schedules.layers * self.shape.features).max(1));
        tokens
            .flat_map(|tokens| {
                pass.forward(level, weights, tokens);
                pass.scores().to_vec()
            })
            .collect()
    }

    /// The loss's gradients, in the order of [`Shape::sizes`].
    pub fn gradients(&self, level: Level, schedules: Schedules<'_>, targets: Targets<'_>) -> Vec<f32> {
        let mut gradients = vec![0.0; self.weights.len()];
        Pass::new(self.shape, schedules.layers).all(level, &self.weights, schedules, targets, &mut gradients);
        gradients
    }

    /// Trains it.
    pub fn train(&mut self, level: Level, schedules: Schedules<'_>, targets: Targets<'_>, training: &Training) {
        let mut pass = Pass::new(self.shape, schedules.layers);
        let len = self.weights.len();
        // Up to whole rows, for the optimizer.
        let room = len.next_multiple_of(WIDTH);
        let mut weights = self.weights.clone();
        weights.resize(room, 0.0);
        let (mut gradients, mut first, mut second) = (vec![0.0; room], vec![0.0; room], vec![0.0; room]);
        let mut powers = [1.0_f32; 2];
        for epoch in 0..training.epochs {
            pass.all(level, &weights[..len], schedules, targets, &mut gradients[..len]);
            let rate = training.learning_rate * (1.0 - epoch as f64 / training.epochs as f64);
            for (power, beta) in powers.iter_mut().zip(BETAS) {
                *power *= beta;
            }
            let step = Step {
                learning_rate: rate as f32,
                keep: (1.0 - rate * f64::from(training.weight_decay)) as f32,
                corrections: powers.map(|power| 1.0 - power),
            };
            let (weights, gradients) = (&mut weights[..], &mut gradients[..]);
            adamw(level, step, Adam { weights, gradients, first: &mut first, second: &mut second });
        }
        weights.truncate(len);
        self.weights = weights;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, salt: u32) -> Vec<f32> {
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_769) ^ salt.wrapping_mul(40_503)) >> 8;
        (0..count).map(|i| (number(i).wrapping_mul(97) % 4001) as f32 / 2000.0 - 1.0).collect()
    }

    fn network(shape: Shape) -> Encoder {
        let mut uniform = numbers(shape.len(), 7).into_iter().map(|number| (number + 1.0) / 2.0);
        Encoder::random(shape, || uniform.next().unwrap())
    }

    /// Sizes that fill tiles, and that leave edges.
    const SIZES: [(usize, usize, usize, usize); 5] =
        [(3, 24, 15, 4), (2, 1, 1, 1), (4, 7, 9, 2), (2, 33, 16, 3), (1, 50, 5, 5)];

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for (schedules, layers, features, outputs) in SIZES {
            let shape = Shape { features, outputs };
            let (tokens, scores) = (numbers(schedules * layers * features, 1), numbers(schedules * outputs, 2));
            let weights = vec![0.5; schedules];
            let schedules = Schedules { tokens: &tokens, layers };
            let targets = Targets { scores: &scores, weights: &weights };
            let training = Training { epochs: 6, learning_rate: 1e-2, weight_decay: 0.1 };
            let mut all = Level::all().into_iter().map(|level| {
                let mut encoder = network(shape);
                encoder.train(level, schedules, targets, &training);
                let scores = encoder.scores(level, schedules);
                encoder.weights().iter().chain(&scores).map(|number| number.to_bits()).collect::<Vec<_>>()
            });
            let first = all.next().unwrap();
            assert!(all.all(|bits| bits == first), "{layers} layers");
        }
    }

    #[test]
    fn gradients_agree_with_differences_of_the_loss() {
        for (schedules, layers, features, outputs) in SIZES {
            let shape = Shape { features, outputs };
            let (tokens, scores) = (numbers(schedules * layers * features, 1), numbers(schedules * outputs, 2));
            let weights = vec![0.5; schedules];
            let batch = Schedules { tokens: &tokens, layers };
            let encoder = network(shape);
            let targets = Targets { scores: &scores, weights: &weights };
            let gradients = encoder.gradients(Level::best(), batch, targets);
            // Along the gradient itself, in which direction the loss changes most.
            let loss = |step: f32| -> f64 {
                let moved = encoder.weights().iter().zip(&gradients).map(|(weight, gradient)| weight + step * gradient);
                let moved = Encoder::new(shape, moved.collect()).unwrap().scores(Level::best(), batch);
                moved.iter().zip(&scores).map(|(a, b)| 0.5 * f64::from(a - b).powi(2)).sum()
            };
            let square: f64 = gradients.iter().map(|gradient| f64::from(*gradient).powi(2)).sum();
            let step = 1e-2 / square.sqrt() as f32;
            let along = (loss(step) - loss(-step)) / f64::from(2.0 * step);
            assert!((along / square - 1.0).abs() < 1e-2, "{layers} layers: {along} {square}");
        }
    }

    #[test]
    fn a_schedules_scores_depend_on_its_own_tokens_alone_and_not_on_their_order() {
        let shape = Shape { features: 15, outputs: 2 };
        let (layers, encoder) = (5, network(shape));
        let tokens = numbers(2 * layers * shape.features, 3);
        let scores = |tokens: &[f32]| encoder.scores(Level::best(), Schedules { tokens, layers });
        let second = &tokens[layers * shape.features..];
        assert_eq!(scores(&tokens)[shape.outputs..], scores(second));
        let reversed: Vec<f32> = second.chunks(shape.features).rev().flatten().copied().collect();
        for (a, b) in scores(&reversed).iter().zip(scores(second)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn a_schedule_of_weight_0_is_as_if_it_were_not_there() {
        let shape = Shape { features: 3, outputs: 2 };
        let tokens = numbers(3 * 4 * shape.features, 5);
        let gradients = |tokens: &[f32], scores: &[f32], weights: &[f32]| {
            network(shape).gradients(Level::best(), Schedules { tokens, layers: 4 }, Targets { scores, weights })
        };
        let all = gradients(&tokens, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[0.5, 0.5, 0.0]);
        assert_eq!(all, gradients(&tokens[..24], &[1.0, 2.0, 3.0, 4.0], &[0.5, 0.5]));
    }

    #[test]
    fn weights_of_another_number_make_no_network() {
        let shape = Shape { features: 3, outputs: 2 };
        assert!(Encoder::new(shape, vec![0.0; shape.len()]).is_some());
        assert!(Encoder::new(shape, vec![0.0; shape.len() - 1]).is_none());
    }
}
