//! An exponential that the compiler can compute for several numbers at once.

/// Numbers that are summed beside each other.
pub const LANES: usize = 16;

/// Replaces every value by exp(value − largest) and returns the sum of the new ones.
#[inline(always)]
pub fn exponentials(values: &mut [f32], largest: f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exponential(*value - largest);
            *sum += *value;
        }
    }
    let mut sum = 0.0;
    for value in rest {
        *value = exponential(*value - largest);
        sum += *value;
    }
    sum + sums.iter().sum::<f32>()
}

/// exp(x) for x ≤ 0 to 2e-7 of its value; below −87, where it would be no normal number, exp(−87) = 1.6e-38. NaN stays NaN.
///
/// exp(x) = 2ⁿ · exp(r) with a whole n and |r| ≤ ln(2)/2; exp(r) by its Taylor series. There is no branch and no call in it.
#[inline(always)]
pub fn exponential(x: f32) -> f32 {
    /// Adding it rounds to whole numbers, which then stand in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2), as a sum of a number with few digits, whose multiples are exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    series * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_single_precision_and_keeps_nan() {
        for step in 0..=87_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exponential(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): {error:e}");
        }
        assert_eq!(exponential(0.0), 1.0);
        assert!(exponential(-1e9) < 2e-38);
        assert!(exponential(f32::NEG_INFINITY) < 2e-38);
        assert!(exponential(f32::NAN).is_nan());
    }
}
