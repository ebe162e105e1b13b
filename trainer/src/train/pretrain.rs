//! Pretraining of the tiny base model from scratch: vision tower, projector and decoder together, on generated captions
//! and part of the question kinds.

use anyhow::Result;
use burn::tensor::Tensor;
use hydra_shared::tasks::boxes::location_tokens;
use hydra_shared::tasks::{Picture, SceneConfig, TaskConfig, TaskSet, pretraining_samples};
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::conversation::{Template, turns_about_picture};
use hydra_shared::vlm::spec::VisionSpec;
use hydra_shared::vlm::tokenizer::Tokenizer;
use hydra_shared::vlm::training::{OptimizerConfig, Recompute, StepConfig, StepReport};
use hydra_shared::vlm::{Compute, MobileVlm, Trainable, patchify};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::fine_tune::Flow;
use super::step::{TrainingState, train_step};
use crate::data::feed::{micro_batches, select_pictures};

/// Pictures whose text the vocabulary is learned from.
const VOCABULARY_PICTURES: usize = 2000;

/// How the tiny base model is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// Seed of the weights and of the pictures.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: usize,
    /// Pictures per step, each with all its captions and questions.
    pub pictures_per_step: usize,
    /// Parts in which a step is computed, in threads.
    pub micro_batches: usize,
    /// Every how many steps the state is saved.
    pub checkpoint_every: usize,
    /// AdamW and its learning rate.
    pub optimizer: OptimizerConfig,
    /// What is drawn and asked.
    pub tasks: TaskConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 5000,
            pictures_per_step: 16,
            micro_batches: 2,
            checkpoint_every: 500,
            optimizer: OptimizerConfig {
                learning_rate: 3e-3,
                warmup_ratio: 0.05,
                weight_decay: 0.05,
                ..OptimizerConfig::default()
            },
            tasks: TaskConfig { scene: SceneConfig::tiny(), ..TaskConfig::pretraining() },
        }
    }
}

impl crate::config::Configuration for PretrainConfig {}

impl PretrainConfig {
    /// The part of the configuration that a training step reads.
    fn step(&self) -> StepConfig {
        StepConfig {
            trainable: Trainable::Everything,
            steps: self.steps,
            optimizer: self.optimizer,
            recompute: Recompute::None,
            compute: Compute::F32,
            lora_dropout: 0.0,
            seed: self.seed,
        }
    }
}

/// Learns the tiny model's vocabulary from the text of all question kinds; returns it as `tokenizer.json`.
///
/// # Errors
/// Tasks that cannot be generated, or a vocabulary too small.
pub fn learn_vocabulary(config: &PretrainConfig, vocab: usize) -> Result<String> {
    let mut tasks = TaskConfig { scene: config.tasks.scene.clone(), ..TaskConfig::default() };
    tasks.samples_per_picture.caption = 1;
    tasks.samples_per_picture.boxed_caption = 1;
    let set = pretraining_samples(&tasks, config.seed, VOCABULARY_PICTURES)?;
    let lines: Vec<String> =
        set.samples.iter().map(|sample| format!("USER: \n{} ASSISTANT: {}", sample.question, sample.answer)).collect();
    Ok(Tokenizer::train(lines.iter().map(String::as_str), location_tokens(), vocab)?)
}

/// Takes the remaining steps. Every step draws new pictures, from the seed and the step's number.
///
/// # Errors
/// A device that fails, a loss that is not finite, and whatever `on_step` returns.
pub fn pretrain(
    mut state: TrainingState,
    tokenizer: &Tokenizer,
    config: &PretrainConfig,
    mut on_step: impl FnMut(&StepReport, &TrainingState) -> Result<Flow>,
) -> Result<(TrainingState, Flow)> {
    let step_config = config.step();
    let Some(vision) = state.model.spec().vision.clone() else {
        anyhow::bail!("{} has no vision tower to pretrain", state.model.spec().name);
    };
    let tokens = state.model.tokens_per_picture();
    while state.step < config.steps {
        let seed = config.seed.wrapping_mul(1_000_003).wrapping_add(state.step as u64);
        let set = pretraining_samples(&config.tasks, seed, config.pictures_per_step)?;
        let pictures = set.pictures();
        let micro_batches = picture_micro_batches(&set, tokenizer, config, tokens, seed)?;
        let features = |model: &MobileVlm, batch: &Batch| live_features(model, &vision, &pictures, &batch.pictures);
        let (next, report) = train_step(state, &step_config, &micro_batches, &features, true)?;
        state = next;
        if let Some(report) = report
            && on_step(&report, &state)? == Flow::Stop
        {
            return Ok((state, Flow::Stop));
        }
    }
    Ok((state, Flow::Continue))
}

/// Micro-batches of conversations: all captions and questions of a picture, in a seeded order, so that the picture is
/// computed once.
fn picture_micro_batches(
    set: &TaskSet,
    tokenizer: &Tokenizer,
    config: &PretrainConfig,
    picture_tokens: usize,
    seed: u64,
) -> Result<Vec<Batch>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut conversations = Vec::with_capacity(set.scenes.len());
    for samples in set.samples.chunk_by(|a, b| a.picture == b.picture) {
        let mut turns: Vec<(&str, &str)> =
            samples.iter().map(|sample| (sample.question.as_str(), sample.answer.as_str())).collect();
        turns.shuffle(&mut rng);
        let picture = samples.first().map_or(0, |sample| sample.picture);
        conversations.push(Template::V1Brief.encode(tokenizer, &turns_about_picture(&turns), &[picture])?);
    }
    let chosen = (0..conversations.len()).collect();
    Ok(micro_batches(&conversations, chosen, config.micro_batches, picture_tokens))
}

/// Features through the tower itself, so that it is trained too; each picture is computed once.
fn live_features(model: &MobileVlm, vision: &VisionSpec, pictures: &[Picture], wanted: &[usize]) -> Option<Tensor<3>> {
    let mut unique: Vec<usize> = wanted.to_vec();
    unique.sort_unstable();
    unique.dedup();
    let rgb: Vec<&[u8]> = unique.iter().map(|index| pictures[*index].rgb.as_slice()).collect();
    let features = model.vision_features(patchify(vision, &rgb, &model.device()));
    let rows: Vec<usize> = wanted.iter().map(|index| unique.partition_point(|other| other < index)).collect();
    select_pictures(features.as_ref(), &rows)
}
