//! The clock that run folders are dated by.

/// The time now, as `2026-11-24T06:12:13Z`.
pub fn utc_now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
