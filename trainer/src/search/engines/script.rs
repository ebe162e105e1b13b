//! The script that a job is on a cluster: it goes to where the search was called, and there becomes the command.

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::shell::word;

use super::Job;
use crate::runs::atomic::write_file;

/// Exit code of a job whose trial's folder is not there.
pub const NOT_SHARED: i32 = 97;
/// Exit code of a job that finds no folder where the search was called.
pub const NOT_HERE: i32 = 96;

/// The script of a job, in its trial's folder.
pub fn path(job: &Job) -> PathBuf {
    job.folder.path().join("job.sh")
}

/// Where a job says that it began: with the number of its attempt.
fn beginning(job: &Job) -> PathBuf {
    job.folder.path().join("began")
}

/// Whether a job's command began, so that its exit code is the command's own.
pub fn began(job: &Job) -> bool {
    std::fs::read_to_string(beginning(job)).is_ok_and(|attempt| attempt.trim() == job.attempt.to_string())
}

/// Writes the script of a job.
///
/// # Errors
/// A disk that cannot be written.
pub fn write(job: &Job) -> Result<()> {
    let here = std::env::current_dir()?;
    // Of an attempt that has the same number, and of which nobody knows any more.
    match std::fs::remove_file(beginning(job)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let words: Vec<_> = job.words.iter().map(|part| word(&part.to_string_lossy()).into_owned()).collect();
    let variables =
        job.environment.iter().map(|(name, value)| format!("export {name}={}\n", word(&value.to_string_lossy())));
    let text = format!(
        "#!/bin/sh\n# Attempt {} of a trial: what `trainer search` has run on a cluster.\ncd {} || exit {NOT_HERE}\nexec >>{} \
         2>&1 </dev/null || exit {NOT_SHARED}\necho {} >{} || exit {NOT_SHARED}\n{}exec {}\n",
        job.attempt,
        word(&here.to_string_lossy()),
        word(&job.folder.log().to_string_lossy()),
        job.attempt,
        word(&beginning(job).to_string_lossy()),
        variables.collect::<String>(),
        words.join(" ")
    );
    write_file(&path(job), text.as_bytes())
}

/// A line for a shell that runs the script, or says that the folder is not there.
pub fn line(job: &Job) -> String {
    let path = path(job).to_string_lossy().into_owned();
    let said = format!("hydra: {path} is not here: this machine does not share the folder of the trials");
    format!("if [ -f {0} ]; then exec sh {0}; else echo {1} >&2; exit {NOT_SHARED}; fi", word(&path), word(&said))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use hydra_shared::files::trial_folder::TrialFolder;

    use super::*;

    fn job(folder: &Path, words: &[&str]) -> Job {
        Job {
            id: "a".to_owned(),
            folder: TrialFolder::named(folder, "0123", 4, 9),
            attempt: 1,
            words: words.iter().map(Into::into).collect(),
            environment: vec![("HYDRA_TRIAL_SEED".to_owned(), "9 'x'".into())],
        }
    }

    fn run(job: &Job) -> Option<i32> {
        Command::new("sh").args(["-c", &line(job)]).status().unwrap().code()
    }

    #[test]
    fn a_script_runs_the_command_with_its_environment_and_both_outputs_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), &["sh", "-c", "echo \"$HYDRA_TRIAL_SEED|$0\"; echo so >&2; exit 3", "a  b"]);
        std::fs::create_dir_all(job.folder.path()).unwrap();
        write(&job).unwrap();
        assert_eq!(run(&job), Some(3));
        assert_eq!(std::fs::read_to_string(job.folder.log()).unwrap(), "9 'x'|a  b\nso\n");
    }

    #[test]
    fn a_command_that_ends_with_the_codes_of_a_folder_that_is_not_there_is_known_to_have_begun() {
        let folder = tempfile::tempdir().unwrap();
        let first = job(folder.path(), &["sh", "-c", "exit 97"]);
        std::fs::create_dir_all(first.folder.path()).unwrap();
        write(&first).unwrap();
        assert!(!began(&first));
        assert_eq!(run(&first), Some(NOT_SHARED));
        assert!(began(&first));
        // Another attempt has not begun by that, nor has the same one that is handed over again.
        assert!(!began(&Job { attempt: 2, ..first.clone() }));
        write(&first).unwrap();
        assert!(!began(&first));
    }

    #[test]
    fn where_the_folder_is_not_there_the_exit_code_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), &["true"]);
        assert_eq!(run(&job), Some(NOT_SHARED));
        assert!(!began(&job));
        // Nor is where the search was called.
        std::fs::create_dir_all(job.folder.path()).unwrap();
        write(&job).unwrap();
        let here = std::env::current_dir().unwrap().display().to_string();
        let text = std::fs::read_to_string(path(&job)).unwrap();
        std::fs::write(path(&job), text.replace(&here, &format!("{here}-that-is-gone"))).unwrap();
        assert_eq!(run(&job), Some(NOT_HERE));
    }
}
