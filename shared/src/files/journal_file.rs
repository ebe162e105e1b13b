//! A file that grows line by line and loses at most its last line in a crash.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// An append-only file of lines; every append reaches the disk before it returns.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
}

/// What [`JournalFile::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The file, ready to be appended to.
    pub journal: JournalFile,
    /// The whole lines that it held, each ended by a newline.
    pub text: String,
}

impl JournalFile {
    /// Opens or creates the file and cuts off a last line that has no end.
    ///
    /// # Errors
    /// A file that cannot be opened or changed, or whole lines that are not UTF-8.
    pub fn open(path: &Path) -> anyhow::Result<Opened> {
        Self::open_inner(path).with_context(|| format!("cannot open {}", path.display()))
    }

    fn open_inner(path: &Path) -> anyhow::Result<Opened> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        bytes.truncate(whole);
        file.seek(SeekFrom::End(0))?;
        let text = String::from_utf8(bytes).context("it is not a text file")?;
        Ok(Opened { journal: Self { path: path.to_owned(), file }, text })
    }

    /// Appends lines in one write, flushed to the disk.
    ///
    /// # Errors
    /// A line that holds a newline itself; a disk that cannot be written. The file then ends where it ended before, or
    /// in a torn line that the next [`JournalFile::open`] cuts off.
    pub fn append<S: AsRef<str>>(&mut self, lines: &[S]) -> anyhow::Result<()> {
        let mut block = String::new();
        for line in lines {
            let line = line.as_ref();
            ensure!(!line.contains(['\n', '\r']), "a line for {} holds a line break", self.path.display());
            block.push_str(line);
            block.push('\n');
        }
        let end = self.file.stream_position()?;
        if let Err(error) = self.file.write_all(block.as_bytes()).and_then(|()| self.file.sync_data()) {
            // Best effort: if the disk is full, cutting back still works.
            let _ = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)).map(drop));
            return Err(error).with_context(|| format!("cannot append to {}", self.path.display()));
        }
        Ok(())
    }

    /// Replaces the whole content, e.g. to drop lines after the step from which a run resumes.
    ///
    /// # Errors
    /// As [`super::atomic::write_file`].
    pub fn rewrite(path: &Path, text: &str) -> anyhow::Result<Self> {
        super::atomic::write_file(path, text.as_bytes())?;
        Ok(Self::open(path)?.journal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_appended_is_read_back_and_appending_goes_on_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        JournalFile::open(&path).unwrap().journal.append(&["one", "two"]).unwrap();
        let mut opened = JournalFile::open(&path).unwrap();
        assert_eq!(opened.text, "one\ntwo\n");
        opened.journal.append(&["three"]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_line_break_inside_a_line_is_refused_and_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let mut journal = JournalFile::open(&path).unwrap().journal;
        assert!(journal.append(&["fine", "two\nlines"]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on_after_them(
            lines in prop::collection::vec("[a-zäß{}\":,0-9]{0,12}", 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("j");
            JournalFile::open(&path).unwrap().journal.append(&lines).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let kept = cut.index(bytes.len() + 1);
            std::fs::write(&path, &bytes[..kept]).unwrap();
            let mut opened = JournalFile::open(&path).unwrap();
            let whole = bytes[..kept].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
            prop_assert_eq!(opened.text.as_bytes(), &bytes[..whole]);
            opened.journal.append(&["next"]).unwrap();
            prop_assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}next\n", opened.text));
        }
    }
}
