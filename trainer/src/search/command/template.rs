//! A command with placeholders.

use std::ffi::OsString;

use anyhow::Result;
use hydra_shared::shell::word;

use super::folder::TrialFolder;
use crate::error::{Kind, failure};

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file of PEFT's configuration.
    Lora,
    /// The file of the schedule.
    Schedule,
    /// The seed of the training.
    Seed,
    /// The file that the command writes its scores to.
    Result,
    /// The file that the command may write its gradient log to.
    Gradients,
    /// The folder of the trial, which these files lie in.
    Folder,
    /// The number of the trial.
    Trial,
}

impl Place {
    const ALL: [Self; 7] =
        [Self::Lora, Self::Schedule, Self::Seed, Self::Result, Self::Gradients, Self::Folder, Self::Trial];

    fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Schedule => "schedule",
            Self::Seed => "seed",
            Self::Result => "result",
            Self::Gradients => "gradients",
            Self::Folder => "folder",
            Self::Trial => "trial",
        }
    }

    fn value(self, folder: &TrialFolder) -> OsString {
        match self {
            Self::Lora => folder.lora().into(),
            Self::Schedule => folder.schedule().into(),
            Self::Seed => folder.seed().to_string().into(),
            Self::Result => folder.result().into(),
            Self::Gradients => folder.gradients().into(),
            Self::Folder => folder.path().into(),
            Self::Trial => folder.trial().to_string().into(),
        }
    }
}

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

/// A command as it was written, split into words as a POSIX shell does, which never sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    words: Vec<Vec<Piece>>,
}

impl Template {
    /// Reads a command.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an empty one, quotes that are not closed, a placeholder that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| failure(Kind::Usage, format!("--trial {text:?}: {what}"));
        let words = shlex::split(text).ok_or_else(|| wrong("a quote is not closed, or a backslash ends it"))?;
        if words.is_empty() {
            return Err(wrong("the command is empty; give the program that trains, and its arguments"));
        }
        let words = words.iter().map(|word| pieces(word).map_err(|unknown| wrong(&unknown)));
        Ok(Self { words: words.collect::<Result<_>>()? })
    }

    /// The words of the command for one trial.
    pub fn words(&self, folder: &TrialFolder) -> Vec<OsString> {
        let word = |pieces: &Vec<Piece>| {
            pieces.iter().fold(OsString::new(), |mut word, piece| {
                match piece {
                    Piece::Text(text) => word.push(text),
                    Piece::Place(place) => word.push(place.value(folder)),
                }
                word
            })
        };
        self.words.iter().map(word).collect()
    }

    /// The command for one trial as a line for a shell.
    pub fn line(&self, folder: &TrialFolder) -> String {
        let words = self.words(folder);
        words.iter().map(|part| word(&part.to_string_lossy()).into_owned()).collect::<Vec<_>>().join(" ")
    }
}

/// What the command finds in its environment besides: the same as the placeholders. Not `HYDRA_SEED` and the like, which a
/// command of this program would take for its configuration.
pub fn environment(folder: &TrialFolder) -> Vec<(String, OsString)> {
    let name = |place: Place| match place {
        Place::Trial => "HYDRA_TRIAL_NUMBER".to_owned(),
        place => format!("HYDRA_TRIAL_{}", place.name().to_uppercase()),
    };
    Place::ALL.into_iter().map(|place| (name(place), place.value(folder))).collect()
}

/// The pieces of a word. `{{name}}` is `{name}` itself, and braces around anything but a name are braces.
fn pieces(word: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(name) = from.strip_prefix("{{").and_then(name_before("}}")) {
            text.push_str(&format!("{{{name}}}"));
            rest = from.get(name.len() + 4..).unwrap_or_default();
        } else if let Some(name) = from.strip_prefix('{').and_then(name_before("}")) {
            let place = Place::ALL.into_iter().find(|place| place.name() == name).ok_or_else(|| unknown(name))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Place(place));
            rest = from.get(name.len() + 2..).unwrap_or_default();
        } else {
            text.push('{');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// The name that a text begins with, where `end` follows it.
fn name_before(end: &str) -> impl Fn(&str) -> Option<&str> {
    move |text| {
        let name = &text[..text.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'))?];
        (!name.is_empty() && text[name.len()..].starts_with(end)).then_some(name)
    }
}

fn unknown(name: &str) -> String {
    let known = Place::ALL.map(|place| format!("{{{}}}", place.name())).join(", ");
    format!("{{{name}}} is no placeholder; known are {known}, and {{{{{name}}}}} is {{{name}}} itself")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::kind_of;

    fn words(text: &str) -> Vec<String> {
        let folder = TrialFolder::named(Path::new("/a b"), "0123", 4, 9);
        let words = Template::parse(text).unwrap().words(&folder);
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn a_command_is_split_before_its_placeholders_are_filled() {
        for (text, expected) in [
            ("train.sh {lora} '{result}'", vec!["train.sh", "/a b/0123/lora.json", "/a b/0123/result.json"]),
            ("t --seed={seed} -n{trial}", vec!["t", "--seed=9", "-n4"]),
            ("t '{\"a\": {\"b\": 1}}' ${HOME} {} {", vec!["t", "{\"a\": {\"b\": 1}}", "${HOME}", "{}", "{"]),
            (
                "t {{seed}} {{x}}y {folder}/{gradients}",
                vec!["t", "{seed}", "{x}y", "/a b/0123//a b/0123/gradients.jsonl"],
            ),
            ("\"my train\" \\{schedule\\}", vec!["my train", "/a b/0123/schedule.json"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_placeholders_that_there_are() {
        for (text, part) in [
            ("train {loras}", "{loras} is no placeholder; known are {lora}, {schedule}"),
            ("train 'x", "a quote is not closed"),
            ("  ", "the command is empty"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Usage);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn the_environment_holds_every_placeholder_under_a_name_that_configures_nothing() {
        let folder = TrialFolder::named(Path::new("/t"), "0123", 4, 9);
        let names: Vec<String> = environment(&folder).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), Place::ALL.len());
        assert!(names.contains(&"HYDRA_TRIAL_RESULT".to_owned()) && names.contains(&"HYDRA_TRIAL_NUMBER".to_owned()));
    }
}
