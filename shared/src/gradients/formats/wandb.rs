//! W&B history: `wandb.watch` logs each gradient as a histogram of its elements.

use jiter::{Jiter, JiterResult, Peek};

use super::super::histogram::Packed;

/// Reads an array of numbers.
pub(super) fn read_array(json: &mut Jiter<'_>, into: &mut Vec<f64>) -> JiterResult<()> {
    into.clear();
    let mut next = json.next_array()?;
    while let Some(peek) = next {
        into.push(json.known_float(peek)?);
        next = json.array_step()?;
    }
    Ok(())
}

/// Reads `{"min", "size", "count"}`.
pub(super) fn read_packed(json: &mut Jiter<'_>) -> JiterResult<Option<Packed>> {
    let peek = json.peek()?;
    if peek != Peek::Object {
        json.known_skip(peek)?;
        return Ok(None);
    }
    let (mut min, mut size) = (None, None);
    let mut next = json.known_object()?.map(str::to_owned);
    while let Some(key) = next {
        match key.as_str() {
            "min" => min = Some(json.next_float()?),
            "size" => size = Some(json.next_float()?),
            _ => json.next_skip()?,
        }
        next = json.next_key()?.map(str::to_owned);
    }
    Ok(min.zip(size).map(|(min, size)| Packed { min, size }))
}
