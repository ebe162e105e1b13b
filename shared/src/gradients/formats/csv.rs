//! A table of metrics: Lightning's CSV logger (`grad_2.0_norm/<parameter>` columns), W&B's CSV export and pandas' of a history
//! with histograms in its cells, tables of one row a value (step, name, value), any table with such columns. Lightning
//! spreads one step over several rows with empty cells; they are put together.

use std::io::{BufRead, Read};

use csv::{ByteRecord, ReaderBuilder};
use jiter::Jiter;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::input::RecordBound;
use super::super::metric::{MetricKey, is_doubtful_step, parse_metric};
use super::super::path::metrics_key;
use super::super::rows::{FileRows, KeyId, KeyUse, Names, Target};
use super::flat_json::{read_gradient, set_text};
use super::number::{Number, parse_number};
use super::python_literal::to_json;
use super::reader::{Reader, Start};

/// Tables whose header names a known column.
pub(super) const READER: Reader = Reader { format: Format::Csv, recognises, read };

fn recognises(start: &Start<'_>) -> bool {
    // Text in UTF-16 is full of zeros.
    !matches!(start.text.first(), Some(b'{' | b'['))
        && !start.first_line.contains(&0)
        && Header::find(start.text).is_some()
}

/// Lines before a header, as some programs write them.
const MOST_LINES_BEFORE: usize = 50;

/// Where a table's header stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Lines before it.
    lines: usize,
    delimiter: u8,
}

impl Header {
    fn find(text: &[u8]) -> Option<Self> {
        let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').take(MOST_LINES_BEFORE).collect();
        (0..lines.len()).find_map(|at| {
            let delimiter = csv_delimiter(lines.get(at)?)?;
            (at == 0 || fits(lines.get(at)?, lines.get(at + 1)?, delimiter)).then_some(Self { lines: at, delimiter })
        })
    }
}

/// The delimiter of a CSV header that names at least one known column.
fn csv_delimiter(header: &[u8]) -> Option<u8> {
    let delimiter = [b',', b'\t', b';'].into_iter().max_by_key(|d| header.iter().filter(|b| *b == d).count())?;
    let columns: Vec<&str> =
        header.split(|b| *b == delimiter).filter_map(|column| std::str::from_utf8(column).ok()).collect();
    let named = |is: fn(&MetricKey<'_>) -> bool| columns.iter().any(|column| is(&parse_metric(column_name(column))));
    let long = || named(|key| matches!(key, MetricKey::Name(_))) && named(|key| matches!(key, MetricKey::Value(_)));
    let known = columns.iter().any(|column| is_known(column)) || long();
    (known && header.contains(&delimiter)).then_some(delimiter)
}

fn is_known(column: &str) -> bool {
    use MetricKey::{Bare, GlobalNorm, Gradient, Header, Loss, Nested, Skipped, Step};
    match parse_metric(column_name(column)) {
        Bare(_) | Gradient(_) | Header | Loss(_) | Nested | GlobalNorm | Skipped(_) => true,
        Step(rank) => !is_doubtful_step(rank),
        _ => false,
    }
}

/// A column without quotes and without the mark of a comment, which NumPy writes before the first.
fn column_name(column: &str) -> &str {
    column.trim().trim_start_matches(['#', '\u{feff}']).trim().trim_matches('"')
}

/// Whether a line below a header that does not come first is a row of it.
fn fits(header: &[u8], row: &[u8], delimiter: u8) -> bool {
    let columns = |line: &[u8]| line.split(|b| *b == delimiter).count();
    let number = |cell: &[u8]| std::str::from_utf8(cell).is_ok_and(|cell| parse_cell(cell).is_some());
    columns(header) == columns(row) && row.split(|b| *b == delimiter).any(number)
}

/// Bytes that a record may read ahead.
const BUFFER: usize = 64 * 1024;

/// Reads all rows. A last row that was cut off is noted and left out.
fn read(reader: &mut dyn BufRead, start: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let white = text.len() - text.trim_ascii_start().len();
    let blank = text.get(..white).unwrap_or_default().iter().filter(|b| **b == b'\n').count();
    let Header { lines, delimiter } =
        Header::find(text.trim_ascii_start()).unwrap_or(Header { lines: 0, delimiter: b',' });
    let before = skip_lines(reader, blank + lines).map_err(|e| rows.error(e.into()))?;
    let bound = RecordBound::new(reader, rows.limits().line_bytes + BUFFER);
    let mut table = Table {
        reader: ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .has_headers(false)
            .buffer_capacity(BUFFER)
            .from_reader(bound),
        before,
        columns: Vec::new(),
        decimal_comma: false,
        in_doubt: None,
    };
    table.read(rows)
}

/// Reads past lines; gives their number.
fn skip_lines(reader: &mut dyn BufRead, count: usize) -> std::io::Result<u64> {
    for _ in 0..count {
        // The lines stand within what decided the format.
        let mut line = Vec::new();
        reader.take(super::super::sniff::SNIFF_BYTES as u64).read_until(b'\n', &mut line)?;
    }
    Ok(count as u64)
}

struct Table<'a> {
    reader: csv::Reader<RecordBound<'a>>,
    /// Lines before the header.
    before: u64,
    columns: Vec<KeyId>,
    /// Whether a number was read whose comma can only stand for the point.
    decimal_comma: bool,
    /// The first number whose comma may as well stand between thousands, with its line.
    in_doubt: Option<(u64, String)>,
}

