//! Questions about one scene, one file per kind.
//!
//! Every function lists *all* that it could ask, or draws from such a list; an ambiguous question is never on it. The
//! wording follows the benchmarks, so it is American: "color", "center".

use serde::{Deserialize, Serialize};

use crate::benchmarks::BoundingBox;

pub(super) mod caption;
pub(super) mod existence;
pub(super) mod open;
pub(super) mod perception;
pub(super) mod referring;

pub use existence::ExistenceWords;

/// What a sample asks for, and so how it is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Yes or no: is there such an object? In POPE's manner.
    Existence,
    /// Two yes/no questions about one fact. In MME's manner.
    Perception,
    /// A question with an answer of one word (two for corners). In GQA's manner.
    Open,
    /// A phrase, location words allowed, to be answered by a box. In RefCOCO's manner.
    Referring,
    /// A phrase without location words, to be answered by a box. In RefCOCO+'s manner.
    ReferringPlus,
    /// Describe the picture. Not scored: for pretraining.
    Caption,
    /// List the objects with their boxes. Not scored: for pretraining.
    BoxedCaption,
}

impl Kind {
    /// The five kinds that are scored.
    pub const SCORED: [Kind; 5] = [Kind::Existence, Kind::Perception, Kind::Open, Kind::Referring, Kind::ReferringPlus];

    /// The name in configurations, files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Existence => "existence",
            Kind::Perception => "perception",
            Kind::Open => "open",
            Kind::Referring => "referring",
            Kind::ReferringPlus => "referring-plus",
            Kind::Caption => "caption",
            Kind::BoxedCaption => "boxed-caption",
        }
    }
}

/// How an existence question's negative was chosen (POPE's three settings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Any combination that is absent.
    Random,
    /// An absent one among the most frequent combinations of the set.
    Popular,
    /// An absent one that shares colour or shape with what is present; both, from different objects, where possible.
    Adversarial,
}

impl Setting {
    /// All settings.
    pub const ALL: [Setting; 3] = [Setting::Random, Setting::Popular, Setting::Adversarial];
}

/// What a perception or open question is about (MME's subtasks, GQA's question types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// How many.
    Count,
    /// In which cell, or on which side of another object.
    Position,
    /// Which colour.
    Color,
    /// Small or big.
    Size,
    /// Which shape; open questions only.
    Shape,
}

impl Topic {
    /// Topics of perception questions.
    pub const PERCEPTION: [Topic; 4] = [Topic::Count, Topic::Position, Topic::Color, Topic::Size];
    /// Topics of open questions.
    pub const OPEN: [Topic; 5] = [Topic::Count, Topic::Position, Topic::Color, Topic::Size, Topic::Shape];
}

/// The part of a kind that a sample is scored in, where its benchmark reports parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// An existence question's setting.
    Setting(Setting),
    /// A perception or open question's topic.
    Topic(Topic),
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Index of the picture in its set.
    pub picture: usize,
    /// What it asks for.
    pub kind: Kind,
    /// The setting or topic, where the kind has one.
    pub group: Option<Group>,
    /// Number of the pair in its set, the same for the two questions of a perception pair.
    pub pair: Option<usize>,
    /// The prompt: the question alone.
    pub question: String,
    /// The answer, lower-case words or location tokens.
    pub answer: String,
    /// The exact box that referring questions ask for, before it is cut into bins.
    pub target_box: Option<BoundingBox>,
}

/// A question before it is put into a set.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub group: Option<Group>,
    pub question: String,
    pub answer: String,
    pub target_box: Option<BoundingBox>,
}

impl Question {
    pub fn about(topic: Topic, question: String, answer: impl Into<String>) -> Question {
        Question { group: Some(Group::Topic(topic)), question, answer: answer.into(), target_box: None }
    }
}

/// Yes or no as the benchmarks write it.
pub(super) fn yes_no(truth: bool) -> &'static str {
    if truth { "yes" } else { "no" }
}

/// Draws `wanted` different items, or as many as there are, in random order.
pub(super) fn draw_different<T>(rng: &mut rand_chacha::ChaCha8Rng, mut items: Vec<T>, wanted: usize) -> Vec<T> {
    let mut drawn = Vec::with_capacity(wanted.min(items.len()));
    while drawn.len() < wanted && !items.is_empty() {
        let last = u32::try_from(items.len() - 1).unwrap_or(u32::MAX);
        drawn.push(items.swap_remove(super::scene::between(rng, 0, last) as usize));
    }
    drawn
}
