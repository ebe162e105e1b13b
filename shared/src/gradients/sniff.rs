//! Telling a log's format by its content.

use serde::{Deserialize, Serialize};

use super::formats::tensorboard::masked_crc;
use super::metric::{MetricKey, parse_metric};

/// Bytes of a file that decide its format.
pub const SNIFF_BYTES: usize = 64 * 1024;

/// Formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The project's own JSON lines.
    HydraLog,
    /// JSON lines of metrics.
    JsonLines,
    /// A table of metrics: Lightning's CSV logger and its like.
    Csv,
    /// JSON lines with W&B's histograms.
    WandbHistory,
    /// A TensorBoard event file.
    TensorBoard,
    /// Hugging Face Trainer's `trainer_state.json`.
    TrainerState,
}

impl Format {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::HydraLog => "HyDRA gradient log",
            Self::JsonLines => "JSON lines",
            Self::Csv => "CSV",
            Self::WandbHistory => "W&B history",
            Self::TensorBoard => "TensorBoard event file",
            Self::TrainerState => "trainer_state.json",
        }
    }
}

/// Whether the bytes start a gzip stream.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// Tells the format of uncompressed data by its first [`SNIFF_BYTES`] bytes; `None` where it is none of them.
pub fn sniff(start: &[u8]) -> Option<Format> {
    if is_event_file(start) {
        return Some(Format::TensorBoard);
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let first_line = text.split(|b| *b == b'\n').next().unwrap_or_default();
    if text.first() == Some(&b'{') {
        if contains(text, b"\"log_history\"") {
            return Some(Format::TrainerState);
        }
        // Any other JSON document over several lines.
        if first_line.trim_ascii_end() == b"{" {
            return None;
        }
        if contains(first_line, b"\"hydra_grads\"") {
            return Some(Format::HydraLog);
        }
        let histograms = contains(text, b"\"gradients/") && contains(text, b"\"histogram\"");
        return Some(if histograms { Format::WandbHistory } else { Format::JsonLines });
    }
    csv_delimiter(first_line).map(|_| Format::Csv)
}

/// The delimiter of a CSV header that names at least one known column.
pub(super) fn csv_delimiter(header: &[u8]) -> Option<u8> {
    let delimiter = [b',', b'\t', b';'].into_iter().max_by_key(|d| header.iter().filter(|b| *b == d).count())?;
    let known = header.split(|b| *b == delimiter).any(|column| {
        std::str::from_utf8(column.trim_ascii())
            .is_ok_and(|name| parse_metric(name.trim_matches('"')) != MetricKey::Other)
    });
    (known && header.contains(&delimiter)).then_some(delimiter)
}

/// A record's length and its checksum.
fn is_event_file(start: &[u8]) -> bool {
    match start.first_chunk::<12>() {
        Some([length @ .., c0, c1, c2, c3]) => masked_crc(length) == u32::from_le_bytes([*c0, *c1, *c2, *c3]),
        None => false,
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}
