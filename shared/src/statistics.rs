//! What a difference between two sets of runs is worth: intervals, corrections for several comparisons, agreement of orders.
//!
//! Everything is exact arithmetic or seeded resampling: the same values and seed give the same numbers.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples behind an interval, where nothing else is said.
pub const RESAMPLES: usize = 10_000;

/// An estimate and the interval that holds the truth with a stated confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Share of resamples in which the estimate was above 0.
    pub above_zero: f64,
    /// Values behind it.
    pub count: usize,
}

impl Interval {
    /// Whether 0 lies outside.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// The interval of another scale: every end times `factor`, which is above 0.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { estimate: self.estimate * factor, low: self.low * factor, high: self.high * factor, ..self }
    }
}

/// The mean; none of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample, with n − 1; none of fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Fewest replicates whose resamples reach far enough for an interval.
const FEWEST_FOR_BOOTSTRAP: usize = 8;

/// The interval of a statistic of replicates, or of pairs of them, at 95 %.
///
/// From 8 replicates on by bootstrap: replicates are drawn with replacement, and percentiles are taken further out than 2.5 and
/// 97.5, as Hesterberg (*What Teachers Should Know About the Bootstrap*, arXiv 1411.5279, section 5) corrects them for few
/// replicates: Φ(−√(n/(n−1))·t), where t is Student's quantile with n − 1 degrees of freedom. With fewer, no resample reaches
/// as far as the interval has to, and it is Student's around the jackknife's standard error: for a mean, the usual one.
///
/// `statistic` gets the chosen indices. None with fewer than two replicates, or where the statistic is not finite.
pub fn interval(replicates: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Option<Interval> {
    let all: Vec<usize> = (0..replicates).collect();
    let estimate = statistic(&all);
    if replicates < 2 || !estimate.is_finite() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = vec![0; replicates];
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            chosen.fill_with(|| rng.random_range(0..replicates));
            statistic(&chosen)
        })
        .filter(|value| value.is_finite())
        .collect();
    if found.is_empty() {
        return None;
    }
    found.sort_by(f64::total_cmp);
    let above = found.iter().filter(|value| **value > 0.0).count();
    let (low, high) = if replicates < FEWEST_FOR_BOOTSTRAP {
        let half = student_quantile_975(replicates - 1) * jackknife_error(&all, &statistic);
        (estimate - half, estimate + half)
    } else {
        let tail = expanded_tail(replicates);
        (quantile(&found, tail), quantile(&found, 1.0 - tail))
    };
    let above_zero = above as f64 / found.len() as f64;
    Some(Interval { estimate, low, high, above_zero, count: replicates })
}

/// Standard error of a statistic by leaving out one replicate at a time.
fn jackknife_error(all: &[usize], statistic: &impl Fn(&[usize]) -> f64) -> f64 {
    let without = |left_out: usize| {
        let rest: Vec<usize> = all.iter().copied().filter(|index| *index != left_out).collect();
        statistic(&rest)
    };
    let values: Vec<f64> = all.iter().map(|index| without(*index)).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    ((count - 1.0) / count * values.iter().map(|value| (value - mean).powi(2)).sum::<f64>()).sqrt()
}

/// The [`interval`] of a mean.
pub fn mean_interval(values: &[f64], seed: u64) -> Option<Interval> {
    interval(values.len(), seed, |chosen| chosen.iter().map(|index| values[*index]).sum::<f64>() / chosen.len() as f64)
}

