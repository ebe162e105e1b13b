//! Mean gradient norm per module.

use serde::{Deserialize, Serialize};

use crate::model_spec::{ModelSpec, ModuleId, Projection};

/// What is measured of a module's gradient in one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// L2 norm of [∇A; ∇B] together.
    #[default]
    L2,
    /// L2 norm divided by the square root of the number of adapter elements.
    Rms,
    /// Mean square of the adapter's elements (diagonal empirical Fisher information).
    Fisher,
}

/// How a layer's norm follows from its projections'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerNorm {
    /// Mean over the projections (the paper's average).
    #[default]
    Mean,
    /// Root of the sum of squares: the norm of the whole layer's gradient.
    RootSumSquares,
}

/// One module's signal over the steps that were kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ModuleNorm {
    /// Mean over the kept steps.
    pub mean: f64,
    /// Standard error of that mean; 0 where only one step was kept.
    pub standard_error: f64,
    /// Number of steps that were kept.
    pub steps: usize,
}

/// Steps of a run that a profile was made of.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ProfiledSteps {
    /// First kept step.
    pub first: u64,
    /// Last kept step.
    pub last: u64,
    /// Number of kept steps that the log holds.
    pub kept: usize,
    /// Number of steps that were left out as warm-up.
    pub warm_up: usize,
    /// Number of steps that were left out because a norm was NaN or infinite.
    pub non_finite: usize,
}

/// Mean gradient norm per module of one training run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GradientProfile {
    /// What `modules` measures.
    pub signal: Signal,
    /// Whether the norms were estimated (from histograms) rather than logged.
    pub estimated: bool,
    /// Steps that were averaged over.
    #[serde(default)]
    pub steps: ProfiledSteps,
    /// One entry per module, at [`ModuleId::index`].
    pub modules: Vec<ModuleNorm>,
}

impl GradientProfile {
    /// Mean signal of a module; 0 for one that the profile does not hold.
    pub fn norm(&self, module: ModuleId) -> f64 {
        self.modules.get(module.index()).map_or(0.0, |norm| norm.mean)
    }

    /// Mean signal of every module, in the order of [`ModelSpec::modules`].
    pub fn norms(&self) -> Vec<f64> {
        self.modules.iter().map(|norm| norm.mean).collect()
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.modules.len() / Projection::ALL.len()
    }

    /// One norm per layer.
    pub fn layer_norms(&self, rule: LayerNorm) -> Vec<f64> {
        self.modules
            .chunks(Projection::ALL.len())
            .map(|layer| {
                let norms = layer.iter().map(|norm| norm.mean);
                match rule {
                    LayerNorm::Mean => norms.sum::<f64>() / layer.len() as f64,
                    LayerNorm::RootSumSquares => norms.map(|n| n * n).sum::<f64>().sqrt(),
                }
            })
            .collect()
    }

    /// Whether the profile has one entry for each module of `model`.
    pub fn fits(&self, model: &ModelSpec) -> bool {
        self.modules.len() == model.module_count()
    }
}
