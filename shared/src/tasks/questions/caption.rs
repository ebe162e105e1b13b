//! Descriptions of all objects in reading order, for pretraining.

use super::super::describe::{Description, article};
use super::super::scene::{Scene, SceneObject};
use super::Question;

/// "a small red circle at the top left, a big blue square in the center".
pub(in crate::tasks) fn caption(scene: &Scene) -> Question {
    let objects: Vec<String> = scene
        .objects
        .iter()
        .map(|object| {
            let phrase = full_description(object);
            format!("{} {phrase} {}", article(&phrase), object.cell.phrase())
        })
        .collect();
    question("Describe the image.", &objects)
}

/// `small red circle <loc02><loc03><loc06><loc07>, …`.
pub(in crate::tasks) fn boxed_caption(scene: &Scene) -> Question {
    let objects: Vec<String> = scene
        .objects
        .iter()
        .map(|object| {
            let tokens = object.bounding_box().to_location_tokens(scene.width, scene.height);
            format!("{} {tokens}", full_description(object))
        })
        .collect();
    question("List the objects with their boxes.", &objects)
}

fn full_description(object: &SceneObject) -> String {
    Description { size: Some(object.size), color: Some(object.color), shape: Some(object.shape) }.text()
}

fn question(prompt: &str, objects: &[String]) -> Question {
    Question { group: None, question: prompt.to_owned(), answer: objects.join(", "), target_box: None }
}
