//! Questions about pictures, wherever they come from.

mod easy_vqa;
mod generated;
mod llava;
mod pictures;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Tensor;
use hydra_shared::model_spec::VisionSpec;
use hydra_shared::tasks::{Sample, TaskConfig};
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::conversation::{Template, Turn};
use hydra_shared::vlm::tokenizer::Tokenizer;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, ResultExt, failure};
use crate::feature_cache::StoredFeatures;
use crate::feed::{Examples, PictureSource, tower_features};

pub use easy_vqa::default_folder as easy_vqa_folder;
pub use pictures::{Damaged, Fit, PictureFile, PictureFiles, read_picture};

/// Pictures whose features are computed at a time.
const FEATURE_BATCH: usize = 128;

/// Which data, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Where it comes from.
    pub source: Source,
    /// Folder of the data set, where it is one: easy-VQA's (by default where `scripts/easy-vqa` puts it), or that of the
    /// pictures of LLaVA's format (by default that of `questions`).
    pub folder: Option<PathBuf>,
    /// File of the training conversations in LLaVA's format.
    pub questions: Option<PathBuf>,
    /// File of the validation conversations in LLaVA's format; without it, some of the training conversations are held out.
    pub validation_questions: Option<PathBuf>,
    /// File of the test conversations in LLaVA's format.
    pub test_questions: Option<PathBuf>,
    /// Seed of the generated pictures, and of the validation part that is taken from training data.
    pub seed: u64,
    /// Training pictures, or training conversations of LLaVA's format; of a data set, 0 takes all.
    pub train_pictures: usize,
    /// Validation pictures (or conversations): what a search scores trials on.
    pub validation_pictures: usize,
    /// Test pictures (or conversations): what is reported. 0 takes all that the data set has.
    pub test_pictures: usize,
    /// How conversations are written.
    pub template: Template,
    /// Where longer conversations are cut off, in tokens, a picture counted as one.
    pub max_tokens: usize,
    /// How pictures become squares.
    pub fit: Fit,
    /// What happens to examples that cannot be used.
    pub damaged: Damaged,
    /// Memory in MiB up to which the pictures' features are computed once and kept; beyond it, pictures are decoded and
    /// run through the tower for every step.
    pub feature_memory: usize,
    /// Folder in which the pictures' features are kept from run to run, by picture and by tower; without one every run
    /// computes them again. MobileVLM's take 2.4 MB a picture.
    pub feature_cache: Option<PathBuf>,
    /// Threads that decode pictures.
    pub decoding_threads: usize,
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
            questions: None,
            validation_questions: None,
            test_questions: None,
            seed: 7,
            train_pictures: 1200,
            validation_pictures: 80,
            test_pictures: 200,
            template: Template::V1Brief,
            max_tokens: 2048,
            fit: Fit::Pad,
            damaged: Damaged::Error,
            feature_memory: 1024,
            feature_cache: None,
            decoding_threads: 2,
            turns: 5,
            tasks: TaskConfig::fine_tuning(),
        }
    }
}

/// A source of pictures and questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Procedurally generated scenes with five kinds of questions.
    Generated,
    /// easy-VQA 1.0, with its own training and test split.
    EasyVqa,
    /// Conversations in LLaVA's format. They are scored by how likely the expected answers are.
    Llava,
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
    /// The pictures.
    pub pictures: Vec<PictureFile>,
    /// The questions, where answers are generated and scored.
    pub questions: Vec<Question>,
    /// Whole conversations, where the set has them instead of single questions.
    pub dialogues: Vec<Dialogue>,
    scoring: Scoring,
}

/// A conversation about any number of pictures.
pub struct Dialogue {
    /// Where it stands, for messages.
    pub place: String,
    /// Indices of its pictures, in the order of their places in the text.
    pub pictures: Vec<usize>,
    /// What is said.
    pub turns: Vec<Turn>,
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
    Likelihood,
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
    pub fn load(config: &DataConfig, part: Part, vision: Option<&VisionSpec>) -> Result<Self> {
        match config.source {
            Source::Generated => match vision {
                Some(vision) => generated::load(config, part, vision),
                None => Err(failure(Kind::Usage, "the base model has no vision tower; name one with --vision-tower")),
            },
            Source::EasyVqa => easy_vqa::load(config, part),
            Source::Llava => llava::load(config, part),
        }
    }

    /// Names of the scored tasks, in the order of tables.
    pub fn tasks(&self) -> Vec<String> {
        match &self.scoring {
            Scoring::Generated { samples, .. } => generated::tasks(samples),
            Scoring::EasyVqa(_) => easy_vqa::TASKS.map(str::to_owned).to_vec(),
            Scoring::Likelihood => vec![LIKELIHOOD.to_owned()],
        }
    }

    /// Whether it is scored by how likely the expected answers are, and none are generated.
    pub fn is_scored_by_likelihood(&self) -> bool {
        matches!(self.scoring, Scoring::Likelihood)
    }

