//! Numbers of JSON in a text, to the bit as the standard library reads them.
//!
//! Up to 19 digits are taken as one integer, eight at a time. It is multiplied by its power of ten exactly where both are
//! exact in a float (Clinger, 1990), and by 128 bits of the power otherwise (Lemire, *Number parsing at a gigabyte per second*,
//! 2021, whose rounding the standard library uses). What these leave open is left to the standard library.

/// A number of JSON, or one of Python's `NaN` and `Infinity`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decimal {
    /// The number.
    pub value: f64,
    /// Where the text goes on.
    pub end: usize,
    /// Whether it is nothing but digits.
    pub whole: bool,
    /// Whether it begins with a minus.
    pub negative: bool,
}

/// Digits that always fit into 64 bits.
const MOST_DIGITS: usize = 19;
/// The largest exponent whose power of ten is a float without rounding.
const EXACT: i32 = 22;
/// Integers up to this one are floats without rounding.
const EXACT_INTEGERS: u64 = 1 << 53;

const TENS: [f64; EXACT as usize + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Powers of ten from this one to 10⁰ are known to 128 bits: 5⁵⁴ is the last power of five that the table's division holds.
const SMALLEST: i32 = -54;
static POWERS: [u128; -SMALLEST as usize + 1] = powers();

/// The leading 128 bits of 5⁻ᵏ, rounded as Lemire's method wants them: up to k = 27 away from zero, then towards it.
const fn powers() -> [u128; -SMALLEST as usize + 1] {
    let mut table = [1 << 127; -SMALLEST as usize + 1];
    let (mut k, mut five) = (1, 5_u128);
    while k < table.len() {
        // Long division of a power of two by 5ᵏ. Its first bit that is set begins the result.
        let (mut quotient, mut rest) = (0_u128, 1_u128);
        while quotient >> 127 == 0 {
            rest *= 2;
            quotient *= 2;
            if rest >= five {
                rest -= five;
                quotient += 1;
            }
        }
        table[k] = if k <= 27 { quotient + 1 } else { quotient };
        five *= 5;
        k += 1;
    }
    table
}

impl Decimal {
    /// The number that begins at a byte of a text, up to the first byte that cannot belong to it; none where there is none, or
    /// one whose reading is left to others: with a needless zero in front, or an integer beyond 18 digits.
    // Where programs are built small it stays what it is here: taken into its callers it would be built as they are.
    #[cfg_attr(not(target_family = "wasm"), inline)]
    pub fn at(text: &[u8], start: usize) -> Option<Self> {
        let negative = text.get(start) == Some(&b'-');
        let first = start + usize::from(negative);
        let mut digits = Digits { value: 0, end: first };
        digits.take(text);
        let integers = digits.end - first;
        match integers {
            0 => return Self::word(text, start, first),
            1 => {}
            _ if text.get(first) == Some(&b'0') => return None,
            _ => {}
        }
        let (mut significant, mut exponent) = (integers, 0_i32);
        let mut whole = true;
        if text.get(digits.end) == Some(&b'.') {
            whole = false;
            let point = digits.end + 1;
            digits.end = point;
            if integers == 1 && digits.value == 0 {
                digits.end += text.get(point..)?.iter().take_while(|byte| **byte == b'0').count();
                significant = 0;
            }
            let zeros = digits.end;
            digits.take(text);
            significant += digits.end - zeros;
            exponent = -i32::try_from(digits.end - point).ok().filter(|count| *count > 0)?;
        }
        let mut end = digits.end;
        if let Some(b'e' | b'E') = text.get(end) {
            whole = false;
            let sign = text.get(end + 1).filter(|byte| matches!(byte, b'+' | b'-'));
            let start = end + 1 + usize::from(sign.is_some());
            let mut power = Digits { value: 0, end: start };
            power.take(text);
            end = power.end;
            // Longer ones are left to the standard library.
            let power = i32::try_from(power.value).ok().filter(|_| (1..=9).contains(&(end - start)))?;
            exponent = exponent.checked_add(if sign == Some(&b'-') { -power } else { power })?;
        }
        if whole && (integers >= MOST_DIGITS || (negative && digits.value == 0)) {
            return None;
        }
        let quick = || if significant <= MOST_DIGITS { float(digits.value, exponent) } else { None };
        let value = match quick() {
            Some(value) if negative => -value,
            Some(value) => value,
            None => std::str::from_utf8(text.get(start..end)?).ok()?.parse().ok()?,
        };
        Some(Self { value, end, whole: whole && !negative, negative })
    }

    /// Python's words for what JSON has no numbers for.
    #[cold]
    fn word(text: &[u8], start: usize, first: usize) -> Option<Self> {
        let negative = first > start;
        let rest = text.get(first..)?;
        let (value, length) = if rest.starts_with(b"NaN") && !negative {
            (f64::NAN, 3)
        } else if rest.starts_with(b"Infinity") {
            (if negative { f64::NEG_INFINITY } else { f64::INFINITY }, 8)
        } else {
            return None;
        };
        Some(Self { value, end: first + length, whole: false, negative })
    }
}

/// Digits that were read.
struct Digits {
    /// As an integer; beyond [`MOST_DIGITS`] of them it means nothing.
    value: u64,
    end: usize,
}

impl Digits {
    /// Reads on to the first byte that is no digit.
    #[inline(always)]
    fn take(&mut self, text: &[u8]) {
        while let Some(value) = text.get(self.end..).and_then(|rest| rest.first_chunk()).and_then(eight_digits) {
            self.value = self.value.wrapping_mul(100_000_000).wrapping_add(value);
            self.end += 8;
        }
        while let Some(digit) = text.get(self.end).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            self.value = self.value.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.end += 1;
        }
    }
}

