//! Choices as short texts, and back: for files, flags, links and commands.

use std::fmt::Write;

use super::{Choice, Choices, Kind};
use crate::layout::Projection;
use crate::schedule::{Sign, Signs};

/// A text that is no value of a choice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Neither on nor off.
    #[error("\"{0}\" is neither true nor false")]
    Switch(String),
    /// No whole number, or one that is too large.
    #[error("\"{text}\" is no whole number from 0 to {most}")]
    Whole {
        /// What was given.
        text: String,
        /// The largest.
        most: u64,
    },
    /// No number.
    #[error("\"{0}\" is no number")]
    Number(String),
    /// None of the words.
    #[error("\"{text}\" is none of {words}")]
    Word {
        /// What was given.
        text: String,
        /// What there is.
        words: String,
    },
    /// No scale.
    #[error(transparent)]
    Scale(#[from] crate::schedule::UnknownScale),
    /// No ranks.
    #[error("ranks \"{text}\": \"{part}\" is no rank; write whole numbers such as 64,128,256")]
    Ranks {
        /// What was given.
        text: String,
        /// The part that cannot be read.
        part: String,
    },
    /// No layers.
    #[error("stage layers \"{text}\": \"{part}\" is no layer; write 0-11/12-17/18-23")]
    Layers {
        /// What was given.
        text: String,
        /// The part that cannot be read.
        part: String,
    },
    /// A list or table where one value was meant.
    #[error("{0} is not how this value is written")]
    Form(String),
    /// No signs.
    #[error("signs \"{text}\": {why}; write them as q=-,k=-,up=+")]
    Signs {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Layers that are written are fewer, also all together; a plan says which ones its model does not have.
const LAYERS: usize = 100_000;

impl Choice {
    /// Its value as text; none where nothing is chosen.
    pub fn text(&self, choices: &Choices) -> Option<String> {
        match &self.kind {
            Kind::Switch { get, .. } => Some(get(choices).to_string()),
            Kind::Whole { get, .. } => get(choices).map(|number| number.to_string()),
            Kind::Number { get, .. } => get(choices).map(|number| number.to_string()),
            Kind::Words { get, .. } => get(choices).map(str::to_owned),
            Kind::Scale { get, .. } => Some(get(choices).to_string()),
            Kind::Ranks { get, .. } => get(choices).map(|ranks| joined(&ranks)),
            Kind::Layers { get, .. } => get(choices).map(|layers| layers_text(&layers)),
            Kind::Signs { get, .. } => get(choices).map(|signs| signs_text(&signs)),
        }
    }

    /// Puts the value of a text; an empty one is no choice, where that is possible.
    ///
    /// # Errors
    /// A text that is no value of this choice.
    pub fn read(&self, choices: &mut Choices, text: &str) -> Result<(), TextError> {
        let text = text.trim();
        let given = (!text.is_empty()).then_some(text);
        match &self.kind {
            Kind::Switch { set, .. } => match text {
                "true" => set(choices, true),
                "false" => set(choices, false),
                _ => return Err(TextError::Switch(text.to_owned())),
            },
            Kind::Whole { most, set, .. } => {
                let wrong = || TextError::Whole { text: text.to_owned(), most: *most };
                let number = text.parse::<u64>().ok().filter(|number| number <= most).ok_or_else(wrong)?;
                set(choices, Some(number));
            }
            Kind::Number { set, .. } => {
                set(choices, text.parse::<f64>().map_err(|_| TextError::Number(text.to_owned()))?);
            }
            Kind::Words { words, set, .. } => {
                let known = words.iter().find(|word| word.name == text);
                let wrong = || TextError::Word {
                    text: text.to_owned(),
                    words: words.iter().map(|word| word.name).collect::<Vec<_>>().join(", "),
                };
                set(choices, Some(known.ok_or_else(wrong)?.name));
            }
            Kind::Scale { set, .. } => set(choices, text.parse()?),
            Kind::Ranks { set, .. } => set(choices, given.map(ranks).transpose()?),
            Kind::Layers { set, .. } => set(choices, given.map(layers).transpose()?),
            Kind::Signs { set, .. } => set(choices, given.map(signs).transpose()?),
        }
        Ok(())
    }
}

fn joined(ranks: &[u32]) -> String {
    ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `64,128,256`.
fn ranks(text: &str) -> Result<Vec<u32>, TextError> {
    let wrong = |part: &str| TextError::Ranks { text: text.to_owned(), part: part.to_owned() };
    text.split(',').map(str::trim).map(|part| part.parse().map_err(|_| wrong(part))).collect()
}

/// `0-11/12-17,20/18-19,21-23`: stages by slashes, layers and ranges of layers by commas.
pub(super) fn layers_text(stages: &[Vec<usize>]) -> String {
    let mut text = String::new();
    for (index, layers) in stages.iter().enumerate() {
        if index > 0 {
            text.push('/');
        }
        for (number, run) in layers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).enumerate() {
            let comma = if number > 0 { "," } else { "" };
            // Writing to a String cannot fail.
            let _ = match run {
                [first, .., last] => write!(text, "{comma}{first}-{last}"),
                run => write!(text, "{comma}{}", run.first().copied().unwrap_or_default()),
            };
        }
    }
    text
}

fn layers(text: &str) -> Result<Vec<Vec<usize>>, TextError> {
    let wrong = |part: &str| TextError::Layers { text: text.to_owned(), part: part.to_owned() };
    let mut left = LAYERS;
    let stage = |stage: &str| {
        let mut layers = Vec::new();
        for part in stage.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < LAYERS && last - first < left => {
                    left -= last - first + 1;
                    layers.extend(first..=last);
                }
                _ => return Err(wrong(part)),
            }
        }
        Ok(layers)
    };
    text.split('/').map(stage).collect()
}

/// `q=-,k=-,up=+`: every projection in turn.
pub(super) fn signs_text(signs: &Signs) -> String {
    let sign = |sign: &Sign| match sign {
        Sign::Lower => "-",
        Sign::Keep => "0",
        Sign::Raise => "+",
    };
    let parts: Vec<String> =
        Projection::ALL.iter().zip(signs).map(|(projection, of)| format!("{projection}={}", sign(of))).collect();
    parts.join(",")
}

/// A projection that is not named keeps its rank.
fn signs(text: &str) -> Result<Signs, TextError> {
    let wrong = |why: String| TextError::Signs { text: text.to_owned(), why };
    let mut signs = [None; Projection::ALL.len()];
    for part in text.split(',').map(str::trim) {
        let (name, sign) = part.split_once('=').ok_or_else(|| wrong(format!("\"{part}\" has no =")))?;
        let projection = Projection::ALL.into_iter().find(|p| p.name() == name.trim()).ok_or_else(|| {
            let names = Projection::ALL.map(Projection::name).join(", ");
            wrong(format!("\"{name}\" is no projection (they are {names})"))
        })?;
        let sign = match sign.trim() {
            "-" => Sign::Lower,
            "0" => Sign::Keep,
            "+" => Sign::Raise,
            other => return Err(wrong(format!("\"{other}\" is none of -, 0, +"))),
        };
        if let Some(slot) = signs.get_mut(projection.index())
            && slot.replace(sign).is_some()
        {
            return Err(wrong(format!("{projection} is given twice")));
        }
    }
    Ok(signs.map(|sign| sign.unwrap_or(Sign::Keep)))
}
