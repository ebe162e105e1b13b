//! `trainer bench search`: what the search itself costs between two trials.

use std::time::Instant;

use anyhow::Result;
use hydra_shared::gradients::{GradientProfile, ModuleNorm, Signal};
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::performance::ModelKind;
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{Outcome, SearchConfig, SearchLoop, Step, Study, StudyMetadata};
use hydra_shared::stages::{StageConfig, cluster_layers};
use indexmap::IndexMap;
use serde::Serialize;

use super::median;
use super::memory::Memory;
use crate::cli::Context;
use crate::error::{Kind, failure};

/// Rank of the uniform schedule that sets the budget.
const BASE_RANK: u32 = 16;

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
    let search = study(args, kind)?;
    let mut all = Vec::new();
    for _ in 0..args.runs {
        // A fresh copy each time: a proposal becomes part of the study.
        let mut search = search.clone();
        let started = Instant::now();
        search.next()?;
        all.push(started.elapsed().as_secs_f64());
    }
    let norms: Vec<f64> = (0..args.layers).map(|layer| made_up(layer as u64, 3)).collect();
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

/// A search with complete trials of random schedules on a smooth made-up response.
fn study(args: &Args, model: ModelKind) -> Result<SearchLoop> {
    let mut spec = ModelSpec::preset("mobilevlm-1.7b")?;
    spec.decoder.layers = args.layers;
    let modules = (0..spec.module_count())
        .map(|module| ModuleNorm { mean: made_up(module as u64, 1), standard_error: 0.0, steps: 1 })
        .collect();
    let metadata = StudyMetadata {
        name: "bench".to_owned(),
        budget: Budget::uniform(&spec, BASE_RANK, Counting::Parameters),
        model: spec,
        rank_cap: None,
        base_rank: BASE_RANK,
        benchmarks: (0..args.benchmarks).map(|benchmark| format!("benchmark-{benchmark}")).collect(),
        profile: Some(GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }),
    };
    // The starts fill the study; the trial after the last of them is proposed by the model.
    let config = SearchConfig {
        starts: args.trials,
        trials: args.trials + 1,
        patience: usize::MAX,
        model,
        ..SearchConfig::default()
    };
    let mut search = SearchLoop::new(config, Study::new(metadata.clone()), Vec::new())?;
    for _ in 0..args.trials {
        let Step::Run(proposal) = search.next()? else {
            return Err(failure(Kind::Failure, "the space of schedules is too small for so many trials"));
        };
        let score = |benchmark: usize| {
            let gains =
                proposal.trial.ranks.iter().enumerate().map(|(module, rank)| {
                    made_up(module as u64, 10 + benchmark as u64) * f64::from(*rank).max(1.0).log2()
                });
            gains.sum::<f64>() / proposal.trial.ranks.len() as f64
        };
        let scores: IndexMap<String, f64> =
            metadata.benchmarks.iter().enumerate().map(|(index, name)| (name.clone(), score(index))).collect();
        search.record(Outcome::Complete { scores, wall_seconds: None })?;
    }
    Ok(search)
}

/// A number from 0.1 to 1.1 that looks random.
fn made_up(index: u64, salt: u64) -> f64 {
    let mixed = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    0.1 + (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
