//! Regression with a fixed kernel: what ridge and the Gaussian process have in common.
//!
//! All of it follows from the relations of pairs, distances or inner products, which are computed once for all trials: fits
//! without one of them take theirs from there.

use hydra_kernels::Level;
use hydra_kernels::cholesky::{Factor, Solved};
use hydra_kernels::products::{COLUMNS, Size, View, ViewMut, view, view_mut};

use super::leave_one_out::{LeaveOneOut, MOST_FOLDS};
use super::{Estimate, FeatureSpace, FitError, FittedModel, Observations, PredictError, Prediction};
use crate::layout::Ranks;
use crate::par_map::par_map;

/// Schedules that one thread predicts at a time.
const SCHEDULES_AT_ONCE: usize = 64;

/// Similarity of two schedules' feature vectors, with its hyper-parameters.
pub(super) trait Kernel: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Whether relations are those of vectors from which the mean of the trials is subtracted. Distances do not depend on it.
    const CENTRED: bool;

    /// Noises λ to choose from, relative to the kernel's scale.
    const NOISES: &'static [f64];

    /// What the similarity of two inputs follows from, whatever the hyper-parameters, of every row of A and column of B: their
    /// distance or inner product.
    fn relations(level: Level, size: Size, a: View<'_, f64>, b: View<'_, f64>, relations: ViewMut<'_, f64>);

    /// k of inputs with these relations, in their place.
    fn values(self, level: Level, relations: &mut [f64]);

    /// Kernels to choose from, for trials that are so related.
    fn choices(relations: &Relations) -> Vec<Self>;

    /// How well a choice suits each target, less its mean, of which U⁻ᵀ of the factor is given: the largest is taken, the first of
    /// equals.
    fn qualities(level: Level, factor: &Factor, targets: &Solved) -> Vec<f64>;
}

/// Relations of all pairs of inputs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Relations {
    count: usize,
    /// `[count, count]`
    values: Vec<f64>,
}

impl Relations {
    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.count..][..self.count]
    }

    /// Those of different inputs, each pair once.
    pub(super) fn of_pairs(&self) -> impl Iterator<Item = f64> {
        (0..self.count).flat_map(|i| self.row(i).iter().take(i).copied())
    }

    /// Those of some of the inputs alone.
    fn among(&self, chosen: &[usize]) -> Self {
        let row = |&i: &usize| chosen.iter().map(move |&j| self.row(i)[j]);
        Self { count: chosen.len(), values: chosen.iter().flat_map(row).collect() }
    }
}

/// What is subtracted from inner products, so that they are those of vectors less the mean of the trials.
#[derive(Debug, Clone, Default)]
struct Centre {
    /// Of each trial with the mean.
    with_mean: Vec<f64>,
    /// Of the mean with itself.
    of_mean: f64,
}

impl Centre {
    fn of<K: Kernel>(relations: &Relations) -> Self {
        let n = relations.count as f64;
        if !K::CENTRED {
            return Self { with_mean: vec![0.0; relations.count], of_mean: 0.0 };
        }
        let with_mean: Vec<f64> = (0..relations.count).map(|i| relations.row(i).iter().sum::<f64>() / n).collect();
        let of_mean = with_mean.iter().sum::<f64>() / n;
        Self { with_mean, of_mean }
    }

    fn apply(&self, relations: &mut Relations) {
        for (row, a) in relations.values.chunks_exact_mut(relations.count.max(1)).zip(&self.with_mean) {
            for (relation, b) in row.iter_mut().zip(&self.with_mean) {
                *relation += self.of_mean - a - b;
            }
        }
    }
}

/// Feature vectors of schedules.
#[derive(Debug)]
struct Inputs {
    count: usize,
    width: usize,
    /// `[count, width]`
    values: Vec<f64>,
}

impl Inputs {
    fn new(space: &FeatureSpace, schedules: &[Ranks]) -> Self {
        let vectors = par_map(schedules, |ranks| space.vector(ranks));
        let width = vectors.first().map_or(0, Vec::len);
        Self { count: vectors.len(), width, values: vectors.concat() }
    }

