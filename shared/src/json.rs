//! JSON as other programs write it: the one reader for all files that people bring.
//!
//! Beyond the standard a byte order mark may stand in front, as PowerShell and Excel put one there, and NaN, Infinity and
//! -Infinity may be bare words, as Python's `json` writes them: they are read as null, so that one where a value is needed is
//! an error and one elsewhere is none. Places are lines and columns of the file.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::file_kind::FileKind;

/// The words that Python writes for numbers that JSON does not have.
const BARE_WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Why a text is not what was asked for, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct JsonError {
    /// Line of the file, counted from 1; none where the whole file is of another kind.
    pub line: Option<usize>,
    /// What is wrong there.
    pub problem: String,
}

impl JsonError {
    /// The whole file is something else.
    fn whole(problem: impl Into<String>) -> Self {
        Self { line: None, problem: problem.into() }
    }

    /// The same error in a text that begins after so many lines of the file.
    #[must_use]
    pub fn after(mut self, lines: usize) -> Self {
        self.line = self.line.map(|line| line + lines);
        self
    }

    fn of(error: &serde_json::Error, bare_words: bool) -> Self {
        let said = error.to_string();
        // serde_json ends its messages with the place.
        let end = format!(" at line {} column {}", error.line(), error.column());
        let mut problem = said.strip_suffix(&end).unwrap_or(&said).to_owned();
        if error.line() > 0 && error.column() > 0 {
            problem += &format!(" (column {})", error.column());
        }
        if bare_words && problem.contains("null") {
            problem += "; NaN and Infinity, which are no JSON, are read as null";
        }
        Self { line: (error.line() > 0).then_some(error.line()), problem }
    }
}

/// A file's bytes as text, without a byte order mark.
///
/// # Errors
/// Another kind of file, UTF-16, bytes that are no UTF-8: named with the remedy.
pub fn text(bytes: &[u8]) -> Result<&str, JsonError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if FileKind::of(bytes).is_none() => Ok(without_mark(text)),
        found => match (FileKind::of(bytes), found) {
            (Some(kind), _) => Err(JsonError::whole(kind.to_string())),
            (None, Ok(text)) => Ok(without_mark(text)),
            (None, Err(error)) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                Err(JsonError { line: Some(line), problem: "this is not UTF-8; save the file as UTF-8".to_owned() })
            }
        },
    }
}

/// A text without a byte order mark.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Reads one document.
///
/// # Errors
/// Text that is no JSON or not of the type's form, with line and column.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    mending(without_mark(text), |text, _| serde_json::from_str(text))
}

/// Reads a text, and where that fails the text without the words that JSON does not have. What is read says in the number that
/// it is handed at which entry of a list it is, if at any.
fn mending<T>(
    text: &str,
    read: impl Fn(&str, &Cell<Option<usize>>) -> Result<T, serde_json::Error>,
) -> Result<T, JsonError> {
    let entry = Cell::new(None);
    let read = |text: &str, bare_words| {
        entry.set(None);
        read(text, &entry).map_err(|error| {
            let error = JsonError::of(&error, bare_words);
            match entry.get() {
                Some(entry) => JsonError { problem: format!("{}, in entry [{entry}]", error.problem), ..error },
                None => error,
            }
        })
    };
    match read(text, false) {
        Ok(value) => Ok(value),
        Err(error) => match with_null_for_bare_words(text) {
            Cow::Borrowed(_) => Err(error),
            Cow::Owned(mended) => read(&mended, true),
        },
    }
}

/// Reads one document from a file's bytes.
///
/// # Errors
/// As [`text`] and [`from_str`].
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    from_str(text(bytes)?)
}

/// Reads records: JSON lines, or one list of them. Each comes with its line of the file.
///
/// # Errors
/// As [`from_str`], with the line of the file; a table of pandas' whose rows are no records, by its name there.
pub fn records<T: DeserializeOwned>(text: &str) -> Result<Vec<(usize, T)>, JsonError> {
    let text = without_mark(text);
    let Some(inside) = text.trim_start().strip_prefix('[') else { return lines(text) };
    // A record is read from a list of its values as well, in whatever order these stand.
    let without_names = inside.trim_start().starts_with('[').then(|| pandas_orient(text)).flatten();
    without_names.map_or_else(|| list(text), |orient| Err(of_pandas(orient)))
}

