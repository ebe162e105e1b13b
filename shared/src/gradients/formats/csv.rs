//! A table of metrics: Lightning's CSV logger (`grad_2.0_norm/<parameter>` columns), W&B's CSV export and pandas' of a history
//! with histograms in its cells, tables of one row a value (step, name, value), any table with such columns. Lightning
//! spreads one step over several rows with empty cells; they are put together.

use std::io::{self, BufRead, Read};

use jiter::Jiter;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::metric::{MetricKey, is_doubtful_step, parse_metric};
use super::super::path::metrics_key;
use super::super::rows::{FileRows, KeyId, KeyUse, Names, Target};
use super::super::sniff::SNIFF_BYTES;
use super::super::table_template::TableTemplate;
use super::super::template::{LARGEST_STEP, RowHead};
use super::csv_parser::Parser;
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

/// Reads all rows. A last row that was cut off is noted and left out.
fn read(reader: &mut dyn BufRead, start: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut table = Table::new(start);
    let size = rows.line_reading().block as u64;
    let mut block = Vec::new();
    loop {
        let read = reader.take(size).read_to_end(&mut block);
        let is_last = matches!(read, Ok(0));
        let taken = table.take(&block, is_last, rows)?;
        read.map_err(|error| rows.error(error.into()))?;
        if is_last || rows.is_irregular() {
            return table.finish(rows);
        }
        block.drain(..taken);
    }
}

/// Reads all rows of bytes that have to be waited for, of which `block` are the first. `next` adds some, and none at the end.
pub(in super::super) async fn read_awaiting(
    mut next: impl AsyncFnMut(&mut Vec<u8>) -> io::Result<usize>,
    mut block: Vec<u8>,
    rows: &mut FileRows<'_>,
) -> Result<(), LogError> {
    let mut table = Table::new(block.get(..block.len().min(SNIFF_BYTES)).unwrap_or_default());
    let mut is_last = false;
    loop {
        let taken = table.take(&block, is_last, rows)?;
        if is_last || rows.is_irregular() {
            return table.finish(rows);
        }
        block.drain(..taken);
        is_last = next(&mut block).await.map_err(|error| rows.error(error.into()))? == 0;
    }
}

/// The last step of a table with these first and last bytes: that of the last whole row which holds as much as others.
pub(in super::super) fn last_step(first: &[u8], last: &[u8]) -> Option<u64> {
    let text = Start::new(first).text;
    let Header { lines, delimiter } = Header::find(text)?;
    let header = text.split(|byte| *byte == b'\n').nth(lines)?;
    let cells = |line: &[u8]| {
        let mut parser = Parser::new(delimiter);
        parser.read(line, true)?;
        Some(parser.cells().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect::<Vec<_>>())
    };
    let rank = |(column, name): (usize, &String)| match parse_metric(column_name(name)) {
        MetricKey::Step(rank) if !is_doubtful_step(rank) => Some((rank, column)),
        _ => None,
    };
    let (_, column) = cells(header)?.iter().enumerate().filter_map(rank).min()?;
    let rows = last.get(..last.iter().rposition(|byte| *byte == b'\n')?)?.split(|byte| *byte == b'\n');
    let full = |row: &&[u8]| row.iter().filter(|byte| byte.is_ascii_digit()).count();
    let fullest = rows.clone().map(|row| full(&row)).max()?;
    let row = cells(rows.rev().find(|row| 2 * full(row) > fullest)?)?;
    let step = parse_cell(row.get(column)?)?;
    (step >= 0.0 && step <= LARGEST_STEP as f64 && step.fract() == 0.0).then_some(step as u64)
}

struct Table {
    delimiter: u8,
    /// Lines before the header that were not passed yet.
    before: usize,
    /// Lines that were passed.
    lines: u64,
    columns: Vec<KeyId>,
    parser: Parser,
    /// Rows that others may be alike, the one of the last row, and how often a row was to become one.
    templates: Vec<TableTemplate>,
    last: usize,
    tries: usize,
    norms: Vec<f64>,
    /// Line and cells of a row that lacks some: one that was cut off, unless another one follows.
    short: Option<(u64, usize)>,
    /// Whether a number was read whose comma can only stand for the point.
    decimal_comma: bool,
    /// The first number whose comma may as well stand between thousands, with its line.
    in_doubt: Option<(u64, String)>,
}

impl Table {
    /// A table whose file begins so.
    fn new(start: &[u8]) -> Self {
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let white = text.len() - text.trim_ascii_start().len();
        let blank = text.get(..white).unwrap_or_default().iter().filter(|b| **b == b'\n').count();
        let Header { lines, delimiter } =
            Header::find(text.trim_ascii_start()).unwrap_or(Header { lines: 0, delimiter: b',' });
        Self {
            delimiter,
            before: blank + lines,
            lines: 0,
            columns: Vec::new(),
            parser: Parser::new(delimiter),
            templates: Vec::new(),
            last: 0,
            tries: 0,
            norms: Vec::new(),
            short: None,
            decimal_comma: false,
            in_doubt: None,
        }
    }

