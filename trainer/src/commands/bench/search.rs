//! `trainer bench search`: what the search itself costs between two trials.

use std::time::Instant;

use anyhow::Result;
use hydra_shared::performance::ModelKind;
use hydra_shared::search::{made_up_number, made_up_study};
use hydra_shared::stages::{StageConfig, cluster_layers};
use hydra_shared::vlm::spec::ModelSpec;
use serde::Serialize;

use super::measure::{Memory, median};
use crate::commands::common::Context;
use crate::error::{Kind, failure};

/// Fit the performance model to a made-up study and propose the next schedule
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trainer bench search --trials 64 --layers 24 --json")]
pub struct Args {
    /// Complete trials in the study
    #[arg(long, default_value_t = 16)]
    trials: usize,
    /// Decoder layers of the model
    #[arg(long, default_value_t = 24)]
    layers: usize,
    /// Scores of every trial
    #[arg(long, default_value_t = 4)]
    benchmarks: usize,
    /// Performance model: transformer, ridge or gaussian-process
    #[arg(long, value_name = "MODEL", default_value = "transformer")]
    performance_model: String,
    /// Measurements; their median is reported
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    trials: usize,
    layers: usize,
    benchmarks: usize,
    performance_model: &'static str,
    threads: usize,
    /// Fitting the performance model, its leave-one-out error included, and choosing the next schedule.
    propose_seconds: f64,
    all_propose_seconds: Vec<f64>,
    /// Layer norms to stages.
    stages_seconds: f64,
    memory: Memory,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    if args.trials == 0 || args.layers == 0 || args.benchmarks == 0 || args.runs == 0 {
        return Err(failure(Kind::Usage, "--trials, --layers, --benchmarks and --runs must each be at least 1"));
    }
    let kind = ModelKind::ALL.into_iter().find(|kind| kind.name() == args.performance_model).ok_or_else(|| {
        let known = ModelKind::ALL.map(ModelKind::name).join(", ");
        failure(Kind::Usage, format!("--performance-model {}: known are {known}", args.performance_model))
    })?;
    let mut model = ModelSpec::preset("mobilevlm-1.7b")?;
    model.decoder.layers = args.layers;
    let search = made_up_study(&model.layout()?, args.trials, args.benchmarks, kind)?;
    if search.study().trials.len() < args.trials {
        return Err(failure(Kind::Failure, "the space of schedules is too small for so many trials"));
    }
    let mut all = Vec::new();
    for _ in 0..args.runs {
        // A fresh copy each time: a proposal becomes part of the study.
        let mut search = search.clone();
        let started = Instant::now();
        search.ask()?;
        all.push(started.elapsed().as_secs_f64());
    }
    let norms: Vec<f64> = (0..args.layers).map(|layer| made_up_number(layer as u64, 3)).collect();
    let config = StageConfig { count: StageConfig::default().count.min(args.layers), ..StageConfig::default() };
    let mut clustering = Vec::new();
    for _ in 0..args.runs {
        let started = Instant::now();
        cluster_layers(&norms, &config)?;
        clustering.push(started.elapsed().as_secs_f64());
    }
    let document = Document {
        trials: args.trials,
        layers: args.layers,
        benchmarks: args.benchmarks,
        performance_model: kind.name(),
        threads: rayon::current_num_threads(),
        propose_seconds: median(&all),
        all_propose_seconds: all,
        stages_seconds: median(&clustering),
        memory: Memory::of_process(),
    };
    context.output.result(&document, || {
        format!(
            "{} trials, {} layers: fit and propose in {:.3} s with {}",
            document.trials, document.layers, document.propose_seconds, document.performance_model
        )
    })
}
