//! Products of small matrices, row-major with a stride each, whose columns come in multiples of [`COLUMNS`].
//!
//! An element of the result is Σ_p a·b in the order of p, from what it starts with: nothing else decides its bits.

#![allow(unsafe_code, reason = "the bounds of the innermost loops are checked once per product")]
#![allow(clippy::needless_range_loop, reason = "loops over constant indices are unrolled into registers")]

use crate::level::at_every_level;
#[cfg(target_arch = "x86_64")]
use crate::vector::x86::{Avx32, Avx64, Wide32, Wide64};
use crate::vector::{Vector, base};

/// Columns of a result are a multiple of this.
pub const COLUMNS: usize = 8;

/// Rows, inner length and columns of a product.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Rows of the result.
    pub rows: usize,
    /// Terms of each sum.
    pub inner: usize,
    /// Columns of the result, a multiple of [`COLUMNS`].
    pub columns: usize,
}

/// A matrix inside a slice: row `r` begins at `r * stride`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// From its first element on.
    pub values: &'a [T],
    /// From one row to the next.
    pub stride: usize,
}

/// The same, to be written.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    /// From its first element on.
    pub values: &'a mut [T],
    /// From one row to the next.
    pub stride: usize,
}

/// A matrix whose row `r` begins at `r * stride`.
pub fn view<T>(values: &[T], stride: usize) -> View<'_, T> {
    View { values, stride }
}

/// The same, to be written.
pub fn view_mut<T>(values: &mut [T], stride: usize) -> ViewMut<'_, T> {
    ViewMut { values, stride }
}

/// What becomes of a sum.
#[derive(Debug, Clone, Copy)]
pub enum Store<'a, T> {
    /// It starts from 0 and is stored.
    Set,
    /// It starts from its column's number and is stored.
    From(&'a [T]),
    /// It starts from 0 and is added to what is there.
    Add,
    /// It starts from 0 and is subtracted from what is there.
    Subtract,
}

