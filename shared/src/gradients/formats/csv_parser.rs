//! Cuts the text of a table into rows and cells.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// Bytes and cells of a row that there is room for at first.
const ROOM: usize = 1024;

/// Reads one row at a time.
pub(super) struct Parser {
    reader: Reader,
    text: Vec<u8>,
    /// Where the cells of the row that was read last end in its text, of which there are `count`.
    ends: Vec<usize>,
    count: usize,
    /// Whether the reader stands within a row that was not whole.
    is_within: bool,
    /// Whether a row was read.
    is_begun: bool,
}

impl Parser {
    pub(super) fn new(delimiter: u8) -> Self {
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        Self { reader, text: vec![0; ROOM], ends: vec![0; ROOM], count: 0, is_within: false, is_begun: false }
    }

    /// Reads the row that a text begins with; gives its bytes, or nothing where it goes on behind the text. Behind the `is_last` one
    /// the file ends.
    pub(super) fn read(&mut self, text: &[u8], is_last: bool) -> Option<usize> {
        if std::mem::replace(&mut self.is_within, true) {
            self.reader.reset();
            if self.is_begun {
                // A reader that was reset takes a byte-order mark for the beginning of a file unless it has read something.
                self.reader.read_record(b"\n", &mut self.text, &mut self.ends);
            }
        }
        let (mut read, mut written) = (0, 0);
        self.count = 0;
        loop {
            let rest = text.get(read..)?;
            if rest.is_empty() && !is_last {
                return None;
            }
            let (room, ends) = (self.text.get_mut(written..)?, self.ends.get_mut(self.count..)?);
            let (result, more, bytes, cells) = self.reader.read_record(rest, room, ends);
            read += more;
            written += bytes;
            self.count += cells;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.text.resize(2 * self.text.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record | ReadRecordResult::End => {
                    (self.is_within, self.is_begun) = (false, true);
                    return Some(read);
                }
            }
        }
    }

    /// The cells of the row that was read last, without their quotes.
    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.ends.iter().take(self.count);
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(ends).map(|(start, end)| self.text.get(*start..*end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_row_is_read_whatever_its_length_and_only_as_a_whole() {
        let mut parser = Parser::new(b',');
        let long = "7".repeat(5 * ROOM);
        let cells = |parser: &Parser| parser.cells().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
        for (text, whole, row) in [
            ("1,,\"a \"\"b\"\"\n c\"\nnext", true, vec!["1", "", "a \"b\"\n c"]),
            (&format!("{long},{long}\r\n"), true, vec![&long, &long]),
            (&format!("{}1\n", "1,".repeat(3 * ROOM)), true, vec!["1"; 3 * ROOM + 1]),
            ("1,2", false, vec!["1", "2"]),
            ("1,\"2\n3", false, vec!["1", "2\n3"]),
        ] {
            assert_eq!(parser.read(text.as_bytes(), false).is_some(), whole, "{text:.20}");
            assert!(parser.read(text.as_bytes(), true).is_some());
            let found: Vec<String> = cells(&parser);
            assert_eq!(found, row, "{text:.20}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_one_at_the_beginning_alone_however_often_a_row_is_begun() {
        let mut parser = Parser::new(b',');
        for first in ["1", "\u{feff}1"] {
            for whole in [false, true] {
                let row = "\u{feff}1,2\n";
                let read = parser.read(if whole { row } else { &row[..4] }.as_bytes(), false);
                assert_eq!(read.is_some(), whole);
            }
            assert_eq!(parser.cells().collect::<Vec<_>>(), [first.as_bytes(), b"2"]);
        }
    }
}
