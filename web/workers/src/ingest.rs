//! Reads dropped files: logs in pieces, everything else as a whole.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use hydra_playground::documents::{
    Document, Header, Kind, MOST_BYTES, document_of, model_of_adapter, model_of_config, model_of_headers,
    model_of_layout, read, recognise,
};
use hydra_playground::files::{Place, folder_of, given, logs, place};
use hydra_playground::messages::ingest::{
    IngestReply, IngestRequest, NotProfiled, Profiled, RankFile, RanksIn, ReadFiles, ReadLog, Reading,
};
use hydra_playground::messages::performance::{Measured, SETTINGS};
use hydra_shared::gradients::{
    AIM, END_BYTES, GradientLog, Limits, LogEnds, LogError, LogFile, LogProblem, ProfileError, SNIFF_BYTES, Summing,
    read_files, read_summed, read_summed_awaiting,
};
use hydra_shared::layout::Catalog;
use hydra_shared::search::Journal;
use hydra_shared::weights::{HEADER_LENGTH_BYTES, header_length, shapes_of_header, shard_of};
use wasm_bindgen_futures::spawn_local;
use web_sys::File;

use crate::file::{FileReader, FileStream};
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

/// The same of a log whose norms are summed up while it streams by: what is kept grows with its steps, and not with their norms.
const STREAMED: Limits = Limits { file_bytes: 16 << 30, ..LIMITS };

/// What is kept from one request to the next.
#[derive(Default)]
struct Held {
    /// The log that was read last.
    log: Option<HeldLog>,
    /// The model whose configuration was read last.
    model: Option<Catalog>,
}

/// A log, with the model that it was read for, and what it was read from.
struct HeldLog {
    log: GradientLog,
    model: Catalog,
    files: Vec<(String, File)>,
    candidates: Vec<usize>,
    run: Option<String>,
}

/// Times that a log is read before it is given up: a file may change meanwhile.
const MOST_READINGS: usize = 4;
/// Share of the bytes after which the page hears again how far reading has come.
const TELL_SHARE: f64 = 0.01;
/// What is said of a log that does not stay the same.
const CHANGES: &str = "the log changes while it is read; copy it first";

/// A file and its path: its name, or its place in a dropped folder.
#[derive(Clone, Copy)]
struct Dropped<'a> {
    path: &'a str,
    file: &'a File,
}

/// Answers requests about files from now on, one after the other.
pub fn listen_for_files() {
    let waiting = Rc::new(RefCell::new(VecDeque::new()));
    let idle = Rc::new(RefCell::new(Some(Held::default())));
    listen(move |request: IngestRequest, files: Vec<File>| {
        waiting.borrow_mut().push_back((request, files));
        // Whoever answers another request answers this one next.
        let Some(mut held) = idle.take() else { return };
        let (waiting, idle) = (Rc::clone(&waiting), Rc::clone(&idle));
        spawn_local(async move {
            loop {
                let next = waiting.borrow_mut().pop_front();
                let Some((request, files)) = next else { break };
                held.answer(request, &files).await;
            }
            idle.replace(Some(held));
        });
    });
}

/// Whether a file is a binary log, gzipped or not, whose readers only the larger worker has.
fn is_binary_log(dropped: &Dropped) -> bool {
    let is_read = !logs([(0, dropped.path)], true).is_empty();
    let start = || FileReader::new(dropped.file).start(SNIFF_BYTES);
    is_read && start().is_ok_and(|start| hydra_shared::gradients::is_binary_log(&start))
}

impl Held {
    async fn answer(&mut self, request: IngestRequest, files: &[File]) {
        match request {
            IngestRequest::Open { reading, paths } => {
                let files: Vec<Dropped> = paths.iter().zip(files).map(|(path, file)| Dropped { path, file }).collect();
                if !cfg!(feature = "binary-logs") && files.iter().any(is_binary_log) {
                    reply(&IngestReply::NeedsBinaryLogs);
                    return;
                }
                let mut found = self.open(&files, reading).await;
                if let Some(ReadLog { made, .. }) = &mut found.log
                    && let Some(Ok(profiled)) = made.take_if(|made| made.is_ok())
                {
                    reply(&IngestReply::Made(Box::new(profiled)));
                }
                reply(&IngestReply::Read(Box::new(found)));
            }
            IngestRequest::Profile(reading) => reply(&IngestReply::Profiled(self.profile(&reading).await)),
        }
    }

