//! What a file is by its first bytes, where it is not what was asked for: said with the step that helps.

use std::fmt;

/// Bytes of a file's beginning that [`FileKind::of`] looks at.
pub const FIRST_BYTES: usize = 4096;

/// A kind of file that people have on their disks in place of the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// What Git leaves of a file that is kept in LFS.
    LfsPointer,
    /// A page of a web server: a log-in, an error, or a page about the file.
    Html,
    /// An error of a web server, as XML.
    Xml,
    /// A workbook, `.xlsx` or `.xls`.
    Excel,
    /// What `torch.save` writes: an archive with a pickle in it.
    TorchArchive,
    /// A Python pickle.
    Pickle,
    /// An array or archive of NumPy's.
    NumPy,
    /// A model or an adapter of llama.cpp's.
    Gguf,
    /// Named tensors.
    Safetensors,
    /// An archive or packed file.
    Archive,
    /// A Parquet table.
    Parquet,
    /// A SQLite database.
    Sqlite,
    /// A document in HDF5.
    Hdf5,
    /// A PDF document.
    Pdf,
    /// A picture.
    Picture,
    /// Text in UTF-16 or UTF-32.
    WideText,
}

impl FileKind {
    /// What a file is whose first bytes are these; none where they say nothing, as those of text in UTF-8.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let begins = |magic: &[u8]| bytes.starts_with(magic);
        Some(match bytes {
            // First: its length may look like the beginning of any other kind.
            _ if is_safetensors(bytes) => Self::Safetensors,
            _ if begins(b"version https://git-lfs") => Self::LfsPointer,
            _ if begins(b"PK\x03\x04") || begins(b"PK\x05\x06") => zip_kind(bytes),
            // Microsoft's container of before 2007.
            _ if begins(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") => Self::Excel,
            _ if begins(b"\x93NUMPY") => Self::NumPy,
            _ if begins(b"GGUF") => Self::Gguf,
            _ if begins(b"\x1f\x8b") || begins(b"BZh") || begins(b"\xfd7zXZ\0") || begins(b"7z\xbc\xaf") => {
                Self::Archive
            }
            _ if begins(b"(\xb5/\xfd") || bytes.get(257..262) == Some(b"ustar") => Self::Archive,
            _ if begins(b"PAR1") => Self::Parquet,
            _ if begins(b"SQLite format 3\0") => Self::Sqlite,
            _ if begins(b"\x89HDF\r\n") => Self::Hdf5,
            _ if begins(b"%PDF-") => Self::Pdf,
            _ if begins(b"\x89PNG\r\n") || begins(b"\xff\xd8\xff") || begins(b"GIF8") => Self::Picture,
            _ if is_pickle(bytes) => Self::Pickle,
            _ if is_wide(bytes) => Self::WideText,
            _ => return markup(bytes),
        })
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::LfsPointer => "a Git LFS pointer, not the file itself",
            Self::Html => "an HTML page, not the file itself",
            Self::Xml => "an XML document",
            Self::Excel => "an Excel file",
            Self::TorchArchive => "a file of torch.save",
            Self::Pickle => "a Python pickle",
            Self::NumPy => "a file of NumPy's",
            Self::Gguf => "a GGUF file",
            Self::Safetensors => "a safetensors file",
            Self::Archive => "an archive or a compressed file",
            Self::Parquet => "a Parquet file",
            Self::Sqlite => "a SQLite database",
            Self::Hdf5 => "an HDF5 file",
            Self::Pdf => "a PDF document",
            Self::Picture => "a picture",
            Self::WideText => "text in UTF-16",
        }
    }

    /// The step that gives the file that is meant.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::LfsPointer => "run `git lfs pull` in its repository",
            Self::Html => {
                "download the file, not the page about it (on a hub `resolve` in place of `blob` in the address); a gated one \
                 needs a log-in"
            }
            Self::Xml => "download it again: this is what a server answers when it refuses",
            Self::Excel => "save it as JSON lines, or as a table with tabs between the columns (.tsv)",
            Self::TorchArchive | Self::Pickle => {
                "write it again with Python: safetensors.torch.save_file for tensors, json.dump for anything else"
            }
            Self::NumPy => "write it again with Python: json.dump(array.tolist(), file)",
            Self::Gguf => "give the file of the kind that is asked for here",
            Self::Safetensors => "give the JSON file that belongs to it",
            Self::Archive => "unpack it first",
            Self::Parquet => {
                "write it again with Python: pandas.read_parquet(…).to_json(…, orient=\"records\", lines=True)"
            }
            Self::Sqlite | Self::Hdf5 => "export what it holds as JSON lines",
            Self::Pdf | Self::Picture => "give the file of the kind that is asked for here",
            Self::WideText => "save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is {}; {}", self.name(), self.remedy())
    }
}