at_every_level! {
    /// A·B of A `[rows, inner]` and B `[inner, columns]`.
    pub fn multiply(size: Size, a: View<'_, f32>, b: View<'_, f32>, store: Store<'_, f32>, c: ViewMut<'_, f32>) = plain, base::Base32, Avx32, Wide32
}
at_every_level! {
    /// Aᵀ·B of A `[inner, rows]` and B `[inner, columns]`.
    pub fn multiply_transposed(size: Size, a: View<'_, f32>, b: View<'_, f32>, store: Store<'_, f32>, c: ViewMut<'_, f32>) = transposed, base::Base32, Avx32, Wide32
}
at_every_level! {
    /// A·B of A `[rows, inner]` and B `[inner, columns]`, in double precision.
    pub fn multiply_f64(size: Size, a: View<'_, f64>, b: View<'_, f64>, store: Store<'_, f64>, c: ViewMut<'_, f64>) = plain, base::Base64, Avx64, Wide64
}
at_every_level! {
    /// Aᵀ·B of A `[inner, rows]` and B `[inner, columns]`, in double precision.
    pub fn multiply_transposed_f64(size: Size, a: View<'_, f64>, b: View<'_, f64>, store: Store<'_, f64>, c: ViewMut<'_, f64>) = transposed, base::Base64, Avx64, Wide64
}
at_every_level! {
    /// Squares of the distances between the rows of A `[rows, inner]` and the columns of B `[inner, columns]`.
    pub fn squared_distances(size: Size, a: View<'_, f64>, b: View<'_, f64>, c: ViewMut<'_, f64>) = distances, base::Base64, Avx64, Wide64
}
at_every_level! {
    /// Adds to C `[rows, columns]`, times its column's factor: `Aᵀ·[H > 0]` of A `[inner, rows]` and H `[inner, columns]`. What a
    /// product with a rectifier's gradient comes to where a column's gradient is the same in every row.
    pub fn multiply_where_positive(size: Size, a: View<'_, f32>, h: View<'_, f32>, factors: &[f32], c: ViewMut<'_, f32>) = where_positive, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn plain<V: Vector>(
    size: Size,
    a: View<'_, V::Number>,
    b: View<'_, V::Number>,
    store: Store<'_, V::Number>,
    c: ViewMut<'_, V::Number>,
) {
    Operands::<V::Number>::new(size, a, [size.rows, size.inner], b, c).product::<V>(size, a.stride, 1, store);
}

#[inline(always)]
fn transposed<V: Vector>(
    size: Size,
    a: View<'_, V::Number>,
    b: View<'_, V::Number>,
    store: Store<'_, V::Number>,
    c: ViewMut<'_, V::Number>,
) {
    Operands::<V::Number>::new(size, a, [size.inner, size.rows], b, c).product::<V>(size, 1, a.stride, store);
}

#[inline(always)]
fn distances<V: Vector>(size: Size, a: View<'_, V::Number>, b: View<'_, V::Number>, c: ViewMut<'_, V::Number>) {
    let operands = Operands::new(size, a, [size.rows, size.inner], b, c);
    let (row, term) = (a.stride, 1);
    each_tile::<V>(size, &Product::<V::Number, true> { operands, row, term, store: Store::Set });
}

#[inline(always)]
fn where_positive<V: Vector<Number = f32>>(
    size: Size,
    a: View<'_, f32>,
    h: View<'_, f32>,
    factors: &[f32],
    c: ViewMut<'_, f32>,
) {
    assert!(factors.len() >= size.columns, "a factor for every column");
    let operands = Operands::new(size, a, [size.inner, size.rows], h, c);
    let tile = WherePositive { operands, a_stride: a.stride, factors };
    each_tile::<V>(size, &tile);
}

/// Three matrices that are as large as they have to be.
#[derive(Clone, Copy)]
struct Operands<T> {
    inner: usize,
    a: *const T,
    b: *const T,
    b_stride: usize,
    c: *mut T,
    c_stride: usize,
}

impl<T: Copy + Default> Operands<T> {
    /// # Panics
    /// A matrix that is smaller than its size says.
    #[inline(always)]
    fn new(size: Size, a: View<'_, T>, a_size: [usize; 2], b: View<'_, T>, c: ViewMut<'_, T>) -> Self {
        let ViewMut { values: c, stride: c_stride } = c;
        let holds = |len: usize, stride: usize, [rows, columns]: [usize; 2]| {
            columns == 0 || rows == 0 || (stride >= columns && (rows - 1) * stride + columns <= len)
        };
        let fit = holds(a.values.len(), a.stride, a_size)
            && holds(b.values.len(), b.stride, [size.inner, size.columns])
            && holds(c.len(), c_stride, [size.rows, size.columns]);
        assert!(fit, "a matrix is smaller than its size");
        assert!(size.columns.is_multiple_of(COLUMNS), "columns come in multiples of {COLUMNS}");
        Self {
            inner: size.inner,
            a: a.values.as_ptr(),
            b: b.values.as_ptr(),
            b_stride: b.stride,
            c: c.as_mut_ptr(),
            c_stride,
        }
    }

    /// The product, where A's rows are `row` apart and the terms of a sum `term`.
    #[inline(always)]
    fn product<V: Vector<Number = T>>(self, size: Size, row: usize, term: usize, store: Store<'_, T>) {
        if let Store::From(first) = store {
            assert!(first.len() >= size.columns, "a number for every column");
        }
        each_tile::<V>(size, &Product::<T, false> { operands: self, row, term, store });
    }
}

/// Computes one tile of a result: `R` rows of `N` registers.
trait Tile<T> {
    /// # Safety
    /// As [`Vector`]'s; the tile lies inside the result.
    unsafe fn tile<V: Vector<Number = T>, const R: usize, const N: usize>(&self, row: usize, column: usize);
}

/// Covers a result with tiles: as wide as two registers, then narrower ones at its edge.
#[inline(always)]
fn each_tile<V: Vector>(size: Size, tile: &impl Tile<V::Number>) {
    let mut column = 0;
    while column + 2 * V::LANES <= size.columns {
        each_row::<V, 2>(size.rows, column, tile);
        column += 2 * V::LANES;
    }
    while column + V::LANES <= size.columns {
        each_row::<V, 1>(size.rows, column, tile);
        column += V::LANES;
    }
    while column + V::Half::LANES <= size.columns {
        each_row::<V::Half, 1>(size.rows, column, tile);
        column += V::Half::LANES;
    }
}

#[inline(always)]
fn each_row<V: Vector, const N: usize>(rows: usize, column: usize, tile: &impl Tile<V::Number>) {
    let mut row = 0;
    // SAFETY: rows and columns are those of the result, and every caller is compiled for the instructions of its `V`.
    unsafe {
        while (V::REGISTERS == 32 || N == 1) && row + 8 <= rows {
            tile.tile::<V, 8, N>(row, column);
            row += 8;
        }
        while row + 4 <= rows {
            tile.tile::<V, 4, N>(row, column);
            row += 4;
        }
        while row < rows {
            tile.tile::<V, 1, N>(row, column);
            row += 1;
        }
    }
}

/// Sums of products, or of squared differences in their place.
struct Product<'a, T, const DIFFERENCES: bool> {
    operands: Operands<T>,
    row: usize,
    term: usize,
    store: Store<'a, T>,
}

impl<T: Copy + Default, const DIFFERENCES: bool> Tile<T> for Product<'_, T, DIFFERENCES> {
    #[inline(always)]
    unsafe fn tile<V: Vector<Number = T>, const R: usize, const N: usize>(&self, row: usize, column: usize) {
        let Operands { inner, a, b, b_stride, c, c_stride } = self.operands;
        // SAFETY: `Operands::new` made sure that all three matrices hold what the tile reads and writes.
        unsafe {
            let mut sums = [[V::splat(T::default()); N]; R];
            if let Store::From(first) = self.store {
                for n in 0..N {
                    let first = V::load(first.as_ptr().add(column + n * V::LANES));
                    for r in 0..R {
                        sums[r][n] = first;
                    }
                }
            }
            let mut a = a.add(row * self.row);
            let mut b = b.add(column);
            for _ in 0..inner {
                let mut of_b = [V::splat(T::default()); N];
                for n in 0..N {
                    of_b[n] = V::load(b.add(n * V::LANES));
                }
                for r in 0..R {
                    let of_a = V::splat(*a.add(r * self.row));
                    for n in 0..N {
                        let term = if DIFFERENCES {
                            let difference = of_a.sub(of_b[n]);
                            difference.mul(difference)
                        } else {
                            of_a.mul(of_b[n])
                        };
                        sums[r][n] = sums[r][n].add(term);
                    }
                }
                a = a.wrapping_add(self.term);
                b = b.wrapping_add(b_stride);
            }
            for r in 0..R {
                for n in 0..N {
                    let out = c.add((row + r) * c_stride + column + n * V::LANES);
                    let sum = match self.store {
                        Store::Set | Store::From(_) => sums[r][n],
                        Store::Add => V::load(out).add(sums[r][n]),
                        Store::Subtract => V::load(out).sub(sums[r][n]),
                    };
                    sum.store(out);
                }
            }
        }
    }
}

