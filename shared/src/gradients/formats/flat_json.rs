//! One JSON object of metrics: `{"step", "loss", "grad_norms": {parameter: norm}}`, or metric keys at the top
//! (`grad_2.0_norm/<parameter>`, `l2_norm/grad/<parameter>`, …), with whatever else a logger adds. Rows may stand inside
//! it, too: in lists under any key, or as text of JSON.

use jiter::{Jiter, JiterError, Peek};

use super::super::error::{LogError, LogProblem};
use super::super::histogram::{Histogram, Part};
use super::super::metric::is_doubtful_step;
use super::super::parameter::Matrix;
use super::super::rows::{FileRows, KeyId, KeyUse, Names, Target};
use super::json_document::is_cut;
use super::number::{Number, parse_number};
use super::wandb;

/// Objects inside one another that are looked into.
const DEEPEST: usize = 16;

/// Where the reader of a document stands.
#[derive(Clone, Copy)]
struct Inside<'a> {
    /// Names of the objects that the members stand in, where they are part of the members' names.
    prefix: &'a str,
    depth: usize,
}

/// The outermost object.
const OUTSIDE: Inside<'static> = Inside { prefix: "", depth: 0 };

/// Reads a line that is one object into the current row. `tape` is a buffer that is used again for every line.
pub(super) fn read_row(line: &[u8], tape: &mut Vec<u8>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut json = Jiter::with_tape(line, std::mem::take(tape)).with_allow_inf_nan();
    let result = read_object(&mut json, rows).and_then(|()| json.finish().map_err(|e| syntax(&e, &json, rows)));
    *tape = json.into_tape();
    if result.is_err() {
        rows.discard();
    }
    result
}

/// Reads one object of metrics into the current row.
pub(super) fn read_object(json: &mut Jiter<'_>, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    read_members(json, rows, OUTSIDE)
}

