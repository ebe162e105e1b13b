//! JSON lines: walks a file of rows; [`hydra`], [`flat_json`] and [`wandb`](super::wandb) read what is in them.

use std::io::BufRead;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::input::Lines;
use super::super::rows::FileRows;
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
fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut lines = Lines::new(reader, rows.limits().line_bytes);
    let mut tape = Vec::new();
    loop {
        rows.position = Position::Line(lines.number + 1);
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(problem) => return Err(rows.error(problem)),
        };
        if line.bytes.is_empty() {
            continue;
        }
        let ended = line.ended;
        match flat_json::read_row(line.bytes, &mut tape, rows) {
            Ok(()) if !rows.is_header() => rows.commit(lines.number)?,
            Ok(()) => {
                let (meta, estimated) = hydra::parse_header(line.bytes).map_err(|p| rows.error(p))?;
                rows.discard();
                rows.header(meta, estimated)?;
            }
            Err(error) if !ended && matches!(error.problem, LogProblem::Json(_) | LogProblem::CutJson(_)) => {
                rows.discard();
                rows.note(format!("the last line (line {}) is cut off and was left out", lines.number));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}
