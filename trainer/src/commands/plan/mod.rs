//! `trainer plan`: a gradient log becomes a schedule and a PEFT configuration.

mod settings;
mod text;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hydra_shared::adapter::{LoraConfig, PeftOptions, python_snippet};
use hydra_shared::files::plan::{Document, PlanSource, Planned, make};
use hydra_shared::shell::trainer_command;

use crate::commands::common::Context;
use crate::data::gradient_logs;
use crate::error::{Kind, failure};
use crate::model::spec;
use crate::runs::atomic::write_file;
use settings::Settings;

const AFTER_HELP: &str = "\
Examples:
  trainer plan --gradients grads.jsonl --model path/to/config.json --base-rank 16
  trainer plan --gradients grads.jsonl --model config.json --base-rank 16 --peft lora.json --out schedule.json
  trainer plan --gradients logs/version_0 --model mobilevlm-1.7b --base-rank 128 --stage-ranks 64,128,256 --delta 2
  trainer plan --gradients grads.csv --model config.json --base-rank 16 --signs q=-,k=-,up=+ --json
  trainer plan --gradients grads.csv --model config.json --base-rank 16 --schedule-kind eva-like --out eva.json

Gradient logs, as trainers and trackers leave them: this project's JSON lines (scripts/hydra_grad_logger.py), JSON and CSV
of norms by parameter, wide or one row a value, Parquet, Lightning's CSV, TensorBoard event files and folders,
trainer_state.json, and the files of W&B (run-ID.wandb, or its history), trackio, mlflow, swanlab, dvclive, ClearML and
Comet. Where a log holds several runs, --run names the one to read.";

/// Turn a gradient log into ranks within the budget, and into a PEFT configuration
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Gradient log, or a folder of them; several are read as one run
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub gradients: Vec<PathBuf>,
    /// The run to read, where the log holds several
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// The model that was trained: a preset, a Hugging Face config.json, a checkpoint (model.safetensors or its index, of
    /// which only headers are read), or the folder of either
    #[arg(long, value_name = "PRESET|FILE")]
    pub model: String,
    /// Plan modules of the log outside the decoder, too, whose names this Python expression is found in: a vision tower,
    /// lm_head
    #[arg(long, value_name = "REGEX")]
    pub include: Vec<String>,
    /// Plan no module whose name this Python expression is found in
    #[arg(long, value_name = "REGEX")]
    pub exclude: Vec<String>,
    /// TOML file with any of the settings below, their dashes written as underscores; or the configuration of a search,
    /// whose tables plan and profile have the same keys
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting; stronger than the file, weaker than its own flag
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Choices of the plan
    #[command(flatten)]
    pub flags: settings::Flags,
    /// Dropout in the PEFT configuration [default: 0]
    #[arg(long, value_name = "SHARE", help_heading = "Settings")]
    pub dropout: Option<f64>,
    /// Write the schedule here
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Write PEFT's adapter configuration here
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub peft: Option<PathBuf>,
    /// Write a Python snippet with a LoraConfig here
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub python: Option<PathBuf>,
    /// Do everything but write
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Settings that cannot be used, a log that cannot be read or does not fit the model, a budget that is too small, files
/// that cannot be written.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let settings = Settings::resolve(args, &context.output)?;
    let source = PlanSource {
        gradients: &args.gradients,
        run: args.run.as_deref(),
        include: &args.include,
        exclude: &args.exclude,
        choices: settings.choices()?,
        seed: settings.seed(),
        command: trainer_command(&context.arguments),
    };
    let planned = make(source, || spec::load_catalog(&args.model))?;
    for note in &planned.notes {
        context.output.note(format_args!("note: {note}"));
    }
    if let Some(warning) = gradient_logs::outside_warning(&planned.outside) {
        context.output.warn(warning);
    }
    let written = write(args, &planned, settings.dropout)?;
    let files = written.iter().map(|file| (file.key, file.path.display().to_string())).collect();
    let document = Document::new(&planned, files, written.iter().any(|file| file.dry));
    context.output.result(&document, || text::text(&planned, &written))
}

/// A file that was written, or would have been.
struct Written {
    what: &'static str,
    key: &'static str,
    path: PathBuf,
    dry: bool,
}

/// Writes what was asked for. All texts are made and all folders looked at before the first file is written.
fn write(args: &Args, planned: &Planned, dropout: f64) -> anyhow::Result<Vec<Written>> {
    let options = PeftOptions { base_model: None, dropout };
    let mut files: Vec<(&'static str, &'static str, &Path, String)> = Vec::new();
    if let Some(path) = &args.out {
        files.push(("schedule", "schedule", path, planned.schedule.to_json()?));
    }
    if let Some(path) = &args.peft {
        let config = LoraConfig::new(&planned.schedule, &options).for_training();
        files.push(("PEFT configuration", "peft", path, config.to_json()?));
    }
    if let Some(path) = &args.python {
        files.push(("Python snippet", "python", path, python_snippet(&planned.schedule, &options)));
    }
    for (what, _, path, _) in &files {
        check_place(what, path)?;
    }
    let mut written = Vec::new();
    for (what, key, path, text) in files {
        if !args.dry_run {
            write_file(path, text.as_bytes()).with_context(|| format!("the {what} was not written"))?;
        }
        written.push(Written { what, key, path: path.to_owned(), dry: args.dry_run });
    }
    Ok(written)
}

fn check_place(what: &str, path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Err(failure(
            Kind::Usage,
            format!("{}: the {what} needs a file name, this is a folder", path.display()),
        ));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => Err(failure(
            Kind::Usage,
            format!("{}: there is no folder {}; make it first", path.display(), parent.display()),
        )),
        _ => Ok(()),
    }
}
