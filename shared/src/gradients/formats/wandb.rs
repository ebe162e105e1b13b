//! W&B history: `wandb.watch` logs each gradient as a histogram of its elements.

use jiter::{Jiter, JiterResult, Peek};

use super::super::error::LogProblem;

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
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    min: f64,
    size: f64,
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
}

/// Reads an array of numbers.
pub(super) fn read_array(json: &mut Jiter<'_>, into: &mut Vec<f64>) -> JiterResult<()> {
    into.clear();
    let mut next = json.next_array()?;
    while let Some(peek) = next {
        into.push(json.known_float(peek)?);
        next = json.array_step()?;
    }
    Ok(())
}

/// Reads `{"min", "size", "count"}`.
pub(super) fn read_packed(json: &mut Jiter<'_>) -> JiterResult<Option<Packed>> {
    let peek = json.peek()?;
    if peek != Peek::Object {
        json.known_skip(peek)?;
        return Ok(None);
    }
    let (mut min, mut size) = (None, None);
    let mut next = json.known_object()?.map(str::to_owned);
    while let Some(key) = next {
        match key.as_str() {
            "min" => min = Some(json.next_float()?),
            "size" => size = Some(json.next_float()?),
            _ => json.next_skip()?,
        }
        next = json.next_key()?.map(str::to_owned);
    }
    Ok(min.zip(size).map(|(min, size)| Packed { min, size }))
}
