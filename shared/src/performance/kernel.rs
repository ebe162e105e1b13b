//! Regression with a fixed kernel: what ridge and the Gaussian process have in common.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::leave_one_out::{LeaveOneOut, folds};
use super::{Estimate, FeatureSpace, FitError, FittedModel, Observations, PredictError, Prediction};

/// Similarity of two schedules' feature vectors.
pub(super) trait Kernel {
    /// k(a, b).
    fn value(&self, a: &[f64], b: &[f64]) -> f64;
}

/// One target learned with one kernel: y = mean + f + noise, f ~ N(0, τ²K), noise ~ N(0, τ²λ).
pub(super) struct Regression<K> {
    kernel: K,
    mean: f64,
    /// τ².
    signal_variance: f64,
    weights: DVector<f64>,
    factor: Cholesky<f64, Dyn>,
}

impl<K: Kernel> Regression<K> {
    /// Fits `targets` with noise λ relative to the kernel's scale. `None` where the matrix is not positive definite.
    pub(super) fn new(kernel: K, noise: f64, inputs: &[Vec<f64>], targets: &[f64]) -> Option<Self> {
        let n = targets.len();
        let mean = targets.iter().sum::<f64>() / n as f64;
        let centred = DVector::from_iterator(n, targets.iter().map(|t| t - mean));
        let mut gram = gram_matrix(&kernel, inputs);
        for i in 0..n {
            gram[(i, i)] += noise;
        }
        let factor = Cholesky::new(gram)?;
        let weights = factor.solve(&centred);
        let signal_variance = (centred.dot(&weights) / n as f64).max(0.0);
        Some(Self { kernel, mean, signal_variance, weights, factor })
    }

    /// Logarithm of the marginal likelihood with τ² at its maximum, up to a constant.
    pub(super) fn log_marginal_likelihood(&self) -> f64 {
        let n = self.weights.len() as f64;
        let half_log_determinant: f64 = self.factor.l().diagonal().iter().map(|d| d.ln()).sum();
        // A constant target has no variance; the floor keeps its likelihood finite and comparable.
        -0.5 * n * self.signal_variance.max(1e-300).ln() - half_log_determinant
    }

    /// Squared leave-one-out residuals in closed form, (K + λ)⁻¹y over the diagonal of (K + λ)⁻¹.
    pub(super) fn leave_one_out_squares(&self) -> f64 {
        let inverse = self.factor.inverse();
        self.weights.iter().zip(inverse.diagonal().iter()).map(|(w, d)| (w / d) * (w / d)).sum()
    }

    fn predict(&self, inputs: &[Vec<f64>], point: &[f64]) -> Estimate {
        let similarity =
            DVector::from_iterator(inputs.len(), inputs.iter().map(|input| self.kernel.value(input, point)));
        let explained = similarity.dot(&self.factor.solve(&similarity));
        let variance = self.signal_variance * (self.kernel.value(point, point) - explained);
        Estimate { mean: self.mean + similarity.dot(&self.weights), std: variance.max(0.0).sqrt() }
    }
}

/// Similarities of all pairs.
pub(super) fn gram_matrix<K: Kernel>(kernel: &K, inputs: &[Vec<f64>]) -> DMatrix<f64> {
    let mut gram = DMatrix::zeros(inputs.len(), inputs.len());
    for (i, a) in inputs.iter().enumerate() {
        for (j, b) in inputs.iter().enumerate().take(i + 1) {
            let value = kernel.value(a, b);
            gram[(i, j)] = value;
            gram[(j, i)] = value;
        }
    }
    gram
}

/// Chooses the hyper-parameters of one target and fits it; `None` where no choice is positive definite.
pub(super) type Choose<K> = fn(&[Vec<f64>], &[f64]) -> Option<Regression<K>>;

/// One regression per benchmark and one of the mean score, on common inputs.
struct Regressions<K> {
    inputs: Vec<Vec<f64>>,
    /// Mean of the inputs, subtracted before the kernel sees them.
    centre: Vec<f64>,
    objective: Regression<K>,
    scores: Vec<Regression<K>>,
}

impl<K: Kernel> Regressions<K> {
    fn new(space: &FeatureSpace, data: &Observations, choose: Choose<K>) -> Result<Self, FitError> {
        let mut inputs: Vec<Vec<f64>> = data.schedules.iter().map(|ranks| space.vector(ranks)).collect();
        let width = inputs.first().map_or(0, Vec::len);
        let centre: Vec<f64> =
            (0..width).map(|f| inputs.iter().filter_map(|i| i.get(f)).sum::<f64>() / inputs.len() as f64).collect();
        for input in &mut inputs {
            subtract(input, &centre);
        }
        let fit = |targets: &[f64]| {
            choose(&inputs, targets)
                .ok_or_else(|| FitError::Numeric("no kernel matrix is positive definite".to_owned()))
        };
        let objective = fit(&data.objectives())?;
        let scores = (0..data.benchmarks()).map(|b| fit(&data.column(b))).collect::<Result<_, _>>()?;
        Ok(Self { inputs, centre, objective, scores })
    }

    fn predict(&self, mut features: Vec<f64>) -> Prediction {
        subtract(&mut features, &self.centre);
        Prediction {
            objective: self.objective.predict(&self.inputs, &features),
            scores: self.scores.iter().map(|s| s.predict(&self.inputs, &features)).collect(),
        }
    }
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
    /// Fits every target, and once more without each trial (or group of trials, see [`folds`]): the choice of
    /// hyper-parameters is repeated there, so the leave-one-out errors are not the ones that made the choice.
    pub(super) fn new(space: &FeatureSpace, data: &Observations, choose: Choose<K>) -> Result<Self, FitError> {
        data.check(space.modules())?;
        let mut objectives = vec![0.0; data.len()];
        let mut scores = vec![Vec::new(); data.len()];
        let folds = folds(data.len());
        for fold in 0..folds {
            let regressions = Regressions::new(space, &data.without(fold, folds), choose)?;
            for trial in (fold..data.len()).step_by(folds) {
                let prediction = regressions.predict(space.vector(&data.schedules[trial]));
                objectives[trial] = prediction.objective.mean;
                scores[trial] = prediction.scores.iter().map(|s| s.mean).collect();
            }
        }
        let leave_one_out = LeaveOneOut::new(data, objectives, &scores);
        Ok(Self { space: space.clone(), regressions: Regressions::new(space, data, choose)?, leave_one_out })
    }
}

impl<K: Kernel> FittedModel for Fitted<K> {
    fn predict(&self, schedules: &[Vec<u32>]) -> Result<Vec<Prediction>, PredictError> {
        PredictError::check(schedules, self.space.modules())?;
        Ok(schedules.iter().map(|ranks| self.regressions.predict(self.space.vector(ranks))).collect())
    }

    fn leave_one_out(&self) -> &LeaveOneOut {
        &self.leave_one_out
    }
}
