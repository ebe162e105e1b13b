//! Factors of positive definite matrices, K = UᵀU, in double precision, and what is solved with them.
//!
//! The factor is upper and row-major, so that all of the work is products whose rows lie in memory one after the other: a block
//! of rows is K's, less the product of what is above it, solved with its own triangle.

use crate::Level;
use crate::level::at_every_level;
use crate::products::{COLUMNS, Size, Store, multiply_f64, multiply_transposed_f64, view, view_mut};

/// Rows that are finished together: what is above them is read from memory once for all of them.
const BLOCK: usize = 64;
/// Rows of a block that are finished one by one.
const STRIP: usize = 8;

/// U of K = UᵀU.
#[derive(Debug, Clone)]
pub struct Factor {
    size: usize,
    stride: usize,
    /// Row-major; what is left of the diagonal means nothing.
    upper: Vec<f64>,
}

/// Right-hand sides Y, of which Z = U⁻ᵀY: yᵀK⁻¹y is the square of z.
#[derive(Debug, Clone)]
pub struct Solved {
    /// `[size, columns]`
    pub values: Vec<f64>,
    /// Columns, rounded up to a multiple of [`COLUMNS`].
    pub columns: usize,
}

/// Columns of a matrix in memory: whole tiles, and no power of two from one row to the next, which would crowd all rows into a
/// few places of a cache.
fn stride_for(columns: usize) -> usize {
    let stride = columns.next_multiple_of(COLUMNS);
    if stride.is_multiple_of(64) { stride + COLUMNS } else { stride }
}

impl Factor {
    /// Factorizes the matrix whose element (i, j), j ≥ i, is `row(i)[j]`, with `noise` added to its diagonal, and solves for
    /// `sides`, `[size, sides]` row by row. `None` where the matrix is not positive definite.
    pub fn new(level: Level, matrix: &[f64], size: usize, noise: f64, sides: &[f64]) -> Option<(Self, Solved)> {
        let of_sides = sides.len().checked_div(size).unwrap_or(0);
        let first_side = size.next_multiple_of(COLUMNS);
        let columns = first_side + of_sides.next_multiple_of(COLUMNS);
        let stride = stride_for(columns);
        let mut upper = vec![0.0; size * stride];
        for (i, row) in upper.chunks_exact_mut(stride).enumerate() {
            row[i..size].copy_from_slice(&matrix[i * size + i..(i + 1) * size]);
            row[i] += noise;
            row[first_side..first_side + of_sides].copy_from_slice(&sides[i * of_sides..(i + 1) * of_sides]);
        }
        for block in (0..size).step_by(BLOCK) {
            let rows = BLOCK.min(size - block);
            let (above, below) = upper.split_at_mut(block * stride);
            subtract_products(level, above, &mut below[..rows * stride], stride, block, block, columns - block);
            for strip in (block..block + rows).step_by(STRIP) {
                let of_strip = STRIP.min(block + rows - strip);
                let (above, below) = below.split_at_mut((strip - block) * stride);
                let below = &mut below[..of_strip * stride];
                subtract_products(level, above, below, stride, strip - block, strip, columns - strip);
                for i in 0..of_strip {
                    let (above, row) = below.split_at_mut(i * stride);
                    let row = &mut row[strip..columns];
                    for above in above.chunks_exact(stride) {
                        let above = &above[strip..columns];
                        subtract_multiple(level, &mut row[i..], &above[i..], above[i]);
                    }
                    let square = row[i];
                    if !(square > 0.0 && square.is_finite()) {
                        return None;
                    }
                    let diagonal = square.sqrt();
                    scale(level, &mut row[i..], 1.0 / diagonal);
                    row[i] = diagonal;
                }
            }
        }
        let columns = columns - first_side;
        let rows = upper.chunks_exact(stride);
        let values = rows.flat_map(|row| row[first_side..first_side + columns].iter().copied()).collect();
        Some((Self { size, stride, upper }, Solved { values, columns }))
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.upper[i * self.stride..][..self.size]
    }

    /// The diagonal of U; its logarithms sum to half that of K's determinant.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> {
        (0..self.size).map(|i| self.row(i)[i])
    }

    /// Z = U⁻ᵀY of Y `[size, columns]`, whose columns are a multiple of [`COLUMNS`], in place.
    pub fn solve_transposed(&self, level: Level, sides: &mut Solved) {
        self.solve_below(level, &mut sides.values, sides.columns, 0);
    }

    /// The same of a Y whose rows before `from` are 0 and left out.
    fn solve_below(&self, level: Level, values: &mut [f64], columns: usize, from: usize) {
        let stride = self.stride;
        for block in (from..self.size).step_by(BLOCK) {
            let rows = BLOCK.min(self.size - block);
            let (above, below) = values.split_at_mut((block - from) * columns);
            let size = Size { rows, inner: block - from, columns };
            if size.inner > 0 {
                let upper = view(&self.upper[from * stride + block..], stride);
                multiply_transposed_f64(
                    level,
                    size,
                    upper,
                    view(above, columns),
                    Store::Subtract,
                    view_mut(below, columns),
                );
            }
            for i in 0..rows {
                let (above, row) = below.split_at_mut(i * columns);
                let row = &mut row[..columns];
                for (p, above) in above.chunks_exact(columns).enumerate() {
                    subtract_multiple(level, row, above, self.row(block + p)[block + i]);
                }
                scale(level, row, 1.0 / self.row(block + i)[block + i]);
            }
        }
    }

    /// X = U⁻¹Z of Z `[size, columns]`, in place: with Z = U⁻ᵀY it is K⁻¹Y.
    pub fn solve(&self, level: Level, sides: &mut Solved) {
        let columns = sides.columns;
        for i in (0..self.size).rev() {
            let (until, below) = sides.values.split_at_mut((i + 1) * columns);
            let row = &mut until[i * columns..];
            let size = Size { rows: 1, inner: self.size - i - 1, columns };
            if size.inner > 0 {
                let upper = view(&self.row(i)[i + 1..], size.inner);
                multiply_f64(level, size, upper, view(below, columns), Store::Subtract, view_mut(row, columns));
            }
            scale(level, row, 1.0 / self.row(i)[i]);
        }
    }

    /// Diagonal of K⁻¹: the squared lengths of the columns of U⁻ᵀ.
    pub fn inverse_diagonal(&self, level: Level) -> Vec<f64> {
        let mut diagonal = Vec::with_capacity(self.size);
        for first in (0..self.size).step_by(BLOCK) {
            let count = BLOCK.min(self.size - first);
            let columns = count.next_multiple_of(COLUMNS);
            let mut values = vec![0.0; (self.size - first) * columns];
            for i in 0..count {
                values[i * columns + i] = 1.0;
            }
            self.solve_below(level, &mut values, columns, first);
            let mut sums = vec![0.0; columns];
            for row in values.chunks_exact(columns) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value * value;
                }
            }
            diagonal.extend(sums.into_iter().take(count));
        }
        diagonal
    }
}

