//! `trainer study`: a search as a conversation, for callers of any language.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydra_shared::adapter::{LoraConfig, PeftOptions};
use hydra_shared::files::outside::{
    Asked, AskedTrial, EXPIRES, OutsideStudy, StudyStatus, Subject, picked_of, settings_of, status_of, still_to_tell,
};
use hydra_shared::files::trial_folder::{BadResult, TrialFolder, finite, read_scores};
use hydra_shared::json;
use hydra_shared::search::{Outcome, Search, StopReason, Study};
use indexmap::IndexMap;
use serde::Serialize;

use super::common::{Context, SubjectArgs, load_outside};
use super::search::FRESH_SEEDS;
use crate::config::Sources;
use crate::error::{Kind, ResultExt, failure};
use crate::model::spec;
use crate::output::thousands;
use crate::runs::atomic::write_file;
use crate::search::conversation::read_study;
use crate::search::drive::describe_origin;
use crate::search::searched::reason_of;

const AFTER_HELP: &str = "\
Examples:
  trainer study create s.journal --model path/to/config.json --base-rank 16 --gradients grads.jsonl
  trainer study ask s.journal --json
  trainer study tell s.journal 0 --scores '{\"vqa\": 61.5}'
  trainer study best s.journal --peft lora.json
  trainer study status s.journal

The file is Optuna's journal. Several callers may ask before any of them tells; a trial that was asked for and not told within
--expires seconds is asked again. Each trial has a folder trials/<hash>/ beside the file with lora.json and schedule.json, and
`tell` takes result.json from there where nothing else is given. Without --gradients the first trial is uniform LoRA: the others
are planned from its gradient log, which it is told with.

`ask` exits with 75 where a running trial must be told first, and says \"stopped\" where the search is over.";

/// Search over trials that you run yourself: ask for a schedule, tell its scores
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    what: What,
}

/// What is done.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Begin a study in a new file
    Create(CreateArgs),
    /// Get a trial to run
    Ask(FileArgs),
    /// Say how a trial went
    Tell(TellArgs),
    /// Print the schedule that is recommended so far
    Best(BestArgs),
    /// Count the trials
    Status(FileArgs),
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// File of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// File of the study, which is made
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// What is trained
    #[command(flatten)]
    subject: SubjectArgs,
    /// Seconds after which a trial that was asked for and not told is asked again
    #[arg(long, value_name = "SECONDS", default_value_t = EXPIRES, value_parser = clap::value_parser!(u64).range(1..))]
    expires: u64,
    /// TOML file with the configuration; its tables are profile, plan and search
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration, e.g. search.trials=24
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct TellArgs {
    /// File of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Number of the trial, as `ask` gave it
    #[arg(value_name = "TRIAL")]
    trial: usize,
    /// Its scores by task, higher being better
    #[arg(long, value_name = "JSON", conflicts_with_all = ["result", "failed"])]
    scores: Option<String>,
    /// File with {"scores": {"task": number}} [default: result.json in the trial's folder]
    #[arg(long, value_name = "FILE", conflicts_with = "failed")]
    result: Option<PathBuf>,
    /// It gave no scores, for this reason
    #[arg(long, value_name = "REASON")]
    failed: Option<String>,
    /// Gradient log of the first trial, where the study awaits it [default: gradients.jsonl in the trial's folder]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    gradients: Vec<PathBuf>,
    /// How long it took
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
}

#[derive(Debug, clap::Args)]
struct BestArgs {
    /// File of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Write PEFT's adapter configuration here
    #[arg(long, value_name = "FILE")]
    peft: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A study that is not there, is damaged, or is being written; a trial or scores that the study refuses.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    match &args.what {
        What::Create(args) => create(args, context),
        What::Ask(args) => ask(&args.study, context),
        What::Tell(args) => tell(args, context),
        What::Best(args) => best(args, context),
        What::Status(args) => status(&args.study, context),
    }
}

