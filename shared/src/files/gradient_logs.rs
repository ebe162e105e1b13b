//! From gradient logs to a plan: finding and reading logs, and what each failure on the way means to a command.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Kind, failure};
use super::log_files::read_logs;
use super::spec::Described;
use crate::gradients::{
    Fit, GradientLog, GradientProfile, LogError, LogProblem, OutsidePart, ProfileConfig, ProfileError, Summing, Wish,
    Wishes, fit, fit_notes, outside_parts, outside_text, profile,
};
use crate::layout::{Catalog, Layout};
use crate::names::first_names;
use crate::schedule::{BudgetError, InputFile, Plan, PlanConfig, PlanError, plan};
use crate::stages::StageError;

/// The paths, for messages about a log as a whole.
pub fn names(paths: &[PathBuf]) -> String {
    first_names(paths.iter().map(|path| path.display()))
}

/// The modules of a log that get ranks; `source` names it in messages.
///
/// # Errors
/// A log that does not fit the model, modules that cannot get a rank.
pub fn fit_of(source: &str, log: &GradientLog, catalog: &Catalog, wish: impl Fn(&str) -> Wish) -> anyhow::Result<Fit> {
    fit(log, catalog, wish).map_err(|error| profile_failure(source, error))
}

/// A log, and where it was read.
pub struct ReadLogs<'a> {
    paths: &'a [PathBuf],
    run: Option<&'a str>,
    failure: fn(LogError) -> anyhow::Error,
    /// The log.
    pub log: GradientLog,
    /// Its files.
    pub inputs: Vec<InputFile>,
}

impl<'a> ReadLogs<'a> {
    /// Reads files and folders as one log, of which profiles as `config` says are likely to be made. Of a folder the files directly
    /// in it are read, in the order of their names; where they hold no gradients, those of the folders below it are, too. `run` is
    /// the run to take where there are several, `failure` what a log means that cannot be read.
    ///
    /// # Errors
    /// A path that does not exist, a folder without files, a log that cannot be read, several runs of which none was asked for.
    pub fn read(
        paths: &'a [PathBuf],
        run: Option<&'a str>,
        config: &ProfileConfig,
        failure: fn(LogError) -> anyhow::Error,
    ) -> anyhow::Result<Self> {
        let (log, inputs) =
            read_logs(paths, run, &|ends| Summing::norms(config.warm_up_share, ends)).map_err(failure)?;
        Ok(Self { paths, run, failure, log, inputs })
    }

    /// The log's profile. Where norms were not kept and summed up for another one, the log is read again.
    ///
    /// # Errors
    /// A warm-up share that is none; a log that does not fit the model or holds numbers that are none.
    pub fn profile(&mut self, layout: &Layout, config: &ProfileConfig) -> anyhow::Result<GradientProfile> {
        // A file that is written meanwhile may have other last steps each time.
        for _ in 0..MOST_READINGS {
            match profile(&self.log, layout, config) {
                Err(ProfileError::Again(summing)) => {
                    (self.log, self.inputs) =
                        read_logs(self.paths, self.run, &|_| summing.as_ref().clone()).map_err(self.failure)?;
                }
                made => return made.map_err(|error| profile_failure(&names(self.paths), error)),
            }
        }
        Err(failure(Kind::Data, format!("{}: the log changes while it is read; copy it first", names(self.paths))))
    }
}

/// Times that a log is read before it is given up.
const MOST_READINGS: usize = 4;

/// What a profile is read from.
pub struct Profiling<'a> {
    /// Files and folders of the log.
    pub paths: &'a [PathBuf],
    /// The run to take, where there are several.
    pub run: Option<&'a str>,
    /// What a log that cannot be read means.
    pub failure: fn(LogError) -> anyhow::Error,
    /// Which modules are wanted.
    pub wishes: &'a Wishes,
    /// From norms to the profile.
    pub config: &'a ProfileConfig,
    /// Rank of the modules outside the decoder, where the log does not say it.
    pub base_rank: u32,
}

/// A log, the modules of the model that it gives ranks to, and their profile.
pub struct Profiled {
    /// The modules.
    pub layout: Arc<Layout>,
    /// What the log holds besides.
    pub outside: Vec<OutsidePart>,
    /// The log.
    pub log: GradientLog,
    /// Its files.
    pub inputs: Vec<InputFile>,
    /// The profile.
    pub profile: GradientProfile,
    /// What was read otherwise than one might think.
    pub notes: Vec<String>,
}

