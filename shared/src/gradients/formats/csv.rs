//! A table of metrics: Lightning's CSV logger (`grad_2.0_norm/<parameter>` columns), W&B's CSV export, any table with
//! such columns. Lightning spreads one step over several rows with empty cells; they are put together.

use std::io::BufRead;

use csv::{ByteRecord, ReaderBuilder};

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::input::RecordBound;
use super::super::metric::{MetricKey, parse_metric};
use super::super::rows::{FileRows, KeyId, KeyUse, Names};
use super::reader::{Reader, Start};

/// Tables whose header names a known column.
pub(super) const READER: Reader = Reader { format: Format::Csv, recognises, read };

fn recognises(start: &Start<'_>) -> bool {
    !start.is_object() && csv_delimiter(start.first_line).is_some()
}

/// The delimiter of a CSV header that names at least one known column.
fn csv_delimiter(header: &[u8]) -> Option<u8> {
    let delimiter = [b',', b'\t', b';'].into_iter().max_by_key(|d| header.iter().filter(|b| *b == d).count())?;
    let known = header.split(|b| *b == delimiter).any(|column| {
        std::str::from_utf8(column.trim_ascii())
            .is_ok_and(|name| parse_metric(name.trim_matches('"')) != MetricKey::Other)
    });
    (known && header.contains(&delimiter)).then_some(delimiter)
}

/// Bytes that a record may read ahead.
const BUFFER: usize = 64 * 1024;

/// Reads all rows. A last row that was cut off is noted and left out.
fn read(reader: &mut dyn BufRead, start: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let header = start.split(|b| *b == b'\n').next().unwrap_or_default();
    let delimiter = csv_delimiter(header).unwrap_or(b',');
    let bound = RecordBound::new(reader, rows.limits().line_bytes + BUFFER);
    let mut table = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .buffer_capacity(BUFFER)
        .from_reader(bound);
    let mut record = ByteRecord::new();
    let mut columns: Vec<KeyId> = Vec::new();
    loop {
        let more = table.read_byte_record(&mut record).map_err(|e| rows.error(problem(e)))?;
        if !more {
            return Ok(());
        }
        table.get_mut().reset();
        let line = record.position().map_or(0, csv::Position::line);
        rows.position = Position::Line(line);
        if columns.is_empty() {
            for column in &record {
                let name = String::from_utf8_lossy(column.strip_prefix(b"\xef\xbb\xbf").unwrap_or(column));
                columns.push(rows.key(Names::Metrics, name.trim())?);
            }
            continue;
        }
        if record.len() != columns.len() {
            let columns_found = record.len();
            if columns_found < columns.len()
                && !table.read_byte_record(&mut record).map_err(|e| rows.error(problem(e)))?
            {
                rows.note(format!("the last row (line {line}) is cut off and was left out"));
                return Ok(());
            }
            let what = format!("{} columns where the header has {}", columns_found, columns.len());
            return Err(rows.error(LogProblem::Csv(what)));
        }
        for (key, cell) in columns.iter().zip(&record) {
            read_cell(*key, cell.trim_ascii(), rows)?;
        }
        rows.commit(line)?;
    }
}

fn read_cell(key: KeyId, cell: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let usage = rows.usage(key);
    if cell.is_empty() || !matches!(usage, KeyUse::Gradient { .. } | KeyUse::Step(_) | KeyUse::Loss(_)) {
        return Ok(());
    }
    let number: Option<f64> = std::str::from_utf8(cell).ok().and_then(|text| text.parse().ok());
    let result = match (usage, number) {
        (KeyUse::Gradient { slot, matrix }, Some(norm)) => rows.set(slot, matrix, norm),
        (KeyUse::Step(rank), Some(step)) => rows.set_step(rank, step),
        (KeyUse::Loss(rank), Some(loss)) => {
            rows.set_loss(rank, loss);
            Ok(())
        }
        (KeyUse::Loss(_), None) => Ok(()),
        (usage, _) => {
            let text: String = String::from_utf8_lossy(cell).chars().take(40).collect();
            Err(if matches!(usage, KeyUse::Step(_)) { LogProblem::BadStep(text) } else { LogProblem::NotANumber(text) })
        }
    };
    result.map_err(|p| rows.key_error(key, p))
}

fn problem(error: csv::Error) -> LogProblem {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        _ => LogProblem::Csv(text),
    }
}
