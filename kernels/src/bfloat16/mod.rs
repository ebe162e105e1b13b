//! Matrix products whose factors are rounded to bfloat16 and whose sums are in single precision, as processors multiply them that
//! have units for it.
//!
//! The right factor is laid out once ([`Packed`]), the left one while it is multiplied. Sums are rounded in an order that is the
//! units' own: results differ between [`Units`] by rounding, unlike everything else in this crate, but not with the number of
//! threads.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::Level;
use crate::level::at_every_level;

/// Numbers beside each other in a row of a panel: a register, or a row of a tile.
const LANES: usize = 16;
/// Rows of a step: a tile's, each of two numbers of the inner index.
const PAIRS: usize = 16;
/// Rows and columns of a result that are computed together: two tiles each way.
const BLOCK: usize = 32;

/// A register's worth of pairs: the even number of a pair in the lower half.
type Row = [u32; LANES];

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units(Kind);

/// Private, so that nobody claims what the processor does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One number after another, on every processor: slower than in single precision.
    Portable,
    /// AVX512-BF16's products of pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Intel's tiles.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

impl Units {
    /// The fastest that this processor has.
    pub fn best() -> Self {
        Self::all().last().copied().unwrap_or(Self(Kind::Portable))
    }

    /// Every one that this processor has, the slowest first.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "there are more on x86-64")]
        let mut all = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        if avx512::is_there() {
            all.push(Self(Kind::Avx512));
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::is_there() {
            all.push(Self(Kind::Amx));
        }
        all
    }

    /// Whether they multiply faster than single precision is multiplied.
    pub fn are_fast(self) -> bool {
        self.0 != Kind::Portable
    }

    /// What the processor's maker calls them.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "none",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "AVX512-BF16",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kind::Amx => "AMX",
        }
    }
}

/// The number of bfloat16 that is nearest, of two the even one; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { (bits >> 16) | 0x40 } else { nearest }
}

/// A pair of numbers, rounded.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    rounded(even) | rounded(odd) << 16
}

/// A matrix in a slice: row `i` and column `j` stand at `i · row + j · column`.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// The slice.
    pub data: &'a [f32],
    /// Numbers from one row to the next.
    pub row: usize,
    /// Numbers from one column to the next.
    pub column: usize,
}

impl Strided<'_> {
    /// The number there; 0 outside the slice.
    fn at(self, row: usize, column: usize) -> f32 {
        self.data.get(row * self.row + column * self.column).copied().unwrap_or(0.0)
    }
}

/// A right factor, `[inner, columns]`, rounded and laid out in panels of sixteen columns.
///
/// A panel has a row for every pair of the inner index, and as many pairs as fill whole steps; what is beyond the matrix is 0.
#[derive(Debug, Clone)]
pub struct Packed {
    inner: usize,
    columns: usize,
    rows: Vec<Row>,
}

/// Rows of a panel, or of a left factor: pairs of the inner index, filled up to whole steps.
fn pairs_of(inner: usize) -> usize {
    inner.div_ceil(2 * PAIRS) * PAIRS
}

impl Packed {
    /// Room for a matrix, with zeros in it.
    pub fn zeros(inner: usize, columns: usize) -> Self {
        // Two panels are multiplied together.
        let panels = columns.div_ceil(BLOCK) * (BLOCK / LANES);
        Self { inner, columns, rows: vec![[0; LANES]; panels * pairs_of(inner)] }
    }

    /// Rows of the matrix.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Its columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The panels, to be filled by [`Self::fill`], in any number of threads.
    pub fn panels_mut(&mut self) -> impl Iterator<Item = &mut [[u32; LANES]]> {
        self.rows.chunks_mut(pairs_of(self.inner).max(1))
    }

    /// Fills a panel, by its number, with a matrix of `inner` rows and `columns` columns.
    pub fn fill(panel: &mut [[u32; LANES]], number: usize, inner: usize, columns: usize, matrix: Strided<'_>) {
        let first = number * LANES;
        let width = columns.saturating_sub(first).min(LANES);
        let Strided { data, row, column } = matrix;
        let whole = if width < LANES {
            0
        } else if column == 1 {
            let own = data.get(first..).unwrap_or_default();
            fill_from_rows(Level::best(), panel, inner, own, row);
            inner / 2
        } else if row == 1 {
            let own = data.get(first * column..).unwrap_or_default();
            fill_from_columns(Level::best(), panel, inner, own, column);
            inner / (2 * PAIRS) * PAIRS
        } else {
            0
        };
        for (pair_number, to) in panel.iter_mut().enumerate().take(inner.div_ceil(2)).skip(whole) {
            for (lane, to) in to.iter_mut().take(width).enumerate() {
                let at = |row: usize| if row < inner { matrix.at(row, first + lane) } else { 0.0 };
                *to = pair(at(2 * pair_number), at(2 * pair_number + 1));
            }
        }
    }
}

