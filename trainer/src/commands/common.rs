//! What commands share: the global options, and of those that train the flags, the configuration and the run folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Compute;

use crate::config::{RESOLVED_FILE, Resolved, Sources, load};
use crate::device::{DeviceChoice, check_precision, choose};
use crate::error::{Kind, failure, kind_of, message_of};
use crate::interrupt::interrupted;
use crate::output::Output;
use crate::runs::RunFolder;
use crate::runs::folder::DEFAULT_ROOT;
use crate::search::outside::OutsideConfig;
use crate::train::experiment::ExperimentConfig;
use crate::train::workbench::Workbench;

/// What a command gets besides its own arguments.
#[derive(Debug)]
pub struct Context {
    /// How to print.
    pub output: Output,
    /// `--device`.
    pub device: DeviceChoice,
    /// The command line as it was typed, the program first.
    pub arguments: Vec<String>,
}

/// `--part` and `--score`: the splits that data has, by their names.
pub fn split_parser() -> impl TypedValueParser<Value = Split> {
    let splits = [
        (Split::Train, "For fine-tuning"),
        (Split::Validation, "For scoring trials"),
        (Split::Test, "For the report; no search sees it"),
    ];
    let values = splits.map(|(split, help)| PossibleValue::new(split.name()).help(help));
    PossibleValuesParser::new(values).try_map(|name| Split::by_name(&name).ok_or("no such split"))
}

/// Flags that choose a model and set its configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// TOML file with the configuration; `train --dry-run --json` prints every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, e.g. training.steps=100
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Base model: folder of a Hugging Face checkpoint, or a GGUF file; short for --set base=
    #[arg(long, value_name = "PATH")]
    pub base: Option<PathBuf>,
    /// Folder of a CLIP checkpoint whose vision tower is used; short for --set vision_tower=
    #[arg(long, value_name = "FOLDER")]
    pub vision_tower: Option<PathBuf>,
}

impl ModelArgs {
    /// The configuration: defaults, `presets` of the command, file, environment, `--set`, `--base` and `--vision-tower`, the
    /// later ones stronger.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value of the wrong type or out of its range.
    pub fn load(&self, context: &Context, presets: &[&str]) -> Result<Resolved<ExperimentConfig>> {
        let presets = presets.iter().map(|preset| (*preset).to_owned()).collect();
        let resolved =
            load::<ExperimentConfig>(&Sources { presets, ..Sources::new(self.config.clone(), self.settings()) })?;
        tell(&resolved, &context.output);
        resolved.value.validate()?;
        Ok(resolved)
    }

    /// As [`Self::load`], for a command that trains nothing and plans nothing.
    ///
    /// # Errors
    /// As [`Self::load`]; a key that only training, planning or searching heeds.
    pub fn load_untrained(&self, context: &Context, presets: &[&str]) -> Result<Resolved<ExperimentConfig>> {
        let resolved = self.load(context, presets)?;
        let idle =
            ["training", "full_learning_rate", "seeds", "gradients", "gradients_run", "profile", "plan", "search"];
        resolved.refuse_here(&idle.map(|key| (key.to_owned(), "this command trains nothing".to_owned())))?;
        Ok(resolved)
    }

    /// `--set`, and the flags that are short for it.
    pub fn settings(&self) -> Vec<String> {
        let base = self.base.iter().map(|base| path_setting("base", base));
        let tower = self.vision_tower.iter().map(|tower| path_setting("vision_tower", tower));
        self.set.iter().cloned().chain(base).chain(tower).collect()
    }
}

/// Tells a configuration's warnings and notes on standard error.
pub fn tell<T>(resolved: &Resolved<T>, output: &Output) {
    resolved.warnings.iter().for_each(|warning| output.warn(warning));
    resolved.notes.iter().for_each(|note| output.note(format_args!("note: {note}")));
}

/// `--set` of a path.
pub fn path_setting(key: &str, path: &Path) -> String {
    text_setting(key, &path.display().to_string())
}

/// `--set` of a text.
pub fn text_setting(key: &str, text: &str) -> String {
    format!("{key}={}", toml::Value::from(text))
}

