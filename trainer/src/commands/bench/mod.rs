//! `trainer bench`: how fast the parts are, for the scripts in `bench/`.

mod ingest;
mod memory;
mod search;
mod step;

pub use memory::peak_memory;

use crate::cli::Context;

const AFTER_HELP: &str = "\
Examples:
  trainer bench step --model smollm2-135m --rank 16 --rows 4 --text 128 --answers 128
  trainer bench step --model mobilevlm-v2-1.7b --pictures 1 --text 256 --rank 128 --recompute blocks --device wgpu
  trainer bench search --trials 64 --layers 24
  trainer bench ingest grads.jsonl

The scripts in bench/ run these beside PyTorch, Optuna and polars, and write docs/performance.md.";

/// Measure the training step, the search's own cost, or the reading of a log
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, clap::Subcommand)]
enum What {
    Step(step::Args),
    Search(search::Args),
    Ingest(ingest::Args),
}

/// Runs the command.
///
/// # Errors
/// Settings that make no sense, a device that cannot be used, a file that cannot be read.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.what {
        What::Step(args) => step::run(args, context),
        What::Search(args) => search::run(args, context),
        What::Ingest(args) => ingest::run(args, context),
    }
}

/// The middle of some measurements; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