at_every_level! {
    /// Whole pairs of rows of sixteen columns that lie beside each other; rows are `stride` apart.
    fn fill_from_rows(panel: &mut [[u32; LANES]], inner: usize, data: &[f32], stride: usize) = fill_from_rows_body
}

#[inline(always)]
fn fill_from_rows_body(panel: &mut [[u32; LANES]], inner: usize, data: &[f32], stride: usize) {
    for (number, to) in panel.iter_mut().enumerate().take(inner / 2) {
        let row = |row: usize| data.get(row * stride..).and_then(|row| row.first_chunk::<LANES>());
        if let (Some(even), Some(odd)) = (row(2 * number), row(2 * number + 1)) {
            for ((to, even), odd) in to.iter_mut().zip(even).zip(odd) {
                *to = pair(*even, *odd);
            }
        }
    }
}

at_every_level! {
    /// Whole steps of sixteen columns, each of which lies in one piece; columns are `stride` apart.
    fn fill_from_columns(panel: &mut [[u32; LANES]], inner: usize, data: &[f32], stride: usize) = fill_from_columns_body
}

#[inline(always)]
fn fill_from_columns_body(panel: &mut [[u32; LANES]], inner: usize, data: &[f32], stride: usize) {
    for (step, rows) in panel.as_chunks_mut::<PAIRS>().0.iter_mut().enumerate().take(inner / (2 * PAIRS)) {
        for lane in 0..LANES {
            let start = lane * stride + step * 2 * PAIRS;
            if let Some(column) = data.get(start..).and_then(|column| column.first_chunk::<{ 2 * PAIRS }>()) {
                for (row, [even, odd]) in rows.iter_mut().zip(column.as_chunks::<2>().0) {
                    row[lane] = pair(*even, *odd);
                }
            }
        }
    }
}

at_every_level! {
    /// Rows of `inner` numbers, each to the beginning of `pairs` pairs.
    fn pack_rows(left: &[f32], inner: usize, packed: &mut [u32], pairs: usize) = pack_rows_body
}

#[inline(always)]
fn pack_rows_body(left: &[f32], inner: usize, packed: &mut [u32], pairs: usize) {
    for (to, from) in packed.chunks_exact_mut(pairs).zip(left.chunks_exact(inner)) {
        let (whole, rest) = from.as_chunks::<2>();
        for (to, [even, odd]) in to.iter_mut().zip(whole) {
            *to = pair(*even, *odd);
        }
        if let ([last], Some(to)) = (rest, to.get_mut(whole.len())) {
            *to = pair(*last, 0.0);
        }
    }
}

/// A left factor: rows of numbers one after the other, and what the product goes to.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `[rows, inner]`.
    pub left: &'a [f32],
    /// `[rows, columns]`: the product is written to it, or added.
    pub into: &'a mut [f32],
    /// Whether it is added.
    pub add: bool,
}