    /// Number of questions or conversations.
    pub fn len(&self) -> usize {
        self.questions.len() + self.dialogues.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scores one answer per question.
    ///
    /// # Errors
    /// Another number of answers than questions.
    pub fn score(&self, answers: &[String]) -> Result<Scores> {
        match &self.scoring {
            Scoring::Generated { samples, side } => generated::score(samples, answers, *side),
            Scoring::EasyVqa(scoring) => scoring.score(answers),
            Scoring::Likelihood => Err(failure(
                Kind::Usage,
                "conversations in LLaVA's format are scored by the model that answers them, not by a file of answers",
            )),
        }
    }
}

/// The task of a set that is scored by likelihood: 100 · exp(−loss), the geometric mean of the probabilities that the model
/// gives the expected answers' tokens, in percent.
pub const LIKELIHOOD: &str = "answer-likelihood";

/// A question set on the device: tokenized, its pictures' features computed once where memory allows.
pub struct Prepared {
    /// The questions.
    pub set: QuestionSet,
    conversations: Vec<Encoded>,
    prompts: Vec<Encoded>,
    pictures: PictureSource,
}

impl Prepared {
    /// Tokenizes the questions, `turns` about one picture to a conversation, and runs the vision tower over the
    /// pictures.
    ///
    /// # Errors
    /// Text that cannot be tokenized, pictures that cannot be read, a conversation about pictures for a model that reads
    /// text alone.
    pub fn new(mut set: QuestionSet, model: &MobileVlm, tokenizer: &Tokenizer, config: &DataConfig) -> Result<Self> {
        if !set.pictures.is_empty() && model.vision.is_none() {
            return Err(failure(
                Kind::Usage,
                format!(
                    "{} has no vision tower and the data has pictures; name a tower with --vision-tower",
                    model.spec().name
                ),
            ));
        }
        let questions = set.questions.iter().map(|q| (q.picture, q.text.as_str(), q.answer.as_str()));
        let mut conversations = config.template.encode_by_picture(tokenizer, questions, config.turns)?;
        for dialogue in &set.dialogues {
            let encoded = config.template.encode(tokenizer, &dialogue.turns, &dialogue.pictures);
            let encoded = encoded.map(|encoded| encoded.truncated(config.max_tokens));
            match (encoded, config.damaged) {
                (Ok(encoded), _) if encoded.has_answer() => conversations.push(encoded),
                (Ok(_), _) => tracing::warn!("{}: no answer within {} tokens", dialogue.place, config.max_tokens),
                (Err(problem), Damaged::Skip) => tracing::warn!("{}: {problem}; it is left out", dialogue.place),
                (Err(problem), Damaged::Error) => {
                    let remedy = "repair it, or set data.damaged=skip to go on without it";
                    return Err(failure(Kind::Data, format!("{}: {problem}; {remedy}", dialogue.place)));
                }
            }
        }
        let prompts = set
            .questions
            .iter()
            .map(|question| prompt(tokenizer, config.template, &question.text, &[question.picture]))
            .collect::<Result<_>>()?;
        let pictures = std::mem::take(&mut set.pictures);
        let pictures = picture_source(pictures, model, config)?;
        if conversations.is_empty() {
            return Err(failure(Kind::Data, "no conversation can be used; see the warnings above"));
        }
        Ok(Self { set, conversations, prompts, pictures })
    }

    /// For training, and for scoring by likelihood.
    pub fn conversations(&self) -> Examples<'_> {
        Examples { encoded: &self.conversations, pictures: &self.pictures }
    }

    /// For generation: one prompt per question, in their order.
    pub fn prompts(&self) -> Examples<'_> {
        Examples { encoded: &self.prompts, pictures: &self.pictures }
    }
}

/// Pictures that are run through a tower of so many patches at a time: a large tower's intermediate results are large, too.
pub fn feature_batch(patches: usize) -> usize {
    (FEATURE_BATCH * 64 / patches.max(1)).clamp(1, FEATURE_BATCH)
}

/// Computes the features of all pictures where memory or a cache on disk holds them, and otherwise leaves that to whoever
/// uses them.
///
/// # Errors
/// A damaged picture that is not to be skipped, a cache that cannot be written.
pub fn picture_source(pictures: Vec<PictureFile>, model: &MobileVlm, config: &DataConfig) -> Result<PictureSource> {
    let (Some(vision), false) = (&model.spec().vision, pictures.is_empty()) else {
        return Ok(PictureSource::None);
    };
    let model = model.frozen();
    let in_memory = pictures.len() * vision.patches() * vision.hidden * size_of::<f32>() <= config.feature_memory << 20;
    let files = PictureFiles::new(pictures, vision.image_size, config.fit, config.damaged);
    let stored = match &config.feature_cache {
        Some(folder) => Some(StoredFeatures::fill(&files, &model, folder)?),
        None => None,
    };
    match (stored, in_memory) {
        (None, false) => Ok(PictureSource::Files(files)),
        (Some(stored), false) => Ok(PictureSource::Stored(stored)),
        (stored, true) => {
            let mut all = Vec::new();
            let mut damaged = BTreeSet::new();
            let pictures: Vec<usize> = (0..files.len()).collect();
            for chunk in pictures.chunks(feature_batch(vision.patches())) {
                let (features, unread) = match &stored {
                    Some(stored) => stored.read(chunk, &model.device())?,
                    None => tower_features(&files, chunk, &model)?,
                };
                all.extend(features);
                damaged.extend(unread);
            }
            Ok(PictureSource::Features { all: Box::new(Tensor::cat(all, 0)), damaged })
        }
    }
}

/// A question about pictures that stand in front of it, its answer left open.
///
/// # Errors
/// Text that cannot be tokenized.
pub fn prompt(tokenizer: &Tokenizer, template: Template, question: &str, pictures: &[usize]) -> Result<Encoded> {
    template.encode_prompt(tokenizer, question, pictures).or_fail(Kind::Data, || "a question".to_owned())
}
