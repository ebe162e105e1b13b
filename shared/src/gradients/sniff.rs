//! Telling a log's format by its content.

use std::io::Read;

use flate2::bufread::GzDecoder;

use super::format::Format;
use super::formats::reader_of;

/// Bytes of a file that decide its format.
pub const SNIFF_BYTES: usize = 64 * 1024;

/// Whether the bytes start a gzip stream.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// Whether the bytes start a binary table, SQLite or Parquet, packed with gzip or not. Those are read with the feature `tables`
/// alone.
pub fn is_table(start: &[u8]) -> bool {
    let starts = |bytes: &[u8]| bytes.starts_with(b"SQLite format 3\0") || bytes.starts_with(b"PAR1");
    if !is_gzip(start) {
        return starts(start);
    }
    let mut first = [0; 16];
    GzDecoder::new(start).read_exact(&mut first).is_ok() && starts(&first)
}

/// Tells the format of uncompressed data by its first [`SNIFF_BYTES`] bytes; `None` where it is none of them.
pub fn sniff(start: &[u8]) -> Option<Format> {
    reader_of(start).map(|reader| reader.format)
}
