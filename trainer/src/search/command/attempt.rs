//! The attempts of one trial, as they go from one look to the next.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hydra_shared::files::trial_folder::{BadResult, TrialFolder};
use serde::{Deserialize, Serialize};

use super::submitter::{ReadResult, Scores};
use super::template::{Template, environment};
use crate::error::{Kind, failure};
use crate::output::Output;
use crate::runs::atomic::write_json;
use crate::search::engines::{End, Job, State, Unshared, began};

/// Pause before the first new attempt; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a trial may be lost by its engine before it counts as failed. The command is not to blame, so these are no
/// attempts.
const LOSSES: u32 = 10;
/// How long a trial is handed over again that its engine has no place for, before it counts as failed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Exit codes of a shell that finds no such program, or may not run it.
const NO_PROGRAM: [i32; 2] = [126, 127];
/// Lines of the log that a message ends with.
const LAST_LINES: usize = 10;
/// What of the end of a log is looked at for them.
const LAST_BYTES: u64 = 16 << 10;

/// What holds for all trials of a search.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Time after which an attempt is ended.
    pub limit: Option<Duration>,
    /// New attempts of a trial that failed.
    pub retries: u32,
    /// Whether a trial counts as done only with a gradient log.
    pub needs_gradients: bool,
    /// How its result is read.
    pub read: ReadResult,
    /// How long after the end of a job its files may take to be seen.
    pub file_delay: Duration,
    /// Whether jobs go on when this program ends.
    pub outlives: bool,
    /// Name of the engine.
    pub engine: String,
}

/// How a trial's attempts ended.
#[derive(Debug)]
pub enum Over {
    /// With scores.
    Scored {
        /// By task.
        scores: Scores,
        /// Of the attempt that was scored, where it was seen from its beginning on.
        wall_seconds: Option<f64>,
    },
    /// Every attempt failed: what is said of the last.
    Failed {
        /// For the exit code.
        kind: Kind,
        /// Names the trial.
        message: String,
    },
}

/// What follows from a look at a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is as it was.
    None,
    /// It has begun or ended.
    Changed,
    /// It has run for too long.
    Stop,
    /// The engine never got it, and is to be given it again.
    Again,
}

/// Why an attempt failed.
struct Problem {
    kind: Kind,
    what: String,
    /// Whether the same command may do better.
    again: bool,
}

/// Where a trial stands.
#[derive(Debug)]
enum Phase {
    /// To be handed over from a moment on.
    Waiting { from: Duration },
    /// Handed over.
    HandedOver { begun: Option<Duration>, stopped: bool },
    /// Ended well, so that its result is there or will be.
    Ended { at: Duration, wall_seconds: Option<f64> },
    /// Nothing is left to do.
    Over(Over),
}

/// The job that a trial was last handed over as, kept in its folder where engines go on without this program.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    engine: String,
    id: String,
    attempt: u32,
    /// Where in the log its output begins.
    log_from: u64,
    /// Whether it was seen to end.
    #[serde(default)]
    ended: bool,
}

/// A trial that is looked after.
pub(super) struct Run {
    job: Job,
    /// The command as a line for a shell.
    line: String,
    phase: Phase,
    /// Job of an earlier search, until it was asked after.
    earlier: Option<Record>,
    /// Whether the job that is waited for is one of an earlier search.
    is_earlier: bool,
    /// Attempts in this search.
    tries: u32,
    losses: u32,
    /// Since when it has waited for longer than the engine lets it.
    kept_waiting: Option<Duration>,
    /// Whether what lies in the folder was looked at.
    looked: bool,
    /// Since when the folder is not free, once that was said.
    not_free: Option<Duration>,
    log_from: u64,
    study: String,
}

