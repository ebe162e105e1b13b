//! What is computed number by number or row by row, each in one pass, without a call or a branch in the inner loop, so that the
//! compiler can compute several numbers at once.

use crate::vlm::exponential::{LANES, exponential, exponentials};

/// Sum of the products of two rows, in a fixed order.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    rest + sums.iter().sum::<f32>()
}

/// Root-mean-square normalization of rows as wide as `gain`; also one over the root for each row, for the way back.
#[inline(always)]
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f64) -> (Vec<f32>, Vec<f32>) {
    let width = gain.len().max(1);
    let mut y = Vec::with_capacity(x.len());
    let mut scales = Vec::with_capacity(x.len() / width);
    for row in x.chunks_exact(width) {
        let scale = (dot(row, row) / width as f32 + eps as f32).sqrt().recip();
        y.extend(row.iter().zip(gain).map(|(x, gain)| x * scale * gain));
        scales.push(scale);
    }
    (y, scales)
}

/// Adds the gradient by the input of [`rms_norm`] to `into`. `dy` is the gradient by its result.
///
/// With y = x·s·g and s = (mean(x²) + ε)^(−1/2): dx = s·(g·dy) − x·s³/width · Σ(g·dy·x).
#[inline(always)]
pub fn rms_norm_back(x: &[f32], gain: &[f32], scales: &[f32], dy: &[f32], into: &mut [f32]) {
    let width = gain.len().max(1);
    let mut weighted = vec![0.0; width];
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(into.chunks_exact_mut(width));
    for (((x, dy), into), scale) in rows.zip(scales) {
        for ((weighted, dy), gain) in weighted.iter_mut().zip(dy).zip(gain) {
            *weighted = dy * gain;
        }
        let along = dot(&weighted, x) * scale * scale * scale / width as f32;
        for ((into, weighted), x) in into.iter_mut().zip(&weighted).zip(x) {
            *into += weighted * scale - x * along;
        }
    }
}

/// The logistic function: exp only of what is not positive.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let small = exponential(-x.abs());
    let other = 1.0 / (1.0 + small);
    if x >= 0.0 { other } else { small * other }
}

/// silu(gate)·up of rows that hold both, one after the other: `[rows, 2·width]` → `[rows, width]`.
#[inline(always)]
pub fn gated(both: &[f32], width: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(both.len() / 2);
    for row in both.chunks_exact(2 * width) {
        let (gate, up) = row.split_at(width);
        y.extend(gate.iter().zip(up).map(|(gate, up)| gate * sigmoid(*gate) * up));
    }
    y
}

/// The gradient by the input of [`gated`], in its place. `dy` is the gradient by its result.
#[inline(always)]
pub fn gated_back(both: &mut [f32], width: usize, dy: &[f32]) {
    for (row, dy) in both.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
        let (gate, up) = row.split_at_mut(width);
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let sigmoid = sigmoid(*gate);
            let silu = *gate * sigmoid;
            let slope = sigmoid + silu * (1.0 - sigmoid);
            *gate = *up * dy * slope;
            *up = silu * dy;
        }
    }
}

/// Softmax over the first `seen` numbers of a row; the others become 0.
#[inline(always)]
pub fn softmax(row: &mut [f32], seen: usize) {
    let (row, hidden) = row.split_at_mut(seen);
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = 1.0 / exponentials(row, largest);
    row.iter_mut().for_each(|value| *value *= scale);
    hidden.fill(0.0);
}

/// The gradient by the scores of [`softmax`], times `factor`, in the place of the gradient by its result.
#[inline(always)]
pub fn softmax_back(softmax: &[f32], gradient: &mut [f32], factor: f32) {
    let along = dot(softmax, gradient);
    for (gradient, softmax) in gradient.iter_mut().zip(softmax) {
        *gradient = (*gradient - along) * softmax * factor;
    }
}

/// Adds `b` to `a`.
#[inline(always)]
pub fn add(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}
