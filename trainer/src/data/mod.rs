//! What a run reads: questions about pictures, wherever they come from, and what a step is fed with; gradient logs.

pub mod config;
mod easy_vqa;
pub mod features;
pub mod feed;
mod generated;
mod llava;
mod pictures;
mod prepared;
mod questions;

use anyhow::Result;
pub use hydra_shared::files::gradient_logs;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::spec::VisionSpec;

use crate::error::{Kind, failure};

pub use config::{DataConfig, Source};
pub use easy_vqa::default_folder as easy_vqa_folder;
pub use pictures::{Damaged, Fit, PictureFile, PictureFiles, read_picture};
pub use prepared::{Prepared, picture_source, prompt};
pub use questions::{Dialogue, LIKELIHOOD, Question, QuestionSet, Rule, Scores};

/// Reads or generates one split of the data.
///
/// # Errors
/// Data that is missing or damaged, and a configuration that cannot be met.
pub fn load(config: &DataConfig, split: Split, vision: Option<&VisionSpec>) -> Result<QuestionSet> {
    match config.source {
        Source::Generated => match vision {
            Some(vision) => generated::load(config, split, vision),
            None => Err(failure(Kind::Usage, "the base model has no vision tower; name one with --vision-tower")),
        },
        Source::EasyVqa => easy_vqa::load(config, split),
        Source::Llava => llava::load(config, split),
    }
}
