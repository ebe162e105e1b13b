//! What is done element by element, row by row or column by column between the products.
//!
//! A row's sum is a tree: its second half is added to its first until one number is left. A column's is in the order of its
//! rows.

#![allow(unsafe_code, reason = "vector instructions are functions that only some processors have")]
#![allow(clippy::needless_range_loop, reason = "loops over constant indices are unrolled into registers")]

use crate::encoder::{FEED_FORWARD, HEAD, WIDTH};
use crate::exponential::{LEAST, LN2_HIGH, LN2_LOW, LOG2_E, POLYNOMIAL, ROUNDS};
use crate::level::at_every_level;
use crate::products::{View, ViewMut};
#[cfg(target_arch = "x86_64")]
use crate::vector::x86::{Avx32, Wide32};
use crate::vector::{BLOCK, Vector, base, transpose_block};

/// LayerNorm's epsilon (PyTorch's default).
const EPSILON: f32 = 1e-5;

/// A row of [`WIDTH`].
type Row = [f32; WIDTH];

/// A row in registers, as many as it takes with four numbers each.
type Registers<V> = [V; WIDTH / 4];

/// The numbers from `at` on.
///
/// # Safety
/// As [`Vector`]'s, here and below: every function is inlined into one that is compiled for the
/// instructions of its `V`.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector<Number = f32>>(values: &[f32], at: usize) -> V {
    let values = &values[at..at + V::LANES];
    // SAFETY: there are as many.
    unsafe { V::load(values.as_ptr()) }
}

#[inline(always)]
pub(crate) unsafe fn store<V: Vector<Number = f32>>(vector: V, values: &mut [f32], at: usize) {
    let values = &mut values[at..at + V::LANES];
    // SAFETY: there are as many.
    unsafe { vector.store(values.as_mut_ptr()) }
}

#[inline(always)]
unsafe fn load_row<V: Vector<Number = f32>>(row: &Row) -> Registers<V> {
    // SAFETY: as above.
    unsafe {
        let mut registers = [V::splat(0.0); WIDTH / 4];
        for i in 0..WIDTH / V::LANES {
            registers[i] = load(row, i * V::LANES);
        }
        registers
    }
}

/// The sum of a row, as a tree.
#[inline(always)]
unsafe fn sum<V: Vector<Number = f32>>(mut row: Registers<V>) -> f32 {
    let mut lanes = [0.0_f32; 16];
    // SAFETY: as above; no register holds more than 16 numbers.
    unsafe {
        let mut half = WIDTH / V::LANES / 2;
        while half > 0 {
            for i in 0..half {
                row[i] = row[i].add(row[i + half]);
            }
            half /= 2;
        }
        row[0].store(lanes.as_mut_ptr());
    }
    let mut half = V::LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// See [`exp_of_nonpositive`](crate::exponential::exp_of_nonpositive).
#[inline(always)]
unsafe fn exp_of_nonpositive<V: Vector<Number = f32>>(x: V) -> V {
    // SAFETY: as above.
    unsafe {
        let x = x.max(V::splat(LEAST));
        let rounded = x.mul(V::splat(LOG2_E)).add(V::splat(ROUNDS));
        let n = rounded.sub(V::splat(ROUNDS));
        let r = x.sub(n.mul(V::splat(LN2_HIGH))).sub(n.mul(V::splat(LN2_LOW)));
        let [a, b, c, d] = POLYNOMIAL;
        let q = V::splat(a).mul(r).add(V::splat(b)).mul(r).add(V::splat(c)).mul(r).add(V::splat(d));
        let power = q.mul(r.mul(r)).add(r).add(V::splat(1.0));
        power.mul(rounded.power_of_two())
    }
}

/// A row and one sum for each of its tokens: what a normalisation leaves for its backward pass.
pub(crate) struct Normed<'a> {
    /// (x − mean)/deviation, `[tokens, WIDTH]`.
    pub(crate) standard: &'a mut [f32],
    /// 1/deviation, `[tokens]`.
    pub(crate) scale: &'a mut [f32],
    /// standard·weight + bias, `[tokens, WIDTH]`.
    pub(crate) out: &'a mut [f32],
}

