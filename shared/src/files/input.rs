//! Reading the files that people bring: text and JSON as other programs write them, and what a file is where it is something
//! else.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::error::{Kind, ResultExt, failure};
use crate::file_kind::{FIRST_BYTES, FileKind};
use crate::json;

/// A file's text in UTF-8, without a byte order mark.
///
/// # Errors
/// [`Kind::Data`] for a file that cannot be read, or is no text: named for what it is, with the remedy.
pub fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).or_fail(Kind::Data, || format!("{}: cannot be read", path.display()))?;
    if let Err(error) = json::text(&bytes) {
        return Err(failure(Kind::Data, format!("{}: {error}", path.display())));
    }
    let text = String::from_utf8(bytes).or_fail(Kind::Data, || path.display().to_string())?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// A file's one JSON document; see [`json`] for what is read beyond the standard.
///
/// # Errors
/// As [`text`], and JSON that is damaged or of another form, with its line.
pub fn document<T: DeserializeOwned>(path: &Path) -> Result<T> {
    json::from_str(&text(path)?).or_fail(Kind::Data, || path.display().to_string())
}

/// What a file is by its first bytes; none where they say nothing, or cannot be read.
pub fn kind(path: &Path) -> Option<FileKind> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(FIRST_BYTES as u64).read_to_end(&mut start).ok()?;
    FileKind::of(&start)
}

/// Refuses a file whose first bytes are those of another kind than `wanted`.
///
/// # Errors
/// [`Kind::Data`], with what it is and the remedy.
pub fn refuse_other_kinds(path: &Path, wanted: &[FileKind]) -> Result<()> {
    match kind(path).filter(|kind| !wanted.contains(kind)) {
        Some(kind) => Err(failure(Kind::Data, format!("{}: {kind}", path.display()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::error::message_of;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_byte_order_mark_is_dropped() {
        assert_eq!(text(file(b"\xef\xbb\xbf{}").path()).unwrap(), "{}");
        assert_eq!(document::<Vec<u32>>(file(b"\xef\xbb\xbf[1]").path()).unwrap(), [1]);
    }

    #[test]
    fn a_file_of_another_kind_is_named_with_the_remedy() {
        let error = message_of(&text(file(b"PK\x03\x04\0[Content_Types].xml").path()).unwrap_err());
        assert!(error.contains(": this is an Excel file; save it as "), "{error}");
        let pointer = file(b"version https://git-lfs.github.com/spec/v1\n");
        let error = message_of(&refuse_other_kinds(pointer.path(), &[FileKind::Safetensors]).unwrap_err());
        assert!(error.contains("git lfs pull"), "{error}");
        assert!(refuse_other_kinds(file(b"\x08\0\0\0\0\0\0\0{}").path(), &[FileKind::Safetensors]).is_ok());
    }
}
