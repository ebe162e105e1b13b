//! Causal attention of sequences that lie one after the other, for all of their positions or a few, and its gradient.

use hydra_kernels::Level;
use hydra_kernels::decoder::{add, softmax, softmax_back};

use super::product::{Onto, View, ViewMut, product};
use crate::par_map::par_map;
use crate::vlm::spec::DecoderSpec;

/// Positions that are attended from at a time: what comes after the last of them is not multiplied.
const BLOCK: usize = 32;

/// What all sequences of a pass share.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Numbers of a head.
    pub dim: usize,
}

impl Heads {
    /// Those of a decoder.
    pub fn new(spec: &DecoderSpec) -> Self {
        Self { queries: spec.heads, keys: spec.kv_heads, dim: spec.head_dim }
    }

    /// Width of the queries.
    pub fn query_width(&self) -> usize {
        self.queries * self.dim
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.keys * self.dim
    }
}

/// One sequence: where its rows begin and end, and which of its positions attend.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Its rows among all rows of the pass.
    pub rows: std::ops::Range<usize>,
    /// The rows of its queries among all queries.
    pub queries: std::ops::Range<usize>,
    /// The position of each query within the sequence.
    pub positions: Vec<usize>,
}

impl Sequence {
    /// Its queries in blocks: first, end, and the number of positions that any of them sees.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.positions.chunks(BLOCK).enumerate().map(|(block, positions)| {
            let seen = positions.iter().max().map_or(0, |last| last + 1);
            (block * BLOCK, block * BLOCK + positions.len(), seen)
        })
    }
}

/// Softmaxes of one sequence, head after head, of `[queries, positions]` each; what is not seen is 0.
pub type Softmaxes = Vec<f32>;

/// What every query takes from the values that it sees.
///
/// # Shapes
/// - `q`: `[queries, query width]`; `kv`, of each sequence: `[positions, 2 · key width]`, keys before values; both rotated
///   already
/// - returns: `[queries, query width]`, and the softmaxes of every sequence
pub fn attend(
    level: Level,
    heads: &Heads,
    sequences: &[Sequence],
    q: &[f32],
    kv: &[&[f32]],
) -> (Vec<f32>, Vec<Softmaxes>) {
    let numbered: Vec<(&Sequence, &[f32])> = sequences.iter().zip(kv.iter().copied()).collect();
    let parts = par_map(&numbered, |(sequence, kv)| attend_sequence(level, heads, sequence, q, kv));
    let mut all = Vec::with_capacity(q.len());
    let mut softmaxes = Vec::with_capacity(parts.len());
    for (part, held) in parts {
        all.extend(part);
        softmaxes.push(held);
    }
    (all, softmaxes)
}

/// Queries, keys and values of one head of a sequence.
fn factors<'a>(
    heads: &Heads,
    sequence: &Sequence,
    q: &'a [f32],
    kv: &'a [f32],
    head: usize,
) -> (View<'a>, View<'a>, View<'a>) {
    let Heads { queries, keys, dim } = *heads;
    let key = head * keys / queries;
    let kv = View::new(kv, 2 * heads.key_width());
    let rows = 0..kv.rows();
    (
        View::new(q, heads.query_width()).part(sequence.queries.clone(), head * dim..(head + 1) * dim),
        kv.part(rows.clone(), key * dim..(key + 1) * dim),
        kv.part(rows, heads.key_width() + key * dim..heads.key_width() + (key + 1) * dim),
    )
}

fn attend_sequence(level: Level, heads: &Heads, sequence: &Sequence, q: &[f32], kv: &[f32]) -> (Vec<f32>, Softmaxes) {
    let (width, dim, length) = (heads.query_width(), heads.dim, kv.len() / (2 * heads.key_width()).max(1));
    let count = sequence.positions.len();
    let mut all = vec![0.0; count * width];
    let mut softmaxes = vec![0.0; heads.queries * count * length];
    let scale = (dim as f32).sqrt().recip();
    for (head, held) in softmaxes.chunks_exact_mut((count * length).max(1)).enumerate() {
        let (q, k, v) = factors(heads, sequence, q, kv, head);
        for (first, end, seen) in sequence.blocks() {
            let scores = &mut held[first * length..end * length];
            let into = ViewMut { data: scores, row: length, first: 0, columns: seen };
            product(into, q.part(first..end, 0..dim), k.part(0..seen, 0..dim).transposed(), scale, Onto::Nothing);
            let of_each: Vec<usize> = sequence.positions[first..end].iter().map(|position| position + 1).collect();
            softmax(level, scores, length, seen, &of_each);
            let softmaxes = View::new(scores, length).part(0..end - first, 0..seen);
            let into = &mut all[first * width..end * width];
            let into = ViewMut { data: into, row: width, first: head * dim, columns: dim };
            product(into, softmaxes, v.part(0..seen, 0..dim), 1.0, Onto::Nothing);
        }
    }
    (all, softmaxes)
}

