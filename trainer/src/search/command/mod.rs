//! Trials that a command runs: somebody else's training, in any language, on any [engine](super::engines).
//!
//! A trial is a folder with what the command is given ([`folder`]), the command with the folder's paths in it ([`template`]), and
//! attempts until one ends well or there were enough. The same folder is the same trial: a valid result in it is taken and the
//! command not run again, and a command that is still running from an earlier search is waited for.
//!
//! One thread looks after all trials: it looks how they are, and does for each what follows from that ([`CommandTrials`]).

mod attempt;
pub mod template;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hydra_shared::files::trial_folder::{self as folder, TrialFolder};
use hydra_shared::search::{Outcome, Study, Trial};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use self::attempt::{Over, Progress, Rules, Run};
use self::template::Template;
use super::drive::Evaluator;
use super::engines::{Clock, Engine, EngineChoice, Fault, Job, Resources};
use crate::error::{Kind, failure};
use crate::interrupt;
use crate::output::Output;

/// Pause before an engine that cannot be reached is asked again; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An engine that cannot be reached for so long ends the search, which can go on later.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How trials are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrialConfig {
    /// The command, with placeholders.
    pub command: String,
    /// Trials at a time.
    pub parallel: usize,
    /// Seconds after which an attempt is ended.
    pub timeout: Option<u64>,
    /// New attempts of a trial that failed.
    pub retries: u32,
    /// Where they run.
    pub executor: EngineChoice,
    /// Whether plain HTTP to other machines is taken.
    pub insecure: bool,
    /// What each needs.
    pub resources: Resources,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self {
            command: String::new(),
            parallel: 1,
            timeout: None,
            retries: 2,
            executor: EngineChoice::default(),
            insecure: false,
            resources: Resources::default(),
        }
    }
}

impl TrialConfig {
    /// Time after which an attempt is ended.
    pub fn limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }
}

/// Scores by task.
type Scores = IndexMap<String, f64>;
/// Makes the folder of a trial.
type FolderOf<'a> = Box<dyn Fn(&Trial) -> Result<TrialFolder> + 'a>;

/// Trials that an engine runs, and who looks after them.
pub struct CommandTrials<'a> {
    template: Template,
    rules: Rules,
    folder_of: FolderOf<'a>,
    /// Begins the names of this study's jobs, so that another study's are others.
    study: String,
    output: &'a Output,
    engine: Box<dyn Engine + 'a>,
    clock: Box<dyn Clock + 'a>,
    runs: BTreeMap<usize, Run>,
    /// When the engine is looked at next, and how long after that.
    next_look: Duration,
    pause: Duration,
    unreachable: Option<Unreachable>,
}

/// Since when an engine cannot be reached.
struct Unreachable {
    since: Duration,
    pause: Duration,
}

