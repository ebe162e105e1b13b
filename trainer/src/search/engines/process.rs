//! A program that runs with its output in a file, and is ended with all that it started.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two looks at one that is to end.
const LOOK: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By a signal, which is named.
    Killed(String),
}

/// A program that runs, with everything that it starts.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// When it was asked to end.
    asked: Option<Instant>,
}

impl Process {
    /// Starts a program with nothing on its standard input and both outputs in `log`.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(words: &[OsString], environment: Vec<(String, OsString)>, log: &File) -> io::Result<Self> {
        let (program, arguments) =
            words.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(environment);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Self { child: command.spawn()?, asked: None })
    }

    /// How it ended, if it did. One that was asked to end and did not in time is made to.
    ///
    /// # Errors
    /// A process that the system does not tell of.
    pub fn look(&mut self) -> io::Result<Option<Ended>> {
        if let Some(status) = self.child.try_wait()? {
            if self.asked.is_some() {
                // What the program started may outlive it.
                self.kill();
            }
            return Ok(Some(match status.code() {
                Some(code) => Ended::Exited(code),
                None => Ended::Killed(status.to_string()),
            }));
        }
        if self.asked.is_some_and(|asked| asked.elapsed() >= GRACE) {
            self.kill();
        }
        Ok(None)
    }

    /// Asks it to end, with everything in its process group.
    pub fn ask_to_end(&mut self) {
        if self.asked.is_none() {
            self.asked = Some(Instant::now());
            self.signal(false);
        }
    }

    /// Waits until it has ended; asked to end, it does.
    pub fn wait(&mut self) {
        // A process that the system does not tell of cannot be waited for.
        while matches!(self.look(), Ok(None)) {
            sleep(LOOK);
        }
    }

    fn kill(&mut self) {
        self.signal(true);
    }

    #[cfg(unix)]
    fn signal(&mut self, kill: bool) {
        use nix::sys::signal::{Signal, killpg};
        use nix::unistd::Pid;

        let signal = if kill { Signal::SIGKILL } else { Signal::SIGTERM };
        match i32::try_from(self.child.id()) {
            // A group that is gone already needs no signal.
            Ok(id) => drop(killpg(Pid::from_raw(id), signal)),
            Err(_) => drop(self.child.kill()),
        }
    }

    /// What it started is not known here.
    #[cfg(not(unix))]
    fn signal(&mut self, _kill: bool) {
        drop(self.child.kill());
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn run_shell(script: &str, stop_after: Option<Duration>) -> (Ended, String, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let log = File::create(&path).unwrap();
        let words = ["sh", "-c", script].map(OsString::from);
        let started = Instant::now();
        let mut process = Process::start(&words, vec![("WORD".to_owned(), "said".into())], &log).unwrap();
        let ended = loop {
            if let Some(ended) = process.look().unwrap() {
                break ended;
            }
            if stop_after.is_some_and(|after| started.elapsed() >= after) {
                process.ask_to_end();
            }
            sleep(LOOK);
        };
        (ended, std::fs::read_to_string(path).unwrap(), started.elapsed())
    }

    #[test]
    fn both_outputs_are_in_the_log_and_the_exit_code_is_known() {
        let (ended, log, _) = run_shell("echo $WORD; echo so >&2; exit 3", None);
        assert_eq!(ended, Ended::Exited(3));
        assert_eq!(log, "said\nso\n");
    }

    #[test]
    fn a_program_and_what_it_started_end_when_they_are_asked_to() {
        let (ended, _, took) = run_shell("sleep 60 & wait", Some(Duration::from_millis(200)));
        assert!(matches!(ended, Ended::Killed(_) | Ended::Exited(_)), "{ended:?}");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let log = tempfile::tempfile().unwrap();
        let words = [OsString::from("/nowhere/train")];
        assert_eq!(Process::start(&words, Vec::new(), &log).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
