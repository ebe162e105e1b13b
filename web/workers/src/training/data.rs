//! Generated pictures, questions about them, and what the vision tower makes of them.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use hydra_playground::messages::training::SampleQuestion;
use hydra_shared::tasks::{Kind, Scene, Split, TaskConfig, generate};
use hydra_shared::vlm::batch::{Batch, Encoded};
use hydra_shared::vlm::conversation::Template;
use hydra_shared::vlm::order::DataOrder;
use hydra_shared::vlm::{ModelError, WeightError, patchify};

use super::TrainingError;
use super::base::Base;

/// Training pictures. The trainer's demo has 1200; so many are generated in a moment, and are more than a short run sees
/// of.
const PICTURES: usize = 240;
/// Sample pictures.
const SAMPLES: usize = 4;
/// Pictures that both arms are scored on.
const SCORED: usize = 24;
/// Seed of the pictures, that of the trainer's demo.
const SEED: u64 = 7;
/// Questions about one picture in a conversation, as in the trainer's demo.
const TURNS: usize = 5;
/// How conversations are written: as the tiny model was pretrained.
const TEMPLATE: Template = Template::V1Brief;

/// A question and its prompt.
pub type Asked = (SampleQuestion, Encoded);

/// Pictures and questions on the host.
pub struct Data {
    /// Training pictures, then sample pictures, then those that are scored.
    scenes: Vec<Scene>,
    pictures: usize,
    conversations: Vec<Encoded>,
    questions: Vec<SampleQuestion>,
    prompts: Vec<Encoded>,
    /// One question of each kind about each picture that is scored.
    scored: Vec<Vec<Asked>>,
    /// What the vision tower, which is frozen, made of the pictures that were seen so far.
    features: BTreeMap<usize, Vec<f32>>,
    picture_tokens: usize,
    side: u32,
}

impl Data {
    /// Generates pictures and questions.
    ///
    /// # Errors
    /// A model whose tokenizer cannot express the questions.
    pub fn new(base: &Base) -> Result<Self, TrainingError> {
        let side = u32::try_from(base.vision.image_size)
            .map_err(|_| TrainingError::Unusable("the model's pictures are too large".to_owned()))?;
        let mut tasks = TaskConfig::fine_tuning();
        (tasks.scene.width, tasks.scene.height) = (side, side);
        let train = generate(&tasks, Split::Train, SEED, PICTURES)?;
        let validation = generate(&tasks, Split::Validation, SEED, SAMPLES + SCORED)?;
        let asked = train.samples.iter().map(|s| (s.picture, s.question.as_str(), s.answer.as_str()));
        let conversations = TEMPLATE.encode_by_picture(&base.tokenizer, asked, TURNS)?;
        let pictures = train.scenes.len();
        let question = |picture: usize, kind: Kind| {
            let sample = validation.samples.iter().find(|s| s.picture == picture && s.kind == kind)?;
            Some(SampleQuestion {
                picture,
                kind,
                text: sample.question.clone(),
                answer: sample.answer.clone(),
                target: sample.target_box,
            })
        };
        let prompt = |question: &SampleQuestion| {
            TEMPLATE.encode_prompt(&base.tokenizer, &question.text, &[pictures + question.picture])
        };
        let mut questions = Vec::new();
        // Two questions a picture: for a box, and one of another kind.
        let others = [Kind::Existence, Kind::Perception, Kind::Open, Kind::ReferringPlus];
        for (picture, other) in (0..SAMPLES).zip(others.iter().cycle()) {
            questions.extend([Kind::Referring, *other].into_iter().filter_map(|kind| question(picture, kind)));
        }
        let prompts = questions.iter().map(prompt).collect::<Result<_, _>>()?;
        let mut scored = Vec::new();
        for picture in SAMPLES..SAMPLES + SCORED {
            let asked = Kind::SCORED.into_iter().filter_map(|kind| question(picture, kind));
            scored.push(
                asked.map(|asked| Ok((asked.clone(), prompt(&asked)?))).collect::<Result<Vec<_>, TrainingError>>()?,
            );
        }
        let scenes = train.scenes.into_iter().chain(validation.scenes).collect();
        let picture_tokens = base.cpu.tokens_per_picture();
        Ok(Self {
            scenes,
            pictures,
            conversations,
            questions,
            prompts,
            scored,
            features: BTreeMap::new(),
            picture_tokens,
            side,
        })
    }

    /// Training pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Conversations about them.
    pub fn conversations(&self) -> usize {
        self.conversations.len()
    }

    /// Side of every picture in pixels.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// The sample pictures, RGB.
    pub fn samples(&self) -> Vec<Vec<u8>> {
        self.scenes.iter().skip(self.pictures).take(SAMPLES).map(|scene| scene.render().rgb).collect()
    }

    /// The questions about the sample pictures.
    pub fn questions(&self) -> &[SampleQuestion] {
        &self.questions
    }

    /// The same questions as prompts.
    pub fn prompts(&self) -> &[Encoded] {
        &self.prompts
    }

    /// What is asked about each picture that both arms are scored on.
    pub fn scored(&self) -> &[Vec<Asked>] {
        &self.scored
    }

    /// The order in which a run of this seed sees the conversations.
    pub fn order(&self, batch_size: usize, seed: u32) -> DataOrder {
        DataOrder::new(self.conversations.len(), None, batch_size, u64::from(seed))
    }

    /// The chosen conversations as a batch.
    pub fn batch(&self, chosen: &[usize]) -> Batch {
        let rows: Vec<&Encoded> = chosen.iter().filter_map(|index| self.conversations.get(*index)).collect();
        Batch::for_training(&rows, self.picture_tokens)
    }

    /// Vision features of pictures on a device; each picture goes through the tower once. None without pictures.
    ///
    /// # Errors
    /// Never in practice: the tower runs on the CPU.
    pub async fn features(
        &mut self,
        base: &Base,
        pictures: &[usize],
        device: &Device,
    ) -> Result<Option<Tensor<3>>, TrainingError> {
        let mut missing: Vec<usize> = pictures.iter().copied().filter(|p| !self.features.contains_key(p)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let painted: Vec<Vec<u8>> =
                missing.iter().filter_map(|picture| self.scenes.get(*picture)).map(|s| s.render().rgb).collect();
            let rgb: Vec<&[u8]> = painted.iter().map(Vec::as_slice).collect();
            let patches = patchify(&base.vision, &rgb, &Device::flex());
            if let Some(features) = base.cpu.vision_features(patches) {
                let values = read(features).await?;
                let each = values.len() / missing.len();
                self.features.extend(missing.into_iter().zip(values.chunks(each.max(1)).map(<[f32]>::to_vec)));
            }
        }
        let found: Vec<&Vec<f32>> = pictures.iter().filter_map(|picture| self.features.get(picture)).collect();
        let patches = base.vision.patches();
        if found.is_empty() {
            return Ok(None);
        }
        let shape = [found.len(), patches, base.vision.hidden];
        let values: Vec<f32> = found.into_iter().flatten().copied().collect();
        Ok(Some(Tensor::from_data(TensorData::new(values, shape), device)))
    }
}

/// The elements of a tensor.
///
/// # Errors
/// A device that fails.
pub async fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainingError> {
    let failed = |error: String| TrainingError::Model(ModelError::Weights(WeightError::Device(error)));
    let data = tensor.into_data_async().await.map_err(|error| failed(format!("{error:?}")))?;
    data.convert::<f32>().try_to_vec().map_err(|error| failed(format!("{error:?}")))
}
