//! Records of question and answer files, as several benchmarks write them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::BenchmarkError;
use crate::json;

/// An id; some files write numbers, some text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "RawId")]
pub(super) struct Id(pub String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "an id must be a string or a number")]
enum RawId {
    Text(String),
    Number(serde_json::Number),
}

impl From<RawId> for Id {
    fn from(raw: RawId) -> Self {
        match raw {
            RawId::Text(text) => Self(text),
            // pandas writes whole numbers as 241.0 where a column has a gap.
            RawId::Number(number) => Self(match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) if float.fract() == 0.0 => format!("{float:.0}"),
                _ => number.to_string(),
            }),
        }
    }
}

/// The records of a file of JSON lines, or of one list, each with its place; `file` is for the message.
pub(super) fn json_lines<T: DeserializeOwned>(
    file: &'static str,
    text: &str,
) -> Result<Vec<(String, T)>, BenchmarkError> {
    let records = json::records(text).map_err(|error| BenchmarkError::json(file, error))?;
    Ok(records.into_iter().map(|(line, record)| (format!("line {line}"), record)).collect())
}

/// The records of a question file that is one JSON object, by their ids.
pub(super) fn by_id<T: DeserializeOwned>(text: &str) -> Result<BTreeMap<String, T>, BenchmarkError> {
    json::from_str(text).map_err(|error| BenchmarkError::questions("an object by id", error.to_string()))
}
