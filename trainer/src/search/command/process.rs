//! A program that is run with its output in a file, and ended with all that it started.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks at a program that runs.
pub const LOOK: Duration = Duration::from_millis(20);
/// How long a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How a program ended.
#[derive(Debug)]
pub enum End {
    /// By itself, or by somebody else's signal.
    Exited(ExitStatus),
    /// At the time limit.
    TimedOut,
    /// Because it was to stop.
    Stopped,
}

/// Runs a program to its end, with nothing on its standard input and both outputs in `log`. At the limit, or when `stop` says
/// so, it is asked to end together with everything in its process group, and made to when it does not.
///
/// # Errors
/// A program that cannot be started.
pub fn run(
    words: &[OsString],
    environment: Vec<(String, OsString)>,
    log: &File,
    limit: Option<Duration>,
    stop: &dyn Fn() -> bool,
) -> io::Result<End> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(environment);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        let end = if stop() {
            End::Stopped
        } else if limit.is_some_and(|limit| started.elapsed() >= limit) {
            End::TimedOut
        } else {
            sleep(LOOK);
            continue;
        };
        end_group(&mut child)?;
        return Ok(end);
    }
}

/// Asks a process group to end, and makes it.
#[cfg(unix)]
fn end_group(child: &mut Child) -> io::Result<()> {
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    let Ok(id) = i32::try_from(child.id()) else { return child.kill() };
    let group = Pid::from_raw(id);
    // A group that is gone already needs no signal.
    let _ = killpg(group, Signal::SIGTERM);
    let asked = Instant::now();
    while child.try_wait()?.is_none() && asked.elapsed() < GRACE {
        sleep(LOOK);
    }
    // What the program started may outlive it.
    let _ = killpg(group, Signal::SIGKILL);
    child.wait().map(drop)
}

/// Ends a program. What it started is not known here.
#[cfg(not(unix))]
fn end_group(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn run_shell(script: &str, limit: Option<Duration>, stop: bool) -> (End, String, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let log = File::create(&path).unwrap();
        let words = ["sh", "-c", script].map(OsString::from);
        let started = Instant::now();
        let end = run(&words, vec![("WORD".to_owned(), "said".into())], &log, limit, &|| stop).unwrap();
        (end, std::fs::read_to_string(path).unwrap(), started.elapsed())
    }

    #[test]
    fn both_outputs_are_in_the_log_and_the_exit_code_is_known() {
        let (end, log, _) = run_shell("echo $WORD; echo so >&2; exit 3", None, false);
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)), "{end:?}");
        assert_eq!(log, "said\nso\n");
    }

    #[test]
    fn a_program_and_what_it_started_end_at_the_limit_and_when_they_are_to_stop() {
        let limit = Some(Duration::from_millis(200));
        for (limit, stop) in [(limit, false), (None, true)] {
            let (end, _, took) = run_shell("sleep 60 & wait", limit, stop);
            assert!(matches!(end, End::TimedOut | End::Stopped), "{end:?}");
            assert!(took < Duration::from_secs(30), "{took:?}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let log = tempfile::tempfile().unwrap();
        let words = [OsString::from("/nowhere/train")];
        assert_eq!(run(&words, Vec::new(), &log, None, &|| false).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
