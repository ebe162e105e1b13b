//! Reading logs: sniffing, unpacking, one file or several.

use std::io::{self, BufRead, Cursor, Read};

use super::builder::LogBuilder;
use super::error::{LogError, LogProblem, Position};
use super::format::Format;
use super::formats::{csv, is_nameless, json_lines, reader_of};
use super::input::{Counted, Inflate, Limits};
use super::known::known;
use super::log::GradientLog;
use super::lookalike::Lookalikes;
use super::rows::FileRows;
use super::sniff::{SNIFF_BYTES, is_gzip};
use super::summing::Summing;
use crate::file_kind::FileKind;

/// Reads a log in any known format, gzipped or not, with the default [`Limits`].
///
/// `name` is what messages call the file; the format is told by content.
///
/// # Errors
/// A file that is no gradient log, is damaged, holds only a global norm, or exceeds a limit. NaN and infinite norms
/// are no error here: [`profile`](super::profile()) decides about them.
pub fn read(name: &str, reader: impl BufRead) -> Result<GradientLog, LogError> {
    read_with(name, reader, &Limits::default())
}

/// [`read`] with limits of the caller's choice.
///
/// # Errors
/// As [`read`].
pub fn read_with(name: &str, reader: impl BufRead, limits: &Limits) -> Result<GradientLog, LogError> {
    let mut log = LogBuilder::new(*limits, None);
    let file = LogFile { name: name.to_owned(), folder: String::new(), reader };
    read_file(&mut log, file).map_err(|failed| failed.error)?;
    log.finish(name)
}

/// One file of several.
#[derive(Debug)]
pub struct LogFile<R> {
    /// What messages call it. Some trackers put a metric's name into the path, so that it should be the whole path.
    pub name: String,
    /// Its folder below the one that was given, with `/` between the parts; empty for a file that was given by itself.
    /// Files of different folders are taken for different runs.
    pub folder: String,
    /// Its content.
    pub reader: R,
}

/// Reads several files, such as a folder of event files, as one log.
///
/// Later files override earlier ones at the same step, so they should come in the order of their names. Files without
/// gradients and files of no known format are noted in the report, as long as another one holds gradients.
///
/// # Errors
/// As [`read`], for the first file that is damaged, or where no file holds gradients.
pub fn read_many<R: BufRead>(
    files: impl IntoIterator<Item = (String, R)>,
    limits: &Limits,
) -> Result<GradientLog, LogError> {
    let files = files.into_iter().map(|(name, reader)| LogFile { name, folder: String::new(), reader });
    read_files(files, limits, None)
}

/// [`read_many`] for files of whole folders, which may hold several runs: `run` is the one to take.
///
/// # Errors
/// As [`read_many`]; several runs of which none was asked for, and a run that is not there.
pub fn read_files<R: BufRead>(
    files: impl IntoIterator<Item = LogFile<R>>,
    limits: &Limits,
    run: Option<&str>,
) -> Result<GradientLog, LogError> {
    let mut log = LogBuilder::new(*limits, run);
    let name = read_into(&mut log, files)?;
    log.finish(&name)
}

/// [`read_files`] without keeping the norms of single steps: they are summed up for a profile while they are read, so that a log
/// of any size takes little memory. None for a log whose norms have to be kept, because it holds several runs or formats, steps in
/// another order, or other modules in some rows: [`read_files`] reads it.
///
/// # Errors
/// As [`read_files`].
pub fn read_summed<R: BufRead>(
    files: impl IntoIterator<Item = LogFile<R>>,
    limits: &Limits,
    run: Option<&str>,
    summing: &Summing,
) -> Result<Option<GradientLog>, LogError> {
    let mut log = LogBuilder::new(*limits, run);
    log.sum_up_for(summing);
    let name = read_into(&mut log, files)?;
    if log.is_irregular() { Ok(None) } else { log.finish(&name).map(Some) }
}

/// [`read_summed`] of one file whose bytes have to be waited for: `next` adds the next ones to a buffer and gives their number, 0 at
/// the end. None also for a file that is neither JSON lines nor a table.
///
/// # Errors
/// As [`read_files`].
pub async fn read_summed_awaiting(
    name: &str,
    folder: &str,
    mut next: impl AsyncFnMut(&mut Vec<u8>) -> io::Result<usize>,
    limits: &Limits,
    run: Option<&str>,
    summing: &Summing,
) -> Result<Option<GradientLog>, LogError> {
    let failed = |problem| LogError { file: name.to_owned(), position: Position::File, key: None, problem };
    let mut bytes = 0;
    let mut counted = async |block: &mut Vec<u8>| {
        let more = next(block).await?;
        bytes += more as u64;
        let limit = limits.file_bytes;
        if bytes > limit { Err(io::Error::other(LogProblem::FileTooLarge { limit })) } else { Ok(more) }
    };
    let mut start = Vec::new();
    while start.len() < SNIFF_BYTES && counted(&mut start).await.map_err(|error| failed(error.into()))? > 0 {}
    let first = start.get(..start.len().min(SNIFF_BYTES)).unwrap_or_default();
    let rows = reader_of(first).filter(|reader| reader.format.is_rows() && !is_nameless(first) && !is_scalar(first));
    let Some(reader) = rows else { return Ok(None) };
    let mut log = LogBuilder::new(*limits, run);
    log.sum_up_for(summing);
    let mut rows = FileRows::new(&mut log, name, folder, reader.format, false);
    match reader.format {
        Format::Csv => csv::read_awaiting(counted, start, &mut rows).await?,
        _ => json_lines::read_awaiting(counted, start, &mut rows).await?,
    }
    rows.finish()?;
    if log.is_irregular() { Ok(None) } else { log.finish(name).map(Some) }
}

