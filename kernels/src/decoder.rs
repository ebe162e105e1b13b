//! What a LLaMA decoder computes between its products, forward and back: RMSNorm, SwiGLU and softmax, each in one pass.

use crate::exponential::exp_of_nonpositive;
use crate::level::at_every_level;

/// Numbers that are summed beside each other; a row's sum is that of theirs.
const LANES: usize = 16;

/// The sums of [`LANES`] beside each other, and of what is left.
#[inline(always)]
fn sum(lanes: [f32; LANES], rest: f32) -> f32 {
    lanes.into_iter().fold(rest, |sum, lane| sum + lane)
}

/// Sum of the products of two rows.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest += a * b;
    }
    sum(sums, rest)
}

at_every_level! {
    /// Adds `b` to `a`.
    pub fn add(a: &mut [f32], b: &[f32]) = add_body
}

#[inline(always)]
fn add_body(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

at_every_level! {
    /// Root-mean-square normalization (Zhang and Sennrich 2019) of rows as wide as `gain`: `[rows, width]` to `y`, and one over
    /// the root of each row to `scales`.
    pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], scales: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], scales: &mut [f32]) {
    let width = gain.len().max(1);
    for ((x, y), scale) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(scales) {
        *scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
        for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
            *y = x * *scale * gain;
        }
    }
}

at_every_level! {
    /// Adds the gradient by the input of [`rms_norm`] to `into`; `dy` is the gradient by its result, which is overwritten.
    ///
    /// With y = x·s·g and s = (mean(x²) + ε)^(−1/2): dx = s·(g·dy) − x·s³/width · Σ(g·dy·x).
    pub fn rms_norm_back(x: &[f32], gain: &[f32], scales: &[f32], dy: &mut [f32], into: &mut [f32]) = rms_norm_back_body
}

#[inline(always)]
fn rms_norm_back_body(x: &[f32], gain: &[f32], scales: &[f32], dy: &mut [f32], into: &mut [f32]) {
    let width = gain.len().max(1);
    let rows = x.chunks_exact(width).zip(dy.chunks_exact_mut(width)).zip(into.chunks_exact_mut(width));
    for (((x, dy), into), scale) in rows.zip(scales) {
        for (dy, gain) in dy.iter_mut().zip(gain) {
            *dy *= gain;
        }
        let along = dot(dy, x) * scale * scale * scale / width as f32;
        for ((into, dy), x) in into.iter_mut().zip(dy.iter()).zip(x) {
            *into += dy * scale - x * along;
        }
    }
}

/// The logistic function: e to nothing that is positive.
#[inline(always)]
fn logistic(x: f32) -> f32 {
    let small = exp_of_nonpositive(-x.abs());
    let other = 1.0 / (1.0 + small);
    if x >= 0.0 { other } else { small * other }
}

at_every_level! {
    /// SwiGLU's inner part, silu(gate)·up, of rows that hold both, one after the other: `[rows, 2·width]` to `[rows, width]`.
    pub fn gated(both: &[f32], width: usize, y: &mut [f32]) = gated_body
}

#[inline(always)]
fn gated_body(both: &[f32], width: usize, y: &mut [f32]) {
    let width = width.max(1);
    for (row, y) in both.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(width);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * logistic(*gate) * up;
        }
    }
}

at_every_level! {
    /// The gradient by the input of [`gated`], in its place. `dy` is the gradient by its result.
    pub fn gated_back(both: &mut [f32], width: usize, dy: &[f32]) = gated_back_body
}

#[inline(always)]
fn gated_back_body(both: &mut [f32], width: usize, dy: &[f32]) {
    /// As many numbers as the widest registers hold.
    const LANES: usize = 16;
    let width = width.max(1);
    for (row, dy) in both.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
        let (gate, up) = row.split_at_mut(width);
        let ((gates, gate), (ups, up)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks_mut::<LANES>());
        let (dys, dy) = dy.as_chunks::<LANES>();
        for ((gate, up), dy) in gates.iter_mut().zip(ups).zip(dys) {
            // Copies, which are known to lie apart: of two slices that are written to, one number was computed after the other.
            let (mut by_gate, mut by_up) = (*gate, *up);
            for ((gate, up), dy) in by_gate.iter_mut().zip(&mut by_up).zip(dy) {
                (*gate, *up) = by_gate_and_up(*gate, *up, *dy);
            }
            (*gate, *up) = (by_gate, by_up);
        }
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            (*gate, *up) = by_gate_and_up(*gate, *up, *dy);
        }
    }
}

/// The gradients of silu(gate)·up times `dy`.
#[inline(always)]
fn by_gate_and_up(gate: f32, up: f32, dy: f32) -> (f32, f32) {
    let logistic = logistic(gate);
    let silu = gate * logistic;
    let slope = logistic + silu * (1.0 - logistic);
    (up * dy * slope, silu * dy)
}

at_every_level! {
    /// Causal softmax of some rows of scores, `row` numbers apart: each over as many as `seen` says, up to `columns`; what is not
    /// seen becomes 0.
    pub fn softmax(scores: &mut [f32], row: usize, columns: usize, seen: &[usize]) = softmax_body
}

#[inline(always)]
fn softmax_body(scores: &mut [f32], row: usize, columns: usize, seen: &[usize]) {
    for (scores, seen) in scores.chunks_exact_mut(row.max(1)).zip(seen) {
        let (own, hidden) = scores[..columns].split_at_mut(*seen);
        let scale = 1.0 / exponentials(own, largest_of(own));
        for value in own {
            *value *= scale;
        }
        hidden.fill(0.0);
    }
}

