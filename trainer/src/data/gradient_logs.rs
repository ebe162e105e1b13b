//! Finding and reading gradient logs.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use hydra_shared::gradients::{GradientLog, Limits, LogError, LogProblem, Position, read_many};
use hydra_shared::schedule::InputFile;

/// Reads files and the files directly in folders, in the order of their names, as one log.
///
/// # Errors
/// A path that does not exist, a folder without files, a log that cannot be read.
pub fn read_logs(paths: &[PathBuf]) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let limits = Limits::default();
    let mut inputs = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        for file in files_of(path)? {
            let name = file.display().to_string();
            let size = fs::metadata(&file).map_err(|error| io_error(&file, error))?.len();
            if size > limits.file_bytes {
                let problem = LogProblem::FileTooLarge { limit: limits.file_bytes };
                return Err(LogError { file: name, position: Position::File, key: None, problem });
            }
            let bytes = fs::read(&file).map_err(|error| io_error(&file, error))?;
            // The file's own name: a schedule should not tell where on a disk its log lay.
            let short = file.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
            inputs.push(InputFile::new(short, &bytes));
            files.push((name, Cursor::new(bytes)));
        }
    }
    Ok((read_many(files, &limits)?, inputs))
}

/// The paths, for messages about a log as a whole.
pub fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, LogError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let file = entry?.path();
            let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if file.is_file() && !hidden {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    };
    let files = list().map_err(|error| io_error(path, error))?;
    if files.is_empty() {
        let message = "the folder holds no files; name the folder in which the log itself lies";
        return Err(io_error(path, io::Error::new(io::ErrorKind::NotFound, message)));
    }
    Ok(files)
}

fn io_error(path: &Path, error: io::Error) -> LogError {
    LogError { file: path.display().to_string(), position: Position::File, key: None, problem: LogProblem::Io(error) }
}