/// [`read`] as a test wants the lines read, with the norms kept or summed up.
#[cfg(test)]
pub(super) fn read_lines(
    bytes: &[u8],
    line_reading: super::blocks::LineReading,
    summing: Option<&Summing>,
) -> Result<Option<GradientLog>, LogError> {
    let mut log = LogBuilder::new(Limits::default(), None);
    log.line_reading = line_reading;
    if let Some(summing) = summing {
        log.sum_up_for(summing);
    }
    let file = LogFile { name: "log".to_owned(), folder: String::new(), reader: bytes };
    read_file(&mut log, file).map_err(|failed| failed.error)?;
    if log.is_irregular() { Ok(None) } else { log.finish("log").map(Some) }
}

/// Reads files into a log, or as far as it takes them; gives what the input is called.
fn read_into<R: BufRead>(
    log: &mut LogBuilder,
    files: impl IntoIterator<Item = LogFile<R>>,
) -> Result<String, LogError> {
    let mut names = Vec::new();
    let mut foreign = None;
    let mut useful = false;
    for file in files {
        let name = file.name.clone();
        match read_file(log, file) {
            Ok(()) => useful = true,
            Err(Failed { error, gzipped, foreign: true }) => {
                log.unused_file(&name, gzipped, error.problem.to_string());
                // What is wrong with a file tells more than that another one is something else.
                if foreign
                    .as_ref()
                    .is_none_or(|first: &LogError| first.problem.is_foreign() && !error.problem.is_foreign())
                {
                    foreign = Some(error);
                }
            }
            Err(Failed { error, .. }) => return Err(error),
        }
        if log.is_irregular() {
            return Ok(name);
        }
        names.push(name);
    }
    let name = match names.as_slice() {
        [] => "the folder".to_owned(),
        [name] => name.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    match foreign {
        Some(error) if !useful => Err(error),
        _ => Ok(name),
    }
}

/// Why a file was not read.
struct Failed {
    error: LogError,
    gzipped: bool,
    /// Whether nothing in it was a gradient, so that another file of the same folder can still make the log whole.
    foreign: bool,
}

/// Adds one file to a log.
fn read_file<R: BufRead>(log: &mut LogBuilder, file: LogFile<R>) -> Result<(), Failed> {
    let LogFile { name, folder, reader } = file;
    let place = (name.as_str(), folder.as_str());
    let failed = |problem: LogProblem, gzipped| {
        let foreign = problem.is_foreign();
        let error = LogError { file: name.clone(), position: Position::File, key: None, problem };
        Failed { error, gzipped, foreign }
    };
    let limits = log.limits;
    let mut reader = Counted::new(reader, limits.file_bytes);
    let start = prefix(&mut reader).map_err(|e| failed(e.into(), false))?;
    if is_gzip(&start) {
        let mut reader = Inflate::new(Counted::new(Cursor::new(start).chain(reader), limits.file_bytes), &limits);
        let start = prefix(&mut reader).map_err(|e| failed(e.into(), true))?;
        if is_gzip(&start) {
            return Err(failed(LogProblem::Archive, true));
        }
        read_plain(log, place, &mut Cursor::new(&start).chain(reader), &start, true)
    } else {
        read_plain(log, place, &mut Cursor::new(&start).chain(reader), &start, false)
    }
}

fn prefix(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn read_plain(
    log: &mut LogBuilder,
    (name, folder): (&str, &str),
    reader: &mut dyn BufRead,
    start: &[u8],
    gzipped: bool,
) -> Result<(), Failed> {
    let nameless = is_nameless(start);
    let Some(format) = reader_of(start).filter(|_| !nameless && !is_scalar(start)) else {
        let problem = match start {
            _ if nameless => LogProblem::Nameless,
            _ if FileKind::of(start) == Some(FileKind::WideText) => LogProblem::Utf16,
            [b'P', b'K', 3, 4, ..] => LogProblem::Archive,
            _ if start.trim_ascii().is_empty() => LogProblem::Empty,
            _ => match known(start) {
                Some(known) => LogProblem::Known(known),
                None => LogProblem::Unrecognised { keys: lookalikes_in(start) },
            },
        };
        let foreign = problem.is_foreign();
        let error = LogError { file: name.to_owned(), position: Position::File, key: None, problem };
        return Err(Failed { error, gzipped, foreign });
    };
    if !format.format.is_rows() {
        log.set_irregular();
        if log.is_irregular() {
            return Ok(());
        }
    }
    let mut rows = FileRows::new(log, name, folder, format.format, gzipped);
    let read = (format.read)(reader, start, &mut rows);
    let foreign = !rows.has_gradients() && format.format.may_be_anything();
    read.and_then(|()| rows.finish()).map_err(|error| {
        let foreign = foreign || error.problem.is_foreign();
        Failed { error, gzipped, foreign }
    })
}

/// Whether data that begin so are TensorBoard's download of one scalar: a table like any other, but for what it is of.
fn is_scalar(start: &[u8]) -> bool {
    start.starts_with(b"Wall time,Step,Value")
}

/// Words of a text that look most like parameters, if any do.
fn lookalikes_in(start: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(start.get(..start.len().min(8192)).unwrap_or(start));
    let mut keys = Lookalikes::default();
    for word in text.split(['"', '\'', ',', ';', '\t', '\n', '\r', ' ', '=']) {
        if word.len() > 3 && word.len() < 300 && Lookalikes::looks_like_one(word) {
            keys.see(word);
        }
    }
    keys.keys().map(str::to_owned).collect()
}
