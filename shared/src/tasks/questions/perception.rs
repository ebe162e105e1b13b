//! Two yes/no questions about one fact, one true and one false, built as MME builds them (Fu et al. 2023, "MME: A
//! Comprehensive Evaluation Benchmark for Multimodal Large Language Models").

use rand_chacha::ChaCha8Rng;

use super::super::attributes::{Shape, Size};
use super::super::describe::{CLEAR_DISTANCE, Description, false_cells, number_word, unique_descriptions};
use super::super::scene::{Scene, SceneConfig, SceneObject, between, pick};
use super::{Question, Topic, yes_no};

/// A pair on `topic`, in random order; `None` where the scene allows none.
pub(in crate::tasks) fn pair(
    config: &SceneConfig,
    scene: &Scene,
    topic: Topic,
    rng: &mut ChaCha8Rng,
) -> Option<[Question; 2]> {
    let (yes, no) = match topic {
        Topic::Count => count(config, scene, rng),
        Topic::Position => position(scene, rng),
        Topic::Color => color(config, scene, rng),
        Topic::Size => size(scene, rng),
        Topic::Shape => None,
    }?;
    let mut pair = [Question::about(topic, yes, yes_no(true)), Question::about(topic, no, yes_no(false))];
    if between(rng, 0, 1) == 1 {
        pair.reverse();
    }
    Some(pair)
}

/// An object and a description that means it alone and that `accept` takes.
pub(super) fn referent<'a>(
    scene: &'a Scene,
    rng: &mut ChaCha8Rng,
    accept: impl Fn(&Description) -> bool,
) -> Option<(&'a SceneObject, Description)> {
    let candidates: Vec<(&SceneObject, Vec<Description>)> = scene
        .objects
        .iter()
        .map(|object| {
            let descriptions = unique_descriptions(scene, object).into_iter().filter(|d| accept(d)).collect::<Vec<_>>();
            (object, descriptions)
        })
        .filter(|(_, descriptions)| !descriptions.is_empty())
        .collect();
    let (object, descriptions) = pick(rng, &candidates)?;
    Some((object, *pick(rng, descriptions)?))
}

fn count(config: &SceneConfig, scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    let shape = if between(rng, 0, 1) == 0 { None } else { shape_to_count(scene, rng) };
    let truth = scene.objects.iter().filter(|object| shape.is_none_or(|shape| object.shape == shape)).count();
    let most = (config.max_objects as usize).max(2);
    let wrong: Vec<usize> = match shape {
        // The number of objects is uniform: any wrong one leaves each number as often right as wrong.
        None => (1..=most).filter(|number| *number != truth).collect(),
        // Small counts of a shape are the frequent ones, so "one less" is offered twice.
        Some(_) => [truth.saturating_sub(1), truth.saturating_sub(1), truth + 1]
            .into_iter()
            .filter(|number| (1..=most).contains(number))
            .collect(),
    };
    let wrong = *pick(rng, &wrong)?;
    let ask = |number: usize| {
        let noun = match (shape, number) {
            (None, 1) => "object",
            (None, _) => "objects",
            (Some(shape), 1) => shape.word(),
            (Some(shape), _) => Shape::plural(shape),
        };
        let verb = if number == 1 { "Is there exactly" } else { "Are there exactly" };
        format!("{verb} {} {noun} in the image?", number_word(number))
    };
    Some((ask(truth), ask(wrong)))
}

/// A shape to count. Most occur once, so half of those are passed over: else "exactly one" would be right without looking.
fn shape_to_count(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Shape> {
    let shape = pick(rng, &scene.objects)?.shape;
    let several = scene.objects.iter().filter(|object| object.shape == shape).count() > 1;
    (several || between(rng, 0, 1) == 0).then_some(shape)
}

fn position(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    if between(rng, 0, 1) == 0 { relation(scene, rng).or_else(|| place(scene, rng)) } else { place(scene, rng) }
}

fn place(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    let (object, description) = referent(scene, rng, |_| true)?;
    let wrong = *pick(rng, &false_cells(object.cell))?;
    let ask = |phrase: &str| format!("Is the {} {phrase} of the image?", description.text());
    Some((ask(object.cell.phrase()), ask(wrong.phrase())))
}

fn relation(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    let (subject, said) = referent(scene, rng, |_| true)?;
    let others: Vec<(&SceneObject, Vec<Description>)> = scene
        .objects
        .iter()
        .filter(|other| *other != subject)
        .map(|other| (other, unique_descriptions(scene, other)))
        .filter(|(_, descriptions)| !descriptions.is_empty())
        .collect();
    let (object, descriptions) = pick(rng, &others)?;
    let of = pick(rng, descriptions)?;
    let ((x, y), (other_x, other_y)) = (subject.doubled_center(), object.doubled_center());
    let clear = 2 * CLEAR_DISTANCE;
    let mut words = Vec::new();
    if x.abs_diff(other_x) >= clear {
        let sides = ["to the left of", "to the right of"];
        words.push(if x < other_x { sides } else { [sides[1], sides[0]] });
    }
    if y.abs_diff(other_y) >= clear {
        let sides = ["above", "below"];
        words.push(if y < other_y { sides } else { [sides[1], sides[0]] });
    }
    let [right, wrong] = pick(rng, &words)?;
    let ask = |relation: &str| format!("Is the {} {relation} the {}?", said.text(), of.text());
    Some((ask(right), ask(wrong)))
}

fn color(config: &SceneConfig, scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    let (object, description) = referent(scene, rng, |d| d.color.is_none())?;
    // Half the wrong colours are another object's: the colour is there, but not on this one.
    let elsewhere: Vec<_> =
        scene.objects.iter().map(|other| other.color).filter(|color| *color != object.color).collect();
    let any: Vec<_> = config.colors().iter().copied().filter(|color| *color != object.color).collect();
    let wrong = if elsewhere.is_empty() || between(rng, 0, 1) == 0 { pick(rng, &any) } else { pick(rng, &elsewhere) }?;
    let ask = |color: &str| format!("Is the {} {color}?", description.text());
    Some((ask(object.color.word()), ask(wrong.word())))
}

fn size(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<(String, String)> {
    let (object, description) = referent(scene, rng, |d| d.size.is_none())?;
    let wrong = match object.size {
        Size::Small => Size::Big,
        Size::Big => Size::Small,
    };
    let ask = |size: Size| format!("Is the {} {}?", description.text(), size.word());
    Some((ask(object.size), ask(wrong)))
}
