//! Histograms of gradients, as W&B writes them, and the norm that is estimated from one.

use super::error::LogProblem;

/// Bins of the widest histogram that is taken for one.
const MAX_BINS: usize = 100_000;

/// A histogram as W&B writes it: counts with their edges, or counts with the first edge and one width.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) counts: Vec<f64>,
    pub(super) edges: Vec<f64>,
    pub(super) packed: Option<Packed>,
}

/// The API's short form of equal bins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Packed {
    pub(super) min: f64,
    pub(super) size: f64,
}

impl From<(f64, f64)> for Packed {
    fn from((min, size): (f64, f64)) -> Self {
        Self { min, size }
    }
}

impl Histogram {
    /// Whether the object held nothing of a histogram.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.edges.is_empty() && self.packed.is_none()
    }

    /// The L2 norm that elements spread evenly over their bins would have: √Σ cᵢ(mᵢ² + wᵢ²/12), with cᵢ elements in a
    /// bin of middle mᵢ and width wᵢ.
    pub(super) fn norm(&self) -> Result<f64, LogProblem> {
        let problem = |what: &str| LogProblem::Histogram(what.to_owned());
        if self.counts.is_empty() || self.counts.len() > MAX_BINS {
            return Err(LogProblem::Histogram(format!("{} bins", self.counts.len())));
        }
        if self.counts.iter().any(|count| !(count.is_finite() && *count >= 0.0)) {
            return Err(problem("a count is no whole number from 0"));
        }
        if let Some(constant) = self.constant() {
            return Ok(constant.abs() * self.count().sqrt());
        }
        let square = |low: f64, high: f64| {
            let (middle, width) = (f64::midpoint(low, high), high - low);
            middle * middle + width * width / 12.0
        };
        let sum: f64 = if self.edges.is_empty() {
            let Packed { min, size } = self.packed.ok_or_else(|| problem("values without bins"))?;
            let edge = |i: usize| min + size * i as f64;
            self.counts.iter().enumerate().map(|(i, count)| count * square(edge(i), edge(i + 1))).sum()
        } else {
            if self.edges.len() != self.counts.len() + 1 {
                return Err(LogProblem::Histogram(format!(
                    "{} bins need one edge more, not {}",
                    self.counts.len(),
                    self.edges.len()
                )));
            }
            self.counts.iter().zip(self.edges.windows(2)).fold(0.0, |sum, (count, edges)| match edges {
                [low, high] => sum + count * square(*low, *high),
                _ => sum,
            })
        };
        Ok(sum.sqrt())
    }

    /// Elements that were counted.
    pub(super) fn count(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// The value of all elements, where they are equal: numpy then spreads the bins from half below it to half above it.
    fn constant(&self) -> Option<f64> {
        let (low, high) = match (self.edges.as_slice(), self.packed) {
            ([low, .., high], _) => (*low, *high),
            (_, Some(Packed { min, size })) => (min, min + size * self.counts.len() as f64),
            _ => return None,
        };
        let one = self.counts.len() > 1 && self.counts.iter().filter(|count| **count > 0.0).count() == 1;
        (one && (high - low - 1.0).abs() < 1e-6).then(|| f64::midpoint(low, high)).map(round_away)
    }
}

/// A middle without the rounding errors of edges that lie around ±0.5.
fn round_away(middle: f64) -> f64 {
    if middle.abs() < 1e-9 { 0.0 } else { middle }
}

/// One array of a histogram, where a file has each under a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Counts.
    Values,
    /// Edges.
    Bins,
    /// First edge of equal bins.
    Min,
    /// Width of equal bins.
    Size,
    /// What says nothing of the norm.
    Nothing,
}

impl Part {
    const KEYS: [(&str, Self); 6] = [
        ("values", Self::Values),
        ("bins", Self::Bins),
        ("min", Self::Min),
        ("size", Self::Size),
        ("count", Self::Nothing),
        ("_type", Self::Nothing),
    ];

    /// The key of the histogram and the part of it that a key names.
    pub(super) fn of_key(key: &str) -> Option<(&str, Self)> {
        let (base, part) = Self::KEYS.iter().find_map(|(name, part)| {
            let base = key.strip_suffix(name)?.strip_suffix(['.', '/'])?;
            Some((base, *part))
        })?;
        Some((base.strip_suffix("packedBins").and_then(|base| base.strip_suffix(['.', '/'])).unwrap_or(base), part))
    }
}
