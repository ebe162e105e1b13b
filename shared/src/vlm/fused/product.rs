//! Matrix products on slices: what the tensor backend multiplies with as well, without its tensors.

use gemm::Parallelism;
use hydra_kernels::bfloat16::{Packed, Rows, Strided, Units};
use rayon::prelude::*;

/// A matrix in a slice: row `i` and column `j` stand at `i · row + j · column`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a> View<'a> {
    /// A matrix whose rows of `columns` numbers lie one after the other.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        Self { data, rows: data.len().checked_div(columns).unwrap_or(0), columns, row: columns, column: 1 }
    }

    /// Its rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Some rows and columns of it.
    pub fn part(self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Self {
        let from = (rows.start * self.row + columns.start * self.column).min(self.data.len());
        Self { data: &self.data[from..], rows: rows.len(), columns: columns.len(), ..self }
    }

    /// Rows as columns.
    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Whether all of it lies within the slice.
    fn fits(self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row + (self.columns - 1) * self.column < self.data.len()
    }
}

/// A matrix that is written: rows of a slice, of which `columns` numbers from `first` on belong to it.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// The slice.
    pub data: &'a mut [f32],
    /// Numbers from one row to the next.
    pub row: usize,
    /// First column.
    pub first: usize,
    /// Columns.
    pub columns: usize,
}

impl<'a> ViewMut<'a> {
    /// A whole matrix with rows of `columns` numbers.
    pub fn new(data: &'a mut [f32], columns: usize) -> Self {
        Self { data, row: columns, first: 0, columns }
    }
}

/// What is in the result already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Nothing that counts.
    Nothing,
    /// What the product is added to.
    Sum,
}

/// `into` = `factor · a · b`, or that much more.
///
/// Every number is summed in one order, whatever the number of threads.
///
/// # Panics
/// Where the matrices do not fit each other: an error of this program, not of its input.
pub fn product(into: ViewMut<'_>, a: View<'_>, b: View<'_>, factor: f32, onto: Onto) {
    let ViewMut { data, row, first, columns } = into;
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(k == b.rows && n == columns && a.fits() && b.fits(), "matrices that do not fit");
    assert!((m - 1) * row + first + n <= data.len() && n <= row.max(n), "a product that does not fit");
    if k == 0 {
        if onto == Onto::Nothing {
            for line in data.chunks_mut(row.max(1)).take(m) {
                line[first..first + n].fill(0.0);
            }
        }
        return;
    }
    #[allow(unsafe_code)]
    // SAFETY: both factors and the result lie within their slices, as was checked above; the result's slice is borrowed alone,
    // and its rows do not overlap.
    unsafe {
        multiply(data.as_mut_ptr().add(first), row, onto, a, b, factor);
    }
}

/// `factor · a · b` as a matrix of its own.
///
/// # Panics
/// As [`product`].
pub fn multiplied(a: View<'_>, b: View<'_>, factor: f32) -> Vec<f32> {
    let count = a.rows * b.columns;
    if a.columns == 0 || count == 0 {
        return vec![0.0; count];
    }
    assert!(a.columns == b.rows && a.fits() && b.fits(), "matrices that do not fit");
    let mut result = Vec::with_capacity(count);
    #[allow(unsafe_code)]
    // SAFETY: both factors lie within their slices. There is room for the result, nothing of it is read, and all of it is
    // written: clearing it first took a twentieth of a step.
    unsafe {
        multiply(result.as_mut_ptr(), b.columns, Onto::Nothing, a, b, factor);
        result.set_len(count);
    }
    result
}

/// # Safety
/// Both factors fit their slices and each other; `into` has room for rows that are `row` apart, and nobody else has it.
#[allow(unsafe_code)]
unsafe fn multiply(into: *mut f32, row: usize, onto: Onto, a: View<'_>, b: View<'_>, factor: f32) {
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            into,
            1,
            row as isize,
            onto == Onto::Sum,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            // Whether a product is worth several threads the crate decides by its size.
            Parallelism::Rayon(0),
        );
    }
}

/// A matrix that is not trained, rounded to bfloat16 and laid out for products with it and with its transpose.
pub struct Rounded {
    forward: Packed,
    back: Packed,
    units: Units,
}

impl Rounded {
    /// Rounds it and lays it out.
    pub fn new(matrix: View<'_>) -> Self {
        Self { forward: packed(matrix), back: packed(matrix.transposed()), units: Units::best() }
    }

    /// `x · matrix`. `x` has rows of its own, one after the other.
    pub fn multiplied(&self, x: &[f32]) -> Vec<f32> {
        multiplied_packed(self.units, x, &self.forward)
    }

    /// `dy · matrixᵀ`
    pub fn multiplied_back(&self, dy: &[f32]) -> Vec<f32> {
        multiplied_packed(self.units, dy, &self.back)
    }