at_every_level! {
    /// LayerNorm of every row of x `[tokens, WIDTH]`.
    pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], normed: Normed<'_>) = layer_norm_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn layer_norm_body<V: Vector<Number = f32>>(x: &[f32], weight: &[f32], bias: &[f32], normed: Normed<'_>) {
    let ([weight], [bias]) = (weight.as_chunks::<WIDTH>().0, bias.as_chunks::<WIDTH>().0) else { return };
    let rows = x.as_chunks::<WIDTH>().0.iter().zip(normed.standard.as_chunks_mut::<WIDTH>().0);
    let rows = rows.zip(normed.out.as_chunks_mut::<WIDTH>().0).zip(normed.scale);
    // SAFETY: as above.
    unsafe {
        let (weight, bias): (Registers<V>, Registers<V>) = (load_row(weight), load_row(bias));
        for (((x, standard), out), scale) in rows {
            let mut x: Registers<V> = load_row(x);
            let mean = V::splat(sum(x) * (1.0 / WIDTH as f32));
            let mut squares = x;
            for i in 0..WIDTH / V::LANES {
                x[i] = x[i].sub(mean);
                squares[i] = x[i].mul(x[i]);
            }
            *scale = 1.0 / (sum(squares) * (1.0 / WIDTH as f32) + EPSILON).sqrt();
            let factor = V::splat(*scale);
            for i in 0..WIDTH / V::LANES {
                let scaled = x[i].mul(factor);
                store(scaled, standard, i * V::LANES);
                store(scaled.mul(weight[i]).add(bias[i]), out, i * V::LANES);
            }
        }
    }
}

/// What a normalisation's backward pass reads, as [`Normed`] left it.
#[derive(Clone, Copy)]
pub(crate) struct WasNormed<'a> {
    pub(crate) standard: &'a [f32],
    pub(crate) scale: &'a [f32],
    pub(crate) weight: &'a [f32],
}

