//! Reads dropped files: logs in pieces, everything else as a whole.

use std::sync::Arc;

use hydra_playground::documents::{Kind, MOST_BYTES, document_of, model_of_config, model_of_layout, read, recognise};
use hydra_playground::files::{Place, folder_of, given, logs, place};
use hydra_playground::messages::ingest::{IngestReply, IngestRequest, Profiled, ReadFiles, ReadLog, Reading};
use hydra_shared::gradients::{AIM, GradientLog, Limits, LogError, LogFile, LogProblem, SNIFF_BYTES, read_files};
use hydra_shared::layout::Catalog;
use hydra_shared::search::Journal;
use web_sys::File;

use crate::file::FileReader;
use crate::{listen, reply};

/// What a browser reads of one run.
const LIMITS: Limits = Limits {
    file_bytes: 1 << 30,
    inflated_bytes: 1 << 30,
    inflation_ratio: 200,
    line_bytes: 8 << 20,
    keys: 200_000,
    name_chars: 512,
    values: 50_000_000,
};

/// What is kept from one request to the next.
#[derive(Default)]
struct Held {
    /// The log that was read last, with the model that it was read for.
    log: Option<(GradientLog, Catalog)>,
    /// The model whose configuration was read last.
    model: Option<Catalog>,
}

/// A file and its path: its name, or its place in a dropped folder.
#[derive(Clone, Copy)]
struct Dropped<'a> {
    path: &'a str,
    file: &'a File,
}

/// Answers requests about files from now on.
pub fn listen_for_files() {
    let mut held = Held::default();
    listen(move |request: IngestRequest, files: Vec<File>| match request {
        IngestRequest::Open { reading, paths } => {
            let files: Vec<Dropped> = paths.iter().zip(&files).map(|(path, file)| Dropped { path, file }).collect();
            if !cfg!(feature = "binary-logs") && files.iter().any(is_binary_log) {
                reply(&IngestReply::NeedsBinaryLogs);
                return;
            }
            let found = held.open(&files, reading);
            reply(&IngestReply::Read(Box::new(found)));
        }
        IngestRequest::Profile(reading) => reply(&IngestReply::Profiled(held.profile(&reading))),
    });
}

/// Whether a file is a binary log, gzipped or not, whose readers only the larger worker has.
fn is_binary_log(dropped: &Dropped) -> bool {
    let is_read = !logs([(0, dropped.path)], true).is_empty();
    let start = || FileReader::new(dropped.file).start(SNIFF_BYTES);
    is_read && start().is_ok_and(|start| hydra_shared::gradients::is_binary_log(&start))
}

impl Held {
    /// Another profile of the log that is held.
    fn profile(&mut self, reading: &Reading) -> Result<Profiled, String> {
        let Some((log, model)) = &mut self.log else {
            return Err("the log is no longer here; drop it again".to_owned());
        };
        // The layout that is shown may be part of the model's: what was excluded can come back.
        *model = model_of_layout(&reading.layout, self.model.iter().chain([&*model]));
        Profiled::new(log, model, reading).map_err(|error| error.to_string())
    }

