//! Cutting a sequence of norms into runs: by K-means where it is sorted, exactly where it is given.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;
use ndarray::Array2;
use rand_xoshiro_06::Xoshiro256Plus;
use rand_xoshiro_06::rand_core::SeedableRng;

use super::{StageConfig, StageError};

/// Equal neighbours: positions `start..end` hold `value`.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
    value: f64,
}

/// K-means clusters of ascending norms, as runs of positions in ascending order.
///
/// Linfa draws only floats from the generator here, never a `usize`, whose width would make the browser's draws differ.
pub(super) fn k_means_runs(sorted: &[f64], config: &StageConfig) -> Result<Vec<Vec<usize>>, StageError> {
    let values = scaled(sorted);
    let runs = equal_runs(&values);
    let count = config.count.min(runs.len());
    if count == runs.len() || count == 1 {
        return Ok(exact(&runs, count));
    }
    let records = Array2::from_shape_vec((values.len(), 1), values.clone())
        .map_err(|error| StageError::KMeans(error.to_string()))?;
    let model = KMeans::params_with_rng(count, Xoshiro256Plus::seed_from_u64(config.seed))
        .n_runs(config.restarts)
        .max_n_iterations(300)
        // Absolute, on norms that are scaled to [0, 1].
        .tolerance(1e-10)
        .fit(&DatasetBase::from(records))
        .map_err(|error| StageError::KMeans(error.to_string()))?;
    let mut centroids: Vec<f64> = model.centroids().iter().copied().collect();
    centroids.sort_by(f64::total_cmp);
    let mut sizes = vec![0_usize; count];
    for run in &runs {
        let nearest = centroids
            .iter()
            .enumerate()
            .min_by(|(_, a), (_, b)| (run.value - **a).abs().total_cmp(&(run.value - **b).abs()))
            .map_or(0, |(index, _)| index);
        if let Some(size) = sizes.get_mut(nearest) {
            *size += 1;
        }
    }
    // Lloyd's iteration can leave a cluster empty; the exact partition of sorted norms has none.
    if sizes.contains(&0) {
        return Ok(exact(&runs, count));
    }
    let mut cuts = vec![0];
    for size in sizes {
        cuts.push(cuts.last().copied().unwrap_or(0) + size);
    }
    refine(&runs, &mut cuts);
    Ok(cuts.windows(2).map(|cut| positions(&runs, cut.first().copied(), cut.last().copied())).collect())
}

/// Moves the cuts between stages while that lowers the squares, or leaves them as they are and gives a layer to the higher
/// stage. K-means alone ends in either of two partitions that are equally good, as its rounding has it.
fn refine(runs: &[Run], cuts: &mut [usize]) {
    let spread = squares(runs, 0, runs.len());
    let tolerance = 1e-12 * spread;
    // Each move lowers the squares or moves a cut down; the bound is for rounding.
    for _ in 0..runs.len() * runs.len() {
        let mut moved = false;
        for index in 1..cuts.len().saturating_sub(1) {
            let Some(&[low, cut, high]) = cuts.get(index - 1..=index + 1) else { continue };
            let at = |cut: usize| squares(runs, low, cut) + squares(runs, cut, high);
            let now = at(cut);
            let better = if cut > low + 1 && at(cut - 1) <= now + tolerance {
                cut - 1
            } else if cut + 1 < high && at(cut + 1) < now - tolerance {
                cut + 1
            } else {
                continue;
            };
            if let Some(slot) = cuts.get_mut(index) {
                *slot = better;
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

/// Sum of squares around the mean of `runs[start..end]`.
fn squares(runs: &[Run], start: usize, end: usize) -> f64 {
    let mut sum = Squares::default();
    for run in runs.get(start..end).unwrap_or(&[]) {
        sum.add(run);
    }
    sum.squares
}

/// A sum of squares around the mean that grows run by run.
#[derive(Default)]
struct Squares {
    weight: f64,
    mean: f64,
    squares: f64,
}

impl Squares {
    fn add(&mut self, run: &Run) {
        let members = (run.end - run.start) as f64;
        self.weight += members;
        let distance = run.value - self.mean;
        self.mean += distance * members / self.weight;
        self.squares += members * distance * (run.value - self.mean);
    }
}

fn positions(runs: &[Run], start: Option<usize>, end: Option<usize>) -> Vec<usize> {
    let range = start.unwrap_or(0)..end.unwrap_or(0);
    runs.get(range).unwrap_or(&[]).iter().flat_map(|run| run.start..run.end).collect()
}

/// The partition into at most `count` contiguous segments with the least sum of squares inside them.
pub(super) fn least_squares_runs(norms: &[f64], count: usize) -> Vec<Vec<usize>> {
    let runs = equal_runs(&scaled(norms));
    exact(&runs, count.min(runs.len()))
}

/// Norms moved and scaled to [0, 1], so that tolerances and squares do not depend on their unit.
fn scaled(norms: &[f64]) -> Vec<f64> {
    let low = norms.iter().copied().fold(f64::INFINITY, f64::min);
    let high = norms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if high > low { norms.iter().map(|norm| (norm - low) / (high - low)).collect() } else { vec![0.0; norms.len()] }
}

fn equal_runs(values: &[f64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (position, &value) in values.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.value == value => run.end = position + 1,
            _ => runs.push(Run { start: position, end: position + 1, value }),
        }
    }
    runs
}

/// Dynamic programming over the cuts between runs. Cutting inside a run of equal values never helps: moving some of them
/// across the cut changes the sum of squares concavely, so the best place is one of the run's ends.
fn exact(runs: &[Run], count: usize) -> Vec<Vec<usize>> {
    let n = runs.len();
    // best[k][j]: least squares of the first j runs in k + 1 segments; cut[k][j]: where the last of them starts.
    let mut best = vec![vec![f64::INFINITY; n + 1]; count];
    let mut cut = vec![vec![0_usize; n + 1]; count];
    for end in 1..=n {
        let mut last = Squares::default();
        for (start, run) in runs.iter().enumerate().take(end).rev() {
            last.add(run);
            for segments in 0..count {
                let before = match segments {
                    0 if start == 0 => 0.0,
                    0 => continue,
                    _ => at(&best, segments - 1, start).unwrap_or(f64::INFINITY),
                };
                if let (Some(slot), Some(place)) = (slot(&mut best, segments, end), slot(&mut cut, segments, end))
                    && before + last.squares < *slot
                {
                    *slot = before + last.squares;
                    *place = start;
                }
            }
        }
    }
    let mut groups = Vec::with_capacity(count);
    let mut end = n;
    for segments in (0..count).rev() {
        let start = at(&cut, segments, end).unwrap_or(0);
        groups.push(positions(runs, Some(start), Some(end)));
        end = start;
    }
    groups.reverse();
    groups
}

fn at<T: Copy>(table: &[Vec<T>], row: usize, column: usize) -> Option<T> {
    table.get(row)?.get(column).copied()
}

fn slot<T>(table: &mut [Vec<T>], row: usize, column: usize) -> Option<&mut T> {
    table.get_mut(row)?.get_mut(column)
}