at_every_level! {
    /// From the gradient of a normalisation's output `[tokens, WIDTH]`: adds that of its input to `d_x`, and those of weight and
    /// bias to theirs.
    pub(crate) fn layer_norm_backward(d_out: &[f32], normed: WasNormed<'_>, d_x: &mut [f32], d_weight: &mut [f32], d_bias: &mut [f32]) = layer_norm_backward_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn layer_norm_backward_body<V: Vector<Number = f32>>(
    d_out: &[f32],
    normed: WasNormed<'_>,
    d_x: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let [weight] = normed.weight.as_chunks::<WIDTH>().0 else { return };
    let rows = d_out.as_chunks::<WIDTH>().0.iter().zip(normed.standard.as_chunks::<WIDTH>().0);
    let rows = rows.zip(d_x.as_chunks_mut::<WIDTH>().0).zip(normed.scale);
    // SAFETY: as above.
    unsafe {
        let weight: Registers<V> = load_row(weight);
        let mut of_weight = [V::splat(0.0); WIDTH / 4];
        let mut of_bias = of_weight;
        for (((d_out, standard), d_x), scale) in rows {
            let (d_out, standard): (Registers<V>, Registers<V>) = (load_row(d_out), load_row(standard));
            let (mut g, mut along) = (d_out, d_out);
            for i in 0..WIDTH / V::LANES {
                g[i] = d_out[i].mul(weight[i]);
                along[i] = g[i].mul(standard[i]);
            }
            let mean = V::splat(sum(g) * (1.0 / WIDTH as f32));
            let along = V::splat(sum(along) * (1.0 / WIDTH as f32));
            let scale = V::splat(*scale);
            for i in 0..WIDTH / V::LANES {
                let own = scale.mul(g[i].sub(mean).sub(standard[i].mul(along)));
                store(load::<V>(d_x, i * V::LANES).add(own), d_x, i * V::LANES);
                of_weight[i] = of_weight[i].add(d_out[i].mul(standard[i]));
                of_bias[i] = of_bias[i].add(d_out[i]);
            }
        }
        for i in 0..WIDTH / V::LANES {
            store(load::<V>(d_weight, i * V::LANES).add(of_weight[i]), d_weight, i * V::LANES);
            store(load::<V>(d_bias, i * V::LANES).add(of_bias[i]), d_bias, i * V::LANES);
        }
    }
}

at_every_level! {
    /// Turns scores `[tokens, stride]`, a column per query, into e to the score less the column's largest, and gives 1 over each
    /// column's sum.
    pub(crate) fn softmax_columns(scores: &mut [f32], stride: usize, inverse_sums: &mut [f32]) = softmax_columns_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn softmax_columns_body<V: Vector<Number = f32>>(scores: &mut [f32], stride: usize, inverse_sums: &mut [f32]) {
    let mut column = 0;
    // SAFETY: as above.
    unsafe {
        while column + 2 * V::LANES <= stride {
            softmax_of::<V, 2>(scores, stride, column, inverse_sums);
            column += 2 * V::LANES;
        }
        while column + V::LANES <= stride {
            softmax_of::<V, 1>(scores, stride, column, inverse_sums);
            column += V::LANES;
        }
        while column + V::Half::LANES <= stride {
            softmax_of::<V::Half, 1>(scores, stride, column, inverse_sums);
            column += V::Half::LANES;
        }
    }
}

#[inline(always)]
unsafe fn softmax_of<V: Vector<Number = f32>, const N: usize>(
    scores: &mut [f32],
    stride: usize,
    column: usize,
    inverse_sums: &mut [f32],
) {
    // SAFETY: as above.
    unsafe {
        let mut largest = [V::splat(f32::MIN); N];
        for row in scores.chunks_exact(stride) {
            let row = &row[column..column + N * V::LANES];
            for n in 0..N {
                largest[n] = load::<V>(row, n * V::LANES).max(largest[n]);
            }
        }
        let mut sums = [V::splat(0.0); N];
        for row in scores.chunks_exact_mut(stride) {
            let row = &mut row[column..column + N * V::LANES];
            for n in 0..N {
                let e = exp_of_nonpositive(load::<V>(row, n * V::LANES).sub(largest[n]));
                store(e, row, n * V::LANES);
                sums[n] = sums[n].add(e);
            }
        }
        for n in 0..N {
            store(V::splat(1.0).div(sums[n]), inverse_sums, column + n * V::LANES);
        }
    }
}

at_every_level! {
    /// The gradient of scores `[tokens, stride]`, in place of the values' products with the gradient of what was mixed: e times
    /// what is left of these less each query's own product. `mixed` and `d_mixed` are `[HEAD, stride]`.
    pub(crate) fn score_gradients(products: &mut [f32], e: &[f32], stride: usize, mixed: &[f32], d_mixed: &[f32]) = score_gradients_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn score_gradients_body<V: Vector<Number = f32>>(
    products: &mut [f32],
    e: &[f32],
    stride: usize,
    mixed: &[f32],
    d_mixed: &[f32],
) {
    let mut column = 0;
    // SAFETY: as above.
    unsafe {
        while column + 2 * V::LANES <= stride {
            score_gradients_of::<V, 2>(products, e, stride, column, mixed, d_mixed);
            column += 2 * V::LANES;
        }
        while column + V::LANES <= stride {
            score_gradients_of::<V, 1>(products, e, stride, column, mixed, d_mixed);
            column += V::LANES;
        }
        while column + V::Half::LANES <= stride {
            score_gradients_of::<V::Half, 1>(products, e, stride, column, mixed, d_mixed);
            column += V::Half::LANES;
        }
    }
}

#[inline(always)]
unsafe fn score_gradients_of<V: Vector<Number = f32>, const N: usize>(
    products: &mut [f32],
    e: &[f32],
    stride: usize,
    column: usize,
    mixed: &[f32],
    d_mixed: &[f32],
) {
    // SAFETY: as above.
    unsafe {
        let mut own = [V::splat(0.0); N];
        for d in 0..HEAD {
            for n in 0..N {
                let at = d * stride + column + n * V::LANES;
                own[n] = own[n].add(load::<V>(mixed, at).mul(load(d_mixed, at)));
            }
        }
        for (products, e) in products.chunks_exact_mut(stride).zip(e.chunks_exact(stride)) {
            let (products, e) = (&mut products[column..column + N * V::LANES], &e[column..column + N * V::LANES]);
            for n in 0..N {
                let left = load::<V>(products, n * V::LANES).sub(own[n]);
                store(load::<V>(e, n * V::LANES).mul(left), products, n * V::LANES);
            }
        }
    }
}

at_every_level! {
    /// Rectifies h `[tokens, FEED_FORWARD]` and gives each column's mean.
    pub(crate) fn rectify(h: &mut [f32], tokens: f32, means: &mut [f32]) = rectify_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn rectify_body<V: Vector<Number = f32>>(h: &mut [f32], tokens: f32, means: &mut [f32]) {
    // SAFETY: as above.
    unsafe {
        for column in (0..FEED_FORWARD).step_by(4 * V::LANES) {
            let mut sums = [V::splat(0.0); 4];
            for row in h.as_chunks_mut::<FEED_FORWARD>().0 {
                for n in 0..4 {
                    let at = column + n * V::LANES;
                    let rectified = load::<V>(row, at).where_positive(load(row, at));
                    store(rectified, row, at);
                    sums[n] = sums[n].add(rectified);
                }
            }
            for n in 0..4 {
                store(sums[n].div(V::splat(tokens)), means, column + n * V::LANES);
            }
        }
    }
}

at_every_level! {
    /// The gradient of what was rectified to h, `[tokens, FEED_FORWARD]`, where every token's is `d_h`; adds its columns' sums to
    /// `sums`.
    pub(crate) fn rectify_backward(h: &[f32], d_h: &[f32], out: &mut [f32], sums: &mut [f32]) = rectify_backward_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn rectify_backward_body<V: Vector<Number = f32>>(h: &[f32], d_h: &[f32], out: &mut [f32], sums: &mut [f32]) {
    // SAFETY: as above.
    unsafe {
        for column in (0..FEED_FORWARD).step_by(4 * V::LANES) {
            let (mut of_column, mut gradient) = ([V::splat(0.0); 4], [V::splat(0.0); 4]);
            for n in 0..4 {
                gradient[n] = load(d_h, column + n * V::LANES);
            }
            for (h, out) in h.as_chunks::<FEED_FORWARD>().0.iter().zip(out.as_chunks_mut::<FEED_FORWARD>().0) {
                for n in 0..4 {
                    let at = column + n * V::LANES;
                    let own = gradient[n].where_positive(load(h, at));
                    store(own, out, at);
                    of_column[n] = of_column[n].add(own);
                }
            }
            for n in 0..4 {
                let at = column + n * V::LANES;
                store(load::<V>(sums, at).add(of_column[n]), sums, at);
            }
        }
    }
}

at_every_level! {
    /// Adds b to a, as many as a multiple of [`WIDTH`].
    pub(crate) fn add(a: &mut [f32], b: &[f32]) = add_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn add_body<V: Vector<Number = f32>>(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.as_chunks_mut::<WIDTH>().0.iter_mut().zip(b.as_chunks::<WIDTH>().0) {
        // SAFETY: as above.
        unsafe {
            for i in 0..WIDTH / V::LANES {
                store(load::<V>(a, i * V::LANES).add(load(b, i * V::LANES)), a, i * V::LANES);
            }
        }
    }
}

at_every_level! {
    /// Adds the columns' sums of x `[tokens, columns]` to `sums` `[columns]`, a multiple of [`WIDTH`].
    pub(crate) fn add_columns(x: &[f32], columns: usize, sums: &mut [f32]) = add_columns_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn add_columns_body<V: Vector<Number = f32>>(x: &[f32], columns: usize, sums: &mut [f32]) {
    for (part, sums) in sums.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        // SAFETY: as above.
        unsafe {
            let mut of_part = [V::splat(0.0); WIDTH / 4];
            for row in x.chunks_exact(columns) {
                let row = &row[part * WIDTH..(part + 1) * WIDTH];
                for i in 0..WIDTH / V::LANES {
                    of_part[i] = of_part[i].add(load(row, i * V::LANES));
                }
            }
            for i in 0..WIDTH / V::LANES {
                store(load::<V>(sums, i * V::LANES).add(of_part[i]), sums, i * V::LANES);
            }
        }
    }
}

at_every_level! {
    /// A `[rows, columns]` → `[columns, rows]`.
    pub(crate) fn transpose(a: View<'_, f32>, rows: usize, columns: usize, out: ViewMut<'_, f32>) = transpose_body
}

#[inline(always)]
fn transpose_body(a: View<'_, f32>, rows: usize, columns: usize, out: ViewMut<'_, f32>) {
    let (View { values: a, stride: a_stride }, ViewMut { values: out, stride: out_stride }) = (a, out);
    if rows == 0 || columns == 0 {
        return;
    }
    let (a, out) = (&a[..(rows - 1) * a_stride + columns], &mut out[..(columns - 1) * out_stride + rows]);
    let (whole_rows, whole_columns) = (rows - rows % BLOCK, columns - columns % BLOCK);
    for row in (0..whole_rows).step_by(BLOCK) {
        for column in (0..whole_columns).step_by(BLOCK) {
            // SAFETY: both slices end with the last row's last number, which no block passes.
            unsafe {
                let from = a.as_ptr().add(row * a_stride + column);
                let to = out.as_mut_ptr().add(column * out_stride + row);
                transpose_block(from, a_stride, to, out_stride);
            }
        }
    }
    for row in 0..rows {
        let columns = if row < whole_rows { whole_columns..columns } else { 0..columns };
        for column in columns {
            out[column * out_stride + row] = a[row * a_stride + column];
        }
    }
}

at_every_level! {
    /// Multiplies the rows of x `[heads · HEAD, stride]` by their head's factors `[heads, stride]`.
    pub(crate) fn scale_heads(x: &mut [f32], stride: usize, factors: &[f32]) = scale_heads_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn scale_heads_body<V: Vector<Number = f32>>(x: &mut [f32], stride: usize, factors: &[f32]) {
    for (head, factors) in x.chunks_exact_mut(HEAD * stride).zip(factors.chunks_exact(stride)) {
        for row in head.chunks_exact_mut(stride) {
            // SAFETY: as above.
            unsafe {
                let mut at = 0;
                while at + V::LANES <= stride {
                    store(load::<V>(row, at).mul(load(factors, at)), row, at);
                    at += V::LANES;
                }
                while at + V::Half::LANES <= stride {
                    store(load::<V::Half>(row, at).mul(load(factors, at)), row, at);
                    at += V::Half::LANES;
                }
            }
        }
    }
}

at_every_level! {
    /// Multiplies the first [`WIDTH`] columns of x `[rows, stride]`.
    pub(crate) fn scale_columns(x: &mut [f32], stride: usize, factor: f32) = scale_columns_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn scale_columns_body<V: Vector<Number = f32>>(x: &mut [f32], stride: usize, factor: f32) {
    for row in x.chunks_exact_mut(stride) {
        let row = &mut row[..WIDTH];
        // SAFETY: as above.
        unsafe {
            for i in 0..WIDTH / V::LANES {
                store(load::<V>(row, i * V::LANES).mul(V::splat(factor)), row, i * V::LANES);
            }
        }
    }
}