    /// Relations of each of these to each of the others, whose columns are padded: `[count, columns]`.
    fn relations_to<K: Kernel>(&self, level: Level, others: &Self) -> (Vec<f64>, usize) {
        let columns = others.count.next_multiple_of(COLUMNS);
        let mut transposed = vec![0.0; self.width * columns];
        for (i, vector) in others.values.chunks_exact(self.width.max(1)).enumerate() {
            for (f, value) in vector.iter().enumerate() {
                transposed[f * columns + i] = *value;
            }
        }
        let size = Size { rows: self.count, inner: self.width, columns };
        let mut values = vec![0.0; self.count * columns];
        K::relations(
            level,
            size,
            view(&self.values, self.width),
            view(&transposed, columns),
            view_mut(&mut values, columns),
        );
        (values, columns)
    }

    fn relations<K: Kernel>(&self, level: Level) -> Relations {
        let (padded, columns) = self.relations_to::<K>(level, self);
        let rows = padded.chunks_exact(columns.max(1));
        let values = rows.flat_map(|row| row.iter().take(self.count).copied()).collect();
        Relations { count: self.count, values }
    }

    /// Relation of each to itself.
    fn to_themselves<K: Kernel>(&self, level: Level) -> Vec<f64> {
        let each = self.values.chunks_exact(self.width.max(1)).map(|vector| {
            let one = Self { count: 1, width: self.width, values: vector.to_vec() };
            one.relations_to::<K>(level, &one).0.first().copied().unwrap_or_default()
        });
        each.collect()
    }
}

/// One target learned with one kernel: y = mean + f + noise, f ~ N(0, τ²K), noise ~ N(0, τ²λ).
#[derive(Debug)]
struct Regression {
    /// Which of the common factors is its own.
    factor: usize,
    mean: f64,
    /// τ², at its most likely.
    signal_variance: f64,
}

/// K + λ, factorized, and what of every target is common to all predictions.
#[derive(Debug)]
struct Chosen<K> {
    kernel: K,
    factor: Factor,
    /// U⁻ᵀy of every target less its mean; then of ones.
    targets: Solved,
}

/// One regression of the mean score and one per benchmark, on common inputs.
#[derive(Debug)]
struct Regressions<K> {
    centre: Centre,
    factors: Vec<Chosen<K>>,
    /// The mean score's, then every benchmark's.
    targets: Vec<Regression>,
}

/// What is learned: the mean score, then every benchmark.
fn targets(data: &Observations) -> Vec<Vec<f64>> {
    std::iter::once(data.objectives()).chain((0..data.benchmarks()).map(|b| data.column(b))).collect()
}

impl<K: Kernel> Regressions<K> {
    /// Chooses the hyper-parameters of every target and fits it, on trials that are so related.
    fn new(level: Level, mut relations: Relations, targets: &[Vec<f64>]) -> Result<Self, FitError> {
        let centre = Centre::of::<K>(&relations);
        centre.apply(&mut relations);
        let n = relations.count;
        let means: Vec<f64> = targets.iter().map(|target| target.iter().sum::<f64>() / n as f64).collect();
        // Row by row, a column of ones at the end.
        let row = |i: usize| targets.iter().zip(&means).map(move |(target, mean)| target[i] - mean).chain([1.0]);
        let sides: Vec<f64> = (0..n).flat_map(row).collect();

        let kernels = K::choices(&relations);
        let matrices: Vec<Vec<f64>> = par_map(&kernels, |kernel| {
            let mut values = relations.values.clone();
            for (i, row) in values.chunks_exact_mut(n).enumerate() {
                kernel.values(level, &mut row[i..]);
            }
            values
        });
        let choices: Vec<(usize, f64)> =
            (0..kernels.len()).flat_map(|kernel| K::NOISES.iter().map(move |noise| (kernel, *noise))).collect();
        let factorize = |&(kernel, noise): &(usize, f64)| Factor::new(level, &matrices[kernel], n, noise, &sides);
        let qualities = par_map(&choices, |choice| {
            let (factor, solved) = factorize(choice)?;
            Some(K::qualities(level, &factor, &solved))
        });
        let mut factors: Vec<Chosen<K>> = Vec::new();
        let mut chosen: Vec<usize> = Vec::new();
        let mut regressions = Vec::new();
        for (target, mean) in means.into_iter().enumerate() {
            let known = qualities.iter().enumerate().filter_map(|(c, q)| Some((c, *q.as_ref()?.get(target)?)));
            let best = known.reduce(|best, next| if next.1.total_cmp(&best.1).is_gt() { next } else { best });
            let numeric = || FitError::Numeric("no kernel matrix is positive definite".to_owned());
            let (choice, _) = best.ok_or_else(numeric)?;
            let factor = match chosen.iter().position(|other| *other == choice) {
                Some(factor) => factor,
                None => {
                    let (factor, targets) = factorize(&choices[choice]).ok_or_else(numeric)?;
                    chosen.push(choice);
                    factors.push(Chosen { kernel: kernels[choices[choice].0], factor, targets });
                    factors.len() - 1
                }
            };
            let squares = squares(&factors[factor].targets)[target];
            regressions.push(Regression { factor, mean, signal_variance: squares / n as f64 });
        }
        Ok(Self { centre, factors, targets: regressions })
    }

