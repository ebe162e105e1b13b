//! Processes of this machine.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::process::{Ended, Process};
use super::{Answer, End, Engine, Fault, Job, State};
use crate::error::{Kind, failure};

/// Names the place among those that run side by side, from 0, in a command's environment.
const SLOT: &str = "HYDRA_TRIAL_SLOT";
/// Which GPUs CUDA's programs see.
const GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// Jobs as processes, each of a process group of its own.
pub struct Local {
    slots: usize,
    gpus: Option<usize>,
    /// Logs of trials that this program works on, locked: a command keeps its log open, so that one of an earlier search is
    /// noticed.
    logs: BTreeMap<PathBuf, File>,
    running: BTreeMap<String, Running>,
}

struct Running {
    slot: usize,
    process: Process,
}

impl Local {
    /// So many processes at a time, each with so many GPUs of its own where that is said.
    pub fn new(slots: usize, gpus: Option<usize>) -> Self {
        Self { slots, gpus, logs: BTreeMap::new(), running: BTreeMap::new() }
    }

    fn start(&mut self, job: &Job) -> Result<()> {
        let log = self.logs.get(job.folder.path()).context("a job was handed over before its folder was held")?;
        let taken: Vec<usize> = self.running.values().map(|running| running.slot).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
        let mut environment = job.environment.clone();
        environment.push((SLOT.to_owned(), slot.to_string().into()));
        if let Some(gpus) = self.gpus.filter(|gpus| *gpus > 0) {
            let visible = std::env::var(GPUS).ok();
            environment.push((GPUS.to_owned(), gpus_of(slot, gpus, visible.as_deref())?.into()));
        }
        let process = Process::start(&job.words, environment, log).map_err(|error| cannot_start(job, &error))?;
        self.running.insert(job.id.clone(), Running { slot, process });
        Ok(())
    }
}

/// The GPUs of a place: the next so many of those that this program was given, or of all.
fn gpus_of(slot: usize, count: usize, visible: Option<&str>) -> Result<String> {
    let mine = slot * count..(slot + 1) * count;
    let Some(visible) = visible else {
        return Ok(mine.map(|gpu| gpu.to_string()).collect::<Vec<_>>().join(","));
    };
    let all: Vec<&str> = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let found = all.get(mine.clone()).map(|names| names.join(","));
    found.ok_or_else(|| {
        let message = format!(
            "{GPUS} names {} GPUs, and {} trials of {count} at a time need {}; give --executor local:N with a smaller N",
            all.len(),
            slot + 1,
            mine.end
        );
        failure(Kind::Usage, message)
    })
}

fn cannot_start(job: &Job, error: &std::io::Error) -> anyhow::Error {
    let program = job.words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let message = format!(
        "trial {}: the command cannot be started: {program}: {error}; give --trial a program that is there (no shell reads the \
         command: `sh -c '…'` is one)",
        job.folder.trial()
    );
    failure(Kind::Usage, message)
}

impl Engine for Local {
    fn room(&mut self) -> Answer<usize> {
        Ok(self.slots.saturating_sub(self.running.len()))
    }

    fn is_free(&mut self, job: &Job) -> Answer<bool> {
        if self.logs.contains_key(job.folder.path()) {
            return Ok(true);
        }
        let path = job.folder.log();
        let place = || path.display().to_string();
        let log = File::options().create(true).append(true).read(true).open(&path).with_context(place)?;
        // Elsewhere a lock would keep the command from writing.
        let locked = if cfg!(unix) { log.try_lock() } else { Ok(()) };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(Fault::Refused(anyhow::Error::new(error).context(place()))),
        }
        self.logs.insert(job.folder.path().to_owned(), log);
        Ok(true)
    }

    fn submit(&mut self, jobs: &[Job]) -> Answer<()> {
        jobs.iter().try_for_each(|job| self.start(job).map_err(Fault::Refused))
    }

    fn look(&mut self, jobs: &[&Job]) -> Answer<Vec<State>> {
        let mut states = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Some(running) = self.running.get_mut(&job.id) else {
                states.push(State::Unknown);
                continue;
            };
            let ended = running.process.look().with_context(|| format!("trial {}", job.folder.trial()))?;
            states.push(match ended {
                None => State::Running,
                Some(ended) => {
                    self.running.remove(&job.id);
                    State::Ended(match ended {
                        Ended::Exited(code) => End::Exited(code),
                        Ended::Killed(how) => End::Killed(format!("a signal ({how})")),
                    })
                }
            });
        }
        Ok(states)
    }

    fn stop(&mut self, job: &Job) -> Answer<()> {
        if let Some(running) = self.running.get_mut(&job.id) {
            running.process.ask_to_end();
        }
        Ok(())
    }

    fn release(&mut self, job: &Job) {
        self.logs.remove(job.folder.path());
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(20), Duration::from_millis(20))
    }

    fn file_delay(&self) -> Duration {
        Duration::ZERO
    }

    fn outlives(&self) -> bool {
        false
    }

    fn name(&self) -> String {
        "this machine".to_owned()
    }
}

impl Drop for Local {
    /// Ends the commands that still run.
    fn drop(&mut self) {
        for running in self.running.values_mut() {
            running.process.ask_to_end();
        }
        for running in self.running.values_mut() {
            running.process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_gpus_of_its_own_among_those_that_this_program_was_given() {
        assert_eq!(gpus_of(0, 1, None).unwrap(), "0");
        assert_eq!(gpus_of(1, 2, None).unwrap(), "2,3");
        assert_eq!(gpus_of(1, 2, Some("4, 5,6,7")).unwrap(), "6,7");
        assert_eq!(gpus_of(1, 1, Some("GPU-a,GPU-b")).unwrap(), "GPU-b");
        let error = gpus_of(2, 1, Some("0,1")).unwrap_err().to_string();
        assert!(error.contains("names 2 GPUs") && error.contains("local:N"), "{error}");
    }
}
