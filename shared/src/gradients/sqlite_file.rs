//! Reads tables of an SQLite database, as <https://www.sqlite.org/fileformat2.html> describes the file: pages, b-trees of tables,
//! overflow pages, records, and what a write-ahead log adds. Read-only, without SQL, the same natively and in a browser.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::error::LogProblem;

/// How every database begins.
pub(super) const START: &[u8; 16] = b"SQLite format 3\0";
/// Pages inside one another, from a table's root to its rows: more than any real database has.
const DEEPEST: usize = 24;
/// Columns of one table.
const MOST_COLUMNS: usize = 2_000;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    /// Text or bytes: some trackers keep text as bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// As a number, if it is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Real(value) => Some(*value),
            Self::Null | Self::Bytes(_) => None,
        }
    }

    /// As text; numbers in digits.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Integer(value) => Some(value.to_string()),
            Self::Real(value) => Some(value.to_string()),
            Self::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        }
    }
}

/// A table: its columns in their order, and where its rows begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    root: u32,
    /// The column that stands for the row's number and is stored as null.
    row_number: Option<usize>,
}

/// A database in memory.
pub(super) struct Database<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    /// Bytes of a page without what extensions reserve at its end.
    usable: usize,
    /// Bytes of rows that may still be read: rows that share pages would be more than the file.
    left: Cell<usize>,
}

fn damaged(what: &str) -> LogProblem {
    LogProblem::Database(what.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize, LogProblem> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    found.map(|b| usize::from(u16::from_be_bytes(*b))).ok_or_else(|| damaged("a page is too short"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, LogProblem> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    found.map(|b| u32::from_be_bytes(*b)).ok_or_else(|| damaged("a page is too short"))
}

/// A number of one to nine bytes, and what follows it.
fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), LogProblem> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(9) {
        let rest = bytes.get(i + 1..).unwrap_or_default();
        if i == 8 {
            return Ok((value << 8 | u64::from(*byte), rest));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, rest));
        }
    }
    Err(damaged("a number is cut short"))
}

