//! `trainer pretrain`: makes the tiny base model from nothing.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::tokenizer::{SpecialTokens, Tokenizer};
use hydra_shared::vlm::{LossScale, MobileVlm, Precision, Trainable, Weights};
use serde::Serialize;

use super::common::{Context, finish};
use crate::config::{RESOLVED_FILE, Sources, load};
use crate::device::choose;
use crate::error::{Kind, ResultExt, failure};
use crate::interrupt;
use crate::model::base::{TINY, WEIGHTS_FILE};
use crate::model::checkpoint::config_files;
use crate::model::tokenizer::TOKENIZER_FILE;
use crate::output::thousands;
use crate::runs::atomic::{Existing, write_file, write_folder};
use crate::runs::folder::DEFAULT_ROOT;
use crate::runs::{MetricsLog, RunFolder};
use crate::train::fine_tune::Flow;
use crate::train::pretrain::{PretrainConfig, learn_vocabulary, pretrain};
use crate::train::step::{SavedState, TrainingState, resume};

const AFTER_HELP: &str = "\
Examples:
  trainer pretrain --out my-base
  trainer demo --set base=my-base
  trainer pretrain --out my-base --resume runs/pretrain-001

The embedded base was made by `trainer pretrain` with the defaults; static/tiny-mobilevlm/README.md says how long it took and what it scores.";

/// Train the tiny base model from scratch on generated pictures
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder for the base model: weights in half precision and the tokenizer; it is replaced if it exists
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// TOML file with the configuration; `--dry-run --json` prints every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration, e.g. steps=1000
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run folders
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_ROOT)]
    runs: PathBuf,
    /// Name of the run folder; without it they are numbered
    #[arg(long)]
    name: Option<String>,
    /// Go on with an interrupted run: its folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "set", "name"])]
    resume: Option<PathBuf>,
    /// Check the configuration, write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    out: PathBuf,
    parameters: u64,
    steps: usize,
    final_loss: f64,
}

/// Runs the command.
///
/// # Errors
/// A configuration that cannot be met, a loss that is not finite, an interrupt.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let sources = match &args.resume {
        Some(run) => Sources { file: Some(run.join(RESOLVED_FILE)), ..Sources::default() },
        None => Sources::new(args.config.clone(), args.set.clone()),
    };
    let resolved = load::<PretrainConfig>(&sources)?;
    let config = resolved.value.clone();
    if config.steps == 0 || config.pictures_per_step == 0 {
        return Err(failure(Kind::Usage, "steps and pictures_per_step must each be at least 1"));
    }
    config.tasks.validate().or_fail(Kind::Usage, || "tasks")?;
    let chosen = choose(context.device)?;
    context.output.note(format_args!("device: {} ({})", chosen.name, chosen.reason));
    if args.dry_run {
        return context.output.result(&config, || {
            format!("would train {} steps of {} pictures", config.steps, config.pictures_per_step)
        });
    }
    let run = match &args.resume {
        Some(path) => RunFolder::resume(path, "pretrain")?,
        None => {
            let run = RunFolder::create(&args.runs, args.name.as_deref(), "pretrain")?;
            run.describe(resolved.user_text.as_deref(), &resolved.text, &context.arguments)?;
            run
        }
    };
    let result = train(args, context, &config, &chosen.device, &run);
    let document = finish(run, result)?;
    context.output.result(&document, || {
        format!(
            "{} parameters, {} steps, loss {:.4}: {}",
            thousands(document.parameters),
            document.steps,
            document.final_loss,
            document.out.display()
        )
    })
}

fn train(
    args: &Args,
    context: &Context,
    config: &PretrainConfig,
    device: &burn::tensor::Device,
    run: &RunFolder,
) -> Result<Document> {
    let spec = ModelSpec::preset(TINY)?;
    let tokenizer_file = run.file(TOKENIZER_FILE)?;
    if !tokenizer_file.exists() {
        write_file(&tokenizer_file, learn_vocabulary(config, spec.decoder.vocab)?.as_bytes())?;
    }
    let tokenizer_json =
        std::fs::read_to_string(&tokenizer_file).or_fail(Kind::Data, || tokenizer_file.display().to_string())?;
    let tokenizer = Tokenizer::from_json(&tokenizer_json, SpecialTokens::default())?;
    let checkpoints = run.checkpoints();
    let newest = checkpoints.load_newest()?;
    for skipped in &newest.skipped {
        context.output.warn(skipped);
    }
    let state = match newest.checkpoint {
        Some(mut checkpoint) => {
            let mut file = |name: &str| checkpoint.files.remove(name).with_context(|| format!("{name} is missing"));
            let weights = Weights::from_safetensors(&file(WEIGHTS_FILE)?)?;
            let optimizer = file("optimizer.burnpack")?;
            let model = MobileVlm::load(&spec, weights, device)?;
            let fresh = TrainingState::new(model, Trainable::Everything, &config.optimizer);
            resume(fresh, optimizer, checkpoint.step as usize, 0, LossScale::default())?
        }
        None => {
            let model = MobileVlm::load(&spec, random_weights(&spec, config.seed), device)?;
            TrainingState::new(model, Trainable::Everything, &config.optimizer)
        }
    };
    let resumed_from = (state.step > 0).then_some(state.step as u64);
    let mut metrics = MetricsLog::open(&run.file("logs")?, resumed_from)?;
    let mut progress = context.output.progress("pretrain", config.steps as u64);
    let mut recent = std::collections::VecDeque::new();
    let save = |state: &TrainingState| -> Result<()> {
        let saved = SavedState::of(state, Trainable::Everything)?;
        let weights = saved.trained.to_safetensors(Precision::F32)?;
        let files: [(&str, &[u8]); 2] = [(WEIGHTS_FILE, &weights), ("optimizer.burnpack", &saved.optimizer)];
        checkpoints.save(saved.step as u64, &files)?;
        Ok(())
    };
    let (state, flow) = pretrain(state, &tokenizer, config, |report, state| {
        recent.push_back(report.loss);
        if recent.len() > 100 {
            recent.pop_front();
        }
        let mean = recent.iter().sum::<f64>() / recent.len() as f64;
        metrics.scalars(
            report.step as u64,
            &[
                ("train/loss", report.loss),
                ("train/learning_rate", report.learning_rate),
                ("train/grad_norm", report.global_norm),
            ],
        )?;
        progress.set(report.step as u64, format_args!("loss {mean:.4}"));
        if interrupt::requested() {
            save(state)?;
            return Ok(Flow::Stop);
        }
        if config.checkpoint_every > 0 && state.step.is_multiple_of(config.checkpoint_every) {
            save(state)?;
        }
        Ok(Flow::Continue)
    })?;
    if flow == Flow::Stop && state.step < config.steps {
        let out = args.out.display();
        let line = format!("trainer pretrain --out {out} --resume {}", run.path().display());
        return Err(interrupt::interrupted(&line));
    }
    progress.finish("");
    let weights = SavedState::of(&state, Trainable::Everything)?.trained;
    let half = weights.to_safetensors(Precision::F16)?;
    let files = config_files(
        &spec,
        vec![(TOKENIZER_FILE.to_owned(), tokenizer_json.into_bytes()), (WEIGHTS_FILE.to_owned(), half)],
    );
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    write_folder(&args.out, &files, Existing::Replace)?;
    Ok(Document {
        run: run.path().display().to_string(),
        out: args.out.clone(),
        parameters: weights.parameters(),
        steps: config.steps,
        final_loss: recent.iter().sum::<f64>() / recent.len().max(1) as f64,
    })
}
