//! A question set as a model reads it.

use std::collections::BTreeSet;

use anyhow::Result;
use burn::tensor::Tensor;
use hydra_shared::names::NAMED;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::conversation::Template;
use hydra_shared::vlm::tokenizer::Tokenizer;

use super::config::DataConfig;
use super::features::{StoredFeatures, feature_batch, tower_features};
use super::feed::{Examples, PictureSource};
use super::pictures::{Damaged, PictureFile, PictureFiles};
use super::questions::QuestionSet;
use crate::error::{Kind, ResultExt, failure};

/// A question set on the device: tokenized, its pictures' features computed once where memory allows.
pub struct Prepared {
    /// Which part of the data they are.
    pub part: Split,
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
    pub fn new(
        part: Split,
        mut set: QuestionSet,
        model: &MobileVlm,
        tokenizer: &Tokenizer,
        config: &DataConfig,
    ) -> Result<Self> {
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
        let mut cut = 0;
        // What is left out, by its place in the file.
        let mut unusable: Vec<(usize, String)> = Vec::new();
        for dialogue in &set.dialogues {
            let encoded = config.template.encode(tokenizer, &dialogue.turns, &dialogue.pictures);
            let encoded = encoded.map(|encoded| {
                cut += usize::from(encoded.length(1) > config.max_tokens);
                encoded.truncated(config.max_tokens)
            });
            match (encoded, config.damaged) {
                (Ok(encoded), _) if encoded.has_answer() => conversations.push(encoded),
                (Ok(_), _) => {
                    let problem = format!("{}: no answer within {} tokens", dialogue.place, config.max_tokens);
                    unusable.push((dialogue.record, problem));
                }
                (Err(problem), Damaged::Skip) => {
                    unusable.push((dialogue.record, format!("{}: {problem}", dialogue.place)));
                }
                (Err(problem), Damaged::Error) => {
                    let remedy = "repair it, or set data.damaged=skip to go on without it";
                    return Err(failure(Kind::Data, format!("{}: {problem}; {remedy}", dialogue.place)));
                }
            }
        }
        warn_of_unusable(unusable, set.dialogues.len(), part.name());
        if cut > 0 {
            let (part, most) = (part.name(), config.max_tokens);
            tracing::warn!(
                "{cut} conversations for {part} are longer than data.max_tokens ({most}); their ends are cut off"
            );
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
        Ok(Self { part, set, conversations, prompts, pictures })
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

/// Names the first few of what is left out, in the order of the file, and says how many there are of so many.
pub(super) fn warn_of_unusable(mut unusable: Vec<(usize, String)>, of: usize, whose: &str) {
    unusable.sort();
    for (_, problem) in unusable.iter().take(NAMED) {
        tracing::warn!("{problem}; it is left out");
    }
    if !unusable.is_empty() {
        tracing::warn!("{whose}: {} of {of} conversations are damaged and left out", unusable.len());
    }
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
            if damaged.len() > NAMED {
                let (damaged, all) = (damaged.len(), files.len());
                tracing::warn!("{damaged} of {all} pictures cannot be read; their examples are left out");
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