impl<'a> Database<'a> {
    /// Reads the header.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, LogProblem> {
        if !bytes.starts_with(START) || bytes.len() < 100 {
            return Err(damaged("its header is cut short"));
        }
        let page_bytes = match u16_at(bytes, 16)? {
            1 => 65_536,
            bytes => bytes,
        };
        let reserved = bytes.get(20).copied().map_or(0, usize::from);
        if !page_bytes.is_power_of_two() || page_bytes < 512 || page_bytes - reserved < 480 {
            return Err(damaged("its page size is none"));
        }
        if !matches!(u32_at(bytes, 56)?, 0 | 1) {
            return Err(LogProblem::Database("its text is UTF-16".to_owned()));
        }
        Ok(Self { bytes, page_bytes, usable: page_bytes - reserved, left: Cell::new(2 * bytes.len()) })
    }

    fn page(&self, number: u32) -> Result<&'a [u8], LogProblem> {
        let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        let start = index.and_then(|index| index.checked_mul(self.page_bytes));
        let page = start.and_then(|start| self.bytes.get(start..start.checked_add(self.page_bytes)?));
        page.ok_or_else(|| damaged(&format!("page {number} is missing")))
    }

    /// The tables, by name.
    pub(super) fn tables(&self) -> Result<BTreeMap<String, Table>, LogProblem> {
        let schema = Table { columns: Vec::new(), root: 1, row_number: None };
        let mut tables = BTreeMap::new();
        self.rows(&schema, &mut |row| {
            if let [kind, name, _, Value::Integer(root), sql, ..] = row.as_slice()
                && kind.text().as_deref() == Some("table")
                && let (Some(name), Some(sql), Ok(root)) = (name.text(), sql.text(), u32::try_from(*root))
            {
                let (columns, row_number) = columns_of(&sql);
                tables.insert(name, Table { columns, root, row_number });
            }
            Ok::<(), LogProblem>(())
        })?;
        Ok(tables)
    }

    /// Calls `take` with every row of a table, in the order of their numbers.
    pub(super) fn rows<E: From<LogProblem>>(
        &self,
        table: &Table,
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pages_left = self.bytes.len() / self.page_bytes + 1;
        self.walk(table, table.root, 0, &mut pages_left, take)
    }

    fn walk<E: From<LogProblem>>(
        &self,
        table: &Table,
        number: u32,
        depth: usize,
        pages_left: &mut usize,
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Pages that point at one another would never end.
        let Some(left) = pages_left.checked_sub(1).filter(|_| depth < DEEPEST) else {
            return Err(damaged("its pages point at one another in a circle").into());
        };
        *pages_left = left;
        let page = self.page(number)?;
        let header = if number == 1 { 100 } else { 0 };
        let cells = u16_at(page, header + 3)?;
        let kind = page.get(header).copied().unwrap_or_default();
        let pointers = header + if kind == 5 { 12 } else { 8 };
        for cell in 0..cells {
            let at = u16_at(page, pointers + 2 * cell)?;
            let bytes = page.get(at..self.usable).ok_or_else(|| damaged("a cell lies outside its page"))?;
            match kind {
                5 => self.walk(table, u32_at(bytes, 0)?, depth + 1, pages_left, take)?,
                13 => take(self.row(table, bytes)?)?,
                _ => return Err(damaged("a page is no part of a table").into()),
            }
        }
        if kind == 5 {
            self.walk(table, u32_at(page, header + 8)?, depth + 1, pages_left, take)?;
        }
        Ok(())
    }

    /// Reads the row in a cell of a leaf.
    fn row(&self, table: &Table, cell: &[u8]) -> Result<Vec<Value>, LogProblem> {
        let (length, rest) = varint(cell)?;
        let (number, rest) = varint(rest)?;
        let payload = self.payload(length, rest)?;
        let mut values = record(&payload)?;
        if let Some(value) = table.row_number.and_then(|at| values.get_mut(at))
            && *value == Value::Null
        {
            *value = Value::Integer(number as i64);
        }
        Ok(values)
    }

    /// The bytes of a row, whose end may lie in overflow pages.
    fn payload(&self, length: u64, local: &[u8]) -> Result<Vec<u8>, LogProblem> {
        let too_long = || damaged("a row is longer than the file");
        let length = usize::try_from(length).ok().filter(|l| *l <= self.bytes.len()).ok_or_else(too_long)?;
        self.left.set(self.left.get().checked_sub(length).ok_or_else(|| damaged("its rows lie over one another"))?);
        let most = self.usable - 35;
        let here = if length <= most {
            length
        } else {
            let least = (self.usable - 12) * 32 / 255 - 23;
            let fitting = least + (length - least) % (self.usable - 4);
            if fitting <= most { fitting } else { least }
        };
        let start = local.get(..here).ok_or_else(|| damaged("a row lies outside its page"))?;
        let mut payload = start.to_vec();
        if length == here {
            return Ok(payload);
        }
        let mut next = u32_at(local, here)?;
        while payload.len() < length {
            let page = self.page(next)?;
            next = u32_at(page, 0)?;
            let take = (length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(page.get(4..4 + take).ok_or_else(|| damaged("a page is too short"))?);
        }
        Ok(payload)
    }
}

/// The values of a record: a header of types, then their bytes.
fn record(payload: &[u8]) -> Result<Vec<Value>, LogProblem> {
    let (header_bytes, rest) = varint(payload)?;
    let types_bytes = usize::try_from(header_bytes).ok().and_then(|n| n.checked_sub(payload.len() - rest.len()));
    let outside = || damaged("a row's header lies outside it");
    let mut types = types_bytes.and_then(|n| rest.get(..n)).ok_or_else(outside)?;
    let mut body = rest.get(types.len()..).unwrap_or_default();
    let mut values = Vec::new();
    while !types.is_empty() && values.len() < MOST_COLUMNS {
        let (kind, after) = varint(types)?;
        types = after;
        let bytes = match kind {
            0 | 8 | 9 | 10 | 11 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            _ => usize::try_from((kind - 12) / 2).map_err(|_| outside())?,
        };
        let value = body.get(..bytes).ok_or_else(|| damaged("a value lies outside its row"))?;
        body = body.get(bytes..).unwrap_or_default();
        values.push(match kind {
            0 | 10 | 11 => Value::Null,
            7 => Value::Real(value.first_chunk::<8>().map_or(0.0, |b| f64::from_be_bytes(*b))),
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(integer(value)),
            _ => Value::Bytes(value.to_vec()),
        });
    }
    Ok(values)
}

/// A number in two's complement, first byte highest.
fn integer(bytes: &[u8]) -> i64 {
    let start = if bytes.first().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte))
}

