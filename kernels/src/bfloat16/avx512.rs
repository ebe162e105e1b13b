//! AVX512-BF16: sixteen sums at a time, two products each.

#![allow(unsafe_code, reason = "vector instructions are functions that only some processors have")]

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::{BLOCK, Blocks, LANES};

/// Rows of a block whose sums are held in registers at once, beside two panels: sixteen registers of 32.
const ROWS: usize = 8;

/// Whether the processor has it.
pub(super) fn is_there() -> bool {
    std::is_x86_feature_detected!("avx512bf16") && std::is_x86_feature_detected!("avx512f")
}

/// Calls `write` with every block of the product. Only where [`is_there`].
pub(super) fn multiply(blocks: Blocks<'_>, mut write: impl FnMut(usize, usize, &[[f32; BLOCK]; BLOCK])) {
    blocks.each(|row, column, left, [first, second]| {
        let mut block = [[0.0_f32; BLOCK]; BLOCK];
        for (sums, left) in block.as_chunks_mut::<ROWS>().0.iter_mut().zip(left.chunks_exact(ROWS * blocks.pairs)) {
            // SAFETY: `Units` exist only where the processor has these instructions.
            unsafe { eight_rows(left, first, second, sums) };
        }
        write(row, column, &block);
    });
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn eight_rows(left: &[u32], first: &[[u32; LANES]], second: &[[u32; LANES]], block: &mut [[f32; BLOCK]; ROWS]) {
    let pairs = first.len().min(second.len());
    assert!(left.len() >= ROWS * pairs, "rows that do not fit");
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (at, (first, second)) in first.iter().zip(second).enumerate() {
        // SAFETY: a register's worth of numbers each; the rows are as long as the panels.
        unsafe {
            let right = [first, second].map(|row| as_pairs(_mm512_loadu_si512(row.as_ptr().cast())));
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = as_pairs(_mm512_set1_epi32(left.get_unchecked(row * pairs + at).cast_signed()));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, left, right);
                }
            }
        }
    }
    for (row, sums) in block.iter_mut().zip(sums) {
        for (to, sum) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            // SAFETY: there is room for a register's worth.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }
}

/// The same bits, as pairs of bfloat16.
fn as_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, of which every pattern is a value.
    unsafe { std::mem::transmute(bits) }
}
