//! Sets of pictures with questions.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::config::{TaskConfig, TaskError};
use super::questions::{Kind, Question, Sample, caption, existence, open, perception, referring};
use super::render::Picture;
use super::scene::{Combination, Scene};
use super::split::Split;

/// Pictures, as the scenes they show, and the questions about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSet {
    /// Which part of all pictures these are from.
    pub split: Split,
    /// One scene per picture: [`Scene::render`] paints it when it is needed (a picture is 12 kB, a scene far less).
    pub scenes: Vec<Scene>,
    /// The questions, picture by picture, in the order of [`Kind`].
    pub samples: Vec<Sample>,
}

impl TaskSet {
    /// Paints one picture; `None` where there is no such index.
    pub fn picture(&self, index: usize) -> Option<Picture> {
        self.scenes.get(index).map(Scene::render)
    }

    /// Paints all pictures.
    pub fn pictures(&self) -> Vec<Picture> {
        self.scenes.iter().map(Scene::render).collect()
    }
}

/// Scenes drawn for one picture before giving up.
const ATTEMPTS: usize = 2000;

/// Generates `pictures` pictures of a split with their questions.
///
/// The same arguments give the same set on every machine. A picture does not depend on how many there are; only the
/// negatives of popular existence questions do, since they count the whole set.
///
/// # Errors
/// A configuration that cannot be met.
pub fn generate(config: &TaskConfig, split: Split, seed: u64, pictures: usize) -> Result<TaskSet, TaskError> {
    config.validate()?;
    let mut scenes = Vec::with_capacity(pictures);
    let mut asked = Vec::with_capacity(pictures);
    for index in 0..pictures {
        let (scene, questions) = draw_picture(config, split, seed, index)?;
        scenes.push(scene);
        asked.push(questions);
    }
    let frequencies = existence::Frequencies::count(&config.scene, &scenes);
    let mut samples = Vec::new();
    let mut pairs = 0;
    for (index, (scene, other)) in scenes.iter().zip(asked).enumerate() {
        let questions = ask_existence(config, scene, &frequencies, split, seed, index)?;
        let mut push = |kind, question: Question, pair| {
            let Question { group, question, answer, target_box } = question;
            samples.push(Sample { picture: index, kind, group, pair, question, answer, target_box });
        };
        questions.into_iter().for_each(|question| push(Kind::Existence, question, None));
        for pair in other.perception {
            pair.into_iter().for_each(|question| push(Kind::Perception, question, Some(pairs)));
            pairs += 1;
        }
        other.single.into_iter().for_each(|(kind, question)| push(kind, question, None));
    }
    Ok(TaskSet { split, scenes, samples })
}

/// Captions and the restricted questions that the base model is pretrained on, from pictures that no other split has:
/// [`generate`] with [`Split::Pretraining`]. [`TaskConfig::pretraining`] is the configuration to start from.
///
/// # Errors
/// A configuration that cannot be met.
pub fn pretraining_samples(config: &TaskConfig, seed: u64, pictures: usize) -> Result<TaskSet, TaskError> {
    generate(config, Split::Pretraining, seed, pictures)
}

/// A generator of its own for each picture and purpose, so that pictures do not depend on each other.
fn generator(seed: u64, split: Split, index: usize, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((index as u64) << 8 | (split as u64) << 4 | purpose);
    rng
}

/// Questions about one picture that need no other picture.
struct OwnQuestions {
    perception: Vec<[Question; 2]>,
    single: Vec<(Kind, Question)>,
}

fn draw_picture(
    config: &TaskConfig,
    split: Split,
    seed: u64,
    index: usize,
) -> Result<(Scene, OwnQuestions), TaskError> {
    let mut rng = generator(seed, split, index, 0);
    for _ in 0..ATTEMPTS {
        let scene = Scene::draw(&config.scene, &mut rng)?;
        if Split::of(&scene) != split {
            continue;
        }
        if let Some(questions) = ask(config, &scene, index, &mut rng) {
            return Ok((scene, questions));
        }
    }
    Err(TaskError::NoPicture { split, attempts: ATTEMPTS })
}

/// All questions but those on existence; `None` where the scene does not allow as many as are wanted.
fn ask(config: &TaskConfig, scene: &Scene, index: usize, rng: &mut ChaCha8Rng) -> Option<OwnQuestions> {
    let per_picture = &config.samples_per_picture;
    let mut perception = Vec::new();
    for number in 0..per_picture.perception / 2 {
        let turn = index * (per_picture.perception / 2) + number;
        let pair = in_turn(&config.perception_topics, turn)
            .find_map(|topic| perception::pair(&config.scene, scene, *topic, rng))?;
        let asked =
            |question: &Question| perception.iter().flatten().any(|q: &Question| q.question == question.question);
        if pair.iter().any(asked) {
            return None;
        }
        perception.push(pair);
    }
    let mut single = Vec::new();
    let mut add = |kind, questions: Vec<Question>, wanted| {
        let enough = questions.len() == wanted;
        single.extend(questions.into_iter().map(|question| (kind, question)));
        enough.then_some(())
    };
    let wanted = per_picture.open;
    add(Kind::Open, open::draw(scene, &config.open_topics, wanted, rng), wanted)?;
    let wanted = per_picture.referring;
    add(Kind::Referring, referring::draw(scene, wanted, rng), wanted)?;
    let wanted = per_picture.referring_plus;
    add(Kind::ReferringPlus, referring::draw_plus(scene, wanted, rng), wanted)?;
    let wanted = per_picture.caption;
    add(Kind::Caption, (0..wanted).map(|_| caption::caption(scene)).collect(), wanted)?;
    let wanted = per_picture.boxed_caption;
    add(Kind::BoxedCaption, (0..wanted).map(|_| caption::boxed_caption(scene)).collect(), wanted)?;
    Some(OwnQuestions { perception, single })
}

fn ask_existence(
    config: &TaskConfig,
    scene: &Scene,
    frequencies: &existence::Frequencies,
    split: Split,
    seed: u64,
    index: usize,
) -> Result<Vec<Question>, TaskError> {
    let mut rng = generator(seed, split, index, 1);
    let pairs = config.samples_per_picture.existence / 2;
    let about = existence::Existence { config: &config.scene, frequencies, words: config.existence_words };
    let mut asked: Vec<Combination> = Vec::new();
    let mut questions = Vec::with_capacity(2 * pairs);
    for number in 0..pairs {
        let pair = in_turn(&config.existence_settings, index * pairs + number)
            .find_map(|setting| existence::pair(&about, scene, *setting, &asked, &mut rng))
            .ok_or(TaskError::NoPicture { split, attempts: 1 })?;
        for (combination, question) in pair {
            asked.push(combination);
            questions.push(question);
        }
    }
    Ok(questions)
}

/// All items, starting with the one whose turn it is.
fn in_turn<T>(items: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let start = turn.checked_rem(items.len()).unwrap_or(0);
    items.iter().cycle().skip(start).take(items.len())
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
