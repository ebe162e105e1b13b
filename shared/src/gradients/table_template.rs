//! Rows of a table that are alike: which of their cells hold a number, and what that is.
//!
//! The rows of a run fill the same columns. Once a row was read in full, one that fills the same columns with plain numbers is read
//! without a look at their names; every other row is read in full again.

use hydra_kernels::decimal::Decimal;

use super::formats::number::parse_number;
use super::rows::{KeyUse, Target};
use super::template::{LARGEST_STEP, Role, RowHead};

/// What the cell of a column holds.
#[derive(Debug, Clone, Copy)]
enum Cell {
    /// A number.
    Number(Role),
    /// Nothing.
    Empty,
    /// What nobody looks at.
    Anything,
    /// The same, but for a comma, which says how numbers are written.
    AnythingPlain,
}

/// A row without its numbers.
#[derive(Debug)]
pub(super) struct TableTemplate {
    delimiter: u8,
    cells: Vec<Cell>,
    /// Where its norms go, in the order in which they stand.
    pub(super) targets: Vec<Target>,
}

impl TableTemplate {
    /// That of a row with these cells: what the column is for, and whether the cell is empty. None for one that says more than
    /// numbers do.
    pub(super) fn of(delimiter: u8, cells: impl Iterator<Item = (KeyUse, bool)>) -> Option<Self> {
        let mut template = Self { delimiter, cells: Vec::new(), targets: Vec::new() };
        for cell in cells {
            template.cells.push(match cell {
                (KeyUse::Ignored | KeyUse::Open, _) => Cell::Anything,
                (_, true) => Cell::Empty,
                (KeyUse::Gradient(target), _) => {
                    template.targets.push(target);
                    Cell::Number(Role::Norm(target))
                }
                (KeyUse::Step(rank), _) => Cell::Number(Role::Step(rank)),
                (KeyUse::Loss(rank), _) => Cell::Number(Role::Loss(rank)),
                (KeyUse::Global, _) => Cell::Number(Role::Global),
                (KeyUse::Part(..) | KeyUse::Nested | KeyUse::Merged | KeyUse::Header, _) => Cell::AnythingPlain,
                (
                    KeyUse::Name(_)
                    | KeyUse::Variant
                    | KeyUse::Value(_)
                    | KeyUse::Measure
                    | KeyUse::RunName
                    | KeyUse::RunId,
                    _,
                ) => return None,
            });
        }
        Some(template)
    }

    /// Reads the row that begins at a byte of a text, if it is alike: gives what it says and where the next line begins, and adds its
    /// norms to `norms`. None also for numbers that have to be complained about, and for a row without its end.
    pub(super) fn read(&self, text: &[u8], start: usize, norms: &mut Vec<f64>) -> Option<(RowHead, usize)> {
        // A comment.
        let first = text.get(start)?;
        if *first == b'#' || (*first == b'"' && text.get(start + 1) == Some(&b'#')) {
            return None;
        }
        let mut head = RowHead::default();
        let mut at = start;
        for (column, cell) in self.cells.iter().enumerate() {
            if column > 0 {
                if *text.get(at)? != self.delimiter {
                    return None;
                }
                at += 1;
            }
            at = match cell {
                Cell::Number(role) => {
                    let (value, end) = self.number(text, at)?;
                    take(*role, value, &mut head, norms)?;
                    end
                }
                Cell::Empty => self.cell(text, at).filter(|cell| cell.text.is_empty())?.end,
                Cell::Anything => self.cell(text, at)?.end,
                Cell::AnythingPlain => self.cell(text, at).filter(|cell| !cell.text.contains(&b','))?.end,
            };
        }
        match text.get(at)? {
            b'\n' => Some((head, at + 1)),
            b'\r' if text.get(at + 1) == Some(&b'\n') => Some((head, at + 2)),
            _ => None,
        }
    }

    /// The number of a cell that begins at a byte, and where the cell ends.
    #[inline]
    fn number(&self, text: &[u8], start: usize) -> Option<(f64, usize)> {
        if let Some(number) = Decimal::at(text, start)
            && self.is_end(*text.get(number.end)?)
        {
            return Some((number.value, number.end));
        }
        let cell = self.cell(text, start)?;
        let number = || {
            let number = Decimal::at(text, cell.start)?;
            (number.end - cell.start == cell.text.len()).then_some(number.value)
        };
        let in_words = || {
            let words = std::str::from_utf8(cell.text).ok()?;
            // Whose comma says how numbers are written.
            if words.contains(',') { None } else { parse_number(words) }
        };
        Some((number().or_else(in_words)?, cell.end))
    }

