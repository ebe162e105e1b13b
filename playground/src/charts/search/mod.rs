//! The search: what the models predicted and what was measured, how the search has fared, and why a schedule is proposed.

mod coordinates;
mod errors;
mod history;
mod one_more;
mod predictions;
mod reasons;
mod verdict;

use hydra_shared::performance::ModelKind;
use hydra_shared::search::{NamedProposer, Origin, PlainTrial};

use crate::charts::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::table::Table;

pub use self::coordinates::{Brush, COORDINATES, Coordinate, Coordinates, marked};
pub use self::errors::errors;
pub use self::history::{ScoredTrial, history, scores};
pub use self::one_more::Notch;
pub use self::predictions::predictions;
pub use self::reasons::{reasons, warnings};
pub use self::verdict::{Compared, Verdict, verdict};

const LEFT: f64 = 62.0;
const TOP: f64 = 30.0;
/// Room under a plot for the axis and its name.
const BOTTOM: f64 = 44.0;

/// The colour of a model, the same wherever it stands; of proposals without one.
fn paint(model: Option<ModelKind>) -> Paint {
    match model {
        Some(ModelKind::Transformer) => Paint::First,
        Some(ModelKind::Ridge) => Paint::Second,
        Some(ModelKind::GaussianProcess) => Paint::Text,
        None => Paint::Soft,
    }
}

/// What a performance model or another proposer is called.
fn proposer_title(name: &str) -> &str {
    let other = || NamedProposer::all().find(|proposer| proposer.name == name).map(|proposer| proposer.title);
    ModelKind::from_name(name).map(ModelKind::title).or_else(other).unwrap_or(name)
}

/// Where a trial comes from, in a word or two.
pub fn origin(trial: &PlainTrial) -> String {
    match &trial.origin {
        Origin::Start { name } => format!("start: {name}"),
        Origin::Random { .. } => "random".to_owned(),
        Origin::Proposed { model: proposer, .. } | Origin::Chosen { proposer } => {
            format!("proposed by {}", proposer_title(proposer))
        }
        Origin::Replicate { of } => format!("trial {of} again"),
        Origin::Foreign => "another program".to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// As many decimals as tell scores apart: a hundredth of what they differ by.
fn digits(scores: impl IntoIterator<Item = f64>) -> usize {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for score in scores {
        (low, high) = (low.min(score), high.max(score));
    }
    let extent = high - low;
    if !extent.is_finite() || extent <= 0.0 {
        return 2;
    }
    // At most eight, so the conversion is exact.
    (2.0 - libm::floor(libm::log10(extent))).clamp(0.0, 8.0) as usize
}

fn without_plot(mut drawing: Drawing, table: Table, reason: &str) -> Chart {
    let (x, y) = (0.5 * drawing.width, 0.5 * drawing.height);
    drawing.marks.push(Mark::text(x, y, Anchor::Middle, 12.0, Paint::Soft, reason));
    drawing.summary = reason.to_owned();
    Chart { drawing: drawing.into(), table }
}

#[cfg(test)]
mod tests;
