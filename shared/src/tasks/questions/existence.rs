//! Is there such an object? Built as POPE builds it (Li et al. 2023, "Evaluating Object Hallucination in Large
//! Vision-Language Models"): as many yes as no, and three ways to choose what is absent.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::super::describe::article;
use super::super::scene::{Combination, Scene, SceneConfig, between};
use super::{Group, Question, Setting, draw_different, yes_no};

/// How many pictures of a set show each combination.
pub(in crate::tasks) struct Frequencies {
    /// Most frequent first; ties in the order of [`Combination`].
    ranked: Vec<Combination>,
}

impl Frequencies {
    pub fn count(config: &SceneConfig, scenes: &[Scene]) -> Frequencies {
        let mut counts: BTreeMap<Combination, usize> =
            Combination::all(config).into_iter().map(|combination| (combination, 0)).collect();
        for scene in scenes {
            for combination in present(scene) {
                *counts.entry(combination).or_default() += 1;
            }
        }
        let mut ranked: Vec<(Combination, usize)> = counts.into_iter().collect();
        ranked.sort_by_key(|(combination, count)| (std::cmp::Reverse(*count), *combination));
        Frequencies { ranked: ranked.into_iter().map(|(combination, _)| combination).collect() }
    }

    /// The most frequent third.
    pub fn popular(&self) -> &[Combination] {
        self.ranked.get(..self.ranked.len().div_ceil(3)).unwrap_or_default()
    }
}

/// Different combinations that a scene shows, in order.
fn present(scene: &Scene) -> Vec<Combination> {
    let mut present: Vec<Combination> = scene.objects.iter().map(|object| object.combination()).collect();
    present.sort();
    present.dedup();
    present
}

/// Absent combinations that a setting may ask for. Falls back to any absent one where the setting has none, as a
/// picture that shows every popular combination.
fn negatives(config: &SceneConfig, scene: &Scene, frequencies: &Frequencies, setting: Setting) -> Vec<Combination> {
    let present = present(scene);
    let absent: Vec<Combination> = Combination::all(config).into_iter().filter(|c| !present.contains(c)).collect();
    let color = |c: &Combination| present.iter().any(|p| p.color == c.color);
    let shape = |c: &Combination| present.iter().any(|p| p.shape == c.shape);
    let chosen = |keep: &dyn Fn(&Combination) -> bool| -> Vec<Combination> {
        absent.iter().filter(|c| keep(c)).copied().collect()
    };
    let levels = match setting {
        Setting::Random => vec![],
        Setting::Popular => vec![chosen(&|c| frequencies.popular().contains(c))],
        Setting::Adversarial => vec![chosen(&|c| color(c) && shape(c)), chosen(&|c| color(c) || shape(c))],
    };
    levels.into_iter().find(|level| !level.is_empty()).unwrap_or(absent)
}

/// One question with answer yes and one with answer no; `None` where the scene shows every combination.
pub(in crate::tasks) fn pair(
    config: &SceneConfig,
    scene: &Scene,
    frequencies: &Frequencies,
    setting: Setting,
    asked: &[Combination],
    rng: &mut ChaCha8Rng,
) -> Option<Vec<(Combination, Question)>> {
    // What was asked of this picture before comes again only where nothing else is left.
    let mut draw = |all: Vec<Combination>| {
        let fresh: Vec<Combination> = all.iter().filter(|c| !asked.contains(c)).copied().collect();
        draw_different(rng, if fresh.is_empty() { all } else { fresh }, 1).pop()
    };
    let positive = draw(present(scene))?;
    let negative = draw(negatives(config, scene, frequencies, setting))?;
    let mut questions = vec![ask(positive, true, setting), ask(negative, false, setting)];
    if between(rng, 0, 1) == 1 {
        questions.reverse();
    }
    Some(questions)
}

fn ask(combination: Combination, truth: bool, setting: Setting) -> (Combination, Question) {
    let (color, shape) = (combination.color.word(), combination.shape.word());
    let question = Question {
        group: Some(Group::Setting(setting)),
        question: format!("Is there {} {color} {shape} in the image?", article(color)),
        answer: yes_no(truth).to_owned(),
        target_box: None,
    };
    (combination, question)
}
