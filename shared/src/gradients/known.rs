//! Files that are no gradient logs, by their first bytes: what they are, and what helps.

use crate::file_kind::FileKind;

/// What a file is, and the step that makes it fit.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// Where the first bytes stand, and what they are.
    start: &'static [u8],
    /// What it is.
    pub what: &'static str,
    /// The step that helps.
    pub remedy: &'static str,
}

const EXPORT_TABLE: &str = "write its rows as JSON lines: pandas' to_json(OUT, orient=\"records\", lines=True)";
const NOT_WEIGHTS: &str = "give the log that was written while the model was trained, not the model";

const KNOWN: [KnownFile; 16] = [
    KnownFile { start: b"ARROW1", what: "an Arrow (Feather) file", remedy: EXPORT_TABLE },
    KnownFile { start: b"\x89HDF", what: "an HDF5 file", remedy: EXPORT_TABLE },
    KnownFile { start: b"\x93NUMPY", what: "a NumPy array", remedy: EXPORT_TABLE },
    KnownFile { start: b"\xd0\xcf\x11\xe0", what: "an Excel file", remedy: "save the sheet as CSV" },
    KnownFile { start: b"GGUF", what: "a GGUF model", remedy: NOT_WEIGHTS },
    KnownFile {
        start: b"version https://git-lfs",
        what: "a pointer of Git LFS, not the file itself",
        remedy: "fetch the file with git lfs pull",
    },
    KnownFile { start: b"<!DOCTYPE", what: "a web page", remedy: "download the file itself" },
    KnownFile { start: b"<!doctype", what: "a web page", remedy: "download the file itself" },
    KnownFile { start: b"<table", what: "an HTML table", remedy: EXPORT_TABLE },
    KnownFile { start: b"<html", what: "a web page", remedy: "download the file itself" },
    KnownFile { start: b"\x28\xb5\x2f\xfd", what: "a file packed with Zstandard", remedy: "unpack it with unzstd" },
    KnownFile {
        start: b"Wall time,Step,Value",
        what: "one scalar as TensorBoard downloads it, whose name is not in the file",
        remedy: "give the event file, events.out.tfevents…, or its folder",
    },
    KnownFile { start: b"BZh", what: "a file packed with bzip2", remedy: "unpack it with bunzip2" },
    KnownFile { start: b"\xfd7zXZ", what: "a file packed with xz", remedy: "unpack it with unxz" },
    KnownFile {
        start: b"[metric][",
        what: "the text that Composer's FileLogger writes",
        remedy: "log with Composer's TensorboardLogger or WandBLogger, and give that log",
    },
    KnownFile {
        start: b"MANIFEST-",
        what: "a part of an aim repository",
        remedy: "export the run in Python: aim's Run.metrics() gives (step, name, value), which CSV can hold",
    },
];

const PICKLE: KnownFile = KnownFile { start: b"\x80", what: "a pickle of Python", remedy: EXPORT_TABLE };
const SAFETENSORS: KnownFile = KnownFile { start: b"", what: "a file of tensors (safetensors)", remedy: NOT_WEIGHTS };
/// Binary logs where their readers were left out.
#[cfg(not(feature = "binary-logs"))]
const UNREAD: [KnownFile; 5] = {
    const REMEDY: &str = "drop it by itself, or use trainer plan";
    [
        KnownFile { start: b"SQLite format 3\0", what: "an SQLite database", remedy: REMEDY },
        KnownFile { start: b"PAR1", what: "a Parquet file", remedy: REMEDY },
        KnownFile { start: b":W&B", what: "a W&B offline file", remedy: REMEDY },
        KnownFile { start: b":SWL", what: "a swanlab file", remedy: REMEDY },
        // It has no fixed start.
        KnownFile { start: b"", what: "a TensorBoard event file", remedy: REMEDY },
    ]
};

/// What a file is that begins so; none for what is not known.
pub(super) fn known(start: &[u8]) -> Option<&'static KnownFile> {
    #[cfg(not(feature = "binary-logs"))]
    {
        let is_it = |unread: &&KnownFile| match unread.start {
            [] => super::sniff::starts_event(start),
            bytes => start.starts_with(bytes),
        };
        if let Some(unread) = UNREAD.iter().find(is_it) {
            return Some(unread);
        }
    }
    // Its length may look like the beginning of another kind.
    if FileKind::of(start) == Some(FileKind::Safetensors) {
        return Some(&SAFETENSORS);
    }
    if let [0x80, 2..=5, ..] = start {
        return Some(&PICKLE);
    }
    KNOWN.iter().find(|known| start.starts_with(known.start))
}