fn create(args: &CreateArgs, context: &Context) -> Result<()> {
    let output = &context.output;
    let set = [args.set.clone(), args.subject.settings()].concat();
    let presets = vec![FRESH_SEEDS.to_owned()];
    let resolved = load_outside(&Sources { presets, ..Sources::new(args.config.clone(), set) }, output)?;
    let subject = Subject::read(&resolved.value.subject(), spec::load_catalog(&resolved.value.model)?, output)?;
    let study = OutsideStudy::begin(&args.study, resolved.value.settings(args.expires), subject, output)?;
    let about = &study.study().metadata;
    let document = serde_json::json!({
        "study": args.study.display().to_string(),
        "modules": about.layout.len(),
        "budget": about.budget,
        "trials": resolved.value.search.trials,
        "awaits_profile": study.awaits_profile(),
    });
    output.result(&document, || {
        let first = if study.awaits_profile() { "; the first trial's gradient log becomes the profile" } else { "" };
        let (path, modules, allowed) = (args.study.display(), about.layout.len(), thousands(about.budget.allowed));
        format!("{path}: a study of {modules} modules within {allowed}{first}")
    })
}

/// What `ask` prints.
#[derive(Debug, Serialize)]
struct AskDocument {
    /// None where the search is over.
    trial: Option<AskedTrial>,
    /// Why it is over.
    stopped: Option<StopReason>,
}

fn ask(path: &Path, context: &Context) -> Result<()> {
    let mut study = open(path, context)?;
    let (trial, again) = match study.ask(&context.output)? {
        Asked::Trial(trial, again) => (trial, again),
        Asked::Done(reason) => {
            let document = AskDocument { trial: None, stopped: Some(reason) };
            return context.output.result(&document, || "the search is over".to_owned());
        }
    };
    let asked = study.asked_trial(&trial, again)?;
    let line = format!(
        "trial {} with seed {} ({})\nlora: {}\nschedule: {}\nresult: {}",
        asked.number,
        asked.seed,
        describe_origin(&trial.origin),
        asked.lora,
        asked.schedule,
        asked.result
    );
    let gradients = asked.gradients.as_ref().map(|path| format!("\ngradients: {path}")).unwrap_or_default();
    let document = AskDocument { trial: Some(asked), stopped: None };
    context.output.result(&document, || line + &gradients)
}

fn tell(args: &TellArgs, context: &Context) -> Result<()> {
    let mut study = open(&args.study, context)?;
    let trial = study.running(args.trial)?;
    if let Some(seconds) = args.seconds.filter(|seconds| !(seconds.is_finite() && *seconds >= 0.0)) {
        return Err(failure(Kind::Usage, format!("--seconds {seconds} is no time; give 0 or more")));
    }
    let folder = study.settings().folder(&study.trials(), &trial)?;
    let awaits = study.awaits_profile();
    if awaits && args.failed.is_some() {
        study.let_go(trial.number)?;
        let document = serde_json::json!({ "trial": trial.number, "state": "asked again" });
        return context.output.result(&document, || {
            let why = "its gradient log is what the other schedules are planned from";
            format!("trial {} is asked again: {why}", trial.number)
        });
    }
    let outcome = match &args.failed {
        Some(reason) => Outcome::Failed { error: reason.clone(), wall_seconds: args.seconds },
        None => Outcome::Complete { scores: scores(args, &folder)?, wall_seconds: args.seconds },
    };
    let mut gradients = args.gradients.clone();
    if awaits && gradients.is_empty() && folder.gradients().exists() {
        gradients.push(folder.gradients());
    } else if !awaits && !gradients.is_empty() {
        let message = "--gradients has no effect: the study has its profile already; leave it out";
        return Err(failure(Kind::Usage, message));
    }
    let told = study
        .tell(trial.number, outcome, &gradients, &context.output)
        .map_err(|error| still_to_tell(trial.number, error))?;
    let told = told.clone();
    let best = study.study().best();
    let document = serde_json::json!({
        "trial": told.number,
        "state": told.state,
        "mean": told.objective,
        "scores": told.scores,
        "best": best.map(|best| serde_json::json!({ "trial": best.number, "mean": best.objective })),
    });
    context.output.result(&document, || crate::search::drive::describe(&told))
}

