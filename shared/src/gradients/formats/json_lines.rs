//! JSON lines: walks a file of rows; [`hydra`], [`flat_json`] and [`wandb`](super::wandb) read what is in them.

use std::io::{self, BufRead};

use super::super::blocks::{BlockLine, Blocks, Piece, line_at, look_while};
use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::rows::FileRows;
use super::super::template::Template;
use super::flat_json;
use super::hydra;
use super::reader::{Reader, contains};

/// The project's own log: rows that say so in the first line.
pub(super) const HYDRA_LOG: Reader = Reader {
    format: Format::HydraLog,
    recognises: |start| start.is_row() && contains(start.first_line, b"\"hydra_grads\""),
    read,
};

/// Rows with histograms of gradients.
pub(super) const WANDB_HISTORY: Reader = Reader {
    format: Format::WandbHistory,
    recognises: |start| {
        start.is_row() && contains(start.text, b"\"gradients/") && contains(start.text, b"\"histogram\"")
    },
    read,
};

/// Any other rows of metrics.
pub(super) const JSON_LINES: Reader = Reader { format: Format::JsonLines, recognises: |start| start.is_row(), read };

/// Reads all lines. A last line that was cut off, as a killed or running program leaves it, is noted and left out.
///
/// One block of lines is looked at while the one before it is taken and the one behind it is read. Whatever is alike a line that
/// was read in full is without errors, so that these come in the order of the lines.
fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut blocks = Blocks::new(reader, rows.limits().line_bytes, rows.line_reading());
    let mut lines = Lines::default();
    let (mut pieces, mut pieces_before) = (Vec::new(), Vec::new());
    let first = blocks.next(Vec::new());
    look_while(&first, &[], &mut pieces, || ());
    lines.take(&first, &pieces, &[], rows)?;
    pieces.clear();
    let (mut before, mut block, mut spare) = (Vec::new(), blocks.next(first), Vec::new());
    let mut templates = Vec::new();
    loop {
        templates.append(&mut lines.found);
        std::mem::swap(&mut pieces, &mut pieces_before);
        let (taken, next) = look_while(&block, &templates, &mut pieces, || {
            let taken = lines.take(&before, &pieces_before, &templates, rows);
            (taken, blocks.next(std::mem::take(&mut spare)))
        });
        taken?;
        if lines.ended || rows.is_irregular() {
            return Ok(());
        }
        if block.is_empty() {
            break;
        }
        spare = std::mem::replace(&mut before, std::mem::replace(&mut block, next));
    }
    rows.position = Position::Line(lines.number + 1);
    blocks.failed().map_or(Ok(()), |problem| Err(rows.error(problem)))
}

/// Reads all lines of bytes that have to be waited for, of which `block` are the first. `next` adds some, and none at the end.
pub(in super::super) async fn read_awaiting(
    mut next: impl AsyncFnMut(&mut Vec<u8>) -> io::Result<usize>,
    mut block: Vec<u8>,
    rows: &mut FileRows<'_>,
) -> Result<(), LogError> {
    let mut lines = Lines::default();
    let (mut templates, mut pieces) = (Vec::new(), Vec::new());
    let limit = rows.limits().line_bytes;
    let mut ended = false;
    loop {
        let line_end = block.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = if ended || (line_end == 0 && block.len() > limit + 2) { block.len() } else { line_end };
        let text = block.get(..whole).unwrap_or_default();
        look_while(text, &templates, &mut pieces, || ());
        lines.take(text, &pieces, &templates, rows)?;
        if ended || lines.ended || rows.is_irregular() {
            return Ok(());
        }
        templates.append(&mut lines.found);
        block.drain(..whole);
        rows.position = Position::Line(lines.number + 1);
        ended = next(&mut block).await.map_err(|error| rows.error(error.into()))? == 0;
    }
}

/// The lines that were taken so far.
#[derive(Default)]
struct Lines {
    /// Their number.
    number: u64,
    /// Templates that were found since those which the blocks are looked at with.
    found: Vec<Template>,
    /// Whether the file goes on no further.
    ended: bool,
    tape: Vec<u8>,
    norms: Vec<f64>,
}

impl Lines {
    /// Takes the lines of a block that was looked at.
    fn take(
        &mut self,
        block: &[u8],
        pieces: &[Piece],
        templates: &[Template],
        rows: &mut FileRows<'_>,
    ) -> Result<(), LogError> {
        for piece in pieces {
            let mut norms = piece.norms.as_slice();
            for line in &piece.lines {
                self.number += 1;
                rows.position = Position::Line(self.number);
                let alike = line.alike.and_then(|(template, head)| Some((templates.get(template)?, head)));
                let own = alike.and_then(|(template, _)| norms.split_off(..template.targets.len()));
                let text = block.get(line.start..line.end).unwrap_or_default();
                match (alike, own) {
                    (Some((template, head)), Some(own)) if text.len() <= rows.limits().line_bytes => {
                        rows.commit_alike(&template.targets, head, own, self.number)?;
                    }
                    _ => self.take_line(text, templates.len(), rows)?,
                }
                if self.ended || rows.is_irregular() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes a line that is not alike any that were `known` of when its block was looked at.
    fn take_line(&mut self, text: &[u8], known: usize, rows: &mut FileRows<'_>) -> Result<(), LogError> {
        let (number, limit) = (self.number, rows.limits().line_bytes);
        let ended = text.ends_with(b"\n");
        let mut bytes = text.trim_ascii_end();
        if number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        if bytes.len() > limit || text.len() > limit + 1 + usize::from(ended) {
            return Err(rows.error(LogProblem::LineTooLong { limit }));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.norms.clear();
        if let BlockLine { alike: Some((template, head)), .. } = line_at(text, 0, &self.found, 0, &mut self.norms)
            && let Some(template) = self.found.get(template)
        {
            return rows.commit_alike(&template.targets, head, &self.norms, number);
        }
        let rows_before = rows.rows();
        match flat_json::read_row(bytes, &mut self.tape, rows) {
            Ok(()) if !rows.is_header() => {
                let is_new = known + self.found.len() < rows.line_reading().templates && rows.rows() == rows_before;
                match is_new.then(|| rows.template(bytes)).flatten() {
                    Some((template, head, norms)) => {
                        rows.discard();
                        rows.commit_alike(&template.targets, head, &norms, number)?;
                        self.found.push(template);
                        Ok(())
                    }
                    None => rows.commit(number),
                }
            }
            Ok(()) => {
                let (meta, estimated) = hydra::parse_header(bytes).map_err(|p| rows.error(p))?;
                rows.discard();
                rows.header(meta, estimated)
            }
            Err(error) if !ended && matches!(error.problem, LogProblem::Json(_) | LogProblem::CutJson(_)) => {
                rows.discard();
                rows.note(format!("the last line (line {number}) is cut off and was left out"));
                self.ended = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
