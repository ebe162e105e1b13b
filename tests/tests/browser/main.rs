//! The built page in headless Chromium, driven as a person would.
//!
//! `scripts/test` builds the page and names its folder in `HYDRA_PAGE`. Without that variable there is nothing to look
//! at, and the tests are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

mod analyse;
mod files;
mod first_minute;
mod logs;
mod reach;
mod search;
#[path = "../support/mod.rs"]
mod support;
mod train;

use std::path::Path;

use serde_json::json;
use support::page::Page;

/// The page's samples.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/samples");

/// A sample of the page.
fn sample(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(SAMPLES).join(file)).unwrap()
}

/// A file of `tests/data`.
fn data(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data")).join(file)).unwrap()
}

/// Scrolls a control to the lower edge: the picture that it changes has to be in sight above it.
async fn assert_seen_together(page: &Page<'_>, control: &str, picture: &str) {
    page.js("document.querySelector(arguments[0]).scrollIntoView({block: 'end'})", vec![json!(control)]).await;
    page.wait(100).await;
    let edges = "const of = css => document.querySelector(css).getBoundingClientRect(); \
                 const picture = of(arguments[1]); return [picture.top, picture.bottom, of(arguments[0]).top]";
    let edges = page.js(edges, vec![json!(control), json!(picture)]).await;
    let edges: Vec<f64> = edges.as_array().unwrap().iter().filter_map(serde_json::Value::as_f64).collect();
    assert!(edges[0] >= 0.0 && edges[1] <= edges[2], "{control}: {edges:?}");
}
