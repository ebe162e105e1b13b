//! Checkpoints: named byte blobs per step, believed only if every byte verifies.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::atomic::{self, Existing};

/// How many checkpoints stay: the newest, and one to fall back to.
pub const KEEP: usize = 2;

/// The folder `checkpoints/` of a run.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    folder: PathBuf,
}

/// A checkpoint as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// File name → content: `adapter.safetensors`, `optim.safetensors`, `state.json`, …
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What [`CheckpointStore::load_newest`] found.
#[derive(Debug, Default)]
pub struct Newest {
    /// The newest checkpoint that verifies; none where there is none.
    pub checkpoint: Option<Checkpoint>,
    /// One line for every newer one that does not verify: which, and why.
    pub skipped: Vec<String>,
}

impl CheckpointStore {
    /// The store in that folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Saves a checkpoint, then removes all but the [`KEEP`] newest. Saving a step twice keeps the later one.
    ///
    /// # Errors
    /// A disk that cannot be written; the older checkpoints are then still there.
    pub fn save(&self, step: u64, files: &[(&str, &[u8])]) -> anyhow::Result<PathBuf> {
        let path = self.path(step);
        atomic::write_folder(&path, files, Existing::Replace)?;
        for (_, old) in self.steps()?.into_iter().rev().skip(KEEP) {
            fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(path)
    }

    /// Loads the newest checkpoint that verifies, and names those that were passed over.
    ///
    /// # Errors
    /// A folder that cannot be listed. Broken checkpoints are no error.
    pub fn load_newest(&self) -> anyhow::Result<Newest> {
        let mut newest = Newest::default();
        for (step, path) in self.steps()?.into_iter().rev() {
            match atomic::read_folder(&path) {
                Ok(files) => {
                    newest.checkpoint = Some(Checkpoint { step, files });
                    break;
                }
                Err(error) => newest.skipped.push(format!("step {step} is not usable: {error:#}")),
            }
        }
        Ok(newest)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:06}"))
    }

    /// Finished checkpoints with their steps, oldest first.
    fn steps(&self) -> anyhow::Result<Vec<(u64, PathBuf)>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let list = || -> std::io::Result<Vec<(u64, PathBuf)>> {
            let mut steps = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                let path = entry?.path();
                if let Some(step) = step_of(&path) {
                    steps.push((step, path));
                }
            }
            Ok(steps)
        };
        let mut steps = list().with_context(|| format!("cannot list {}", self.folder.display()))?;
        steps.sort();
        Ok(steps)
    }
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, CheckpointStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path().join("checkpoints"));
        (folder, store)
    }

    fn save(store: &CheckpointStore, step: u64) -> PathBuf {
        store.save(step, &[("adapter.safetensors", &step.to_le_bytes()), ("state.json", b"{}")]).unwrap()
    }

    #[test]
    fn a_run_without_checkpoints_has_no_newest() {
        let newest = store().1.load_newest().unwrap();
        assert!(newest.checkpoint.is_none() && newest.skipped.is_empty());
    }

    #[test]
    fn the_newest_is_loaded_exactly_and_two_are_kept() {
        let (_folder, store) = store();
        for step in [500, 1_000, 1_500, 2_000_000] {
            save(&store, step);
        }
        let checkpoint = store.load_newest().unwrap().checkpoint.unwrap();
        assert_eq!(checkpoint.step, 2_000_000);
        assert_eq!(checkpoint.files["adapter.safetensors"], 2_000_000_u64.to_le_bytes());
        assert_eq!(store.steps().unwrap().iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1_500, 2_000_000]);
    }

    #[test]
    fn a_broken_newest_falls_back_to_the_one_before_and_says_so() {
        let (_folder, store) = store();
        save(&store, 1);
        let broken = save(&store, 2);
        fs::write(broken.join("adapter.safetensors"), b"torn").unwrap();
        let newest = store.load_newest().unwrap();
        assert_eq!(newest.checkpoint.unwrap().step, 1);
        assert!(newest.skipped[0].contains("step 2 is not usable"), "{:?}", newest.skipped);
    }

    #[test]
    fn an_unfinished_folder_is_never_taken_for_a_checkpoint() {
        let (_folder, store) = store();
        save(&store, 1);
        fs::create_dir(store.folder.join(".tmp-step-000002-abc")).unwrap();
        fs::create_dir(store.folder.join("step-000003")).unwrap();
        let newest = store.load_newest().unwrap();
        assert_eq!(newest.checkpoint.unwrap().step, 1);
        assert_eq!(newest.skipped.len(), 1);
    }

    #[test]
    fn saving_a_step_again_keeps_the_later_one() {
        let (_folder, store) = store();
        save(&store, 7);
        store.save(7, &[("state.json", b"later")]).unwrap();
        assert_eq!(store.load_newest().unwrap().checkpoint.unwrap().files["state.json"], b"later");
    }
}
