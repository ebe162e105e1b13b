//! One schedule forward and back. The names are those of the module above.

use super::{FEED_FORWARD, Gradients, HEAD, HEADS, Schedules, Shape, Targets, WIDTH, Weights};
use crate::Level;
use crate::products::{COLUMNS, Size, Store, multiply, multiply_transposed, multiply_where_positive, view, view_mut};
use crate::rows::{
    Normed, WasNormed, add, add_columns, layer_norm, layer_norm_backward, rectify, rectify_backward, scale_columns,
    scale_heads, score_gradients, softmax_columns, transpose,
};

/// Query, key and value of a token.
const QKV: usize = 3 * WIDTH;

/// What one schedule's way forward leaves for its way back, and room for the latter. Names in the order of the computation.
pub(super) struct Pass {
    shape: Shape,
    tokens: usize,
    /// Tokens, rounded up to whole tiles: the columns of what has one per query.
    stride: usize,
    x: Vec<f32>,
    norm1: Norm,
    /// q is divided by √8.
    qkv: Vec<f32>,
    /// qᵀ, heads one below the other.
    q_transposed: Vec<f32>,
    /// E of every head.
    e: Vec<f32>,
    /// 1/ΣⱼE of every head.
    inverse_sums: Vec<f32>,
    o: Vec<f32>,
    o_transposed: Vec<f32>,
    z: Vec<f32>,
    norm2: Norm,
    h: Vec<f32>,
    mean_h: Vec<f32>,
    y: Vec<f32>,
    scores: Vec<f32>,
    back: Back,
}

/// A layer norm: see [`Normed`].
struct Norm {
    standard: Vec<f32>,
    scale: Vec<f32>,
    out: Vec<f32>,
}

/// Gradients of what the way forward computes, and the weights' transposes.
struct Back {
    transposed: Transposed,
    h: Vec<f32>,
    normed: Vec<f32>,
    x: Vec<f32>,
    o: Vec<f32>,
    o_transposed: Vec<f32>,
    scores: Vec<f32>,
    q_transposed: Vec<f32>,
    qkv: Vec<f32>,
    /// mean(h) and ∂y of every schedule: ∂W₂ is one product at the end.
    means_h: Vec<f32>,
    y: Vec<f32>,
}

#[derive(Default)]
struct Transposed {
    in_weight: Vec<f32>,
    out_weight: Vec<f32>,
    linear1_weight: Vec<f32>,
    linear2_weight: Vec<f32>,
}

impl Transposed {
    fn of(&mut self, level: Level, weights: Weights<'_>) {
        turn(level, weights.in_weight, QKV, &mut self.in_weight);
        turn(level, weights.out_weight, WIDTH, &mut self.out_weight);
        turn(level, weights.linear1_weight, FEED_FORWARD, &mut self.linear1_weight);
        turn(level, weights.linear2_weight, WIDTH, &mut self.linear2_weight);
    }
}

/// `[rows, columns]` → `[columns, rows]`
fn turn(level: Level, values: &[f32], columns: usize, out: &mut Vec<f32>) {
    let rows = values.len() / columns;
    out.resize(values.len(), 0.0);
    transpose(level, view(values, columns), rows, columns, view_mut(out, rows));
}

fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

impl Norm {
    fn new(tokens: usize) -> Self {
        Self { standard: zeros(tokens * WIDTH), scale: zeros(tokens), out: zeros(tokens * WIDTH) }
    }

    fn forward(&mut self, level: Level, x: &[f32], weight: &[f32], bias: &[f32]) {
        let normed = Normed { standard: &mut self.standard, scale: &mut self.scale, out: &mut self.out };
        layer_norm(level, x, weight, bias, normed);
    }

    fn was<'a>(&'a self, weight: &'a [f32]) -> WasNormed<'a> {
        WasNormed { standard: &self.standard, scale: &self.scale, weight }
    }
}

