//! Mean gradient norm per module.

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

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

impl Signal {
    /// Name in files, in links and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Rms => "rms",
            Self::Fisher => "fisher",
        }
    }

    /// The signal of a joint norm of so many elements.
    #[inline]
    pub(super) fn of(self, norm: f64, elements: f64) -> f64 {
        match self {
            Self::L2 => norm,
            Self::Rms => norm / elements.sqrt(),
            Self::Fisher => norm * norm / elements,
        }
    }
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

impl LayerNorm {
    /// Name in files, in links and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::RootSumSquares => "root-sum-squares",
        }
    }
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
    /// One entry per module, in the order of the layout that it was made for.
    pub modules: Vec<ModuleNorm>,
}

impl GradientProfile {
    /// Mean signal of every module, in the layout's order.
    pub fn norms(&self) -> Vec<f64> {
        self.modules.iter().map(|norm| norm.mean).collect()
    }

    /// One norm per block of the layout: per layer, and per module outside any.
    pub fn layer_norms(&self, layout: &Layout, rule: LayerNorm) -> Vec<f64> {
        let block = |modules: &std::ops::Range<usize>| {
            let layer = self.modules.get(modules.clone()).unwrap_or_default();
            let norms = layer.iter().map(|norm| norm.mean);
            match rule {
                LayerNorm::Mean => norms.sum::<f64>() / layer.len() as f64,
                LayerNorm::RootSumSquares => norms.map(|n| n * n).sum::<f64>().sqrt(),
            }
        };
        layout.blocks().iter().map(|found| block(&found.modules)).collect()
    }

    /// Whether the profile has one entry for each module of `layout`.
    pub fn fits(&self, layout: &Layout) -> bool {
        self.modules.len() == layout.len()
    }
}
