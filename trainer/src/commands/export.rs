//! `trainer export`: an adapter for the programs that read it, a merged model, or a schedule's PEFT configuration.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use hydra_shared::adapter::{Adapter, LoraConfig, PeftOptions};
use hydra_shared::schedule::RankSchedule;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec};
use serde::Serialize;

use super::common::{Context, ModelArgs, usage, workbench};
use crate::adapter;
use crate::adapter::gguf::to_gguf;
use crate::adapter::mlx::to_mlx;
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::model::base::TINY;
use crate::model::spec::{self, Described};
use crate::runs::atomic::{Existing, write_file, write_folder};
use crate::train::experiment::ExperimentConfig;

const AFTER_HELP: &str = "\
Examples:
  trainer export --adapter runs/train-001/adapter --out my-adapter
  trainer export --adapter runs/train-001/adapter --format merged --out my-model
  trainer export --adapter my-peft-adapter --base path/to/config.json --format gguf --out my-adapter.gguf
  trainer export --adapter my-peft-adapter --base path/to/config.json --format uniform --out padded
  trainer export --schedule runs/search-001/search/best.json --out adapter_config.json

An adapter is any folder with adapter_config.json and adapter_model.safetensors, of PEFT or of `trainer train`. All formats but
merged need only the config.json of the model that --base names, no weights: models that are planned for but not run here, too.
For peft, uniform and mlx the headers of a checkpoint will do (model.safetensors, its index, or their folder), whatever its
architecture.";

/// Write an adapter, a merged model, or a schedule as PEFT configuration
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Adapter folder, of a run or of PEFT
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
    /// The same in one rank, padded with zeros: for vLLM before 0.32, llama.cpp's converter and whatever else ignores patterns
    Uniform,
    /// One file that llama.cpp and Ollama load, scales folded into the weights
    Gguf,
    /// A folder that mlx-lm loads with --adapter-path, in one rank
    Mlx,
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
    let config = args.model.load_untrained(context, &[])?.value;
    if config.base.is_none() {
        context.output.note(format_args!("note: no --base is given: the adapter is taken for the embedded {TINY}'s"));
    }
    if args.format == Format::Merged {
        let bench = workbench(config, context)?;
        // Opening checks every byte and shape.
        let model = adapter::folder::open(folder, &bench.base)?;
        warn_of_idle(&adapter::peft::open(folder, &bench.base.spec.layout()?)?, context);
        return if args.dry_run { Ok(()) } else { adapter::folder::save_base(&args.out, &bench.base, &model) };
    }
    let model = model_of(config, context)?;
    model.notes.iter().for_each(|note| context.output.note(format_args!("note: {note}")));
    let place = folder.display().to_string();
    let files = adapter::peft::read(folder)?;
    let beside = files.beside.clone();
    let adapter = adapter::folder::fit(files, &model.catalog, &place)?;
    adapter::folder::agree(&adapter, &beside, &place)?;
    adapter.notes.iter().for_each(|note| context.output.note(format_args!("note: {note}")));
    warn_of_idle(&adapter, context);
    if matches!(args.format, Format::Gguf | Format::Mlx) {
        leave_out(&adapter, &place, context)?;
    }
    match args.format {
        Format::Gguf => {
            let file = to_gguf(known(&model)?, &adapter)?;
            if args.dry_run { Ok(()) } else { write_file(&args.out, &file) }
        }
        Format::Mlx => {
            let files = to_mlx(&adapter)?;
            let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
            if args.dry_run { Ok(()) } else { write_folder(&args.out, &files, Existing::Refuse) }
        }
        Format::Peft | Format::Uniform | Format::Merged => {
            let made = match args.format {
                Format::Uniform => adapter::folder::uniform(&adapter, beside, &place)?,
                _ => adapter::folder::as_it_is(&adapter, beside),
            };
            if args.dry_run { Ok(()) } else { adapter::folder::write(&args.out, &made, Existing::Refuse) }
        }
    }
}

/// Says why an adapter changes nothing.
fn warn_of_idle(adapter: &Adapter, context: &Context) {
    adapter.idle.iter().for_each(|reason| context.output.warn(reason));
}

/// The matrices of the base model. Its configuration or the headers of its weights are enough; only a GGUF or llama2.c file is
/// opened whole.
fn model_of(config: ExperimentConfig, context: &Context) -> Result<Described> {
    let of_spec = |spec: ModelSpec| {
        let config = ModelConfig::from(spec);
        anyhow::Ok(Described { catalog: config.catalog()?, config: Some(config), notes: Vec::new() })
    };
    let Some(base) = &config.base else { return of_spec(ModelSpec::preset(TINY)?) };
    let is_json = base.extension().is_some_and(|extension| extension == "json");
    // llama2.c's files end as PyTorch's do.
    let is_llama2c = input::kind(base).is_none() && base.extension().is_some_and(|extension| extension == "bin");
    if base.is_file() && !is_json && (!spec::is_weights(base) || is_llama2c) {
        return of_spec(workbench(config, context)?.base.spec);
    }
    spec::load_catalog_for("--base", &base.to_string_lossy())
}

/// The configuration of a model, which names its architecture.
fn known(model: &Described) -> Result<&ModelConfig> {
    model.config.as_ref().ok_or_else(|| {
        let message = format!(
            "{}: without a config.json of a model type that is known here, llama.cpp's names of its tensors are not known; use \
             llama.cpp's convert_lora_to_gguf.py on `--format uniform`",
            model.catalog.decoder().model()
        );
        failure(Kind::Usage, message)
    })
}

/// Says what of an adapter a format without it leaves out: parts of the vision side, which llama.cpp and mlx-lm have no
/// adapters for. What changes the decoder itself must not be lost.
fn leave_out(adapter: &Adapter, place: &str, context: &Context) -> Result<()> {
    if adapter.ranks.largest() == 0 {
        let message = format!(
            "{place}: this format holds the decoder's projections alone, and the adapter changes none of them; use --format peft \
             or uniform"
        );
        return Err(failure(Kind::Data, message));
    }
    let sees = |name: &str| ["vision", "visual", "projector", "image"].iter().any(|word| name.contains(word));
    if let Some(names) = adapter.beside(|name| !sees(name)) {
        let message = format!(
            "{place}: this format holds the decoder's projections alone, and the adapter also changes {names}; use \
             --format peft or uniform"
        );
        return Err(failure(Kind::Data, message));
    }
    if let Some(names) = adapter.beside(sees) {
        context.output.warn(format_args!(
            "{place}: this format holds the decoder's projections alone; what the adapter changes in {names} is left out"
        ));
    }
    Ok(())
}
