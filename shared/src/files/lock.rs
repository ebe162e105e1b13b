//! One process writes into a run folder, or into a study's file, at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::error::{Kind, failure};
use super::time::utc_now;

/// Name of the lock file in a run folder. It stays there when the run ends: what counts is the lock on it, which the
/// system drops together with the process.
pub const LOCK_FILE: &str = "run.lock";
/// How the lock of a single file is called, after the file. Not `.lock`: that is Optuna's own, for a journal.
const BESIDE: &str = ".hydra-lock";
/// Time between two looks at a lock that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Holds a run folder, or a file, for as long as it lives.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Who holds a run.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    since: String,
}

impl RunLock {
    /// Takes the lock of a run folder.
    ///
    /// # Errors
    /// [`Kind::TryAgain`] where another process holds it; the message says which.
    pub fn take(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LOCK_FILE);
        Self::try_take(&path)?.ok_or_else(|| held(folder, &path, ", or use another run name"))
    }

    /// Takes the lock of a single file, which need not exist yet; the lock's own file lies beside it. Waits for `patience`
    /// where another process holds it.
    ///
    /// # Errors
    /// [`Kind::TryAgain`] where another process still holds it; the message says which.
    pub fn take_beside(file: &Path, patience: Duration) -> anyhow::Result<Self> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(BESIDE);
        let path: PathBuf = file.with_file_name(name);
        let started = Instant::now();
        loop {
            match Self::try_take(&path)? {
                Some(lock) => return Ok(lock),
                None if started.elapsed() >= patience => return Err(held(file, &path, "")),
                None => sleep(LOOK),
            }
        }
    }

    /// None where another process holds it.
    fn try_take(path: &Path) -> anyhow::Result<Option<Self>> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let holder = Holder {
            pid: std::process::id(),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            since: utc_now(),
        };
        file.set_len(0)?;
        file.rewind()?;
        serde_json::to_writer(&mut file, &holder)?;
        file.flush()?;
        Ok(Some(Self { _file: file }))
    }
}

fn held(what: &Path, path: &Path, or: &str) -> anyhow::Error {
    let holder = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Holder>(&bytes).ok());
    let who = holder.map_or_else(
        || "another process".to_owned(),
        |h| format!("process {} on {} (since {})", h.pid, h.host, h.since),
    );
    failure(Kind::TryAgain, format!("{} is being written by {who}; wait for it to end{or}", what.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::error::kind_of;

    #[test]
    fn a_second_writer_is_told_who_holds_the_run_and_to_try_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let error = RunLock::take(folder.path()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::TryAgain);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunLock::take(folder.path()).unwrap();
    }

    #[test]
    fn the_lock_of_a_file_is_waited_for_and_then_its_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("study.journal");
        let first = RunLock::take_beside(&file, Duration::ZERO).unwrap();
        let error = RunLock::take_beside(&file, Duration::from_millis(60)).unwrap_err();
        assert_eq!(kind_of(&error), Kind::TryAgain);
        assert!(error.to_string().contains("study.journal is being written by process"), "{error}");
        let waiting = std::thread::spawn(move || RunLock::take_beside(&file, Duration::from_secs(60)).map(drop));
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_dead_process_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK_FILE), "{\"pid\":1,\"host\":\"gone\",\"since\":\"2026\"} and more text")
            .unwrap();
        let _lock = RunLock::take(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap();
        assert_eq!(serde_json::from_str::<Holder>(&text).unwrap().pid, std::process::id());
    }
}
