//! Answers questions by reading their words and looking at the boxes, with nothing of the code that makes them: tests
//! hold every sample against it.

use super::boxes::LOCATION_BINS;
use super::questions::{Kind, Sample};
use super::scene::{Scene, SceneObject};
use super::{Group, Setting};
use crate::benchmarks::BoundingBox;

const LOCATIONS: [(&str, Option<usize>, Option<usize>); 9] = [
    ("at the top left", Some(0), Some(0)),
    ("at the top right", Some(0), Some(2)),
    ("at the bottom left", Some(2), Some(0)),
    ("at the bottom right", Some(2), Some(2)),
    ("in the center", Some(1), Some(1)),
    ("at the top", Some(0), None),
    ("at the bottom", Some(2), None),
    ("on the left", None, Some(0)),
    ("on the right", None, Some(2)),
];

fn center(object: &SceneObject) -> (f32, f32) {
    let BoundingBox { x1, y1, x2, y2 } = object.bounding_box();
    ((x1 + x2) / 2.0, (y1 + y2) / 2.0)
}

fn third(value: f32, side: u32) -> usize {
    (3.0 * value / side as f32) as usize
}

/// Whether every word of a plain phrase ("small red circle", "blue objects") holds of an object.
fn words_hold(object: &SceneObject, words: &str) -> bool {
    words.split(' ').all(|word| {
        let singular = match word {
            "crosses" => "cross",
            "cross" => word,
            _ => word.strip_suffix('s').unwrap_or(word),
        };
        singular == "object" || [object.size.word(), object.color.word(), object.shape.word()].contains(&singular)
    })
}

fn count(scene: &Scene, words: &str) -> usize {
    scene.objects.iter().filter(|object| words_hold(object, words)).count()
}

fn is_at(scene: &Scene, object: &SceneObject, location: &str) -> bool {
    let (_, row, column) = LOCATIONS.into_iter().find(|(text, _, _)| *text == location).expect(location);
    let (x, y) = center(object);
    row.is_none_or(|row| third(y, scene.height) == row) && column.is_none_or(|c| third(x, scene.width) == c)
}

/// The one object that a phrase means; panics where it means none or several.
fn referent<'a>(scene: &'a Scene, phrase: &str) -> &'a SceneObject {
    let location = LOCATIONS.iter().map(|(text, _, _)| *text).find(|text| phrase.ends_with(text));
    let plain = location.map_or(phrase, |text| phrase.strip_suffix(text).unwrap().trim_end());
    let (first, rest) = plain.split_once(' ').unwrap_or((plain, ""));
    type Key = fn(&SceneObject) -> f32;
    let superlative: Option<Key> = match first {
        "leftmost" => Some(|o| -center(o).0),
        "rightmost" => Some(|o| center(o).0),
        "topmost" => Some(|o| -center(o).1),
        "bottommost" => Some(|o| center(o).1),
        _ => None,
    };
    let words = if superlative.is_some() { rest } else { plain };
    let mut found: Vec<&SceneObject> = scene
        .objects
        .iter()
        .filter(|object| words_hold(object, words) && location.is_none_or(|text| is_at(scene, object, text)))
        .collect();
    if let Some(key) = superlative {
        found.sort_by(|a, b| key(b).total_cmp(&key(a)));
        assert!(found.len() >= 2 && key(found[0]) - key(found[1]) >= 4.0, "{phrase} is not clear");
        found.truncate(1);
    }
    assert_eq!(found.len(), 1, "{phrase} means {} objects of {scene:#?}", found.len());
    found[0]
}

fn number(word: &str) -> usize {
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        .iter()
        .position(|w| *w == word)
        .expect(word)
}

