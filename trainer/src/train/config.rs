//! What a fine-tune does.

use hydra_shared::vlm::training::{OptimizerConfig, Recompute, StepConfig};
use hydra_shared::vlm::{Compute, Trainable};
use serde::{Deserialize, Serialize};

use crate::data::feed::Batching;

/// What a fine-tune does, apart from its data and its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Optimizer steps.
    pub steps: usize,
    /// Examples per optimizer step.
    pub batch_size: usize,
    /// Parts in which a step's examples are computed; their gradients are added up. On a CPU the parts run in threads.
    pub micro_batches: usize,
    /// Passes over the data; where it is given, `steps` is computed from it.
    pub epochs: Option<f64>,
    /// What is kept for the backward pass: `none` recomputes nothing, `blocks` keeps each layer's input alone and computes
    /// the layer again, which takes about 40 % more time on a CPU and half the memory (docs/performance.md).
    pub recompute: Recompute,
    /// Precision of the decoder's matrix products: `f32`; `f16` for the matrix units of a GPU, with dynamic loss scaling; `bf16`
    /// for those of a CPU (AMX, AVX512-BF16). Scores and losses of evaluations are in f32.
    pub compute: Compute,
    /// Share of what the adapters read that is dropped in training. MobileVLM's is 0.05.
    pub lora_dropout: f64,
    /// Whether a batch holds examples of similar lengths.
    pub group_by_length: bool,
    /// Every how many steps loss and gradient norms are logged, and read from the device, which half precision does every step.
    pub log_every: usize,
    /// Every how many steps the state is saved; 0 saves only when interrupted.
    pub checkpoint_every: usize,
    /// What follows a loss that is NaN or infinite.
    pub non_finite: NonFinite,
    /// AdamW and its learning rate.
    pub optimizer: OptimizerConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: 140,
            batch_size: 12,
            micro_batches: 2,
            epochs: None,
            recompute: Recompute::None,
            compute: Compute::F32,
            lora_dropout: 0.0,
            group_by_length: false,
            log_every: 1,
            checkpoint_every: 50,
            non_finite: NonFinite::Stop,
            // Uniform LoRA's best on validation pictures of the demo (docs/evidence.md): 70 times MobileVLM's, which a tiny model
            // bears, and needs in so few steps.
            optimizer: OptimizerConfig { learning_rate: 1.4e-2, ..OptimizerConfig::default() },
        }
    }
}

impl TrainingConfig {
    /// The configuration for so many conversations: `steps` follow from `epochs` where these are given.
    #[must_use]
    pub fn resolved(&self, conversations: usize) -> Self {
        let steps = self.epochs.map_or(self.steps, |epochs| {
            ((epochs * conversations as f64 / self.batch_size as f64).ceil() as usize).max(1)
        });
        Self { steps, ..self.clone() }
    }

    /// The order of the examples under a seed, and how a step is divided.
    pub fn batching(&self, seed: u64) -> Batching {
        let Self { batch_size, micro_batches, group_by_length, .. } = *self;
        Batching { batch_size, micro_batches, group_by_length, seed }
    }

    /// The part of it that a step reads.
    pub fn step(&self, trainable: Trainable, seed: u64) -> StepConfig {
        StepConfig {
            trainable,
            steps: self.steps,
            optimizer: self.optimizer,
            recompute: self.recompute,
            compute: self.compute,
            lora_dropout: self.lora_dropout,
            seed,
        }
    }
}

/// What follows a loss that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonFinite {
    /// The run ends; its checkpoints are from before.
    #[default]
    Stop,
    /// The run goes back to the newest state that is known to have a finite loss, and on from there with half the learning
    /// rate; the fourth time it ends.
    RollBack,
}
