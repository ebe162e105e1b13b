//! `trainer open`: a run's profile and schedule in the playground.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use hydra_playground::intake::{Run, RunError};
use hydra_playground::link::to_link;
use hydra_playground::session::Session;
use hydra_shared::gradients::{GradientLog, ProfileConfig, read};
use hydra_shared::schedule::{PlanConfig, RankSchedule};
use serde::{Deserialize, Serialize};

use super::common::Context;
use crate::config::RESOLVED_FILE;
use crate::error::{Kind, ResultExt, failure};
use crate::model::spec;

/// Where a run's folder has its gradient log.
const LOG: &str = "profile/grads.jsonl";
/// Where it has its schedule.
const SCHEDULE: &str = "plan/schedule.json";
/// Where it has its configuration.
const CONFIG: &str = RESOLVED_FILE;

const AFTER_HELP: &str = "\
Examples:
  trainer open runs/search-001
  trainer open schedule.json --print
  trainer open runs/profile-001 --page https://example.org/hydra/

The link holds the profile and the choices themselves: the page needs nothing else, and sends nothing anywhere. Without
--page it leads to the page that scripts/serve serves on this machine.";

/// Open a run's profile and schedule in the playground
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Run folder, gradient log, or schedule
    #[arg(value_name = "RUN|FILE")]
    pub run: PathBuf,
    /// The model, where the run does not tell: a preset, a Hugging Face config.json, a checkpoint, or the folder
    /// that either stands in
    #[arg(long, value_name = "PRESET|FILE")]
    pub model: Option<String>,
    /// Address of the playground
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/", env = "HYDRA_PLAYGROUND")]
    pub page: String,
    /// Print the link alone, open nothing
    #[arg(long)]
    pub print: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Opening {
    link: String,
    has_profile: bool,
    opened: bool,
}

/// What matters here of a run's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunConfig {
    profile: ProfileConfig,
    plan: PlanConfig,
}

/// Runs the command.
///
/// # Errors
/// A path that holds neither a gradient log nor a schedule, files that are damaged, a model that is not known.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let session = session_of(args)?;
    let (link, has_profile) = to_link(&session, &BTreeMap::new());
    if !has_profile {
        context.output.warn("the profile is too large for a link: drop the gradient log onto the page");
    }
    let link = format!("{}#{link}", args.page.split('#').next().unwrap_or_default());
    let mut opened = false;
    if !args.print && !context.output.json() {
        match opener::open_browser(&link) {
            Ok(()) => opened = true,
            Err(error) => {
                context.output.warn(format_args!("no browser could be opened ({error}); open the link yourself"));
            }
        }
    }
    let opening = Opening { link, has_profile, opened };
    context.output.result(&opening, || opening.link.clone())
}

fn session_of(args: &Args) -> Result<Session> {
    let place = args.run.display();
    let (log, schedule, config) = if args.run.is_dir() {
        let existing = |file: &str| Some(args.run.join(file)).filter(|path| path.is_file());
        (existing(LOG), existing(SCHEDULE), existing(CONFIG))
    } else if text_of(&args.run)?.contains("\"hydra_schedule\"") {
        (None, Some(args.run.clone()), None)
    } else {
        (Some(args.run.clone()), None, None)
    };
    if log.is_none() && schedule.is_none() {
        let message =
            format!("{place}: holds neither {LOG} nor {SCHEDULE}; name a run of trainer profile, search or demo");
        return Err(failure(Kind::Data, message));
    }
    let config: RunConfig = match &config {
        Some(path) => toml::from_str(&text_of(path)?).or_fail(Kind::Data, || path.display().to_string())?,
        None => RunConfig { plan: PlanConfig::default(), ..RunConfig::default() },
    };
    let schedule = match &schedule {
        Some(path) => {
            Some(RankSchedule::from_json(&text_of(path)?).or_fail(Kind::Data, || path.display().to_string())?)
        }
        None => None,
    };
    let layout = args.model.as_deref().map(spec::load_catalog).transpose()?;
    let layout = layout.map(|model| Arc::clone(model.catalog.decoder()));
    // Only a log can be of a model that is not known, or without a profile.
    let about = log.as_deref().map_or_else(String::new, |path| path.display().to_string());
    let log = log.as_deref().map(log_of).transpose()?;
    let run = Run { layout, log, schedule, profiling: config.profile, plan: config.plan };
    match Session::of_run(run) {
        Err(error @ RunError::UnknownModel) => {
            Err(failure(Kind::Data, format!("{about}: {error}; give --model config.json")))
        }
        made => made.or_fail(Kind::Data, || about),
    }
}

/// A gradient log, with its file's name.
fn log_of(path: &Path) -> Result<(String, GradientLog)> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).or_fail(Kind::Data, || name.clone())?;
    let log = read(&name, Cursor::new(bytes)).or_fail(Kind::Data, || name.clone())?;
    let file = path.file_name().map_or(name, |file| file.to_string_lossy().into_owned());
    Ok((file, log))
}

fn text_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).or_fail(Kind::Data, || format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use hydra_playground::link::from_link;

    use super::*;
    use crate::error::{kind_of, message_of};

    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/samples");

    fn args(run: impl Into<PathBuf>) -> Args {
        Args { run: run.into(), model: None, page: String::new(), print: true }
    }

    #[test]
    fn the_link_of_a_log_leads_to_the_ranks_that_trainer_plan_gives() {
        let session = session_of(&args(format!("{SAMPLES}/grad-norms.jsonl.gz"))).unwrap();
        assert_eq!(session.layout.model(), "smollm2-135m");
        let (link, whole) = to_link(&session, &BTreeMap::new());
        assert!(whole);
        let opened = from_link(&link);
        assert_eq!(opened.notices, Vec::<String>::new());
        assert_eq!(opened.session, session);
    }

    #[test]
    fn a_schedule_whose_ranks_no_plan_gives_is_shown_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut session = Session::of_sample(hydra_playground::samples::Sample::TinyMobileVlm);
        session.by_hand.insert(3, 1);
        let analysis = hydra_playground::analysis::Analysis::new(&session).unwrap();
        let schedule = hydra_playground::export::schedule(&session, &analysis, "").unwrap();
        let file = folder.path().join("schedule.json");
        std::fs::write(&file, schedule.to_json().unwrap()).unwrap();
        let opened = session_of(&args(&file)).unwrap();
        assert_eq!(opened.layout, session.layout);
        let shown = hydra_playground::analysis::Analysis::new(&opened).unwrap();
        assert_eq!(shown.ranks, analysis.ranks);
    }

    #[test]
    fn a_folder_that_is_no_run_says_which_are() {
        let folder = tempfile::tempdir().unwrap();
        let error = session_of(&args(folder.path())).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Data);
        assert!(message_of(&error).contains("holds neither profile/grads.jsonl nor plan/schedule.json"));
    }
}
