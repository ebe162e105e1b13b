//! Trials that a command runs: somebody else's training, in any language.
//!
//! A trial is a folder with what the command is given ([`folder`]), the command with the folder's paths in it ([`template`]), and
//! a process that is run until it ends well or has been tried often enough (`process`). The same folder is the same trial:
//! a valid result in it is taken and the command not run again, and a command that is still running from an earlier search is
//! waited for.

mod process;
pub mod template;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hydra_shared::files::trial_folder::{self as folder, BadResult, TrialFolder, read_scores};
use hydra_shared::search::{Outcome, Study, Trial};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use self::process::{End, LOOK};
use self::template::{Template, environment};
use super::drive::Evaluator;
use crate::error::{Kind, failure};
use crate::interrupt;
use crate::output::Output;

/// Pause before the first new attempt; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Lines of the log that a message ends with.
const LAST_LINES: usize = 10;
/// What of the end of a log is looked at for them.
const LAST_BYTES: u64 = 16 << 10;

/// How trials are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self { command: String::new(), parallel: 1, timeout: None, retries: 2 }
    }
}

/// Scores by task.
type Scores = IndexMap<String, f64>;
/// Makes the folder of a trial.
type FolderOf<'a> = Box<dyn Fn(&Trial) -> Result<TrialFolder> + 'a>;

/// Trials that run as processes of this machine.
pub struct CommandTrials<'a> {
    template: Template,
    limit: Option<Duration>,
    retries: u32,
    folder_of: FolderOf<'a>,
    output: &'a Output,
    /// Whether a trial counts as done only with a gradient log.
    pub needs_gradients: bool,
    running: BTreeMap<usize, Running>,
    /// Set where no further trial will be waited for.
    stop: Arc<AtomicBool>,
}

struct Running {
    folder: TrialFolder,
    thread: JoinHandle<Result<Attempted>>,
}

impl<'a> CommandTrials<'a> {
    /// Trials of this command, each in the folder that `folder_of` makes for it.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn new(
        config: &TrialConfig,
        output: &'a Output,
        folder_of: impl Fn(&Trial) -> Result<TrialFolder> + 'a,
    ) -> Result<Self> {
        Ok(Self {
            template: Template::parse(&config.command)?,
            limit: config.timeout.map(Duration::from_secs),
            retries: config.retries,
            folder_of: Box::new(folder_of),
            output,
            needs_gradients: false,
            running: BTreeMap::new(),
            stop: Arc::default(),
        })
    }
}

impl Evaluator for CommandTrials<'_> {
    fn start(&mut self, trial: &Trial) -> Result<()> {
        let folder = (self.folder_of)(trial)?;
        let task = Task {
            words: self.template.words(&folder),
            line: self.template.line(&folder),
            folder: folder.clone(),
            limit: self.limit,
            retries: self.retries,
            needs_gradients: self.needs_gradients,
            output: self.output.clone(),
            stop: Arc::clone(&self.stop),
        };
        let thread = std::thread::Builder::new().name(format!("trial {}", trial.number)).spawn(move || task.run())?;
        self.running.insert(trial.number, Running { folder, thread });
        Ok(())
    }

    fn finish(&mut self, trial: &Trial, study: &Study) -> Result<Outcome> {
        let number = trial.number;
        let unknown = || failure(Kind::Failure, format!("trial {number} was never begun"));
        let Running { folder, thread } = self.running.remove(&number).ok_or_else(unknown)?;
        let died = |_| failure(Kind::Failure, format!("the thread of trial {number} died"));
        match thread.join().map_err(died)?? {
            Attempted::Scored { scores, wall_seconds } => {
                check_tasks(number, &folder, &scores, &study.metadata.benchmarks)?;
                Ok(Outcome::Complete { scores, wall_seconds })
            }
            // Where no trial has been scored yet, the command is more likely to blame than the schedule.
            Attempted::Failed { kind, message } if study.complete().next().is_none() => Err(failure(
                kind,
                format!(
                    "{message}\nno trial has been scored yet, so the search stops here; \
                                           the trial is run again when it goes on"
                ),
            )),
            Attempted::Failed { message, .. } => {
                self.output.warn(format_args!("{message}\nit counts as failed, and the search goes on"));
                Ok(Outcome::Failed { error: message, wall_seconds: None })
            }
        }
    }
}

impl Drop for CommandTrials<'_> {
    /// Ends the commands that still run.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for Running { thread, .. } in std::mem::take(&mut self.running).into_values() {
            // What went wrong has been reported, or nobody waits for it any more.
            drop(thread.join());
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

/// How a trial's attempts ended.
enum Attempted {
    Scored {
        scores: Scores,
        wall_seconds: Option<f64>,
    },
    /// Every attempt failed: what is said of the last.
    Failed {
        kind: Kind,
        message: String,
    },
}

/// Why an attempt failed.
struct Problem {
    kind: Kind,
    what: String,
    /// Whether the same command may do better.
    again: bool,
}

/// All that one trial needs.
struct Task {
    folder: TrialFolder,
    words: Vec<std::ffi::OsString>,
    /// The words as a line for a shell.
    line: String,
    limit: Option<Duration>,
    retries: u32,
    needs_gradients: bool,
    output: Output,
    stop: Arc<AtomicBool>,
}

