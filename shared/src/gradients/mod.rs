//! Gradient logs of training runs, and the profile that is read from them.

mod profile;

pub use profile::{GradientProfile, LayerNorm, ModuleNorm, Signal};