    /// Another profile of the log that is held.
    async fn profile(&mut self, reading: &Reading) -> Result<Profiled, String> {
        let Some(HeldLog { log, model, files, candidates, run }) = &mut self.log else {
            return Err("the log is no longer here; drop it again".to_owned());
        };
        // The layout that is shown may be part of the model's: what was excluded can come back.
        let wanted = model_of_layout(&reading.layout, self.model.iter().chain([&*model]));
        for _ in 0..MOST_READINGS {
            match Profiled::new(log, &wanted, reading) {
                Err(NotProfiled::Profile(ProfileError::Again(summing))) => {
                    let files: Vec<Dropped> = files.iter().map(|(path, file)| Dropped { path, file }).collect();
                    let read = read_logs(&files, candidates, run.as_deref(), &summing).await;
                    *log = read.map_err(|error| error.to_string())?;
                }
                made => {
                    let made = made.map_err(|error| error.to_string())?;
                    // One that does not fit leaves the log with its own.
                    *model = wanted;
                    return Ok(made);
                }
            }
        }
        Err(CHANGES.to_owned())
    }

    async fn open(&mut self, files: &[Dropped<'_>], mut reading: Reading) -> ReadFiles {
        let mut found = ReadFiles::default();
        let mut candidates: Vec<usize> = Vec::new();
        let (mut ranks, mut in_run) = (Vec::new(), Vec::new());
        let mut weights = Weights::default();
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
            let in_folder = place == Place::Directly;
            // A folder is a run's: its log says what it is, and an adapter in it only where there is none.
            let of_run = in_folder && matches!(kind, Kind::Ranks | Kind::Weights);
            if kind == Kind::Log || (in_folder && !of_run && kind != Kind::Model) {
                candidates.push(index);
                continue;
            }
            if kind == Kind::Weights {
                match header_of(&name, file) {
                    Ok(header) if header.is_adapter() => {
                        weights.beside_adapter = true;
                        let file = RankFile { place: found.documents.len(), name, holds: RanksIn::Weights(header) };
                        if in_folder { &mut in_run } else { &mut ranks }.push(file);
                    }
                    Ok(header) => weights.of_model.push(header),
                    Err(error) => found.problems.push(problem(error)),
                }
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
                Kind::Ranks => {
                    let (place, holds) = (found.documents.len(), RanksIn::Text(text.into_owned()));
                    if in_folder {
                        candidates.push(index);
                        in_run.push(RankFile { place, name, holds });
                    } else {
                        ranks.push(RankFile { place, name, holds });
                    }
                }
                Kind::Model => match model_of_config(&text) {
                    Ok((model, notes)) => {
                        found.documents.push((name, document_of(&model, notes)));
                        reading.layout = Arc::clone(model.decoder());
                        self.model = Some(model);
                        weights.configured = true;
                    }
                    // Where its weights say the shapes, it is not needed.
                    Err(error) => weights.unread.push(problem(error)),
                },
                kind => match read(kind, &text) {
                    Some(Ok(document)) => found.documents.push((name, document)),
                    Some(Err(error)) => found.problems.push(problem(error)),
                    None => {}
                },
            }
        }
        if let Some(model) = weights.read(&mut found) {
            reading.layout = Arc::clone(model.decoder());
            self.model = Some(model);
        }
        let (shown, is_sample) = (Arc::clone(&reading.layout), reading.is_sample);
        if !candidates.is_empty() {
            let adapter = ranks.iter().chain(&in_run).find_map(RankFile::weights);
            let of_adapter = adapter.and_then(|header| model_of_adapter(header).ok());
            let before = found.problems.len();
            self.open_logs(&mut found, files, &candidates, of_adapter, reading).await;
            if !in_run.is_empty() && found.log.is_none() && found.runs.is_empty() {
                found.problems.truncate(before);
                ranks.append(&mut in_run);
            }
        }
        found.read_ranks(ranks, &shown, is_sample, self.model.as_ref());
        found
    }

