//! The same product in plain code.

use super::{BLOCK, Blocks, LANES, Row};
use crate::Level;
use crate::level::at_every_level;

/// Calls `write` with every block of the product.
pub(super) fn multiply(blocks: Blocks<'_>, mut write: impl FnMut(usize, usize, &[[f32; BLOCK]; BLOCK])) {
    let level = Level::best();
    blocks.each(|row, column, left, panels| {
        let mut block = [[0.0_f32; BLOCK]; BLOCK];
        for (sums, left) in block.iter_mut().zip(left.chunks_exact(blocks.pairs)) {
            for (sums, panel) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(panels) {
                add_products(level, left, panel, sums);
            }
        }
        write(row, column, &block);
    });
}

at_every_level! {
    /// Adds the products of a row's pairs and a panel's.
    fn add_products(left: &[u32], panel: &[Row], sums: &mut [f32; LANES]) = add_products_body
}

#[inline(always)]
fn add_products_body(left: &[u32], panel: &[Row], sums: &mut [f32; LANES]) {
    let mut own = *sums;
    for (pair, right) in left.iter().zip(panel) {
        for (sum, right) in own.iter_mut().zip(right) {
            *sum += even(*pair) * even(*right);
            *sum += odd(*pair) * odd(*right);
        }
    }
    *sums = own;
}

#[inline(always)]
fn even(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

#[inline(always)]
fn odd(pair: u32) -> f32 {
    f32::from_bits(pair & 0xFFFF_0000)
}
