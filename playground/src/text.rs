//! Numbers as people read them.

pub use hydra_shared::names::thousands;

/// `121.1 M`, `14.2 k`, `512`.
pub fn millions(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.2} G", number as f64 / 1e9),
    }
}

/// About four significant digits: `0.01235`, `57.12`; `n/a` for what is no number.
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    let magnitude = if value == 0.0 { 0.0 } else { libm::floor(libm::log10(value.abs())) };
    if !(-5.0..6.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    // Between 0 and 8, so the conversion is exact.
    let decimals = (3.0 - magnitude).clamp(0.0, 8.0) as usize;
    format!("{value:.decimals$}")
}

/// `+1.25`, `−0.50`: a difference.
pub fn signed(value: f64, decimals: usize) -> String {
    format!("{value:+.decimals$}").replace('-', "−")
}

/// Megabytes of so many parameters in half precision: `242.2 MB`.
pub fn megabytes(parameters: u64) -> String {
    format!("{:.1} MB", 2.0 * parameters as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_shortened() {
        assert_eq!([thousands(0), thousands(999), thousands(121_110_528)], ["0", "999", "121,110,528"]);
        assert_eq!([millions(512), millions(26_112), millions(121_110_528)], ["512", "26.1 k", "121.1 M"]);
        assert_eq!(megabytes(121_110_528), "242.2 MB");
    }

    #[test]
    fn differences_have_a_sign() {
        assert_eq!([signed(1.25, 2), signed(-0.5, 1), signed(0.0, 0)], ["+1.25", "−0.5", "+0"]);
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        assert_eq!(significant(0.012_345), "0.01235");
        assert_eq!(significant(123.456), "123.5");
        assert_eq!(significant(0.0), "0.000");
        assert_eq!(significant(f64::NAN), "n/a");
        assert_eq!(significant(1.5e-9), "1.500e-9");
    }
}
