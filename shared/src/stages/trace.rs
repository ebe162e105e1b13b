//! One run of K-means, iteration by iteration, to be watched.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Stages, check_norms, value};
use crate::stages::StageError;

/// Starts that are tried for a run that ends in the stages that were found.
const STARTS: u64 = 64;
/// Iterations after which a run counts as one that does not settle.
const ITERATIONS: usize = 50;

/// A run of K-means that leads to `stages`: the centroids before each iteration, in ascending order, the last ones being
/// where they stay.
///
/// Linfa, which finds the stages, shows none of its iterations. This repeats what it does (centroids drawn by K-means++,
/// then layers to their nearest centroid and centroids to the mean of their layers) from start after start, until one
/// run ends in the stages. Where none does, which stages by hand and contiguous ones allow, the best run is returned.
///
/// # Errors
/// Norms that are none.
pub fn k_means_trace(norms: &[f64], stages: &Stages, seed: u64) -> Result<Vec<Vec<f64>>, StageError> {
    check_norms(norms)?;
    let wanted: Vec<f64> = stages.stages.iter().map(|stage| stage.norm).collect();
    let mut best: Option<(f64, Vec<Vec<f64>>)> = None;
    for start in 0..STARTS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(start));
        let run = run(norms, plus_plus(norms, wanted.len(), &mut rng));
        let last = run.last().map_or(&[][..], Vec::as_slice);
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * b.abs();
        if last.len() == wanted.len() && last.iter().zip(&wanted).all(close) {
            return Ok(run);
        }
        let squares = norms.iter().map(|norm| nearest(last, *norm).1).sum::<f64>();
        if best.as_ref().is_none_or(|(least, _)| squares < *least) {
            best = Some((squares, run));
        }
    }
    Ok(best.map(|(_, run)| run).unwrap_or_default())
}

/// The position of the centroid nearest to a norm, and the square of its distance; the lower one of two that are equally
/// near.
pub fn nearest(centroids: &[f64], norm: f64) -> (usize, f64) {
    let squares = centroids.iter().map(|centroid| (centroid - norm) * (centroid - norm));
    squares
        .enumerate()
        .fold((0, f64::INFINITY), |best, (index, square)| if square < best.1 { (index, square) } else { best })
}

/// Different norms as centroids: the first at random, each next one with a probability in proportion to the square of its
/// distance from those before (Arthur and Vassilvitskii 2007). In ascending order.
fn plus_plus(norms: &[f64], count: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut centroids = vec![value(norms, rng.random_range(0..norms.len() as u32) as usize)];
    while centroids.len() < count {
        let weights: Vec<f64> = norms.iter().map(|norm| nearest(&centroids, *norm).1).collect();
        let mut left = rng.random_range(0.0..1.0) * weights.iter().sum::<f64>();
        let chosen = weights.iter().zip(norms).find(|(weight, _)| {
            left -= **weight;
            left < 0.0
        });
        match chosen {
            Some((_, norm)) => centroids.push(*norm),
            // All norms are centroids already.
            None => break,
        }
    }
    centroids.sort_by(f64::total_cmp);
    centroids
}

fn run(norms: &[f64], start: Vec<f64>) -> Vec<Vec<f64>> {
    let mut steps = vec![start];
    while let Some(centroids) = steps.last()
        && steps.len() < ITERATIONS
    {
        let mut sums = vec![(0.0, 0_u32); centroids.len()];
        for norm in norms {
            if let Some(sum) = sums.get_mut(nearest(centroids, *norm).0) {
                *sum = (sum.0 + norm, sum.1 + 1);
            }
        }
        let moved: Vec<f64> = sums
            .iter()
            .zip(centroids)
            .map(|((sum, members), centroid)| if *members > 0 { sum / f64::from(*members) } else { *centroid })
            .collect();
        if &moved == centroids {
            break;
        }
        steps.push(moved);
    }
    steps
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{StageConfig, cluster_layers};
    use super::*;

    #[test]
    fn the_run_ends_where_the_stages_are() {
        let norms: Vec<f64> = (0..24).map(|layer| 0.005 * libm::pow(9.0, f64::from(layer) / 23.0)).collect();
        for count in 1..=5 {
            let stages = cluster_layers(&norms, &StageConfig { count, ..StageConfig::default() }).unwrap();
            let steps = k_means_trace(&norms, &stages, 0).unwrap();
            let last = steps.last().unwrap();
            for (centroid, stage) in last.iter().zip(&stages.stages) {
                assert!((centroid - stage.norm).abs() < 1e-9, "{count}: {centroid} {}", stage.norm);
            }
            let squares = |centroids: &Vec<f64>| norms.iter().map(|n| nearest(centroids, *n).1).sum::<f64>();
            assert!(steps.windows(2).all(|pair| squares(&pair[1]) <= squares(&pair[0])), "every iteration improves");
        }
    }

    #[test]
    fn equal_norms_need_no_iteration() {
        let stages = cluster_layers(&[0.5; 6], &StageConfig::default()).unwrap();
        assert_eq!(k_means_trace(&[0.5; 6], &stages, 3).unwrap(), [[0.5]]);
        assert!(k_means_trace(&[f64::NAN], &stages, 3).is_err());
    }
}
