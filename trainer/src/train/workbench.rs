//! What jobs run on: base model, device and data. Nothing of it changes.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use hydra_shared::tasks::Split;

use super::config::TrainingConfig;
use super::experiment::ExperimentConfig;
use crate::data::{self, Prepared};
use crate::device::Chosen;
use crate::digest::hash_files;
use crate::error::{Kind, ResultExt, failure};
use crate::model::base::Base;

/// Base model and data on a device, and the configuration that they were made by.
pub struct Workbench {
    /// The base model on the host.
    pub base: Base,
    /// Where it runs.
    pub chosen: Chosen,
    /// The configuration as it was loaded; [`Workbench::resolved`] has the steps that follow from epochs.
    pub config: ExperimentConfig,
    /// SHA-256 of the files of conversations, where the data comes from such.
    pub question_files: Vec<String>,
    pretraining: OnceLock<Prepared>,
    train: OnceLock<Prepared>,
    validation: OnceLock<Prepared>,
    test: OnceLock<Prepared>,
}

impl Workbench {
    /// Loads the base model; data is loaded when it is first asked for.
    ///
    /// # Errors
    /// A base that cannot be read.
    pub fn open(config: ExperimentConfig, chosen: Chosen) -> Result<Self> {
        let data = &config.data;
        let files = [&data.questions, &data.validation_questions, &data.test_questions];
        let question_files = hash_files(files.into_iter().flatten().map(PathBuf::as_path))?;
        let mut base = Base::open(&config.base_parts()?, &chosen.device)?;
        base.layout = base.spec.layout_of(config.targets).or_fail(Kind::Usage, || "targets")?;
        let (pretraining, train, validation, test) = Default::default();
        Ok(Self { base, chosen, config, question_files, pretraining, train, validation, test })
    }

    /// A part of the data with its pictures' features, loaded the first time.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn part(&self, part: Split) -> Result<&Prepared> {
        let cell = match part {
            Split::Pretraining => &self.pretraining,
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        };
        if let Some(prepared) = cell.get() {
            return Ok(prepared);
        }
        let set = data::load(&self.config.data, part, self.base.spec.vision.as_ref())?;
        if set.is_empty() {
            let problem = format!(
                "the {} part of the data holds no question; give it some (docs/real-models.md, \"Data\"), or take another part \
                 with --score or --part",
                part.name()
            );
            return Err(failure(Kind::Usage, problem));
        }
        let prepared = Prepared::new(part, set, &self.base.model, &self.base.tokenizer, &self.config.data)?;
        Ok(cell.get_or_init(|| prepared))
    }

    /// The parts that are loaded.
    pub fn loaded(&self) -> impl Iterator<Item = &Prepared> {
        [&self.pretraining, &self.train, &self.validation, &self.test].into_iter().filter_map(OnceLock::get)
    }

    /// How a fine-tune goes with this data; only where epochs are given, that needs the training part.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn training(&self) -> Result<TrainingConfig> {
        let training = &self.config.training;
        Ok(match training.epochs {
            Some(_) => training.resolved(self.part(Split::Train)?.conversations().encoded.len()),
            None => training.clone(),
        })
    }

    /// The configuration with the steps that follow from epochs.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn resolved(&self) -> Result<ExperimentConfig> {
        Ok(ExperimentConfig { training: self.training()?, ..self.config.clone() })
    }
}
