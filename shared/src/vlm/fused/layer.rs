//! One layer of the decoder, forward and back.

use hydra_kernels::Level;
use hydra_kernels::decoder::{add, gated, gated_back, rms_norm, rms_norm_back};

use super::attention::{Heads, Rope, Sequence, Softmaxes, add_rows, attend, attend_back};
use super::linear::{Gradient, Projections, values};
use super::product::Products;
use crate::vlm::decoder::DecoderLayer;
use crate::vlm::layers::RmsNorm;

/// What all layers of a pass share.
pub struct Pass {
    /// Vector instructions.
    pub level: Level,
    /// Products with the layers' matrices.
    pub products: Products,
    /// Heads of the attention.
    pub heads: Heads,
    /// Angles of the positions.
    pub rope: Rope,
    /// The position of every row within its sequence.
    pub positions: Vec<usize>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the feed-forward.
    pub intermediate: usize,
}

/// The rows of a layer that go on, those of every sequence after those of the one before.
pub struct Queries {
    /// Where they stand among the rows that come in.
    pub rows: Vec<usize>,
    /// Every sequence, with its rows and queries.
    pub sequences: Vec<Sequence>,
}

/// A layer on the host.
pub struct Layer {
    input_norm: Norm,
    q: Projections,
    kv: Projections,
    o: Projections,
    post_norm: Norm,
    gate_up: Projections,
    down: Projections,
}

struct Norm {
    gain: Vec<f32>,
    eps: f64,
}

impl Norm {
    fn load(norm: &RmsNorm) -> Self {
        Self { gain: values(norm.weight.val()), eps: norm.eps }
    }

    fn forward(&self, level: Level, x: &[f32]) -> Normed {
        let rows = x.len().checked_div(self.gain.len()).unwrap_or(0);
        let mut normed = Normed { values: vec![0.0; x.len()], scales: vec![0.0; rows] };
        rms_norm(level, x, &self.gain, self.eps as f32, &mut normed.values, &mut normed.scales);
        normed
    }
}

/// What the way back needs of the way forth.
pub struct Kept {
    input: Normed,
    q: Vec<f32>,
    kv: Vec<f32>,
    softmaxes: Vec<Softmaxes>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    post: Normed,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
}

struct Normed {
    values: Vec<f32>,
    scales: Vec<f32>,
}

/// Those rows of a matrix.
pub fn take_rows(x: &[f32], rows: &[usize], width: usize) -> Vec<f32> {
    rows.iter().flat_map(|row| &x[row * width..(row + 1) * width]).copied().collect()
}

/// The rows of each sequence.
fn own_rows<'a>(queries: &Queries, x: &'a [f32], width: usize) -> Vec<&'a [f32]> {
    let own = |sequence: &Sequence| &x[sequence.rows.start * width..sequence.rows.end * width];
    queries.sequences.iter().map(own).collect()
}

impl Layer {
    /// Reads a layer for such products.
    pub fn load(layer: &DecoderLayer, products: Products) -> Self {
        Self {
            input_norm: Norm::load(&layer.input_layernorm),
            q: Projections::load(&[&layer.q_proj], products),
            kv: Projections::load(&[&layer.k_proj, &layer.v_proj], products),
            o: Projections::load(&[&layer.o_proj], products),
            post_norm: Norm::load(&layer.post_attention_layernorm),
            gate_up: Projections::load(&[&layer.gate_proj, &layer.up_proj], products),
            down: Projections::load(&[&layer.down_proj], products),
        }
    }

