//! What the performance models see of a schedule.

use std::sync::Arc;

use crate::gradients::GradientProfile;
use crate::layout::{Layout, Ranks};

/// Ranks whose logarithms are computed once: hundreds of candidates have few others.
const TABLED: u32 = 1024;

/// Turns schedules of one layout into features.
///
/// A layer is a block of the layout: one layer, or one module outside any. Kinds of modules that a block does not have
/// count as unchanged from the base rank.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSpace {
    layout: Arc<Layout>,
    base_rank: f64,
    /// Log2 of the lowest ranks relative to the base rank, from rank 0 on.
    logarithms: Vec<f64>,
    /// Standardised logarithm of every module's gradient norm; zeros without a profile.
    log_norms: Vec<f64>,
    /// Position of every module's kind among the layout's.
    kinds: Vec<usize>,
}

impl FeatureSpace {
    /// The feature space of a layout. A profile that does not fit the layout counts as none.
    pub fn new(layout: &Arc<Layout>, base_rank: u32, profile: Option<&GradientProfile>) -> Self {
        let log_norms = match profile.filter(|p| p.fits(layout)) {
            Some(profile) => standardised_logarithms(&profile.norms()),
            None => vec![0.0; layout.len()],
        };
        let kinds = (0..layout.len()).map(|module| layout.kind_of(module).unwrap_or_default()).collect();
        let base_rank = f64::from(base_rank.max(1));
        let logarithms = (0..TABLED).map(|rank| log_rank(rank, base_rank)).collect();
        Self { layout: Arc::clone(layout), base_rank, logarithms, log_norms, kinds }
    }

    /// What gets the ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layout.blocks().len()
    }

    /// Features per layer of the Transformer's tokens: a log-rank and a log-norm for every kind, and the depth.
    pub fn token_width(&self) -> usize {
        2 * self.layout.kinds().len() + 1
    }

    /// Log2 of every module's rank relative to the base rank; rank 0 counts as 1.
    pub fn log_ranks(&self, ranks: &Ranks) -> Vec<f64> {
        let tabled = |rank: u32| self.logarithms.get(rank as usize).copied();
        ranks.as_slice().iter().map(|&rank| tabled(rank).unwrap_or_else(|| log_rank(rank, self.base_rank))).collect()
    }

    /// One token of [`FeatureSpace::token_width`] features per layer, layer after layer: the log-ranks of its modules by
    /// kind, their standardised log-norms, and its depth from −1 to 1.
    pub fn tokens(&self, ranks: &Ranks) -> Vec<f32> {
        let log_ranks = self.log_ranks(ranks);
        let mut tokens = Vec::with_capacity(self.layers() * self.token_width());
        for layer in 0..self.layers() {
            for values in [&log_ranks, &self.log_norms] {
                let value = |kind| self.layout.at(layer, kind).and_then(|module| values.get(module)).copied();
                tokens.extend((0..self.layout.kinds().len()).map(|kind| value(kind).unwrap_or(0.0) as f32));
            }
            tokens.push(self.depth(layer) as f32);
        }
        tokens
    }

    /// Log-ranks at several resolutions, for models that see a schedule as one vector: every module, the mean of
    /// every layer, the mean of every kind, the slope over depth and the covariance with the log-norms.
    ///
    /// Each group is scaled so that its squares sum to about 1 when ranks differ by a factor of two: a linear model
    /// with equal weight decay then prefers few broad causes to many narrow ones, which is all that a handful of
    /// trials can tell apart.
    pub fn vector(&self, ranks: &Ranks) -> Vec<f64> {
        let x = self.log_ranks(ranks);
        let (modules, layers) = (x.len().max(1) as f64, self.layers().max(1) as f64);
        let mut features: Vec<f64> = x.iter().map(|v| v / modules.sqrt()).collect();

        let blocks = self.layout.blocks().iter();
        let layer_means: Vec<f64> =
            blocks.map(|block| mean(x.get(block.modules.clone()).unwrap_or_default().iter())).collect();
        features.extend(layer_means.iter().map(|m| m / layers.sqrt()));
        let kinds = self.layout.kinds().len();
        let mut of_kinds = vec![(0.0, 0.0); kinds];
        for (value, kind) in x.iter().zip(&self.kinds) {
            if let Some((sum, count)) = of_kinds.get_mut(*kind) {
                *sum += value;
                *count += 1.0;
            }
        }
        features.extend(of_kinds.iter().map(|(sum, count)| sum / f64::max(*count, 1.0) / (kinds as f64).sqrt()));
        features.push(layer_means.iter().enumerate().map(|(l, m)| m * self.depth(l)).sum::<f64>() / layers);
        features.push(x.iter().zip(&self.log_norms).map(|(x, n)| x * n).sum::<f64>() / modules);
        features
    }

    /// Depth of a layer, from −1 (first) to 1 (last); 0 for a single layer.
    fn depth(&self, layer: usize) -> f64 {
        if self.layers() < 2 { 0.0 } else { 2.0 * layer as f64 / (self.layers() - 1) as f64 - 1.0 }
    }
}