/// The number of eight digits; none where not all are.
#[inline(always)]
fn eight_digits(text: &[u8; 8]) -> Option<u64> {
    let text = u64::from_le_bytes(*text);
    let high = |bytes: u64| bytes & 0xf0f0_f0f0_f0f0_f0f0;
    if high(text) | (high(text.wrapping_add(0x0606_0606_0606_0606)) >> 4) != 0x3333_3333_3333_3333 {
        return None;
    }
    // Pairs, then fours, then all.
    let digits = text - 0x3030_3030_3030_3030;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let rest = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    Some(low.wrapping_add(rest) >> 32)
}

/// `digits` × 10^`exponent`, rounded to the nearest float; none where that takes longer thought.
#[inline(always)]
fn float(digits: u64, exponent: i32) -> Option<f64> {
    if digits == 0 {
        return Some(0.0);
    }
    if digits <= EXACT_INTEGERS {
        if let Some(power) = usize::try_from(exponent).ok().and_then(|power| TENS.get(power)) {
            return Some(digits as f64 * power);
        }
        if let Some(power) = usize::try_from(-exponent).ok().and_then(|power| TENS.get(power)) {
            return Some(digits as f64 / power);
        }
    }
    rounded(digits, exponent)
}

/// Bits of a float's mantissa that are written.
const MANTISSA: u32 = 52;