    /// `[rows, hidden]` → `[queries, hidden]`, and what [`Self::back`] needs. With the keys and values that each sequence has
    /// so far, its rows come after those, and are added to them.
    pub fn forward(
        &self,
        pass: &Pass,
        queries: &Queries,
        x: &[f32],
        past: Option<&mut [&mut Vec<f32>]>,
    ) -> (Vec<f32>, Kept) {
        let Pass { level, products, heads, rope, positions, hidden, intermediate } = pass;
        let input = self.input_norm.forward(*level, x);
        let mut kv = self.kv.forward(*level, *products, &input.values);
        let every_row = queries.rows.len() == positions.len();
        let mut q = if every_row {
            self.q.forward(*level, *products, &input.values)
        } else {
            self.q.forward(*level, *products, &take_rows(&input.values, &queries.rows, *hidden))
        };
        let (query_width, key_width) = (heads.query_width(), heads.key_width());
        for (row, position) in kv.chunks_exact_mut(2 * key_width).zip(positions) {
            rope.turn(row, key_width, *position, false);
        }
        for (row, at) in q.chunks_exact_mut(query_width).zip(&queries.rows) {
            rope.turn(row, query_width, positions[*at], false);
        }
        let (attended, softmaxes) = match past {
            None => attend(*level, heads, &queries.sequences, &q, &own_rows(queries, &kv, 2 * key_width)),
            Some(past) => {
                for (past, own) in past.iter_mut().zip(own_rows(queries, &kv, 2 * key_width)) {
                    past.extend_from_slice(own);
                }
                let all: Vec<&[f32]> = past.iter().map(|past| past.as_slice()).collect();
                attend(*level, heads, &queries.sequences, &q, &all)
            }
        };
        let mut middle = self.o.forward(*level, *products, &attended);
        for (row, at) in middle.chunks_exact_mut(*hidden).zip(&queries.rows) {
            add(*level, row, &x[at * hidden..(at + 1) * hidden]);
        }
        let post = self.post_norm.forward(*level, &middle);
        let gate_up = self.gate_up.forward(*level, *products, &post.values);
        let mut inner = vec![0.0; gate_up.len() / 2];
        gated(*level, &gate_up, *intermediate, &mut inner);
        let mut y = self.down.forward(*level, *products, &inner);
        add(*level, &mut y, &middle);
        (y, Kept { input, q, kv, softmaxes, attended, middle, post, gate_up, inner })
    }

    /// The gradient by the input, where it is wanted, and those of the adapters. `x` is the input, `kept` what came of it, `dy`
    /// the gradient by the result.
    pub fn back(
        &self,
        pass: &Pass,
        queries: &Queries,
        (x, kept): (&[f32], Kept),
        dy: Vec<f32>,
        wanted: bool,
        gradients: &mut Vec<Gradient>,
    ) -> Option<Vec<f32>> {
        let Pass { level, products, heads, rope, positions, hidden, intermediate } = pass;
        let Kept { input, q, kv, softmaxes, attended, middle, post, mut gate_up, inner } = kept;
        let d_inner = self.down.by_input(*products, &dy);
        self.down.by_adapters(&inner, &dy, gradients);
        gated_back(*level, &mut gate_up, *intermediate, &d_inner);
        let mut d_post = self.gate_up.by_input(*products, &gate_up);
        self.gate_up.by_adapters(&post.values, &gate_up, gradients);
        // Around the feed-forward the gradient goes on as it is.
        let mut d_middle = dy;
        rms_norm_back(*level, &middle, &self.post_norm.gain, &post.scales, &mut d_post, &mut d_middle);
        let d_attended = self.o.by_input(*products, &d_middle);
        self.o.by_adapters(&attended, &d_middle, gradients);
        let (query_width, key_width) = (heads.query_width(), heads.key_width());
        let (mut dq, mut dkv) = attend_back(
            *level,
            heads,
            &queries.sequences,
            &q,
            &own_rows(queries, &kv, 2 * key_width),
            &softmaxes,
            &d_attended,
        );
        for (row, at) in dq.chunks_exact_mut(query_width).zip(&queries.rows) {
            rope.turn(row, query_width, positions[*at], true);
        }
        for (row, position) in dkv.chunks_exact_mut(2 * key_width).zip(positions) {
            rope.turn(row, key_width, *position, true);
        }
        self.kv.by_adapters(&input.values, &dkv, gradients);
        let every_row = queries.rows.len() == positions.len();
        if every_row {
            self.q.by_adapters(&input.values, &dq, gradients);
        } else {
            self.q.by_adapters(&take_rows(&input.values, &queries.rows, *hidden), &dq, gradients);
        }
        if !wanted {
            return None;
        }
        let mut d_input = self.kv.by_input(*products, &dkv);
        if every_row {
            self.q.add_by_input(*products, &dq, &mut d_input);
        } else {
            add_rows(*level, &mut d_input, &queries.rows, &self.q.by_input(*products, &dq), *hidden);
        }
        let mut dx = vec![0.0; x.len()];
        rms_norm_back(*level, x, &self.input_norm.gain, &input.scales, &mut d_input, &mut dx);
        add_rows(*level, &mut dx, &queries.rows, &d_middle, *hidden);
        Some(dx)
    }
}
