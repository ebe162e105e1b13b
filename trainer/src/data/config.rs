//! Which data a run reads.

use std::path::PathBuf;

use hydra_shared::tasks::TaskConfig;
use hydra_shared::vlm::conversation::Template;
use serde::{Deserialize, Serialize};

use super::pictures::{Damaged, Fit};
use crate::error::{Kind, failure};

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

impl DataConfig {
    /// Keys that do nothing for a run on this source alone, each with the reason. Where a benchmark's pictures are read, they do
    /// something.
    pub fn idle_without_files(&self) -> Vec<(String, String)> {
        let why = "the pictures are generated, square and whole: it needs data.source = \"llava\" or \"easy-vqa\"";
        let keys: &[&str] = if self.source == Source::Generated { &["damaged", "fit"] } else { &[] };
        keys.iter().map(|key| (format!("data.{key}"), why.to_owned())).collect()
    }

    /// Keys that do nothing with this source, each with the reason.
    pub fn idle(&self) -> Vec<(&'static str, String)> {
        let of = |source: Source, keys: &[&'static str]| {
            let why =
                format!("it needs data.source = \"{}\", and data.source is \"{}\"", source.name(), self.source.name());
            keys.iter().map(|key| (*key, why.clone())).collect::<Vec<_>>()
        };
        let questions = ["questions", "validation_questions", "test_questions", "max_tokens"];
        match self.source {
            Source::Generated => {
                let why = "the training pictures are generated: set data.source to \"llava\" or \"easy-vqa\"";
                [of(Source::Llava, &questions), vec![("folder", why.to_owned())]].concat()
            }
            Source::EasyVqa => [of(Source::Llava, &questions), of(Source::Generated, &["tasks"])].concat(),
            Source::Llava => {
                let mut idle = of(Source::Generated, &["tasks"]);
                idle.push(("turns", "conversations of LLaVA's format have turns of their own".to_owned()));
                if self.test_questions.is_none() {
                    idle.push(("test_pictures", "data.test_questions names no file".to_owned()));
                }
                idle
            }
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

impl Source {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::EasyVqa => "easy-vqa",
            Self::Llava => "llava",
        }
    }
}

/// No data set has the split that the tiny base model is made from.
pub(super) fn no_pretraining() -> anyhow::Error {
    failure(Kind::Usage, "data has no pretraining split: `trainer pretrain` alone uses it")
}
