//! What the performance models see of a schedule.

use crate::gradients::GradientProfile;
use crate::model_spec::{ModelSpec, Projection};

/// Projections of a layer.
const PROJECTIONS: usize = Projection::ALL.len();

/// Turns schedules of one model into features.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSpace {
    layers: usize,
    base_rank: f64,
    /// Standardised logarithm of every module's gradient norm; zeros without a profile.
    log_norms: Vec<f64>,
}

impl FeatureSpace {
    /// Features per layer of the Transformer's tokens: seven log-ranks, seven log-norms, the depth.
    pub const TOKEN_WIDTH: usize = 2 * PROJECTIONS + 1;

    /// The feature space of a model. A profile that does not fit the model counts as none.
    pub fn new(model: &ModelSpec, base_rank: u32, profile: Option<&GradientProfile>) -> Self {
        let log_norms = match profile.filter(|p| p.fits(model)) {
            Some(profile) => standardised_logarithms(&profile.norms()),
            None => vec![0.0; model.module_count()],
        };
        Self { layers: model.decoder.layers, base_rank: f64::from(base_rank.max(1)), log_norms }
    }

    /// Number of modules of the model.
    pub fn modules(&self) -> usize {
        self.log_norms.len()
    }

    /// Number of layers of the model.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Log2 of every module's rank relative to the base rank; rank 0 counts as 1.
    pub fn log_ranks(&self, ranks: &[u32]) -> Vec<f64> {
        ranks.iter().map(|&r| (f64::from(r.max(1)) / self.base_rank).log2()).collect()
    }

    /// One token of [`FeatureSpace::TOKEN_WIDTH`] features per layer, layer after layer: the log-ranks of its
    /// projections, their standardised log-norms, and its depth from −1 to 1.
    pub fn tokens(&self, ranks: &[u32]) -> Vec<f32> {
        let log_ranks = self.log_ranks(ranks);
        let mut tokens = Vec::with_capacity(self.layers * Self::TOKEN_WIDTH);
        let layers = log_ranks.chunks(PROJECTIONS).zip(self.log_norms.chunks(PROJECTIONS));
        for (layer, (log_ranks, log_norms)) in layers.enumerate() {
            tokens.extend(log_ranks.iter().chain(log_norms).map(|&v| v as f32));
            tokens.push(self.depth(layer) as f32);
        }
        tokens
    }

    /// Log-ranks at several resolutions, for models that see a schedule as one vector: every module, the mean of
    /// every layer, the mean of every projection, the slope over depth and the covariance with the log-norms.
    ///
    /// Each group is scaled so that its squares sum to about 1 when ranks differ by a factor of two: a linear model
    /// with equal weight decay then prefers few broad causes to many narrow ones, which is all that a handful of
    /// trials can tell apart.
    pub fn vector(&self, ranks: &[u32]) -> Vec<f64> {
        let x = self.log_ranks(ranks);
        let (modules, layers) = (x.len().max(1) as f64, self.layers.max(1) as f64);
        let mut features: Vec<f64> = x.iter().map(|v| v / modules.sqrt()).collect();

        let layer_means: Vec<f64> = x.chunks(PROJECTIONS).map(|l| l.iter().sum::<f64>() / PROJECTIONS as f64).collect();
        features.extend(layer_means.iter().map(|m| m / layers.sqrt()));
        for projection in 0..PROJECTIONS {
            let mean = x.iter().skip(projection).step_by(PROJECTIONS).sum::<f64>() / layers;
            features.push(mean / (PROJECTIONS as f64).sqrt());
        }
        features.push(layer_means.iter().enumerate().map(|(l, m)| m * self.depth(l)).sum::<f64>() / layers);
        features.push(x.iter().zip(&self.log_norms).map(|(x, n)| x * n).sum::<f64>() / modules);
        features
    }

    /// Depth of a layer, from −1 (first) to 1 (last); 0 for a single layer.
    fn depth(&self, layer: usize) -> f64 {
        if self.layers < 2 { 0.0 } else { 2.0 * layer as f64 / (self.layers - 1) as f64 - 1.0 }
    }
}

/// Logarithms with mean 0 and variance 1. A norm of 0 (a module that never got a gradient) counts as the smallest
/// positive one; equal norms all become 0.
fn standardised_logarithms(norms: &[f64]) -> Vec<f64> {
    let floor = norms.iter().copied().filter(|n| n.is_finite() && *n > 0.0).fold(f64::INFINITY, f64::min);
    if !floor.is_finite() {
        return vec![0.0; norms.len()];
    }
    let logs: Vec<f64> = norms.iter().map(|n| if n.is_finite() { n.max(floor).ln() } else { floor.ln() }).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let std = (logs.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / logs.len() as f64).sqrt();
    logs.iter().map(|l| if std > 1e-12 { (l - mean) / std } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::{ModuleNorm, Signal};

    fn model() -> ModelSpec {
        ModelSpec::preset("mobilevlm-1.7b").unwrap()
    }

    fn profile(norm: impl Fn(usize) -> f64) -> GradientProfile {
        let modules =
            (0..24 * 7).map(|i| ModuleNorm { mean: norm(i), standard_error: 0.0, steps: 1 }).collect::<Vec<_>>();
        GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }
    }

    #[test]
    fn a_layer_becomes_a_token_of_log_ranks_log_norms_and_depth() {
        let space = FeatureSpace::new(&model(), 128, Some(&profile(|i| if i % 2 == 0 { 1.0 } else { 4.0 })));
        let mut ranks = vec![128; 24 * 7];
        ranks[7] = 256;
        let tokens = space.tokens(&ranks);
        assert_eq!(tokens.len(), 24 * FeatureSpace::TOKEN_WIDTH);
        assert_eq!(&tokens[..7], &[0.0; 7]);
        assert_eq!(&tokens[7..14], &[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]);
        assert_eq!(tokens[14], -1.0);
        assert_eq!(tokens[15], 1.0, "256 is one doubling of the base rank");
        assert_eq!(tokens.last(), Some(&1.0));
    }

    #[test]
    fn norms_that_are_zero_equal_or_missing_give_finite_features() {
        let model = model();
        for profile in [None, Some(profile(|_| 0.0)), Some(profile(|_| 0.3)), Some(profile(|i| i as f64))] {
            let space = FeatureSpace::new(&model, 16, profile.as_ref());
            assert!(space.tokens(&[1; 24 * 7]).iter().all(|t| t.is_finite()));
            assert!(space.vector(&[1; 24 * 7]).iter().all(|t| t.is_finite()));
        }
    }
}
