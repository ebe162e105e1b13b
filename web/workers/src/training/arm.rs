//! One adapter and its optimizer.

use burn::tensor::Tensor;
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::{
    FlatAdamW, FlatSnapshot, OptimizerConfig, Recompute, StepConfig, StepReport, TrainingState, train_step,
};
use hydra_shared::vlm::{AdapterShape, Compute, MobileVlm, Trainable, initial_adapters};

use super::TrainingError;

/// What is trained: as in MobileVLM's second stage with LoRA, and in the trainer.
const TRAINABLE: Trainable = Trainable::ProjectorAndLora;

/// An adapter in training.
pub struct ArmState {
    state: TrainingState<FlatAdamW>,
    config: StepConfig,
}

impl ArmState {
    /// A new adapter on a model.
    ///
    /// # Errors
    /// Ranks that do not fit the model.
    pub fn new(
        base: &MobileVlm,
        shapes: &[AdapterShape],
        steps: usize,
        seed: u32,
        optimizer: OptimizerConfig,
    ) -> Result<Self, TrainingError> {
        let seed = u64::from(seed);
        let model = base.clone().with_adapters(shapes, initial_adapters(base.spec(), shapes, seed))?;
        let config = StepConfig {
            trainable: TRAINABLE,
            steps,
            optimizer,
            recompute: Recompute::None,
            compute: Compute::F32,
            lora_dropout: 0.0,
            seed,
        };
        Ok(Self { state: TrainingState::new(model, TRAINABLE, &config.optimizer), config })
    }

    /// The model with the adapter as it is, nothing in it tracked.
    pub fn model(&self) -> MobileVlm {
        self.state.model.frozen()
    }

    /// Takes the step after `taken` others.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn step(
        &mut self,
        taken: usize,
        batch: &Batch,
        features: Option<Tensor<3>>,
    ) -> Result<StepReport, TrainingError> {
        let features = |_: &MobileVlm, _: &Batch| features.clone();
        let micro_batches = std::slice::from_ref(batch);
        let state = TrainingState { step: taken, ..self.state.clone() };
        let (state, measured) = train_step(state, &self.config, micro_batches, &features).await?;
        self.state = state;
        Ok(measured.read().await?)
    }

    /// Copies the state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn snapshot(&self) -> Result<FlatSnapshot, TrainingError> {
        Ok(self.state.optimizer.snapshot().await?)
    }

    /// Takes the state of a snapshot, which may be of another device.
    pub fn restore(&mut self, snapshot: &FlatSnapshot) {
        self.state.model = self.state.optimizer.restore(self.state.model.clone(), snapshot);
    }
}
