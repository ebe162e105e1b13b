//! AMX: tiles of sixteen rows of sixteen sums, to each of which a step adds 32 products. Rust has no functions for it yet that do
//! not change, so that it is written in the processor's own words (Intel's manual, volume 1, chapter 18).

#![allow(unsafe_code, reason = "tiles are registers that only some processors have")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::{BLOCK, Blocks, LANES, PAIRS};

/// Bits of leaf 7 of `cpuid`, in EDX: AMX-BF16 and AMX-TILE.
const FEATURES: u32 = 1 << 22 | 1 << 24;
/// Linux gives a process tiles when it asks for them (`arch/x86/include/uapi/asm/prctl.h`).
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// Whether the processor has it, and the system lets this process use it.
pub(super) fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(|| {
        if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
            return false;
        }
        // SAFETY: the call takes two numbers, and refuses what it does not know.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    })
}

/// Every tile as large as it can be: palette 1, sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Tiles {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static TILES: Tiles = Tiles {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Calls `write` with every block of the product. Only where [`is_there`].
pub(super) fn multiply(blocks: Blocks<'_>, mut write: impl FnMut(usize, usize, &[[f32; BLOCK]; BLOCK])) {
    let mut block = [[0.0_f32; BLOCK]; BLOCK];
    // SAFETY: `Units` exist only where the processor has tiles and the process may use them. No other code of this thread uses
    // tiles until they are given back.
    unsafe { asm!("ldtilecfg [{tiles}]", tiles = in(reg) &raw const TILES, options(nostack, readonly)) };
    blocks.each(|row, column, left, panels| {
        four_tiles(left, panels, &mut block);
        write(row, column, &block);
    });
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// A block of 32 × 32 sums.
fn four_tiles(left: &[u32], [first, second]: [&[[u32; LANES]]; 2], block: &mut [[f32; BLOCK]; BLOCK]) {
    let pairs = first.len();
    assert!(
        second.len() == pairs && pairs.is_multiple_of(PAIRS) && pairs > 0 && left.len() == BLOCK * pairs,
        "tiles that do not fit"
    );
    let lower = left[LANES * pairs..].as_ptr();
    let below = block[LANES..].as_mut_ptr();
    // SAFETY: tiles have the form that `multiply` gave them. Every step reads sixteen rows of 64
    // bytes of both halves of the left factor, which are `4 · pairs` bytes apart and `pairs / 16` steps long, and 1,024 bytes of
    // both panels, which have as many steps. Four tiles of sixteen rows of 64 bytes are written to the block, whose rows are 128
    // bytes long.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm6, [{first} + {tile_row}*1]",
            "tileloadd tmm5, [{lower} + {row}*1]",
            "tileloadd tmm7, [{second} + {tile_row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {first}, 1024",
            "add {second}, 1024",
            "dec {steps}",
            "jnz 2b",
            "add {tile_row}, {tile_row}",
            "tilestored [{above} + {tile_row}*1], tmm0",
            "tilestored [{above} + {tile_row}*1 + 64], tmm1",
            "tilestored [{below} + {tile_row}*1], tmm2",
            "tilestored [{below} + {tile_row}*1 + 64], tmm3",
            upper = inout(reg) left.as_ptr() => _,
            lower = inout(reg) lower => _,
            first = inout(reg) first.as_ptr() => _,
            second = inout(reg) second.as_ptr() => _,
            row = in(reg) 4 * pairs,
            tile_row = inout(reg) 64_usize => _,
            steps = inout(reg) pairs / PAIRS => _,
            above = in(reg) block.as_mut_ptr(),
            below = in(reg) below,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