/// Reads a list: its objects are rows, committed under the row's number in the list or the line that `line` gives.
pub(super) fn read_list(json: &mut Jiter<'_>, rows: &mut FileRows<'_>, depth: usize) -> Result<(), LogError> {
    let mut next = json.known_array().map_err(|e| syntax(&e, json, rows))?;
    while let Some(peek) = next {
        match peek {
            Peek::Object if depth < DEEPEST => {
                let line = rows.move_to(json.current_index());
                let outer = rows.enter();
                read_members(json, rows, Inside { prefix: "", depth: depth + 1 })?;
                rows.commit(line)?;
                rows.leave(outer);
            }
            Peek::Array if depth < DEEPEST => read_list(json, rows, depth + 1)?,
            _ => json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.array_step().map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

fn read_members(json: &mut Jiter<'_>, rows: &mut FileRows<'_>, inside: Inside<'_>) -> Result<(), LogError> {
    let mut name = String::new();
    let mut next = match json.next_object() {
        Ok(Some(key)) => Some(member(key, inside, rows, &mut name)?),
        Ok(None) => None,
        Err(e) => return Err(syntax(&e, json, rows)),
    };
    while let Some(key) = next {
        read_value(json, key, rows, inside.depth)?;
        next = match json.next_key() {
            Ok(Some(key)) => Some(member(key, inside, rows, &mut name)?),
            Ok(None) => None,
            Err(e) => return Err(syntax(&e, json, rows)),
        };
    }
    Ok(())
}

fn member(key: &str, inside: Inside<'_>, rows: &mut FileRows<'_>, name: &mut String) -> Result<KeyId, LogError> {
    if inside.prefix.is_empty() {
        return rows.key(Names::Metrics, key);
    }
    name.clear();
    name.push_str(inside.prefix);
    name.push('/');
    name.push_str(key);
    rows.key_inside(name)
}

/// Reads the value of a key.
pub(super) fn read_value(
    json: &mut Jiter<'_>,
    key: KeyId,
    rows: &mut FileRows<'_>,
    depth: usize,
) -> Result<(), LogError> {
    let usage = rows.usage(key);
    if let KeyUse::Gradient(target) = usage {
        return read_gradient(json, key, target, rows, depth);
    }
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    match (usage, peek) {
        (KeyUse::Ignored, _) => json.known_skip(peek).map_err(|e| syntax(&e, json, rows)),
        (KeyUse::Header, _) => {
            rows.mark_header();
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))
        }
        (KeyUse::Nested, Peek::Object) => read_nested(json, rows, depth),
        (KeyUse::Part(of, part), _) => read_part(json, key, of, part, rows),
        (KeyUse::Step(_), Peek::Object) => read_step_object(json, key, rows),
        (KeyUse::Step(rank), _) if is_doubtful_step(rank) && !peek.is_num() => {
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))
        }
        (KeyUse::Step(rank), _) => match read_number(json, key, rows)? {
            Some(step) => rows.set_step(rank, step).map_err(|p| rows.key_error(key, p)),
            None => Ok(()),
        },
        // What has to be the row's own and what stands inside it for a tracker's sake.
        (KeyUse::Merged | KeyUse::Name(_), Peek::Object) if depth < DEEPEST => {
            read_members(json, rows, Inside { prefix: "", depth: depth + 1 })
        }
        (KeyUse::Merged, Peek::String) => read_text_of_json(json, rows, depth),
        (KeyUse::RunName | KeyUse::RunId | KeyUse::Name(_) | KeyUse::Variant | KeyUse::Measure, Peek::String) => {
            let text = match json.known_str() {
                Ok(text) => text,
                Err(e) => return Err(syntax(&e, json, rows)),
            };
            set_text(usage, text, rows);
            Ok(())
        }
        (KeyUse::RunName | KeyUse::RunId, _) if peek.is_num() => {
            let start = json.current_index();
            json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?;
            set_text(usage, &String::from_utf8_lossy(json.slice_to_current(start)), rows);
            Ok(())
        }
        // A loss, a global norm and a value that may be of anything are passed over where they are no number.
        (KeyUse::Loss(_) | KeyUse::Global | KeyUse::Value(_), _) if peek.is_num() => {
            rows.comes_to_number(Some(json.current_index()));
            let value = json.known_float(peek).map_err(|e| syntax(&e, json, rows))?;
            rows.set_number(key, value).map_err(|p| rows.key_error(key, p))
        }
        (KeyUse::Loss(_) | KeyUse::Global | KeyUse::Value(_), Peek::String) => {
            let text = json.known_str();
            let number = text.map(parse_number).map_err(|e| syntax(&e, json, rows))?;
            match number {
                Some(value) => rows.set_number(key, value).map_err(|p| rows.key_error(key, p)),
                None => Ok(()),
            }
        }
        (_, Peek::Array) if depth < DEEPEST => read_list(json, rows, depth + 1),
        (_, Peek::Object) if depth < DEEPEST => {
            // `{"grad_norm": {parameter: norm}}`, `{"train": {"grad_norm/…": …}}`.
            let prefix = rows.key_name(key).unwrap_or_default().to_owned();
            read_members(json, rows, Inside { prefix: &prefix, depth: depth + 1 })
        }
        _ => json.known_skip(peek).map_err(|e| syntax(&e, json, rows)),
    }
}

/// Puts a text where its key says.
pub(super) fn set_text(usage: KeyUse, text: &str, rows: &mut FileRows<'_>) {
    match usage {
        KeyUse::RunName => rows.set_run_name(text),
        KeyUse::RunId => rows.set_run_id(text),
        KeyUse::Name(rank) => rows.set_name(rank, text),
        KeyUse::Variant => rows.set_variant(text),
        KeyUse::Measure => rows.set_measure(text),
        _ => {}
    }
}

/// A text that is an object of JSON once more, as databases keep it; other texts are passed over.
fn read_text_of_json(json: &mut Jiter<'_>, rows: &mut FileRows<'_>, depth: usize) -> Result<(), LogError> {
    let text = match json.known_str() {
        Ok(text) if text.trim_start().starts_with('{') && depth < DEEPEST => text.to_owned(),
        Ok(_) => return Ok(()),
        Err(e) => return Err(syntax(&e, json, rows)),
    };
    rows.enters_text();
    let mut inner = Jiter::new(text.as_bytes()).with_allow_inf_nan();
    read_members(&mut inner, rows, Inside { prefix: "", depth: depth + 1 })
}

