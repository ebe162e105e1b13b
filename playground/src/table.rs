//! Tables: what every chart shows, as text to read and to take away.

use std::fmt;

/// One cell. Numbers stay numbers until they are looked at: a table is made with every change of its chart and seldom
/// opened.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A whole number.
    Whole(u64),
    /// A measured or computed number; it is shown with all its digits.
    Real(f64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

#[cfg(test)]
impl PartialEq<&str> for Cell {
    fn eq(&self, text: &&str) -> bool {
        match self {
            Self::Text(own) => own == text,
            Self::Whole(number) => text.parse() == Ok(*number),
            Self::Real(number) => text.parse() == Ok(*number),
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Column heads.
    pub columns: Vec<String>,
    /// Rows; each has one cell per column.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table of these columns.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn push(&mut self, row: impl IntoIterator<Item: Into<Cell>>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// The table as CSV (RFC 4180). A text that a spreadsheet would take for a formula gets an apostrophe before it.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Writing to memory cannot fail, and the writer is flexible about nothing here: rows have all columns.
        let _ = writer.write_record(self.columns.iter().map(|name| guarded(name.clone())));
        for row in &self.rows {
            let _ = writer.write_record(row.iter().map(|cell| guarded(cell.to_string())));
        }
        String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
    }
}

fn guarded(cell: String) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    if formula { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_disarmed_and_numbers_are_left_alone() {
        let mut table = Table::new(["name", "value"]);
        table.push(["=HYPERLINK(\"x\")".to_owned(), "-1.5".to_owned()]);
        table.push(["a,b".to_owned(), "+x".to_owned()]);
        assert_eq!(table.to_csv(), "name,value\n\"'=HYPERLINK(\"\"x\"\")\",-1.5\n\"a,b\",'+x\n");
    }
}