    /// Estimates of every target, of inputs with these relations to the trials `[trials, columns]` and to themselves `[columns]`.
    fn predict(&self, level: Level, mut relations: Vec<f64>, mut to_themselves: Vec<f64>) -> Vec<Vec<Estimate>> {
        let columns = to_themselves.len();
        if K::CENTRED {
            let trials = self.centre.with_mean.len() as f64;
            let mut with_mean = vec![0.0; columns];
            for row in relations.chunks_exact(columns.max(1)) {
                add(&mut with_mean, row.iter().copied());
            }
            for (row, of_trial) in relations.chunks_exact_mut(columns.max(1)).zip(&self.centre.with_mean) {
                for (relation, sum) in row.iter_mut().zip(&with_mean) {
                    *relation += self.centre.of_mean - sum / trials - of_trial;
                }
            }
            for (itself, sum) in to_themselves.iter_mut().zip(&with_mean) {
                *itself += self.centre.of_mean - 2.0 * (sum / trials);
            }
        }
        // Of every factor: U⁻ᵀ of the similarities, and the share of the prior variance that is left.
        let seen: Vec<(Solved, Vec<f64>)> = self
            .factors
            .iter()
            .map(|chosen| {
                let mut explained = Solved { values: relations.clone(), columns };
                chosen.kernel.values(level, &mut explained.values);
                chosen.factor.solve_transposed(level, &mut explained);
                let mut left = to_themselves.clone();
                chosen.kernel.values(level, &mut left);
                for row in explained.values.chunks_exact(columns.max(1)) {
                    add(&mut left, row.iter().map(|explained| -(explained * explained)));
                }
                (explained, left)
            })
            .collect();
        let estimates = |(index, target): (usize, &Regression)| {
            let (explained, left) = &seen[target.factor];
            let own = &self.factors[target.factor].targets;
            let mut means = vec![0.0; columns];
            let weights = own.values.chunks_exact(own.columns).filter_map(|row| row.get(index));
            for (row, weight) in explained.values.chunks_exact(columns.max(1)).zip(weights) {
                add(&mut means, row.iter().map(|explained| weight * explained));
            }
            let estimate = |(mean, left): (f64, &f64)| Estimate {
                mean: target.mean + mean,
                std: (target.signal_variance * left).max(0.0).sqrt(),
            };
            means.into_iter().zip(left).map(estimate).collect()
        };
        self.targets.iter().enumerate().map(estimates).collect()
    }

    /// What every trial is predicted without it, target by target, with the hyper-parameters of all: in closed form, with
    /// the mean of the others.
    fn held_out(&self, level: Level, targets: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let n = self.centre.with_mean.len() as f64;
        let of_factors: Vec<(Vec<f64>, Solved)> = par_map(&self.factors, |chosen| {
            let mut weights = chosen.targets.clone();
            chosen.factor.solve(level, &mut weights);
            (chosen.factor.inverse_diagonal(level), weights)
        });
        let of_target = |(index, (target, measured)): (usize, (&Regression, &Vec<f64>))| {
            let (diagonal, weights) = &of_factors[target.factor];
            let rows = weights.values.chunks_exact(weights.columns).zip(diagonal).zip(measured);
            rows.map(|((weights, diagonal), measured)| {
                let mean_of_others = -(measured - target.mean) / (n - 1.0);
                measured - (weights[index] - mean_of_others * weights[targets.len()]) / diagonal
            })
            .collect()
        };
        self.targets.iter().zip(targets).enumerate().map(of_target).collect()
    }
}

