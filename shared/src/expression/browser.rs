//! Python's regular expressions, read by the browser's own.

use js_sys::wasm_bindgen::JsCast;
use js_sys::wasm_bindgen::JsValue;
use js_sys::{Array, Function, Reflect, RegExp};

/// An expression.
#[derive(Debug)]
pub struct Regex(RegExp);

impl Regex {
    /// An expression for whole texts: Python's `re.fullmatch`.
    ///
    /// # Errors
    /// An expression that cannot be read.
    pub fn whole(expression: &str) -> Result<Self, String> {
        let (flags, body) = translated(expression);
        Self::of(&flags, &format!("^(?:{body})$"))
    }

    /// An expression that may be found anywhere in a text: Python's `re.search`.
    ///
    /// # Errors
    /// An expression that cannot be read.
    pub fn anywhere(expression: &str) -> Result<Self, String> {
        let (flags, body) = translated(expression);
        Self::of(&flags, &body)
    }

    fn of(flags: &str, body: &str) -> Result<Self, String> {
        // `RegExp::new` does not catch what the constructor throws.
        let constructor = Reflect::get(&js_sys::global(), &"RegExp".into()).map_err(|error| text_of(&error))?;
        let constructor: Function = constructor.dyn_into().map_err(|error| text_of(&error))?;
        let arguments = Array::of2(&body.into(), &flags.into());
        let regex = Reflect::construct(&constructor, &arguments).map_err(|error| text_of(&error))?;
        regex.dyn_into().map(Self).map_err(|error| text_of(&error))
    }

    /// # Errors
    /// Never: a browser goes on until it knows.
    pub fn is_match(&self, text: &str) -> Result<bool, String> {
        Ok(self.0.test(text))
    }
}

fn text_of(error: &JsValue) -> String {
    error.dyn_ref::<js_sys::Error>().map_or_else(|| format!("{error:?}"), |error| error.message().into())
}

/// Flags and text of a Python expression in JavaScript's syntax. With the flag `u` a browser refuses what it does not know,
/// where it would otherwise take it for something else.
fn translated(expression: &str) -> (String, String) {
    let (given, mut rest) = flags(expression);
    let mut body = String::with_capacity(rest.len());
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '\\' => {
                let escaped = after.chars().next();
                escape(escaped, in_class, &mut body);
                after.get(escaped.map_or(0, char::len_utf8)..).unwrap_or_default()
            }
            _ if in_class => {
                in_class = c != ']';
                body.push(c);
                after
            }
            '[' => {
                in_class = true;
                let (start, after) = after.strip_prefix('^').map_or(("[", after), |after| ("[^", after));
                body.push_str(start);
                // At the start it does not end the class.
                let end = after.strip_prefix(']');
                body.push_str(end.map_or("", |_| r"\]"));
                end.unwrap_or(after)
            }
            '(' => group(after, &mut body),
            _ => {
                body.push(c);
                after
            }
        };
    }
    (format!("u{given}"), body)
}

/// The start of a group, where names are written otherwise; returns what follows it.
fn group<'a>(after: &'a str, body: &mut String) -> &'a str {
    if let Some(after) = after.strip_prefix("?P<") {
        body.push_str("(?<");
        return after;
    }
    match after.strip_prefix("?P=").and_then(|after| after.split_once(')')) {
        Some((name, after)) => {
            body.extend([r"\k<", name, ">"]);
            after
        }
        None => {
            body.push('(');
            after
        }
    }
}

/// The flags that Python takes at the start, and what follows them. Those for bytes and Unicode change nothing in names.
fn flags(expression: &str) -> (String, &str) {
    let given = expression.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    match given {
        Some((flags, rest)) if !flags.is_empty() && flags.chars().all(|c| "aimsu".contains(c)) => {
            (flags.chars().filter(|c| "ims".contains(*c)).collect(), rest)
        }
        _ => (String::new(), expression),
    }
}

fn escape(escaped: Option<char>, in_class: bool, body: &mut String) {
    match escaped {
        Some('A') if !in_class => body.push('^'),
        Some('Z') if !in_class => body.push('$'),
        Some(c) if c.is_ascii_alphanumeric() || r"^$\.*+?()[]{}|/".contains(c) || (c == '-' && in_class) => {
            body.extend(['\\', c]);
        }
        // Python lets any other character be escaped.
        Some(c) => body.push(c),
        None => body.push('\\'),
    }
}
