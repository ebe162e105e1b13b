//! Regression with a fixed kernel: what ridge and the Gaussian process have in common.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::leave_one_out::{LeaveOneOut, MOST_FOLDS};
use super::{Estimate, FeatureSpace, FitError, FittedModel, Observations, PredictError, Prediction};
use crate::layout::Ranks;
use crate::par_map::par_map;

/// Similarity of two schedules' feature vectors, with its hyper-parameters.
pub(super) trait Kernel: Copy + Send + Sync + 'static {
    /// What the similarity of two inputs follows from, whatever the hyper-parameters: their distance or inner product.
    fn relation(a: &[f64], b: &[f64]) -> f64;

    /// k of two inputs with this relation.
    fn value(self, relation: f64) -> f64;

    /// Kernels to choose from, each with a noise λ relative to its scale, for trials that are so related.
    fn choices(relations: &DMatrix<f64>) -> Vec<(Self, f64)>;

    /// How well a choice suits each target, less its mean: the largest is taken, the first of equals.
    fn qualities(factor: &Factor<Self>, centred: &[DVector<f64>]) -> Vec<f64>;
}

/// K + λ, factorized. It serves every target, because it does not depend on any.
pub(super) struct Factor<K> {
    kernel: K,
    cholesky: Cholesky<f64, Dyn>,
}

impl<K: Kernel> Factor<K> {
    /// `None` where the matrix is not positive definite.
    fn new((kernel, noise): (K, f64), relations: &DMatrix<f64>) -> Option<Self> {
        let mut gram = relations.map(|relation| kernel.value(relation));
        for i in 0..gram.nrows() {
            gram[(i, i)] += noise;
        }
        Some(Self { kernel, cholesky: Cholesky::new(gram)? })
    }

    /// (K + λ)⁻¹y.
    pub(super) fn solve(&self, y: &DVector<f64>) -> DVector<f64> {
        self.cholesky.solve(y)
    }

    /// Half the logarithm of the determinant of K + λ.
    pub(super) fn half_log_determinant(&self) -> f64 {
        self.cholesky.l_dirty().diagonal().iter().map(|d| d.ln()).sum()
    }

    /// Diagonal of (K + λ)⁻¹: with K + λ = LLᵀ, the squared lengths of the columns of L⁻¹.
    pub(super) fn inverse_diagonal(&self) -> DVector<f64> {
        let n = self.cholesky.l_dirty().nrows();
        let mut inverse = DMatrix::identity(n, n);
        self.cholesky.l_dirty().solve_lower_triangular_unchecked_mut(&mut inverse);
        DVector::from_iterator(n, inverse.column_iter().map(|column| column.norm_squared()))
    }
}

/// Relations of all pairs.
fn relations<K: Kernel>(inputs: &[Vec<f64>]) -> DMatrix<f64> {
    let mut relations = DMatrix::zeros(inputs.len(), inputs.len());
    for (i, a) in inputs.iter().enumerate() {
        for (j, b) in inputs.iter().enumerate().take(i + 1) {
            let relation = K::relation(a, b);
            relations[(i, j)] = relation;
            relations[(j, i)] = relation;
        }
    }
    relations
}

/// One target learned with one kernel: y = mean + f + noise, f ~ N(0, τ²K), noise ~ N(0, τ²λ).
struct Regression {
    /// Which of the common factors is its own.
    factor: usize,
    mean: f64,
    /// τ², at its most likely.
    signal_variance: f64,
    weights: DVector<f64>,
}

/// One regression of the mean score and one per benchmark, on common inputs.
struct Regressions<K> {
    inputs: Vec<Vec<f64>>,
    /// Mean of the inputs, subtracted before the kernel sees them.
    centre: Vec<f64>,
    factors: Vec<Factor<K>>,
    objective: Regression,
    scores: Vec<Regression>,
}

/// What is learned: the mean score, then every benchmark.
fn targets(data: &Observations) -> Vec<Vec<f64>> {
    std::iter::once(data.objectives()).chain((0..data.benchmarks()).map(|b| data.column(b))).collect()
}