    /// Reads all logs as one run.
    async fn open_logs(
        &mut self,
        found: &mut ReadFiles,
        files: &[Dropped<'_>],
        candidates: &[usize],
        of_adapter: Option<Catalog>,
        mut reading: Reading,
    ) {
        let shown = model_of_layout(&reading.layout, &self.model);
        // Where an adapter came with its log, the log is of its modules.
        let other = of_adapter.or_else(|| self.model.clone());
        // A configuration that was dropped beside the log is no part of it.
        let chosen = || candidates.iter().filter_map(|index| files.get(*index));
        let names = given(&chosen().map(|dropped| dropped.path.to_owned()).collect::<Vec<_>>());
        let largest = chosen().max_by(|a, b| a.file.size().total_cmp(&b.file.size()));
        let reader = || largest.map(|largest| FileReader::new(largest.file));
        let ends = LogEnds {
            first: reader().and_then(|reader| reader.start(END_BYTES as usize).ok()).unwrap_or_default(),
            last: reader().and_then(|reader| reader.end(END_BYTES).ok()).unwrap_or_default(),
        };
        let mut summing = Summing::norms(reading.profiling.warm_up_share, &ends);
        for _ in 0..MOST_READINGS {
            let log = match read_logs(files, candidates, reading.of_log.run.as_deref(), &summing).await {
                Ok(log) => log,
                Err(LogError { problem: LogProblem::NoSuchRun { .. }, .. }) if reading.of_log.run.is_some() => {
                    // The run was that of a log of the same name.
                    reading.of_log.run = None;
                    continue;
                }
                Err(LogError { problem: LogProblem::SeveralRuns(runs), .. }) => {
                    found.runs = runs;
                    return;
                }
                Err(error) => {
                    found.refuse_log(names, error.file.clone(), error.to_string());
                    return;
                }
            };
            match ReadLog::new(names.clone(), &log, &shown, other.as_ref(), reading.clone()) {
                Err(again) => summing = *again,
                Ok((read, model)) => {
                    if let (Some(model), Some(Ok(_))) = (model, &read.made) {
                        let files = files.iter().map(|dropped| (dropped.path.to_owned(), dropped.file.clone()));
                        let (files, run) = (files.collect(), reading.of_log.run);
                        self.log = Some(HeldLog { log, model, files, candidates: candidates.to_vec(), run });
                    }
                    found.log = Some(read);
                    return;
                }
            }
        }
        found.problems.push((names.join(", "), CHANGES.to_owned()));
    }
}

/// The headers of a model's weights, and what its configuration beside them came to.
#[derive(Default)]
struct Weights {
    of_model: Vec<Header>,
    /// Whether a configuration was read.
    configured: bool,
    /// Configurations that were not, and why.
    unread: Vec<(String, String)>,
    /// Whether an adapter's weights came, too.
    beside_adapter: bool,
}

impl Weights {
    /// Tells of the files, and gives the model where it is known by its weights alone.
    fn read(self, found: &mut ReadFiles) -> Option<Catalog> {
        let Self { of_model, configured, unread, beside_adapter } = self;
        let made = model_of_headers(&of_model);
        // Beside an adapter lie weights that are no whole model, such as a projector's.
        let is_part = of_model.iter().any(|header| shard_of(&header.file).is_some());
        if configured || of_model.is_empty() || (made.is_err() && beside_adapter && !is_part) {
            found.problems.extend(unread);
            found.documents.extend(of_model.into_iter().map(|header| (header.file, Document::Weights)));
            return None;
        }
        let mut files = of_model.into_iter().map(|header| header.file);
        let first = files.next()?;
        match made {
            Ok((model, notes)) => {
                found.documents.push((first, document_of(&model, notes)));
                found.documents.extend(files.map(|file| (file, Document::Weights)));
                Some(model)
            }
            Err(problem) => {
                found.problems.extend(unread);
                found.problems.push((first, problem));
                None
            }
        }
    }
}

/// The header of a file of weights; what follows on it is not read.
fn header_of(name: &str, file: &File) -> Result<Header, String> {
    let start = |bytes: usize| FileReader::new(file).start(bytes).map_err(|error| error.to_string());
    let broken = || "it ends within its header; download it again".to_owned();
    let length = header_length(&start(HEADER_LENGTH_BYTES)?).ok_or_else(broken)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MOST_BYTES);
    let length =
        length.ok_or_else(|| format!("its header is larger than {MOST_BYTES} bytes; give the model's config.json"))?;
    let bytes = start(HEADER_LENGTH_BYTES + length)?;
    let header = bytes.get(HEADER_LENGTH_BYTES..).filter(|header| header.len() == length).ok_or_else(broken)?;
    let tensors = shapes_of_header(header).map_err(|error| error.to_string())?;
    Ok(Header { file: name.to_owned(), tensors })
}

