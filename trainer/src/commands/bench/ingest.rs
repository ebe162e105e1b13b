//! `trainer bench ingest`: reading a gradient log.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use hydra_shared::gradients::ProfileConfig;
use serde::Serialize;

use super::measure::Memory;
use crate::commands::common::Context;
use crate::data::gradient_logs::{ReadLogs, log_failure};
use crate::error::{Kind, ResultExt};

/// Read a gradient log once
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trainer bench ingest grads.jsonl --json")]
pub struct Args {
    /// The log
    file: PathBuf,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    bytes: u64,
    seconds: f64,
    megabytes_per_second: f64,
    steps: usize,
    modules: usize,
    memory: Memory,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let place = || args.file.display().to_string();
    let bytes = std::fs::metadata(&args.file).or_fail(Kind::Data, place)?.len();
    let started = Instant::now();
    let paths = std::slice::from_ref(&args.file);
    let log = ReadLogs::read(paths, None, &ProfileConfig::default(), log_failure)?.log;
    let seconds = started.elapsed().as_secs_f64();
    let document = Document {
        bytes,
        seconds,
        megabytes_per_second: bytes as f64 / 1e6 / seconds.max(1e-9),
        steps: log.steps.len(),
        modules: log.modules.len(),
        memory: Memory::of_process(),
    };
    context.output.result(&document, || {
        format!(
            "{:.1} MB in {seconds:.2} s: {:.0} MB/s; {} steps of {} modules",
            bytes as f64 / 1e6,
            document.megabytes_per_second,
            document.steps,
            document.modules
        )
    })
}
