//! What a format's file gives: how its data are recognised and read.

use std::io::BufRead;

use super::super::error::LogError;
use super::super::format::Format;
use super::super::rows::FileRows;

/// Reads one format.
pub(in super::super) struct Reader {
    /// Which.
    pub format: Format,
    /// Whether data that begin so are of this format. Readers are asked in the order of their list.
    pub recognises: fn(&Start<'_>) -> bool,
    /// Reads all rows; the second argument is the beginning of the data once more.
    pub read: fn(&mut dyn BufRead, &[u8], &mut FileRows<'_>) -> Result<(), LogError>,
}

/// The beginning of a file.
pub(in super::super) struct Start<'a> {
    /// As it is.
    #[cfg_attr(not(feature = "binary-logs"), allow(dead_code, reason = "only binary logs need it"))]
    pub bytes: &'a [u8],
    /// Without a byte-order mark and white space before the text.
    pub text: &'a [u8],
    /// The text's first line.
    pub first_line: &'a [u8],
}

impl<'a> Start<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
        Self { bytes, text, first_line: text.split(|b| *b == b'\n').next().unwrap_or_default() }
    }

    /// Whether the text begins with a JSON object.
    pub fn is_object(&self) -> bool {
        self.text.first() == Some(&b'{')
    }

    /// Whether the text begins with a row of JSON lines, and not with a document over several lines.
    pub fn is_row(&self) -> bool {
        self.is_object() && self.first_line.trim_ascii_end() != b"{"
    }
}

/// Whether `text` holds `needle`.
pub(in super::super) fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}
