//! Noun phrases for objects, and which of them mean one object only.

use super::attributes::{Cell, Color, Shape, Size};
use super::scene::{Scene, SceneObject};

/// Attributes that are said of an object: "small red circle", "big object", "triangle".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Description {
    pub size: Option<Size>,
    pub color: Option<Color>,
    pub shape: Option<Shape>,
}

impl Description {
    /// All that can be said of an object, fewest attributes first; the first one is the bare "object".
    pub fn all_of(object: &SceneObject) -> Vec<Description> {
        let mut all: Vec<Description> = (0..8_u8)
            .map(|bits| Description {
                size: (bits & 1 != 0).then_some(object.size),
                color: (bits & 2 != 0).then_some(object.color),
                shape: (bits & 4 != 0).then_some(object.shape),
            })
            .collect();
        all.sort_by_key(|description| description.attributes());
        all
    }

    /// How many attributes are said.
    pub fn attributes(&self) -> usize {
        usize::from(self.size.is_some()) + usize::from(self.color.is_some()) + usize::from(self.shape.is_some())
    }

    pub fn matches(&self, object: &SceneObject) -> bool {
        self.size.is_none_or(|size| size == object.size)
            && self.color.is_none_or(|color| color == object.color)
            && self.shape.is_none_or(|shape| shape == object.shape)
    }

    pub fn is_unique(&self, scene: &Scene) -> bool {
        scene.objects.iter().filter(|object| self.matches(object)).count() == 1
    }

    /// The phrase without an article.
    pub fn text(&self) -> String {
        let words = [self.size.map(Size::word), self.color.map(Color::word)];
        let noun = self.shape.map_or("object", Shape::word);
        words.into_iter().flatten().chain([noun]).collect::<Vec<_>>().join(" ")
    }
}

/// Descriptions that mean `object` alone, fewest attributes first, without the bare "object".
pub(super) fn unique_descriptions(scene: &Scene, object: &SceneObject) -> Vec<Description> {
    Description::all_of(object)
        .into_iter()
        .filter(|description| description.attributes() > 0 && description.is_unique(scene))
        .collect()
}

/// A superlative of position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extreme {
    Leftmost,
    Rightmost,
    Topmost,
    Bottommost,
}

impl Extreme {
    pub const ALL: [Extreme; 4] = [Extreme::Leftmost, Extreme::Rightmost, Extreme::Topmost, Extreme::Bottommost];

    pub fn word(self) -> &'static str {
        match self {
            Extreme::Leftmost => "leftmost",
            Extreme::Rightmost => "rightmost",
            Extreme::Topmost => "topmost",
            Extreme::Bottommost => "bottommost",
        }
    }

    /// How far in this direction an object lies, in half pixels.
    fn reach(self, object: &SceneObject) -> i64 {
        let (x, y) = object.doubled_center();
        match self {
            Extreme::Leftmost => -i64::from(x),
            Extreme::Rightmost => i64::from(x),
            Extreme::Topmost => -i64::from(y),
            Extreme::Bottommost => i64::from(y),
        }
    }
}

/// Pixels between two centres from which on one is clearly further to a side than the other.
pub(super) const CLEAR_DISTANCE: u32 = 4;

/// A phrase with location words that means one object only.
pub(super) struct LocatedPhrase {
    pub text: String,
    /// Whether the same words without the location would mean several objects.
    pub location_needed: bool,
}

/// Phrases with location words that mean `object` alone: by cell, and by superlative where several match.
///
/// A cell's name counts for every object that it could loosely be said of (see [`Cell::name_covers`]).
pub(super) fn located_phrases(scene: &Scene, object: &SceneObject) -> Vec<LocatedPhrase> {
    let mut phrases = Vec::new();
    for description in Description::all_of(object) {
        let others: Vec<&SceneObject> =
            scene.objects.iter().filter(|other| *other != object && description.matches(other)).collect();
        if others.iter().all(|other| !object.cell.name_covers(other.cell)) {
            phrases.push(LocatedPhrase {
                text: format!("{} {}", description.text(), object.cell.phrase()),
                location_needed: !others.is_empty(),
            });
        }
        if others.is_empty() {
            continue;
        }
        for extreme in Extreme::ALL {
            let lead = 2 * i64::from(CLEAR_DISTANCE);
            if others.iter().all(|other| extreme.reach(object) >= extreme.reach(other) + lead) {
                phrases.push(LocatedPhrase {
                    text: format!("{} {}", extreme.word(), description.text()),
                    location_needed: true,
                });
            }
        }
    }
    phrases
}

/// Cells whose names are plainly false of an object in `cell`.
pub(super) fn false_cells(cell: Cell) -> Vec<Cell> {
    Cell::ALL.into_iter().filter(|name| !name.name_covers(cell)).collect()
}

/// "a" or "an".
pub(super) fn article(phrase: &str) -> &'static str {
    if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A small number as a word; digits from ten on.
pub(super) fn number_word(number: usize) -> String {
    const WORDS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    WORDS.get(number).map_or_else(|| number.to_string(), |word| (*word).to_owned())
}