impl<K: Kernel> Regressions<K> {
    /// Chooses the hyper-parameters of every target and fits it.
    fn new(space: &FeatureSpace, data: &Observations) -> Result<Self, FitError> {
        let mut inputs: Vec<Vec<f64>> = data.schedules.iter().map(|ranks| space.vector(ranks)).collect();
        let width = inputs.first().map_or(0, Vec::len);
        let middle: Vec<f64> =
            (0..width).map(|f| inputs.iter().filter_map(|i| i.get(f)).sum::<f64>() / inputs.len() as f64).collect();
        for input in &mut inputs {
            subtract(input, &middle);
        }
        let relations = relations::<K>(&inputs);
        let choices = K::choices(&relations);
        let targets = targets(data);
        let means: Vec<f64> = targets.iter().map(|target| target.iter().sum::<f64>() / target.len() as f64).collect();
        let centred: Vec<DVector<f64>> = targets
            .iter()
            .zip(&means)
            .map(|(target, mean)| DVector::from_iterator(target.len(), target.iter().map(|t| t - mean)))
            .collect();
        let qualities = par_map(&choices, |choice| Some(K::qualities(&Factor::new(*choice, &relations)?, &centred)));
        let mut factors: Vec<Factor<K>> = Vec::new();
        let mut chosen: Vec<usize> = Vec::new();
        let mut regressions = Vec::new();
        for (target, (mean, y)) in means.into_iter().zip(&centred).enumerate() {
            let known = qualities.iter().enumerate().filter_map(|(c, q)| Some((c, *q.as_ref()?.get(target)?)));
            let best = known.reduce(|best, next| if next.1.total_cmp(&best.1).is_gt() { next } else { best });
            let numeric = || FitError::Numeric("no kernel matrix is positive definite".to_owned());
            let (choice, _) = best.ok_or_else(numeric)?;
            let factor = match chosen.iter().position(|other| *other == choice) {
                Some(factor) => factor,
                None => {
                    chosen.push(choice);
                    factors.push(Factor::new(choices[choice], &relations).ok_or_else(numeric)?);
                    factors.len() - 1
                }
            };
            let weights = factors[factor].solve(y);
            regressions.push(Regression { factor, mean, signal_variance: signal_variance(y, &weights), weights });
        }
        let scores = regressions.split_off(1);
        let objective = regressions.remove(0);
        Ok(Self { inputs, centre: middle, factors, objective, scores })
    }

    fn predict(&self, mut features: Vec<f64>) -> Prediction {
        subtract(&mut features, &self.centre);
        let relations: Vec<f64> = self.inputs.iter().map(|input| K::relation(input, &features)).collect();
        let to_itself = K::relation(&features, &features);
        // Similarities, and the share of the prior variance that is left.
        let seen = self.factors.iter().map(|Factor { kernel, cholesky }| {
            let similarity =
                DVector::from_iterator(relations.len(), relations.iter().map(|&relation| kernel.value(relation)));
            let mut explained = similarity.clone();
            cholesky.l_dirty().solve_lower_triangular_unchecked_mut(&mut explained);
            let left = kernel.value(to_itself) - explained.norm_squared();
            (similarity, left)
        });
        let seen: Vec<(DVector<f64>, f64)> = seen.collect();
        let estimate = |target: &Regression| {
            let (similarity, left) = &seen[target.factor];
            let variance = target.signal_variance * left;
            Estimate { mean: target.mean + similarity.dot(&target.weights), std: variance.max(0.0).sqrt() }
        };
        Prediction { objective: estimate(&self.objective), scores: self.scores.iter().map(estimate).collect() }
    }

    /// What every trial is predicted without it, target by target, with the hyper-parameters of all: in closed form, with
    /// the mean of the others.
    fn held_out(&self, data: &Observations) -> Vec<Vec<f64>> {
        let n = data.len();
        let ones = DVector::from_element(n, 1.0);
        let of_factors: Vec<(DVector<f64>, DVector<f64>)> =
            par_map(&self.factors, |factor| (factor.inverse_diagonal(), factor.solve(&ones)));
        let of_target = |(target, measured): (&Regression, Vec<f64>)| {
            let (diagonal, of_ones) = &of_factors[target.factor];
            (0..n)
                .map(|trial| {
                    let mean_of_others = -(measured[trial] - target.mean) / (n as f64 - 1.0);
                    let residual = (target.weights[trial] - mean_of_others * of_ones[trial]) / diagonal[trial];
                    measured[trial] - residual
                })
                .collect()
        };
        std::iter::once(&self.objective).chain(&self.scores).zip(targets(data)).map(of_target).collect()
    }
}

fn signal_variance(centred: &DVector<f64>, weights: &DVector<f64>) -> f64 {
    (centred.dot(weights) / centred.len() as f64).max(0.0)
}

/// Logarithm of the marginal likelihood with τ² at its maximum, up to a constant.
pub(super) fn log_marginal_likelihood<K: Kernel>(factor: &Factor<K>, centred: &DVector<f64>) -> f64 {
    // A constant target has no variance; the floor keeps its likelihood finite and comparable.
    let variance = signal_variance(centred, &factor.solve(centred)).max(1e-300);
    -0.5 * centred.len() as f64 * variance.ln() - factor.half_log_determinant()
}

