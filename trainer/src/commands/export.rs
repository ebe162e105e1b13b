//! `trainer export`: an adapter for PEFT, a merged model, or a schedule's PEFT configuration.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use hydra_shared::adapter::{LoraConfig, PeftOptions};
use hydra_shared::schedule::RankSchedule;
use serde::Serialize;

use super::common::{Context, ModelArgs, usage, workbench};
use crate::adapter;
use crate::adapter::gguf::to_gguf;
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::runs::atomic::{Existing, read_folder, write_file, write_folder};

const AFTER_HELP: &str = "\
Examples:
  trainer export --adapter runs/train-001/adapter --out my-adapter
  trainer export --adapter runs/train-001/adapter --format merged --out my-model
  trainer export --adapter runs/train-001/adapter --format gguf --out my-adapter.gguf
  trainer export --schedule runs/search-001/search/best.json --out adapter_config.json";

/// Write an adapter, a merged model, or a schedule as PEFT configuration
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Adapter folder of a run
    #[arg(long, value_name = "FOLDER", required_unless_present = "schedule")]
    adapter: Option<PathBuf>,
    /// Schedule to write as PEFT configuration
    #[arg(long, value_name = "FILE", conflicts_with = "adapter")]
    schedule: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value = "peft")]
    format: Format,
    /// Folder (a file for --schedule and for gguf) to write; it must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Which model and data
    #[command(flatten)]
    model: ModelArgs,
    /// Check everything, write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// adapter_config.json and adapter_model.safetensors with mixed ranks
    Peft,
    /// The same in one rank, padded with zeros: for vLLM, llama.cpp's converter and whatever else ignores patterns
    Uniform,
    /// One file that llama.cpp and Ollama load, scales folded into the weights
    Gguf,
    /// The base model with the adapter folded into its weights, a folder for --set base=
    Merged,
}

#[derive(Debug, Serialize)]
struct Written {
    format: Format,
    out: PathBuf,
    written: bool,
}

/// Runs the command.
///
/// # Errors
/// An adapter or schedule that cannot be used, a path that exists.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    if args.out.exists() {
        return Err(failure(Kind::Usage, format!("{} exists already; choose another --out", args.out.display())));
    }
    match (&args.adapter, &args.schedule) {
        (_, Some(schedule)) => export_schedule(schedule, args)?,
        (Some(adapter), None) => export_adapter(adapter, args, context)?,
        (None, None) => return Err(usage("name an --adapter or a --schedule")),
    }
    let document = Written { format: args.format, out: args.out.clone(), written: !args.dry_run };
    context.output.result(&document, || {
        format!("{} {}", if args.dry_run { "would write" } else { "wrote" }, document.out.display())
    })
}

fn export_schedule(path: &Path, args: &Args) -> Result<()> {
    let place = || path.display().to_string();
    let text = input::text(path)?;
    let schedule = RankSchedule::from_json(&text).or_fail(Kind::Data, place)?;
    if args.format != Format::Peft {
        return Err(usage("a schedule has no weights to merge or to pad; give an --adapter"));
    }
    let json = LoraConfig::new(&schedule, &PeftOptions::default()).to_json()?;
    if args.dry_run { Ok(()) } else { write_file(&args.out, json.as_bytes()) }
}

fn export_adapter(folder: &Path, args: &Args, context: &Context) -> Result<()> {
    let resolved = args.model.load(context, &[])?;
    let bench = workbench(resolved.value, context)?;
    // Opening checks every byte and shape, for both formats.
    let (_, model) = adapter::folder::open(folder, &bench.base)?;
    if args.dry_run {
        return Ok(());
    }
    match args.format {
        Format::Merged => adapter::folder::save_base(&args.out, &bench.base, &model),
        Format::Gguf => {
            let adapter = adapter::peft::open(folder, &bench.base.layout)?;
            write_file(&args.out, &to_gguf(&bench.base.spec, &adapter)?)
        }
        Format::Uniform => {
            let adapter = adapter::folder::uniform(folder, &bench.base)?;
            adapter::folder::write(&args.out, &adapter, Existing::Refuse)
        }
        Format::Peft => {
            let files = read_folder(folder)?;
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            write_folder(&args.out, &files, Existing::Refuse)
        }
    }
}
