//! Python's way of writing a dict of numbers, as JSON.

/// The JSON of a literal of dicts, lists, tuples, numbers and NumPy's arrays.
///
/// # Errors
/// A list that was shortened with dots.
pub(super) fn to_json(literal: &str) -> Result<String, String> {
    let mut json = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(first) = rest.chars().next() {
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
        match first {
            '\'' | '"' => rest = string(rest, first, &mut json),
            '(' => json.push('['),
            ')' => json.push(']'),
            '.' if rest.starts_with("..") => {
                return Err("pandas left out the middle of a list; write the rows as JSON lines".to_owned());
            }
            c if c.is_alphabetic() => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_'))).unwrap_or(rest.len());
                let (tail, after) = rest.split_at(end);
                rest = word(&format!("{c}{tail}"), after, &mut json)?;
            }
            c if c.is_ascii_digit() || c == '.' => rest = number(c, rest, &mut json),
            c => json.push(c),
        }
    }
    Ok(json)
}

/// Copies a string's content; gives what follows it.
fn string<'t>(text: &'t str, quote: char, json: &mut String) -> &'t str {
    let (content, rest) = text.split_once(quote).unwrap_or((text, ""));
    json.push('"');
    json.push_str(&content.replace('"', "\\\""));
    json.push('"');
    rest
}

/// Copies a number, which Python may end with a point; gives what follows it.
fn number<'t>(first: char, text: &'t str, json: &mut String) -> &'t str {
    let exponent = |before: Option<char>| matches!(before, Some('e' | 'E'));
    let mut before = Some(first);
    let end = text
        .find(|c: char| {
            let part =
                c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || (matches!(c, '+' | '-') && exponent(before));
            before = Some(c);
            !part
        })
        .unwrap_or(text.len());
    let (tail, rest) = text.split_at(end);
    if first == '.' {
        json.push('0');
    }
    json.push(first);
    json.push_str(tail);
    if tail.ends_with('.') || (first == '.' && tail.is_empty()) {
        json.push('0');
    }
    rest
}

/// Writes a word: a constant, or the name of a function, whose brackets are passed over.
fn word<'t>(word: &str, after: &'t str, json: &mut String) -> Result<&'t str, String> {
    let json_word = match word {
        "None" | "null" => "null",
        "True" | "true" => "true",
        "False" | "false" => "false",
        "nan" | "NaN" | "np.nan" => "NaN",
        "inf" | "Infinity" | "np.inf" => "Infinity",
        _ => return call(after, json),
    };
    json.push_str(json_word);
    Ok(after)
}

/// `array([1, 2], dtype=int64)`, `np.float64(0.5)`: what stands in the brackets, without named arguments.
fn call<'t>(after: &'t str, json: &mut String) -> Result<&'t str, String> {
    let Some((arguments, rest)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) else {
        return Ok(after);
    };
    json.push_str(&to_json(arguments.split(", dtype").next().unwrap_or_default())?);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dicts_of_wandb_histograms_become_json() {
        for (python, json) in [
            (
                "{'_type': 'histogram', 'values': [1, 0], 'bins': [-0.5, 1e-05, 2.], 'packedBins': None}",
                "{\"_type\": \"histogram\", \"values\": [1, 0], \"bins\": [-0.5, 1e-05, 2.0], \"packedBins\": null}",
            ),
            ("{'values': array([1, 2], dtype=int64), 'x': (nan, inf)}", "{\"values\": [1, 2], \"x\": [NaN, Infinity]}"),
            ("{'a': np.float64(0.25), 'b': True}", "{\"a\": 0.25, \"b\": true}"),
        ] {
            assert_eq!(to_json(python).unwrap(), json);
        }
        for shortened in ["{'values': [1, ..., 9]}", "{'values': array([1, ..., 9])}"] {
            assert!(to_json(shortened).unwrap_err().contains("left out the middle"), "{shortened}");
        }
    }
}
