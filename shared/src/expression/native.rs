//! Python's regular expressions, read by `fancy-regex`.

/// An expression.
#[derive(Debug)]
pub struct Regex(fancy_regex::Regex);

impl Regex {
    /// An expression for whole texts: Python's `re.fullmatch`.
    ///
    /// # Errors
    /// An expression that cannot be read.
    pub fn whole(expression: &str) -> Result<Self, String> {
        Self::anywhere(&format!("^(?:{expression})$"))
    }

    /// An expression that may be found anywhere in a text: Python's `re.search`.
    ///
    /// # Errors
    /// An expression that cannot be read.
    pub fn anywhere(expression: &str) -> Result<Self, String> {
        fancy_regex::Regex::new(expression).map(Self).map_err(|error| error.to_string())
    }

    /// # Errors
    /// More steps back than are taken for any sensible expression.
    pub fn is_match(&self, text: &str) -> Result<bool, String> {
        self.0.is_match(text).map_err(|error| error.to_string())
    }
}