/// Reads JSON lines: a document on each line that is not empty, with the line's number.
///
/// # Errors
/// As [`from_str`], with the line of the file.
pub fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<(usize, T)>, JsonError> {
    let lines = without_mark(text).lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(above, line)| Ok((above + 1, from_str(line).map_err(|error| error.after(above))?)));
    read.collect::<Result<_, JsonError>>().map_err(|error| pandas_orient(text).map_or(error, of_pandas))
}

/// The `orient` with which pandas' `to_json` wrote a table whose rows are no records; none for any other text.
pub fn pandas_orient(text: &str) -> Option<&'static str> {
    let is_number = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
    let holds = |table: &Map<String, Value>, keys: [&str; 2]| keys.iter().all(|key| table.contains_key(*key));
    let numbered = |row: &Value| row.as_object().is_some_and(|row| !row.is_empty() && row.keys().all(is_number));
    match from_str::<Value>(text).ok()? {
        Value::Array(rows) => (!rows.is_empty() && rows.iter().all(Value::is_array)).then_some("values"),
        Value::Object(table) if holds(&table, ["columns", "data"]) => Some("split"),
        Value::Object(table) if holds(&table, ["schema", "data"]) => Some("table"),
        Value::Object(table) if table.is_empty() || !table.values().all(Value::is_object) => None,
        Value::Object(table) if table.values().all(numbered) => Some("columns"),
        Value::Object(table) => table.keys().all(is_number).then_some("index"),
        _ => None,
    }
}

fn of_pandas(orient: &'static str) -> JsonError {
    JsonError::whole(format!(
        "this is a table as pandas' to_json(orient=\"{orient}\") writes it; write it with orient=\"records\""
    ))
}

/// A list, each of its entries with the line on which it begins.
fn list<T: DeserializeOwned>(text: &str) -> Result<Vec<(usize, T)>, JsonError> {
    let values = mending(text, |text, entry| {
        let mut reader = serde_json::Deserializer::from_str(text);
        let values = Entries(entry, PhantomData::<T>).deserialize(&mut reader)?;
        reader.end().map(|()| values)
    })?;
    Ok(lines_of_entries(text).into_iter().zip(values).collect())
}

/// The entries of a list; the cell holds the number of the one that is read.
struct Entries<'a, T>(&'a Cell<Option<usize>>, PhantomData<T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Entries<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Entries<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        self.0.set(Some(0));
        while let Some(value) = list.next_element()? {
            values.push(value);
            self.0.set(Some(values.len()));
        }
        self.0.set(None);
        Ok(values)
    }
}

/// On which lines the entries of a list begin; of a text that is one.
fn lines_of_entries(text: &str) -> Vec<usize> {
    let (mut lines, mut line, mut depth) = (Vec::new(), 1, 0_u32);
    let (mut in_string, mut escaped, mut waiting) = (false, false, true);
    for byte in text.bytes() {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if depth == 1 && waiting && !byte.is_ascii_whitespace() && byte != b']' {
            lines.push(line);
            waiting = false;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => waiting = true,
            _ => {}
        }
    }
    lines
}