    /// `dy · matrixᵀ`, added to `into`.
    pub fn add_multiplied_back(&self, dy: &[f32], into: &mut [f32]) {
        multiply_packed(self.units, dy, &self.back, into, Onto::Sum);
    }
}

fn packed(matrix: View<'_>) -> Packed {
    assert!(matrix.fits(), "a matrix that does not fit");
    let View { data, rows, columns, row, column } = matrix;
    let mut packed = Packed::zeros(rows, columns);
    let panels = packed.panels_mut().collect::<Vec<_>>();
    panels.into_par_iter().enumerate().for_each(|(number, panel)| {
        Packed::fill(panel, number, rows, columns, Strided { data, row, column });
    });
    packed
}

fn multiplied_packed(units: Units, x: &[f32], right: &Packed) -> Vec<f32> {
    let rows = x.len().checked_div(right.inner()).unwrap_or(0);
    let mut into = vec![0.0; rows * right.columns()];
    multiply_packed(units, x, right, &mut into, Onto::Nothing);
    into
}

/// Rows that a thread multiplies at once: fewer would read the right factor more often.
const ROWS_AT_ONCE: usize = 64;

fn multiply_packed(units: Units, x: &[f32], right: &Packed, into: &mut [f32], onto: Onto) {
    let (inner, columns) = (right.inner(), right.columns());
    let add = onto == Onto::Sum;
    if inner == 0 || columns == 0 {
        return hydra_kernels::bfloat16::multiply(units, Rows { left: x, into, add }, right);
    }
    let parts = x.par_chunks(ROWS_AT_ONCE * inner).zip(into.par_chunks_mut(ROWS_AT_ONCE * columns));
    parts.for_each(|(left, into)| hydra_kernels::bfloat16::multiply(units, Rows { left, into, add }, right));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of small whole numbers, whose products are exact.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn products_of_parts_and_of_transposes_are_sums_of_products() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 2), (17, 33, 65), (40, 8, 1), (2, 3, 0)] {
            let (left, right) = (numbers((m + 2) * (k + 3), 1), numbers((n + 1) * (k + 4), 2));
            let a = View::new(&left, k + 3).part(1..m + 1, 2..k + 2);
            let b = View::new(&right, k + 4).part(1..n + 1, 3..k + 3).transposed();
            let before = numbers(m * (n + 2), 3);
            for (onto, factor) in [(Onto::Nothing, 1.0), (Onto::Sum, 2.0)] {
                let mut found = before.clone();
                product(ViewMut { data: &mut found, row: n + 2, first: 1, columns: n }, a, b, factor, onto);
                let mut expected = before.clone();
                for i in 0..m {
                    for j in 0..n {
                        let sum: f32 =
                            (0..k).map(|t| left[(i + 1) * (k + 3) + 2 + t] * right[(j + 1) * (k + 4) + 3 + t]).sum();
                        let held = if onto == Onto::Sum { before[i * (n + 2) + 1 + j] } else { 0.0 };
                        expected[i * (n + 2) + 1 + j] = held + factor * sum;
                    }
                }
                assert_eq!(found, expected, "{m}×{k}×{n}");
            }
            let mut into = vec![9.0; m * n];
            product(ViewMut::new(&mut into, n), a, b, 3.0, Onto::Nothing);
            assert_eq!(multiplied(a, b, 3.0), into, "{m}×{k}×{n}");
        }
    }

    #[test]
    fn rounded_products_are_those_of_single_precision_where_the_factors_are_exact() {
        for (m, n, k) in [(1, 1, 1), (200, 40, 70), (3, 33, 5)] {
            let (x, matrix, dy) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 4));
            let view = View::new(&matrix, n);
            for units in Units::all() {
                let rounded = Rounded { units, ..Rounded::new(view) };
                assert_eq!(rounded.multiplied(&x), multiplied(View::new(&x, k), view, 1.0), "{m}×{k}×{n}");
                let back = multiplied(View::new(&dy, n), view.transposed(), 1.0);
                assert_eq!(rounded.multiplied_back(&dy), back, "{m}×{k}×{n}");
                let before = numbers(m * k, 3);
                let mut sum = before.clone();
                rounded.add_multiplied_back(&dy, &mut sum);
                assert_eq!(sum, before.iter().zip(&back).map(|(a, b)| a + b).collect::<Vec<_>>(), "{m}×{k}×{n}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn matrices_that_do_not_fit_are_never_read() {
        let numbers = [1.0; 6];
        let mut into = [0.0; 4];
        product(ViewMut::new(&mut into, 2), View::new(&numbers, 3), View::new(&numbers, 3), 1.0, Onto::Nothing);
    }
}