/// Multiplies rows with a matrix.
///
/// # Panics
/// Where left factor or result do not fit: an error of the caller.
pub fn multiply(units: Units, rows: Rows<'_>, right: &Packed) {
    let Rows { left, into, add } = rows;
    let (inner, columns) = (right.inner, right.columns);
    if inner == 0 || columns == 0 {
        if !add {
            into.fill(0.0);
        }
        return;
    }
    let count = into.len() / columns;
    assert!(left.len() == count * inner && into.len() == count * columns, "rows that do not fit");
    let pairs = pairs_of(inner);
    let mut packed = vec![0_u32; count.div_ceil(BLOCK) * BLOCK * pairs];
    pack_rows(Level::best(), left, inner, &mut packed, pairs);
    let blocks = Blocks { left: &packed, right: &right.rows, pairs };
    let write = |row: usize, column: usize, block: &[[f32; BLOCK]; BLOCK]| {
        let width = (columns - column).min(BLOCK);
        for (row, from) in (row..count).zip(block) {
            let Some(to) = into.get_mut(row * columns + column..row * columns + column + width) else { continue };
            if add {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            } else {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    };
    match units.0 {
        Kind::Portable => portable::multiply(blocks, write),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::multiply(blocks, write),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Kind::Amx => amx::multiply(blocks, write),
    }
}

/// Both factors, laid out.
#[derive(Debug, Clone, Copy)]
struct Blocks<'a> {
    /// `[rows, pairs]`, rows filled up to whole blocks.
    left: &'a [u32],
    /// Panels of `pairs` rows.
    right: &'a [Row],
    pairs: usize,
}

impl<'a> Blocks<'a> {
    /// Calls `block` with every block of the result: its first row and column, its rows of the left factor and its two panels.
    fn each(self, mut block: impl FnMut(usize, usize, &'a [u32], [&'a [Row]; 2])) {
        // All rows of a pair of panels, which stay in the cache meanwhile.
        for (number, panels) in self.right.chunks_exact(2 * self.pairs).enumerate() {
            let (first, second) = panels.split_at(self.pairs);
            for (row, left) in self.left.chunks_exact(BLOCK * self.pairs).enumerate() {
                block(row * BLOCK, number * BLOCK, left, [first, second]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_of_two_to_the_even_one() {
        let round = |value: f32| f32::from_bits(rounded(value) << 16);
        let ulp = 2.0_f32.powi(-7);
        assert_eq!([1.0, -2.5, 0.0, 1.0 + ulp].map(round), [1.0, -2.5, 0.0, 1.0 + ulp]);
        assert_eq!([1.0 + 0.4 * ulp, 1.0 + 0.6 * ulp].map(round), [1.0, 1.0 + ulp]);
        assert_eq!([1.0 + 0.5 * ulp, 1.0 + 1.5 * ulp].map(round), [1.0, 1.0 + 2.0 * ulp]);
        assert_eq!(
            [f32::INFINITY, f32::NEG_INFINITY, f32::MAX].map(round),
            [f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY]
        );
        assert!(round(f32::NAN).is_nan() && round(f32::from_bits(0x7F80_0001)).is_nan());
    }

    /// Small whole numbers, whose products and sums are exact.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 11) as f32 - 5.0).collect()
    }

    fn packed(inner: usize, columns: usize, matrix: Strided<'_>) -> Packed {
        let mut packed = Packed::zeros(inner, columns);
        for (number, panel) in packed.panels_mut().enumerate() {
            Packed::fill(panel, number, inner, columns, matrix);
        }
        packed
    }

    #[test]
    fn products_with_matrices_and_their_transposes_are_exact_where_their_factors_are_on_every_unit() {
        for (rows, columns, inner) in
            [(1, 1, 1), (3, 5, 2), (17, 33, 65), (40, 70, 100), (64, 64, 64), (33, 16, 31), (2, 3, 0)]
        {
            let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
            let transposed: Vec<f32> =
                (0..columns).flat_map(|c| right.iter().skip(c).step_by(columns).copied().collect::<Vec<_>>()).collect();
            let factors = [
                Strided { data: &right, row: columns, column: 1 },
                Strided { data: &transposed, row: 1, column: inner },
            ];
            let before = numbers(rows * columns, 3);
            for units in Units::all() {
                for matrix in factors {
                    for add in [false, true] {
                        let mut found = before.clone();
                        let into = Rows { left: &left, into: &mut found, add };
                        multiply(units, into, &packed(inner, columns, matrix));
                        let sum = |row: usize, column: usize| -> f32 {
                            (0..inner).map(|i| left[row * inner + i] * right[i * columns + column]).sum()
                        };
                        let expected: Vec<f32> = (0..rows * columns)
                            .map(|at| sum(at / columns, at % columns) + if add { before[at] } else { 0.0 })
                            .collect();
                        assert_eq!(found, expected, "{rows}×{inner}×{columns} by {}", units.name());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for units in Units::all() {
            let left = [f32::INFINITY, 1.0, f32::NAN, 1.0];
            let mut found = [0.0; 2];
            let right = packed(2, 1, Strided { data: &[2.0, 1.0], row: 1, column: 1 });
            multiply(units, Rows { left: &left, into: &mut found, add: false }, &right);
            assert!(found[0] == f32::INFINITY && found[1].is_nan(), "{found:?} by {}", units.name());
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn rows_that_do_not_fit_are_never_read() {
        let right = Packed::zeros(3, 2);
        multiply(Units::best(), Rows { left: &[1.0; 4], into: &mut [0.0; 2], add: false }, &right);
    }
}