impl<'a> CommandTrials<'a> {
    /// Trials of this command on an engine, each in the folder that `folder_of` makes for it. `study` begins the names of its
    /// jobs.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn new(
        config: &TrialConfig,
        engine: Box<dyn Engine + 'a>,
        clock: Box<dyn Clock + 'a>,
        study: String,
        output: &'a Output,
        folder_of: impl Fn(&Trial) -> Result<TrialFolder> + 'a,
    ) -> Result<Self> {
        let rules = Rules {
            limit: config.limit(),
            retries: config.retries,
            needs_gradients: false,
            file_delay: engine.file_delay(),
            outlives: engine.outlives(),
            engine: engine.name(),
        };
        Ok(Self {
            template: Template::parse(&config.command)?,
            rules,
            folder_of: Box::new(folder_of),
            study,
            output,
            next_look: clock.now(),
            pause: engine.pauses().0,
            engine,
            clock,
            runs: BTreeMap::new(),
            unreachable: None,
        })
    }

    /// Says whether a trial counts as done only with a gradient log.
    pub fn need_gradients(&mut self, needed: bool) {
        self.rules.needs_gradients = needed;
    }

    /// Does for every trial what can be done now.
    fn step(&mut self) -> Result<()> {
        let now = self.clock.now();
        if self.unreachable.is_some() && now < self.next_look {
            return Ok(());
        }
        let done = match self.begin(now) {
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
    fn begin(&mut self, now: Duration) -> Result<(), Fault> {
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
                None => engine.room()?,
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

impl Evaluator for CommandTrials<'_> {
    fn start(&mut self, trial: &Trial) -> Result<()> {
        let folder = (self.folder_of)(trial)?;
        let run = Run::new(&self.study, folder, &self.template, &self.rules, self.clock.now())?;
        self.runs.insert(trial.number, run);
        Ok(())
    }

    fn finish(&mut self, trial: &Trial, study: &Study) -> Result<Outcome> {
        let number = trial.number;
        let over = loop {
            if interrupt::requested() {
                return Err(failure(Kind::Interrupted, "interrupted during a trial"));
            }
            let run = self.runs.get_mut(&number);
            let run = run.ok_or_else(|| failure(Kind::Failure, format!("trial {number} was never begun")))?;
            if let Some(over) = run.over() {
                break over;
            }
            self.step()?;
            if !self.runs.get(&number).is_some_and(Run::is_over) {
                self.rest();
            }
        };
        let Some(run) = self.runs.remove(&number) else { return Err(failure(Kind::Failure, "a trial is gone")) };
        self.engine.release(&run.job());
        match over {
            Over::Scored { scores, wall_seconds } => {
                check_tasks(number, run.folder(), &scores, &study.metadata.benchmarks)?;
                Ok(Outcome::Complete { scores, wall_seconds })
            }
            // Where no trial has been scored yet, the command is more likely to blame than the schedule.
            Over::Failed { kind, message } if study.complete().next().is_none() => Err(failure(
                kind,
                format!(
                    "{message}\nno trial has been scored yet, so the search stops here; \
                                           the trial is run again when it goes on"
                ),
            )),
            Over::Failed { message, .. } => {
                self.output.warn(format_args!("{message}\nit counts as failed, and the search goes on"));
                Ok(Outcome::Failed { error: message, wall_seconds: None })
            }
        }
    }
}

impl Drop for CommandTrials<'_> {
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

/// Refuses scores of other tasks than the study's, and puts the result aside.
fn check_tasks(number: usize, folder: &TrialFolder, scores: &Scores, expected: &[String]) -> Result<()> {
    let same = scores.len() == expected.len() && expected.iter().all(|task| scores.contains_key(task));
    if expected.is_empty() || same {
        return Ok(());
    }
    let found: Vec<&str> = scores.keys().map(String::as_str).collect();
    let refused = folder.refuse_result()?;
    let message = format!(
        "trial {number}: {} holds the scores {}, those of the first trial are {}; the file now is {}. Let the command write the \
         same scores in every trial; the trial is run again when the search goes on",
        folder.result().display(),
        found.join(", "),
        expected.join(", "),
        refused.display()
    );
    Err(failure(Kind::Data, message))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;

    use hydra_shared::files::digest::sha256_hex;
    use hydra_shared::files::outside::{EXPIRES, OutsideStudy, Subject};
    use hydra_shared::performance::ModelKind;
    use hydra_shared::search::{PlainTrial, Rule, SearchConfig};

    use super::*;
    use crate::error::kind_of;
    use crate::model::spec;
    use crate::search::engines::End;
    use crate::search::engines::simulated::{Course, SimulatedClock, SimulatedCluster};
    use crate::search::outside::{OutsideConfig, search_with};

    const MINUTE: Duration = Duration::from_secs(60);
    const MACHINES: usize = 7;

    fn study(folder: &Path, trials: usize, output: &Output) -> OutsideStudy {
        let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/samples/grad-norms.jsonl.gz");
        let mut config =
            OutsideConfig { model: "smollm2-135m".to_owned(), gradients: vec![log], ..OutsideConfig::default() };
        config.plan.base_rank = 16;
        config.search = SearchConfig {
            trials,
            patience: trials,
            acquisition: Rule::RANDOM,
            model: ModelKind::Ridge,
            ..SearchConfig::default()
        };
        let subject = Subject::read(&config.subject(), spec::load_catalog(&config.model).unwrap(), output).unwrap();
        OutsideStudy::begin(&folder.join("study.journal"), config.settings(EXPIRES), subject, output).unwrap()
    }

    /// A search whose jobs take these courses: its trials, and how many jobs there were.
    fn searched(
        study: &mut OutsideStudy,
        config: &TrialConfig,
        mut course_of: impl FnMut(&Job) -> Course,
    ) -> (Result<Vec<PlainTrial>>, usize) {
        let output = Output::new(false, true);
        let clock = SimulatedClock::default();
        let jobs = RefCell::new(0);
        let cluster = SimulatedCluster::new(clock.clone(), MACHINES, |job| {
            *jobs.borrow_mut() += 1;
            course_of(job)
        });
        let (settings, folders) = (study.settings().clone(), study.trials());
        let folder_of = |trial: &Trial| settings.folder(&folders, trial);
        let mut commands =
            CommandTrials::new(config, Box::new(cluster), Box::new(clock), "test".to_owned(), &output, folder_of)
                .unwrap();
        let done = search_with(study, &mut commands, config.parallel, &output).map(drop);
        drop(commands);
        let plain = |trial: Trial| PlainTrial { wall_seconds: None, ..trial.into() };
        let trials = done.map(|()| study.study().trials.iter().cloned().map(plain).collect());
        let jobs = *jobs.borrow();
        (trials, jobs)
    }

    fn config() -> TrialConfig {
        TrialConfig { command: "train {lora}".to_owned(), parallel: MACHINES, ..TrialConfig::default() }
    }

    /// A number between 0 and 99 that follows from a text.
    fn chance(text: &str) -> u64 {
        u64::from_str_radix(&sha256_hex(text.as_bytes())[..8], 16).unwrap() % 100
    }

    /// A job that ends well, with a score that follows from its trial.
    fn good(job: &Job) -> Course {
        let folder = job.folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let minutes = u32::try_from(1 + chance(&job.id) % 10).unwrap();
        let result = format!("{{\"scores\": {{\"task\": {}}}}}", chance(&folder));
        Course { time: MINUTE * minutes, result: Some(result), end: End::Exited(0) }
    }

    #[test]
    fn machines_that_die_and_results_that_are_cut_off_change_nothing_and_every_trial_counts_once() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let (whole, jobs) = searched(&mut study(folder.path(), 60, &output), &config(), good);
        assert_eq!(jobs, 60);
        let folder = tempfile::tempdir().unwrap();
        let mut failed = 0;
        let (disturbed, jobs) = searched(&mut study(folder.path(), 60, &output), &config(), |job| {
            let course = match chance(&format!("{} is disturbed", job.id)) {
                // Having written its result, which must not be taken, nor be there twice.
                0..10 => Course { end: End::Lost("its machine died".to_owned()), ..good(job) },
                10..15 => Course { result: None, end: End::NeverBegan("it waited too long".to_owned()), ..good(job) },
                15..20 => Course { result: Some("{\"scores\": {\"ta".to_owned()), ..good(job) },
                20..25 => Course { result: None, end: End::Killed("signal 9".to_owned()), ..good(job) },
                _ => return good(job),
            };
            failed += 1;
            course
        });
        assert!(failed > 10, "{failed}");
        assert_eq!(jobs, 60 + failed, "what went well is not run again");
        assert_eq!(disturbed.unwrap(), whole.unwrap());
    }

    #[test]
    fn a_trial_that_never_ends_is_ended_at_the_limit_as_often_as_there_are_attempts_and_counts_as_failed() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let config = TrialConfig { timeout: Some(3600), retries: 1, ..config() };
        let never = Duration::from_secs(u64::from(u32::MAX));
        let (trials, jobs) = searched(&mut study(folder.path(), 12, &output), &config, |job| {
            if job.folder.trial() == 5 { Course { time: never, ..good(job) } } else { good(job) }
        });
        let trials = trials.unwrap();
        assert_eq!(jobs, 13);
        let error = trials[5].error.clone().unwrap();
        assert!(error.contains("after 3600 s, the limit of --trial-timeout (2 attempts)"), "{error}");
        assert_eq!(trials.iter().filter(|trial| trial.error.is_some()).count(), 1);
    }

    #[test]
    fn a_folder_that_a_machine_does_not_see_stops_the_search_with_what_to_do() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let (trials, _) = searched(&mut study(folder.path(), 12, &output), &config(), |job| Course {
            result: None,
            end: End::NotShared,
            ..good(job)
        });
        let error = trials.unwrap_err();
        assert_eq!(kind_of(&error), Kind::Usage);
        for part in ["trial ", "has no folder", "--runs FOLDER"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
