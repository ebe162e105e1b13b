//! JSON that is no row a line: a list of rows, rows under a key, documents over several lines or several of them one after
//! another. Hugging Face Trainer's `trainer_state.json` is one whose rows stand under `log_history`.

use std::io::{BufRead, Read};

use jiter::{Jiter, JiterErrorType, JsonErrorType, Peek};

use super::super::error::{LogError, LogProblem};
use super::super::format::Format;
use super::super::metric::{MetricKey, is_doubtful_step, parse_metric};
use super::super::rows::FileRows;
use super::flat_json::{read_list, read_object, syntax};
use super::hydra;
use super::pandas_json;
use super::reader::{Reader, Start, contains};

/// The Trainer's state.
pub(super) const TRAINER_STATE: Reader = Reader {
    format: Format::TrainerState,
    recognises: |start| start.is_object() && contains(start.text, b"\"log_history\""),
    read,
};

/// Any other document in which a key is known.
pub(super) const JSON: Reader = Reader { format: Format::Json, recognises, read };

fn recognises(start: &Start<'_>) -> bool {
    let list = start.text.first() == Some(&b'[');
    let rows_inside = || contains(start.first_line, b":[{") || contains(start.first_line, b": [{");
    let table = || pandas_json::form(start.text).is_some() || first_value_is_table(start.text);
    let document = list || (start.is_object() && (table() || !start.is_row() || !ends_in_line(start) || rows_inside()));
    document && names_a_metric(start.text)
}

/// Whether the first value of the object that begins here is a table.
fn first_value_is_table(text: &[u8]) -> bool {
    let mut json = Jiter::new(text).with_allow_inf_nan();
    let inside = matches!(json.next_object(), Ok(Some(_))) && matches!(json.peek(), Ok(Peek::Object));
    inside && pandas_json::form(text.get(json.current_index()..).unwrap_or_default()).is_some()
}

/// Whether one value fills the first line, as every row of JSON lines does. A line that is longer than what is known of the
/// file, or the only one, is taken for one.
fn ends_in_line(start: &Start<'_>) -> bool {
    let mut json = Jiter::new(start.first_line).with_allow_inf_nan();
    match json.next_skip() {
        Ok(()) => {
            let rest = start.first_line.get(json.current_index()..).unwrap_or_default();
            rest.trim_ascii_start().first() != Some(&b'{')
        }
        Err(error) => {
            // A row that was cut off stands before another one. A line of a document ends with what opens or goes on with a list.
            let next_line = start.text.get(start.first_line.len() + 1..).unwrap_or_default();
            let goes_on = matches!(start.first_line.trim_ascii_end().last(), Some(b'[' | b','));
            next_line.is_empty() || (next_line.starts_with(b"{") && !goes_on) || !cut(&error.error_type)
        }
    }
}

/// Whether text in quotes is a key that is known. Vocabularies hold every single word that is one.
fn names_a_metric(text: &[u8]) -> bool {
    let (mut step, mut more) = (false, false);
    for word in text.split(|b| *b == b'"').skip(1).step_by(2) {
        let word = String::from_utf8_lossy(word).replace("\\/", "/");
        match parse_metric(&word) {
            MetricKey::Gradient(_) | MetricKey::Bare(_) | MetricKey::GlobalNorm | MetricKey::Header => return true,
            MetricKey::Step(rank) => step |= !is_doubtful_step(rank),
            MetricKey::Nested | MetricKey::Loss(_) | MetricKey::Name(_) => more = true,
            _ => {}
        }
        if step && more {
            return true;
        }
    }
    false
}

/// Bytes of the largest file: the document is held in memory.
const MAX_BYTES: u64 = 256 << 20;

/// Whether JSON is not wrong but ends too early.
fn cut(error: &JiterErrorType) -> bool {
    use JsonErrorType::{EofWhileParsingList, EofWhileParsingObject, EofWhileParsingString, EofWhileParsingValue};
    matches!(
        error,
        JiterErrorType::JsonError(
            EofWhileParsingList | EofWhileParsingObject | EofWhileParsingString | EofWhileParsingValue
        )
    )
}

