//! `trainer experiment`: many fine-tunes that answer one question, and the page that follows from their results.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::common::Context;
use super::executor::ExecutorArgs;
use crate::device::{DeviceChoice, choose};
use crate::error::{Kind, ResultExt, failure};
use crate::evidence::file::Experiment;
use crate::evidence::jobs::{command, run_in_folder};
use crate::evidence::page::{Files, PAGE, page};
use crate::evidence::record::{read_records, results_path};
use crate::evidence::run::run_experiment;
use crate::evidence::study::journal;
use crate::model::base::Base;
use crate::runs::atomic::write_file;

const AFTER_HELP: &str = "\
Examples:
  trainer experiment bench/evidence/rank-curve.toml --resume
  trainer experiment bench/evidence/*.toml --resume      all of them, as far as they have not run
  trainer experiment report
  trainer experiment bench/evidence/table.toml --resume --executor ray --parallel 32 --trial-cpus 1
  trainer experiment study bench/evidence/table.toml --most 41 --out table.journal
  trainer experiment report --check                      exit code 1 where docs/evidence.md does not follow from the results

A file says what is compared, on which replicates and at which numbers a rule fires; a line per fine-tune is added to the
.jsonl beside it. Fine-tunes run side by side, one to a core, or with --executor on a Ray or Slurm cluster whose machines see
this folder and this program under the same paths (docs/search.md, \"On many machines\"); their folders lie in
runs/experiment-NAME. An interrupted experiment goes on with --resume.";

/// Compare arms over rates, seeds and lengths, and write what follows
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// Experiments to run, in this order
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Keep the results that there are, and run what is missing
    #[arg(long)]
    resume: bool,
    /// Where they run, if not in threads of this program
    #[command(flatten)]
    executor: ExecutorArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Write docs/evidence.md and its figures from raw results
    Report(ReportArgs),
    /// Write an experiment's fine-tunes as a study (Optuna's journal), for Optuna's dashboard and the playground
    Study(StudyArgs),
    /// Run the trial of a folder, as an executor does
    #[command(hide = true)]
    Trial {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// Folder of the experiments
    #[arg(value_name = "FOLDER", default_value = "bench/evidence")]
    folder: PathBuf,
    /// Folder of the page
    #[arg(long, value_name = "FOLDER", default_value = "docs")]
    out: PathBuf,
    /// Write nothing; fail where the page differs from what would be written
    #[arg(long)]
    check: bool,
}

#[derive(Debug, clap::Args)]
struct StudyArgs {
    /// The experiment
    file: PathBuf,
    /// File of the study; beside the experiment's, ending in .journal, where none is named
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Name of the study; that of the experiment's file where none is given
    #[arg(long)]
    name: Option<String>,
    /// Most schedules, the baseline among them
    #[arg(long, value_name = "N")]
    most: Option<NonZeroUsize>,
}

/// What `--json` prints after runs.
#[derive(Debug, Serialize)]
struct Ran {
    file: PathBuf,
    trials: usize,
}

/// What `--json` prints after a report.
#[derive(Debug, Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Experiments, results or data that cannot be used, a disk that cannot be written, an interrupt, a page that differs.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    if let Some(Subcommand::Report(report)) = &args.command {
        return write_report(report, context);
    }
    if let Some(Subcommand::Study(study)) = &args.command {
        return write_study(study, context);
    }
    // The CPU unless a device is asked for: many small fine-tunes side by side are what it is good at.
    let device = if context.device == DeviceChoice::Auto { DeviceChoice::Cpu } else { context.device };
    if let Some(Subcommand::Trial { folder }) = &args.command {
        let record = run_in_folder(folder, &choose(device)?)?;
        return context.output.result(&record, || format!("{}\n", folder.display()));
    }
    let executor = match args.executor.settings().as_slice() {
        [] => None,
        _ => Some(args.executor.config(command(device)?)?),
    };
    let chosen = choose(device)?;
    let mut ran = Vec::new();
    for file in &args.files {
        let trials = run_experiment(file, args.resume, &chosen, executor.as_ref(), &context.output)?;
        ran.push(Ran { file: file.clone(), trials });
    }
    context.output.result(&ran, || {
        let line = |ran: &Ran| format!("{}: {} fine-tunes\n", ran.file.display(), ran.trials);
        ran.iter().map(line).collect()
    })
}

fn write_report(args: &ReportArgs, context: &Context) -> Result<()> {
    let files = page(&args.folder)?;
    if args.check {
        return check(&files, &args.out);
    }
    for (path, text) in &files {
        let path = args.out.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).or_fail(Kind::Failure, || folder.display().to_string())?;
        }
        write_file(&path, text.as_bytes())?;
    }
    let written = Written { files: files.into_keys().map(|path| args.out.join(path)).collect() };
    context.output.result(&written, || format!("{}\n", args.out.join(PAGE).display()))
}

fn write_study(args: &StudyArgs, context: &Context) -> Result<()> {
    let experiment = Experiment::read(&args.file)?;
    let config = experiment.config().or_fail(Kind::Usage, || args.file.display().to_string())?;
    let results = results_path(&args.file);
    let records = read_records(&results)?;
    let base = Base::open(&config.base_parts()?, &choose(DeviceChoice::Cpu)?.device)?;
    let stem = || args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = args.name.clone().unwrap_or_else(stem);
    let text =
        journal(&experiment, &config, &records, &base.layout, &name, args.most.map_or(usize::MAX, NonZeroUsize::get))?;
    let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("journal"));
    write_file(&out, text.as_bytes())?;
    context.output.result(&Written { files: vec![out.clone()] }, || format!("{}\n", out.display()))
}

fn check(files: &Files, out: &Path) -> Result<()> {
    for (path, text) in files {
        let path = out.join(path);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(text) {
            let message =
                format!("{} does not follow from the results; run `trainer experiment report`", path.display());
            return Err(failure(Kind::Failure, message));
        }
    }
    Ok(())
}
