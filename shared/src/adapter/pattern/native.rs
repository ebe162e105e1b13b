//! Python's regular expressions, read by `fancy-regex`.

/// An expression for whole texts.
#[derive(Debug)]
pub struct Regex(fancy_regex::Regex);

impl Regex {
    /// # Errors
    /// An expression that cannot be read.
    pub fn new(expression: &str) -> Result<Self, String> {
        fancy_regex::Regex::new(&format!("^(?:{expression})$")).map(Self).map_err(|error| error.to_string())
    }

    /// # Errors
    /// More steps back than are taken for any sensible expression.
    pub fn is_full_match(&self, text: &str) -> Result<bool, String> {
        self.0.is_match(text).map_err(|error| error.to_string())
    }
}