/// Reads all documents. One that a killed program left without its end gives its whole rows, with a note.
fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut text = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| rows.error(e.into()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(rows.error(LogProblem::FileTooLarge { limit: MAX_BYTES }));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    rows.count_lines_of(text);
    let mut json = Jiter::new(text).with_allow_inf_nan();
    while !text.get(json.current_index()..).unwrap_or_default().trim_ascii().is_empty() {
        let before = rows.rows();
        match read_document(&mut json, text, rows) {
            Ok(()) => {}
            Err(error) if matches!(&error.problem, LogProblem::CutJson(_)) && (before > 0 || rows.rows() > before) => {
                rows.discard();
                rows.note("the document is cut off; the row in which it ends was left out".to_owned());
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_document(json: &mut Jiter<'_>, text: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    let start = json.current_index();
    let line = rows.move_to(start);
    match peek {
        Peek::Object => {
            let document = text.get(start..).unwrap_or_default();
            if let Some(form) = pandas_json::form(document) {
                return pandas_json::read(form, json, text, rows);
            }
            let runs = runs_by_key(document);
            if runs.len() > 1 {
                return read_runs(&runs, json, text, rows);
            }
            read_object(json, rows)?;
            if !rows.is_header() {
                return rows.commit(line);
            }
            let header = text.get(start..json.current_index()).unwrap_or_default();
            let (meta, estimated) = hydra::parse_header(header).map_err(|p| rows.error(p))?;
            rows.discard();
            rows.header(meta, estimated)
        }
        Peek::Array => read_list(json, rows, 0),
        _ => json.known_skip(peek).map_err(|e| syntax(&e, json, rows)),
    }
}

/// The keys of an object that hold rows with gradients: where there are several, each is a run.
fn runs_by_key(document: &[u8]) -> Vec<String> {
    let mut json = Jiter::new(document).with_allow_inf_nan();
    let mut runs = Vec::new();
    let mut next = json.next_object().ok().flatten().map(str::to_owned);
    while let Some(key) = next {
        let Ok(_) = json.peek() else { break };
        let start = json.current_index();
        if json.next_skip().is_err() {
            break;
        }
        let value = document.get(start..json.current_index()).unwrap_or_default();
        if holds_rows(value) && names_a_gradient(value) {
            runs.push(key);
        }
        next = json.next_key().ok().flatten().map(str::to_owned);
    }
    runs
}

/// Whether a value is a list of rows, an object that holds one, or a table.
fn holds_rows(value: &[u8]) -> bool {
    let mut json = Jiter::new(value).with_allow_inf_nan();
    match json.peek() {
        Ok(Peek::Array) => json.known_array().is_ok_and(|first| first == Some(Peek::Object)),
        Ok(Peek::Object) => pandas_json::form(value).is_some() || holds_list_of_rows(&mut json),
        _ => false,
    }
}

/// Whether a member of the object that begins here is a list of rows.
fn holds_list_of_rows(json: &mut Jiter<'_>) -> bool {
    let mut next = json.next_object().map(|key| key.is_some());
    while let Ok(true) = next {
        match json.peek() {
            Ok(Peek::Array) => match json.known_array() {
                Ok(Some(Peek::Object)) => return true,
                Ok(Some(mut item)) => loop {
                    if json.known_skip(item).is_err() {
                        return false;
                    }
                    match json.array_step() {
                        Ok(Some(following)) => item = following,
                        Ok(None) => break,
                        Err(_) => return false,
                    }
                },
                Ok(None) => {}
                Err(_) => return false,
            },
            Ok(other) if json.known_skip(other).is_ok() => {}
            _ => return false,
        }
        next = json.next_key().map(|key| key.is_some());
    }
    false
}

/// Whether text in quotes is the key of a parameter's gradient.
fn names_a_gradient(text: &[u8]) -> bool {
    text.split(|b| *b == b'"').skip(1).step_by(2).any(|word| {
        matches!(
            parse_metric(&String::from_utf8_lossy(word)),
            MetricKey::Gradient(_) | MetricKey::Bare(_) | MetricKey::Nested
        )
    })
}

/// Reads an object whose members are runs, and others that are passed over.
fn read_runs(runs: &[String], json: &mut Jiter<'_>, text: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut next = json.next_object().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(key) = next {
        let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
        if runs.contains(&key) {
            let before = rows.begin_run(&key);
            read_document(json, text, rows)?;
            rows.end_run(before);
        } else {
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
        }
        next = json.next_key().map(|key| key.map(str::to_owned)).map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

/// Whether an error means that the text ends too early.
pub(super) fn is_cut(error: &jiter::JiterError) -> bool {
    cut(&error.error_type)
}
