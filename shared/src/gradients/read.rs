//! Reading logs: sniffing, unpacking, one file or several.

use std::io::{self, BufRead, Cursor, Read};

use super::builder::LogBuilder;
use super::error::{LogError, LogProblem, Position};
use super::formats::reader_of;
use super::input::{Counted, Inflate, Limits};
use super::log::GradientLog;
use super::rows::FileRows;
use super::sniff::{SNIFF_BYTES, is_gzip};

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
    let mut log = LogBuilder::new(*limits);
    read_file(&mut log, name, reader).map_err(|(error, _)| error)?;
    log.finish(name)
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
    let mut log = LogBuilder::new(*limits);
    let mut names = Vec::new();
    let mut foreign = None;
    let mut useful = false;
    for (name, reader) in files {
        match read_file(&mut log, &name, reader) {
            Ok(()) => useful = true,
            Err((error, gzipped)) if error.problem.is_foreign() => {
                log.unused_file(&name, gzipped, error.problem.to_string());
                foreign.get_or_insert(error);
            }
            Err((error, _)) => return Err(error),
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
        _ => log.finish(&name),
    }
}

/// Adds one file to a log; an error comes with whether the file was gzipped.
fn read_file(log: &mut LogBuilder, name: &str, reader: impl BufRead) -> Result<(), (LogError, bool)> {
    let error = |problem: LogProblem, gzipped| {
        (LogError { file: name.to_owned(), position: Position::File, key: None, problem }, gzipped)
    };
    let limits = log.limits;
    let mut reader = Counted::new(reader, limits.file_bytes);
    let start = prefix(&mut reader).map_err(|e| error(e.into(), false))?;
    if is_gzip(&start) {
        let mut reader = Inflate::new(Counted::new(Cursor::new(start).chain(reader), limits.file_bytes), &limits);
        let start = prefix(&mut reader).map_err(|e| error(e.into(), true))?;
        if is_gzip(&start) {
            return Err(error(LogProblem::Archive, true));
        }
        read_plain(log, name, &mut Cursor::new(&start).chain(reader), &start, true).map_err(|e| (e, true))
    } else {
        read_plain(log, name, &mut Cursor::new(&start).chain(reader), &start, false).map_err(|e| (e, false))
    }
}

fn prefix(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    reader.take(SNIFF_BYTES as u64).read_to_end(&mut start)?;
    Ok(start)
}

fn read_plain(
    log: &mut LogBuilder,
    name: &str,
    reader: &mut dyn BufRead,
    start: &[u8],
    gzipped: bool,
) -> Result<(), LogError> {
    let Some(format) = reader_of(start) else {
        let problem = match start {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => LogProblem::Utf16,
            [b'P', b'K', 3, 4, ..] => LogProblem::Archive,
            _ if start.trim_ascii().is_empty() => LogProblem::Empty,
            _ => LogProblem::Unrecognised,
        };
        return Err(LogError { file: name.to_owned(), position: Position::File, key: None, problem });
    };
    let mut rows = FileRows::new(log, name, format.format, gzipped);
    (format.read)(reader, start, &mut rows)?;
    rows.finish();
    Ok(())
}