fn add(sums: &mut [f64], values: impl Iterator<Item = f64>) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// yᵀ(K + λ)⁻¹y of every column.
fn squares(solved: &Solved) -> Vec<f64> {
    let mut squares = vec![0.0; solved.columns];
    for row in solved.values.chunks_exact(solved.columns) {
        add(&mut squares, row.iter().map(|value| value * value));
    }
    squares
}

/// Logarithm of each target's marginal likelihood with τ² at its maximum, up to a constant.
pub(super) fn log_marginal_likelihoods(factor: &Factor, targets: &Solved) -> Vec<f64> {
    let half_log_determinant: f64 = factor.diagonal().map(libm::log).sum();
    let n = factor.diagonal().count() as f64;
    // A constant target has no variance; the floor keeps its likelihood finite and comparable.
    let likelihood = |square: f64| -0.5 * n * libm::log((square / n).max(1e-300)) - half_log_determinant;
    squares(targets).into_iter().map(likelihood).collect()
}

/// Each target's squared leave-one-out residuals in closed form, (K + λ)⁻¹y over the diagonal of (K + λ)⁻¹.
pub(super) fn leave_one_out_squares(level: Level, factor: &Factor, targets: &Solved) -> Vec<f64> {
    let mut weights = targets.clone();
    factor.solve(level, &mut weights);
    let mut squares = vec![0.0; weights.columns];
    for (row, diagonal) in weights.values.chunks_exact(weights.columns).zip(factor.inverse_diagonal(level)) {
        add(&mut squares, row.iter().map(|weight| (weight / diagonal) * (weight / diagonal)));
    }
    squares
}

/// A fitted kernel model.
#[derive(Debug)]
pub(super) struct Fitted<K> {
    space: FeatureSpace,
    inputs: Inputs,
    regressions: Regressions<K>,
    leave_one_out: LeaveOneOut,
}

impl<K: Kernel> Fitted<K> {
    /// Fits every target. For the leave-one-out errors it is fitted once more without each trial, the choice of
    /// hyper-parameters included: they are not the errors that made the choice. In studies of more than [`MOST_FOLDS`]
    /// trials, where one hardly moves that choice, they are computed in closed form.
    pub(super) fn new(space: &FeatureSpace, data: &Observations) -> Result<Self, FitError> {
        data.check(space.layout())?;
        let level = Level::best();
        let inputs = Inputs::new(space, &data.schedules);
        let relations = inputs.relations::<K>(level);
        let targets = targets(data);
        let regressions = Regressions::<K>::new(level, relations.clone(), &targets)?;
        let mut by_target = if data.len() > MOST_FOLDS {
            regressions.held_out(level, &targets)
        } else {
            let trials: Vec<usize> = (0..data.len()).collect();
            let predicted = par_map(&trials, |&trial| without::<K>(level, &relations, &targets, trial));
            let mut by_target = vec![Vec::new(); targets.len()];
            for means in predicted {
                for (target, mean) in by_target.iter_mut().zip(means?) {
                    target.push(mean);
                }
            }
            by_target
        };
        let objectives = by_target.remove(0);
        let scores: Vec<Vec<f64>> =
            (0..data.len()).map(|trial| by_target.iter().map(|target| target[trial]).collect()).collect();
        let leave_one_out = LeaveOneOut::new(data, objectives, &scores);
        Ok(Self { space: space.clone(), inputs, regressions, leave_one_out })
    }
}

/// What a fit without a trial predicts of it, target by target.
fn without<K: Kernel>(
    level: Level,
    relations: &Relations,
    targets: &[Vec<f64>],
    trial: usize,
) -> Result<Vec<f64>, FitError> {
    let others: Vec<usize> = (0..relations.count).filter(|other| *other != trial).collect();
    let of_others = |target: &Vec<f64>| -> Vec<f64> { others.iter().map(|&other| target[other]).collect() };
    let targets: Vec<Vec<f64>> = targets.iter().map(of_others).collect();
    let regressions = Regressions::<K>::new(level, relations.among(&others), &targets)?;
    // A column of the trial, and others that fill up the tile.
    let column = |relation: f64| std::iter::once(relation).chain(std::iter::repeat_n(0.0, COLUMNS - 1));
    let of_trial = others.iter().flat_map(|&other| column(relations.row(trial)[other])).collect();
    let predicted = regressions.predict(level, of_trial, column(relations.row(trial)[trial]).collect());
    Ok(predicted.iter().filter_map(|estimates| Some(estimates.first()?.mean)).collect())
}

