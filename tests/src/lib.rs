//! How a test says that what it needs is not here. The whole-program tests themselves live in `tests/`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// Names the file that skipped tests are recorded in, a line each; `scripts/test` counts them at its end.
const SKIPS: &str = "HYDRA_SKIPS";
/// Set to `all`, no test may be skipped.
const REQUIRE: &str = "HYDRA_REQUIRE";

/// Records that the running test is skipped, with the reason; the caller returns.
///
/// # Panics
/// If nothing may be skipped (`HYDRA_REQUIRE=all`), or the record cannot be written.
#[allow(clippy::panic, clippy::expect_used, reason = "a test fails loudly")]
pub fn skip(reason: &str) {
    let test = running_test();
    match std::env::var(REQUIRE).unwrap_or_default().as_str() {
        "" => {}
        "all" => panic!("{test} may not be skipped, because {REQUIRE}=all: {reason}"),
        other => panic!("{REQUIRE}={other}: only `all` is known"),
    }
    record(&test, reason);
}

/// As [`skip`], but also where no other test may be skipped: for clusters of other programs, which a sandbox may not let start.
///
/// # Panics
/// If the record cannot be written.
pub fn skip_cluster(reason: &str) {
    record(&running_test(), reason);
}

#[allow(clippy::expect_used, reason = "a test fails loudly")]
fn record(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(file) = std::env::var_os(SKIPS) {
        let mut file = OpenOptions::new().create(true).append(true).open(file).expect("the record of skipped tests");
        // One write: tests run side by side.
        file.write_all(format!("{test}: {reason}\n").as_bytes()).expect("the record of skipped tests");
    }
}

/// The path that a variable names; a skip where it names none.
pub fn named_by(variable: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        skip(&format!("{variable} names no {what}; scripts/test sets it"));
    }
    path
}

/// Cargo's test runner names the thread after the test.
fn running_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}