impl Run {
    /// A trial in its folder, to be handed over.
    pub fn new(study: &str, folder: TrialFolder, template: &Template, rules: &Rules, now: Duration) -> Result<Self> {
        let mut run = Self {
            line: template.line(&folder),
            phase: Phase::Waiting { from: now },
            earlier: None,
            is_earlier: false,
            tries: 0,
            losses: 0,
            kept_waiting: None,
            looked: false,
            not_free: None,
            log_from: 0,
            study: study.to_owned(),
            job: Job {
                id: String::new(),
                attempt: 0,
                words: template.words(&folder),
                environment: environment(&folder),
                folder,
            },
        };
        let record = run.record_path();
        // What is no record is one of a program that died; its job ran in this folder, and will be known by its result.
        let found: Option<Record> = std::fs::read(&record).ok().and_then(|text| serde_json::from_slice(&text).ok());
        run.name_job(found.as_ref().map_or(1, |found| found.attempt.saturating_add(1)));
        if let Some(left) = found.as_ref().filter(|found| found.engine != rules.engine && !found.ended)
            && run.result(rules).is_err()
        {
            let message = format!(
                "trial {} was handed over to {} as {}, and may still run there; go on with that executor, which takes it up, or see \
                 that it has ended and delete {}",
                run.job.folder.trial(),
                left.engine,
                left.id,
                record.display()
            );
            return Err(failure(Kind::Usage, message));
        }
        run.earlier = found.filter(|found| rules.outlives && found.engine == rules.engine);
        Ok(run)
    }

    /// The folder of the trial.
    pub fn folder(&self) -> &TrialFolder {
        &self.job.folder
    }

    /// The job that it is, or is to be.
    pub fn job(&self) -> Job {
        self.job.clone()
    }

    /// The job that an earlier search handed over, to be asked after.
    pub fn earlier_job(&self) -> Option<Job> {
        let record = self.earlier.as_ref()?;
        Some(Job { id: record.id.clone(), attempt: record.attempt, ..self.job.clone() })
    }

    /// Whether it can be handed over now.
    pub fn is_due(&self, now: Duration) -> bool {
        matches!(self.phase, Phase::Waiting { from } if from <= now)
    }

