//! Who hands trials over to an engine and looks after them: one thread for all of them.
//!
//! A trial is a folder and a command. The same folder is the same trial: a valid result in it is taken and the command not run
//! again, and a command that is still running from an earlier search is waited for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use hydra_shared::files::trial_folder::{BadResult, TrialFolder, read_scores};
use indexmap::IndexMap;

use super::TrialConfig;
use super::attempt::{Over, Progress, Rules, Run};
use super::template::Template;
use crate::error::{Kind, failure};
use crate::interrupt;
use crate::output::Output;
use crate::search::engines::{Clock, Engine, Fault, Job};

/// Pause before an engine that cannot be reached is asked again; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An engine that cannot be reached for so long ends the search, which can go on later.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Scores by task.
pub type Scores = IndexMap<String, f64>;

/// Reads the result of a trial: its scores, or why it is none.
pub type ReadResult = fn(&Path) -> Result<Scores, BadResult>;

/// Trials that an engine runs, and who looks after them.
pub struct Submitter<'a> {
    template: Template,
    rules: Rules,
    /// Begins the names of its jobs, so that another study's are others.
    study: String,
    output: &'a Output,
    engine: Box<dyn Engine + 'a>,
    clock: Box<dyn Clock + 'a>,
    runs: BTreeMap<usize, Run>,
    /// When the engine is looked at next, and how long after that.
    next_look: Duration,
    pause: Duration,
    unreachable: Option<Unreachable>,
    /// What keeps jobs from beginning, once it was told.
    hindrance: Option<&'static str>,
}

/// Since when an engine cannot be reached.
struct Unreachable {
    since: Duration,
    pause: Duration,
}

