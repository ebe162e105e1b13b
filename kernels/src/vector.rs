//! A register's numbers side by side: the compiler does not reliably keep tiles of plain arrays in registers, and not at all
//! where the page's programs are linked.
//!
//! Every operation rounds each of its numbers as the scalar one does.

#![allow(unsafe_code, reason = "vector instructions are functions that only some processors have")]
#![allow(unused_unsafe, reason = "some of them are safe to call on some targets")]

/// Numbers in a register.
///
/// # Safety
/// Every function may only be called where the processor has the instructions: inlined into a function that is compiled for
/// them. `load` and `store` need [`LANES`](Self::LANES) numbers at the address.
pub(crate) trait Vector: Copy {
    /// Of what.
    type Number: Copy + Default;
    /// How many: 16 at most.
    const LANES: usize;
    /// How many registers of them there are.
    const REGISTERS: usize;
    /// Half as many, where eight numbers are not a multiple of this.
    type Half: Vector<Number = Self::Number>;

    unsafe fn splat(number: Self::Number) -> Self;
    unsafe fn load(from: *const Self::Number) -> Self;
    unsafe fn store(self, to: *mut Self::Number);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    /// The larger; the other's where one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// These numbers where those of `at` are positive, and 0 elsewhere.
    unsafe fn where_positive(self, at: Self) -> Self;
    /// Adds another's numbers where those of `at` are positive, to sums that are not −0.
    unsafe fn add_where_positive(self, at: Self, other: Self) -> Self;
    /// 2ⁿ of numbers whose lowest bits are n.
    unsafe fn power_of_two(self) -> Self;
}

