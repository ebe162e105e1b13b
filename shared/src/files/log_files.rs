//! The files of a log: found, read in pieces, and named with their digests.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::gradients::{
    AIM, AIM_FOLDER, DEEPEST, END_BYTES, GradientLog, LAST_VALUES, Limits, LogEnds, LogError, LogFile, LogProblem,
    MOST_FILES, Position, Summing, is_hidden, is_read_first, may_be_log, read_files, read_summed, reading_order,
    with_write_ahead_log,
};
use crate::schedule::InputFile;

/// Reads files and folders as one log. Of a folder the files directly in it are read, in the order of their names; where they
/// hold no gradients, those of the folders below it are, too. `run` is the run to take where there are several.
///
/// Norms are summed up in place of being kept where the log allows that: as `summing` says, for which the ends of the largest file
/// are given.
///
/// # Errors
/// A path that does not exist, a folder without files, a log that cannot be read, several runs of which none was asked for.
pub(super) fn read_logs(
    paths: &[PathBuf],
    run: Option<&str>,
    summing: &dyn Fn(&LogEnds) -> Summing,
) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let direct = read_found(paths, run, 0, summing);
    let may_lie_deeper = matches!(&direct, Err(error) if error.problem.may_lie_deeper());
    let below = may_lie_deeper && paths.iter().any(|path| has_folders(path));
    if below { read_found(paths, run, DEEPEST, summing) } else { direct }
}

fn read_found(
    paths: &[PathBuf],
    run: Option<&str>,
    depth: usize,
    summing: &dyn Fn(&LogEnds) -> Summing,
) -> Result<(GradientLog, Vec<InputFile>), LogError> {
    let limits = Limits::default();
    let mut found = Vec::new();
    let mut largest = 0;
    let mut ends = LogEnds::default();
    let mut all_stay = true;
    for path in paths {
        for file in files_of(path, depth)? {
            let metadata = fs::metadata(&file.path).map_err(|error| io_error(&file.path, error))?;
            all_stay &= metadata.is_file();
            let size = metadata.len();
            if size > limits.file_bytes {
                let problem = LogProblem::FileTooLarge { limit: limits.file_bytes };
                return Err(LogError { file: file.name(), position: Position::File, key: None, problem });
            }
            if size > largest {
                largest = size;
                ends = ends_of(&file.path).map_err(|error| io_error(&file.path, error))?;
            }
            found.push(file);
        }
    }
    // What comes through a pipe can be read once: its norms are kept.
    if !all_stay {
        let digests = Digests::default();
        let log = read_files(readers(&found, &digests), &limits, run)?;
        return Ok((log, inputs(&found, &digests)?));
    }
    let digests = Digests::default();
    if let Some(log) = read_summed(readers(&found, &digests), &limits, run, &summing(&ends))? {
        return Ok((log, inputs(&found, &digests)?));
    }
    let digests = Digests::default();
    let log = read_files(readers(&found, &digests), &limits, run)?;
    Ok((log, inputs(&found, &digests)?))
}