impl Table<'_> {
    fn next(&mut self, record: &mut ByteRecord, rows: &FileRows<'_>) -> Result<bool, LogError> {
        let more = self.reader.read_byte_record(record).map_err(|e| rows.error(problem(e)))?;
        self.reader.get_mut().reset();
        Ok(more)
    }

    fn read(&mut self, rows: &mut FileRows<'_>) -> Result<(), LogError> {
        let mut record = ByteRecord::new();
        while self.next(&mut record, rows)? {
            let line = record.position().map_or(0, csv::Position::line) + self.before;
            rows.position = Position::Line(line);
            if self.columns.is_empty() && self.is_transposed(&record) {
                return Err(rows.error(LogProblem::Transposed));
            }
            if self.columns.is_empty() || self.is_header(&record) {
                if !self.columns.is_empty() {
                    rows.count("more headers stand between the rows; each counts from there on");
                }
                self.columns.clear();
                for column in &record {
                    let name = String::from_utf8_lossy(column);
                    let name = column_name(&name);
                    // dvclive writes one table a metric and only the last part of its name into the header.
                    let whole = metrics_key(rows.name).filter(|key| key.rsplit('/').next() == Some(name));
                    self.columns.push(rows.key(Names::Metrics, whole.as_deref().unwrap_or(name))?);
                }
                continue;
            }
            if record.get(0).is_some_and(|cell| cell.starts_with(b"#")) {
                continue;
            }
            if record.len() != self.columns.len() {
                let (found, columns) = (record.len(), self.columns.len());
                if found < columns && !self.next(&mut record, rows)? {
                    rows.note(format!("the last row (line {line}) is cut off and was left out"));
                    return Ok(());
                }
                rows.position = Position::Line(line);
                return Err(rows.error(LogProblem::Csv(format!("{found} columns where the header has {columns}"))));
            }
            for (column, cell) in record.iter().enumerate() {
                if let Some(key) = self.columns.get(column) {
                    self.read_cell(*key, cell.trim_ascii(), rows)?;
                }
            }
            rows.commit(line)?;
        }
        match self.in_doubt.take() {
            Some((line, text)) if !self.decimal_comma => {
                rows.position = Position::Line(line);
                Err(rows.error(LogProblem::Thousands(text)))
            }
            _ => Ok(()),
        }
    }

    /// Whether a row between the others is a header, as a program leaves it that was started again.
    fn is_header(&self, record: &ByteRecord) -> bool {
        let text = |cell| std::str::from_utf8(cell).unwrap_or_default();
        record.iter().any(|cell| is_known(text(cell))) && !record.iter().any(|cell| parse_cell(text(cell)).is_some())
    }

    /// Whether what ought to be the header is a known name with numbers behind it.
    fn is_transposed(&self, record: &ByteRecord) -> bool {
        let text = |cell| std::str::from_utf8(cell).unwrap_or_default();
        let mut cells = record.iter();
        cells.next().is_some_and(|first| is_known(text(first)))
            && record.len() > 1
            && cells.all(|cell| parse_cell(text(cell)).is_some())
    }

    fn read_cell(&mut self, key: KeyId, cell: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
        let usage = rows.usage(key);
        if cell.is_empty() || matches!(usage, KeyUse::Ignored | KeyUse::Open) {
            return Ok(());
        }
        let Ok(text) = std::str::from_utf8(cell) else { return Ok(()) };
        if let (KeyUse::Gradient(target), b'{') = (usage, cell.first().copied().unwrap_or_default()) {
            return read_literal(text, key, target, rows);
        }
        if !matches!(usage, KeyUse::RunName | KeyUse::RunId | KeyUse::Name(_) | KeyUse::Variant | KeyUse::Measure) {
            match comma_of(text) {
                Some(Comma::Decimal) => self.decimal_comma = true,
                Some(Comma::Either) if self.in_doubt.is_none() => {
                    let Position::Line(line) = rows.position else { return Ok(()) };
                    self.in_doubt = Some((line, text.trim_matches('"').to_owned()));
                }
                _ => {}
            }
        }
        let number = match parse_cell(text) {
            Some(number) => Number::Is(number),
            None => Number::of(text),
        };
        let result = match (usage, number) {
            (KeyUse::RunName | KeyUse::RunId | KeyUse::Name(_) | KeyUse::Variant | KeyUse::Measure, _) => {
                set_text(usage, text, rows);
                Ok(())
            }
            (_, Number::Is(number)) => rows.set_number(key, number),
            (KeyUse::Gradient(target), Number::Not) if !rows.is_bare(target) => {
                Err(LogProblem::NotANumber(text.chars().take(40).collect()))
            }
            (KeyUse::Step(rank), Number::Not) if !is_doubtful_step(rank) => {
                Err(LogProblem::BadStep(text.chars().take(40).collect()))
            }
            _ => Ok(()),
        };
        result.map_err(|p| rows.key_error(key, p))
    }
}

