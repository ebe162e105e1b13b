//! A dropped file as a reader: in pieces, so that its size does not matter. A reader that may wait gets them into one buffer; one
//! that may not leaves a buffer of each piece to the garbage, which takes several times as long.

use std::io::{self, BufRead, Read};

use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{File, FileReaderSync, ReadableStreamByobReader};

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

    /// The last bytes of the file, at most so many.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn end(self, most: u64) -> io::Result<Vec<u8>> {
        let read = (self.file.size() - most as f64).max(0.0);
        Self { read, ..self }.start(most as usize)
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let end = (self.read + PIECE).min(self.file.size());
        let slice = self.file.slice_with_f64_and_f64(self.read, end).map_err(|_| unreadable())?;
        let buffer =
            FileReaderSync::new().and_then(|reader| reader.read_as_array_buffer(&slice)).map_err(|_| unreadable())?;
        self.piece = Uint8Array::new(&buffer).to_vec();
        self.at = 0;
        self.read = end;
        (self.tell)(self.read);
        Ok(())
    }
}

/// Reads a file in one buffer.
pub struct FileStream {
    reader: ReadableStreamByobReader,
    /// Empty while it is read into, and at the end.
    buffer: Uint8Array,
    ended: bool,
}

impl FileStream {
    /// A stream from the start of the file; none in a browser whose files do not give such.
    pub fn new(file: &File) -> Option<Self> {
        let reader = ReadableStreamByobReader::new(&file.stream()).ok()?;
        Some(Self { reader, buffer: Uint8Array::new_with_length(PIECE as u32), ended: false })
    }

    /// Adds the next bytes to those of a block, and gives their number; 0 at the end.
    ///
    /// # Errors
    /// A file that cannot be read, e.g. because it was deleted meanwhile.
    pub async fn next(&mut self, block: &mut Vec<u8>) -> io::Result<usize> {
        // The end is told once: whoever asks again has no buffer to read into.
        let read = if self.ended { None } else { self.next_view().await.map_err(|_| unreadable())? };
        let Some(view) = read else {
            self.ended = true;
            return Ok(0);
        };
        // Copied twice, which takes less than to clear the place first.
        let piece = view.to_vec();
        block.extend_from_slice(&piece);
        self.buffer = Uint8Array::new(&view.buffer());
        Ok(piece.len())
    }

    async fn next_view(&self) -> Result<Option<Uint8Array>, JsValue> {
        let read = JsFuture::from(self.reader.read_with_array_buffer_view(&self.buffer)).await?;
        let done = Reflect::get(&read, &JsValue::from_str("done"))?.is_truthy();
        let view = Reflect::get(&read, &JsValue::from_str("value"))?;
        Ok((!done).then(|| view.unchecked_into()))
    }
}

fn unreadable() -> io::Error {
    io::Error::other("the browser cannot read the file; it may have been moved or deleted")
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