impl Pass {
    pub(super) fn new(shape: Shape, tokens: usize) -> Self {
        let stride = tokens.next_multiple_of(COLUMNS);
        let back = Back {
            transposed: Transposed::default(),
            h: zeros(tokens * FEED_FORWARD),
            normed: zeros(tokens * WIDTH),
            x: zeros(tokens * WIDTH),
            o: zeros(tokens * WIDTH),
            o_transposed: zeros(WIDTH * stride),
            scores: zeros(tokens * stride),
            q_transposed: zeros(WIDTH * stride),
            qkv: zeros(tokens * QKV),
            means_h: Vec::new(),
            y: Vec::new(),
        };
        Self {
            shape,
            tokens,
            stride,
            x: zeros(tokens * WIDTH),
            norm1: Norm::new(tokens),
            qkv: zeros(tokens * QKV),
            q_transposed: zeros(WIDTH * stride),
            e: zeros(HEADS * tokens * stride),
            inverse_sums: zeros(HEADS * stride),
            o: zeros(tokens * WIDTH),
            o_transposed: zeros(WIDTH * stride),
            z: zeros(tokens * WIDTH),
            norm2: Norm::new(tokens),
            h: zeros(tokens * FEED_FORWARD),
            mean_h: zeros(FEED_FORWARD),
            y: zeros(WIDTH),
            scores: zeros(shape.outputs),
            back,
        }
    }

    /// Scores of the schedule that went forward last.
    pub(super) fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Adds the loss's gradients on all schedules.
    pub(super) fn all(
        &mut self,
        level: Level,
        weights: &[f32],
        schedules: Schedules<'_>,
        targets: Targets<'_>,
        gradients: &mut [f32],
    ) {
        let (weights, mut gradients) = (self.shape.weights(weights), self.shape.gradients(gradients));
        self.back.transposed.of(level, weights);
        self.back.means_h.clear();
        self.back.y.clear();
        let tokens = schedules.tokens.chunks_exact((self.tokens * self.shape.features).max(1));
        let targets = targets.scores.chunks_exact(self.shape.outputs.max(1)).zip(targets.weights);
        for (tokens, (targets, &weight)) in tokens.zip(targets) {
            if weight == 0.0 {
                continue;
            }
            self.forward(level, weights, tokens);
            for (score, target) in self.scores.iter_mut().zip(targets) {
                *score = 2.0 * weight * (*score - target);
            }
            self.backward(level, weights, tokens, &mut gradients);
        }
        let size = Size { rows: FEED_FORWARD, inner: self.back.y.len() / WIDTH, columns: WIDTH };
        let (means_h, y) = (view(&self.back.means_h, FEED_FORWARD), view(&self.back.y, WIDTH));
        multiply_transposed(level, size, means_h, y, Store::Add, view_mut(gradients.linear2_weight, WIDTH));
    }

    /// Scores of a schedule of `tokens` `[tokens, features]`.
    pub(super) fn forward(&mut self, level: Level, weights: Weights<'_>, tokens: &[f32]) {
        let (rows, features) = (self.tokens, self.shape.features);
        let size = |inner, columns| Size { rows, inner, columns };
        let embedding = (view(tokens, features), view(weights.embed_weight, WIDTH), Store::From(weights.embed_bias));
        multiply(level, size(features, WIDTH), embedding.0, embedding.1, embedding.2, view_mut(&mut self.x, WIDTH));
        self.norm1.forward(level, &self.x, weights.norm1_weight, weights.norm1_bias);
        let (input, into) = (view(&self.norm1.out, WIDTH), Store::From(weights.in_bias));
        multiply(level, size(WIDTH, QKV), input, view(weights.in_weight, QKV), into, view_mut(&mut self.qkv, QKV));
        self.attend(level);
        let (input, into) = (view(&self.o, WIDTH), Store::From(weights.out_bias));
        multiply(level, size(WIDTH, WIDTH), input, view(weights.out_weight, WIDTH), into, view_mut(&mut self.z, WIDTH));
        add(level, &mut self.z, &self.x);
        self.norm2.forward(level, &self.z, weights.norm2_weight, weights.norm2_bias);
        let (input, matrix) = (view(&self.norm2.out, WIDTH), view(weights.linear1_weight, FEED_FORWARD));
        let (into, out) = (Store::From(weights.linear1_bias), view_mut(&mut self.h, FEED_FORWARD));
        multiply(level, size(WIDTH, FEED_FORWARD), input, matrix, into, out);
        rectify(level, &mut self.h, rows as f32, &mut self.mean_h);

        let mut start = [0.0; WIDTH];
        add_columns(level, &self.z, WIDTH, &mut start);
        for (start, bias) in start.iter_mut().zip(weights.linear2_bias) {
            *start = *start / rows as f32 + bias;
        }
        let size = Size { rows: 1, inner: FEED_FORWARD, columns: WIDTH };
        let (input, matrix) = (view(&self.mean_h, FEED_FORWARD), view(weights.linear2_weight, WIDTH));
        multiply(level, size, input, matrix, Store::From(&start), view_mut(&mut self.y, WIDTH));
        self.scores.copy_from_slice(weights.head_bias);
        for (y, row) in self.y.iter().zip(weights.head_weight.chunks_exact(self.shape.outputs)) {
            for (score, weight) in self.scores.iter_mut().zip(row) {
                *score += y * weight;
            }
        }
    }

