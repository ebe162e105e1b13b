//! Which modules of a log somebody wants planned, by expressions that are found in their names.

use std::cell::Cell;

use crate::expression::Regex;

/// What somebody wants of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: modules of the decoder get ranks, others do not.
    None,
    /// That it gets a rank.
    Include,
    /// That it gets none.
    Exclude,
}

/// An expression that is none, or that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {expression}: {problem}")]
pub struct WishError {
    /// The trainer's flag for it.
    pub flag: &'static str,
    /// Its text.
    pub expression: String,
    /// What is wrong with it.
    pub problem: String,
}

/// `--include` and `--exclude`: Python's regular expressions.
#[derive(Debug, Default)]
pub struct Wishes {
    include: Vec<Expression>,
    exclude: Vec<Expression>,
}

/// An expression, and whether it was found in any name.
#[derive(Debug)]
struct Expression {
    flag: &'static str,
    text: String,
    regex: Regex,
    found: Cell<bool>,
}

impl Wishes {
    /// Reads the expressions.
    ///
    /// # Errors
    /// Text that is none.
    pub fn new<T: AsRef<str>>(
        include: impl IntoIterator<Item = T>,
        exclude: impl IntoIterator<Item = T>,
    ) -> Result<Self, WishError> {
        Ok(Self { include: read("--include", include)?, exclude: read("--exclude", exclude)? })
    }

    /// What is wanted of a module; excluding is stronger.
    pub fn of(&self, name: &str) -> Wish {
        // Every expression is tried, so that it is known which are found nowhere.
        let any = |expressions: &[Expression]| expressions.iter().filter(|one| one.is_in(name)).count() > 0;
        let (include, exclude) = (any(&self.include), any(&self.exclude));
        match (include, exclude) {
            (_, true) => Wish::Exclude,
            (true, false) => Wish::Include,
            (false, false) => Wish::None,
        }
    }

    /// To be asked after all modules had their turn.
    ///
    /// # Errors
    /// An expression that was found in no name: it would have no effect.
    pub fn check(&self) -> Result<(), WishError> {
        let unused = self.include.iter().chain(&self.exclude).find(|expression| !expression.found.get());
        match unused {
            None => Ok(()),
            Some(Expression { flag, text, .. }) => {
                let problem = "no module of the log or the model has that in its name".to_owned();
                Err(WishError { flag, expression: text.clone(), problem })
            }
        }
    }
}

fn read<T: AsRef<str>>(flag: &'static str, texts: impl IntoIterator<Item = T>) -> Result<Vec<Expression>, WishError> {
    texts.into_iter().map(|text| Expression::new(flag, text.as_ref())).collect()
}

impl Expression {
    fn new(flag: &'static str, text: &str) -> Result<Self, WishError> {
        let regex = Regex::anywhere(text).map_err(|reason| WishError {
            flag,
            expression: text.to_owned(),
            problem: format!("this is no regular expression: {reason}"),
        })?;
        Ok(Self { flag, text: text.to_owned(), regex, found: Cell::new(false) })
    }

    fn is_in(&self, name: &str) -> bool {
        // An expression that gives up on a name is not found in it.
        let is_in = self.regex.is_match(name).unwrap_or(false);
        self.found.set(self.found.get() || is_in);
        is_in
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn an_expression_counts_wherever_it_is_found_and_excluding_is_stronger() {
        let wishes = Wishes::new(["vision_tower", "^lm_head$"], [r"layers\.[01]\."]).unwrap();
        for (name, wish) in [
            ("model.vision_tower.encoder.layers.2.self_attn.q_proj", Wish::Include),
            ("model.vision_tower.encoder.layers.1.self_attn.q_proj", Wish::Exclude),
            ("lm_head", Wish::Include),
            ("model.lm_head", Wish::None),
            ("model.layers.10.self_attn.q_proj", Wish::None),
        ] {
            assert_eq!(wishes.of(name), wish, "{name}");
        }
        wishes.check().unwrap();
    }

    #[test]
    fn expressions_that_are_none_or_found_nowhere_are_refused_by_flag() {
        let error = Wishes::new(["("], []).unwrap_err();
        assert!(error.to_string().starts_with("--include (: this is no regular expression"), "{error}");
        let unused = Wishes::new([], ["vision"]).unwrap();
        assert_eq!(unused.of("lm_head"), Wish::None);
        let error = unused.check().unwrap_err().to_string();
        assert_eq!(error, "--exclude vision: no module of the log or the model has that in its name");
    }

    #[test]
    fn flags_and_look_around_of_python_are_read() {
        let wishes = Wishes::new(["(?i)LM_HEAD"], [r"(?<!vision_)layers\.(?P<n>\d)(?P=n)\."]).unwrap();
        assert_eq!(wishes.of("lm_head"), Wish::Include);
        assert_eq!(wishes.of("model.layers.11.mlp.up_proj"), Wish::Exclude);
        assert_eq!(wishes.of("model.layers.12.mlp.up_proj"), Wish::None);
    }
}