/// Gradients by `q` and `kv` of [`attend`], of which `dy` is the gradient by the result.
pub fn attend_back(
    level: Level,
    heads: &Heads,
    sequences: &[Sequence],
    q: &[f32],
    kv: &[&[f32]],
    softmaxes: &[Softmaxes],
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let numbered: Vec<_> = sequences.iter().zip(kv.iter().copied()).zip(softmaxes).collect();
    let back = |((sequence, kv), held): &((&Sequence, &[f32]), &Softmaxes)| {
        attend_sequence_back(level, heads, sequence, q, kv, held, dy)
    };
    let parts = par_map(&numbered, back);
    let (mut dq, mut dkv) = (Vec::with_capacity(q.len()), Vec::new());
    for (q, kv) in parts {
        dq.extend(q);
        dkv.extend(kv);
    }
    (dq, dkv)
}

fn attend_sequence_back(
    level: Level,
    heads: &Heads,
    sequence: &Sequence,
    q: &[f32],
    kv: &[f32],
    softmaxes: &[f32],
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (width, dim, length) = (heads.query_width(), heads.dim, kv.len() / (2 * heads.key_width()).max(1));
    let (count, key_width) = (sequence.positions.len(), heads.key_width());
    let mut dq = vec![0.0; count * width];
    let mut dkv = vec![0.0; length * 2 * key_width];
    let mut gradient = vec![0.0; BLOCK * length];
    let scale = (dim as f32).sqrt().recip();
    let dy = View::new(dy, width);
    for (head, held) in softmaxes.chunks_exact((count * length).max(1)).enumerate() {
        let key = head * heads.keys / heads.queries;
        let (q, k, v) = factors(heads, sequence, q, kv, head);
        let dy = dy.part(sequence.queries.clone(), head * dim..(head + 1) * dim);
        for (first, end, seen) in sequence.blocks() {
            let count = end - first;
            let held = &held[first * length..end * length];
            let probabilities = View::new(held, length).part(0..count, 0..seen);
            let dy = dy.part(first..end, 0..dim);
            let into = ViewMut { data: &mut dkv, row: 2 * key_width, first: key_width + key * dim, columns: dim };
            product(into, probabilities.transposed(), dy, 1.0, Onto::Sum);
            let gradient = &mut gradient[..count * length];
            let into = ViewMut { data: gradient, row: length, first: 0, columns: seen };
            product(into, dy, v.part(0..seen, 0..dim).transposed(), 1.0, Onto::Nothing);
            softmax_back(level, held, gradient, length, seen, scale);
            let by_scores = View::new(gradient, length).part(0..count, 0..seen);
            let into = &mut dq[first * width..end * width];
            let into = ViewMut { data: into, row: width, first: head * dim, columns: dim };
            product(into, by_scores, k.part(0..seen, 0..dim), 1.0, Onto::Nothing);
            let into = ViewMut { data: &mut dkv, row: 2 * key_width, first: key * dim, columns: dim };
            product(into, by_scores.transposed(), q.part(first..end, 0..dim), 1.0, Onto::Sum);
        }
    }
    (dq, dkv)
}

/// Rotary position embedding in the rotate-half layout of Hugging Face checkpoints (Su et al., arXiv 2104.09864), for the
/// positions of a sequence.
#[derive(Debug)]
pub struct Rope {
    half: usize,
    /// Cosine and sine of every position and frequency.
    table: Vec<[f32; 2]>,
}

impl Rope {
    /// For positions before `length`.
    pub fn new(spec: &DecoderSpec, length: usize) -> Self {
        let half = spec.head_dim / 2;
        let table = (0..length)
            .flat_map(|position| {
                (0..half).map(move |i| {
                    let frequency = spec.rope_theta.powf(-2.0 * i as f64 / spec.head_dim as f64);
                    let angle = position as f64 * frequency;
                    [angle.cos() as f32, angle.sin() as f32]
                })
            })
            .collect();
        Self { half, table }
    }

    /// Turns the first `width` numbers of a row, head by head, by the angle of its position, or back.
    pub fn turn(&self, row: &mut [f32], width: usize, position: usize, back: bool) {
        let table = &self.table[position * self.half..(position + 1) * self.half];
        let sign = if back { -1.0 } else { 1.0 };
        for head in row[..width].chunks_exact_mut(2 * self.half) {
            let (first, second) = head.split_at_mut(self.half);
            for ((first, second), [cos, sin]) in first.iter_mut().zip(second).zip(table) {
                let (x, y, sin) = (*first, *second, sign * sin);
                *first = x * cos - y * sin;
                *second = y * cos + x * sin;
            }
        }
    }
}

/// Adds rows to those that they were taken from.
pub fn add_rows(level: Level, into: &mut [f32], rows: &[usize], from: &[f32], width: usize) {
    for (row, from) in rows.iter().zip(from.chunks_exact(width)) {
        add(level, &mut into[row * width..(row + 1) * width], from);
    }
}
