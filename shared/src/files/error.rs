//! What kind of failure ended a command, and the exit code that goes with it.
//!
//! Commands return [`anyhow::Result`]. Where a failure is of a known kind, the error carries a [`Failure`]; everything
//! else counts as [`Kind::Failure`].

use std::fmt::Display;
use std::io;

use serde::Serialize;
use strum::{EnumCount, IntoStaticStr};

/// Kinds of failure. Scripts may rely on the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// 1: anything that no other code describes.
    Failure,
    /// 2: a wrong flag, an unknown configuration key, a value out of range.
    Usage,
    /// 3: a file that is missing, broken, or does not fit the model.
    Data,
    /// 4: no schedule fits the budget.
    Budget,
    /// 5: a number is NaN or infinite, in a log or during training.
    Numerical,
    /// 75: nothing is wrong with the input; try again later, or resume (a locked run, a full disk).
    TryAgain,
    /// 130: interrupted by Ctrl-C or SIGTERM; the state was saved.
    Interrupted,
}

impl Kind {
    /// Every kind, in the order of the codes.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Failure, Self::Usage, Self::Data, Self::Budget, Self::Numerical, Self::TryAgain, Self::Interrupted];

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Data => 3,
            Self::Budget => 4,
            Self::Numerical => 5,
            Self::TryAgain => 75,
            Self::Interrupted => 130,
        }
    }

    /// The word that stands for it in JSON.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A failure of a known kind. The message names the file, the place and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// For a person.
    pub message: String,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure without a cause of its own.
    pub fn new(kind: Kind, message: impl Display) -> Self {
        Self { kind, message: message.to_string(), source: None }
    }
}

/// The command has printed its whole result, bad as it is; only the exit code is left to give.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Reported {
    /// For a person, on standard error.
    pub message: String,
}

/// An [`anyhow::Error`] of the given kind.
pub fn failure(kind: Kind, message: impl Display) -> anyhow::Error {
    Failure::new(kind, message).into()
}

/// Gives the error of a result a kind and a message that goes before its own.
pub trait ResultExt<T> {
    /// Turns an error into a [`Failure`] that says `message` and then why.
    ///
    /// # Errors
    /// The same cases as the result itself.
    fn or_fail<M: Display>(self, kind: Kind, message: impl FnOnce() -> M) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ResultExt<T> for Result<T, E> {
    fn or_fail<M: Display>(self, kind: Kind, message: impl FnOnce() -> M) -> anyhow::Result<T> {
        self.map_err(|error| Failure { kind, message: message().to_string(), source: Some(error.into()) }.into())
    }
}

/// The kind of an error: that of the outermost [`Failure`] in it. A full disk is [`Kind::TryAgain`] wherever it is met.
pub fn kind_of(error: &anyhow::Error) -> Kind {
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    };
    if error.chain().any(full) {
        return Kind::TryAgain;
    }
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Kind::Failure, |failure| failure.kind)
}

/// The whole message on one line: the error and its causes, joined by colons, none said twice.
pub fn message_of(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // A cause that its parent already quotes adds nothing.
        if message.is_empty() {
            message = part;
        } else if !message.contains(&part) {
            message = format!("{message}: {part}");
        }
    }
    message
}

/// The most similar candidate, if it is similar at all.
pub fn nearest<'a>(word: &str, candidates: &'a [String]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.as_str())
}

/// The document that `--json` prints when a command fails.
#[derive(Debug, Serialize)]
pub struct ErrorDocument {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    code: u8,
    kind: &'static str,
    message: String,
}

impl ErrorDocument {
    /// Describes an error.
    pub fn new(kind: Kind, message: String) -> Self {
        Self { error: ErrorBody { code: kind.code(), kind: kind.name(), message } }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_kind_survives_any_context_that_is_put_around_it() {
        let error = failure(Kind::Budget, "too small").context("while planning").context("plan");
        assert_eq!(kind_of(&error), Kind::Budget);
        assert_eq!(message_of(&error), "plan: while planning: too small");
    }

    #[test]
    fn an_error_without_a_kind_is_a_plain_failure() {
        assert_eq!(kind_of(&anyhow::anyhow!("something")), Kind::Failure);
    }

    #[test]
    fn a_full_disk_means_try_again_whatever_was_being_written() {
        let full: Result<(), _> = Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = full.or_fail(Kind::Data, || "cannot write a.json").unwrap_err();
        assert_eq!(kind_of(&error), Kind::TryAgain);
    }

    #[test]
    fn a_cause_that_is_already_quoted_is_not_said_twice() {
        let error = Err::<(), _>(anyhow::anyhow!("no such file")).context("a.json: no such file").unwrap_err();
        assert_eq!(message_of(&error), "a.json: no such file");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        assert_eq!(Kind::ALL.map(Kind::code), [1, 2, 3, 4, 5, 75, 130]);
    }

    #[test]
    fn the_json_document_holds_code_kind_and_message() {
        let document = serde_json::to_value(ErrorDocument::new(Kind::Data, "bad".to_owned())).unwrap();
        assert_eq!(document, serde_json::json!({"error": {"code": 3, "kind": "data", "message": "bad"}}));
    }
}
