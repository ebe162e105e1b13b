//! Questions with an answer of one word, in the manner of GQA's query questions (Hudson and Manning 2019).

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;

use super::super::describe::{Description, number_word, unique_descriptions};
use super::super::scene::{Scene, SceneObject, between};
use super::{Question, Topic, draw_different};

/// Draws up to `wanted` different questions: a topic first, then a question on it, so that a topic with many possible
/// questions is not asked more often.
pub(in crate::tasks) fn draw(scene: &Scene, topics: &[Topic], wanted: usize, rng: &mut ChaCha8Rng) -> Vec<Question> {
    let mut by_topic: Vec<Vec<Question>> =
        topics.iter().map(|topic| all(scene, *topic)).filter(|questions| !questions.is_empty()).collect();
    let mut drawn = Vec::with_capacity(wanted);
    while drawn.len() < wanted && !by_topic.is_empty() {
        // A topic comes again only when all others were asked.
        let mut round: Vec<usize> = draw_different(rng, (0..by_topic.len()).collect(), wanted - drawn.len());
        round.sort_unstable();
        for index in round {
            if let Some(questions) = by_topic.get_mut(index).filter(|questions| !questions.is_empty()) {
                let last = u32::try_from(questions.len() - 1).unwrap_or(u32::MAX);
                drawn.push(questions.swap_remove(between(rng, 0, last) as usize));
            }
        }
        by_topic.retain(|questions| !questions.is_empty());
    }
    drawn
}

/// All questions on a topic.
fn all(scene: &Scene, topic: Topic) -> Vec<Question> {
    match topic {
        Topic::Count => counts(scene),
        Topic::Position => about(scene, topic, |_| true, |d| format!("Where is the {d}?"), |o| o.cell.name()),
        Topic::Color => {
            about(scene, topic, |d| d.color.is_none(), |d| format!("What color is the {d}?"), |o| o.color.word())
        }
        Topic::Size => {
            about(scene, topic, |d| d.size.is_none(), |d| format!("What size is the {d}?"), |o| o.size.word())
        }
        Topic::Shape => {
            about(scene, topic, |d| d.shape.is_none(), |d| format!("What shape is the {d}?"), |o| o.shape.word())
        }
    }
}

fn about(
    scene: &Scene,
    topic: Topic,
    accept: impl Fn(&Description) -> bool,
    ask: impl Fn(&str) -> String,
    answer: impl Fn(&SceneObject) -> &'static str,
) -> Vec<Question> {
    let mut questions = Vec::new();
    for object in &scene.objects {
        for description in unique_descriptions(scene, object).iter().filter(|d| accept(d)) {
            questions.push(Question::about(topic, ask(&description.text()), answer(object)));
        }
        // With one object alone, "the object" is clear too.
        if scene.objects.len() == 1 {
            questions.push(Question::about(topic, ask("object"), answer(object)));
        }
    }
    questions
}

fn counts(scene: &Scene) -> Vec<Question> {
    let count = |keep: &dyn Fn(&SceneObject) -> bool| number_word(scene.objects.iter().filter(|o| keep(o)).count());
    let ask =
        |things: &str, answer: String| Question::about(Topic::Count, format!("How many {things} are there?"), answer);
    let mut questions = vec![ask("objects", count(&|_| true))];
    let shapes: BTreeSet<_> = scene.objects.iter().map(|object| object.shape).collect();
    let colors: BTreeSet<_> = scene.objects.iter().map(|object| object.color).collect();
    questions.extend(shapes.into_iter().map(|shape| ask(shape.plural(), count(&|o| o.shape == shape))));
    questions.extend(
        colors.into_iter().map(|color| ask(&format!("{} objects", color.word()), count(&|o| o.color == color))),
    );
    questions
}