/// The interval of the difference of two groups' means at 95 %: Welch's, of Student's distribution with the degrees of freedom that
/// Welch and Satterthwaite give, rounded down. None where a group has fewer than two values.
pub fn difference_of_means(first: &[f64], second: &[f64]) -> Option<Interval> {
    let error = |values: &[f64]| Some(deviation(values)?.powi(2) / values.len() as f64);
    let (own, other) = (error(first)?, error(second)?);
    let estimate = mean(first)? - mean(second)?;
    let all = own + other;
    let spread = |error: f64, count: usize| error * error / (count - 1) as f64;
    let degrees = all * all / (spread(own, first.len()) + spread(other, second.len()));
    // Equal values leave nothing to estimate it from.
    let degrees = if degrees.is_finite() { (degrees as usize).max(1) } else { first.len().min(second.len()) - 1 };
    let error = all.sqrt();
    let half = student_quantile_975(degrees) * error;
    let above_zero = if error > 0.0 {
        let above = student_above((estimate / error).abs(), degrees);
        if estimate > 0.0 { 1.0 - above } else { above }
    } else {
        f64::from(u8::from(estimate > 0.0))
    };
    let count = first.len().min(second.len());
    Some(Interval { estimate, low: estimate - half, high: estimate + half, above_zero, count })
}

/// The share of resamples to cut at either end for an interval of 95 % from so many replicates.
fn expanded_tail(replicates: usize) -> f64 {
    let n = replicates as f64;
    let t = student_quantile_975(replicates - 1);
    normal_below(-(n / (n - 1.0)).sqrt() * t)
}

/// The 97.5 % quantile of Student's distribution, by bisection of its exact distribution function.
pub fn student_quantile_975(degrees: usize) -> f64 {
    let (mut low, mut high) = (1.9, 13.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if student_above(middle, degrees) > 0.025 { low = middle } else { high = middle }
    }
    low
}

