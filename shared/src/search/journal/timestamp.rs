//! Time stamps as Optuna writes them.

use std::fmt;

/// A moment, to the microsecond. The caller reads the clock; this crate has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// From microseconds since 1970-01-01 00:00 UTC; what lies beyond the years that can be written, ±9999, is their end.
    pub fn from_unix_micros(micros: i64) -> Self {
        let end = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let whole = |micros| jiff::Timestamp::from_microsecond(micros).unwrap_or(end);
        // The end has nanoseconds, which are not written.
        Self(whole(whole(micros).as_microsecond()))
    }

    /// Microseconds since 1970-01-01 00:00 UTC.
    pub fn unix_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Reads what [`fmt::Display`] writes, and any other time of ISO 8601 that says how far from UTC it is.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|time: jiff::Timestamp| Self::from_unix_micros(time.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    /// ISO 8601 in UTC with microseconds, e.g. `2026-11-24T06:16:36.669832+00:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}+00:00", jiff::tz::Offset::UTC.to_datetime(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_written_as_python_writes_them() {
        // datetime.fromtimestamp(n / 1e6, timezone.utc).isoformat(timespec="microseconds")
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000+00:00"),
            (1_795_500_996_669_832, "2026-11-24T06:16:36.669832+00:00"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999+00:00"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000+00:00"),
            (-1, "1969-12-31T23:59:59.999999+00:00"),
            (i64::MAX, "9999-12-30T22:00:00.999999+00:00"),
        ] {
            assert_eq!(Timestamp::from_unix_micros(micros).to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp::from_unix_micros(micros)));
        }
        // As Python writes a time without its zone.
        assert_eq!(Timestamp::parse("2026-11-24T06:16:36.669832"), None);
    }
}