/// The scores that are told: as given, or from a file.
fn scores(args: &TellArgs, folder: &TrialFolder) -> Result<IndexMap<String, f64>> {
    let refused = |place: String| {
        let number = args.trial;
        move |BadResult { kind, problem, .. }: BadResult| {
            failure(kind, format!("trial {number}: {place} {problem}; tell finite scores, or --failed REASON"))
        }
    };
    match &args.scores {
        Some(text) => {
            let scores: IndexMap<String, Option<f64>> =
                json::from_str(text).or_fail(Kind::Usage, || "--scores is not {\"task\": number, …}")?;
            finite(scores).map_err(refused("--scores".to_owned()))
        }
        None => {
            let path = args.result.clone().unwrap_or_else(|| folder.result());
            read_scores(&path).map_err(refused(path.display().to_string()))
        }
    }
}

fn best(args: &BestArgs, context: &Context) -> Result<()> {
    let (record, study) = read(&args.study)?;
    let settings = settings_of(&args.study, Some(&record))?;
    let pick = Search::new(settings.search, study.clone(), Vec::new())?.pick();
    let best = picked_of(&study, pick.as_ref())?;
    let schedule = settings.schedule(best)?;
    if let Some(path) = &args.peft {
        let options = PeftOptions { base_model: None, dropout: settings.dropout };
        write_file(path, LoraConfig::new(&schedule, &options).for_training().to_json()?.as_bytes())?;
    }
    let origin = describe_origin(&best.origin);
    let reason = pick.as_ref().map(reason_of).unwrap_or_default();
    let score = best.objective.unwrap_or(f64::NAN);
    context.output.note(format_args!("trial {} with {score} ({origin}): {reason}", best.number));
    let text = schedule.to_json()?;
    let document = serde_json::json!({
        "trial": best.number,
        "mean": best.objective,
        "scores": best.scores,
        "origin": best.origin,
        "reason": reason,
        "basis": pick.map(|pick| pick.basis),
        "last_round": pick.and_then(|pick| pick.last_round),
        "schedule": schedule,
        "peft": args.peft.as_ref().map(|path| path.display().to_string()),
    });
    context.output.result(&document, || text)
}

fn status(path: &Path, context: &Context) -> Result<()> {
    let (record, study) = read(path)?;
    let document = status_of(path, &record, &study);
    context.output.result(&document, || {
        let StudyStatus { trials, replicates, complete, failed, running, expired, waiting, .. } = &document;
        let most = document.most.map(|most| format!(" of {most}")).unwrap_or_default();
        let best = document.best.as_ref().map(|best| {
            format!("\nthe best is trial {} with {}", best.trial, best.mean.unwrap_or(f64::NAN))
        });
        format!(
            "{trials}{most} trials and {replicates} replicates: {complete} complete, {failed} failed, {running} running ({expired} expired), {waiting} in \
             the queue{}",
            best.unwrap_or_default()
        )
    })
}

/// The study to speak with.
fn open(path: &Path, context: &Context) -> Result<OutsideStudy> {
    // Opening would make it.
    if !path.is_file() {
        return Err(nothing(path));
    }
    OutsideStudy::open(path, &context.output)?.ok_or_else(|| nothing(path))
}

/// The study to look at.
fn read(path: &Path) -> Result<(hydra_shared::search::JournalStudy, Study)> {
    read_study(path)?.ok_or_else(|| nothing(path))
}

fn nothing(path: &Path) -> anyhow::Error {
    failure(Kind::Data, format!("{}: there is no study; begin one with `trainer study create`", path.display()))
}
