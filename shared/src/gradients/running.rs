//! Mean and standard error of numbers that come one by one.

use super::profile::ModuleNorm;

/// What is kept of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Running {
    count: usize,
    /// In the order in which they came.
    sum: f64,
    /// Welford's running mean, and the sum of squared distances to it (*Note on a method for calculating corrected sums of squares
    /// and products*, 1962): they need no second look at the numbers.
    middle: f64,
    squares: f64,
}

impl Default for Running {
    fn default() -> Self {
        // The sum of no numbers as the standard library has it.
        Self { count: 0, sum: -0.0, middle: 0.0, squares: 0.0 }
    }
}

impl Running {
    /// Whether none came.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes a number.
    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        let distance = value - self.middle;
        self.middle += distance / self.count as f64;
        self.squares += distance * (value - self.middle);
    }

    /// Mean and its standard error.
    pub(super) fn norm(&self) -> ModuleNorm {
        let n = self.count as f64;
        let standard_error = if self.count > 1 { (self.squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        ModuleNorm { mean: self.sum / n, standard_error, steps: self.count }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_mean_is_that_of_the_sum_in_order_and_the_error_that_of_two_passes() {
        // Far from zero, where squares would leave nothing of the differences.
        let values: Vec<f64> = (0..1_000).map(|i| 1e6 + f64::from(i * 37 % 101) * 1e-3).collect();
        let mut running = Running::default();
        values.iter().for_each(|value| running.add(*value));
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let error = (squares / (n - 1.0) / n).sqrt();
        let found = running.norm();
        assert_eq!((found.mean.to_bits(), found.steps), (mean.to_bits(), 1_000));
        assert!((found.standard_error - error).abs() < 1e-9 * error, "{} {error}", found.standard_error);
        let mut one = Running::default();
        one.add(3.0);
        assert_eq!(one.norm(), ModuleNorm { mean: 3.0, standard_error: 0.0, steps: 1 });
    }
}
