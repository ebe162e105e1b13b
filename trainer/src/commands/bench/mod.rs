//! `trainer bench`: how fast the parts are, for the scripts in `bench/`.

mod cluster;
mod ingest;
mod measure;
mod search;
mod step;

use crate::commands::common::Context;

const AFTER_HELP: &str = "\
Examples:
  trainer bench step --model smollm2-135m --rank 16 --rows 4 --text 128 --answers 128
  trainer bench step --model mobilevlm-v2-1.7b --pictures 1 --text 256 --rank 128 --recompute blocks --device wgpu
  trainer bench search --trials 64 --layers 24
  trainer bench ingest grads.jsonl
  trainer bench cluster --gradients grads.jsonl

The scripts in bench/ run these beside PyTorch, Optuna, polars and Ray's client, and write docs/performance.md.";

/// Measure the training step, the search's own cost, the reading of a log, or the submitting of trials
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
    Cluster(cluster::Args),
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
        What::Cluster(args) => cluster::run(args, context),
    }
}