macro_rules! vector {
    ($name:ident($register:ty), $number:ty, $lanes:literal, $registers:literal, $half:ty, $pointer:ty, $splat:expr, $load:expr, $store:expr, $add:expr, $sub:expr, $mul:expr, $div:expr, $sqrt:expr, $max:expr, $where:expr, $add_where:expr, $power:expr) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl Vector for $name {
            type Number = $number;
            const LANES: usize = $lanes;
            const REGISTERS: usize = $registers;
            type Half = $half;

            #[inline(always)]
            unsafe fn splat(number: $number) -> Self {
                // SAFETY: as the trait asks, here and below.
                Self(unsafe { $splat(number) })
            }
            #[inline(always)]
            unsafe fn load(from: *const $number) -> Self {
                Self(unsafe { $load(from.cast::<$pointer>()) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $number) {
                unsafe { $store(to.cast::<$pointer>(), self.0) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                Self(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul(self, other: Self) -> Self {
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn div(self, other: Self) -> Self {
                Self(unsafe { $div(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn sqrt(self) -> Self {
                Self(unsafe { $sqrt(self.0) })
            }
            #[inline(always)]
            unsafe fn where_positive(self, at: Self) -> Self {
                Self(unsafe { $where(self.0, at.0) })
            }
            #[inline(always)]
            unsafe fn add_where_positive(self, at: Self, other: Self) -> Self {
                Self(unsafe { $add_where(self.0, at.0, other.0) })
            }
            #[inline(always)]
            unsafe fn power_of_two(self) -> Self {
                Self(unsafe { $power(self.0) })
            }
        }
    };
}

/// Rows and columns of a block that is transposed at once.
pub(crate) const BLOCK: usize = 4;

/// What is added to n in the place of the exponent.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_family = "wasm"))]
const ONE_32: i32 = 0x3f80_0000;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_family = "wasm"))]
const ONE_64: i64 = 0x3ff0_0000_0000_0000;

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use super::{ONE_32, ONE_64, Vector};

    /// The block at `from`, whose rows are `stride` apart, as columns at `to`, whose rows are `to_stride` apart.
    ///
    /// # Safety
    /// Both addresses are those of whole blocks.
    #[inline(always)]
    pub(crate) unsafe fn transpose_block(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as above, and every x86-64 has SSE2.
        unsafe {
            let mut a = _mm_loadu_ps(from);
            let mut b = _mm_loadu_ps(from.add(stride));
            let mut c = _mm_loadu_ps(from.add(2 * stride));
            let mut d = _mm_loadu_ps(from.add(3 * stride));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            _mm_storeu_ps(to, a);
            _mm_storeu_ps(to.add(to_stride), b);
            _mm_storeu_ps(to.add(2 * to_stride), c);
            _mm_storeu_ps(to.add(3 * to_stride), d);
        }
    }

    vector!(
        Base32(__m128),
        f32,
        4,
        16,
        Self,
        f32,
        _mm_set1_ps,
        _mm_loadu_ps,
        _mm_storeu_ps,
        _mm_add_ps,
        _mm_sub_ps,
        _mm_mul_ps,
        _mm_div_ps,
        _mm_sqrt_ps,
        _mm_max_ps,
        |x, at| _mm_and_ps(_mm_cmpgt_ps(at, _mm_setzero_ps()), x),
        |sum, at, other| _mm_add_ps(sum, _mm_and_ps(_mm_cmpgt_ps(at, _mm_setzero_ps()), other)),
        |x| _mm_castsi128_ps(_mm_add_epi32(_mm_slli_epi32::<23>(_mm_castps_si128(x)), _mm_set1_epi32(ONE_32)))
    );
    vector!(
        Base64(__m128d),
        f64,
        2,
        16,
        Self,
        f64,
        _mm_set1_pd,
        _mm_loadu_pd,
        _mm_storeu_pd,
        _mm_add_pd,
        _mm_sub_pd,
        _mm_mul_pd,
        _mm_div_pd,
        _mm_sqrt_pd,
        _mm_max_pd,
        |x, at| _mm_and_pd(_mm_cmpgt_pd(at, _mm_setzero_pd()), x),
        |sum, at, other| _mm_add_pd(sum, _mm_and_pd(_mm_cmpgt_pd(at, _mm_setzero_pd()), other)),
        |x| _mm_castsi128_pd(_mm_add_epi64(_mm_slli_epi64::<52>(_mm_castpd_si128(x)), _mm_set1_epi64x(ONE_64)))
    );
    vector!(
        Avx32(__m256),
        f32,
        8,
        16,
        Self,
        f32,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_sqrt_ps,
        _mm256_max_ps,
        |x, at| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(at, _mm256_setzero_ps()), x),
        |sum, at, other| _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(at, _mm256_setzero_ps()), other)),
        |x| _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_slli_epi32::<23>(_mm256_castps_si256(x)),
            _mm256_set1_epi32(ONE_32)
        ))
    );
    vector!(
        Avx64(__m256d),
        f64,
        4,
        16,
        Self,
        f64,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_div_pd,
        _mm256_sqrt_pd,
        _mm256_max_pd,
        |x, at| _mm256_and_pd(_mm256_cmp_pd::<_CMP_GT_OQ>(at, _mm256_setzero_pd()), x),
        |sum, at, other| _mm256_add_pd(sum, _mm256_and_pd(_mm256_cmp_pd::<_CMP_GT_OQ>(at, _mm256_setzero_pd()), other)),
        |x| _mm256_castsi256_pd(_mm256_add_epi64(
            _mm256_slli_epi64::<52>(_mm256_castpd_si256(x)),
            _mm256_set1_epi64x(ONE_64)
        ))
    );
    vector!(
        Wide32(__m512),
        f32,
        16,
        32,
        Avx32,
        f32,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_sqrt_ps,
        _mm512_max_ps,
        |x, at| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(at, _mm512_setzero_ps()), x),
        |sum, at, other| _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(at, _mm512_setzero_ps()), sum, other),
        |x| _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_slli_epi32::<23>(_mm512_castps_si512(x)),
            _mm512_set1_epi32(ONE_32)
        ))
    );
    vector!(
        Wide64(__m512d),
        f64,
        8,
        32,
        Self,
        f64,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_sqrt_pd,
        _mm512_max_pd,
        |x, at| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_GT_OQ>(at, _mm512_setzero_pd()), x),
        |sum, at, other| _mm512_mask_add_pd(sum, _mm512_cmp_pd_mask::<_CMP_GT_OQ>(at, _mm512_setzero_pd()), sum, other),
        |x| _mm512_castsi512_pd(_mm512_add_epi64(
            _mm512_slli_epi64::<52>(_mm512_castpd_si512(x)),
            _mm512_set1_epi64(ONE_64)
        ))
    );
}

#[cfg(target_family = "wasm")]
pub(crate) mod wasm {
    use std::arch::wasm32::*;

    use super::{ONE_32, ONE_64, Vector};