    fn open(&mut self, files: &[Dropped], mut reading: Reading) -> ReadFiles {
        let mut found = ReadFiles::default();
        let mut candidates: Vec<usize> = Vec::new();
        let mut adapters = Vec::new();
        for (index, Dropped { path, file }) in files.iter().enumerate() {
            let name = (*path).to_owned();
            let problem = |why: String| (name.clone(), why);
            let place = place(path);
            match place {
                Place::Itself | Place::Directly => {}
                Place::Deeper => {
                    candidates.push(index);
                    continue;
                }
                Place::Hidden => continue,
                Place::Aim => {
                    found.problems = vec![problem(AIM.to_owned())];
                    return found;
                }
            }
            let start = match FileReader::new(file).start(SNIFF_BYTES) {
                Ok(start) => start,
                Err(error) => {
                    found.problems.push(problem(error.to_string()));
                    continue;
                }
            };
            let kind = recognise(&start);
            // A folder is a log's; beside that only the model says something of it.
            if kind == Kind::Log || (place == Place::Directly && kind != Kind::Model) {
                candidates.push(index);
                continue;
            }
            if file.size() > MOST_BYTES as f64 {
                found.problems.push(problem(format!("it is larger than {MOST_BYTES} bytes, which no such file is")));
                continue;
            }
            let bytes = match FileReader::new(file).start(MOST_BYTES) {
                Ok(bytes) => bytes,
                Err(error) => {
                    found.problems.push(problem(error.to_string()));
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&bytes);
            match kind {
                Kind::Journal => read_journal(&mut found, &name, &bytes),
                Kind::Adapter => adapters.push((found.documents.len(), name, text.into_owned())),
                Kind::Model => match model_of_config(&text) {
                    Ok((model, notes)) => {
                        found.documents.push((name, document_of(&model, notes)));
                        reading.layout = Arc::clone(model.decoder());
                        self.model = Some(model);
                    }
                    Err(error) => found.problems.push(problem(error)),
                },
                kind => match read(kind, &text) {
                    Some(Ok(document)) => found.documents.push((name, document)),
                    Some(Err(error)) => found.problems.push(problem(error)),
                    None => {}
                },
            }
        }
        let shown = Arc::clone(&reading.layout);
        if !candidates.is_empty() {
            self.open_logs(&mut found, files, &candidates, reading);
        }
        found.read_adapters(adapters, &shown);
        found
    }

    /// Reads all logs as one run.
    fn open_logs(&mut self, found: &mut ReadFiles, files: &[Dropped], candidates: &[usize], mut reading: Reading) {
        let log = match read_logs(files, candidates, reading.of_log.run.as_deref()) {
            Err(LogError { problem: LogProblem::NoSuchRun { .. }, .. }) => {
                // The run was that of a log of the same name.
                reading.of_log.run = None;
                read_logs(files, candidates, None)
            }
            read => read,
        };
        match log {
            Ok(log) => {
                let shown = model_of_layout(&reading.layout, &self.model);
                // A configuration that was dropped beside the log is no part of it.
                let paths = candidates.iter().filter_map(|index| files.get(*index));
                let names = given(&paths.map(|dropped| dropped.path.to_owned()).collect::<Vec<_>>());
                let (read, model) = ReadLog::new(names, &log, &shown, reading);
                self.log =
                    model.filter(|_| matches!(read.made, Some(Ok(_)))).map(|model| (log, model)).or(self.log.take());
                found.log = Some(read);
            }
            Err(LogError { problem: LogProblem::SeveralRuns(runs), .. }) => found.runs = runs,
            Err(error) => found.problems.push((error.file.clone(), error.to_string())),
        }
    }
}

fn read_journal(found: &mut ReadFiles, name: &str, bytes: &[u8]) {
    let mut problem = |why: String| found.problems.push((name.to_owned(), why));
    match Journal::parse(bytes) {
        Ok(journal) => {
            for study in &journal.studies {
                match study.to_study() {
                    Ok(study) => found.studies.push(study),
                    Err(error) => problem(error.to_string()),
                }
            }
        }
        Err(error) => problem(error.to_string()),
    }
}

/// Reads logs as `trainer plan` does: of folders the files directly in them, and what lies deeper where these hold no
/// gradients.
fn read_logs(files: &[Dropped], candidates: &[usize], run: Option<&str>) -> Result<GradientLog, LogError> {
    let path = |index: usize| files.get(index).map(|dropped| (index, dropped.path));
    let chosen = |deeper: bool| logs(candidates.iter().filter_map(|index| path(*index)), deeper);
    let (direct, all) = (chosen(false), chosen(true));
    let read = |chosen: &[usize]| {
        let chosen: Vec<Dropped> = chosen.iter().filter_map(|index| files.get(*index)).copied().collect();
        read_chosen(files, &chosen, run)
    };
    match read(&direct) {
        Err(error) if error.problem.may_lie_deeper() && !all.iter().all(|index| direct.contains(index)) => read(&all),
        read => read,
    }
}

fn read_chosen(files: &[Dropped], chosen: &[Dropped], run: Option<&str>) -> Result<GradientLog, LogError> {
    let size: f64 = chosen.iter().map(|dropped| dropped.file.size()).sum();
    let mut before = 0.0;
    let readers = chosen.iter().map(|Dropped { path, file }| {
        let (name, done) = ((*path).to_owned(), before);
        before += file.size();
        let tell = {
            let file = name.clone();
            move |read: f64| reply(&IngestReply::Progress { file: file.clone(), read: done + read, size })
        };
        let reader = FileReader::new(file).telling(tell);
        LogFile { folder: folder_of(path).to_owned(), reader: with_log(files, &name, reader), name }
    });
    read_files(readers.collect::<Vec<_>>(), &LIMITS, run)
}

/// A file as it is.
#[cfg(not(feature = "binary-logs"))]
fn with_log(_: &[Dropped], _: &str, reader: FileReader) -> FileReader {
    reader
}

/// A file; a database with what its write-ahead log holds, where that was dropped beside it.
#[cfg(feature = "binary-logs")]
fn with_log(files: &[Dropped], name: &str, mut reader: FileReader) -> Box<dyn std::io::BufRead> {
    use std::io::Read;

    let log = files.iter().find(|dropped| dropped.path.strip_suffix("-wal") == Some(name));
    let log = log.and_then(|log| FileReader::new(log.file).start(LIMITS.file_bytes as usize).ok());
    let Some(log) = log else { return Box::new(reader) };
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Box::new(std::io::Cursor::new(hydra_shared::gradients::with_write_ahead_log(bytes, &log))),
        Err(_) => Box::new(reader),
    }
}
