//! Hugging Face Trainer's `trainer_state.json`. Its `log_history` holds one global `grad_norm` a step, unless the user
//! logged more: then its rows are read as any other row of metrics.

use std::io::{BufRead, Read};

use jiter::{Jiter, Peek};

use super::super::error::{LogError, LogProblem};
use super::super::format::Format;
use super::super::rows::FileRows;
use super::flat_json::{read_object, syntax};
use super::reader::{Reader, Start, contains};

/// The Trainer's state.
pub(super) const READER: Reader = Reader { format: Format::TrainerState, recognises, read };

fn recognises(start: &Start<'_>) -> bool {
    start.is_object() && contains(start.text, b"\"log_history\"")
}

/// Bytes of the largest file: the document is held in memory.
const MAX_BYTES: u64 = 256 << 20;

/// Reads `log_history`.
fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut text = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| rows.error(e.into()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(rows.error(LogProblem::FileTooLarge { limit: MAX_BYTES }));
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut json = Jiter::new(text).with_allow_inf_nan();
    let mut next = json.next_object().map(|k| k.map(|k| k == "log_history")).map_err(|e| syntax(&e, &json, rows))?;
    while let Some(history) = next {
        if history {
            read_history(&mut json, rows)?;
        } else {
            json.next_skip().map_err(|e| syntax(&e, &json, rows))?;
        }
        next = json.next_key().map(|k| k.map(|k| k == "log_history")).map_err(|e| syntax(&e, &json, rows))?;
    }
    json.finish().map_err(|e| syntax(&e, &json, rows))
}

fn read_history(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut next = json.next_array().map_err(|e| syntax(&e, json, rows))?;
    let mut row = 0;
    while let Some(peek) = next {
        row += 1;
        if peek == Peek::Object {
            read_object(json, rows)?;
            rows.commit(row)?;
        } else {
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
        }
        next = json.array_step().map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}