/// A ZIP archive by the names of its entries, which stand at their beginnings and again at the archive's end.
fn zip_kind(bytes: &[u8]) -> FileKind {
    let holds = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    if holds(b"xl/") || holds(b"[Content_Types].xml") {
        FileKind::Excel
    } else if holds(b"data.pkl") || holds(b".data/") {
        FileKind::TorchArchive
    } else if holds(b".npy") {
        FileKind::NumPy
    } else {
        FileKind::Archive
    }
}

/// Protocol 2 and later begin so; torch.save of before 1.6 is one.
fn is_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

/// A byte order mark of UTF-16 or UTF-32, or text of which every other byte is zero.
fn is_wide(bytes: &[u8]) -> bool {
    let half = |first: u8, second: u8| first != 0 && second == 0;
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 0, 0xfe, 0xff, ..] => true,
        // UTF-16 without its mark.
        [a, b, c, d, ..] => half(*a, *b) && half(*c, *d) || half(*b, *a) && half(*d, *c),
        _ => false,
    }
}

/// The header's length in eight bytes, and its first letter.
fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(4..9) == Some(b"\0\0\0\0{") || bytes.get(4..10) == Some(b"\0\0\0\0 {")
}

fn markup(bytes: &[u8]) -> Option<FileKind> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |tag: &str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<!--") {
        Some(FileKind::Html)
    } else {
        begins("<?xml").then_some(FileKind::Xml)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        let utf16: Vec<u8> = "{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, kind) in [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".as_slice(), FileKind::LfsPointer),
            (b"\n<!DOCTYPE HTML><html>", FileKind::Html),
            (b"<html lang=\"en\">", FileKind::Html),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", FileKind::Xml),
            (b"PK\x03\x04\x14\0\0\0[Content_Types].xml", FileKind::Excel),
            (b"PK\x03\x04\x14\0\0\0docProps/app.xml...PK\x01\x02xl/workbook.xml", FileKind::Excel),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", FileKind::Excel),
            (b"PK\x03\x04\0\0\x08\x08archive/data.pkl", FileKind::TorchArchive),
            (b"PK\x03\x04\0\0arr_0.npy", FileKind::NumPy),
            (b"PK\x03\x04\0\0notes.txt", FileKind::Archive),
            (b"\x80\x02}q\0.", FileKind::Pickle),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (b"\x1f\x8b\x08", FileKind::Archive),
            (b"PAR1\x15\x04", FileKind::Parquet),
            (b"SQLite format 3\0", FileKind::Sqlite),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\"", FileKind::Safetensors),
            (b"\xff\xfe{\0", FileKind::WideText),
            (&utf16, FileKind::WideText),
        ] {
            assert_eq!(FileKind::of(bytes), Some(kind), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn text_in_utf_8_is_of_no_such_kind() {
        for text in ["", "{", "{\"a\": 1}", "[1]", "\u{feff}{}", "step,loss\n", "id\tquestion\n", "é", "# a\n[data]\n"]
        {
            assert_eq!(FileKind::of(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_kind_is_said_with_the_step_that_helps() {
        let said = FileKind::LfsPointer.to_string();
        assert_eq!(said, "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository");
    }
}
