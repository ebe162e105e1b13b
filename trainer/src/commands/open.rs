//! `trainer open`: a run's profile and schedule in the playground.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydra_playground::documents::{layout_of_log, layout_of_schedule};
use hydra_playground::link::to_link;
use hydra_playground::profile_text::rounded;
use hydra_playground::session::{Session, Source, unknown_profile};
use hydra_shared::gradients::{ProfileConfig, profile, read};
use hydra_shared::schedule::{PlanConfig, RankSchedule, plan};
use serde::{Deserialize, Serialize};

use super::common::Context;
use crate::error::{Kind, ResultExt, failure};
use crate::model::spec;

/// Where a run's folder has its gradient log.
const LOG: &str = "profile/grads.jsonl";
/// Where it has its schedule.
const SCHEDULE: &str = "plan/schedule.json";
/// Where it has its configuration.
const CONFIG: &str = "config.resolved.toml";

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
    /// The model, where the run does not tell: a preset, a Hugging Face config.json, or the folder that it stands in
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
struct Document {
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
    let document = Document { link, has_profile, opened };
    context.output.result(&document, || document.link.clone())
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
    let mut session = Session { profiling: config.profile, plan: config.plan, ..Session::default() };
    let given = args.model.as_deref().map(spec::load).transpose()?.map(|config| config.layout()).transpose()?;
    match &log {
        Some(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path).or_fail(Kind::Data, || name.clone())?;
            let log = read(&name, Cursor::new(bytes)).or_fail(Kind::Data, || name.clone())?;
            let from_schedule = || schedule.as_ref().map(|schedule| layout_of_schedule(schedule, &session.layout));
            // No model is shown yet, so none is preferred.
            let known = given.or_else(from_schedule).or_else(|| layout_of_log(&log, None));
            session.layout = known.ok_or_else(|| {
                failure(Kind::Data, format!("{name}: its model is none of the presets; give --model config.json"))
            })?;
            let made = profile(&log, &session.layout, &config.profile).or_fail(Kind::Data, || name.clone())?;
            session.profile = rounded(made);
            if let (None, Some(lora)) = (&schedule, log.meta.lora) {
                session.plan.base_rank = lora.r.max(1);
            }
            let file = path.file_name().map_or_else(|| name.clone(), |file| file.to_string_lossy().into_owned());
            session.source = Source::Log(vec![file]);
        }
        None => {
            let shown = given.unwrap_or_else(|| session.layout.clone());
            if let Some(schedule) = &schedule {
                session.layout = layout_of_schedule(schedule, &shown);
            }
            session.profile = unknown_profile(&session.layout);
            session.source = Source::Unknown;
        }
    }
    if let Some(schedule) = &schedule {
        session.plan.base_rank = schedule.base_rank;
        session.plan.scale = schedule.scale;
        let planned = plan(&session.layout, &session.profile, &session.plan).ok();
        if planned.is_none_or(|plan| plan.ranks != schedule.ranks) {
            // Ranks that the plan does not give are shown as they are.
            session.by_hand = schedule.ranks.as_slice().iter().copied().enumerate().collect();
            session.plan.budget = Some(schedule.budget.allowed);
            session.plan.counting = schedule.budget.counting;
        }
    }
    Ok(session)
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