at_every_level! {
    /// What a softmax is before its division: replaces every value of a row by e^(value − the row's largest), and gives the
    /// largest and the sum of the new ones of every row, as many as `sums` and `largest` have room for.
    pub fn likelihoods(scores: &mut [f32], row: usize, largest: &mut [f32], sums: &mut [f32]) = likelihoods_body
}

#[inline(always)]
fn likelihoods_body(scores: &mut [f32], row: usize, largest: &mut [f32], sums: &mut [f32]) {
    for ((scores, largest), sum) in scores.chunks_exact_mut(row.max(1)).zip(largest).zip(sums) {
        *largest = largest_of(scores);
        *sum = exponentials(scores, *largest);
    }
}

#[inline(always)]
fn largest_of(values: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = largest.max(*value);
        }
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces every value by e^(value − largest) and returns the sum of the new ones.
#[inline(always)]
fn exponentials(values: &mut [f32], largest: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp_of_nonpositive(*value - largest);
            *sum += *value;
        }
    }
    let mut left = 0.0;
    for value in rest {
        *value = exp_of_nonpositive(*value - largest);
        left += *value;
    }
    sum(sums, left)
}

at_every_level! {
    /// The gradient by the scores of [`softmax`], times `factor`, in the place of the gradient by its result.
    pub fn softmax_back(softmax: &[f32], gradient: &mut [f32], row: usize, columns: usize, factor: f32) = softmax_back_body
}

#[inline(always)]
fn softmax_back_body(softmax: &[f32], gradient: &mut [f32], row: usize, columns: usize, factor: f32) {
    let rows = softmax.chunks_exact(row.max(1)).zip(gradient.chunks_exact_mut(row.max(1)));
    for (softmax, gradient) in rows {
        let (softmax, gradient) = (&softmax[..columns], &mut gradient[..columns]);
        let along = dot(softmax, gradient);
        for (gradient, softmax) in gradient.iter_mut().zip(softmax) {
            *gradient = (*gradient - along) * softmax * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) % 101) as f32 / 17.0 - 3.0).collect()
    }

    /// Everything here once, with these instructions.
    fn all(level: Level) -> Vec<f32> {
        let (rows, width) = (3, 37);
        let (x, gain) = (numbers(rows * width), numbers(width));
        let (mut y, mut scales) = (vec![0.0; rows * width], vec![0.0; rows]);
        rms_norm(level, &x, &gain, 1e-5, &mut y, &mut scales);
        let mut into = numbers(rows * width);
        rms_norm_back(level, &x, &gain, &scales, &mut y.clone(), &mut into);
        let mut both = numbers(2 * rows * width);
        let mut inner = vec![0.0; rows * width];
        gated(level, &both, width, &mut inner);
        gated_back(level, &mut both, width, &y);
        let mut scores = numbers(rows * width);
        softmax(level, &mut scores, width, 30, &[1, 17, 30]);
        let mut gradient = numbers(rows * width);
        softmax_back(level, &scores, &mut gradient, width, 30, 0.5);
        add(level, &mut y, &inner);
        [y, scales, into, both, scores, gradient].concat()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let base = all(Level::all()[0]);
        for level in Level::all() {
            assert!(all(level).iter().zip(&base).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?}");
        }
    }

    #[test]
    fn softmaxes_add_up_to_one_over_what_is_seen_and_keep_nan() {
        let mut scores = numbers(40);
        softmax(Level::best(), &mut scores, 20, 18, &[5, 18]);
        for (row, seen) in scores.chunks(20).zip([5, 18]) {
            assert!((row[..seen].iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(row[seen..18].iter().all(|value| *value == 0.0));
        }
        let mut scores = [f32::NAN, 1.0];
        softmax(Level::best(), &mut scores, 2, 2, &[2]);
        assert!(scores[0].is_nan());
    }

    /// Against differences of the function itself.
    #[test]
    fn gradients_of_norm_and_gate_are_the_slopes_of_their_results() {
        let level = Level::best();
        let (width, step) = (24, 1e-2);
        let (gain, weights) = (numbers(width), numbers(2 * width));
        let norm = |x: &[f32]| {
            let (mut y, mut scales) = (vec![0.0; width], vec![0.0]);
            rms_norm(level, x, &gain, 1e-5, &mut y, &mut scales);
            (y, scales)
        };
        let gate = |x: &[f32]| {
            let mut y = vec![0.0; width];
            gated(level, x, width, &mut y);
            y
        };
        let weigh = |y: &[f32]| y.iter().zip(&weights).map(|(y, weight)| f64::from(y * weight)).sum::<f64>();
        let x = numbers(2 * width);
        let mut by_norm = vec![0.0; width];
        rms_norm_back(level, &x[..width], &gain, &norm(&x[..width]).1, &mut weights[..width].to_vec(), &mut by_norm);
        let mut by_gate = x.clone();
        gated_back(level, &mut by_gate, width, &weights[..width]);
        for at in 0..2 * width {
            let moved = |by: f32| {
                let mut moved = x.clone();
                moved[at] += by;
                moved
            };
            let slope = |f: &dyn Fn(&[f32]) -> f64| (f(&moved(step)) - f(&moved(-step))) / (2.0 * f64::from(step));
            let expected = slope(&|x| weigh(&gate(x)));
            assert!((f64::from(by_gate[at]) - expected).abs() < 1e-2 * (1.0 + expected.abs()), "{at}");
            if at < width {
                let expected = slope(&|x| weigh(&norm(&x[..width]).0));
                assert!((f64::from(by_norm[at]) - expected).abs() < 1e-2 * (1.0 + expected.abs()), "{at}");
            }
        }
    }
}