fn log_rank(rank: u32, base_rank: f64) -> f64 {
    libm::log2(f64::from(rank.max(1)) / base_rank)
}

fn mean<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / f64::max(count, 1.0)
}

/// Logarithms with mean 0 and variance 1. A norm of 0 (a module that never got a gradient) counts as the smallest
/// positive one; equal norms all become 0.
fn standardised_logarithms(norms: &[f64]) -> Vec<f64> {
    let floor = norms.iter().copied().filter(|n| n.is_finite() && *n > 0.0).fold(f64::INFINITY, f64::min);
    if !floor.is_finite() {
        return vec![0.0; norms.len()];
    }
    let logs: Vec<f64> = norms.iter().map(|n| libm::log(if n.is_finite() { n.max(floor) } else { floor })).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let std = (logs.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / logs.len() as f64).sqrt();
    logs.iter().map(|l| if std > 1e-12 { (l - mean) / std } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::{ModuleNorm, Signal};
    use crate::layout::{Kind, Module};
    use crate::vlm::spec::ModelSpec;

    fn layout() -> Arc<Layout> {
        ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap()
    }

    fn profile(norm: impl Fn(usize) -> f64) -> GradientProfile {
        let modules =
            (0..24 * 7).map(|i| ModuleNorm { mean: norm(i), standard_error: 0.0, steps: 1 }).collect::<Vec<_>>();
        GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }
    }

    #[test]
    fn a_layer_becomes_a_token_of_log_ranks_log_norms_and_depth() {
        let space = FeatureSpace::new(&layout(), 128, Some(&profile(|i| if i % 2 == 0 { 1.0 } else { 4.0 })));
        let ranks = Ranks::uniform(space.layout(), 128).with(7, 256);
        let tokens = space.tokens(&ranks);
        assert_eq!((tokens.len(), space.token_width()), (24 * 15, 15));
        assert_eq!(&tokens[..7], &[0.0; 7]);
        assert_eq!(&tokens[7..14], &[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]);
        assert_eq!(tokens[14], -1.0);
        assert_eq!(tokens[15], 1.0, "256 is one doubling of the base rank");
        assert_eq!(tokens.last(), Some(&1.0));
    }

    #[test]
    fn norms_that_are_zero_equal_or_missing_give_finite_features() {
        let layout = layout();
        let ranks = Ranks::uniform(&layout, 1);
        for profile in [None, Some(profile(|_| 0.0)), Some(profile(|_| 0.3)), Some(profile(|i| i as f64))] {
            let space = FeatureSpace::new(&layout, 16, profile.as_ref());
            assert!(space.tokens(&ranks).iter().all(|t| t.is_finite()));
            assert!(space.vector(&ranks).iter().all(|t| t.is_finite()));
        }
    }

    #[test]
    fn kinds_that_a_block_does_not_have_count_as_unchanged() {
        let module = |name: &str, layer, kind: &str| Module {
            name: name.to_owned(),
            layer,
            kind: Kind::from(kind.to_owned()),
            d_in: 8,
            d_out: 8,
        };
        let modules = vec![
            module("model.layers.0.self_attn.q_proj", Some(0), "q"),
            module("model.layers.0.self_attn.qkv_proj", Some(0), "qkv_proj"),
            module("lm_head", None, "lm_head"),
        ];
        let layout = Arc::new(Layout::new("mixed", modules).unwrap());
        let space = FeatureSpace::new(&layout, 2, None);
        let ranks = Ranks::new(&layout, vec![4, 8, 1]).unwrap();
        // Kinds stand in the order q, lm_head, qkv_proj; then as many norms, and the depth.
        assert_eq!(space.tokens(&ranks), [1.0, 0.0, 2.0, 0.0, 0.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(space.vector(&ranks).iter().all(|feature| feature.is_finite()));
    }
}
