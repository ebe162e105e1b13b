//! A table as one JSON document in which a row's values do not stand together: pandas' `to_json` writes columns by default, rows
//! by their index with orient="index" (as a dict by step does), and names apart from values with orient="split"; a dict of lists
//! holds whole columns. The index is the step where no column says it.

use indexmap::IndexSet;
use jiter::{Jiter, JiterError, Peek};

use super::super::error::LogError;
use super::super::metric::{MetricKey, parse_metric};
use super::super::rows::{FileRows, KeyId, KeyUse, Names};
use super::flat_json::{read_object, read_value, syntax};

/// How a document holds a DataFrame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `{"step": {"0": 1, "1": 2}, "loss": {"0": …}}`.
    Columns,
    /// `{"0": {"step": 1, "loss": …}, "1": …}`.
    Index,
    /// `{"columns": ["step", "loss"], "index": [0, 1], "data": [[1, …], …]}`.
    Split,
    /// `{"step": [1, 2], "loss": […]}`.
    Lists,
}

/// The index as a step: any column that names one is better.
const INDEX_STEP: u8 = u8::MAX;

/// Tells the form by a document's beginning; none where it holds no DataFrame.
pub(super) fn form(start: &[u8]) -> Option<Form> {
    let is_index = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
    let mut json = Jiter::new(start).with_allow_inf_nan();
    let key = json.next_object().ok()??.to_owned();
    match json.peek().ok()? {
        Peek::Array if key == "columns" => {
            json.known_array().ok()?.filter(|peek| *peek == Peek::String).map(|_| Form::Split)
        }
        Peek::Array => holds_lists(key, &mut json).then_some(Form::Lists),
        Peek::Object => {
            let inner = json.known_object().ok()??.to_owned();
            let scalar = !matches!(json.peek().ok()?, Peek::Object | Peek::Array);
            match (is_index(&key), is_index(&inner)) {
                (true, false) => Some(Form::Index),
                (false, true) if scalar => Some(Form::Columns),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a document is a list of lists of plain values, as orient="values" gives: a table without the names of its columns.
pub(in super::super) fn is_nameless(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let mut json = Jiter::new(start).with_allow_inf_nan();
    matches!(json.next_array(), Ok(Some(Peek::Array)))
        && matches!(json.known_array(), Ok(Some(first)) if !matches!(first, Peek::Array | Peek::Object))
}

/// Whether lists of plain values stand under this key and those behind it up to one that names a column of a log.
fn holds_lists(mut key: String, json: &mut Jiter<'_>) -> bool {
    loop {
        let Ok(Some(first)) = json.next_array() else { return false };
        if !(first.is_num() || first == Peek::Null || first == Peek::String) {
            return false;
        }
        if matches!(
            parse_metric(&key),
            MetricKey::Gradient(_)
                | MetricKey::Bare(_)
                | MetricKey::Step(_)
                | MetricKey::Loss(_)
                | MetricKey::GlobalNorm
        ) {
            return true;
        }
        let mut item = Some(first);
        while let Some(peek) = item {
            if json.known_skip(peek).is_err() {
                return false;
            }
            item = match json.array_step() {
                Ok(next) => next,
                Err(_) => return false,
            };
        }
        key = match json.next_key() {
            Ok(Some(next)) => next.to_owned(),
            _ => return false,
        };
    }
}

/// Reads the document that begins here.
pub(super) fn read(form: Form, json: &mut Jiter<'_>, text: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    match form {
        Form::Columns | Form::Lists => columns(form, json, text, rows),
        Form::Index => by_index(json, rows),
        Form::Split => split(json, rows),
    }
}

fn by_index(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut next = json.next_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(index) = next {
        match json.peek().map_err(|e| syntax(&e, json, rows))? {
            Peek::Object => {
                let line = rows.move_to(json.current_index());
                read_object(json, rows)?;
                set_index(&index, rows)?;
                rows.commit(line)?;
            }
            other => json.known_skip(other).map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

/// The row's index counts as its step where nothing else says it.
fn set_index(index: &str, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    match index.trim().parse::<f64>() {
        Ok(step) if step >= 0.0 && step.fract() == 0.0 => rows.set_step(INDEX_STEP, step).map_err(|p| rows.error(p)),
        _ => Ok(()),
    }
}

fn split(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut keys: Vec<KeyId> = Vec::new();
    let mut indices: Vec<String> = Vec::new();
    let mut next = json.next_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(member) = next {
        let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
        match (member.as_str(), peek) {
            ("columns", Peek::Array) => {
                let mut item = json.known_array().map_err(|e| syntax(&e, json, rows))?;
                while item.is_some() {
                    let start = json.current_index();
                    json.next_skip().map_err(|e| syntax(&e, json, rows))?;
                    let written = json.slice_to_current(start).to_vec();
                    let name: String = serde_json::from_slice(written.trim_ascii())
                        .unwrap_or_else(|_| String::from_utf8_lossy(written.trim_ascii()).into_owned());
                    keys.push(rows.key(Names::Metrics, &name)?);
                    item = json.array_step().map_err(|e| syntax(&e, json, rows))?;
                }
            }
            ("index", Peek::Array) => {
                let mut item = json.known_array().map_err(|e| syntax(&e, json, rows))?;
                while item.is_some() {
                    let start = json.current_index();
                    json.next_skip().map_err(|e| syntax(&e, json, rows))?;
                    indices.push(String::from_utf8_lossy(json.slice_to_current(start)).into_owned());
                    item = json.array_step().map_err(|e| syntax(&e, json, rows))?;
                }
            }
            ("data", Peek::Array) => {
                let mut index = indices.iter();
                let mut item = json.known_array().map_err(|e| syntax(&e, json, rows))?;
                while let Some(peek) = item {
                    match peek {
                        Peek::Array => split_row(json, &keys, index.next(), rows)?,
                        other => json.known_skip(other).map_err(|e| syntax(&e, json, rows))?,
                    }
                    item = json.array_step().map_err(|e| syntax(&e, json, rows))?;
                }
            }
            (_, peek) => json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

/// One list of values, in the order of the columns.
fn split_row(
    json: &mut Jiter<'_>,
    keys: &[KeyId],
    index: Option<&String>,
    rows: &mut FileRows<'_>,
) -> Result<(), LogError> {
    let line = rows.move_to(json.current_index());
    let mut keys = keys.iter();
    let mut value = json.known_array().map_err(|e| syntax(&e, json, rows))?;
    while let Some(peek) = value {
        match keys.next() {
            Some(key) => read_value(json, *key, rows, 0)?,
            None => json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?,
        }
        value = json.array_step().map_err(|e| syntax(&e, json, rows))?;
    }
    if let Some(index) = index {
        set_index(index, rows)?;
    }
    rows.commit(line)
}

/// Where a value stands in the document.
type Place = (usize, usize);

fn columns(form: Form, json: &mut Jiter<'_>, text: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut table = Table::default();
    let mut next = json.next_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(column) = next {
        let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
        match peek {
            Peek::Object if form == Form::Lists => lists_inside(&column, &mut table, json, rows)?,
            Peek::Object => {
                let mut cells = Vec::new();
                let mut index =
                    json.known_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
                while let Some(row) = index {
                    table.cell(row, json, &mut cells).map_err(|e| syntax(&e, json, rows))?;
                    index = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
                }
                table.columns.push((rows.key(Names::Metrics, &column)?, cells));
            }
            Peek::Array => {
                let key = rows.key(Names::Metrics, &column)?;
                table.list(key, json).map_err(|e| syntax(&e, json, rows))?;
            }
            other => json.known_skip(other).map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    }
    table.read(text, rows)
}

/// `{"grad_norms": {parameter: [norm, …]}}`, and the same under any other key.
fn lists_inside(outer: &str, table: &mut Table, json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let outer_key = rows.key(Names::Metrics, outer)?;
    let of_parameters = matches!(rows.usage(outer_key), KeyUse::Nested);
    let mut next = json.known_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(name) = next {
        let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
        if peek == Peek::Array {
            let key = match of_parameters {
                true => rows.key(Names::Parameters, &name)?,
                false => rows.key_inside(&format!("{outer}/{name}"))?,
            };
            table.list(key, json).map_err(|e| syntax(&e, json, rows))?;
        } else {
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
        }
        next = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

/// Where the values of a table's columns stand.
#[derive(Default)]
struct Table {
    /// Position of a row by its index: rows stand in the order of their first value, whichever column that is in.
    rows: IndexSet<String>,
    columns: Vec<(KeyId, Vec<Option<Place>>)>,
}

impl Table {
    /// Passes over a value of the row of that index.
    fn cell(&mut self, index: String, json: &mut Jiter<'_>, cells: &mut Vec<Option<Place>>) -> Result<(), JiterError> {
        let (row, _) = self.rows.insert_full(index);
        let start = json.current_index();
        json.next_skip()?;
        if cells.len() <= row {
            cells.resize(row + 1, None);
        }
        if let Some(cell) = cells.get_mut(row) {
            *cell = Some((start, json.current_index()));
        }
        Ok(())
    }

    /// A column of the values of all rows in turn.
    fn list(&mut self, key: KeyId, json: &mut Jiter<'_>) -> Result<(), JiterError> {
        let mut cells = Vec::new();
        let mut item = json.known_array()?;
        for number in 0_usize.. {
            if item.is_none() {
                break;
            }
            self.cell(number.to_string(), json, &mut cells)?;
            item = json.array_step()?;
        }
        self.columns.push((key, cells));
        Ok(())
    }

    /// Reads the values row by row.
    fn read(self, text: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
        for (row, index) in self.rows.iter().enumerate() {
            let mut line = None;
            for (key, cells) in &self.columns {
                let Some(Some((start, end))) = cells.get(row).copied() else { continue };
                let line_of_value = rows.move_to(start);
                line.get_or_insert(line_of_value);
                let mut value = Jiter::new(text.get(start..end).unwrap_or_default()).with_allow_inf_nan();
                read_value(&mut value, *key, rows, 0)?;
            }
            set_index(index, rows)?;
            rows.commit(line.unwrap_or(1))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_table_without_the_names_of_its_columns_is_told_from_nested_rows() {
        for (start, nameless) in [
            ("[[1, 0.5], [2, 0.4]]", true),
            ("\u{feff}[\n [null, \"grad_norm/a\"", true),
            ("[[{\"step\": 1}]]", false),
            ("[[[1]]]", false),
            ("[[]]", false),
            ("[1, 2]", false),
            ("{\"a\": [[1]]}", false),
        ] {
            assert_eq!(is_nameless(start.as_bytes()), nameless, "{start}");
        }
    }

    #[test]
    fn the_form_is_told_by_the_beginning() {
        for (start, expected) in [
            (r#"{"columns":["step","loss"],"index":[0"#, Some(Form::Split)),
            (r#"{"step":{"0":1,"1":2"#, Some(Form::Columns)),
            (r#"{"0":{"step":1,"#, Some(Form::Index)),
            (r#"{"columns":[{"name":"step"#, None),
            (r#"{"model.layers.0.self_attn.q_proj.weight":[0.1,"#, Some(Form::Lists)),
            (r#"{"step":[1,2"#, Some(Form::Lists)),
            (r#"{"epoch":[0.5,1],"lr":[0.1,0.1],"step":[1,2"#, Some(Form::Lists)),
            (r#"{"betas":[0.9,0.99],"step":1}"#, None),
            (r#"{"1":{"model.layers.0.self_attn.q_proj.weight":0.1"#, Some(Form::Index)),
            (r#"{"step":1,"loss":2}"#, None),
            (r#"{"grad_norms":{"model.layers.0":1}}"#, None),
            (r#"{"a":{"0":{"b":1}}}"#, None),
        ] {
            assert_eq!(form(start.as_bytes()), expected, "{start}");
        }
    }
}