    /// Whether a byte ends a cell that is not quoted.
    #[inline]
    fn is_end(&self, byte: u8) -> bool {
        byte == self.delimiter || byte == b'\n' || byte == b'\r'
    }

    /// The cell that begins at a byte; none for one with quotes or lines in it.
    #[inline]
    fn cell<'t>(&self, text: &'t [u8], start: usize) -> Option<Found<'t>> {
        let rest = text.get(start..)?;
        if rest.first() == Some(&b'"') {
            let inner = rest.get(1..)?;
            let length = inner.iter().position(|byte| matches!(byte, b'"' | b'\n' | b'\r'))?;
            let is_whole = inner.get(length) == Some(&b'"') && self.is_end(*inner.get(length + 1)?);
            return is_whole.then_some(Found { text: inner.get(..length)?, start: start + 1, end: start + length + 2 });
        }
        let length = rest.iter().position(|byte| self.is_end(*byte))?;
        Some(Found { text: rest.get(..length)?, start, end: start + length })
    }
}

/// A cell that was found.
struct Found<'t> {
    /// What stands in it, without quotes, and where that begins.
    text: &'t [u8],
    start: usize,
    /// Where the cell ends, with its quotes.
    end: usize,
}

/// Takes a number for what it is; none for one that has to be complained about.
#[inline]
fn take(role: Role, value: f64, head: &mut RowHead, norms: &mut Vec<f64>) -> Option<()> {
    // Also minus infinity, which stands for infinity.
    let is_below = value < 0.0;
    match role {
        Role::Norm(_) if is_below => return None,
        Role::Norm(_) => norms.push(value),
        Role::Step(rank) => {
            if is_below || value.fract() != 0.0 || value > LARGEST_STEP as f64 {
                return None;
            }
            head.set_step(rank, value as u64);
        }
        Role::Loss(_) | Role::Global if value == f64::NEG_INFINITY => return None,
        Role::Loss(rank) => head.set_loss(rank, value),
        Role::Global => head.global = Some(value),
        Role::Nothing => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// Step, a column that is empty, one that nobody looks at, loss.
    fn template() -> TableTemplate {
        let cells =
            [(KeyUse::Step(1), false), (KeyUse::Loss(0), true), (KeyUse::Ignored, false), (KeyUse::Loss(0), false)];
        TableTemplate::of(b',', cells.into_iter()).unwrap()
    }

    #[test]
    fn a_row_is_alike_that_fills_the_same_columns_however_it_writes_its_numbers() {
        for (row, step, loss) in [
            ("7,,2026-11-30 10:00,-2.5", 7, -2.5),
            ("7.0,\"\",\"a, b\",1e-3", 7, 1e-3),
            ("\"12\",,,\"0.25\"", 12, 0.25),
            (" 007 ,,x, tensor(0.5) ", 7, 0.5),
            ("1,,,inf", 1, f64::INFINITY),
            ("1,,,-inf", 1, f64::INFINITY),
        ] {
            for end in ["\n", "\r\n"] {
                let text = format!("..{row}{end}8");
                let head = RowHead { step: Some((1, step)), loss: Some((0, loss)), global: None };
                let read = template().read(text.as_bytes(), 2, &mut Vec::new());
                assert_eq!(read, Some((head, text.len() - 1)), "{row}");
            }
        }
    }

    #[test]
    fn other_rows_are_not_alike() {
        for row in [
            "7,0.5,,1",
            "7,,,",
            "7,,1",
            "7,,,1,1",
            "#7,,,1",
            "7.5,,,1",
            "-7,,,1",
            "9007199254740994,,,1",
            "7,,\"a\"\"b\",1",
            "7,,\"a,1",
            "7,,,\"0,5\"",
            "7,,,-Infinity",
            "7,,,high",
            "7,, ,1\r2",
        ] {
            assert_eq!(template().read(format!("{row}\n").as_bytes(), 0, &mut Vec::new()), None, "{row}");
        }
        // A row without its end may go on.
        assert_eq!(template().read(b"7,,,1", 0, &mut Vec::new()), None);
    }
}