impl<K: Kernel> FittedModel for Fitted<K> {
    fn predict(&self, schedules: &[Ranks]) -> Result<Vec<Prediction>, PredictError> {
        PredictError::check(schedules, self.space.layout())?;
        let level = Level::best();
        let parts: Vec<&[Ranks]> = schedules.chunks(SCHEDULES_AT_ONCE).collect();
        let predicted = par_map(&parts, |schedules| {
            let inputs = Inputs::new(&self.space, schedules);
            let (relations, columns) = self.inputs.relations_to::<K>(level, &inputs);
            let mut to_themselves = inputs.to_themselves::<K>(level);
            to_themselves.resize(columns, 0.0);
            let estimates = self.regressions.predict(level, relations, to_themselves);
            let of = |schedule: usize| {
                let mut of_targets = estimates.iter().filter_map(|target| target.get(schedule).copied());
                let objective = of_targets.next()?;
                Some(Prediction { objective, scores: of_targets.collect() })
            };
            (0..schedules.len()).filter_map(of).collect::<Vec<_>>()
        });
        Ok(predicted.into_iter().flatten().collect())
    }

    fn leave_one_out(&self) -> &LeaveOneOut {
        &self.leave_one_out
    }
}

#[cfg(test)]
mod tests {
    use hydra_kernels::products::squared_distances;

    use super::super::PerformanceModel;
    use super::super::testing::{observations, smooth_response, space};
    use super::*;

    /// A kernel without a choice.
    #[derive(Debug, Clone, Copy)]
    struct Gaussian;

    impl Kernel for Gaussian {
        const CENTRED: bool = false;
        const NOISES: &'static [f64] = &[0.05];

        fn relations(level: Level, size: Size, a: View<'_, f64>, b: View<'_, f64>, relations: ViewMut<'_, f64>) {
            squared_distances(level, size, a, b, relations);
        }

        fn values(self, _level: Level, squares: &mut [f64]) {
            for square in squares {
                *square = libm::exp(-*square / 20.0);
            }
        }

        fn choices(_relations: &Relations) -> Vec<Self> {
            vec![Self]
        }

        fn qualities(_level: Level, _factor: &Factor, targets: &Solved) -> Vec<f64> {
            vec![0.0; targets.columns]
        }
    }

    #[test]
    fn the_closed_form_predicts_of_each_trial_what_a_fit_without_it_predicts() {
        let space = space(3);
        let data = observations(&space, 20, 5, smooth_response);
        let (level, targets) = (Level::best(), targets(&data));
        let relations = Inputs::new(&space, &data.schedules).relations::<Gaussian>(level);
        let fit = Regressions::<Gaussian>::new(level, relations.clone(), &targets).unwrap();
        let held_out = fit.held_out(level, &targets);
        assert_eq!(held_out.len(), 1 + data.benchmarks());
        for trial in 0..data.len() {
            let predicted = without::<Gaussian>(level, &relations, &targets, trial).unwrap();
            assert_eq!(predicted.len(), held_out.len());
            for (closed, mean) in held_out.iter().zip(predicted) {
                assert!((closed[trial] - mean).abs() < 1e-12, "trial {trial}: {} {mean}", closed[trial]);
            }
        }
    }

    #[test]
    fn targets_with_the_same_hyper_parameters_share_one_factor() {
        let space = space(3);
        let data = observations(&space, 12, 5, smooth_response);
        let fit = Fitted::<Gaussian>::new(&space, &data).unwrap();
        assert_eq!((fit.regressions.factors.len(), fit.regressions.targets.len()), (1, 3));
    }

    #[test]
    #[cfg(not(target_family = "wasm"))]
    fn fits_and_predictions_have_the_same_bits_with_one_thread_and_with_several() {
        let space = space(3);
        let data = observations(&space, 30, 5, smooth_response);
        let fresh = observations(&space, 150, 6, smooth_response);
        let fit = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let fit = super::super::GaussianProcess.fit(&space, &data, 0).unwrap();
                (fit.predict(&fresh.schedules).unwrap(), fit.leave_one_out().clone())
            })
        };
        assert_eq!(fit(1), fit(3));
    }
}
