//! Reads dropped files: logs in pieces, everything else as a whole.

use std::sync::Arc;

use hydra_playground::documents::{Document, Kind, MOST_BYTES, read, recognise};
use hydra_playground::messages::ingest::{IngestReply, IngestRequest, Profiled, ReadFiles, ReadLog};
use hydra_shared::gradients::{GradientLog, Limits, LogFile, ProfileConfig, SNIFF_BYTES, read_files};
use hydra_shared::layout::Layout;
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

/// Answers requests about files from now on.
pub fn listen_for_files() {
    let mut held: Option<GradientLog> = None;
    listen(move |request: IngestRequest, files: Vec<File>| match request {
        IngestRequest::Open { .. } if !cfg!(feature = "tables") && files.iter().any(is_table) => {
            reply(&IngestReply::NeedsTables);
        }
        IngestRequest::Open { layout, profiling } => {
            let (found, log) = open(&files, layout, profiling);
            held = log.or(held.take());
            reply(&IngestReply::Read(Box::new(found)));
        }
        IngestRequest::Profile { layout, profiling } => {
            let made = match &held {
                Some(log) => Profiled::new(log, &layout, &profiling),
                None => Err("the log is no longer here; drop it again".to_owned()),
            };
            reply(&IngestReply::Profiled(made));
        }
    });
}

/// Whether a file is a binary table, gzipped or not, whose readers only the larger worker has.
fn is_table(file: &File) -> bool {
    FileReader::new(file).start(SNIFF_BYTES).is_ok_and(|start| hydra_shared::gradients::is_table(&start))
}

fn open(files: &[File], mut layout: Arc<Layout>, profiling: ProfileConfig) -> (ReadFiles, Option<GradientLog>) {
    let mut found = ReadFiles::default();
    let mut logs: Vec<&File> = Vec::new();
    let mut adapters = Vec::new();
    for file in files {
        let name = file.name();
        let problem = |why: String| (name.clone(), why);
        let start = match FileReader::new(file).start(SNIFF_BYTES) {
            Ok(start) => start,
            Err(error) => {
                found.problems.push(problem(error.to_string()));
                continue;
            }
        };
        let kind = recognise(&start);
        if kind == Kind::Log {
            logs.push(file);
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
        if kind == Kind::Journal {
            match Journal::parse(&bytes) {
                Ok(journal) => {
                    for study in &journal.studies {
                        match study.to_study() {
                            Ok(study) => found.studies.push(study),
                            Err(error) => found.problems.push(problem(error.to_string())),
                        }
                    }
                }
                Err(error) => found.problems.push(problem(error.to_string())),
            }
            continue;
        }
        let text = String::from_utf8_lossy(&bytes);
        if kind == Kind::Adapter {
            adapters.push((found.documents.len(), name, text.into_owned()));
            continue;
        }
        match read(kind, &text) {
            Some(Ok(document)) => {
                if let Document::Model(other, _) = &document {
                    layout = Arc::new(other.as_ref().clone());
                }
                found.documents.push((name, document));
            }
            Some(Err(error)) => found.problems.push(problem(error)),
            None => {}
        }
    }
    let log = if logs.is_empty() { None } else { open_logs(&mut found, &mut logs, &layout, profiling) };
    found.read_adapters(adapters, &layout);
    (found, log)
}

/// Reads all logs as one run.
fn open_logs(
    found: &mut ReadFiles,
    logs: &mut [&File],
    shown: &Arc<Layout>,
    profiling: ProfileConfig,
) -> Option<GradientLog> {
    // Event files of one folder come in the order of their names.
    logs.sort_by_key(|file| file.name());
    let size: f64 = logs.iter().map(|file| file.size()).sum();
    let mut before = 0.0;
    let readers: Vec<LogFile<FileReader>> = logs
        .iter()
        .map(|file| {
            let (name, done) = (file.name(), before);
            before += file.size();
            let tell = {
                let file = name.clone();
                move |read: f64| reply(&IngestReply::Progress { file: file.clone(), read: done + read, size })
            };
            // A dropped file has no path: what stands in one is not known here.
            LogFile { name, folder: String::new(), reader: FileReader::new(file).telling(tell) }
        })
        .collect();
    let log = match read_files(readers, &LIMITS, None) {
        Ok(log) => log,
        Err(error) => {
            found.problems.push((error.file.clone(), error.to_string()));
            return None;
        }
    };
    let files = logs.iter().map(|file| file.name()).collect();
    found.log = Some(ReadLog::new(files, &log, shown, &profiling));
    Some(log)
}