/// Flags of `profile`, `search`, `train` and `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Model and configuration
    #[command(flatten)]
    pub model: ModelArgs,
    /// Folder of the run folders
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_ROOT)]
    pub runs: PathBuf,
    /// Name of the run folder; without it they are numbered
    #[arg(long)]
    pub name: Option<String>,
    /// Go on with an interrupted run: its folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "set", "base", "vision_tower", "name", "runs"])]
    pub resume: Option<PathBuf>,
    /// Check configuration, base model and data, say what would be done, write nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl RunArgs {
    /// The configuration: that of the run with `--resume`, otherwise the defaults, `presets` of the command, file,
    /// environment and `--set`, the later ones stronger.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value of the wrong type or out of its range.
    pub fn load(&self, context: &Context, presets: &[&str]) -> Result<Resolved<ExperimentConfig>> {
        let Some(run) = &self.resume else {
            let resolved = self.model.load(context, presets)?;
            resolved.refuse(&resolved.value.data.idle_without_files())?;
            return Ok(resolved);
        };
        let file = Some(run.join(RESOLVED_FILE));
        let resolved = load::<ExperimentConfig>(&Sources { file, ..Sources::default() })?;
        tell(&resolved, &context.output);
        resolved.value.validate()?;
        Ok(resolved)
    }

    /// A new run folder, described, or the one to go on with.
    ///
    /// # Errors
    /// A folder that is taken, is none, or belongs to another command.
    pub fn open<T>(&self, command: &str, context: &Context, resolved: &Resolved<T>) -> Result<RunFolder> {
        match &self.resume {
            Some(path) => RunFolder::resume(path, command),
            None => {
                let run = RunFolder::create(&self.runs, self.name.as_deref(), command)?;
                run.describe(resolved.user_text.as_deref(), &resolved.text, &context.arguments)?;
                Ok(run)
            }
        }
    }
}

/// Flags that say what somebody else's training trains.
#[derive(Debug, Clone, clap::Args)]
pub struct SubjectArgs {
    /// The model that is trained: a preset, a Hugging Face config.json, a checkpoint (of which only headers are read), or the
    /// folder of either
    #[arg(long, value_name = "PRESET|FILE")]
    pub model: Option<String>,
    /// Rank of the uniform LoRA whose parameters are the budget; short for --set plan.base_rank=
    #[arg(long, value_name = "R")]
    pub base_rank: Option<u32>,
    /// Gradient log, or a folder of them, that schedules are planned from. Without it the first trial is uniform LoRA, and the
    /// log that it leaves is taken
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub gradients: Vec<PathBuf>,
    /// Give ranks to modules of the log outside the decoder, too, whose names this Python expression is found in
    #[arg(long, value_name = "REGEX")]
    pub include: Vec<String>,
    /// Give no rank to modules whose names this Python expression is found in
    #[arg(long, value_name = "REGEX")]
    pub exclude: Vec<String>,
}

impl SubjectArgs {
    /// The flags as `--set` has them.
    pub fn settings(&self) -> Vec<String> {
        let paths: Vec<String> = self.gradients.iter().map(|path| path.display().to_string()).collect();
        let lists = [("gradients", &paths), ("include", &self.include), ("exclude", &self.exclude)];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let model = self.model.iter().map(|model| text_setting("model", model));
        let rank = self.base_rank.iter().map(|rank| format!("plan.base_rank={rank}"));
        model.chain(rank).chain(lists.map(|(key, list)| format!("{key}={}", toml::Value::from(list.clone())))).collect()
    }
}

/// Reads the configuration of a search over somebody else's training.
///
/// # Errors
/// As [`load`] and [`OutsideConfig::validate`].
pub fn load_outside(sources: &Sources, output: &Output) -> Result<Resolved<OutsideConfig>> {
    let resolved = load::<OutsideConfig>(sources)?;
    tell(&resolved, output);
    resolved.value.validate()?;
    Ok(resolved)
}

/// Base model and device of a command.
///
/// # Errors
/// A device that cannot be used, a base that cannot be read.
pub fn workbench(config: ExperimentConfig, context: &Context) -> Result<Workbench> {
    let chosen = choose(context.device)?;
    context.output.note(format_args!("device: {} ({})", chosen.name, chosen.reason));
    Workbench::open(config, chosen)
}

/// [`workbench`] of a command that trains, whose device computes in the configured precision.
///
/// # Errors
/// As [`workbench`], and a device whose precision cannot be used.
pub fn training_workbench(config: ExperimentConfig, context: &Context) -> Result<Workbench> {
    let compute = config.training.compute;
    if compute == Compute::Bf16 && config.training.lora_dropout > 0.0 {
        let why =
            "training.compute=bf16 is not there with dropout: set training.lora_dropout=0, or training.compute=f32";
        return Err(failure(Kind::Usage, why));
    }
    let bench = workbench(config, context)?;
    check_precision(&bench.chosen, compute, &context.output)?;
    Ok(bench)
}

/// Ends a run as its result says, and gives the result back; an interrupt says how to go on.
///
/// # Errors
/// The result's own error, or a disk that cannot be written.
pub fn finish<T>(run: RunFolder, result: Result<T>) -> Result<T> {
    let path = run.path().display().to_string();
    let resume = format!("trainer {} --resume {path}", run.record().command);
    run.finish(&result)?;
    result.map_err(|error| match kind_of(&error) {
        Kind::Interrupted if message_of(&error).contains("--resume") => error,
        Kind::Interrupted => interrupted(&resume),
        _ => error.context(format!("the run in {path} failed")),
    })
}

/// An error for a flag that needs another one.
pub fn usage(message: &str) -> anyhow::Error {
    failure(Kind::Usage, message)
}
