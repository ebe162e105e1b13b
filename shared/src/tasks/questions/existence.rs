//! Is there such an object? Built as POPE builds it (Li et al. 2023, "Evaluating Object Hallucination in Large
//! Vision-Language Models"): as many yes as no, and three ways to choose what is absent.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::super::attributes::Size;
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

/// What existence questions name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExistenceWords {
    /// Colour and shape.
    ColorAndShape,
    /// The size as well; then an adversarial negative differs from what is there in size alone.
    SizeColorAndShape,
}

/// What a set's existence questions have in common.
pub(in crate::tasks) struct Existence<'a> {
    pub config: &'a SceneConfig,
    pub frequencies: &'a Frequencies,
    pub words: ExistenceWords,
}

/// One question with answer yes and one with answer no; `None` where nothing is absent.
pub(in crate::tasks) fn pair(
    about: &Existence<'_>,
    scene: &Scene,
    setting: Setting,
    asked: &[Combination],
    rng: &mut ChaCha8Rng,
) -> Option<Vec<(Combination, Question)>> {
    // What was asked of this picture before comes again only where nothing else is left.
    let draw = |all: Vec<Combination>, rng: &mut ChaCha8Rng| {
        let fresh: Vec<Combination> = all.iter().filter(|c| !asked.contains(c)).copied().collect();
        draw_different(rng, if fresh.is_empty() { all } else { fresh }, 1).pop()
    };
    let positive = draw(present(scene), rng)?;
    let negative = draw(negatives(about.config, scene, about.frequencies, setting), rng)?;
    let (positive, negative) = match about.words {
        ExistenceWords::ColorAndShape => ((positive, None), (negative, None)),
        ExistenceWords::SizeColorAndShape => {
            let size = draw_different(rng, sizes(scene, positive, true), 1).pop();
            let other_size = present(scene).into_iter().flat_map(|combination| {
                sizes(scene, combination, false).into_iter().map(move |size| (combination, Some(size)))
            });
            let resized = match setting {
                Setting::Adversarial => draw_different(rng, other_size.collect(), 1).pop(),
                Setting::Random | Setting::Popular => None,
            };
            let any_size = draw_different(rng, Size::ALL.to_vec(), 1).pop();
            ((positive, size), resized.unwrap_or((negative, any_size)))
        }
    };
    let mut questions = vec![ask(positive, true, setting), ask(negative, false, setting)];
    if between(rng, 0, 1) == 1 {
        questions.reverse();
    }
    Some(questions)
}

/// Sizes in which a scene shows a combination, or those in which it does not.
fn sizes(scene: &Scene, combination: Combination, shown: bool) -> Vec<Size> {
    let shows = |size: &Size| scene.objects.iter().any(|o| o.combination() == combination && o.size == *size);
    Size::ALL.into_iter().filter(|size| shows(size) == shown).collect()
}

fn ask((combination, size): (Combination, Option<Size>), truth: bool, setting: Setting) -> (Combination, Question) {
    let (color, shape) = (combination.color.word(), combination.shape.word());
    let object = match size {
        Some(size) => format!("{} {color} {shape}", size.word()),
        None => format!("{color} {shape}"),
    };
    let question = Question {
        group: Some(Group::Setting(setting)),
        question: format!("Is there {} {object} in the image?", article(&object)),
        answer: yes_no(truth).to_owned(),
        target_box: None,
    };
    (combination, question)
}