/// Names of the columns of `CREATE TABLE name (column type, …, constraint, …)`, and which of them is the row's number.
fn columns_of(sql: &str) -> (Vec<String>, Option<usize>) {
    let Some((_, body)) = sql.split_once('(') else { return (Vec::new(), None) };
    let (mut columns, mut row_number) = (Vec::new(), None);
    for part in parts_of(body) {
        let part = part.trim();
        let (name, rest) = first_word(part);
        let upper = name.to_ascii_uppercase();
        let constraint = matches!(upper.as_str(), "CONSTRAINT" | "PRIMARY" | "UNIQUE" | "CHECK" | "FOREIGN");
        if name.is_empty() || (constraint && !part.starts_with(['"', '`', '['])) {
            continue;
        }
        let rest = rest.to_ascii_uppercase();
        if rest.split_whitespace().next() == Some("INTEGER") && rest.contains("PRIMARY KEY") {
            row_number = Some(columns.len());
        }
        columns.push(name.to_owned());
    }
    (columns, row_number)
}

/// The parts between commas that stand in no brackets or quotes, up to the bracket that closes them.
fn parts_of(body: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (at, c) in body.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => {
                parts.push(body.get(start..at).unwrap_or_default());
                return parts;
            }
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(body.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(body.get(start..).unwrap_or_default());
    parts
}

/// A column's name, which may be quoted, and what follows it.
fn first_word(part: &str) -> (&str, &str) {
    let close = match part.chars().next() {
        Some('[') => ']',
        Some(quote @ ('"' | '`' | '\'')) => quote,
        _ => return part.split_once(char::is_whitespace).unwrap_or((part, "")),
    };
    part.get(1..).and_then(|inner| inner.split_once(close)).unwrap_or((part, ""))
}

/// The database with what its write-ahead log (`NAME-wal`) adds: all frames up to the last one that ends a transaction and
/// belongs to the log's current round.
pub fn with_write_ahead_log(mut database: Vec<u8>, log: &[u8]) -> Vec<u8> {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let (Ok(magic), Ok(page_bytes)) = (u32_at(log, 0), u32_at(log, 8)) else { return database };
    let Ok(page_bytes) = usize::try_from(page_bytes) else { return database };
    let usual = matches!(magic, 0x377f_0682 | 0x377f_0683) && page_bytes.is_power_of_two() && page_bytes >= 512;
    // Another page size belongs to another database.
    if !usual || Database::new(&database).is_ok_and(|own| own.page_bytes != page_bytes) {
        return database;
    }
    let salts = log.get(16..24);
    let mut pages: BTreeMap<usize, &[u8]> = BTreeMap::new();
    let (mut since_commit, mut size) = (Vec::new(), None);
    for frame in log.get(HEADER..).unwrap_or_default().chunks_exact(FRAME + page_bytes) {
        let (Ok(number), Ok(pages_after)) = (u32_at(frame, 0), u32_at(frame, 4)) else { break };
        if frame.get(8..16) != salts || number == 0 {
            break;
        }
        since_commit.push((number as usize - 1, frame.get(FRAME..).unwrap_or_default()));
        if pages_after > 0 {
            pages.extend(since_commit.drain(..));
            size = Some(pages_after as usize);
        }
    }
    let Some(size) = size else { return database };
    // Pages beyond those of the log and of the database hold nothing.
    let most = pages.keys().next_back().map_or(0, |last| last + 1).max(database.len() / page_bytes);
    database.resize(size.min(most).saturating_mul(page_bytes), 0);
    for (index, page) in pages {
        let start = index.saturating_mul(page_bytes);
        if let Some(target) = start.checked_add(page_bytes).and_then(|end| database.get_mut(start..end)) {
            target.copy_from_slice(page);
        }
    }
    database
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_from_the_statement_that_made_the_table() {
        let (columns, row) = columns_of(
            "CREATE TABLE \"metrics\" (\n\tid INTEGER PRIMARY KEY AUTOINCREMENT,\n\"key\" VARCHAR(250) NOT NULL, value FLOAT \
             DEFAULT '0, 1', [a b] TEXT\n, CONSTRAINT pk PRIMARY KEY (\"key\", value), CHECK (value IN (0, 1)))",
        );
        assert_eq!((columns, row), (["id", "key", "value", "a b"].map(str::to_owned).to_vec(), Some(0)));
    }

    #[test]
    fn numbers_of_every_width_are_read() {
        assert_eq!(varint(&[0x81, 0x00]).unwrap().0, 128);
        assert_eq!(varint(&[0xff; 9]).unwrap().0, u64::MAX);
        assert!(varint(&[0x80]).is_err());
        assert_eq!((integer(&[0xff, 0xfe]), integer(&[0x01, 0x00]), integer(&[])), (-2, 256, 0));
        let payload = [6, 1, 7, 0, 9, 15, 0xff, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0, b'a'];
        let expected =
            [Value::Integer(-1), Value::Real(0.5), Value::Null, Value::Integer(1), Value::Bytes(b"a".to_vec())];
        assert_eq!(record(&payload).unwrap(), expected);
    }
}