/// Lemire's method, for 10⁻⁵⁴ to 10⁰ and normal floats.
#[inline(always)]
fn rounded(digits: u64, exponent: i32) -> Option<f64> {
    let power = POWERS.get(usize::try_from(-exponent).ok()?)?;
    let (power_high, power_low) = ((power >> 64) as u64, *power as u64);
    let shift = digits.leading_zeros();
    let digits = digits << shift;
    let product = u128::from(digits) * u128::from(power_high);
    let (mut high, mut low) = ((product >> 64) as u64, product as u64);
    // Three bits more than the mantissa has: with these all set, the lower half of the power may carry into them.
    let mask = u64::MAX >> (MANTISSA + 3);
    if high & mask == mask {
        let more = (u128::from(digits) * u128::from(power_low)) >> 64;
        let (sum, carry) = low.overflowing_add(more as u64);
        low = sum;
        high += u64::from(carry);
    }
    if low == u64::MAX && exponent < -27 {
        return None;
    }
    let upper = (high >> 63) as u32;
    let cut = upper + 64 - MANTISSA - 3;
    let mut mantissa = high >> cut;
    // The exponent of the leading bit: log₂ 10 × exponent, in 16 bits behind the point.
    let mut binary = ((exponent.wrapping_mul(152_170 + 65_536)) >> 16) + 63 + upper as i32 - shift as i32 + 1_023;
    if binary <= 0 {
        return None;
    }
    // Halfway between two floats, which only small powers reach: to the even one.
    if low <= 1 && (-4..=23).contains(&exponent) && mantissa & 3 == 1 && mantissa << cut == high {
        mantissa &= !1;
    }
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if mantissa >= 2 << MANTISSA {
        mantissa = 1 << MANTISSA;
        binary += 1;
    }
    if binary >= 0x7ff {
        return None;
    }
    Some(f64::from_bits((mantissa & !(1 << MANTISSA)) | (binary as u64) << MANTISSA))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_read_as_std_reads_it(text: &str) {
        let expected: f64 = text.parse().unwrap();
        let read = Decimal::at(format!("{text},").as_bytes(), 0).unwrap_or_else(|| panic!("{text}"));
        assert_eq!((read.value.to_bits(), read.end), (expected.to_bits(), text.len()), "{text}");
    }

    #[test]
    fn numbers_are_the_standard_librarys_to_the_bit() {
        // A generator of its own, so that both platforms see the same numbers.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let bits = draw();
            let any = f64::from_bits(bits & !(1 << 63));
            if any.is_finite() {
                is_read_as_std_reads_it(&format!("{any:e}"));
            }
            let share = (bits >> 11) as f64 / (1_u64 << 53) as f64;
            is_read_as_std_reads_it(&format!("{share:?}"));
            is_read_as_std_reads_it(&format!("{:?}", f64::from(share as f32) * 1e-3));
            // Digits that are no float's shortest: every power of the table, and those around it.
            let digits = draw() >> (bits % 60);
            is_read_as_std_reads_it(&format!("{digits}e{}", -((bits >> 32) as i32 & 0x7f) + 30));
        }
    }

    #[test]
    fn halves_between_two_floats_go_to_the_even_one() {
        for text in [
            "9007199254740993.0",
            "9007199254740995.0",
            "90071992547409935e-1",
            "900719925474099.35",
            "1.00000000000000011102230246251565",
            "0.500000000000000055511151231257827",
            "4503599627370497.5",
            "4503599627370496.5",
            "2251799813685248.25",
            "2251799813685249.125e0",
        ] {
            is_read_as_std_reads_it(text);
        }
    }

    #[test]
    fn the_ends_of_the_range_and_long_numbers_are_read() {
        for text in [
            "0.0",
            "-0.0",
            "5e-324",
            "2.2250738585072014e-308",
            "1.7976931348623157e308",
            "1e-400",
            "0.00000000000000000000000000000012345678901234567",
            "0.0001234567890123456789012345678901234567890",
            "123456789012345678",
            "1E5",
            "1e+5",
            "12345678.87654321",
            // 2⁶⁴ and a half: what does not fit is not taken for zero.
            "18446744073709551616.5",
        ] {
            is_read_as_std_reads_it(text);
        }
    }

    #[test]
    fn what_is_no_number_of_json_is_none() {
        for text in ["", "-", ".5", "1.", "01", "-01", "1e", "1e+", "+1", "x", "-NaN", "nan", "null", "\"1\"", "-0"] {
            assert_eq!(Decimal::at(text.as_bytes(), 0), None, "{text}");
        }
        let word = |text: &str| Decimal::at(text.as_bytes(), 0).map(|read| (read.value, read.end));
        assert!(word("NaN}").is_some_and(|(value, end)| value.is_nan() && end == 3));
        assert_eq!(word("Infinity,"), Some((f64::INFINITY, 8)));
        assert_eq!(word("-Infinity"), Some((f64::NEG_INFINITY, 9)));
        assert_eq!(word("12,"), Some((12.0, 2)));
        assert_eq!(word("1.5abc"), Some((1.5, 3)));
    }
}
