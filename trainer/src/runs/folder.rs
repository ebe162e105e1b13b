//! The folder of one run, whole in itself and movable.
//!
//! ```text
//! runs/<name>/
//!   config.user.toml  config.resolved.toml  cmd.txt  env.json  run.json  run.lock
//!   profile/  plan/  search/  checkpoints/  logs/  eval/  adapter/  report.html
//! ```
//! The trainer writes no absolute path into it; `cmd.txt` repeats what the user typed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use hydra_shared::shell::trainer_command;
use serde::{Deserialize, Serialize};

use super::atomic::{self, write_file, write_json};
use super::checkpoint::CheckpointStore;
use super::lock::RunLock;
use super::time::utc_now;
use crate::config::RESOLVED_FILE;
use crate::error::{Kind, failure};

/// Where run folders are made unless `--runs` says otherwise.
pub const DEFAULT_ROOT: &str = "runs";

const RUN_FILE: &str = "run.json";

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// A process works on it, or died while it did (the lock tells which).
    Running,
    /// It ended well.
    Done,
    /// It ended with an error.
    Failed,
    /// It was interrupted and can be resumed.
    Interrupted,
}

/// What `run.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this file's layout.
    pub hydra_run: u32,
    /// The command that made the run: `demo`, `search`, `train`, …
    pub command: String,
    /// State at the last write.
    pub status: RunStatus,
    /// When the run was first started (UTC).
    pub started: String,
    /// When it was last started or resumed (UTC).
    pub resumed: Option<String>,
    /// When it ended (UTC).
    pub ended: Option<String>,
    /// The error, where it failed.
    pub error: Option<String>,
}

/// What `env.json` holds: enough to know where a number came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Version of the trainer.
    pub trainer: String,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors that this process may use.
    pub cpus: usize,
    /// Cargo features of this build.
    pub features: Vec<String>,
}

impl Environment {
    /// This process's.
    pub fn current() -> Self {
        let features = [
            ("wgpu", cfg!(feature = "wgpu")),
            ("vulkan", cfg!(feature = "vulkan")),
            ("autotune", cfg!(feature = "autotune")),
            ("fusion", cfg!(feature = "fusion")),
            ("simd", cfg!(feature = "simd")),
        ];
        Self {
            trainer: env!("CARGO_PKG_VERSION").to_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            features: features.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect(),
        }
    }
}

/// A run folder that this process holds.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    record: RunRecord,
    _lock: RunLock,
}

impl RunFolder {
    /// Makes a run folder in `root`: with the given name, or `<command>-001` and counting.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that is no plain folder name or is taken; a folder that cannot be made.
    pub fn create(root: &Path, name: Option<&str>, command: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let path = match name {
            Some(name) => make_named(root, name)?,
            None => make_numbered(root, command)?,
        };
        let lock = RunLock::take(&path)?;
        let record = RunRecord {
            hydra_run: 1,
            command: command.to_owned(),
            status: RunStatus::Running,
            started: utc_now(),
            resumed: None,
            ended: None,
            error: None,
        };
        let run = Self { path, record, _lock: lock };
        run.write_record()?;
        Ok(run)
    }

    /// Opens a run to go on with it, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// [`Kind::Data`] where `path` is no run folder or was made by another command, [`Kind::TryAgain`] where another
    /// process holds it.
    pub fn resume(path: &Path, command: &str) -> anyhow::Result<Self> {
        let mut record = read_record(path)?;
        if record.command != command {
            return Err(failure(
                Kind::Usage,
                format!(
                    "{} was made by `trainer {}`; resume it with that command, not with `trainer {command}`",
                    path.display(),
                    record.command
                ),
            ));
        }
        let lock = RunLock::take(path)?;
        for folder in [path.to_owned(), path.join("checkpoints"), path.join("search")] {
            for leftover in atomic::clean_leftovers(&folder)? {
                tracing::info!("cleaned up {}", leftover.display());
            }
        }
        record.status = RunStatus::Running;
        record.resumed = Some(utc_now());
        record.ended = None;
        record.error = None;
        let run = Self { path: path.to_owned(), record, _lock: lock };
        run.write_record()?;
        Ok(run)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state at the last write.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// A file or folder inside; the folder that it stands in is made.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn file(&self, relative: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        Ok(path)
    }

    /// The run's checkpoints.
    pub fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(self.path.join("checkpoints"))
    }

    /// Writes `config.user.toml` (where there was a file), `config.resolved.toml`, `cmd.txt` and `env.json`.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn describe(
        &self,
        user_config: Option<&str>,
        resolved_config: &str,
        arguments: &[String],
    ) -> anyhow::Result<()> {
        if let Some(text) = user_config {
            write_file(&self.path.join("config.user.toml"), text.as_bytes())?;
        }
        write_file(&self.path.join(RESOLVED_FILE), resolved_config.as_bytes())?;
        write_file(&self.path.join("cmd.txt"), command_line(arguments).as_bytes())?;
        write_json(&self.path.join("env.json"), &Environment::current())
    }

    /// Ends the run: done, or failed, or interrupted, as the result of the command says.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn finish<T>(mut self, result: &anyhow::Result<T>) -> anyhow::Result<()> {
        self.record.ended = Some(utc_now());
        match result {
            Ok(_) => self.record.status = RunStatus::Done,
            Err(error) if crate::error::kind_of(error) == Kind::Interrupted => {
                self.record.status = RunStatus::Interrupted;
            }
            Err(error) => {
                self.record.status = RunStatus::Failed;
                self.record.error = Some(crate::error::message_of(error));
            }
        }
        self.write_record()
    }

    fn write_record(&self) -> anyhow::Result<()> {
        write_json(&self.path.join(RUN_FILE), &self.record)
    }
}

