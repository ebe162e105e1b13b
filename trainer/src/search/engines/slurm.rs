//! Slurm clusters, through its commands, which must be here. What is ready at one time becomes one array.
//!
//! No accounting is needed: each task leaves a file with its exit code. What `squeue` says counts only for tasks that left
//! none, because they wait, run, or were ended from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hydra_shared::files::digest::sha256_hex;
use hydra_shared::shell::word;
use serde::{Deserialize, Serialize};

use super::{Answer, End, Engine, Fault, Job, NOT_HERE, NOT_SHARED, Resources, State, Unshared, script};
use crate::error::{Kind, failure};
use crate::runs::atomic::{write_file, write_json};

/// Tasks in an array, unless the cluster says otherwise: Slurm's own default of MaxArraySize.
const ARRAY: usize = 1001;
/// How long a task that is over, or that Slurm does not list, may take to be heard of by its file.
const FILE_DELAY: Duration = Duration::from_secs(30);
/// After how long tasks are handed over again that were more than a user may have waiting.
const FULL_PAUSE: Duration = Duration::from_secs(60);
/// States in which a task has not begun.
const WAITING: [&str; 4] = ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"];
/// States in which it runs.
const RUNNING: [&str; 7] = ["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"];

/// A Slurm cluster.
pub struct Slurm {
    /// Arguments of `sbatch`.
    arguments: Vec<String>,
    /// What is kept for tasks: `<id>.json`, `<id>.exit`, and a folder for each array.
    folder: PathBuf,
    /// Most tasks in an array.
    array: usize,
    /// Arrays of this run so far.
    arrays: usize,
    /// Since when a task is over, or not listed, without having left its file.
    silent: BTreeMap<String, Instant>,
    /// Tasks of arrays of which nobody knows whether Slurm took them: it could not be reached.
    unsure: BTreeSet<String>,
    /// Since when Slurm takes no more, because too many wait.
    full: Option<Instant>,
}

/// Where in which array a task is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    /// Name of the array.
    array: String,
    index: usize,
}

/// What `squeue` says of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// As `scancel` takes it.
    id: String,
    state: String,
    reason: String,
}

impl Slurm {
    /// The cluster that this machine's commands speak to; `folder` must be seen by all its nodes.
    ///
    /// # Errors
    /// [`Kind::Usage`] where there are no such commands, a part of a CPU or GPU, custom resources.
    pub fn new(options: &[String], resources: &Resources, limit: Option<Duration>, folder: &Path) -> Result<Self> {
        if let Some(name) = resources.custom.keys().next() {
            let message = format!("trial.resources.custom: {name} is for Ray; for Slurm give slurm:--gres={name}:1");
            return Err(failure(Kind::Usage, message));
        }
        let mut arguments = Vec::new();
        let mut add =
            |name: &str, value: Option<String>| arguments.extend(value.map(|value| format!("{name}={value}")));
        add("--cpus-per-task", resources.whole_cpus()?.map(|count| count.to_string()));
        add("--gres", resources.whole_gpus()?.map(|count| format!("gpu:{count}")));
        add("--mem", resources.memory.map(|memory| format!("{}M", (memory * 1024.0).ceil())));
        // A minute more: the submitter's limit counts from when it sees the task run.
        add("--time", limit.map(|limit| (limit.as_secs().div_ceil(60) + 1).to_string()));
        arguments.extend_from_slice(options);
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let folder = std::path::absolute(folder)?;
        let config = run("scontrol", &["show", "config"]).map_err(|fault| match fault {
            Fault::Refused(error) => error,
            Fault::Unreachable(why) => failure(Kind::TryAgain, format!("--executor slurm: {why}")),
        })?;
        Ok(Self {
            arguments,
            folder,
            array: array_size(&config),
            arrays: 0,
            silent: BTreeMap::new(),
            unsure: BTreeSet::new(),
            full: None,
        })
    }

    fn record(&self, job: &Job) -> PathBuf {
        self.folder.join(format!("{}.json", job.id))
    }

    fn exit(&self, job: &Job) -> PathBuf {
        self.folder.join(format!("{}.exit", job.id))
    }

    fn place(&self, job: &Job) -> Option<Place> {
        serde_json::from_slice(&std::fs::read(self.record(job)).ok()?).ok()
    }

