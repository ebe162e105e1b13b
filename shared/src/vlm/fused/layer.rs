//! One layer of the decoder, forward and back.

use hydra_kernels::Level;
use hydra_kernels::decoder::{add, gated, gated_back, rms_norm, rms_norm_back};

use super::attention::{Heads, Rope, Sequence, Softmaxes, add_rows, attend, attend_back};
use super::linear::{Gradient, Projections, rounded, values};
use super::product::Rounded;
use crate::vlm::decoder::DecoderLayer;
use crate::vlm::layers::RmsNorm;

/// What all layers of a pass share.
pub struct Pass {
    /// Vector instructions.
    pub level: Level,
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
pub struct Layer<'a> {
    input_norm: Norm,
    q: Projections<'a>,
    kv: Projections<'a>,
    o: Projections<'a>,
    post_norm: Norm,
    gate_up: Projections<'a>,
    down: Projections<'a>,
}

/// A layer's matrices, rounded.
pub struct RoundedLayer {
    q: Rounded,
    kv: Rounded,
    o: Rounded,
    gate_up: Rounded,
    down: Rounded,
}

impl RoundedLayer {
    /// Reads them.
    pub fn load(layer: &DecoderLayer) -> Self {
        Self {
            q: rounded(&[&layer.q_proj]),
            kv: rounded(&[&layer.k_proj, &layer.v_proj]),
            o: rounded(&[&layer.o_proj]),
            gate_up: rounded(&[&layer.gate_proj, &layer.up_proj]),
            down: rounded(&[&layer.down_proj]),
        }
    }
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
    /// What their adapters made of their inputs, where that was computed.
    reduced: Reduced,
}

struct Reduced {
    q: Option<Vec<f32>>,
    kv: Option<Vec<f32>>,
    o: Option<Vec<f32>>,
    gate_up: Option<Vec<f32>>,
    down: Option<Vec<f32>>,
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

impl<'a> Layer<'a> {
    /// Reads a layer, whose matrices may be rounded already.
    pub fn load(layer: &DecoderLayer, rounded: Option<&'a RoundedLayer>) -> Self {
        Self {
            input_norm: Norm::load(&layer.input_layernorm),
            q: Projections::load(&[&layer.q_proj], rounded.map(|r| &r.q)),
            kv: Projections::load(&[&layer.k_proj, &layer.v_proj], rounded.map(|r| &r.kv)),
            o: Projections::load(&[&layer.o_proj], rounded.map(|r| &r.o)),
            post_norm: Norm::load(&layer.post_attention_layernorm),
            gate_up: Projections::load(&[&layer.gate_proj, &layer.up_proj], rounded.map(|r| &r.gate_up)),
            down: Projections::load(&[&layer.down_proj], rounded.map(|r| &r.down)),
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
        let Pass { level, heads, rope, positions, hidden, intermediate } = pass;
        let input = self.input_norm.forward(*level, x);
        let (mut kv, of_kv) = self.kv.forward(*level, &input.values);
        let every_row = queries.rows.len() == positions.len();
        let (mut q, of_q) = if every_row {
            self.q.forward(*level, &input.values)
        } else {
            self.q.forward(*level, &take_rows(&input.values, &queries.rows, *hidden))
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
        let (mut middle, of_o) = self.o.forward(*level, &attended);
        for (row, at) in middle.chunks_exact_mut(*hidden).zip(&queries.rows) {
            add(*level, row, &x[at * hidden..(at + 1) * hidden]);
        }
        let post = self.post_norm.forward(*level, &middle);
        let (gate_up, of_gate_up) = self.gate_up.forward(*level, &post.values);
        let mut inner = vec![0.0; gate_up.len() / 2];
        gated(*level, &gate_up, *intermediate, &mut inner);
        let (mut y, of_down) = self.down.forward(*level, &inner);
        add(*level, &mut y, &middle);
        let reduced = Reduced { q: of_q, kv: of_kv, o: of_o, gate_up: of_gate_up, down: of_down };
        (y, Kept { input, q, kv, softmaxes, attended, middle, post, gate_up, inner, reduced })
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
        let Pass { level, heads, rope, positions, hidden, intermediate } = pass;
        let Kept { input, q, kv, softmaxes, attended, middle, post, mut gate_up, inner, reduced } = kept;
        let v = self.down.reduced_back(&dy);
        let d_inner = self.down.by_input(&dy, &v);
        self.down.by_adapters(&inner, reduced.down.as_deref(), &dy, &v, gradients);
        gated_back(*level, &mut gate_up, *intermediate, &d_inner);
        let v = self.gate_up.reduced_back(&gate_up);
        let mut d_post = self.gate_up.by_input(&gate_up, &v);
        self.gate_up.by_adapters(&post.values, reduced.gate_up.as_deref(), &gate_up, &v, gradients);
        // Around the feed-forward the gradient goes on as it is.
        let mut d_middle = dy;
        rms_norm_back(*level, &middle, &self.post_norm.gain, &post.scales, &mut d_post, &mut d_middle);
        let v = self.o.reduced_back(&d_middle);
        let d_attended = self.o.by_input(&d_middle, &v);
        self.o.by_adapters(&attended, reduced.o.as_deref(), &d_middle, &v, gradients);
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
        let (v_of_kv, v_of_q) = (self.kv.reduced_back(&dkv), self.q.reduced_back(&dq));
        self.kv.by_adapters(&input.values, reduced.kv.as_deref(), &dkv, &v_of_kv, gradients);
        let every_row = queries.rows.len() == positions.len();
        let taken = if every_row { Vec::new() } else { take_rows(&input.values, &queries.rows, *hidden) };
        let read = if every_row { &input.values } else { &taken };
        self.q.by_adapters(read, reduced.q.as_deref(), &dq, &v_of_q, gradients);
        if !wanted {
            return None;
        }
        let mut d_input = self.kv.by_input(&dkv, &v_of_kv);
        if every_row {
            self.q.add_by_input(&dq, &v_of_q, &mut d_input);
        } else {
            add_rows(*level, &mut d_input, &queries.rows, &self.q.by_input(&dq, &v_of_q), *hidden);
        }
        let mut dx = vec![0.0; x.len()];
        rms_norm_back(*level, x, &self.input_norm.gain, &input.scales, &mut d_input, &mut dx);
        add_rows(*level, &mut dx, &queries.rows, &d_middle, *hidden);
        Some(dx)
    }
}