/// Reads the `run.json` of a folder without taking its lock.
///
/// # Errors
/// [`Kind::Data`] where it is no run folder.
pub fn read_record(path: &Path) -> anyhow::Result<RunRecord> {
    let file = path.join(RUN_FILE);
    let text = fs::read_to_string(&file).map_err(|error| {
        failure(Kind::Data, format!("{} is not a run folder: cannot read {RUN_FILE}: {error}", path.display()))
    })?;
    serde_json::from_str(&text).map_err(|error| failure(Kind::Data, format!("{} is broken: {error}", file.display())))
}

fn make_named(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let plain = !name.starts_with('.') && Path::new(name).file_name().is_some_and(|file| file == name);
    if !plain {
        return Err(failure(Kind::Usage, format!("\"{name}\" cannot be a run name: give a plain folder name")));
    }
    let path = root.join(name);
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(failure(
            Kind::Usage,
            format!("{} exists already; go on with it by --resume, or choose another name", path.display()),
        )),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

fn make_numbered(root: &Path, command: &str) -> anyhow::Result<PathBuf> {
    for number in 1_u64.. {
        let path = root.join(format!("{command}-{number:03}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    Err(failure(Kind::Failure, format!("{} has no free run number", root.display())))
}

/// The command as a line for a shell.
fn command_line(arguments: &[String]) -> String {
    trainer_command(arguments) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;

    #[test]
    fn runs_without_a_name_are_numbered() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3)
            .map(|_| {
                let run = RunFolder::create(root.path(), None, "demo").unwrap();
                run.path().file_name().unwrap().to_string_lossy().into_owned()
            })
            .collect();
        assert_eq!(names, ["demo-001", "demo-002", "demo-003"]);
    }

    #[test]
    fn a_taken_or_impossible_name_is_a_usage_error_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(RunFolder::create(root.path(), Some("a"), "demo").unwrap());
        let before = fs::read(root.path().join("a/run.json")).unwrap();
        for name in ["a", "../b", "c/d", "", ".", "..", ".hidden"] {
            let error = RunFolder::create(root.path(), Some(name), "demo").unwrap_err();
            assert_eq!(kind_of(&error), Kind::Usage, "{name}");
        }
        assert_eq!(fs::read(root.path().join("a/run.json")).unwrap(), before);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_can_be_moved_and_resumed_and_records_how_it_ended() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::create(root.path(), Some("a"), "train").unwrap();
        run.describe(None, "steps = 1\n", &["/somewhere/trainer".to_owned(), "train".to_owned()]).unwrap();
        run.finish::<()>(&Err(crate::interrupt::interrupted("trainer train --resume"))).unwrap();
        let moved = root.path().join("elsewhere");
        fs::rename(root.path().join("a"), &moved).unwrap();
        assert_eq!(read_record(&moved).unwrap().status, RunStatus::Interrupted);

        fs::write(moved.join(".tmp-half"), b"").unwrap();
        let run = RunFolder::resume(&moved, "train").unwrap();
        assert_eq!(run.record().status, RunStatus::Running);
        assert!(!moved.join(".tmp-half").exists());
        run.finish(&Ok(())).unwrap();
        let record = read_record(&moved).unwrap();
        assert_eq!(record.status, RunStatus::Done);
        assert!(record.resumed.is_some() && record.ended.is_some());
    }

    #[test]
    fn nothing_that_the_trainer_writes_names_an_absolute_path() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::create(root.path(), Some("a"), "train").unwrap();
        run.describe(Some("steps = 1\n"), "steps = 1\n", &["/somewhere/trainer".to_owned()]).unwrap();
        let root_text = root.path().to_string_lossy().into_owned();
        for entry in fs::read_dir(run.path()).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains(&root_text) && !text.contains("/somewhere"), "{text}");
        }
    }

    #[test]
    fn a_run_is_resumed_only_by_the_command_that_made_it() {
        let root = tempfile::tempdir().unwrap();
        drop(RunFolder::create(root.path(), Some("a"), "train").unwrap());
        let error = RunFolder::resume(&root.path().join("a"), "search").unwrap_err();
        assert!(error.to_string().contains("`trainer train`"), "{error}");
        let error = RunFolder::resume(root.path(), "train").unwrap_err();
        assert_eq!(kind_of(&error), Kind::Data);
    }

    #[test]
    fn a_run_that_is_being_written_cannot_be_resumed() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::create(root.path(), Some("a"), "train").unwrap();
        assert_eq!(kind_of(&RunFolder::resume(run.path(), "train").unwrap_err()), Kind::TryAgain);
    }

    #[test]
    fn the_command_line_can_be_pasted_into_a_shell() {
        let arguments = ["x/trainer", "plan", "--set", "a=b c", "it's"].map(str::to_owned);
        assert_eq!(command_line(&arguments), "trainer plan --set 'a=b c' 'it'\\''s'\n");
    }
}
