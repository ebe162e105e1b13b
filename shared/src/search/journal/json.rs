//! JSON as Python writes it.

use serde_json::Value;

/// Reads one record. Python's `json` writes NaN and infinities as bare words, which JSON does not have: they are read
/// as null.
pub(super) fn parse(line: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(line).or_else(|error| match without_bare_words(line) {
        Some(line) => serde_json::from_slice(&line),
        None => Err(error),
    })
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside strings; `None` where there are none.
fn without_bare_words(line: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut out, mut rest, mut in_string, mut found) = (Vec::with_capacity(line.len()), line, false, false);
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = WORDS.iter().filter(|_| !in_string).find_map(|word| rest.strip_prefix(*word)) {
            out.extend_from_slice(b"null");
            (rest, found) = (after, true);
            continue;
        }
        out.push(byte);
        rest = tail;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                if let Some((&escaped, tail)) = rest.split_first() {
                    out.push(escaped);
                    rest = tail;
                }
            }
            _ => {}
        }
    }
    found.then_some(out)
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