    /// Takes the whole rows that a text begins with; gives their bytes. Behind the `is_last` one the file ends.
    fn take(&mut self, text: &[u8], is_last: bool, rows: &mut FileRows<'_>) -> Result<usize, LogError> {
        let mut at = 0;
        while self.before > 0 {
            let rest = text.get(at..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(at) };
            at += end + 1;
            self.before -= 1;
            self.lines += 1;
        }
        while !rows.is_irregular() {
            while let Some(end @ (b'\r' | b'\n')) = text.get(at) {
                self.lines += u64::from(*end == b'\n');
                at += 1;
            }
            if at >= text.len() {
                break;
            }
            if let Some((line, found)) = self.short {
                rows.position = Position::Line(line);
                return Err(self.other_columns(found, rows));
            }
            rows.position = Position::Line(self.lines + 1);
            if let Some(end) = self.take_alike(text, at, rows)? {
                self.lines += 1;
                at = end;
                continue;
            }
            let rest = text.get(at..).unwrap_or_default();
            let Some(length) = self.take_row(rest, is_last, rows)? else { break };
            let row = rest.get(..length).unwrap_or_default();
            self.lines += row.iter().filter(|byte| **byte == b'\n').count() as u64;
            at += length;
        }
        Ok(at)
    }

    /// Takes the row at a byte of a text, if it is alike an earlier one; gives where the next one begins.
    fn take_alike(&mut self, text: &[u8], start: usize, rows: &mut FileRows<'_>) -> Result<Option<usize>, LogError> {
        let order = std::iter::once(self.last).chain((0..self.templates.len()).filter(|other| *other != self.last));
        for index in order {
            self.norms.clear();
            let Some(template) = self.templates.get(index) else { break };
            let Some((head, end)) = template.read(text, start, &mut self.norms) else { continue };
            if end - start > rows.limits().line_bytes {
                break;
            }
            self.last = index;
            rows.commit_alike(&template.targets, head, &self.norms, self.lines + 1)?;
            return Ok(Some(end));
        }
        Ok(None)
    }

    /// Takes the row that a text begins with; gives its bytes, or nothing where it goes on behind the text.
    fn take_row(&mut self, text: &[u8], is_last: bool, rows: &mut FileRows<'_>) -> Result<Option<usize>, LogError> {
        let limit = rows.limits().line_bytes;
        let length = self.parser.read(text, is_last);
        if length.unwrap_or(text.len()) > limit + 2 {
            return Err(rows.error(LogProblem::LineTooLong { limit }));
        }
        let Some(length) = length else { return Ok(None) };
        let line = self.lines + 1;
        if self.columns.is_empty() && self.is_transposed() {
            return Err(rows.error(LogProblem::Transposed));
        }
        if self.columns.is_empty() || self.is_header() {
            self.take_header(rows)?;
            return Ok(Some(length));
        }
        if self.parser.cells().next().is_some_and(|cell| cell.starts_with(b"#")) {
            return Ok(Some(length));
        }
        let (found, columns) = (self.parser.cells().count(), self.columns.len());
        if found < columns {
            self.short = Some((line, found));
            return Ok(Some(length));
        }
        if found > columns {
            return Err(self.other_columns(found, rows));
        }
        let mut commas = Commas { decimal: self.decimal_comma, in_doubt: self.in_doubt.take() };
        for (key, cell) in self.columns.iter().zip(self.parser.cells()) {
            read_cell(*key, cell.trim_ascii(), &mut commas, rows)?;
        }
        (self.decimal_comma, self.in_doubt) = (commas.decimal, commas.in_doubt);
        match self.template(text, length, rows) {
            Some((template, head)) => {
                rows.discard();
                rows.commit_alike(&template.targets, head, &self.norms, line)?;
                self.templates.push(template);
            }
            None => rows.commit(line)?,
        }
        Ok(Some(length))
    }

    fn take_header(&mut self, rows: &mut FileRows<'_>) -> Result<(), LogError> {
        if !self.columns.is_empty() {
            rows.count("more headers stand between the rows; each counts from there on");
        }
        self.columns.clear();
        self.templates.clear();
        (self.last, self.tries) = (0, 0);
        for column in self.parser.cells() {
            let name = String::from_utf8_lossy(column);
            let name = column_name(&name);
            // dvclive writes one table a metric and only the last part of its name into the header.
            let whole = metrics_key(rows.name).filter(|key| key.rsplit('/').next() == Some(name));
            self.columns.push(rows.key(Names::Metrics, whole.as_deref().unwrap_or(name))?);
        }
        Ok(())
    }

    /// What is wrong with a row of so many cells.
    fn other_columns(&self, found: usize, rows: &FileRows<'_>) -> LogError {
        rows.error(LogProblem::Csv(format!("{found} columns where the header has {}", self.columns.len())))
    }