    /// Whether the engine has it.
    pub fn is_handed_over(&self) -> bool {
        matches!(self.phase, Phase::HandedOver { .. })
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// How it ended, where it is over.
    pub fn over(self) -> Option<Over> {
        match self.phase {
            Phase::Over(over) => Some(over),
            _ => None,
        }
    }

    /// When it is to be looked at although the engine has nothing new.
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting { from } => Some(from),
            _ => None,
        }
    }

    /// Goes on with the job of an earlier search, if it is still there.
    pub fn take_up(&mut self, state: &State, now: Duration, output: &Output) -> Result<()> {
        let Some(record) = self.earlier.take() else { return Ok(()) };
        match state {
            State::Waiting | State::Running => {
                let number = self.job.folder.trial();
                output.note(format_args!(
                    "trial {number}: its command was begun by an earlier search; waiting for its end"
                ));
                self.job.id = record.id;
                self.job.attempt = record.attempt;
                self.log_from = record.log_from;
                self.is_earlier = true;
                self.tries = 1;
                self.looked = true;
                // How long it ran before nobody knows.
                self.phase = Phase::HandedOver { begun: (*state == State::Running).then_some(now), stopped: false };
            }
            // It was never handed over: under the same name, so that it is not begun twice.
            State::Unknown => self.name_job(record.attempt),
            // Its result counts if it is good; otherwise it is run again, by a command that may have been mended.
            State::Ended(End::Exited(0)) => {}
            State::Ended(_) => self.put_aside()?,
        }
        Ok(())
    }

    /// Remembers that its job was asked to end at the limit.
    pub fn was_stopped(&mut self) {
        if let Phase::HandedOver { stopped, .. } = &mut self.phase {
            *stopped = true;
        }
    }

    /// Says once that a command of an earlier search still runs, and stops waiting for it at the limit.
    pub fn wait_for_folder(&mut self, rules: &Rules, now: Duration, output: &Output) -> Result<()> {
        let still = format!("trial {}: its command still runs, from an earlier search", self.job.folder.trial());
        let log = self.job.folder.log().display().to_string();
        match self.not_free {
            None => {
                self.not_free = Some(now);
                output.warn(format_args!("{still}; waiting for it to end ({log} is open)"));
                Ok(())
            }
            Some(since) if rules.limit.is_some_and(|limit| now.saturating_sub(since) >= limit) => {
                let message = format!("{still}, and holds {log} for longer than --trial-timeout; end it");
                Err(failure(Kind::TryAgain, message))
            }
            Some(_) => Ok(()),
        }
    }

    /// Takes a result that is there already.
    pub fn take_result(&mut self, rules: &Rules, output: &Output) -> bool {
        if std::mem::replace(&mut self.looked, true) {
            return false;
        }
        let Ok(scores) = self.result(rules) else { return false };
        let (number, path) = (self.job.folder.trial(), self.job.folder.path().display());
        output.note(format_args!("trial {number}: its result is there already, in {path}"));
        self.phase = Phase::Over(Over::Scored { scores, wall_seconds: None });
        true
    }

    /// Readies the folder for a job that is then handed over.
    pub fn prepare(&mut self, rules: &Rules, job: &Job) -> Result<()> {
        let folder = &self.job.folder;
        // What an attempt left that was cut off, or was no good.
        for left in [folder.result(), folder.gradients()] {
            if left.exists() {
                std::fs::remove_file(&left).with_context(|| format!("cannot remove {}", left.display()))?;
            }
        }
        let place = || folder.log().display().to_string();
        let mut log = File::options().create(true).append(true).open(folder.log()).with_context(place)?;
        writeln!(log, "trainer: attempt {}: {}", job.attempt, self.line).with_context(place)?;
        self.log_from = log.seek(SeekFrom::End(0)).with_context(place)?;
        if rules.outlives {
            let record = Record {
                engine: rules.engine.clone(),
                id: job.id.clone(),
                attempt: job.attempt,
                log_from: self.log_from,
                ended: false,
            };
            write_json(&self.record_path(), &record)?;
        }
        self.tries += 1;
        self.is_earlier = false;
        self.not_free = None;
        self.phase = Phase::HandedOver { begun: None, stopped: false };
        Ok(())
    }

    /// Takes in how its job is.
    pub fn observe(&mut self, state: &State, rules: &Rules, now: Duration, output: &Output) -> Result<Progress> {
        let number = self.job.folder.trial();
        let Phase::HandedOver { begun, stopped } = &mut self.phase else { return Ok(Progress::None) };
        match state {
            State::Waiting => Ok(Progress::None),
            State::Running => match *begun {
                None => {
                    *begun = Some(now);
                    let log = self.job.folder.log();
                    output.note(format_args!("trial {number}: started (its output: {})", log.display()));
                    Ok(Progress::Changed)
                }
                Some(begun) if !*stopped && rules.limit.is_some_and(|limit| now.saturating_sub(begun) >= limit) => {
                    Ok(Progress::Stop)
                }
                Some(_) => Ok(Progress::None),
            },
            State::Unknown => {
                let lost = format!("{} does not know it", rules.engine);
                if !self.lose(&lost, rules, now, output)? {
                    return Ok(Progress::Changed);
                }
                self.tries += 1;
                Ok(Progress::Again)
            }
            State::Ended(end) => {
                let wall_seconds = begun.map(|begun| now.saturating_sub(begun).as_secs_f64());
                let timed_out = *stopped;
                self.record_end(rules)?;
                self.end(end, timed_out, wall_seconds, rules, now, output)?;
                Ok(Progress::Changed)
            }
        }
    }

    /// Takes in how its job ended.
    fn end(
        &mut self,
        end: &End,
        timed_out: bool,
        wall_seconds: Option<f64>,
        rules: &Rules,
        now: Duration,
        output: &Output,
    ) -> Result<()> {
        let again = |what: String| Problem { kind: Kind::Failure, what, again: true };
        if !matches!(end, End::NeverBegan(_)) {
            self.kept_waiting = None;
        }
        let problem = match end {
            _ if timed_out => {
                let seconds = rules.limit.unwrap_or_default().as_secs();
                again(format!("the command was ended after {seconds} s, the limit of --trial-timeout"))
            }
            End::Exited(0) => {
                self.phase = Phase::Ended { at: now, wall_seconds };
                return self.settle(rules, now, output).map(drop);
            }
            End::NotShared(what) if began(&self.job) => {
                again(format!("the command failed with exit code {}", what.exit_code()))
            }
            // That may have been mended since.
            End::NotShared(what) if self.is_earlier => {
                let number = self.job.folder.trial();
                let error = self.not_shared(*what, rules);
                output.warn(format_args!("{error}; that was in an earlier search, and trial {number} is run again"));
                self.tries = 0;
                self.next_job(now);
                return Ok(());
            }
            End::NotShared(what) => return Err(self.not_shared(*what, rules)),
            // Where a shell is in between, that is its word for a program that cannot be started.
            End::Exited(code) if rules.outlives && NO_PROGRAM.contains(code) => Problem {
                kind: Kind::Usage,
                what: format!(
                    "the command cannot be started there (exit code {code}); give --trial a program that every machine of {} has, \
                     with its whole path",
                    rules.engine
                ),
                again: false,
            },
            End::Exited(code) => again(format!("the command failed with exit code {code}")),
            End::Killed(how) => again(format!("the command was ended by {how}")),
            End::Lost(how) => {
                if self.lose(how, rules, now, output)? {
                    self.next_job(now);
                }
                return Ok(());
            }
            End::NeverBegan(how)
                if self.kept_waiting.is_some_and(|since| now.saturating_sub(since) >= LONGEST_WAIT) =>
            {
                let hours = LONGEST_WAIT.as_secs() / 3600;
                let what = format!("{} had no place for it for {hours} hours, the last time so: {how}", rules.engine);
                Problem { kind: Kind::TryAgain, what, again: false }
            }
            // The engine is busy with others' jobs, or has no place that is large enough. It took its time to say so, so that
            // this cannot go on too fast.
            End::NeverBegan(how) => {
                self.kept_waiting.get_or_insert(now);
                self.tries = self.tries.saturating_sub(1);
                output.warn(format_args!("trial {}: {how}; it is handed over again", self.job.folder.trial()));
                self.next_job(now);
                return Ok(());
            }
        };
        self.fail(&problem, rules, now, output)
    }

    /// Keeps that its job has ended, so that another engine may run the trial.
    fn record_end(&self, rules: &Rules) -> Result<()> {
        if !rules.outlives {
            return Ok(());
        }
        let record = Record {
            engine: rules.engine.clone(),
            id: self.job.id.clone(),
            attempt: self.job.attempt,
            log_from: self.log_from,
            ended: true,
        };
        write_json(&self.record_path(), &record)
    }

    /// Looks for the result of a job that ended well; whether something changed.
    pub fn settle(&mut self, rules: &Rules, now: Duration, output: &Output) -> Result<bool> {
        let Phase::Ended { at, wall_seconds } = self.phase else { return Ok(false) };
        match self.result(rules) {
            Ok(scores) => {
                self.phase = Phase::Over(Over::Scored { scores, wall_seconds });
                Ok(true)
            }
            // On a shared disk it may be on its way.
            Err(problem) if problem.again && now.saturating_sub(at) < rules.file_delay => Ok(false),
            Err(problem) => self.fail(&problem, rules, now, output).map(|()| true),
        }
    }

    /// Counts a job that was lost by no fault of the command; whether it is to be run again.
    fn lose(&mut self, how: &str, rules: &Rules, now: Duration, output: &Output) -> Result<bool> {
        self.losses += 1;
        let number = self.job.folder.trial();
        if self.losses <= LOSSES {
            self.tries = self.tries.saturating_sub(1);
            self.put_aside()?;
            output.warn(format_args!("trial {number}: {how}; it is run again, and this is no attempt"));
            return Ok(true);
        }
        let what = format!("{} lost it {} times, the last time so: {how}", rules.engine, self.losses);
        self.fail(&Problem { kind: Kind::TryAgain, what, again: false }, rules, now, output)?;
        Ok(false)
    }

    fn fail(&mut self, problem: &Problem, rules: &Rules, now: Duration, output: &Output) -> Result<()> {
        // What a command wrote before it failed is no result, now or when the search goes on. A result that is no good lies
        // there to be looked at.
        if !matches!(self.phase, Phase::Ended { .. }) {
            self.put_aside()?;
        }
        let what = format!("trial {}: {}", self.job.folder.trial(), problem.what);
        let last = last_lines(&self.job.folder.log(), self.log_from);
        let attempts = rules.retries.saturating_add(1);
        if !problem.again || self.tries >= attempts {
            let tried = if self.tries == 1 { String::new() } else { format!(" ({} attempts)", self.tries) };
            let message = format!("{what}{tried}; to run it by hand: {}{last}", self.line);
            self.phase = Phase::Over(Over::Failed { kind: problem.kind, message });
            return Ok(());
        }
        let doublings = self.tries.saturating_sub(1).min(16);
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        output.warn(format_args!("{what}; attempt {} of {attempts} in {} s{last}", self.tries + 1, pause.as_secs()));
        self.next_job(now + pause);
        Ok(())
    }

    fn put_aside(&self) -> Result<()> {
        if self.job.folder.result().exists() {
            self.job.folder.refuse_result()?;
        }
        Ok(())
    }

    fn not_shared(&self, what: Unshared, rules: &Rules) -> anyhow::Error {
        let (folder, remedy) = match what {
            Unshared::Trials => {
                (self.job.folder.path().to_owned(), "search in a folder that all of them share, with --runs FOLDER")
            }
            Unshared::Here => (
                std::env::current_dir().unwrap_or_default(),
                "the command is to run there, as the search does: call it in a folder that all of them share",
            ),
        };
        let message = format!(
            "trial {}: a machine of {} has no folder {}; {remedy} (or take that machine out)",
            self.job.folder.trial(),
            rules.engine,
            folder.display()
        );
        failure(Kind::Usage, message)
    }

    /// The scores, where the trial is done.
    fn result(&self, rules: &Rules) -> Result<Scores, Problem> {
        let path = self.job.folder.result();
        let scores = (rules.read)(&path).map_err(|BadResult { kind, problem, again }| Problem {
            kind,
            what: format!("{} {problem}", path.display()),
            again,
        })?;
        let gradients = self.job.folder.gradients();
        if rules.needs_gradients && !gradients.exists() {
            let what = format!(
                "the command wrote no gradient log to {}, which the schedules are planned from; let it write one there \
                 (scripts/hydra_grad_logger.py does), or begin the search with --gradients LOG",
                gradients.display()
            );
            return Err(Problem { kind: Kind::Data, what, again: false });
        }
        Ok(scores)
    }

    /// Has a new job handed over from a moment on.
    fn next_job(&mut self, from: Duration) {
        self.name_job(self.job.attempt.saturating_add(1));
        self.phase = Phase::Waiting { from };
    }

    /// Gives the job the name of an attempt: the same for the same study, trial and attempt.
    fn name_job(&mut self, attempt: u32) {
        let folder = self.job.folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.job.id = format!("hydra-{}-{folder}-{attempt}", self.study);
        self.job.attempt = attempt;
    }

    fn record_path(&self) -> PathBuf {
        self.job.folder.path().join("job.json")
    }
}