/// The text with null in place of NaN, Infinity and -Infinity outside strings; borrowed where there is none.
pub fn with_null_for_bare_words(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let (mut kept, mut at, mut in_string) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                let rest = bytes.get(at..).unwrap_or_default();
                if let Some(word) = BARE_WORDS.iter().find(|word| rest.starts_with(word)) {
                    mended.push_str(text.get(kept..at).unwrap_or_default());
                    mended.push_str("null");
                    at += word.len();
                    kept = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(mended)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Answer {
        id: u32,
        text: String,
    }

    #[test]
    fn pythons_bare_words_are_read_as_null_and_strings_keep_them() {
        let text = r#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" Infinity","d":"\\","e":-1}"#;
        let read: Value = from_str(text).unwrap();
        assert_eq!(read, json!({"a": null, "b": [null, null], "c": "NaN \" Infinity", "d": "\\", "e": -1}));
        assert!(from_str::<Value>(r#"{"a":NaN"#).is_err());
        assert!(from_str::<Value>(r#"{"a":NaNs}"#).is_err());
    }

    #[test]
    fn a_bare_word_where_a_value_is_needed_is_named() {
        let error = from_str::<Answer>("{\"id\": NaN,\n\"text\": \"a\"}").unwrap_err().to_string();
        assert!(error.starts_with("line 1: invalid type: null, expected u32"), "{error}");
        assert!(error.ends_with("NaN and Infinity, which are no JSON, are read as null"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_and_wide_text_is_named() {
        assert_eq!(from_slice::<Value>(b"\xef\xbb\xbf[1]").unwrap(), json!([1]));
        let wide: Vec<u8> = "\u{feff}[1]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = from_slice::<Value>(&wide).unwrap_err().to_string();
        assert!(error.starts_with("this is text in UTF-16; save it as UTF-8"), "{error}");
        let error = from_slice::<Value>(b"{}\n\xe9").unwrap_err().to_string();
        assert_eq!(error, "line 2: this is not UTF-8; save the file as UTF-8");
    }

    #[test]
    fn records_of_lines_and_of_lists_have_the_lines_of_the_file() {
        let answer = |id, text: &str| Answer { id, text: text.to_owned() };
        let expected = vec![(2, answer(1, "a")), (4, answer(2, "b"))];
        let lines = "\u{feff}\n{\"id\": 1, \"text\": \"a\", \"score\": NaN}\n\n{\"id\": 2, \"text\": \"b\"}\n";
        assert_eq!(records::<Answer>(lines).unwrap(), expected);
        let list = "\u{feff}[\n {\"id\": 1, \"text\": \"a\", \"score\": NaN},\n\n {\"id\": 2,\n \"text\": \"b\"}]\n";
        assert_eq!(records::<Answer>(list).unwrap(), expected);
        assert_eq!(records::<Value>("[[1, \"]\\\"\",\n2], 3,\n{\"a\": [4]}]").unwrap().len(), 3);
        assert_eq!(lines_of_entries("[[1, \"]\\\"\",\n2], 3,\n{\"a\": [4]}]"), [1, 2, 3]);
        assert_eq!(records::<Value>("[ ]").unwrap(), []);
    }

    #[test]
    fn a_table_of_pandas_that_holds_no_records_is_named_with_the_remedy() {
        for (orient, text) in [
            ("values", r#"[[1, "a"], [2, "b"]]"#),
            ("values", r#"[["a", 1]]"#),
            ("columns", r#"{"id": {"0": 1, "1": 2}, "text": {"0": "a", "1": "b"}}"#),
            ("index", r#"{"0": {"id": 1, "text": "a"}, "1": {"id": 2, "text": "b"}}"#),
            ("split", r#"{"columns": ["id", "text"], "index": [0], "data": [[1, "a"]]}"#),
            ("table", r#"{"schema": {"fields": []}, "data": [{"index": 0, "id": 1, "text": "a"}]}"#),
        ] {
            let error = records::<Answer>(text).unwrap_err().to_string();
            let named = format!("this is a table as pandas' to_json(orient=\"{orient}\") writes it");
            assert!(error.starts_with(&named) && error.contains("orient=\"records\""), "{text}: {error}");
        }
        assert_eq!(pandas_orient(r#"{"id": 1, "text": "a"}"#), None);
    }

    #[test]
    fn an_error_names_the_line_of_the_file() {
        let error = |text: &str| records::<Answer>(text).unwrap_err().to_string();
        assert_eq!(
            error("[\n {\"id\": 1, \"text\": \"a\"},\n {\"id\": 2,\n  \"text\": 3}]"),
            "line 4: invalid type: integer `3`, expected a string (column 11), in entry [1]"
        );
        assert!(error("{\"id\": 1, \"text\": \"a\"}\n{\"id\": 2}\n").starts_with("line 2: missing field `text`"));
        assert!(error("[{\"id\": 1, \"text\": \"a\"}\n, oops]").starts_with("line 2: expected value"));
        assert!(error("{\"id\": 1, \"text\": \"a\"} {}").starts_with("line 1: trailing characters"));
    }
}