    /// From q, k and v to o.
    fn attend(&mut self, level: Level) {
        let (tokens, stride) = (self.tokens, self.stride);
        scale_columns(level, &mut self.qkv, QKV, 1.0 / (HEAD as f32).sqrt());
        transpose(level, view(&self.qkv, QKV), tokens, WIDTH, view_mut(&mut self.q_transposed, stride));
        for head in 0..HEADS {
            let e = &mut self.e[head * tokens * stride..][..tokens * stride];
            let k = view(&self.qkv[WIDTH + head * HEAD..], QKV);
            let v = view(&self.qkv[2 * WIDTH + head * HEAD..], QKV);
            let q = view(&self.q_transposed[head * HEAD * stride..], stride);
            let size = Size { rows: tokens, inner: HEAD, columns: stride };
            multiply(level, size, k, q, Store::Set, view_mut(e, stride));
            softmax_columns(level, e, stride, &mut self.inverse_sums[head * stride..]);
            let size = Size { rows: HEAD, inner: tokens, columns: stride };
            let o = view_mut(&mut self.o_transposed[head * HEAD * stride..], stride);
            multiply_transposed(level, size, v, view(e, stride), Store::Set, o);
        }
        scale_heads(level, &mut self.o_transposed, stride, &self.inverse_sums);
        transpose(level, view(&self.o_transposed, stride), WIDTH, tokens, view_mut(&mut self.o, WIDTH));
    }

    /// Adds the gradients on the schedule that went forward last, whose scores have become their own gradients.
    fn backward(&mut self, level: Level, weights: Weights<'_>, tokens: &[f32], gradients: &mut Gradients<'_>) {
        let (rows, features) = (self.tokens, self.shape.features);
        let size = |inner, columns| Size { rows, inner, columns };
        let over_rows = |inputs, columns| Size { rows: inputs, inner: rows, columns };
        let outputs = self.shape.outputs;
        let back = &mut self.back;

        let mut d_y = [0.0_f32; WIDTH];
        let of_rows = weights.head_weight.chunks_exact(outputs).zip(gradients.head_weight.chunks_exact_mut(outputs));
        for ((d_y, y), (weights, gradients)) in d_y.iter_mut().zip(&self.y).zip(of_rows) {
            for ((weight, gradient), d_score) in weights.iter().zip(gradients).zip(&self.scores) {
                *d_y += weight * d_score;
                *gradient += y * d_score;
            }
        }
        for (gradient, d_score) in gradients.head_bias.iter_mut().zip(&self.scores) {
            *gradient += d_score;
        }
        add(level, gradients.linear2_bias, &d_y);
        back.means_h.extend_from_slice(&self.mean_h);
        back.y.extend_from_slice(&d_y);

        let mut g = [0.0_f32; FEED_FORWARD];
        let of_means = Size { rows: 1, inner: WIDTH, columns: FEED_FORWARD };
        let matrix = view(&back.transposed.linear2_weight, FEED_FORWARD);
        multiply(level, of_means, view(&d_y, WIDTH), matrix, Store::Set, view_mut(&mut g, FEED_FORWARD));
        for g in &mut g {
            *g /= rows as f32;
        }
        rectify_backward(level, &self.h, &g, &mut back.h, gradients.linear1_bias);
        let (normed, h) = (view(&self.norm2.out, WIDTH), view(&self.h, FEED_FORWARD));
        let out = view_mut(gradients.linear1_weight, FEED_FORWARD);
        multiply_where_positive(level, over_rows(WIDTH, FEED_FORWARD), normed, h, &g, out);
        let (d_h, matrix) = (view(&back.h, FEED_FORWARD), view(&back.transposed.linear1_weight, WIDTH));
        multiply(level, size(FEED_FORWARD, WIDTH), d_h, matrix, Store::Set, view_mut(&mut back.normed, WIDTH));

        let mean = d_y.map(|d_y| d_y / rows as f32);
        for row in back.x.chunks_exact_mut(WIDTH) {
            row.copy_from_slice(&mean);
        }
        let (norm, of_weight, of_bias) =
            (self.norm2.was(weights.norm2_weight), &mut *gradients.norm2_weight, &mut *gradients.norm2_bias);
        layer_norm_backward(level, &back.normed, norm, &mut back.x, of_weight, of_bias);
        add_columns(level, &back.x, WIDTH, gradients.out_bias);
        let (o, d_z) = (view(&self.o, WIDTH), view(&back.x, WIDTH));
        let out = view_mut(gradients.out_weight, WIDTH);
        multiply_transposed(level, over_rows(WIDTH, WIDTH), o, d_z, Store::Add, out);
        let matrix = view(&back.transposed.out_weight, WIDTH);
        multiply(level, size(WIDTH, WIDTH), d_z, matrix, Store::Set, view_mut(&mut back.o, WIDTH));

        self.attend_backward(level);

        let back = &mut self.back;
        add_columns(level, &back.qkv, QKV, gradients.in_bias);
        let (normed, d_qkv) = (view(&self.norm1.out, WIDTH), view(&back.qkv, QKV));
        let out = view_mut(gradients.in_weight, QKV);
        multiply_transposed(level, over_rows(WIDTH, QKV), normed, d_qkv, Store::Add, out);
        let matrix = view(&back.transposed.in_weight, WIDTH);
        multiply(level, size(QKV, WIDTH), d_qkv, matrix, Store::Set, view_mut(&mut back.normed, WIDTH));
        let (norm, of_weight, of_bias) =
            (self.norm1.was(weights.norm1_weight), &mut *gradients.norm1_weight, &mut *gradients.norm1_bias);
        layer_norm_backward(level, &back.normed, norm, &mut back.x, of_weight, of_bias);
        add_columns(level, &back.x, WIDTH, gradients.embed_bias);
        let (tokens, d_x) = (view(tokens, features), view(&back.x, WIDTH));
        let out = view_mut(gradients.embed_weight, WIDTH);
        multiply_transposed(level, over_rows(features, WIDTH), tokens, d_x, Store::Add, out);
    }

