//! Generated scenes as a question set.

use anyhow::Result;
use hydra_shared::tasks::{Kind, Sample, Split, generate, scoring};
use hydra_shared::vlm::spec::VisionSpec;

use super::config::{DataConfig, no_pretraining};
use super::pictures::PictureFile;
use super::questions::{Question, QuestionSet, Rule, Scores};
use crate::error::{self, ResultExt};

pub(super) fn load(config: &DataConfig, split: Split, vision: &VisionSpec) -> Result<QuestionSet> {
    let mut tasks = config.tasks.clone();
    tasks.scene.width = u32::try_from(vision.image_size)?;
    tasks.scene.height = tasks.scene.width;
    let pictures = match split {
        Split::Pretraining => return Err(no_pretraining()),
        Split::Train => config.train_pictures,
        Split::Validation => config.validation_pictures,
        Split::Test => config.test_pictures,
    };
    let set = generate(&tasks, split, config.seed, pictures).or_fail(error::Kind::Usage, || "data.tasks")?;
    let questions = set
        .samples
        .iter()
        .map(|sample| Question {
            picture: sample.picture,
            text: sample.question.clone(),
            answer: sample.answer.clone(),
        })
        .collect();
    let pictures = set.pictures().into_iter().map(|picture| PictureFile::Rgb(picture.rgb)).collect();
    let rule = GeneratedRule { samples: set.samples, side: tasks.scene.width };
    Ok(QuestionSet { pictures, questions, dialogues: Vec::new(), rule: Some(Box::new(rule)) })
}

/// What answers about generated scenes are scored against.
struct GeneratedRule {
    samples: Vec<Sample>,
    /// Width and height of the pictures, in pixels.
    side: u32,
}

impl Rule for GeneratedRule {
    /// The kinds that occur and are scored.
    fn tasks(&self) -> Vec<String> {
        let occurs = |kind: &Kind| self.samples.iter().any(|sample| sample.kind == *kind);
        Kind::SCORED.into_iter().filter(occurs).map(|kind| kind.name().to_owned()).collect()
    }

    fn task_of(&self, question: usize) -> Option<String> {
        let kind = self.samples.get(question)?.kind;
        Kind::SCORED.contains(&kind).then(|| kind.name().to_owned())
    }

    fn score(&self, answers: &[String]) -> Result<Scores> {
        let scores = scoring::score(&self.samples, answers, self.side, self.side)?;
        let tasks = scores.headlines.iter().map(|(kind, score)| (kind.name().to_owned(), *score)).collect();
        Ok(Scores { tasks, mean: scores.mean, details: serde_json::to_value(&scores)? })
    }
}
