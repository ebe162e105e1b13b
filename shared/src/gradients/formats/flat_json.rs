//! One JSON object of metrics: `{"step", "loss", "grad_norms": {parameter: norm}}`, or metric keys at the top
//! (`grad_2.0_norm/<parameter>`, `l2_norm/grad/<parameter>`, …), with whatever else a logger adds.

use jiter::{Jiter, JiterError, Peek};

use super::super::error::{LogError, LogProblem};
use super::super::format::Format;
use super::super::parameter::Matrix;
use super::super::rows::{FileRows, KeyId, KeyUse, Names};
use super::wandb::{self, Histogram};

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// A row of metrics, collected but not yet committed.
    Values,
    /// A header of the project's own format.
    Header,
}

/// Reads a line that is one object. `tape` is a buffer that is used again for every line.
pub(super) fn read_row(line: &[u8], tape: &mut Vec<u8>, rows: &mut FileRows<'_>) -> Result<Row, LogError> {
    let mut json = Jiter::with_tape(line, std::mem::take(tape)).with_allow_inf_nan();
    let result = read_object(&mut json, rows).and_then(|row| {
        json.finish().map_err(|e| syntax(&e, &json, rows))?;
        Ok(row)
    });
    *tape = json.into_tape();
    if result.is_err() {
        rows.discard();
    }
    result
}

/// Reads one object of metrics into the current row.
pub(super) fn read_object(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<Row, LogError> {
    let mut kind = Row::Values;
    let mut next = match json.next_object() {
        Ok(Some(key)) => Some(rows.key(Names::Metrics, key)?),
        Ok(None) => None,
        Err(e) => return Err(syntax(&e, json, rows)),
    };
    while let Some(key) = next {
        match rows.usage(key) {
            KeyUse::Ignored => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
            KeyUse::Header => {
                kind = Row::Header;
                json.next_skip().map_err(|e| syntax(&e, json, rows))?;
            }
            KeyUse::Nested => read_nested(json, rows)?,
            KeyUse::Step(rank) => {
                if let Some(step) = read_number(json, key, rows)? {
                    rows.set_step(rank, step).map_err(|p| rows.key_error(key, p))?;
                }
            }
            KeyUse::Loss(rank) => {
                // A loss is only shown: whatever is no number is passed over.
                let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
                if peek.is_num() {
                    let loss = json.known_float(peek).map_err(|e| syntax(&e, json, rows))?;
                    rows.set_loss(rank, loss);
                } else {
                    json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
                }
            }
            KeyUse::Gradient { slot, matrix } => read_gradient(json, key, slot, matrix, rows)?,
        }
        next = match json.next_key() {
            Ok(Some(key)) => Some(rows.key(Names::Metrics, key)?),
            Ok(None) => None,
            Err(e) => return Err(syntax(&e, json, rows)),
        };
    }
    Ok(kind)
}

/// An object of parameter → norm, or module → `{"A", "B", "W"}`.
fn read_nested(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    if peek != Peek::Object {
        return json.known_skip(peek).map_err(|e| syntax(&e, json, rows));
    }
    let mut next = match json.known_object() {
        Ok(Some(key)) => Some(rows.key(Names::Parameters, key)?),
        Ok(None) => None,
        Err(e) => return Err(syntax(&e, json, rows)),
    };
    while let Some(key) = next {
        match rows.usage(key) {
            KeyUse::Gradient { slot, matrix } => read_gradient(json, key, slot, matrix, rows)?,
            _ => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
        }
        next = match json.next_key() {
            Ok(Some(key)) => Some(rows.key(Names::Parameters, key)?),
            Ok(None) => None,
            Err(e) => return Err(syntax(&e, json, rows)),
        };
    }
    Ok(())
}

/// A norm; an object of a module's norms; or a histogram to estimate the norm from.
fn read_gradient(
    json: &mut Jiter<'_>,
    key: KeyId,
    slot: usize,
    matrix: Matrix,
    rows: &mut FileRows<'_>,
) -> Result<(), LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    if peek != Peek::Object {
        return match read_number(json, key, rows)? {
            Some(norm) => rows.set(slot, matrix, norm).map_err(|p| rows.key_error(key, p)),
            None => Ok(()),
        };
    }
    let mut histogram = Histogram::default();
    let mut next = json.known_object().map(|k| k.map(Field::of)).map_err(|e| syntax(&e, json, rows))?;
    while let Some(field) = next {
        match field {
            Field::Matrix(matrix) => {
                if let Some(norm) = read_number(json, key, rows)? {
                    rows.set(slot, matrix, norm).map_err(|p| rows.key_error(key, p))?;
                }
            }
            Field::Values => wandb::read_array(json, &mut histogram.counts).map_err(|e| syntax(&e, json, rows))?,
            Field::Bins => wandb::read_array(json, &mut histogram.edges).map_err(|e| syntax(&e, json, rows))?,
            Field::PackedBins => {
                histogram.packed = wandb::read_packed(json).map_err(|e| syntax(&e, json, rows))?;
            }
            Field::Other => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.next_key().map(|k| k.map(Field::of)).map_err(|e| syntax(&e, json, rows))?;
    }
    if histogram.is_empty() {
        return Ok(());
    }
    let norm = histogram.norm().map_err(|p| rows.key_error(key, p))?;
    rows.estimated(Some(Format::WandbHistory));
    rows.set(slot, matrix, norm).map_err(|p| rows.key_error(key, p))
}

/// Fields of an object that stands for a gradient.
enum Field {
    Matrix(Matrix),
    Values,
    Bins,
    PackedBins,
    Other,
}

impl Field {
    fn of(key: &str) -> Self {
        match key {
            "A" => Self::Matrix(Matrix::A),
            "B" => Self::Matrix(Matrix::B),
            "W" => Self::Matrix(Matrix::Weight),
            "values" => Self::Values,
            "bins" => Self::Bins,
            "packedBins" => Self::PackedBins,
            _ => Self::Other,
        }
    }
}

/// A number, bare NaN and Infinity included, also as W&B's strings; `None` for null.
fn read_number(json: &mut Jiter<'_>, key: KeyId, rows: &FileRows<'_>) -> Result<Option<f64>, LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    if peek.is_num() {
        return json.known_float(peek).map(Some).map_err(|e| syntax(&e, json, rows));
    }
    match peek {
        Peek::Null => json.known_null().map(|()| None).map_err(|e| syntax(&e, json, rows)),
        Peek::String => {
            let text = match json.known_str() {
                Ok(text) => text,
                Err(e) => return Err(syntax(&e, json, rows)),
            };
            match text {
                "NaN" | "nan" => Ok(Some(f64::NAN)),
                "Infinity" | "inf" => Ok(Some(f64::INFINITY)),
                // A norm of minus infinity is as broken as one of infinity.
                "-Infinity" | "-inf" => Ok(Some(f64::INFINITY)),
                _ => Err(rows.key_error(key, LogProblem::NotANumber(text.chars().take(40).collect()))),
            }
        }
        _ => {
            let start = json.current_index();
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
            let text = String::from_utf8_lossy(json.slice_to_current(start)).chars().take(40).collect();
            Err(rows.key_error(key, LogProblem::NotANumber(text)))
        }
    }
}

/// jiter's error as ours.
pub(super) fn syntax(error: &JiterError, json: &Jiter<'_>, rows: &FileRows<'_>) -> LogError {
    let column = json.error_position(error.index).column;
    rows.error(LogProblem::Json(format!("{} at column {column}", error.error_type)))
}