fn read_journal(found: &mut ReadFiles, name: &str, bytes: &[u8]) {
    let mut problem = |why: String| found.problems.push((name.to_owned(), why));
    match Journal::parse(bytes) {
        Ok(journal) => {
            for record in &journal.studies {
                match record.to_study() {
                    Ok(study) => {
                        // One of them is gone on with.
                        let first = found.studies.is_empty();
                        let text = if first { String::from_utf8_lossy(bytes).into_owned() } else { String::new() };
                        let settings = record.user_attrs.get(SETTINGS);
                        found.studies.push(Measured::of_study(&study, text).with_settings(settings));
                    }
                    Err(error) => problem(error.to_string()),
                }
            }
        }
        Err(error) => problem(error.to_string()),
    }
}

/// Reads logs as `trainer plan` does: of folders the files directly in them, and what lies deeper where these hold no
/// gradients.
async fn read_logs(
    files: &[Dropped<'_>],
    candidates: &[usize],
    run: Option<&str>,
    summing: &Summing,
) -> Result<GradientLog, LogError> {
    let path = |index: usize| files.get(index).map(|dropped| (index, dropped.path));
    let chosen = |deeper: bool| logs(candidates.iter().filter_map(|index| path(*index)), deeper);
    let (direct, all) = (chosen(false), chosen(true));
    let read = async |chosen: &[usize]| {
        let chosen: Vec<Dropped> = chosen.iter().filter_map(|index| files.get(*index)).copied().collect();
        read_chosen(files, &chosen, run, summing).await
    };
    match read(&direct).await {
        Err(error) if error.problem.may_lie_deeper() && !all.iter().all(|index| direct.contains(index)) => {
            read(&all).await
        }
        read => read,
    }
}

async fn read_chosen(
    files: &[Dropped<'_>],
    chosen: &[Dropped<'_>],
    run: Option<&str>,
    summing: &Summing,
) -> Result<GradientLog, LogError> {
    let size: f64 = chosen.iter().map(|dropped| dropped.file.size()).sum();
    if let [Dropped { path, file }] = chosen
        && let Some(mut stream) = FileStream::new(file)
    {
        let (mut read, mut told) = (0.0, 0.0);
        let next = async |block: &mut Vec<u8>| {
            let more = stream.next(block).await?;
            read += more as f64;
            if read - told >= TELL_SHARE * size {
                told = read;
                reply(&IngestReply::Progress { file: (*path).to_owned(), read, size });
            }
            Ok(more)
        };
        if let Some(log) = read_summed_awaiting(path, folder_of(path), next, &STREAMED, run, summing).await? {
            return Ok(log);
        }
    }
    let readers = || {
        let mut before = 0.0;
        let told = Rc::new(Cell::new(0.0));
        let reader = move |Dropped { path, file }: &Dropped| {
            let (name, done) = ((*path).to_owned(), before);
            before += file.size();
            let tell = {
                let (file, told) = (name.clone(), Rc::clone(&told));
                move |read: f64| {
                    let read = done + read;
                    if read - told.get() >= TELL_SHARE * size {
                        told.set(read);
                        reply(&IngestReply::Progress { file: file.clone(), read, size });
                    }
                }
            };
            let reader = FileReader::new(file).telling(tell);
            LogFile { folder: folder_of(path).to_owned(), reader: with_log(files, &name, reader), name }
        };
        chosen.iter().map(reader).collect::<Vec<_>>()
    };
    // Norms that cannot be summed up are kept.
    match read_summed(readers(), &LIMITS, run, summing)? {
        Some(log) => Ok(log),
        None => read_files(readers(), &LIMITS, run),
    }
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
