//! Synthetic responses for tests.

#![allow(clippy::unwrap_used, reason = "a test fails loudly, its helpers too")]

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{FeatureSpace, Observations};
use crate::layout::Ranks;
use crate::vlm::spec::ModelSpec;

/// The space of a small model.
pub(super) fn space(layers: usize) -> FeatureSpace {
    let mut model = ModelSpec::preset("mobilevlm-1.7b").unwrap();
    model.decoder.layers = layers;
    FeatureSpace::new(&model.layout().unwrap(), 16, None)
}

/// Random schedules, with structure over layers and projections, and their responses.
pub(super) fn observations(
    space: &FeatureSpace,
    trials: usize,
    seed: u64,
    response: impl Fn(&FeatureSpace, &Ranks) -> Vec<f64>,
) -> Observations {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut data = Observations::default();
    for _ in 0..trials {
        let projections: Vec<f64> = (0..7).map(|_| rng.random_range(-1.0..1.0)).collect();
        let ranks = (0..space.layers())
            .flat_map(|_| {
                let layer = rng.random_range(-1.0..1.0);
                projections.iter().map(|p| (16.0 * f64::exp2(p + layer)).round() as u32).collect::<Vec<_>>()
            })
            .collect();
        let ranks = Ranks::new(space.layout(), ranks).unwrap();
        data.scores.push(response(space, &ranks));
        data.schedules.push(ranks);
    }
    data
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// Linear in log-ranks: up matters, query costs, late layers matter more.
pub(super) fn linear_response(space: &FeatureSpace, ranks: &Ranks) -> Vec<f64> {
    let x = space.log_ranks(ranks);
    let projection = |p: usize| mean(x.iter().skip(p).step_by(7).copied());
    let slope = mean(x.iter().enumerate().map(|(i, v)| v * (i / 7) as f64 / space.layers() as f64));
    vec![0.5 + 0.1 * projection(5) - 0.05 * projection(0) + 0.1 * slope]
}

/// Smooth with diminishing returns; two benchmarks that disagree about attention.
pub(super) fn smooth_response(space: &FeatureSpace, ranks: &Ranks) -> Vec<f64> {
    let x = space.log_ranks(ranks);
    let group = |projections: std::ops::Range<usize>| {
        mean(x.iter().enumerate().filter(|(i, _)| projections.contains(&(i % 7))).map(|(_, v)| 1.0 - (-v - 1.0).exp2()))
    };
    let (attention, feed_forward) = (group(0..4), group(4..7));
    vec![0.5 + 0.1 * feed_forward - 0.05 * attention, 0.6 + 0.1 * feed_forward]
}
