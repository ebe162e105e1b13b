//! Telling a log's format by its content.

use super::format::Format;
use super::formats::reader_of;

/// Bytes of a file that decide its format.
pub const SNIFF_BYTES: usize = 64 * 1024;

/// Whether the bytes start a gzip stream.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// Tells the format of uncompressed data by its first [`SNIFF_BYTES`] bytes; `None` where it is none of them.
pub fn sniff(start: &[u8]) -> Option<Format> {
    reader_of(start).map(|reader| reader.format)
}
