//! Numbers in texts, as Python writes them.

/// What a text says of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// This number.
    Is(f64),
    /// That there is none.
    Missing,
    /// Something else.
    Not,
}

impl Number {
    /// Reads a text: a number, also in Python's and W&B's words for NaN and infinity, or in the form of a tensor or scalar
    /// (`tensor(0.5, device='cuda:0')`, `np.float32(0.5)`).
    pub(super) fn of(text: &str) -> Self {
        let text = text.trim();
        if matches!(text, "" | "None" | "null" | "NA" | "N/A" | "<NA>") {
            return Self::Missing;
        }
        match parse_number(text) {
            Some(number) => Self::Is(number),
            None => Self::Not,
        }
    }
}

/// The number of a text, if it is one.
pub(in super::super) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let number = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        Some((name, inner)) if name.ends_with("tensor") || name.contains("float") || name.contains("int") => {
            inner.split(',').next().unwrap_or_default().trim().trim_matches(['[', ']'])
        }
        _ => text,
    };
    let number: f64 = number.parse().ok()?;
    // A norm of minus infinity is as broken as one of infinity.
    Some(if number == f64::NEG_INFINITY { f64::INFINITY } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_python_prints_them() {
        for (text, number) in [
            ("1", 1.0),
            (" 4.5e-3 ", 0.0045),
            ("tensor(0.5, device='cuda:0')", 0.5),
            ("tensor([0.25])", 0.25),
            ("np.float32(0.125)", 0.125),
            ("-Infinity", f64::INFINITY),
            ("inf", f64::INFINITY),
        ] {
            assert_eq!(Number::of(text), Number::Is(number), "{text}");
        }
        assert!(matches!(Number::of("nan"), Number::Is(number) if number.is_nan()));
        assert_eq!(
            (Number::of(""), Number::of("None"), Number::of("high")),
            (Number::Missing, Number::Missing, Number::Not)
        );
    }
}
