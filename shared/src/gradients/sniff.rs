//! Telling a log's format by its content.

use std::io::Read;

use flate2::bufread::GzDecoder;

use super::format::Format;
use super::formats::reader_of;

/// Bytes of a file that decide its format.
pub const SNIFF_BYTES: usize = 64 * 1024;

/// How files begin that are read with the feature `binary-logs` alone: SQLite, Parquet, W&B, swanlab.
const BINARY_LOGS: [&[u8]; 4] = [b"SQLite format 3\0", b"PAR1", b":W&B", b":SWL"];

/// Whether the bytes start with an event of TensorBoard: a length in eight bytes, four of a checksum, which is not computed here,
/// and the event's first field.
pub(super) fn starts_event(start: &[u8]) -> bool {
    matches!(start, [_, _, _, _, 0, 0, 0, 0, _, _, _, _, 9, ..])
}

/// Whether the bytes start a gzip stream.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// Whether the bytes start an SQLite database, a Parquet table, an event file of TensorBoard or an offline file of W&B or swanlab,
/// packed with gzip or not. Those are read with the feature `binary-logs` alone.
pub fn is_binary_log(start: &[u8]) -> bool {
    let starts = |bytes: &[u8]| starts_event(bytes) || BINARY_LOGS.iter().any(|start| bytes.starts_with(start));
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