    /// The template of the row that was read last, with what it says beside the norms that are left in `norms`. The text begins with
    /// the row, of so many bytes.
    fn template(&mut self, text: &[u8], length: usize, rows: &FileRows<'_>) -> Option<(TableTemplate, RowHead)> {
        let most = rows.line_reading().templates;
        if self.templates.len() >= most || self.tries >= 4 * most {
            return None;
        }
        self.tries += 1;
        let cells = self.columns.iter().zip(self.parser.cells());
        let cells = cells.map(|(key, cell)| (rows.usage(*key), cell.trim_ascii().is_empty()));
        let template = TableTemplate::of(self.delimiter, cells)?;
        self.norms.clear();
        // Read back as others will be, with the whole of its end.
        let row = text.get(..length + usize::from(text.get(length) == Some(&b'\n')))?;
        let (head, _) = template.read(row, 0, &mut self.norms)?;
        rows.says_only(&head, &template.targets, &self.norms).then_some((template, head))
    }

    /// Ends the table.
    fn finish(&mut self, rows: &mut FileRows<'_>) -> Result<(), LogError> {
        if let Some((line, _)) = self.short {
            rows.note(format!("the last row (line {line}) is cut off and was left out"));
        }
        match self.in_doubt.take() {
            Some((line, text)) if !self.decimal_comma && !rows.is_irregular() => {
                rows.position = Position::Line(line);
                Err(rows.error(LogProblem::Thousands(text)))
            }
            _ => Ok(()),
        }
    }

    /// Whether a row between the others is a header, as a program leaves it that was started again.
    fn is_header(&self) -> bool {
        let text = |cell| std::str::from_utf8(cell).unwrap_or_default();
        // Numbers are told soon, and most rows hold one.
        !self.parser.cells().any(|cell| parse_cell(text(cell)).is_some())
            && self.parser.cells().any(|cell| is_known(text(cell)))
    }

    /// Whether what ought to be the header is a known name with numbers behind it.
    fn is_transposed(&self) -> bool {
        let text = |cell| std::str::from_utf8(cell).unwrap_or_default();
        let mut cells = self.parser.cells();
        cells.next().is_some_and(|first| is_known(text(first)))
            && self.parser.cells().count() > 1
            && cells.all(|cell| parse_cell(text(cell)).is_some())
    }
}

/// What commas stood for in the numbers so far: as in [`Table`].
struct Commas {
    decimal: bool,
    in_doubt: Option<(u64, String)>,
}

/// Takes a cell.
fn read_cell(key: KeyId, cell: &[u8], commas: &mut Commas, rows: &mut FileRows<'_>) -> Result<(), LogError> {
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
            Some(Comma::Decimal) => commas.decimal = true,
            Some(Comma::Either) if commas.in_doubt.is_none() => {
                let Position::Line(line) = rows.position else { return Ok(()) };
                commas.in_doubt = Some((line, text.trim_matches('"').to_owned()));
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

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::super::builder::LogBuilder;
    use super::super::super::input::Limits;
    use super::*;

    /// What was left of a table that was taken as a whole.
    fn taken(text: &str) -> Table {
        let mut log = LogBuilder::new(Limits::default(), None);
        let mut rows = FileRows::new(&mut log, "log.csv", "", Format::Csv, false);
        let mut table = Table::new(text.as_bytes());
        assert_eq!(table.take(text.as_bytes(), true, &mut rows).unwrap(), text.len());
        table
    }

    #[test]
    fn rows_that_fill_the_same_columns_are_read_in_full_once() {
        let header = "step,grad_norm/model.layers.0.mlp.up_proj.weight,loss\n";
        let rows: String = (1..50).map(|step| format!("{step},0.5,\n{step},,0.25\n")).collect();
        // One kind for norms and one for losses, again after another header, whatever ends a line.
        for text in [
            format!("{header}{rows}"),
            format!("{header}{rows}{header}{rows}"),
            format!("{header}{rows}").replace('\n', "\r\n"),
        ] {
            assert_eq!(taken(&text).templates.len(), 2, "{text:.80?}");
        }
        assert_eq!(taken(&format!("{header}{rows}").replace('\n', "\r")).templates.len(), 0);
    }

    #[test]
    fn a_row_that_lacks_cells_is_cut_off_at_the_end_alone() {
        let header = "step,grad_norm/model.layers.0.mlp.up_proj.weight,loss\n1,2,3\n";
        assert_eq!(taken(&format!("{header}2,0.5\n\n\r\n")).short, Some((3, 2)));
        let mut log = LogBuilder::new(Limits::default(), None);
        let mut rows = FileRows::new(&mut log, "log.csv", "", Format::Csv, false);
        let text = format!("{header}2,0.5\n\n3,1,1\n");
        let error = Table::new(text.as_bytes()).take(text.as_bytes(), true, &mut rows).unwrap_err();
        assert!(matches!(error.position, Position::Line(3)), "{error}");
    }
}