/// The last lines of a log from a place on, each on a line of its own; nothing where there are none.
fn last_lines(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LAST_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    // What a progress bar drew over itself counts as it ended.
    let lines: Vec<&str> =
        text.lines().map(|line| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(line)).collect();
    let lines: Vec<&&str> = lines.iter().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(LAST_LINES));
    let shown: Vec<String> = shown.map(|line| format!("\n  {line}")).collect();
    match shown.as_slice() {
        [] => format!("\nits log, {}, is empty", log.display()),
        lines => format!("\nits log, {}, ends with:{}", log.display(), lines.concat()),
    }
}

#[cfg(test)]
mod tests {
    use hydra_shared::files::trial_folder::read_scores;

    use super::*;
    use crate::error::kind_of;

    const RULES: Rules = Rules {
        limit: None,
        retries: 0,
        needs_gradients: false,
        read: read_scores,
        file_delay: Duration::ZERO,
        outlives: true,
        engine: String::new(),
    };

    /// A trial whose first attempt an earlier search handed over, and that left a result.
    fn handed_over_before(folder: &Path, result: &str) -> Run {
        let folder = TrialFolder::named(folder, "0123", 0, 0);
        std::fs::create_dir_all(folder.path()).unwrap();
        std::fs::write(folder.result(), result).unwrap();
        let template = Template::parse("train {lora}").unwrap();
        let first = Run::new("a", folder.clone(), &template, &RULES, Duration::ZERO).unwrap();
        let record = Record { engine: String::new(), id: first.job().id, attempt: 1, log_from: 0, ended: false };
        write_json(&first.record_path(), &record).unwrap();
        Run::new("a", folder, &template, &RULES, Duration::ZERO).unwrap()
    }

