//! A dropped file as a reader: in pieces, so that its size does not matter.

use std::io::{self, BufRead, Read};

use web_sys::{File, FileReaderSync};

/// Bytes that are read at once.
const PIECE: f64 = 1_048_576.0;

/// Reads a file from inside a worker.
pub struct FileReader {
    file: File,
    read: f64,
    piece: Vec<u8>,
    at: usize,
    tell: Box<dyn Fn(f64)>,
}

impl FileReader {
    /// A reader at the start of the file.
    pub fn new(file: &File) -> Self {
        Self { file: file.clone(), read: 0.0, piece: Vec::new(), at: 0, tell: Box::new(|_| {}) }
    }

    /// The same reader, which tells after every piece how many bytes were read.
    #[must_use]
    pub fn telling(self, tell: impl Fn(f64) + 'static) -> Self {
        Self { tell: Box::new(tell), ..self }
    }

    /// The first bytes of the file, at most so many.
    ///
    /// # Errors
    /// A file that cannot be read, e.g. because it was deleted meanwhile.
    pub fn start(self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let end = (self.read + PIECE).min(self.file.size());
        let failed = || io::Error::other("the browser cannot read the file; it may have been moved or deleted");
        let slice = self.file.slice_with_f64_and_f64(self.read, end).map_err(|_| failed())?;
        let buffer =
            FileReaderSync::new().and_then(|reader| reader.read_as_array_buffer(&slice)).map_err(|_| failed())?;
        self.piece = js_sys::Uint8Array::new(&buffer).to_vec();
        self.at = 0;
        self.read = end;
        (self.tell)(self.read);
        Ok(())
    }
}

impl BufRead for FileReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.piece.len() && self.read < self.file.size() {
            self.next_piece()?;
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let n = available.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}
