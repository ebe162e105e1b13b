//! From gradient logs to a plan: finding and reading logs, and what each failure on the way means to a command.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydra_shared::gradients::{
    Fit, GradientLog, GradientProfile, Limits, LogError, LogProblem, Position, ProfileConfig, ProfileError, Wish, fit,
    profile, read_many,
};
use hydra_shared::layout::{Catalog, Layout};
use hydra_shared::schedule::{BudgetError, InputFile, Plan, PlanConfig, PlanError, plan};
use hydra_shared::stages::StageError;

use crate::error::{Kind, failure};

/// Reads files and the files directly in folders, in the order of their names, as one log.
///
/// # Errors
/// A path that does not exist, a folder without files, a log that cannot be read.
pub fn read_logs(paths: &[PathBuf]) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let limits = Limits::default();
    let mut inputs = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        for file in files_of(path)? {
            let name = file.display().to_string();
            let size = fs::metadata(&file).map_err(|error| io_error(&file, error))?.len();
            if size > limits.file_bytes {
                let problem = LogProblem::FileTooLarge { limit: limits.file_bytes };
                return Err(LogError { file: name, position: Position::File, key: None, problem });
            }
            let bytes = fs::read(&file).map_err(|error| io_error(&file, error))?;
            // The file's own name: a schedule should not tell where on a disk its log lay.
            let short = file.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
            inputs.push(InputFile::new(short, &bytes));
            files.push((name, Cursor::new(bytes)));
        }
    }
    Ok((read_many(files, &limits)?, inputs))
}

/// The paths, for messages about a log as a whole.
pub fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, LogError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let file = entry?.path();
            let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if file.is_file() && !hidden {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    };
    let files = list().map_err(|error| io_error(path, error))?;
    if files.is_empty() {
        let message = "the folder holds no files; name the folder in which the log itself lies";
        return Err(io_error(path, io::Error::new(io::ErrorKind::NotFound, message)));
    }
    Ok(files)
}

fn io_error(path: &Path, error: io::Error) -> LogError {
    LogError { file: path.display().to_string(), position: Position::File, key: None, problem: LogProblem::Io(error) }
}

/// The modules of a log that get ranks; `source` names it in messages.
///
/// # Errors
/// A log that does not fit the model, modules that cannot get a rank.
pub fn fit_of(source: &str, log: &GradientLog, catalog: &Catalog, wish: impl Fn(&str) -> Wish) -> anyhow::Result<Fit> {
    fit(log, catalog, wish).map_err(|error| profile_failure(source, error))
}

/// The profile of a log; `source` names it in messages.
///
/// # Errors
/// A warm-up share that is none; a log that does not fit the model or holds numbers that are none.
pub fn profile_of(
    source: &str,
    log: &GradientLog,
    layout: &Layout,
    config: &ProfileConfig,
) -> anyhow::Result<GradientProfile> {
    profile(log, layout, config).map_err(|error| profile_failure(source, error))
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
    let kind = match &error.problem {
        LogProblem::Io(io) if io.kind() == io::ErrorKind::StorageFull => Kind::TryAgain,
        _ => Kind::Data,
    };
    failure(kind, error)
}

fn profile_failure(source: &str, error: ProfileError) -> anyhow::Error {
    match error {
        ProfileError::WarmUpShare(_) => failure(Kind::Usage, error),
        // It names the file itself.
        ProfileError::NonFinite { .. } => {
            failure(Kind::Numerical, error.to_string().replace("skip_non_finite", "--skip-non-finite"))
        }
        ProfileError::AllNonFinite | ProfileError::Overflow { .. } => {
            failure(Kind::Numerical, format!("{source}: {error}"))
        }
        ProfileError::Experts { .. } => failure(Kind::Usage, error),
        ProfileError::NoSteps
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
