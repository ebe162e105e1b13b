//! Reading bytes with bounds: lines, compressed streams, whole files.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::LogProblem;

/// Bounds of what is read. A log beyond them is refused, never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file as it lies on disk.
    pub file_bytes: u64,
    /// Bytes that a gzipped file may unpack to.
    pub inflated_bytes: u64,
    /// Unpacked bytes per packed byte.
    pub inflation_ratio: u64,
    /// Bytes of one line or row.
    pub line_bytes: usize,
    /// Different keys of one file.
    pub keys: usize,
    /// Characters of one key.
    pub name_chars: usize,
    /// Norms that are kept; a row whose norms are summed up counts as one.
    pub values: usize,
}

impl Default for Limits {
    /// No bound on a file's size; 512 MiB unpacked at no more than 200 times; lines of 8 MiB; 200,000 keys of 512
    /// characters; 50 million norms.
    fn default() -> Self {
        Self {
            file_bytes: u64::MAX,
            inflated_bytes: 512 << 20,
            inflation_ratio: 200,
            line_bytes: 8 << 20,
            keys: 200_000,
            name_chars: 512,
            values: 50_000_000,
        }
    }
}

/// Counts what is consumed and stops at a limit.
pub(super) struct Counted<R> {
    inner: R,
    bytes: u64,
    limit: u64,
}

impl<R: BufRead> Counted<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, bytes: 0, limit }
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes > self.limit {
            return Err(io::Error::other(LogProblem::FileTooLarge { limit: self.limit }));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.bytes += n as u64;
        self.inner.consume(n);
    }
}

/// Unpacks gzip, with a bound on size and ratio.
pub(super) struct Inflate<R> {
    inner: MultiGzDecoder<Counted<R>>,
    bytes: u64,
    limit: u64,
    ratio: u64,
}

/// Unpacked bytes from which the ratio counts: a short file of zeros is no attack.
const RATIO_FROM: u64 = 1 << 20;

impl<R: BufRead> Inflate<R> {
    pub(super) fn new(inner: Counted<R>, limits: &Limits) -> BufReader<Self> {
        let (limit, ratio) = (limits.inflated_bytes, limits.inflation_ratio);
        BufReader::with_capacity(64 * 1024, Self { inner: MultiGzDecoder::new(inner), bytes: 0, limit, ratio })
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf).map_err(|error| match LogProblem::from(error) {
            LogProblem::Io(error) => io::Error::other(LogProblem::Gzip(error)),
            problem => io::Error::other(problem),
        })?;
        self.bytes += n as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other(LogProblem::Inflated { limit: self.limit }));
        }
        if self.bytes > RATIO_FROM && self.bytes / self.ratio > self.inner.get_ref().bytes {
            return Err(io::Error::other(LogProblem::Ratio { limit: self.ratio }));
        }
        Ok(n)
    }
}

/// Lines of bounded length.
pub(super) struct Lines<'a> {
    inner: &'a mut dyn BufRead,
    buffer: Vec<u8>,
    limit: usize,
    /// Number of the last line that was read, from 1.
    pub(super) number: u64,
}

/// A line without its end.
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether a line feed ended it: the last line of a live or killed run may lack it.
    pub(super) ended: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(inner: &'a mut dyn BufRead, limit: usize) -> Self {
        Self { inner, buffer: Vec::new(), limit, number: 0 }
    }

    /// The next line; a byte order mark before the first one is dropped.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, LogProblem> {
        self.buffer.clear();
        let bound = self.limit as u64 + 2;
        self.number += 1;
        if self.inner.take(bound).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        let ended = self.buffer.last() == Some(&b'\n');
        let mut bytes = self.buffer.trim_ascii_end();
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        if bytes.len() > self.limit || (!ended && self.buffer.len() as u64 == bound) {
            return Err(LogProblem::LineTooLong { limit: self.limit });
        }
        Ok(Some(Line { bytes, ended }))
    }
}
