//! Engines: where the commands of trials run. This machine, a Ray cluster, a Slurm cluster.
//!
//! An engine is given jobs, each one attempt of one trial, and asked how they are. What a failure means, when there is a new
//! attempt and what the scores are is the submitter's ([`super::command`]), the same for all engines.

mod choice;
pub mod local;
mod process;
pub mod ray;
mod script;
pub mod simulated;
pub mod slurm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use hydra_shared::files::trial_folder::TrialFolder;

use crate::interrupt;

pub use self::choice::{EngineChoice, Resources};
pub use self::script::{NOT_HERE, NOT_SHARED, began};

/// How long a wait goes on before an interrupt is looked for.
const SLICE: Duration = Duration::from_millis(50);

/// One attempt of a trial.
#[derive(Debug, Clone)]
pub struct Job {
    /// The same for the same study, trial and attempt, so that one that was handed over is known again.
    pub id: String,
    /// Folder of the trial.
    pub folder: TrialFolder,
    /// Number of the attempt among all that the trial ever had, from 1.
    pub attempt: u32,
    /// The command.
    pub words: Vec<OsString>,
    /// What it finds in its environment.
    pub environment: Vec<(String, OsString)>,
}

/// How a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The engine knows no such job.
    Unknown,
    /// It has been handed over, and waits for its turn or for its resources.
    Waiting,
    /// Its command runs.
    Running,
    /// It is over.
    Ended(End),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exited(i32),
    /// By a signal, which is named.
    Killed(String),
    /// With its machine, or by the hand of somebody who runs the cluster: the command is not to blame. How, in words.
    Lost(String),
    /// Before it began, because it waited for longer than the engine lets it; in the engine's words.
    NeverBegan(String),
    /// Where it ran, a folder is not there that all machines have to see.
    NotShared(Unshared),
}

/// What a machine of a cluster does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unshared {
    /// The folder of the trial.
    Trials,
    /// The folder that the search was called in.
    Here,
}

impl Unshared {
    /// The exit code by which a job says so; a command may end with the same.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Trials => NOT_SHARED,
            Self::Here => NOT_HERE,
        }
    }
}

/// Why an engine did not do what it was asked to.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be reached now; why, in words.
    Unreachable(String),
    /// It can be reached, and refuses. The search cannot go on.
    Refused(anyhow::Error),
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(error)
    }
}

/// What an engine answers.
pub type Answer<T> = Result<T, Fault>;

/// Where jobs run.
pub trait Engine {
    /// How many more jobs can be handed over and begin soon.
    ///
    /// # Errors
    /// An engine that cannot be asked.
    fn room(&mut self) -> Answer<usize>;

    /// What keeps every job from beginning as the engine is now, found when it was last asked for room.
    fn hindrance(&self) -> Option<&'static str> {
        None
    }

    /// Whether a job can be handed over: not while a command of an earlier search still works in its folder, which only this
    /// machine can tell. Holds the folder from then on.
    ///
    /// # Errors
    /// A folder that cannot be used.
    fn is_free(&mut self, job: &Job) -> Answer<bool>;

    /// Hands jobs over and comes back at once. A job that has been handed over before is not begun a second time.
    ///
    /// # Errors
    /// Of the first that was not taken; those before it were.
    fn submit(&mut self, jobs: &[Job]) -> Answer<()>;

    /// How each of these jobs is.
    ///
    /// # Errors
    /// An engine that cannot be asked.
    fn look(&mut self, jobs: &[&Job]) -> Answer<Vec<State>>;

    /// Ends a job as soon as it can be ended. One that is over stays as it is.
    ///
    /// # Errors
    /// An engine that cannot be asked.
    fn stop(&mut self, job: &Job) -> Answer<()>;

    /// Lets go of a trial's folder.
    fn release(&mut self, job: &Job);

    /// The least and the longest pause between two looks.
    fn pauses(&self) -> (Duration, Duration);

    /// How long after the end of a job its files may take to be seen here.
    fn file_delay(&self) -> Duration;

    /// Whether jobs go on when this program ends, so that they are looked for when the search goes on.
    fn outlives(&self) -> bool;

    /// Its name, for messages.
    fn name(&self) -> String;
}

/// The time as a submitter sees it.
pub trait Clock {
    /// Time since some moment that does not change.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The machine's own.
#[derive(Debug)]
pub struct WallClock(Instant);

impl Default for WallClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// Not beyond the moment in which the program is to stop.
    fn sleep(&self, time: Duration) {
        let end = self.now() + time;
        while !interrupt::requested() {
            let left = end.saturating_sub(self.now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// What makes an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Which, and where.
    pub choice: EngineChoice,
    /// What a trial needs.
    pub resources: Resources,
    /// Jobs at a time, at most.
    pub parallel: usize,
    /// Seconds after which the submitter ends an attempt.
    pub limit: Option<Duration>,
    /// Folder of what an engine keeps for itself, beside the trials.
    pub folder: PathBuf,
    /// Whether plain HTTP to other machines is taken.
    pub insecure: bool,
}

impl EngineConfig {
    /// Makes it.
    ///
    /// # Errors
    /// An engine that is not there, or refuses.
    pub fn engine(&self) -> Result<Box<dyn Engine>> {
        Ok(match &self.choice {
            EngineChoice::Local { slots } => {
                Box::new(local::Local::new(slots.unwrap_or(self.parallel), self.resources.whole_gpus()?))
            }
            EngineChoice::Ray { address } => {
                Box::new(ray::Ray::connect(address.as_deref(), self.insecure, &self.resources)?)
            }
            EngineChoice::Slurm { options } => {
                Box::new(slurm::Slurm::new(options, &self.resources, self.limit, &self.folder.join("slurm"))?)
            }
        })
    }
}