/// Reads a log as the profile of a model.
///
/// # Errors
/// As [`ReadLogs::read`], [`fit_of`] and [`ReadLogs::profile`]; an expression that has no effect.
pub fn profile_model(from: &Profiling<'_>, model: Described) -> anyhow::Result<Profiled> {
    let mut logs = ReadLogs::read(from.paths, from.run, from.config, from.failure)?;
    let mut notes = model.notes;
    notes.extend(logs.log.report.all_notes());
    let fit = fit_of(&names(from.paths), &logs.log, &model.catalog, |name| from.wishes.of(name))?;
    from.wishes.check().map_err(|error| failure(Kind::Usage, error))?;
    notes.extend(fit_notes(&fit, &model.catalog));
    let Fit { layout, outside, .. } = fit;
    let outside = outside_parts(&outside, logs.log.meta.lora.map_or(from.base_rank, |lora| lora.r));
    let profile = logs.profile(&layout, from.config)?;
    let ReadLogs { log, inputs, .. } = logs;
    Ok(Profiled { layout, outside, log, inputs, profile, notes })
}

/// What is said of modules that a log holds and nobody plans; none where there are none.
pub fn outside_warning(outside: &[OutsidePart]) -> Option<String> {
    let text = outside_text(outside)?;
    Some(format!(
        "{text}; --include REGEX plans such modules, too, --exclude REGEX leaves them out without this warning"
    ))
}

/// The plan of the configured kind; `source` names the profile's log in messages, `seed` is that of a random schedule.
///
/// # Errors
/// Choices that cannot be met, a budget that is too small.
pub fn plan_of(
    source: &str,
    profile: &GradientProfile,
    layout: &Arc<Layout>,
    config: &PlanConfig,
    seed: u64,
) -> anyhow::Result<Plan> {
    plan(layout, profile, config)
        .and_then(|plan| plan.of_kind(layout, profile, config, seed))
        .map_err(|error| plan_failure(source, error))
}

/// What a log that cannot be read means to a command.
pub fn log_failure(error: LogError) -> anyhow::Error {
    failure(log_failure_kind(&error), error)
}

fn log_failure_kind(error: &LogError) -> Kind {
    match &error.problem {
        LogProblem::Io(io) if io.kind() == io::ErrorKind::StorageFull => Kind::TryAgain,
        LogProblem::SeveralRuns(_) | LogProblem::NoSuchRun { .. } => Kind::Usage,
        _ => Kind::Data,
    }
}

/// [`log_failure`] of a log that a configuration names, whose run is a setting and no flag.
pub fn configured_log_failure(error: LogError) -> anyhow::Error {
    let several = matches!(error.problem, LogProblem::SeveralRuns(_));
    let kind = log_failure_kind(&error);
    if several {
        failure(kind, error.to_string().replace("--run NAME", "--set gradients_run=NAME"))
    } else {
        failure(kind, error)
    }
}

fn profile_failure(source: &str, error: ProfileError) -> anyhow::Error {
    match error {
        ProfileError::WarmUpShare(_) => failure(Kind::Usage, error),
        // It names the file itself.
        ProfileError::NonFinite { .. } => {
            failure(Kind::Numerical, error.to_string().replace("skip_non_finite", "--skip-non-finite"))
        }
        ProfileError::AllNonFinite | ProfileError::AllZero | ProfileError::Overflow { .. } => {
            failure(Kind::Numerical, format!("{source}: {error}"))
        }
        ProfileError::Experts { .. } => failure(Kind::Usage, error),
        ProfileError::NoSteps
        | ProfileError::Again(_)
        | ProfileError::Modules { .. }
        | ProfileError::NoModules { .. }
        | ProfileError::UnknownShape { .. }
        | ProfileError::Layout(_)
        | ProfileError::HalfLogged { .. }
        | ProfileError::UnknownRank { .. } => failure(Kind::Data, format!("{source}: {error}")),
    }
}

fn plan_failure(source: &str, error: PlanError) -> anyhow::Error {
    let kind = match &error {
        PlanError::Profile { .. } | PlanError::Budget(BudgetError::Length { .. }) => Kind::Data,
        PlanError::Norm { .. }
        | PlanError::Stages(StageError::BadNorm { .. } | StageError::KMeans(_))
        | PlanError::Budget(BudgetError::NotFinite { .. }) => Kind::Numerical,
        PlanError::Budget(BudgetError::TooSmall { .. } | BudgetError::NoUnit { .. }) => Kind::Budget,
        PlanError::BaseRank
        | PlanError::Stages(_)
        | PlanError::Ranks { .. }
        | PlanError::Budget(BudgetError::NoRoom { .. }) => Kind::Usage,
    };
    match kind {
        Kind::Data | Kind::Numerical => failure(kind, format!("{source}: {error}")),
        _ => failure(kind, error),
    }
}