/// What the comma of a number stands for.
enum Comma {
    Decimal,
    /// The point, or between thousands: `1,291`.
    Either,
}

/// The comma of a number's text; none where it has none, or is no number.
fn comma_of(text: &str) -> Option<Comma> {
    let text = text.trim().trim_matches('"');
    let (whole, rest) = text.split_once(',')?;
    parse_cell(text)?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let grouped = (1..=3).contains(&whole.len()) && !whole.starts_with('0') && rest.len() == 3;
    Some(if grouped && digits(whole) && digits(rest) { Comma::Either } else { Comma::Decimal })
}

/// The number of a cell, in which one comma may stand for the point: where commas part the columns, in quotes.
fn parse_cell(text: &str) -> Option<f64> {
    let text = text.trim().trim_matches('"');
    if text.contains(',') && !text.contains(['.', '(']) {
        return parse_number(&text.replacen(',', ".", 1));
    }
    parse_number(text)
}

/// A histogram, as pandas writes W&B's into a cell: Python's way of writing a dict, or JSON.
fn read_literal(text: &str, key: KeyId, target: Target, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let json = to_json(text).map_err(|problem| rows.key_error(key, LogProblem::Histogram(problem)))?;
    read_gradient(&mut Jiter::new(json.as_bytes()).with_allow_inf_nan(), key, target, rows, 0).map_err(|error| {
        if matches!(error.problem, LogProblem::Json(_) | LogProblem::CutJson(_)) {
            rows.key_error(key, LogProblem::Histogram(error.problem.to_string()))
        } else {
            error
        }
    })
}

fn problem(error: csv::Error) -> LogProblem {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        _ => LogProblem::Csv(text),
    }
}
