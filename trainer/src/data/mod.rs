//! Questions about pictures, wherever they come from.

mod easy_vqa;
mod generated;

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use hydra_shared::model_spec::VisionSpec;
use hydra_shared::tasks::{ExistenceWords, Sample, SceneConfig, TaskConfig, Topic};
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::tokenizer::Tokenizer;
use hydra_shared::vlm::{MobileVlm, patchify};
use indexmap::IndexMap;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::train_loop::Examples;

pub use easy_vqa::default_folder as easy_vqa_folder;

/// Pictures whose features are computed at a time.
const FEATURE_BATCH: usize = 128;

/// Which data, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Where it comes from.
    pub source: Source,
    /// Folder of the data set, where it is one; easy-VQA's default is where `scripts/easy-vqa` puts it.
    pub folder: Option<PathBuf>,
    /// Seed of the generated pictures, and of the validation part that is taken from easy-VQA's training pictures.
    pub seed: u64,
    /// Training pictures.
    pub train_pictures: usize,
    /// Validation pictures: what a search scores trials on.
    pub validation_pictures: usize,
    /// Test pictures: what is reported. 0 takes all that the data set has.
    pub test_pictures: usize,
    /// Questions about one picture that make one conversation in training, as in LLaVA's data; answers are always
    /// generated to one question alone.
    pub turns: usize,
    /// What the generated tasks look like.
    pub tasks: TaskConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: Source::Generated,
            folder: None,
            seed: 7,
            train_pictures: 1200,
            validation_pictures: 80,
            test_pictures: 200,
            turns: 5,
            tasks: fine_tuning_tasks(),
        }
    }
}

/// What is left to learn after pretraining and can be learned in a minute: existence questions that name the size, pairs of
/// perception questions on colour and number, and open questions on what pretraining left out. On the other questions the
/// base model is as good as any fine-tune, or (pairs on position and size) no fine-tune of a minute rises above chance, and
/// no schedule could show anything.
fn fine_tuning_tasks() -> TaskConfig {
    TaskConfig {
        scene: tiny_scene(),
        existence_words: ExistenceWords::SizeColorAndShape,
        perception_topics: vec![Topic::Color, Topic::Count],
        open_topics: vec![Topic::Count, Topic::Position, Topic::Size],
        ..TaskConfig::default()
    }
}

/// Scenes that a tiny vision tower can learn in an hour: at most three objects, none too small for its shape to show in
/// patches of eight pixels.
pub fn tiny_scene() -> SceneConfig {
    SceneConfig { max_objects: 3, small_side: [12, 14], big_side: [20, 24], ..SceneConfig::default() }
}

/// A source of pictures and questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Procedurally generated scenes with five kinds of questions.
    Generated,
    /// easy-VQA 1.0, with its own training and test split.
    EasyVqa,
}

/// A part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// For fine-tuning.
    Train,
    /// For scoring trials.
    Validation,
    /// For the report; no search sees it.
    Test,
}

impl Part {
    /// Its name in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Pictures, questions with their answers, and the rule that scores them.
pub struct QuestionSet {
    /// RGB bytes of square pictures of the vision tower's size.
    pub pictures: Vec<Vec<u8>>,
    /// The questions.
    pub questions: Vec<Question>,
    scoring: Scoring,
}

/// One question about one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Index of the picture.
    pub picture: usize,
    /// What is asked.
    pub text: String,
    /// The expected answer.
    pub answer: String,
}

enum Scoring {
    Generated { samples: Vec<Sample>, side: u32 },
    EasyVqa(easy_vqa::EasyVqaScoring),
}

/// Scores of one model on one question set, in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Headline score of each task.
    pub tasks: IndexMap<String, f64>,
    /// Their mean: what a search maximizes.
    pub mean: f64,
    /// Everything that the scoring rules report.
    pub details: serde_json::Value,
}

impl QuestionSet {
    /// Reads or generates one part of the data.
    ///
    /// # Errors
    /// Data that is missing or damaged, and a configuration that cannot be met.
    pub fn load(config: &DataConfig, part: Part, vision: &VisionSpec) -> Result<Self> {
        match config.source {
            Source::Generated => generated::load(config, part, vision),
            Source::EasyVqa => easy_vqa::load(config, part, vision),
        }
    }

    /// Names of the scored tasks, in the order of tables.
    pub fn tasks(&self) -> Vec<String> {
        match &self.scoring {
            Scoring::Generated { samples, .. } => generated::tasks(samples),
            Scoring::EasyVqa(_) => easy_vqa::TASKS.map(str::to_owned).to_vec(),
        }
    }

    /// Scores one answer per question.
    ///
    /// # Errors
    /// Another number of answers than questions.
    pub fn score(&self, answers: &[String]) -> Result<Scores> {
        match &self.scoring {
            Scoring::Generated { samples, side } => generated::score(samples, answers, *side),
            Scoring::EasyVqa(scoring) => scoring.score(answers),
        }
    }
}

/// A question set on the device: tokenized, its pictures' features computed once.
pub struct Prepared {
    /// The questions.
    pub set: QuestionSet,
    conversations: Vec<Encoded>,
    prompts: Vec<Encoded>,
    features: Option<Tensor<3>>,
}

impl Prepared {
    /// Tokenizes the questions, `turns` about one picture to a conversation, and runs the vision tower over the
    /// pictures.
    ///
    /// # Errors
    /// Text that cannot be tokenized.
    pub fn new(set: QuestionSet, model: &MobileVlm, tokenizer: &Tokenizer, turns: usize) -> Result<Self> {
        let mut by_picture: Vec<Vec<(&str, &str)>> = vec![Vec::new(); set.pictures.len()];
        for question in &set.questions {
            by_picture[question.picture].push((&question.text, &question.answer));
        }
        let mut conversations = Vec::new();
        for (picture, questions) in by_picture.iter_mut().enumerate() {
            // The questions of a kind stand together: mixed, a conversation holds several kinds.
            questions.shuffle(&mut ChaCha8Rng::seed_from_u64(picture as u64));
            for part in questions.chunks(turns.max(1)) {
                conversations.push(Encoded::conversation(tokenizer, picture, part)?);
            }
        }
        let prompts = set
            .questions
            .iter()
            .map(|question| Encoded::prompt(tokenizer, question.picture, &question.text))
            .collect::<Result<_, _>>()?;
        let features = picture_features(model, &set.pictures, &model.device());
        Ok(Self { set, conversations, prompts, features })
    }

    /// For training.
    pub fn conversations(&self) -> Examples<'_> {
        Examples { encoded: &self.conversations, features: self.features.as_ref() }
    }

    /// For generation: one prompt per question, in their order.
    pub fn prompts(&self) -> Examples<'_> {
        Examples { encoded: &self.prompts, features: self.features.as_ref() }
    }
}

/// Vision features of all pictures; none without pictures or without a vision tower.
fn picture_features(model: &MobileVlm, pictures: &[Vec<u8>], device: &Device) -> Option<Tensor<3>> {
    let vision = model.spec().vision.as_ref()?;
    let model = model.frozen();
    let parts: Vec<Tensor<3>> = pictures
        .chunks(FEATURE_BATCH)
        .filter_map(|chunk| {
            let rgb: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
            model.vision_features(patchify(vision, &rgb, device))
        })
        .collect();
    (!parts.is_empty()).then(|| Tensor::cat(parts, 0))
}