/// The first and the last bytes of a file.
fn ends_of(path: &Path) -> io::Result<LogEnds> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let bytes = |from: u64| {
        let mut file = &file;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(END_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    Ok(LogEnds { first: bytes(0)?, last: bytes(size.saturating_sub(END_BYTES))? })
}

/// The files of a log, in the order in which they are read.
fn readers(found: &[FoundFile], digests: &Digests) -> Vec<LogFile<DigestingReader>> {
    let reader = |(index, file): (usize, &FoundFile)| LogFile {
        name: file.name(),
        folder: file.below.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned(),
        reader: DigestingReader::new(file.path.clone(), index, Rc::clone(digests)),
    };
    let mut files: Vec<_> = found.iter().enumerate().map(reader).collect();
    files.sort_by_key(|file| !is_read_first(&file.name));
    files
}

/// What was read, by its digests.
fn inputs(found: &[FoundFile], digests: &Digests) -> Result<Vec<InputFile>, LogError> {
    let mut digests = digests.take();
    digests.sort_by_key(|(index, _)| *index);
    let input = |(index, digest): (usize, io::Result<Sha256>)| {
        let file = found.get(index)?;
        // Its place below what was given: a schedule should not tell where on a disk its log lay.
        let input = digest.map(|digest| InputFile::of_digest(file.below.clone(), digest));
        Some(input.map_err(|error| io_error(&file.path, error)))
    };
    digests.into_iter().filter_map(input).collect()
}

/// The digest of each file that was read, by its number.
type Digests = Rc<RefCell<Vec<(usize, io::Result<Sha256>)>>>;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Reads a file in pieces and takes its digest. It is opened when it is first read; what nobody read of it is read at the end.
struct DigestingReader {
    path: PathBuf,
    index: usize,
    digests: Digests,
    digest: Sha256,
    file: Option<File>,
    ended: bool,
    piece: Vec<u8>,
    at: usize,
}

impl DigestingReader {
    fn new(path: PathBuf, index: usize, digests: Digests) -> Self {
        let (digest, piece) = (Sha256::new(), Vec::new());
        Self { path, index, digests, digest, file: None, ended: false, piece, at: 0 }
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let is_first = self.file.is_none();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        self.at = 0;
        self.piece.clear();
        file.take(PIECE as u64).read_to_end(&mut self.piece)?;
        let is_database = is_first && self.piece.starts_with(b"SQLite format 3\0");
        if is_database {
            file.read_to_end(&mut self.piece)?;
        }
        self.digest.update(&self.piece);
        if is_database {
            self.piece = with_log(&self.path, std::mem::take(&mut self.piece));
        }
        self.ended = self.piece.is_empty();
        Ok(())
    }
}

impl BufRead for DigestingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.piece.len() && !self.ended {
            self.next_piece()?;
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for DigestingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl Drop for DigestingReader {
    fn drop(&mut self) {
        let mut rest = || {
            while !self.ended {
                self.next_piece()?;
            }
            Ok(())
        };
        let read = rest();
        self.digests.borrow_mut().push((self.index, read.map(|()| std::mem::take(&mut self.digest))));
    }
}

/// The bytes of a database with what its write-ahead log holds, which SQLite keeps beside it while it is open.
fn with_log(file: &Path, bytes: Vec<u8>) -> Vec<u8> {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    match fs::read(log) {
        Ok(log) => with_write_ahead_log(bytes, &log),
        Err(_) => bytes,
    }
}

/// A file that may be a log.
struct FoundFile {
    path: PathBuf,
    /// Its path below the folder that was given, with `/` between the parts; its name, where it was given itself.
    below: String,
}

impl FoundFile {
    /// What messages call it.
    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

fn has_folders(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())))
}

fn files_of(path: &Path, depth: usize) -> Result<Vec<FoundFile>, LogError> {
    if !path.is_dir() {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        return Ok(vec![FoundFile { path: path.to_owned(), below: name }]);
    }
    if path.join(AIM_FOLDER).is_dir() || path.file_name().is_some_and(|name| name == AIM_FOLDER) {
        return Err(io_error(path, io::Error::new(io::ErrorKind::Unsupported, AIM)));
    }
    let mut files = Vec::new();
    // What was asked for by its folder is read, whatever it is called.
    let is_read = |name: &str| depth == 0 || may_be_log(name);
    walk(path, "", depth, &is_read, &mut files).map_err(|error| io_error(path, error))?;
    files.sort_by(|a, b| reading_order(&a.below, &b.below));
    if files.is_empty() && !has_folders(path) {
        let message = "the folder holds no files; name the folder in which the log itself lies";
        return Err(io_error(path, io::Error::new(io::ErrorKind::NotFound, message)));
    }
    Ok(files)
}

/// Files of a folder, and of the folders in it down to a depth. Links to folders are not followed: trackers link to the
/// latest run.
fn walk(
    path: &Path,
    folder: &str,
    depth: usize,
    is_read: &impl Fn(&str) -> bool,
    found: &mut Vec<FoundFile>,
) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let (last, all) = LAST_VALUES;
        if is_hidden(&name) || (name == last && path.with_file_name(all).is_dir()) {
            continue;
        }
        let below = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if path.is_file() {
            if is_read(&name) {
                found.push(FoundFile { path, below });
            }
        } else if depth > 0 && entry.file_type()?.is_dir() {
            walk(&path, &below, depth - 1, is_read, found)?;
        }
    }
    if found.len() > MOST_FILES {
        return Err(io::Error::other(format!("it holds more than {MOST_FILES} files; name the folder of one run")));
    }
    Ok(())
}

fn io_error(path: &Path, error: io::Error) -> LogError {
    LogError { file: path.display().to_string(), position: Position::File, key: None, problem: LogProblem::Io(error) }
}
