//! Phrases to be answered by a box: with location words as in RefCOCO, without them as in RefCOCO+ (Yu et al. 2016,
//! "Modeling Context in Referring Expressions").

use rand_chacha::ChaCha8Rng;

use super::super::describe::{located_phrases, unique_descriptions};
use super::super::scene::{Scene, SceneObject, between};
use super::{Question, draw_different};

/// Chance in percent that a phrase with location words needs them, where the scene has such a phrase.
const LOCATION_NEEDED_PERCENT: u32 = 75;

/// Up to `wanted` different phrases with location words allowed.
pub(in crate::tasks) fn draw(scene: &Scene, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<Question> {
    draw_by_object(scene, wanted, rng, |object, rng| {
        let (needed, other): (Vec<_>, Vec<_>) =
            located_phrases(scene, object).into_iter().partition(|phrase| phrase.location_needed);
        let take_needed = other.is_empty() || between(rng, 1, 100) <= LOCATION_NEEDED_PERCENT;
        let chosen = if take_needed && !needed.is_empty() { needed } else { other };
        chosen.into_iter().map(|phrase| phrase.text).collect()
    })
}

/// Up to `wanted` different phrases without location words.
pub(in crate::tasks) fn draw_plus(scene: &Scene, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<Question> {
    draw_by_object(scene, wanted, rng, |object, _| {
        unique_descriptions(scene, object).iter().map(|description| description.text()).collect()
    })
}

/// Asks for different objects first, then for the same ones again in other words.
fn draw_by_object(
    scene: &Scene,
    wanted: usize,
    rng: &mut ChaCha8Rng,
    mut phrases: impl FnMut(&SceneObject, &mut ChaCha8Rng) -> Vec<String>,
) -> Vec<Question> {
    let mut left: Vec<(&SceneObject, Vec<String>)> =
        scene.objects.iter().map(|object| (object, phrases(object, rng))).collect();
    let mut drawn = Vec::with_capacity(wanted);
    while drawn.len() < wanted && left.iter().any(|(_, phrases)| !phrases.is_empty()) {
        for index in draw_different(rng, (0..left.len()).collect(), left.len()) {
            let Some((object, phrases)) = left.get_mut(index).filter(|(_, phrases)| !phrases.is_empty()) else {
                continue;
            };
            let last = u32::try_from(phrases.len() - 1).unwrap_or(u32::MAX);
            let phrase = phrases.swap_remove(between(rng, 0, last) as usize);
            if drawn.len() < wanted {
                drawn.push(locate(scene, object, &phrase));
            }
        }
    }
    drawn
}

fn locate(scene: &Scene, object: &SceneObject, phrase: &str) -> Question {
    let target = object.bounding_box();
    Question {
        group: None,
        question: format!("Locate the {phrase}."),
        answer: target.to_location_tokens(scene.width, scene.height),
        target_box: Some(target),
    }
}