    #[test]
    fn what_an_earlier_search_handed_over_counts_if_it_is_good_and_is_run_again_otherwise() {
        let output = Output::new(false, true);
        let (good, nan) = ("{\"scores\": {\"a\": 1}}", "{\"scores\": {\"a\": NaN}}");
        let lost = End::Lost("its machine died".to_owned());
        for (result, end, taken) in [
            (good, End::Exited(0), true),
            (nan, End::Exited(0), false),
            (good, End::Exited(3), false),
            (good, lost, false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut run = handed_over_before(folder.path(), result);
            assert_eq!(run.earlier_job().map(|job| (job.id, job.attempt)), Some(("hydra-a-0123-1".to_owned(), 1)));
            run.take_up(&State::Ended(end.clone()), Duration::ZERO, &output).unwrap();
            assert!(run.earlier_job().is_none());
            assert_eq!(run.take_result(&RULES, &output), taken, "{end:?} with {result}");
            assert_eq!((run.is_due(Duration::ZERO), run.job().attempt), (!taken, 2));
        }
        let folder = tempfile::tempdir().unwrap();
        let mut run = handed_over_before(folder.path(), good);
        run.take_up(&State::Unknown, Duration::ZERO, &output).unwrap();
        assert_eq!(run.job().id, "hydra-a-0123-1", "what nobody took is handed over under its name");
        let mut run = handed_over_before(folder.path(), good);
        run.take_up(&State::Running, Duration::ZERO, &output).unwrap();
        assert!(run.is_handed_over() && run.job().attempt == 1);
    }

    #[test]
    fn what_runs_on_another_cluster_is_not_begun_beside_it_until_it_was_seen_to_end() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let template = Template::parse("train {lora}").unwrap();
        let on = |engine: &str, outlives: bool| {
            let rules = Rules { engine: engine.to_owned(), outlives, ..RULES };
            let run = Run::new("a", TrialFolder::named(folder.path(), "0123", 0, 0), &template, &rules, Duration::ZERO);
            (run, rules)
        };
        let (run, rules) = on("Slurm", true);
        let mut run = run.unwrap();
        std::fs::create_dir_all(run.folder().path()).unwrap();
        run.prepare(&rules, &run.job()).unwrap();
        for (engine, outlives) in [("Ray at http://127.0.0.1:8265", true), ("this machine", false)] {
            let error = on(engine, outlives).0.err().unwrap();
            assert_eq!(kind_of(&error), Kind::Usage);
            for part in ["handed over to Slurm as hydra-a-0123-1", "job.json"] {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
        assert!(on("Slurm", true).0.unwrap().earlier_job().is_some());
        run.observe(&State::Ended(End::Exited(3)), &rules, Duration::ZERO, &output).unwrap();
        assert!(on("this machine", false).0.is_ok());
    }

    #[test]
    fn a_message_ends_with_the_last_ten_lines_of_its_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.txt");
        let lines: Vec<String> = (0..30).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&log, lines.concat()).unwrap();
        let text = last_lines(&log, 0);
        assert!(text.contains("log.txt, ends with:\n  line 20\n") && text.ends_with("\n  line 29"), "{text}");
        let begin = lines[..28].concat().len() as u64;
        assert!(last_lines(&log, begin).ends_with("ends with:\n  line 28\n  line 29"));
        std::fs::write(&log, "0 %\r50 %\r100 %\ndone\n\n").unwrap();
        assert!(last_lines(&log, 0).ends_with("ends with:\n  100 %\n  done"));
        assert!(last_lines(&folder.path().join("none"), 0).ends_with("is empty"));
    }
}