/// W&B's `"step": {"num": 1}`.
fn read_step_object(json: &mut Jiter<'_>, key: KeyId, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let KeyUse::Step(rank) = rows.usage(key) else { return Ok(()) };
    let mut next = json.known_object().map(|k| k.map(|k| k == "num")).map_err(|e| syntax(&e, json, rows))?;
    while let Some(is_number) = next {
        match is_number {
            true => {
                if let Some(step) = read_number(json, key, rows)? {
                    rows.set_step(rank, step).map_err(|p| rows.key_error(key, p))?;
                }
            }
            false => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
        }
        next = json.next_key().map(|k| k.map(|k| k == "num")).map_err(|e| syntax(&e, json, rows))?;
    }
    Ok(())
}

/// One array of a histogram whose arrays have keys of their own.
fn read_part(json: &mut Jiter<'_>, key: KeyId, of: KeyId, part: Part, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    match part {
        Part::Values | Part::Bins => {
            let mut numbers = Vec::new();
            wandb::read_array(json, &mut numbers).map_err(|e| syntax(&e, json, rows))?;
            let histogram = rows.histogram(of);
            *(if part == Part::Values { &mut histogram.counts } else { &mut histogram.edges }) = numbers;
        }
        Part::Min | Part::Size => {
            if let Some(number) = read_number(json, key, rows)? {
                let packed = rows.histogram(of).packed.get_or_insert_default();
                *(if part == Part::Min { &mut packed.min } else { &mut packed.size }) = number;
            }
        }
        Part::Nothing => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
    }
    Ok(())
}

