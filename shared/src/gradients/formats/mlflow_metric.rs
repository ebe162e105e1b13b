//! mlflow's file store: one text file a metric, whose name is the path below `metrics`, with lines of time stamp, value and step.

use std::io::BufRead;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::input::Lines;
use super::super::path::metrics_key;
use super::super::rows::{FileRows, Names};
use super::number::parse_number;
use super::reader::{Reader, Start};

/// Lines of three numbers, of which the first is a time in milliseconds and the last a step.
pub(super) const READER: Reader = Reader { format: Format::MlflowMetric, recognises, read };

/// Milliseconds up to the year 2001: a smaller number is no time stamp of a run.
const EARLIEST: u64 = 1_000_000_000_000;

fn recognises(start: &Start<'_>) -> bool {
    parse_line(start.first_line).is_some()
}

/// Value and step of a line.
fn parse_line(line: &[u8]) -> Option<(f64, f64)> {
    let mut parts = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (time, value, step) = (parts.next()?, parts.next()?, parts.next()?);
    let stamp = time.parse::<u64>().is_ok_and(|time| time > EARLIEST);
    (stamp && parts.next().is_none()).then_some((parse_number(value)?, step.parse().ok()?))
}

fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let Some(name) = metrics_key(rows.name) else { return Err(rows.error(LogProblem::NoName)) };
    let key = rows.key(Names::Metrics, &name)?;
    let mut lines = Lines::new(reader, rows.limits().line_bytes);
    loop {
        rows.position = Position::Line(lines.number + 1);
        let Some(line) = lines.next().map_err(|p| rows.error(p))? else { return Ok(()) };
        let Some((value, step)) = parse_line(line.bytes) else {
            if line.bytes.is_empty() || !line.ended {
                continue;
            }
            let text = String::from_utf8_lossy(line.bytes).chars().take(40).collect();
            return Err(rows.error(LogProblem::NotANumber(text)));
        };
        let result = rows.set_number(key, value).and_then(|()| rows.set_step(0, step));
        result.map_err(|p| rows.key_error(key, p))?;
        rows.commit(lines.number)?;
    }
}