struct WherePositive<'a> {
    operands: Operands<f32>,
    a_stride: usize,
    factors: &'a [f32],
}

impl Tile<f32> for WherePositive<'_> {
    #[inline(always)]
    unsafe fn tile<V: Vector<Number = f32>, const R: usize, const N: usize>(&self, row: usize, column: usize) {
        let Operands { inner, a, b, b_stride, c, c_stride } = self.operands;
        // SAFETY: as above.
        unsafe {
            let mut sums = [[V::splat(0.0); N]; R];
            let mut a = a.add(row);
            let mut b = b.add(column);
            for _ in 0..inner {
                let mut h = [V::splat(0.0); N];
                for n in 0..N {
                    h[n] = V::load(b.add(n * V::LANES));
                }
                for r in 0..R {
                    let of_a = V::splat(*a.add(r));
                    for n in 0..N {
                        sums[r][n] = sums[r][n].add_where_positive(h[n], of_a);
                    }
                }
                a = a.wrapping_add(self.a_stride);
                b = b.wrapping_add(b_stride);
            }
            for r in 0..R {
                for n in 0..N {
                    let out = c.add((row + r) * c_stride + column + n * V::LANES);
                    let factor = V::load(self.factors.as_ptr().add(column + n * V::LANES));
                    V::load(out).add(sums[r][n].mul(factor)).store(out);
                }
            }
        }
    }
}
