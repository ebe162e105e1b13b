//! What commands share: the global options, and of those that train the flags, the configuration and the run folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Compute;

use crate::config::{RESOLVED_FILE, Resolved, Sources, load};
use crate::device::{DeviceChoice, check_half_precision, choose};
use crate::error::{Kind, failure, kind_of, message_of};
use crate::interrupt::interrupted;
use crate::output::Output;
use crate::runs::RunFolder;
use crate::runs::folder::DEFAULT_ROOT;
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

    /// `--set`, and the flags that are short for it.
    fn settings(&self) -> Vec<String> {
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
    format!("{key}={}", toml::Value::from(path.display().to_string()))
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
    pub fn open(&self, command: &str, context: &Context, resolved: &Resolved<ExperimentConfig>) -> Result<RunFolder> {
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
/// As [`workbench`], and a device whose half precision cannot be used.
pub fn training_workbench(config: ExperimentConfig, context: &Context) -> Result<Workbench> {
    let half = config.training.compute == Compute::F16;
    let bench = workbench(config, context)?;
    if half {
        check_half_precision(&bench.chosen)?;
    }
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
