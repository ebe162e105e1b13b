//! From gradient logs to a plan: finding and reading logs, and what each failure on the way means to a command.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Kind, failure};
use super::spec::Described;
use crate::gradients::{
    AIM, AIM_FOLDER, DEEPEST, Fit, GradientLog, GradientProfile, LAST_VALUES, Limits, LogError, LogFile, LogProblem,
    MOST_FILES, OutsidePart, Position, ProfileConfig, ProfileError, Wish, Wishes, fit, fit_notes, is_hidden,
    is_read_first, may_be_log, outside_parts, outside_text, profile, read_files, reading_order, with_write_ahead_log,
};
use crate::layout::{Catalog, Layout};
use crate::names::first_names;
use crate::schedule::{BudgetError, InputFile, Plan, PlanConfig, PlanError, plan};
use crate::stages::StageError;

/// Reads files and folders as one log. Of a folder the files directly in it are read, in the order of their names; where they
/// hold no gradients, those of the folders below it are, too. `run` is the run to take where there are several.
///
/// # Errors
/// A path that does not exist, a folder without files, a log that cannot be read, several runs of which none was asked for.
pub fn read_logs(paths: &[PathBuf], run: Option<&str>) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let direct = read_found(paths, run, 0);
    let may_lie_deeper = matches!(&direct, Err(error) if error.problem.may_lie_deeper());
    let below = may_lie_deeper && paths.iter().any(|path| has_folders(path));
    if below { read_found(paths, run, DEEPEST) } else { direct }
}

fn read_found(paths: &[PathBuf], run: Option<&str>, depth: usize) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let limits = Limits::default();
    let mut inputs = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        for FoundFile { path: file, below } in files_of(path, depth)? {
            let name = file.display().to_string();
            let size = fs::metadata(&file).map_err(|error| io_error(&file, error))?.len();
            if size > limits.file_bytes {
                let problem = LogProblem::FileTooLarge { limit: limits.file_bytes };
                return Err(LogError { file: name, position: Position::File, key: None, problem });
            }
            let bytes = fs::read(&file).map_err(|error| io_error(&file, error))?;
            // Its place below what was given: a schedule should not tell where on a disk its log lay.
            inputs.push(InputFile::new(below.clone(), &bytes));
            let folder = below.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            files.push(LogFile { name, folder, reader: Cursor::new(with_log(&file, bytes)) });
        }
    }
    files.sort_by_key(|file| !is_read_first(&file.name));
    Ok((read_files(files, &limits, run)?, inputs))
}

/// The bytes of a database with what its write-ahead log holds, which SQLite keeps beside it while it is open.
fn with_log(file: &Path, bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.starts_with(b"SQLite format 3\0") {
        return bytes;
    }
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    match fs::read(log) {
        Ok(log) => with_write_ahead_log(bytes, &log),
        Err(_) => bytes,
    }
}

/// The paths, for messages about a log as a whole.
pub fn names(paths: &[PathBuf]) -> String {
    first_names(paths.iter().map(|path| path.display()))
}

/// A file that may be a log.
struct FoundFile {
    path: PathBuf,
    /// Its path below the folder that was given, with `/` between the parts; its name, where it was given itself.
    below: String,
}

fn has_folders(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())))
}

fn files_of(path: &Path, depth: usize) -> Result<Vec<FoundFile>, LogError> {
    if !path.is_dir() {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        return Ok(vec![FoundFile { path: path.to_owned(), below: name }]);
    }
    if path.join(AIM_FOLDER).is_dir() || path.file_name().is_some_and(|name| name == AIM_FOLDER) {
        return Err(io_error(path, io::Error::new(io::ErrorKind::Unsupported, AIM)));
    }
    let mut files = Vec::new();
    // What was asked for by its folder is read, whatever it is called.
    let is_read = |name: &str| depth == 0 || may_be_log(name);
    walk(path, "", depth, &is_read, &mut files).map_err(|error| io_error(path, error))?;
    files.sort_by(|a, b| reading_order(&a.below, &b.below));
    if files.is_empty() && !has_folders(path) {
        let message = "the folder holds no files; name the folder in which the log itself lies";
        return Err(io_error(path, io::Error::new(io::ErrorKind::NotFound, message)));
    }
    Ok(files)
}

/// Files of a folder, and of the folders in it down to a depth. Links to folders are not followed: trackers link to the
/// latest run.
fn walk(
    path: &Path,
    folder: &str,
    depth: usize,
    is_read: &impl Fn(&str) -> bool,
    found: &mut Vec<FoundFile>,
) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let (last, all) = LAST_VALUES;
        if is_hidden(&name) || (name == last && path.with_file_name(all).is_dir()) {
            continue;
        }
        let below = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if path.is_file() {
            if is_read(&name) {
                found.push(FoundFile { path, below });
            }
        } else if depth > 0 && entry.file_type()?.is_dir() {
            walk(&path, &below, depth - 1, is_read, found)?;
        }
    }
    if found.len() > MOST_FILES {
        return Err(io::Error::other(format!("it holds more than {MOST_FILES} files; name the folder of one run")));
    }
    Ok(())
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
/// As [`read_logs`], [`fit_of`] and [`profile_of`]; an expression that has no effect.
pub fn profile_model(from: &Profiling<'_>, model: Described) -> anyhow::Result<Profiled> {
    let (log, inputs) = read_logs(from.paths, from.run).map_err(from.failure)?;
    let mut notes = model.notes;
    notes.extend(log.report.all_notes());
    let source = names(from.paths);
    let fit = fit_of(&source, &log, &model.catalog, |name| from.wishes.of(name))?;
    from.wishes.check().map_err(|error| failure(Kind::Usage, error))?;
    notes.extend(fit_notes(&fit, &model.catalog));
    let Fit { layout, outside, .. } = fit;
    let outside = outside_parts(&outside, log.meta.lora.map_or(from.base_rank, |lora| lora.r));
    let profile = profile_of(&source, &log, &layout, from.config)?;
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