    /// Hands over one array; `false` where it is more than may wait.
    fn submit_array(&mut self, jobs: &[Job]) -> Answer<bool> {
        let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        let hash = sha256_hex(ids.join(" ").as_bytes());
        let name = format!("hydra-{}-{}", hash.get(..12).unwrap_or_default(), self.arrays);
        self.arrays += 1;
        let folder = self.folder.join(&name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for (index, job) in jobs.iter().enumerate() {
            script::write(job)?;
            write_file(&folder.join(format!("{index}.sh")), self.task(job).as_bytes())?;
            // Before the array is handed over, so that a task is found again whenever this program dies.
            write_json(&self.record(job), &Place { array: name.clone(), index })?;
        }
        let batch = folder.join("array.sh");
        write_file(&batch, array_script(&folder).as_bytes())?;
        // The command's output is in its log; a file that a node cannot open would fail the task before it begins. New attempts
        // are the submitter's.
        let mut arguments = vec!["--output=/dev/null".to_owned(), "--no-requeue".to_owned()];
        arguments.extend_from_slice(&self.arguments);
        // The last of an option counts: tasks are found by these.
        arguments.extend([
            "--parsable".to_owned(),
            format!("--job-name={name}"),
            format!("--array=0-{}", jobs.len() - 1),
            batch.to_string_lossy().into_owned(),
        ]);
        match run("sbatch", &arguments) {
            Ok(_) => {
                for job in jobs {
                    self.unsure.remove(&job.id);
                }
                Ok(true)
            }
            Err(Fault::Unreachable(why)) if is_full(&why) => {
                jobs.iter().try_for_each(|job| self.forget(job))?;
                Ok(false)
            }
            Err(fault) => {
                self.unsure.extend(jobs.iter().map(|job| job.id.clone()));
                Err(fault)
            }
        }
    }

    /// Forgets that a job was handed over.
    fn forget(&mut self, job: &Job) -> Result<()> {
        self.unsure.remove(&job.id);
        let record = self.record(job);
        std::fs::remove_file(&record).with_context(|| record.display().to_string())
    }

    /// The script of a task: the command's, and a file with its exit code.
    fn task(&self, job: &Job) -> String {
        let exit = self.exit(job).to_string_lossy().into_owned();
        let part = format!("{exit}.part");
        format!(
            "#!/bin/sh\n( {} )\nstatus=$?\nprintf '%s\\n' \"$status\" >{part} && mv {part} {}\nexit \"$status\"\n",
            script::line(job),
            word(&exit),
            part = word(&part)
        )
    }

    /// What Slurm lists of these arrays, by name and index.
    fn list(&self, names: &[&str]) -> Answer<BTreeMap<(String, usize), Listed>> {
        let names = format!("--name={}", names.join(","));
        let arguments = ["--noheader", "--array", "--states=all", "--format=%j|%F|%K|%T|%r", &names];
        Ok(parse_list(&run("squeue", &arguments)?))
    }

    /// How a task is that left no exit code.
    fn without_exit(&mut self, job: &Job, listed: Option<&Listed>) -> Answer<State> {
        if listed.is_some() {
            self.unsure.remove(&job.id);
        }
        match listed {
            Some(task) if WAITING.contains(&task.state.as_str()) => {
                self.silent.remove(&job.id);
                return Ok(State::Waiting);
            }
            Some(task) if RUNNING.contains(&task.state.as_str()) => {
                self.silent.remove(&job.id);
                return Ok(State::Running);
            }
            _ => {}
        }
        let since = *self.silent.entry(job.id.clone()).or_insert_with(Instant::now);
        if since.elapsed() < FILE_DELAY {
            return Ok(if listed.is_some() { State::Running } else { State::Waiting });
        }
        self.silent.remove(&job.id);
        if listed.is_none() && self.unsure.contains(&job.id) {
            self.forget(job)?;
            return Ok(State::Unknown);
        }
        let Some(task) = listed else {
            return Ok(State::Ended(End::Lost("Slurm lists it no longer, and it left no exit code".to_owned())));
        };
        let shown = run("scontrol", &["show", "job", &task.id]).unwrap_or_default();
        Ok(State::Ended(end(task, exit_code(&shown))))
    }
}

/// Hands over parts of at most so many, and smaller ones where that is too much; whether all were taken. What was not is left.
fn as_many_as_fit<T>(all: &[T], mut most: usize, mut hand_over: impl FnMut(&[T]) -> Answer<bool>) -> Answer<bool> {
    let mut left = all;
    while !left.is_empty() {
        let (now, later) = left.split_at(most.min(left.len()));
        if hand_over(now)? {
            left = later;
        } else if now.len() > 1 {
            most = now.len() / 2;
        } else {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What Slurm runs for each task: the script of its index.
fn array_script(folder: &Path) -> String {
    let folder = word(&folder.to_string_lossy()).into_owned();
    format!(
        "#!/bin/sh\ntask={folder}/$SLURM_ARRAY_TASK_ID.sh\n[ -f \"$task\" ] || exit {NOT_SHARED}\nexec sh \"$task\"\n"
    )
}

/// Runs one of Slurm's commands and gives what it prints.
fn run(program: &str, arguments: &[impl AsRef<str>]) -> Answer<String> {
    let arguments = arguments.iter().map(AsRef::as_ref);
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|error| {
        let what = if error.kind() == io::ErrorKind::NotFound {
            format!(
                "--executor slurm: {program} is not on this machine; search where Slurm's commands are, on a login node"
            )
        } else {
            format!("--executor slurm: {program}: {error}")
        };
        failure(Kind::Usage, what)
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(fault(program, &output))
}

/// Why a command of Slurm's failed.
fn fault(program: &str, output: &Output) -> Fault {
    let said = String::from_utf8_lossy(&output.stderr);
    let told = said.lines().find(|line| is_full(line));
    let line = told.or_else(|| said.lines().rev().find(|line| !line.trim().is_empty())).unwrap_or("it says nothing");
    let message = format!("{program}: {}", line.trim());
    // What passes by itself: a controller that restarts or is busy, and what more than may wait is refused with.
    let passing = ["contact", "connect", "timed out", "temporarily", "send/recv", "Communication"];
    if passing.iter().any(|word| said.contains(word)) || is_full(&said) {
        return Fault::Unreachable(message);
    }
    let remedy = "mend the options of --executor slurm:OPTIONS, which sbatch is given";
    Fault::Refused(failure(Kind::Usage, format!("--executor slurm: {message}; {remedy}")))
}

/// Whether Slurm says that more jobs wait than may.
fn is_full(said: &str) -> bool {
    ["MaxSubmitJob", "MaxJobCount"].iter().any(|word| said.contains(word))
}

/// The most tasks of an array: the largest index is one below MaxArraySize.
fn array_size(config: &str) -> usize {
    let line = config.lines().find_map(|line| line.trim_start().strip_prefix("MaxArraySize"));
    let size = line.and_then(|rest| rest.trim_start_matches([' ', '=']).trim().parse().ok());
    size.unwrap_or(ARRAY).max(1)
}

fn parse_list(text: &str) -> BTreeMap<(String, usize), Listed> {
    let task = |line: &str| {
        let mut fields = line.trim().splitn(5, '|');
        let (name, array, index) = (fields.next()?, fields.next()?, fields.next()?);
        let (state, reason) = (fields.next()?, fields.next()?);
        let place = (name.to_owned(), index.parse().ok()?);
        let id = format!("{array}_{index}");
        Some((place, Listed { id, state: state.to_owned(), reason: reason.to_owned() }))
    };
    text.lines().filter_map(task).collect()
}

/// The exit code in what `scontrol show job` prints, `ExitCode=status:signal`.
fn exit_code(shown: &str) -> Option<i32> {
    let value = shown.split_whitespace().find_map(|word| word.strip_prefix("ExitCode="))?;
    value.split(':').next()?.parse().ok()
}

/// How a task ended that left no exit code.
fn end(task: &Listed, code: Option<i32>) -> End {
    match (task.state.as_str(), code) {
        (_, Some(NOT_SHARED)) => End::NotShared(Unshared::Trials),
        (_, Some(NOT_HERE)) => End::NotShared(Unshared::Here),
        ("TIMEOUT", _) => End::Killed("Slurm, at its own time limit (--time)".to_owned()),
        ("OUT_OF_MEMORY", _) => End::Killed("Slurm, because it used more memory than it asked for (--mem)".to_owned()),
        ("FAILED", Some(code)) if code != 0 => End::Exited(code),
        (state, _) => End::Lost(format!("Slurm says {state}, {}", task.reason)),
    }
}

/// How a command ended by the exit code that a shell gives it.
fn end_of(code: i32) -> End {
    match code {
        NOT_SHARED => End::NotShared(Unshared::Trials),
        NOT_HERE => End::NotShared(Unshared::Here),
        129..=192 => End::Killed(format!("signal {}", code - 128)),
        code => End::Exited(code),
    }
}

impl Engine for Slurm {
    fn room(&mut self) -> Answer<usize> {
        // Waiting is what Slurm is for.
        Ok(usize::MAX)
    }

    fn is_free(&mut self, _job: &Job) -> Answer<bool> {
        Ok(true)
    }

    fn submit(&mut self, jobs: &[Job]) -> Answer<()> {
        if self.full.is_some_and(|since| since.elapsed() < FULL_PAUSE) {
            return Ok(());
        }
        let most = self.array;
        let all = as_many_as_fit(jobs, most, |jobs| self.submit_array(jobs))?;
        self.full = (!all).then(Instant::now);
        Ok(())
    }

    fn look(&mut self, jobs: &[&Job]) -> Answer<Vec<State>> {
        let exits: Vec<Option<i32>> = jobs.iter().map(|job| read_exit(&self.exit(job))).collect();
        let places: Vec<Option<Place>> = jobs.iter().map(|job| self.place(job)).collect();
        let unknown =
            places.iter().zip(&exits).filter(|(_, exit)| exit.is_none()).filter_map(|(place, _)| place.as_ref());
        let mut names: Vec<&str> = unknown.map(|place| place.array.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let listed = if names.is_empty() { BTreeMap::new() } else { self.list(&names)? };
        let mut states = Vec::with_capacity(jobs.len());
        for ((job, exit), place) in jobs.iter().zip(exits).zip(places) {
            states.push(match (exit, place) {
                (Some(code), _) => {
                    self.silent.remove(&job.id);
                    State::Ended(end_of(code))
                }
                (None, None) => State::Unknown,
                (None, Some(place)) => self.without_exit(job, listed.get(&(place.array, place.index)))?,
            });
        }
        Ok(states)
    }

    fn stop(&mut self, job: &Job) -> Answer<()> {
        let Some(place) = self.place(job) else { return Ok(()) };
        match self.list(&[&place.array])?.get(&(place.array, place.index)) {
            Some(task) => run("scancel", &[&task.id]).map(drop),
            None => Ok(()),
        }
    }

    fn release(&mut self, _job: &Job) {}

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(500), Duration::from_secs(15))
    }

    fn file_delay(&self) -> Duration {
        FILE_DELAY
    }

    fn outlives(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        "Slurm".to_owned()
    }
}

/// The exit code that a task left.
fn read_exit(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_array_is_read_from_the_clusters_configuration() {
        assert_eq!(array_size("MailProg = /bin/mail\nMaxArraySize            = 8\nMaxDBDMsgs = 1\n"), 8);
        assert_eq!(array_size(""), ARRAY);
    }

    #[test]
    fn tasks_are_listed_by_the_name_and_index_of_their_array() {
        let text = "hydra-a-0|12|0|RUNNING|None\nhydra-a-0|12|1|PENDING|Resources\nother|3|N/A|RUNNING|None\n";
        let listed = parse_list(text);
        assert_eq!(listed.len(), 2);
        let second = &listed[&("hydra-a-0".to_owned(), 1)];
        assert_eq!(
            (second.id.as_str(), second.state.as_str(), second.reason.as_str()),
            ("12_1", "PENDING", "Resources")
        );
    }

    #[test]
    fn a_task_that_left_no_exit_code_is_judged_by_what_slurm_says() {
        let task = |state: &str| Listed { id: "1_0".to_owned(), state: state.to_owned(), reason: "None".to_owned() };
        assert_eq!(exit_code("JobState=FAILED Reason=NonZeroExitCode\n   Restarts=0 ExitCode=97:0\n"), Some(97));
        assert_eq!(end(&task("FAILED"), Some(97)), End::NotShared(Unshared::Trials));
        assert_eq!(end_of(96), End::NotShared(Unshared::Here));
        assert_eq!(end(&task("FAILED"), Some(2)), End::Exited(2));
        for state in ["NODE_FAIL", "PREEMPTED", "CANCELLED", "COMPLETED", "FAILED"] {
            assert!(matches!(end(&task(state), Some(0)), End::Lost(_)), "{state}");
        }
        assert!(matches!(end(&task("TIMEOUT"), Some(0)), End::Killed(how) if how.contains("--time")));
        assert_eq!(end_of(137), End::Killed("signal 9".to_owned()));
    }

    #[test]
    fn as_many_tasks_are_handed_over_as_may_wait_each_once_and_in_their_order() {
        for (most, limit, expected) in [(7, 20, 20), (100, 13, 13), (100, 1, 1), (6, 0, 0), (1, 5, 5)] {
            let mut taken = Vec::new();
            let all = as_many_as_fit(&(0..20).collect::<Vec<u32>>(), most, |part| {
                assert!(part.len() <= most);
                let fits = taken.len() + part.len() <= limit;
                taken.extend(part.iter().filter(|_| fits));
                Ok(fits)
            });
            assert_eq!((all.unwrap(), taken), (limit >= 20, (0..expected).collect()), "{most}, {limit}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn more_jobs_than_a_user_may_have_waiting_is_told_from_a_limit_that_does_not_pass() {
        use std::os::unix::process::ExitStatusExt;
        let said = |lines: &str| Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr: lines.as_bytes().to_vec(),
        };
        let policy = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, \
                      user's size and/or time limits)\n";
        let full = fault("sbatch", &said(&format!("sbatch: error: AssocMaxSubmitJobLimit\n{policy}")));
        assert!(matches!(&full, Fault::Unreachable(why) if is_full(why)), "{full:?}");
        let wide = fault("sbatch", &said(&format!("sbatch: error: AssocMaxCpuPerJobLimit\n{policy}")));
        assert!(matches!(&wide, Fault::Refused(_)), "{wide:?}");
        let away = fault("squeue", &said("slurm_load_jobs error: Unable to contact slurm controller\n"));
        assert!(matches!(&away, Fault::Unreachable(why) if !is_full(why)), "{away:?}");
    }
}