impl<'a> Submitter<'a> {
    /// Trials of this command on an engine. `study` begins the names of its jobs.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn new(
        config: &TrialConfig,
        engine: Box<dyn Engine + 'a>,
        clock: Box<dyn Clock + 'a>,
        study: String,
        output: &'a Output,
    ) -> Result<Self> {
        if let Some(unheeded) = config.unheeded() {
            output.warn(format_args!("{unheeded}"));
        }
        let rules = Rules {
            limit: config.limit(),
            retries: config.retries,
            needs_gradients: false,
            read: read_scores,
            file_delay: engine.file_delay(),
            outlives: engine.outlives(),
            engine: engine.name(),
        };
        Ok(Self {
            template: Template::parse(&config.command)?,
            rules,
            study,
            output,
            next_look: clock.now(),
            pause: engine.pauses().0,
            engine,
            clock,
            runs: BTreeMap::new(),
            unreachable: None,
            hindrance: None,
        })
    }

    /// Says whether a trial counts as done only with a gradient log.
    pub fn need_gradients(&mut self, needed: bool) {
        self.rules.needs_gradients = needed;
    }

    /// Has results read in another way than as scores alone.
    #[must_use]
    pub fn reading(mut self, read: ReadResult) -> Self {
        self.rules.read = read;
        self
    }

    /// Takes on a trial in its folder; it is handed over when there is room for it.
    ///
    /// # Errors
    /// A folder that cannot be used.
    pub fn begin(&mut self, folder: TrialFolder) -> Result<()> {
        let number = folder.trial();
        let run = Run::new(&self.study, folder, &self.template, &self.rules, self.clock.now())?;
        self.runs.insert(number, run);
        Ok(())
    }

    /// Waits until that trial is over.
    ///
    /// # Errors
    /// [`Kind::Interrupted`], an engine that refuses or cannot be reached, a trial that was never begun.
    pub fn wait(&mut self, number: usize) -> Result<(TrialFolder, Over)> {
        if !self.runs.contains_key(&number) {
            return Err(failure(Kind::Failure, format!("trial {number} was never begun")));
        }
        self.wait_for(|runs| runs.get(&number).filter(|run| run.is_over()).map(|_| number))
    }

    /// Waits until any of those that were begun is over; there is at least one.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_any(&mut self) -> Result<(TrialFolder, Over)> {
        if self.runs.is_empty() {
            return Err(failure(Kind::Failure, "no trial was begun"));
        }
        self.wait_for(|runs| runs.iter().find(|(_, run)| run.is_over()).map(|(number, _)| *number))
    }

    fn wait_for(&mut self, over: impl Fn(&BTreeMap<usize, Run>) -> Option<usize>) -> Result<(TrialFolder, Over)> {
        let run = loop {
            if interrupt::requested() {
                return Err(failure(Kind::Interrupted, "interrupted during a trial"));
            }
            if let Some(run) = over(&self.runs).and_then(|number| self.runs.remove(&number)) {
                break run;
            }
            self.step()?;
            if over(&self.runs).is_none() {
                self.rest();
            }
        };
        self.engine.release(&run.job());
        let folder = run.folder().clone();
        match run.over() {
            Some(how) => Ok((folder, how)),
            None => Err(failure(Kind::Failure, "a trial that was over is gone")),
        }
    }

    /// Does for every trial what can be done now.
    fn step(&mut self) -> Result<()> {
        let now = self.clock.now();
        if self.unreachable.is_some() && now < self.next_look {
            return Ok(());
        }
        let done = match self.hand_over(now) {
            Ok(()) if now >= self.next_look => self.look(now),
            done => done,
        };
        match done {
            Ok(()) => {
                if self.unreachable.take().is_some() {
                    self.output.note(format_args!("{} can be reached again", self.rules.engine));
                }
                Ok(())
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Unreachable(why)) => self.wait_for_engine(&why, now),
        }
    }

    /// Asks after jobs of an earlier search, all at once: they may still run, or have been done.
    fn take_up(&mut self, now: Duration) -> Result<(), Fault> {
        let with_jobs = self.runs.values_mut().filter_map(|run| run.earlier_job().map(|job| (run, job)));
        let earlier: Vec<(&mut Run, Job)> = with_jobs.collect();
        if earlier.is_empty() {
            return Ok(());
        }
        let states = self.engine.look(&earlier.iter().map(|(_, job)| job).collect::<Vec<_>>())?;
        for ((run, _), state) in earlier.into_iter().zip(states) {
            run.take_up(&state, now, self.output)?;
        }
        Ok(())
    }

    /// Hands over what waits for it, as far as there is room.
    fn hand_over(&mut self, now: Duration) -> Result<(), Fault> {
        self.take_up(now)?;
        let mut room = None;
        let mut jobs = Vec::new();
        for run in self.runs.values_mut().filter(|run| run.is_due(now)) {
            let engine = &mut *self.engine;
            let job = run.job();
            if !engine.is_free(&job)? {
                run.wait_for_folder(&self.rules, now, self.output)?;
                continue;
            }
            if run.take_result(&self.rules, self.output) {
                continue;
            }
            let left = match room {
                None => {
                    let room = engine.room()?;
                    let hindrance = engine.hindrance();
                    let told = std::mem::replace(&mut self.hindrance, hindrance);
                    if let Some(new) = hindrance.filter(|_| told != hindrance) {
                        self.output.warn(format_args!("{}: {new}; waiting for one that does", self.rules.engine));
                    }
                    room
                }
                Some(left) => left,
            };
            room = Some(left.saturating_sub(1));
            if left == 0 {
                break;
            }
            run.prepare(&self.rules, &job)?;
            jobs.push(job);
        }
        if jobs.is_empty() {
            return Ok(());
        }
        // A first look at once; what was asked is asked again from the state that the engine tells.
        (self.next_look, self.pause) = (now, self.engine.pauses().0);
        self.engine.submit(&jobs)
    }

    /// Looks how those that were handed over are.
    fn look(&mut self, now: Duration) -> Result<(), Fault> {
        let mut handed: Vec<&mut Run> = self.runs.values_mut().filter(|run| run.is_handed_over()).collect();
        let jobs: Vec<Job> = handed.iter().map(|run| run.job()).collect();
        let states = if jobs.is_empty() { Vec::new() } else { self.engine.look(&jobs.iter().collect::<Vec<_>>())? };
        let mut changed = false;
        let mut again = Vec::new();
        for ((run, job), state) in handed.iter_mut().zip(&jobs).zip(states) {
            match run.observe(&state, &self.rules, now, self.output)? {
                Progress::None => {}
                Progress::Changed => changed = true,
                Progress::Stop => {
                    self.engine.stop(job)?;
                    // Only then: an engine that could not be reached is asked again.
                    run.was_stopped();
                }
                Progress::Again => again.push(job.clone()),
            }
        }
        for run in self.runs.values_mut() {
            changed |= run.settle(&self.rules, now, self.output)?;
        }
        let (least, most) = self.engine.pauses();
        self.pause = if changed { least } else { (self.pause * 3 / 2).min(most) };
        self.next_look = now + self.pause;
        if again.is_empty() { Ok(()) } else { self.engine.submit(&again) }
    }

    fn wait_for_engine(&mut self, why: &str, now: Duration) -> Result<()> {
        let waited = self.unreachable.get_or_insert_with(|| {
            self.output.warn(format_args!("{why}; asking again for {} minutes", PATIENCE.as_secs() / 60));
            Unreachable { since: now, pause: FIRST_PAUSE }
        });
        if now.saturating_sub(waited.since) >= PATIENCE {
            let message = format!(
                "{why}, for {} minutes now; what runs there goes on, and is looked for when the search goes on",
                PATIENCE.as_secs() / 60
            );
            return Err(failure(Kind::TryAgain, message));
        }
        self.next_look = now + waited.pause;
        waited.pause = (waited.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Waits until there is something to do.
    fn rest(&self) {
        let now = self.clock.now();
        let due = self.runs.values().filter_map(Run::due).filter(|due| *due > now).fold(self.next_look, Duration::min);
        let least = self.engine.pauses().0;
        self.clock.sleep(due.saturating_sub(now).max(least));
    }
}

impl Drop for Submitter<'_> {
    /// Ends the jobs that still run; the engine waits for those that end with this program.
    fn drop(&mut self) {
        let open: Vec<Job> = self.runs.values().filter(|run| run.is_handed_over()).map(Run::job).collect();
        for job in open {
            // Why the search ends has been said. What cannot be stopped is looked for when it goes on.
            if self.engine.stop(&job).is_err() {
                break;
            }
        }
    }
}
