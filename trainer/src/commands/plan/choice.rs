//! `--include` and `--exclude`: which modules of a log are planned.

use std::cell::Cell;

use fancy_regex::Regex;
use hydra_shared::gradients::Wish;

use crate::error::{Kind, failure};

/// What was asked for.
pub struct Choice {
    include: Vec<Expression>,
    exclude: Vec<Expression>,
}

/// An expression, and whether it was found in any name.
struct Expression {
    flag: &'static str,
    text: String,
    regex: Regex,
    found: Cell<bool>,
}

impl Choice {
    /// Reads the expressions.
    ///
    /// # Errors
    /// [`Kind::Usage`] for text that is none.
    pub fn new(include: &[String], exclude: &[String]) -> anyhow::Result<Self> {
        let read = |flag: &'static str, texts: &[String]| {
            texts.iter().map(|text| Expression::new(flag, text)).collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(Self { include: read("--include", include)?, exclude: read("--exclude", exclude)? })
    }

    /// What is wanted of a module; excluding is stronger.
    pub fn wish(&self, name: &str) -> Wish {
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
    /// [`Kind::Usage`] for an expression that is found in no name: it would have no effect.
    pub fn check(&self) -> anyhow::Result<()> {
        let unused = self.include.iter().chain(&self.exclude).find(|expression| !expression.found.get());
        match unused {
            None => Ok(()),
            Some(Expression { flag, text, .. }) => Err(failure(
                Kind::Usage,
                format!("{flag} {text}: no module of the log or the model has that in its name"),
            )),
        }
    }
}

impl Expression {
    fn new(flag: &'static str, text: &str) -> anyhow::Result<Self> {
        let regex = Regex::new(text)
            .map_err(|error| failure(Kind::Usage, format!("{flag} {text}: this is no regular expression: {error}")))?;
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
    use super::*;

    fn choice(include: &[&str], exclude: &[&str]) -> anyhow::Result<Choice> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Choice::new(&owned(include), &owned(exclude))
    }

    #[test]
    fn an_expression_counts_wherever_it_is_found_and_excluding_is_stronger() {
        let choice = choice(&["vision_tower", "^lm_head$"], &["layers\\.[01]\\."]).unwrap();
        for (name, wish) in [
            ("model.vision_tower.encoder.layers.2.self_attn.q_proj", Wish::Include),
            ("model.vision_tower.encoder.layers.1.self_attn.q_proj", Wish::Exclude),
            ("lm_head", Wish::Include),
            ("model.lm_head", Wish::None),
            ("model.layers.10.self_attn.q_proj", Wish::None),
        ] {
            assert_eq!(choice.wish(name), wish, "{name}");
        }
        choice.check().unwrap();
    }

    #[test]
    fn expressions_that_are_none_or_found_nowhere_are_refused_by_flag() {
        let message = |choice: anyhow::Result<Choice>| choice.err().unwrap().to_string();
        assert!(message(choice(&["("], &[])).starts_with("--include (: this is no regular expression"));
        let unused = choice(&[], &["vision"]).unwrap();
        assert_eq!(unused.wish("lm_head"), Wish::None);
        assert!(unused.check().unwrap_err().to_string().starts_with("--exclude vision: no module"));
    }
}
