//! One process writes into a run folder at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::time::utc_now;
use crate::error::{Kind, failure};

/// Name of the lock file in a run folder. It stays there when the run ends: what counts is the lock on it, which the
/// system drops together with the process.
pub const LOCK_FILE: &str = "run.lock";

/// Holds a run folder for as long as it lives.
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
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(folder, &path)),
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
        Ok(Self { _file: file })
    }
}

fn held(folder: &Path, path: &Path) -> anyhow::Error {
    let holder = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Holder>(&bytes).ok());
    let who = holder.map_or_else(
        || "another process".to_owned(),
        |h| format!("process {} on {} (since {})", h.pid, h.host, h.since),
    );
    failure(
        Kind::TryAgain,
        format!("{} is being written by {who}; wait for it to end, or use another run name", folder.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;

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
    fn a_lock_file_left_by_a_dead_process_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK_FILE), "{\"pid\":1,\"host\":\"gone\",\"since\":\"2026\"} and more text")
            .unwrap();
        let _lock = RunLock::take(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(LOCK_FILE)).unwrap();
        assert_eq!(serde_json::from_str::<Holder>(&text).unwrap().pid, std::process::id());
    }
}