/// Squared leave-one-out residuals in closed form, (K + λ)⁻¹y over the diagonal of (K + λ)⁻¹.
pub(super) fn leave_one_out_squares(inverse_diagonal: &DVector<f64>, weights: &DVector<f64>) -> f64 {
    weights.iter().zip(inverse_diagonal).map(|(w, d)| (w / d) * (w / d)).sum()
}

fn subtract(values: &mut [f64], centre: &[f64]) {
    for (value, centre) in values.iter_mut().zip(centre) {
        *value -= centre;
    }
}

/// A fitted kernel model.
pub(super) struct Fitted<K> {
    space: FeatureSpace,
    regressions: Regressions<K>,
    leave_one_out: LeaveOneOut,
}

impl<K: Kernel> Fitted<K> {
    /// Fits every target. For the leave-one-out errors it is fitted once more without each trial, the choice of
    /// hyper-parameters included: they are not the errors that made the choice. In studies of more than [`MOST_FOLDS`]
    /// trials, where one hardly moves that choice, they are computed in closed form.
    pub(super) fn new(space: &FeatureSpace, data: &Observations) -> Result<Self, FitError> {
        data.check(space.layout())?;
        let regressions = Regressions::new(space, data)?;
        let mut by_target = regressions.held_out(data);
        if data.len() <= MOST_FOLDS {
            let trials: Vec<usize> = (0..data.len()).collect();
            let predicted = par_map(&trials, |&trial| {
                let others = Regressions::<K>::new(space, &data.without(trial, data.len()))?;
                Ok(others.predict(space.vector(&data.schedules[trial])))
            });
            for (trial, prediction) in predicted.into_iter().enumerate() {
                let Prediction { objective, scores } = prediction?;
                for (target, estimate) in by_target.iter_mut().zip(std::iter::once(objective).chain(scores)) {
                    target[trial] = estimate.mean;
                }
            }
        }
        let objectives = by_target.remove(0);
        let scores: Vec<Vec<f64>> =
            (0..data.len()).map(|trial| by_target.iter().map(|target| target[trial]).collect()).collect();
        let leave_one_out = LeaveOneOut::new(data, objectives, &scores);
        Ok(Self { space: space.clone(), regressions, leave_one_out })
    }
}

impl<K: Kernel> FittedModel for Fitted<K> {
    fn predict(&self, schedules: &[Ranks]) -> Result<Vec<Prediction>, PredictError> {
        PredictError::check(schedules, self.space.layout())?;
        Ok(par_map(schedules, |ranks| self.regressions.predict(self.space.vector(ranks))))
    }

    fn leave_one_out(&self) -> &LeaveOneOut {
        &self.leave_one_out
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{observations, smooth_response, space};
    use super::*;

    /// A kernel without a choice.
    #[derive(Clone, Copy)]
    struct Gaussian;

    impl Kernel for Gaussian {
        fn relation(a: &[f64], b: &[f64]) -> f64 {
            a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
        }

        fn value(self, square: f64) -> f64 {
            (-square / 20.0).exp()
        }

        fn choices(_squares: &DMatrix<f64>) -> Vec<(Self, f64)> {
            vec![(Self, 0.05)]
        }

        fn qualities(_factor: &Factor<Self>, centred: &[DVector<f64>]) -> Vec<f64> {
            vec![0.0; centred.len()]
        }
    }

    #[test]
    fn the_closed_form_predicts_of_each_trial_what_a_fit_without_it_predicts() {
        let space = space(3);
        let data = observations(&space, 20, 5, smooth_response);
        let held_out = Regressions::<Gaussian>::new(&space, &data).unwrap().held_out(&data);
        assert_eq!(held_out.len(), 1 + data.benchmarks());
        for (trial, ranks) in data.schedules.iter().enumerate() {
            let others = Regressions::<Gaussian>::new(&space, &data.without(trial, data.len())).unwrap();
            let predicted = others.predict(space.vector(ranks));
            let means = std::iter::once(&predicted.objective).chain(&predicted.scores).map(|estimate| estimate.mean);
            for (closed, mean) in held_out.iter().zip(means) {
                assert!((closed[trial] - mean).abs() < 1e-12, "trial {trial}: {} {mean}", closed[trial]);
            }
        }
    }

    #[test]
    fn targets_with_the_same_hyper_parameters_share_one_factor() {
        let space = space(3);
        let data = observations(&space, 12, 5, smooth_response);
        let regressions = Regressions::<Gaussian>::new(&space, &data).unwrap();
        assert_eq!((regressions.factors.len(), regressions.scores.len()), (1, 2));
    }
}
