//! A cluster that is computed instead of run, with a clock that jumps: what a submitter costs, and what becomes of a search on
//! a thousand machines of which some die, in seconds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;

use super::{Answer, Clock, End, Engine, Fault, Job, State};

/// Time that passes when it is waited for.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock(Rc<Cell<Duration>>);

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn sleep(&self, time: Duration) {
        self.0.set(self.0.get() + time);
    }
}

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// How long it runs.
    pub time: Duration,
    /// What it writes to its result at its end, if anything.
    pub result: Option<String>,
    /// How it ends.
    pub end: End,
}

/// The course of each job.
type CourseOf<'a> = Box<dyn FnMut(&Job) -> Course + 'a>;

/// So many machines, each of which runs a job at a time.
pub struct SimulatedCluster<'a> {
    clock: SimulatedClock,
    machines: usize,
    course_of: CourseOf<'a>,
    open: BTreeMap<String, (Course, Duration)>,
    over: BTreeMap<String, End>,
    /// Time in which machines worked.
    pub busy: Rc<Cell<Duration>>,
}

impl<'a> SimulatedCluster<'a> {
    /// A cluster whose jobs take the course that `course_of` gives them.
    pub fn new(clock: SimulatedClock, machines: usize, course_of: impl FnMut(&Job) -> Course + 'a) -> Self {
        Self {
            clock,
            machines,
            course_of: Box::new(course_of),
            open: BTreeMap::new(),
            over: BTreeMap::new(),
            busy: Rc::default(),
        }
    }
}

impl Engine for SimulatedCluster<'_> {
    fn room(&mut self) -> Answer<usize> {
        Ok(self.machines.saturating_sub(self.open.len()))
    }

    fn is_free(&mut self, _job: &Job) -> Answer<bool> {
        Ok(true)
    }

    fn submit(&mut self, jobs: &[Job]) -> Answer<()> {
        for job in jobs {
            if !self.open.contains_key(&job.id) && !self.over.contains_key(&job.id) {
                self.open.insert(job.id.clone(), ((self.course_of)(job), self.clock.now()));
            }
        }
        Ok(())
    }

    fn look(&mut self, jobs: &[&Job]) -> Answer<Vec<State>> {
        let now = self.clock.now();
        let mut states = Vec::with_capacity(jobs.len());
        for job in jobs {
            let ends = self.open.get(&job.id).is_some_and(|(course, begun)| now >= *begun + course.time);
            if ends && let Some((course, _)) = self.open.remove(&job.id) {
                self.busy.set(self.busy.get() + course.time);
                if let Some(text) = course.result {
                    let path = job.folder.result();
                    std::fs::write(&path, text).with_context(|| path.display().to_string()).map_err(Fault::Refused)?;
                }
                self.over.insert(job.id.clone(), course.end);
            }
            states.push(match self.over.get(&job.id) {
                Some(end) => State::Ended(end.clone()),
                None if self.open.contains_key(&job.id) => State::Running,
                None => State::Unknown,
            });
        }
        Ok(states)
    }

    fn stop(&mut self, job: &Job) -> Answer<()> {
        if self.open.remove(&job.id).is_some() {
            self.over.insert(job.id.clone(), End::Killed("the submitter".to_owned()));
        }
        Ok(())
    }

    fn release(&mut self, job: &Job) {
        // A job that is over is asked after no more.
        self.over.remove(&job.id);
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(200), Duration::from_secs(5))
    }

    fn file_delay(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn outlives(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        "a simulated cluster".to_owned()
    }
}
