//! One file per format.

pub(super) mod csv;
pub(super) mod flat_json;
pub(super) mod hydra;
pub(super) mod json_lines;
pub(super) mod tensorboard;
pub(super) mod trainer_state;
pub(super) mod wandb;