    /// From ∂(o·ΣⱼE) to ∂q, ∂k and ∂v.
    fn attend_backward(&mut self, level: Level) {
        let (tokens, stride) = (self.tokens, self.stride);
        let back = &mut self.back;
        transpose(level, view(&back.o, WIDTH), tokens, WIDTH, view_mut(&mut back.o_transposed, stride));
        scale_heads(level, &mut back.o_transposed, stride, &self.inverse_sums);
        transpose(level, view(&back.o_transposed, stride), WIDTH, tokens, view_mut(&mut back.o, WIDTH));
        for head in 0..HEADS {
            let e = &self.e[head * tokens * stride..][..tokens * stride];
            let q = view(&self.qkv[head * HEAD..], QKV);
            let k = view(&self.qkv[WIDTH + head * HEAD..], QKV);
            let v = view(&self.qkv[2 * WIDTH + head * HEAD..], QKV);
            let o = &self.o_transposed[head * HEAD * stride..][..HEAD * stride];
            let d_o = &back.o_transposed[head * HEAD * stride..][..HEAD * stride];
            let size = Size { rows: tokens, inner: HEAD, columns: stride };
            multiply(level, size, v, view(d_o, stride), Store::Set, view_mut(&mut back.scores, stride));
            score_gradients(level, &mut back.scores, e, stride, o, d_o);
            let d_s = view(&back.scores, stride);
            let size = Size { rows: tokens, inner: tokens, columns: HEAD };
            let d_v = view_mut(&mut back.qkv[2 * WIDTH + head * HEAD..], QKV);
            multiply(level, size, view(e, stride), view(&back.o[head * HEAD..], WIDTH), Store::Set, d_v);
            let d_k = view_mut(&mut back.qkv[WIDTH + head * HEAD..], QKV);
            multiply(level, size, d_s, q, Store::Set, d_k);
            let size = Size { rows: HEAD, inner: tokens, columns: stride };
            let d_q = view_mut(&mut back.q_transposed[head * HEAD * stride..], stride);
            multiply_transposed(level, size, k, d_s, Store::Set, d_q);
        }
        transpose(level, view(&back.q_transposed, stride), WIDTH, tokens, view_mut(&mut back.qkv, QKV));
        scale_columns(level, &mut back.qkv, QKV, 1.0 / (HEAD as f32).sqrt());
    }
}
