//! Exponentials of a few exact operations each, which compilers lay side by side.

/// log₂ e, and ln 2 in two parts, the first of which has few enough bits to be multiplied exactly by any exponent.
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5·2²³: adding it rounds to a whole number, which then stands in the low bits.
pub(crate) const ROUNDS: f32 = 12_582_912.0;
/// e to this is the smallest normal number, about.
pub(crate) const LEAST: f32 = -87.0;

/// Of q(r), the highest power first: 1 + r + r²·q(r) is e^r of |r| ≤ ln 2/2 with the smallest largest relative error, 1.1e-7.
pub(crate) const POLYNOMIAL: [f32; 4] = [8.312_521e-3, 4.189_015_6e-2, 1.666_711_4e-1, 4.999_923e-1];

/// eˣ of x ≤ 0, to 3 units in the last place; of x < −87 e⁻⁸⁷, which is as good as nothing beside e⁰: e^r of |r| ≤ ln 2/2, times
/// 2ⁿ. What is in registers does the same, but for what is no number, which stays so here alone.
#[inline(always)]
pub fn exp_of_nonpositive(x: f32) -> f32 {
    let x = if x < LEAST { LEAST } else { x };
    let rounded = x * LOG2_E + ROUNDS;
    let n = rounded - ROUNDS;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let [a, b, c, d] = POLYNOMIAL;
    let q = ((a * r + b) * r + c) * r + d;
    let power = q * (r * r) + r + 1.0;
    power * f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// The same in double precision, to 2 units in the last place; of x < −708 e⁻⁷⁰⁸.
///
/// Cephes' rational function (exp, Moshier): e^r = 1 + 2r·P(r²)/(Q(r²) − r·P(r²)).
#[inline(always)]
pub fn exp_of_nonpositive_f64(x: f64) -> f64 {
    let x = if x > -708.0 { x } else { -708.0 };
    // 1.5·2⁵².
    const ROUNDS: f64 = 6_755_399_441_055_744.0;
    let rounded = x * std::f64::consts::LOG2_E + ROUNDS;
    let n = rounded - ROUNDS;
    let r = x - n * 6.931_457_519_531_25e-1 - n * 1.428_606_820_309_417_2e-6;
    let square = r * r;
    let p = r * ((1.261_771_930_748_105_9e-4 * square + 3.029_944_077_074_419_6e-2) * square + 1.0);
    let q = ((3.001_985_051_386_644_6e-6 * square + 2.524_483_403_496_841e-3) * square + 2.272_655_482_081_550_3e-1)
        * square
        + 2.0;
    let power = 1.0 + 2.0 * p / (q - p);
    power * f64::from_bits((rounded.to_bits() << 52).wrapping_add(0x3ff0_0000_0000_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_agree_with_the_systems_to_a_few_units_in_the_last_place() {
        for step in 0..200_000 {
            let x = -f64::from(step) * 4e-4;
            let single = exp_of_nonpositive(x as f32);
            let expected = f64::from(x as f32).exp();
            assert!((f64::from(single) - expected).abs() <= 1.5 * f64::from(f32::EPSILON) * expected, "{x}: {single}");
            let double = exp_of_nonpositive_f64(8.0 * x);
            let expected = (8.0 * x).exp();
            assert!((double - expected).abs() <= 2.0 * f64::EPSILON * expected, "{x}: {double} {expected}");
        }
        assert_eq!((exp_of_nonpositive(0.0), exp_of_nonpositive_f64(0.0)), (1.0, 1.0));
        assert!(exp_of_nonpositive(f32::NAN).is_nan());
        assert!(exp_of_nonpositive(f32::NEG_INFINITY) < 1e-37 && exp_of_nonpositive_f64(-1e9) < 1e-300);
    }
}
