//! JSON as Python writes it.

use jiter::JsonValue;
use serde_json::{Number, Value};

/// Reads one record. Python's `json` writes NaN and infinities as bare words, which JSON does not have: they are read
/// as null.
pub(super) fn parse(line: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(line).or_else(|error| match JsonValue::parse(line, true) {
        Ok(value) => Ok(without_bare_words(&value)),
        Err(_) => Err(error),
    })
}

fn without_bare_words(value: &JsonValue<'_>) -> Value {
    match value {
        JsonValue::Null => Value::Null,
        JsonValue::Bool(value) => Value::Bool(*value),
        JsonValue::Int(value) => Value::Number((*value).into()),
        // None where it is not finite.
        JsonValue::Float(value) => Number::from_f64(*value).map_or(Value::Null, Value::Number),
        JsonValue::Str(text) => Value::String(text.clone().into_owned()),
        JsonValue::Array(values) => values.iter().map(without_bare_words).collect(),
        JsonValue::Object(entries) => {
            entries.iter().map(|(key, value)| (key.clone().into_owned(), without_bare_words(value))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pythons_bare_words_are_read_as_null_and_strings_keep_them() {
        let line = br#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" Infinity","d":"\\"}"#;
        assert_eq!(parse(line).unwrap(), json!({"a": null, "b": [null, null], "c": "NaN \" Infinity", "d": "\\"}));
        assert!(parse(br#"{"a":NaN"#).is_err());
        assert!(parse(b"{").is_err());
    }
}