impl Task {
    fn run(&self) -> Result<Attempted> {
        let number = self.folder.trial();
        let mut log = self.hold_log()?;
        if let Ok(scores) = self.result() {
            self.output
                .note(format_args!("trial {number}: its result is there already, in {}", self.folder.path().display()));
            return Ok(Attempted::Scored { scores, wall_seconds: None });
        }
        let attempts = self.retries.saturating_add(1);
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=attempts {
            let started = Instant::now();
            let (problem, from) = match self.attempt(&mut log, attempt)? {
                (Ok(scores), _) => {
                    let wall_seconds = Some(started.elapsed().as_secs_f64());
                    return Ok(Attempted::Scored { scores, wall_seconds });
                }
                (Err(problem), from) => (problem, from),
            };
            let what = format!("trial {number}: {}", problem.what);
            if !problem.again || attempt >= attempts {
                let tried = if attempt == 1 { String::new() } else { format!(" ({attempt} attempts)") };
                let message = format!("{what}{tried}; {}{}", self.remedy(), last_lines(&self.folder.log(), from));
                return Ok(Attempted::Failed { kind: problem.kind, message });
            }
            self.output.warn(format_args!(
                "{what}; attempt {} of {attempts} in {} s{}",
                attempt + 1,
                pause.as_secs(),
                last_lines(&self.folder.log(), from)
            ));
            self.wait(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(failure(Kind::Failure, format!("trial {number}: too many attempts")))
    }

    /// Runs the command once. With what came of it, where in the log its output begins.
    fn attempt(&self, log: &mut File, attempt: u32) -> Result<(Result<Scores, Problem>, u64)> {
        // What an attempt left that was cut off, or was no good.
        for left in [self.folder.result(), self.folder.gradients()] {
            if left.exists() {
                std::fs::remove_file(&left).with_context(|| format!("cannot remove {}", left.display()))?;
            }
        }
        writeln!(log, "trainer: attempt {attempt}: {}", self.line).with_context(|| self.log_name())?;
        let from = log.seek(SeekFrom::End(0)).with_context(|| self.log_name())?;
        let note = format!("trial {}: started (its output: {})", self.folder.trial(), self.log_name());
        self.output.note(note);
        let ended = process::run(&self.words, environment(&self.folder), log, self.limit, &|| self.must_stop());
        let failed = |what: String| {
            // Whatever it wrote before it failed is no result, now or when the search goes on.
            if self.folder.result().exists() {
                self.folder.refuse_result()?;
            }
            Ok((Err(Problem { kind: Kind::Failure, what, again: true }), from))
        };
        match ended {
            Err(error) => Err(self.cannot_start(&error)),
            Ok(End::Stopped) => Err(interrupted()),
            Ok(End::TimedOut) => {
                let seconds = self.limit.unwrap_or_default().as_secs();
                failed(format!("the command was ended after {seconds} s, the limit of --trial-timeout"))
            }
            Ok(End::Exited(status)) if !status.success() => match status.code() {
                Some(code) => failed(format!("the command failed with exit code {code}")),
                None => failed(format!("the command was ended by a signal ({status})")),
            },
            Ok(End::Exited(_)) => Ok((self.result(), from)),
        }
    }

    /// The scores, where the trial is done.
    fn result(&self) -> Result<Scores, Problem> {
        let path = self.folder.result();
        let scores = read_scores(&path).map_err(|BadResult { kind, problem, again }| Problem {
            kind,
            what: format!("{} {problem}", path.display()),
            again,
        })?;
        let gradients = self.folder.gradients();
        if self.needs_gradients && !gradients.exists() {
            let what = format!(
                "the command wrote no gradient log to {}, which the schedules are planned from; let it write one there \
                 (scripts/hydra_grad_logger.py does), or begin the search with --gradients LOG",
                gradients.display()
            );
            return Err(Problem { kind: Kind::Data, what, again: false });
        }
        Ok(scores)
    }

    /// Opens the log and holds it: a command keeps what it writes into open, so that one of an earlier search is noticed, and
    /// waited for.
    fn hold_log(&self) -> Result<File> {
        let path = self.folder.log();
        let log = File::options().create(true).append(true).read(true).open(&path).with_context(|| self.log_name())?;
        if !cfg!(unix) {
            // Elsewhere a lock would keep the command from writing.
            return Ok(log);
        }
        let begun = Instant::now();
        let still = format!("trial {}: its command still runs, from an earlier search", self.folder.trial());
        let mut told = false;
        loop {
            match log.try_lock() {
                Ok(()) => return Ok(log),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| self.log_name()),
            }
            if self.limit.is_some_and(|limit| begun.elapsed() >= limit) {
                let message = format!("{still}, and holds {} for longer than --trial-timeout; end it", self.log_name());
                return Err(failure(Kind::TryAgain, message));
            }
            if !told {
                told = true;
                self.output.warn(format_args!("{still}; waiting for it to end ({} is open)", self.log_name()));
            }
            self.wait(LOOK)?;
        }
    }

    fn wait(&self, time: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            if self.must_stop() {
                return Err(interrupted());
            }
            sleep(LOOK.min(time));
        }
        Ok(())
    }

    fn must_stop(&self) -> bool {
        interrupt::requested() || self.stop.load(Ordering::SeqCst)
    }

    fn log_name(&self) -> String {
        self.folder.log().display().to_string()
    }

    fn cannot_start(&self, error: &std::io::Error) -> anyhow::Error {
        let program = self.words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        let message = format!(
            "trial {}: the command cannot be started: {program}: {error}; give --trial a program that is there (no shell reads \
             the command: `sh -c '…'` is one)",
            self.folder.trial()
        );
        failure(Kind::Usage, message)
    }

    fn remedy(&self) -> String {
        format!("to run it by hand: {}", self.line)
    }
}

fn interrupted() -> anyhow::Error {
    failure(Kind::Interrupted, "interrupted during a trial")
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
    use super::*;

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