    /// The block at `from`, whose rows are `stride` apart, as columns at `to`, whose rows are `to_stride` apart.
    ///
    /// # Safety
    /// Both addresses are those of whole blocks.
    #[inline(always)]
    pub(crate) unsafe fn transpose_block(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as above.
        unsafe {
            let a = v128_load(from.cast());
            let b = v128_load(from.add(stride).cast());
            let c = v128_load(from.add(2 * stride).cast());
            let d = v128_load(from.add(3 * stride).cast());
            let (ab, cd) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d));
            v128_store(to.cast(), i64x2_shuffle::<0, 2>(ab, cd));
            v128_store(to.add(to_stride).cast(), i64x2_shuffle::<1, 3>(ab, cd));
            let (ab, cd) = (i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d));
            v128_store(to.add(2 * to_stride).cast(), i64x2_shuffle::<0, 2>(ab, cd));
            v128_store(to.add(3 * to_stride).cast(), i64x2_shuffle::<1, 3>(ab, cd));
        }
    }

    vector!(
        Base32(v128),
        f32,
        4,
        16,
        Self,
        v128,
        f32x4_splat,
        v128_load,
        v128_store,
        f32x4_add,
        f32x4_sub,
        f32x4_mul,
        f32x4_div,
        f32x4_sqrt,
        |a, b| f32x4_pmax(b, a),
        |x, at| v128_and(f32x4_gt(at, f32x4_splat(0.0)), x),
        |sum, at, other| f32x4_add(sum, v128_and(f32x4_gt(at, f32x4_splat(0.0)), other)),
        |x| i32x4_add(i32x4_shl(x, 23), i32x4_splat(ONE_32))
    );
    vector!(
        Base64(v128),
        f64,
        2,
        16,
        Self,
        v128,
        f64x2_splat,
        v128_load,
        v128_store,
        f64x2_add,
        f64x2_sub,
        f64x2_mul,
        f64x2_div,
        f64x2_sqrt,
        |a, b| f64x2_pmax(b, a),
        |x, at| v128_and(f64x2_gt(at, f64x2_splat(0.0)), x),
        |sum, at, other| f64x2_add(sum, v128_and(f64x2_gt(at, f64x2_splat(0.0)), other)),
        |x| i64x2_add(i64x2_shl(x, 52), i64x2_splat(ONE_64))
    );
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm {
    use std::arch::aarch64::*;

    use super::{ONE_32, ONE_64, Vector};

    vector!(
        Base32(float32x4_t),
        f32,
        4,
        32,
        Self,
        f32,
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        vaddq_f32,
        vsubq_f32,
        vmulq_f32,
        vdivq_f32,
        vsqrtq_f32,
        |a, b| vbslq_f32(vcgtq_f32(a, b), a, b),
        |x, at| vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(at, vdupq_n_f32(0.0)), vreinterpretq_u32_f32(x))),
        |sum, at, other| vaddq_f32(
            sum,
            vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(at, vdupq_n_f32(0.0)), vreinterpretq_u32_f32(other)))
        ),
        |x| vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(x)), vdupq_n_s32(ONE_32)))
    );
    vector!(
        Base64(float64x2_t),
        f64,
        2,
        32,
        Self,
        f64,
        vdupq_n_f64,
        vld1q_f64,
        vst1q_f64,
        vaddq_f64,
        vsubq_f64,
        vmulq_f64,
        vdivq_f64,
        vsqrtq_f64,
        |a, b| vbslq_f64(vcgtq_f64(a, b), a, b),
        |x, at| vreinterpretq_f64_u64(vandq_u64(vcgtq_f64(at, vdupq_n_f64(0.0)), vreinterpretq_u64_f64(x))),
        |sum, at, other| vaddq_f64(
            sum,
            vreinterpretq_f64_u64(vandq_u64(vcgtq_f64(at, vdupq_n_f64(0.0)), vreinterpretq_u64_f64(other)))
        ),
        |x| vreinterpretq_f64_s64(vaddq_s64(vshlq_n_s64::<52>(vreinterpretq_s64_f64(x)), vdupq_n_s64(ONE_64)))
    );
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_family = "wasm")))]
pub(crate) mod plain {
    use super::Vector;

    macro_rules! single {
        ($name:ident, $number:ident, $shift:literal, $one:literal) => {
            vector!(
                $name($number),
                $number,
                1,
                16,
                Self,
                $number,
                |number| number,
                |from: *const $number| *from,
                |to: *mut $number, number| *to = number,
                |a: $number, b: $number| a + b,
                |a: $number, b: $number| a - b,
                |a: $number, b: $number| a * b,
                |a: $number, b: $number| a / b,
                |a: $number| a.sqrt(),
                |a: $number, b: $number| if a > b { a } else { b },
                |x: $number, at: $number| if at > 0.0 { x } else { 0.0 },
                |sum: $number, at: $number, other: $number| if at > 0.0 { sum + other } else { sum },
                |x: $number| $number::from_bits((x.to_bits() << $shift).wrapping_add($one))
            );
        };
    }
    single!(Base32, f32, 23, 0x3f80_0000);
    single!(Base64, f64, 52, 0x3ff0_0000_0000_0000);
}

/// The block at `from`, whose rows are `stride` apart, as columns at `to`, whose rows are `to_stride` apart.
///
/// # Safety
/// Both addresses are those of whole blocks.
#[cfg(not(any(target_arch = "x86_64", target_family = "wasm")))]
#[inline(always)]
pub(crate) unsafe fn transpose_block(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
    for row in 0..BLOCK {
        for column in 0..BLOCK {
            // SAFETY: as above.
            unsafe { *to.add(column * to_stride + row) = *from.add(row * stride + column) };
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm as base;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_family = "wasm")))]
pub(crate) use plain as base;
#[cfg(target_family = "wasm")]
pub(crate) use wasm as base;
#[cfg(target_family = "wasm")]
pub(crate) use wasm::transpose_block;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86 as base;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::transpose_block;