/// An object of parameter → norm, or module → `{"A", "B", "W"}`.
fn read_nested(json: &mut Jiter<'_>, rows: &mut FileRows<'_>, depth: usize) -> Result<(), LogError> {
    let mut next = match json.known_object() {
        Ok(Some(key)) => Some(rows.key(Names::Parameters, key)?),
        Ok(None) => None,
        Err(e) => return Err(syntax(&e, json, rows)),
    };
    while let Some(key) = next {
        match rows.usage(key) {
            KeyUse::Gradient(target) => read_gradient(json, key, target, rows, depth)?,
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
pub(super) fn read_gradient(
    json: &mut Jiter<'_>,
    key: KeyId,
    target: Target,
    rows: &mut FileRows<'_>,
    depth: usize,
) -> Result<(), LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    if rows.is_bare(target) && !peek.is_num() && !matches!(peek, Peek::Object | Peek::String) {
        return json.known_skip(peek).map_err(|e| syntax(&e, json, rows));
    }
    if rows.is_bare(target) && peek == Peek::String {
        let number = json.known_str().map(parse_number).map_err(|e| syntax(&e, json, rows))?;
        return number.map_or(Ok(()), |norm| rows.set(target, norm)).map_err(|p| rows.key_error(key, p));
    }
    if peek != Peek::Object {
        return match read_number(json, key, rows)? {
            Some(norm) => rows.set(target, norm).map_err(|p| rows.key_error(key, p)),
            None => Ok(()),
        };
    }
    let mut histogram = Histogram::default();
    let apart = |member: &str| depth < DEEPEST && goes_on(member, key, target, rows);
    let mut next = json.known_object().map(|k| k.map(|k| Field::of(k, apart))).map_err(|e| syntax(&e, json, rows))?;
    while let Some(field) = next {
        match field {
            Field::Matrix(matrix) => {
                if let Some(norm) = read_number(json, key, rows)? {
                    rows.set(Target { matrix, ..target }, norm).map_err(|p| rows.key_error(key, p))?;
                }
            }
            Field::Norm => {
                if let Some(norm) = read_number(json, key, rows)? {
                    rows.set(target, norm).map_err(|p| rows.key_error(key, p))?;
                }
            }
            Field::Below(member) => {
                let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
                // Below a matrix stand its weight, its adapter and any statistics of it: neither names another parameter.
                let of_matrix = rows.is_projection(target) && !member.starts_with("lora_");
                match (of_matrix, rows.usage(key)) {
                    (true, KeyUse::Gradient(target)) if peek == Peek::Object || member == "weight" => {
                        read_gradient(json, key, target, rows, depth + 1)?;
                    }
                    (true, _) => json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?,
                    (false, _) => {
                        let below = rows.key_below(key, &member)?;
                        match rows.usage(below) {
                            KeyUse::Gradient(target) => read_gradient(json, below, target, rows, depth + 1)?,
                            _ => json.known_skip(peek).map_err(|e| syntax(&e, json, rows))?,
                        }
                    }
                }
            }
            Field::Values => wandb::read_array(json, &mut histogram.counts).map_err(|e| syntax(&e, json, rows))?,
            Field::Bins => wandb::read_array(json, &mut histogram.edges).map_err(|e| syntax(&e, json, rows))?,
            Field::PackedBins => {
                histogram.packed = wandb::read_packed(json).map_err(|e| syntax(&e, json, rows))?;
            }
            // pandas' default: the values of a column by the numbers of their rows.
            Field::Row => return Err(rows.key_error(key, LogProblem::Columns)),
            Field::Other => json.next_skip().map_err(|e| syntax(&e, json, rows))?,
        }
        let apart = |member: &str| depth < DEEPEST && goes_on(member, key, target, rows);
        next = json.next_key().map(|k| k.map(|k| Field::of(k, apart))).map_err(|e| syntax(&e, json, rows))?;
    }
    if histogram.is_empty() {
        return Ok(());
    }
    rows.set_histogram(target, &histogram).map_err(|p| rows.key_error(key, p))
}

/// Whether a member of a key's object goes on with the parameter's name: `{"model": {"layers": {"0": …}}}`,
/// `{"lora_A": {"default": …}}`.
fn goes_on(member: &str, key: KeyId, target: Target, rows: &FileRows<'_>) -> bool {
    if rows.is_projection(target) {
        let adapter = rows.key_name(key).is_some_and(|name| name.contains("lora_"));
        return member.starts_with("lora_") || adapter;
    }
    let number = !member.is_empty() && member.bytes().all(|b| b.is_ascii_digit());
    let above = rows.key_name(key).and_then(|name| name.rsplit(['.', '/']).next()).unwrap_or_default();
    !number || matches!(above, "layers" | "layer" | "h" | "block" | "blocks")
}

/// Fields of an object that stands for a gradient, or for a part of the model.
enum Field {
    Matrix(Matrix),
    Norm,
    Below(String),
    Values,
    Bins,
    PackedBins,
    Row,
    Other,
}

impl Field {
    /// `apart` tells whether a member's name goes on with that of the object.
    fn of(key: &str, apart: impl Fn(&str) -> bool) -> Self {
        match key {
            "A" => Self::Matrix(Matrix::A),
            "B" => Self::Matrix(Matrix::B),
            "W" => Self::Matrix(Matrix::Weight),
            "values" => Self::Values,
            "bins" => Self::Bins,
            "packedBins" => Self::PackedBins,
            "norm" | "l2" | "l2_norm" | "grad_norm" => Self::Norm,
            _ if apart(key) => Self::Below(key.to_owned()),
            _ if !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()) => Self::Row,
            _ => Self::Other,
        }
    }
}

/// A number, bare NaN and Infinity included, also as W&B's strings; `None` for null.
fn read_number(json: &mut Jiter<'_>, key: KeyId, rows: &mut FileRows<'_>) -> Result<Option<f64>, LogError> {
    let peek = json.peek().map_err(|e| syntax(&e, json, rows))?;
    rows.comes_to_number(peek.is_num().then(|| json.current_index()));
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
            match Number::of(text) {
                Number::Is(number) => Ok(Some(number)),
                Number::Missing => Ok(None),
                Number::Not => Err(rows.key_error(key, LogProblem::NotANumber(text.chars().take(40).collect()))),
            }
        }
        // Lists of values by parameter.
        Peek::Array => Err(rows.key_error(key, LogProblem::Columns)),
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
    let place = json.error_position(error.index);
    let what = format!("{} at column {}", error.error_type, place.column);
    let problem = if is_cut(error) { LogProblem::CutJson(what) } else { LogProblem::Json(what) };
    let mut error = rows.error(problem);
    if let Some(line) = rows.line_in_document(place.line) {
        error.position = line;
    }
    error
}
