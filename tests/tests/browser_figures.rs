//! Figures of the built page in headless Chromium, for `bench/browser`: no test of anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement fails loudly, its helpers too"
)]
#![allow(dead_code, reason = "the helpers of the page's tests are more than these figures need")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use support::page::{Page, on_the_page_at};

/// Most seconds that one figure may take.
const PATIENCE: u64 = 500;

/// Reads the logs that `HYDRA_BENCH_LOGS` names, and with the configuration beside them those of many layers that `HYDRA_BENCH_WIDE`
/// names, steps through a search of each sample (or those that `HYDRA_BENCH_SEARCH` names), and writes what was measured to the
/// file `HYDRA_BENCH_OUT`.
#[test]
#[ignore = "bench/browser and bench/browser_before run it"]
fn figures() {
    let (Some(logs), Some(out)) = (std::env::var_os("HYDRA_BENCH_LOGS"), std::env::var_os("HYDRA_BENCH_OUT")) else {
        return;
    };
    let mut ingest = Vec::new();
    for log in std::env::split_paths(&logs) {
        // A browser of its own: the peak of its memory is that of this log.
        on_the_page_at("", &[], async |page| ingest.push(read(page, &[&log]).await));
    }
    for wide in std::env::var_os("HYDRA_BENCH_WIDE").iter().flat_map(std::env::split_paths) {
        let config = wide.with_file_name("config.json");
        on_the_page_at("", &[], async |page| ingest.push(read(page, &[&wide, &config]).await));
    }
    let mut search = Vec::new();
    let samples = std::env::var("HYDRA_BENCH_SEARCH").ok();
    for (sample, layers) in [("tiny-mobilevlm", 6), ("mobilevlm", 24), ("smollm2", 30)] {
        if samples.as_ref().is_some_and(|samples| !samples.split(',').any(|wanted| wanted == sample)) {
            continue;
        }
        on_the_page_at(&format!("#v=1&sample={sample}&view=search"), &[], async |page| {
            search.push(json!({ "layers": layers, "trials": 16, "step_seconds": step(page).await }));
        });
    }
    fs::write(out, serde_json::to_string_pretty(&json!({ "ingest": ingest, "search": search })).unwrap()).unwrap();
}

/// What it takes to read a log, the first of these files, until it is shown.
async fn read(page: &Page<'_>, files: &[&Path]) -> Value {
    let log = files[0];
    let size = fs::metadata(log).unwrap().len();
    // What Chromium and the page take without a log.
    page.settle().await;
    let before = renderer_peak();
    page.js(WATCH, vec![]).await;
    let start = Instant::now();
    page.pick_together(files).await;
    page.until_text_for("#source-name", &log.file_name().unwrap().to_string_lossy(), PATIENCE).await;
    let seconds = start.elapsed().as_secs_f64();
    // The charts are drawn after the name has changed.
    page.wait(500).await;
    let gap = page.js("return window.longestGap", vec![]).await;
    json!({
        "bytes": size, "seconds": seconds, "megabytes_per_second": size as f64 / 1e6 / seconds,
        "renderer_before": before, "renderer_peak": renderer_peak(), "longest_gap_ms": gap,
    })
}

/// Notes the longest time for which the page's thread could not run anything else.
const WATCH: &str = "
window.longestGap = 0;
let last = performance.now();
const tick = () => {
  const now = performance.now();
  window.longestGap = Math.max(window.longestGap, now - last);
  last = now;
  setTimeout(tick, 0);
};
tick();
";

/// Most memory that a renderer of Chromium has held, in bytes.
fn renderer_peak() -> u64 {
    let of_process = |entry: fs::DirEntry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains("--type=renderer").then_some(())?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of_process).max().unwrap_or(0)
}

/// Seconds that the worker takes for the last of 16 trials: three models, their leave-one-out errors, and the rivals.
async fn step(page: &Page<'_>) -> f64 {
    page.until_text_for("main", "the last answer took", PATIENCE).await;
    page.click_text("button", "Play").await;
    page.until_text_for("main", "16 trials; the last answer took", PATIENCE).await;
    let text = page.text("main").await;
    let (_, after) = text.split_once("16 trials; the last answer took ").unwrap();
    after.split_once(" s.").unwrap().0.parse().unwrap()
}
