//! LevelDB's log, the frame of W&B's and swanlab's offline files: a header of 7 bytes, then blocks of 32 KiB that hold chunks of
//! checksum, length, type and data. Unlike LevelDB's own, the checksum is the ordinary CRC-32 over type and data.

use std::io::{self, BufRead, Read};

use super::error::LogProblem;

/// Bytes of the file's header, which the first block counts.
pub(super) const HEADER: usize = 7;
const BLOCK: usize = 32_768;
/// Checksum (4), length (2), type (1).
const CHUNK_HEADER: usize = 7;

/// Records of a log, in order.
pub(super) struct Records<'a> {
    inner: &'a mut dyn BufRead,
    /// Bytes of the file that were read.
    offset: u64,
    limit: usize,
}

/// What comes next.
pub(super) enum Next {
    /// A whole record.
    Record(Vec<u8>),
    /// A record that is larger than allowed, and was passed over.
    TooLarge,
    /// The file ends within a record, as that of a live or killed run does.
    Torn,
    /// The end.
    End,
}

impl<'a> Records<'a> {
    /// Reads past the header.
    pub(super) fn new(inner: &'a mut dyn BufRead, limit: usize) -> io::Result<Self> {
        let mut records = Self { inner, offset: 0, limit };
        records.read(HEADER)?;
        Ok(records)
    }

    fn read(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::with_capacity(count.min(BLOCK));
        Read::take(&mut *self.inner, count as u64).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        Ok((bytes.len() == count).then_some(bytes))
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Result<Next, LogProblem> {
        let (mut record, mut inside, mut too_large) = (Vec::new(), false, false);
        loop {
            let left = BLOCK - (self.offset % BLOCK as u64) as usize;
            if left < CHUNK_HEADER {
                self.read(left)?;
                continue;
            }
            let start = self.offset;
            let damaged = |what: &str| LogProblem::Damaged { byte: start, what: what.to_owned() };
            if self.inner.fill_buf()?.is_empty() {
                return Ok(if inside { Next::Torn } else { Next::End });
            }
            let Some(head) = self.read(CHUNK_HEADER)? else { return Ok(Next::Torn) };
            let [c0, c1, c2, c3, l0, l1, kind] = head.as_slice() else { return Ok(Next::Torn) };
            let (length, kind) = (usize::from(u16::from_le_bytes([*l0, *l1])), *kind);
            if kind == 0 && length == 0 {
                // Space that was set aside and never written.
                return Ok(if inside { Next::Torn } else { Next::End });
            }
            if length > left - CHUNK_HEADER {
                return Err(damaged("a chunk is longer than its block"));
            }
            let Some(data) = self.read(length)? else { return Ok(Next::Torn) };
            let mut crc = flate2::Crc::new();
            crc.update(&[kind]);
            crc.update(&data);
            if crc.sum() != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
                return Err(damaged("a chunk does not match its checksum"));
            }
            let (first, last) = match kind {
                1 => (true, true),
                2 => (true, false),
                3 => (false, false),
                4 => (false, true),
                _ => return Err(damaged("a chunk is of an unknown type")),
            };
            if first {
                // A writer that was killed within a record and went on left the beginning of it.
                record.clear();
                too_large = false;
            } else if !inside {
                return Err(damaged("the beginning of a record is missing"));
            }
            inside = true;
            too_large |= record.len() + data.len() > self.limit;
            if !too_large {
                record.extend_from_slice(&data);
            }
            if last {
                return Ok(if too_large { Next::TooLarge } else { Next::Record(record) });
            }
        }
    }
}

/// A log of these records, for tests and for what this project writes.
#[cfg(test)]
pub(super) fn leveldb_log(header: &[u8; HEADER], records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = header.to_vec();
    for record in records {
        let mut rest = record.as_slice();
        let mut first = true;
        loop {
            let mut left = BLOCK - out.len() % BLOCK;
            if left < CHUNK_HEADER {
                out.resize(out.len() + left, 0);
                left = BLOCK;
            }
            let take = rest.len().min(left - CHUNK_HEADER);
            let (data, after) = rest.split_at(take);
            rest = after;
            let kind: u8 = match (first, rest.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let mut crc = flate2::Crc::new();
            crc.update(&[kind]);
            crc.update(data);
            out.extend(crc.sum().to_le_bytes());
            out.extend((take as u16).to_le_bytes());
            out.push(kind);
            out.extend(data);
            first = false;
            if rest.is_empty() {
                break;
            }
        }
    }
    out
}
