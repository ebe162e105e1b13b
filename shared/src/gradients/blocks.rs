//! Lines in blocks, several of which are looked at together.

use std::io::{BufRead, Read};

use super::error::LogProblem;
use super::template::{RowHead, Template};

/// How lines are read that may be alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineReading {
    /// Bytes of the first block, from which templates are taken.
    pub(super) first_block: usize,
    /// Bytes of the others: enough to share out, and few beside what a program holds anyway.
    pub(super) block: usize,
    /// Most templates of a file: rows of norms, of losses, of evaluations. Without any all lines are read in full.
    pub(super) templates: usize,
}

impl Default for LineReading {
    fn default() -> Self {
        Self { first_block: 64 << 10, block: 1 << 20, templates: 8 }
    }
}

/// Cuts a file into blocks of whole lines.
pub(super) struct Blocks<'a> {
    inner: &'a mut dyn BufRead,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    /// Bytes of the next block, and of those behind it.
    size: usize,
    then: usize,
    limit: usize,
    ended: bool,
    /// What is wrong behind the blocks that were given.
    failed: Option<LogProblem>,
}

impl<'a> Blocks<'a> {
    /// `limit` is the most bytes of a line.
    pub(super) fn new(inner: &'a mut dyn BufRead, limit: usize, reading: LineReading) -> Self {
        let LineReading { first_block: size, block: then, .. } = reading;
        Self { inner, rest: Vec::new(), size, then, limit, ended: false, failed: None }
    }

    /// The next block, in a buffer that is used again; empty at the end. Of its lines only the file's last one may lack an end, or
    /// one that is too long.
    pub(super) fn next(&mut self, mut block: Vec<u8>) -> Vec<u8> {
        block.clear();
        block.append(&mut self.rest);
        let mut looked_at = 0;
        while !self.ended {
            // A line that is longer than a block is read block by block.
            let more = self.size.saturating_sub(block.len() % self.size.max(1)).max(1);
            // A buffer that grows by itself takes up to twice as much.
            block.reserve_exact(more);
            match self.inner.take(more as u64).read_to_end(&mut block) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) => {
                    (self.ended, self.failed) = (true, Some(error.into()));
                }
            }
            let line_end = block.iter().skip(looked_at).rposition(|byte| *byte == b'\n');
            let line_end = line_end.map_or(0, |at| looked_at + at + 1);
            if self.failed.is_some() {
                block.truncate(line_end);
            } else if !self.ended && line_end > 0 {
                self.rest.extend(block.get(line_end..).unwrap_or_default());
                block.truncate(line_end);
                break;
            } else if block.len() > self.limit + 2 {
                break;
            }
            looked_at = block.len();
        }
        self.size = self.then;
        block
    }

    /// What is wrong behind the last block.
    pub(super) fn failed(&mut self) -> Option<LogProblem> {
        self.failed.take()
    }
}

/// A line of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockLine {
    pub(super) start: usize,
    /// The first byte behind its end.
    pub(super) end: usize,
    /// The template that it is alike, and what it says beside its norms.
    pub(super) alike: Option<(usize, RowHead)>,
}

/// Lines one after another.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) lines: Vec<BlockLine>,
    /// The norms of those that are alike a template.
    pub(super) norms: Vec<f64>,
}

impl Piece {
    /// Looks at the lines between two bytes.
    fn read(&mut self, text: &[u8], start: usize, end: usize, templates: &[Template]) {
        let Some(text) = text.get(..end) else { return };
        self.lines.clear();
        self.norms.clear();
        let (mut at, mut last) = (start, 0);
        while at < end {
            let line = line_at(text, at, templates, last, &mut self.norms);
            last = line.alike.map_or(last, |(template, _)| template);
            at = line.end;
            self.lines.push(line);
        }
    }
}

/// The line that begins at a byte; the template that was the last one's is tried first.
pub(super) fn line_at(
    text: &[u8],
    start: usize,
    templates: &[Template],
    last: usize,
    norms: &mut Vec<f64>,
) -> BlockLine {
    let order = std::iter::once(last).chain((0..templates.len()).filter(|other| *other != last));
    for template in order {
        if let Some((head, end)) = templates.get(template).and_then(|alike| alike.read(text, start, norms)) {
            return BlockLine { start, end, alike: Some((template, head)) };
        }
    }
    BlockLine { start, end: line_end(text, start), alike: None }
}

/// The first byte behind the line that begins at a byte.
fn line_end(text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| start + at + 1)
}

/// Pieces of a block that are looked at beside each other.
#[cfg(all(feature = "files", not(target_family = "wasm")))]
const PIECES: usize = 8;

/// Looks at a block's lines in several threads, while this one does something else. `pieces` are used again.
#[cfg(all(feature = "files", not(target_family = "wasm")))]
pub(super) fn look_while<T>(
    text: &[u8],
    templates: &[Template],
    pieces: &mut Vec<Piece>,
    meanwhile: impl FnOnce() -> T,
) -> T {
    pieces.resize_with(PIECES, Piece::default);
    rayon::in_place_scope(|scope| {
        let mut start = 0;
        for (index, piece) in pieces.iter_mut().enumerate() {
            let end = if index + 1 == PIECES { text.len() } else { line_end(text, text.len() / PIECES * (index + 1)) };
            let (from, to) = (start, end.max(start));
            scope.spawn(move |_| piece.read(text, from, to, templates));
            start = to;
        }
        meanwhile()
    })
}

/// Looks at a block's lines, and does something else before.
#[cfg(not(all(feature = "files", not(target_family = "wasm"))))]
pub(super) fn look_while<T>(
    text: &[u8],
    templates: &[Template],
    pieces: &mut Vec<Piece>,
    meanwhile: impl FnOnce() -> T,
) -> T {
    let done = meanwhile();
    pieces.resize_with(1, Piece::default);
    if let Some(piece) = pieces.first_mut() {
        piece.read(text, 0, text.len(), templates);
    }
    done
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn blocks(text: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut reader = text;
        let mut blocks = Blocks::new(&mut reader, limit, LineReading::default());
        std::iter::from_fn(|| Some(blocks.next(Vec::new())).filter(|block| !block.is_empty())).collect()
    }

    #[test]
    fn blocks_are_whole_lines_and_together_the_file() {
        for (lines, length, last) in [(3, 10, ""), (40_000, 100, "the last"), (3, 3 << 20, ""), (1, 200_000, "x")] {
            let mut text = Vec::new();
            for line in 0..lines {
                text.extend(vec![b'a' + (line % 26) as u8; length]);
                text.push(b'\n');
            }
            text.extend(last.as_bytes());
            let blocks = blocks(&text, 8 << 20);
            assert_eq!(blocks.concat(), text, "{lines} lines of {length}");
            let (_, before) = blocks.split_last().unwrap();
            assert!(before.iter().all(|block| block.ends_with(b"\n")));
        }
        assert!(blocks(b"", 100).is_empty());
    }

    #[test]
    fn no_more_is_held_of_a_line_than_it_may_be_long() {
        let blocks = blocks(&vec![b'a'; 5 << 20], 1 << 20);
        assert!(blocks.first().is_some_and(|block| (1 << 20..3 << 20).contains(&block.len())));
    }
}