/// C −= AᵀB, where A are columns `column..` of `above` as many as C has rows, B its columns `column..` and C those of `below`.
fn subtract_products(
    level: Level,
    above: &[f64],
    below: &mut [f64],
    stride: usize,
    inner: usize,
    column: usize,
    columns: usize,
) {
    if inner == 0 {
        return;
    }
    let size = Size { rows: below.len() / stride, inner, columns };
    let above = view(&above[column..], stride);
    multiply_transposed_f64(level, size, above, above, Store::Subtract, view_mut(&mut below[column..], stride));
}

at_every_level! {
    /// Subtracts `factor` times b from a.
    fn subtract_multiple(a: &mut [f64], b: &[f64], factor: f64) = subtract_multiple_body
}

#[inline(always)]
fn subtract_multiple_body(a: &mut [f64], b: &[f64], factor: f64) {
    for (a, b) in a.iter_mut().zip(b) {
        *a -= factor * b;
    }
}

at_every_level! {
    /// Multiplies a by `factor`.
    fn scale(a: &mut [f64], factor: f64) = scale_body
}

#[inline(always)]
fn scale_body(a: &mut [f64], factor: f64) {
    for a in a {
        *a *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A positive definite matrix: AAᵀ + 1 of a made-up A.
    fn matrix(size: usize) -> Vec<f64> {
        let a: Vec<f64> = (0..size * size).map(|i| ((i * i) as f64 * 0.37).sin()).collect();
        let mut matrix = vec![0.0; size * size];
        for i in 0..size {
            for j in 0..size {
                matrix[i * size + j] = (0..size).map(|k| a[i * size + k] * a[j * size + k]).sum();
            }
            matrix[i * size + i] += 1.0;
        }
        matrix
    }

    #[test]
    fn a_factor_solves_and_its_diagonals_are_those_of_the_inverse_at_every_size_and_level_to_the_bit() {
        for size in [1, 2, 7, 8, 9, 16, 63, 64, 65, 100, 150] {
            let k = matrix(size);
            let y: Vec<f64> = (0..size * 3).map(|i| (i as f64 * 0.7).cos()).collect();
            let mut found = Vec::new();
            for level in Level::all() {
                let (factor, solved) = Factor::new(level, &k, size, 0.5, &y).unwrap();
                let mut again = Solved { values: vec![0.0; size * 8], columns: 8 };
                for i in 0..size {
                    again.values[i * 8..i * 8 + 3].copy_from_slice(&y[i * 3..i * 3 + 3]);
                }
                factor.solve_transposed(level, &mut again);
                for (a, b) in again.values.iter().zip(&solved.values) {
                    assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()), "{size}: {a} {b}");
                }
                let mut x = solved.clone();
                factor.solve(level, &mut x);
                for i in 0..size {
                    for side in 0..3 {
                        let product: f64 = (0..size).map(|j| k[i * size + j] * x.values[j * 8 + side]).sum();
                        let product = product + 0.5 * x.values[i * 8 + side];
                        assert!((product - y[i * 3 + side]).abs() < 1e-9, "{size}");
                    }
                }
                let diagonal = factor.inverse_diagonal(level);
                for (i, of_inverse) in diagonal.iter().enumerate().step_by(size.div_ceil(5)) {
                    let mut unit = vec![0.0; size];
                    unit[i] = 1.0;
                    let mut x = Factor::new(level, &k, size, 0.5, &unit).unwrap().1;
                    factor.solve(level, &mut x);
                    assert!((x.values[i * 8] - of_inverse).abs() < 1e-10, "{size}");
                }
                found.push((factor.diagonal().map(f64::to_bits).collect::<Vec<_>>(), solved.values, diagonal));
            }
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{size}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(Factor::new(Level::best(), &[1.0, 2.0, 2.0, 1.0], 2, 0.0, &[]).is_none());
        assert!(Factor::new(Level::best(), &[f64::NAN], 1, 0.0, &[]).is_none());
        assert!(Factor::new(Level::best(), &[], 0, 0.0, &[]).is_some());
    }
}