/// The right answer to a question of any kind but captions.
pub fn answer(scene: &Scene, question: &str) -> String {
    let yes_no = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    let inner = |start: &str, end: &str| question.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    if let Some(things) = inner("Is there exactly one ", " in the image?") {
        return yes_no(count(scene, things) == 1);
    }
    if let Some(rest) = inner("Are there exactly ", " in the image?") {
        let (word, things) = rest.split_once(' ').unwrap();
        return yes_no(count(scene, things) == number(word));
    }
    if let Some(thing) = inner("Is there a ", " in the image?").or_else(|| inner("Is there an ", " in the image?")) {
        return yes_no(count(scene, thing) > 0);
    }
    if let Some(rest) = inner("Is the ", " of the image?") {
        let (location, _, _) = LOCATIONS.into_iter().find(|(text, _, _)| rest.ends_with(text)).unwrap();
        return yes_no(is_at(scene, referent(scene, rest.strip_suffix(location).unwrap().trim_end()), location));
    }
    if let Some(rest) = inner("Is the ", "?") {
        for (relation, holds) in [
            (" to the left of the ", (|a, b| a.0 + 4.0 <= b.0) as fn((f32, f32), (f32, f32)) -> bool),
            (" to the right of the ", |a, b| a.0 >= b.0 + 4.0),
            (" above the ", |a, b| a.1 + 4.0 <= b.1),
            (" below the ", |a, b| a.1 >= b.1 + 4.0),
        ] {
            if let Some((subject, object)) = rest.split_once(relation) {
                return yes_no(holds(center(referent(scene, subject)), center(referent(scene, object))));
            }
        }
        let (phrase, attribute) = rest.rsplit_once(' ').unwrap();
        return yes_no(words_hold(referent(scene, phrase), attribute));
    }
    if let Some(things) = inner("How many ", " are there?") {
        let words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
        return words[count(scene, things)].to_owned();
    }
    if let Some(phrase) = inner("Where is the ", "?") {
        let (x, y) = center(referent(scene, phrase));
        let rows =
            [["top left", "top", "top right"], ["left", "center", "right"], ["bottom left", "bottom", "bottom right"]];
        return rows[third(y, scene.height)][third(x, scene.width)].to_owned();
    }
    if let Some(phrase) = inner("What color is the ", "?") {
        return referent(scene, phrase).color.word().to_owned();
    }
    if let Some(phrase) = inner("What size is the ", "?") {
        return referent(scene, phrase).size.word().to_owned();
    }
    if let Some(phrase) = inner("What shape is the ", "?") {
        return referent(scene, phrase).shape.word().to_owned();
    }
    if let Some(phrase) = inner("Locate the ", ".") {
        return referent(scene, phrase).bounding_box().to_location_tokens(scene.width, scene.height);
    }
    panic!("unknown question: {question}")
}

/// Checks one sample against its scene; panics where anything is untrue or unclear.
pub fn check(scene: &Scene, sample: &Sample) {
    match sample.kind {
        Kind::Caption | Kind::BoxedCaption => check_caption(scene, sample),
        _ => assert_eq!(sample.answer, answer(scene, &sample.question), "{} of {scene:#?}", sample.question),
    }
    match sample.kind {
        Kind::Existence => assert!(matches!(sample.group, Some(Group::Setting(_)))),
        Kind::Perception => assert!(matches!(sample.group, Some(Group::Topic(_))) && sample.pair.is_some()),
        Kind::Open => assert!(matches!(sample.group, Some(Group::Topic(_)))),
        Kind::Referring | Kind::ReferringPlus => {
            let phrase = sample.question.strip_prefix("Locate the ").unwrap().strip_suffix('.').unwrap();
            assert_eq!(sample.target_box, Some(referent(scene, phrase).bounding_box()));
        }
        Kind::Caption | Kind::BoxedCaption => {}
    }
    if sample.kind == Kind::ReferringPlus {
        for word in ["at the", "on the", "in the", "most "] {
            assert!(!sample.question.contains(word), "location word in {}", sample.question);
        }
    }
    if sample.group == Some(Group::Setting(Setting::Adversarial)) && sample.answer == "no" {
        let mut words = sample.question.strip_suffix(" in the image?").unwrap().rsplit(' ');
        let (shape, color) = (words.next().unwrap(), words.next().unwrap());
        assert!(scene.objects.iter().any(|o| o.shape.word() == shape || o.color.word() == color));
    }
}

/// What location tokens keep of an object's box: each edge moves by at most half a bin, and where a bin is two pixels only
/// outwards.
fn least_iou(scene: &Scene, object: &SceneObject) -> f32 {
    let bounds = object.bounding_box();
    let axis = |side: f32, picture: u32| {
        let bin = picture as f32 / LOCATION_BINS as f32;
        if bin == 2.0 { side / (side + bin) } else { (side - bin) / side }
    };
    axis(bounds.x2 - bounds.x1, scene.width) * axis(bounds.y2 - bounds.y1, scene.height)
}

fn check_caption(scene: &Scene, sample: &Sample) {
    let parts: Vec<&str> = sample.answer.split(", ").collect();
    assert_eq!(parts.len(), scene.objects.len());
    let mut last_row = 0;
    for (part, object) in parts.iter().zip(&scene.objects) {
        let words = if sample.kind == Kind::Caption {
            let (article, phrase) = part.split_once(' ').unwrap();
            assert_eq!(article == "an", phrase.starts_with(['a', 'e', 'i', 'o', 'u']), "{part}");
            let location = LOCATIONS.into_iter().find(|(text, _, _)| phrase.ends_with(text)).unwrap().0;
            assert!(is_at(scene, object, location), "{part}");
            phrase.strip_suffix(location).unwrap().trim_end()
        } else {
            let (phrase, tokens) = part.rsplit_once(' ').unwrap();
            let read = BoundingBox::from_location_tokens(tokens, scene.width, scene.height).unwrap();
            assert!(read.iou(&object.bounding_box()) >= least_iou(scene, object) - 1e-4, "{part} in {scene:?}");
            phrase
        };
        assert!(words_hold(object, words) && words.split(' ').count() == 3, "{part}");
        let row = third(center(object).1, scene.height);
        assert!(row >= last_row, "not in reading order: {}", sample.answer);
        last_row = row;
    }
}