/// P(T > t) of Student's distribution with a whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
pub(crate) fn student_above(t: f64, degrees: usize) -> f64 {
    let angle = (t / (degrees as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let mut term = if degrees.is_multiple_of(2) { 1.0 } else { cos };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    let mut k = if degrees.is_multiple_of(2) { 2 } else { 3 };
    while k + 2 <= degrees {
        term *= cos * cos * (k - 1) as f64 / k as f64;
        sum += term;
        k += 2;
    }
    let inside = if degrees.is_multiple_of(2) { sin * sum } else { std::f64::consts::FRAC_2_PI * (angle + sin * sum) };
    (1.0 - inside) / 2.0
}

/// P(Z < z) of the standard normal distribution.
fn normal_below(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

/// The quantile of sorted values, interpolated between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

/// The two-sided p-value of paired differences by flipping their signs: exact for up to 16 differences, otherwise over
/// [`RESAMPLES`] random flips. 1 without differences.
pub fn sign_flip_p(differences: &[f64], seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs() * (1.0 - 1e-12);
    if differences.is_empty() {
        return 1.0;
    }
    if differences.len() <= 16 {
        let flips = 1_u32 << differences.len();
        let flipped = |signs: u32| {
            let signed = differences.iter().enumerate().map(|(at, d)| if signs >> at & 1 == 1 { -d } else { *d });
            signed.sum::<f64>().abs()
        };
        return (0..flips).filter(|signs| flipped(*signs) >= observed).count() as f64 / f64::from(flips);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let extreme = (0..RESAMPLES)
        .filter(|_| {
            let sum: f64 = differences.iter().map(|d| if rng.random::<bool>() { -d } else { *d }).sum();
            sum.abs() >= observed
        })
        .count();
    (extreme + 1) as f64 / (RESAMPLES + 1) as f64
}

/// Holm's correction: the p-values that hold for all comparisons at once, in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (place, index) in order.into_iter().enumerate() {
        largest = largest.max(((p.len() - place) as f64 * p[index]).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

/// Kendall's τ-b of two orders of the same things; none where one of them does not tell any two apart.
pub fn kendall(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mut agree, mut a_apart, mut b_apart) = (0_i64, 0_u64, 0_u64);
    let sign = |x: f64, y: f64| i64::from(x > y) - i64::from(x < y);
    let pairs = || a.iter().copied().zip(b.iter().copied());
    for (index, (a, b)) in pairs().enumerate() {
        for (earlier_a, earlier_b) in pairs().take(index) {
            let (of_a, of_b) = (sign(a, earlier_a), sign(b, earlier_b));
            agree += of_a * of_b;
            a_apart += of_a.unsigned_abs();
            b_apart += of_b.unsigned_abs();
        }
    }
    (a_apart > 0 && b_apart > 0).then(|| agree as f64 / ((a_apart as f64) * (b_apart as f64)).sqrt())
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        for (degrees, quantile) in [(1, 12.706), (2, 4.303), (3, 3.182), (7, 2.365), (15, 2.131), (30, 2.042)] {
            assert!((student_quantile_975(degrees) - quantile).abs() < 1e-3, "{degrees}");
        }
        assert!((normal_below(-1.96) - 0.024_998).abs() < 1e-6);
    }

    #[test]
    fn the_difference_of_two_groups_is_welchs() {
        // Welch and Satterthwaite give 5.57 degrees of freedom here.
        let (first, second) = ([27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]);
        let found = difference_of_means(&first, &second).unwrap();
        assert!((found.estimate - (21.62 - 166.0 / 7.0)).abs() < 1e-9, "{found:?}");
        let error = (deviation(&first).unwrap().powi(2) / 5.0 + deviation(&second).unwrap().powi(2) / 7.0).sqrt();
        let half = student_quantile_975(5) * error;
        assert!((found.high - found.estimate - half).abs() < 1e-9, "{found:?}");
        assert_eq!(difference_of_means(&first[..1], &second), None);
        let same = difference_of_means(&[1.0, 1.0], &[1.0, 1.0]).unwrap();
        assert_eq!((same.estimate, same.low, same.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn an_interval_of_a_mean_is_close_to_students_where_values_are_normal() {
        // Quantiles of a normal distribution with mean 1 and deviation 2.
        let values = [-2.07, -0.77, 0.02, 0.69, 1.31, 1.98, 2.77, 4.07];
        let interval = mean_interval(&values, 1).unwrap();
        let half = student_quantile_975(7) * deviation(&values).unwrap() / 8.0_f64.sqrt();
        assert!((interval.estimate - 1.0).abs() < 1e-9);
        assert!((interval.high - 1.0 - half).abs() < 0.2 * half, "{interval:?}, {half}");
        assert!((1.0 - interval.low - half).abs() < 0.2 * half, "{interval:?}, {half}");
        assert!(!interval.excludes_zero());
        assert_eq!(mean_interval(&values, 1), Some(interval), "the same seed");
    }

    #[test]
    fn few_values_have_students_interval() {
        let interval = mean_interval(&[1.0, 2.0, 3.0], 1).unwrap();
        // 2 ± 4.303 / √3.
        assert!((interval.low + 0.484).abs() < 1e-3 && (interval.high - 4.484).abs() < 1e-3, "{interval:?}");
    }

    #[test]
    fn one_value_has_no_interval() {
        assert_eq!(mean_interval(&[1.0], 1), None);
        assert_eq!(mean_interval(&[], 1), None);
        assert_eq!(mean_interval(&[1.0, f64::NAN], 1), None);
    }

    #[test]
    fn flips_of_signs_count_every_way_to_differ_as_much() {
        // Only all signs as they are, or all turned: 2 of 16.
        assert!((sign_flip_p(&[1.0, 2.0, 3.0, 4.0], 1) - 0.125).abs() < 1e-12);
        assert!((sign_flip_p(&[1.0, -1.0], 1) - 1.0).abs() < 1e-12);
        assert!(sign_flip_p(&[1.0; 20], 1) < 0.001);
        assert_eq!(sign_flip_p(&[], 1), 1.0);
    }

    #[test]
    fn holms_correction_multiplies_the_smallest_by_all_and_keeps_the_order() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn kendalls_tau_is_one_for_equal_orders_and_minus_one_for_reversed() {
        assert_eq!(kendall(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]), Some(1.0));
        assert_eq!(kendall(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(kendall(&[1.0, 1.0], &[3.0, 2.0]), None);
        // scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]).statistic
        let tau = kendall(&[12.0, 2.0, 1.0, 12.0, 2.0], &[1.0, 4.0, 7.0, 1.0, 0.0]).unwrap();
        assert!((tau + 0.471_404_520_791_03).abs() < 1e-12, "{tau}");
    }
}
