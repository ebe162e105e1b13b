//! Records of question and answer files, as several benchmarks write them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::BenchmarkError;

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
            RawId::Number(number) => Self(number.to_string()),
        }
    }
}

/// The records of a file of JSON lines, each with its place; `file` is for the message.
pub(super) fn json_lines<T: DeserializeOwned>(
    file: &'static str,
    text: &str,
) -> Result<Vec<(String, T)>, BenchmarkError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let place = format!("line {}", index + 1);
            match serde_json::from_str(line) {
                Ok(record) => Ok((place, record)),
                Err(error) => Err(BenchmarkError::Format { file, place, problem: error.to_string() }),
            }
        })
        .collect()
}

/// The records of a question file that is one JSON object, by their ids.
pub(super) fn by_id<T: DeserializeOwned>(text: &str) -> Result<BTreeMap<String, T>, BenchmarkError> {
    serde_json::from_str(text).map_err(|error| BenchmarkError::questions("an object by id", error.to_string()))
}
