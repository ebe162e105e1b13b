//! Training: the loss and its gradients, their norms, AdamW, and the step that puts them together. The loop is the caller's.

mod gradients;
mod loss;
mod optimizer;
mod step;

#[cfg(not(target_family = "wasm"))]
pub(super) use loss::{backward_from, sum_of_cross_entropies};

pub use gradients::{GradientSquares, StepReadout, module_gradients, read_gradients, scale_gradients};
pub use loss::{Backward, Recompute, answer_loss, gradients, loss_and_gradients};
pub use optimizer::{FlatAdamW, FlatSnapshot, OptimizerConfig, StepOptimizer};
pub use step::{
    Features, Measurement, StepConfig, StepReport, TrainingState, map_micro_batches, nested_step, step_gradients,
    train_step,
};
