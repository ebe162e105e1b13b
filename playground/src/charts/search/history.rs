//! How the search has fared, trial by trial.

use hydra_shared::performance::Estimate;
use hydra_shared::search::Origin;

use super::{BOTTOM, LEFT, TOP, digits, origin, paint};
use crate::charts::{Chart, WIDTH};
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::performance::{Curve, Progress};
use crate::scale::{Scale, counting_axis, vertical_axis};
use crate::table::{Cell, Table};

/// From one line of the legend to the next.
const LINE: f64 = 14.0;

/// A trial that has ended, as far as its scores go.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredTrial {
    /// Its number.
    pub number: usize,
    /// Where its schedule comes from, in a word or two.
    pub origin: String,
    /// Whether a model proposed it.
    pub proposed: bool,
    /// The score that was predicted before it ran, where it is to be shown.
    pub predicted: Option<Estimate>,
    /// The measured score, or why there is none.
    pub score: Result<f64, String>,
}

impl ScoredTrial {
    fn measured(&self) -> Option<f64> {
        self.score.as_ref().ok().copied()
    }
}

/// How the search has fared: every trial, the best so far, and, where the response is made up, the rivals and the optimum.
pub fn history(progress: &Progress, width: f64) -> Chart {
    let trials: Vec<ScoredTrial> = progress
        .trials
        .iter()
        .map(|trial| ScoredTrial {
            number: trial.number,
            origin: origin(trial),
            proposed: matches!(trial.origin, Origin::Proposed { .. }),
            predicted: None,
            score: trial.objective.ok_or_else(|| trial.error.clone().unwrap_or_else(|| "no score".to_owned())),
        })
        .collect();
    let bound = progress.optimum.as_ref().map(|optimum| optimum.bound);
    scores("Best score so far", &trials, &progress.curves, bound, width)
}

/// The scores of trials as measured and, where they are given, as predicted, with the best so far: of the trials, or of
/// searches on a made-up response whose best possible score is `bound`.
pub fn scores(title: &str, trials: &[ScoredTrial], curves: &[Curve], bound: Option<f64>, width: f64) -> Chart {
    // On a telephone the legend is a line for each of its parts, of which there are three at most.
    let is_narrow = width < WIDTH;
    let (top, plot) = if is_narrow { (TOP + 2.0 * LINE, 200.0) } else { (TOP, 300.0) };
    let (bottom, right) = (top + plot, width - 120.0);
    let mut drawing = Drawing { width, height: bottom + BOTTOM, title: title.to_owned(), ..Drawing::default() };
    let best_measured = best_measured(trials);
    let measured = trials.iter().filter_map(ScoredTrial::measured);
    let digits = digits(measured.clone().chain(bound));
    let predicted = trials.iter().filter_map(|trial| trial.predicted);
    let values = measured
        .chain(predicted.clone().flat_map(|score| [score.mean - score.std, score.mean + score.std]))
        .chain(curves.iter().flat_map(|curve| curve.best.iter().copied()))
        .chain(bound);
    let y = Scale::around(values, bottom, top);
    let last = trials.last().map_or(0, |trial| trial.number);
    let longest = curves.iter().map(|curve| curve.best.len()).max().unwrap_or(0);
    let x = Scale::new(0.0, last.max(longest.saturating_sub(1)).max(1) as f64, LEFT + 8.0, right - 8.0);
    vertical_axis(&mut drawing, &y, LEFT, right, "mean score");
    counting_axis(&mut drawing, &x, bottom, "trial");

    let mut labels: Vec<(f64, Paint, String)> = Vec::new();
    if let Some(bound) = bound {
        let at = y.at(bound);
        let tip = format!("Best possible within the budget: {bound:.digits$}");
        drawing.marks.push(Mark::dashed(LEFT, at, right, at, Paint::Text).with_tip(tip));
        labels.push((at, Paint::Text, "best possible".to_owned()));
    }
    // The search that is shown is drawn last, over its rivals.
    for curve in curves.iter().filter(|curve| !curve.shown).chain(curves.iter().filter(|curve| curve.shown)) {
        let Some(&end) = curve.best.last() else { continue };
        let steps = steps(curve.best.iter().enumerate().map(|(trial, score)| (x.at(trial as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, paint(curve.model));
        line.stroke_width = if curve.shown { 3.0 } else { 1.5 };
        drawing.marks.push(line.with_tip(format!("{}: {end:.digits$}", curve.title)));
        labels.push((y.at(end), paint(curve.model), curve.title.clone()));
    }
    if curves.is_empty() {
        let steps = steps(best_measured.iter().map(|(number, score)| (x.at(*number as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, Paint::First);
        line.stroke_width = 3.0;
        drawing.marks.push(line);
        labels.extend(best_measured.last().map(|(_, score)| (y.at(*score), Paint::First, "best so far".to_owned())));
    }
    for trial in trials {
        let (at, subject) = (x.at(trial.number as f64), Subject::Trial(trial.number));
        if let Some(Estimate { mean, std }) = trial.predicted {
            let tip = format!("Trial {}: predicted {mean:.digits$} ± {std:.digits$}", trial.number);
            drawing.marks.push(Mark::line(at, y.at(mean - std), at, y.at(mean + std), Paint::Second).about(subject));
            let ring = Mark::circle(at, y.at(mean), 5.5, Paint::Page).outlined(Paint::Second, 2.0);
            drawing.marks.push(ring.about(subject).with_tip(tip));
        }
        let score = match &trial.score {
            Ok(score) => *score,
            Err(error) => {
                let tip = format!("Trial {} failed: {error}", trial.number);
                let cross = Mark::text(at, bottom - 4.0, Anchor::Middle, 14.0, Paint::Alarm, "×");
                drawing.marks.push(cross.about(subject).with_tip(tip));
                continue;
            }
        };
        let tip = format!("Trial {}, {}: {score:.digits$}", trial.number, trial.origin);
        let dot = if trial.proposed {
            Mark::circle(at, y.at(score), 4.0, Paint::Text)
        } else {
            Mark::circle(at, y.at(score), 3.5, Paint::Page).outlined(Paint::Text, 1.5)
        };
        drawing.marks.push(dot.about(subject).with_tip(tip));
    }
    for (at, paint, text) in apart(labels) {
        drawing.marks.push(Mark::text(right + 6.0, at + 4.0, Anchor::Start, 11.0, paint, text));
    }
    let mut legend = vec!["dots: trials as measured, filled if a model proposed them"];
    if !curves.is_empty() {
        // Noise can make another schedule seem the best: such a line may fall.
        legend.push("lines: the worth, without noise, of the best so far");
    }
    if predicted.count() > 0 {
        legend.push("rings: as predicted before, ± standard deviation");
    }
    let together = legend.join("; ");
    let lines = if is_narrow { legend } else { vec![together.as_str()] };
    for (line, text) in lines.into_iter().enumerate() {
        drawing.marks.push(Mark::text(LEFT, 16.0 + LINE * line as f64, Anchor::Start, 11.0, Paint::Soft, text));
    }
    drawing.summary = summary(trials, curves, bound, &best_measured, digits);
    Chart { drawing: drawing.into(), table: table(trials, curves, bound) }
}

/// A line that keeps its height until the next point.
pub(super) fn steps(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for (x, y) in points {
        let before = line.last().map(|&(_, before)| (x, before));
        line.extend(before);
        line.push((x, y));
    }
    line
}

/// Labels from top to bottom, moved so that none covers another.
pub(super) fn apart(mut labels: Vec<(f64, Paint, String)>) -> Vec<(f64, Paint, String)> {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::NEG_INFINITY;
    for (at, ..) in &mut labels {
        *at = at.max(free);
        free = *at + 13.0;
    }
    labels
}

/// The best measured score after each complete trial, by the trial's number.
fn best_measured(trials: &[ScoredTrial]) -> Vec<(usize, f64)> {
    let mut best = f64::NEG_INFINITY;
    let scored = trials.iter().filter_map(|trial| Some((trial.number, trial.measured()?)));
    scored
        .map(|(number, score)| {
            best = best.max(score);
            (number, best)
        })
        .collect()
}

fn summary(
    trials: &[ScoredTrial],
    curves: &[Curve],
    bound: Option<f64>,
    best: &[(usize, f64)],
    digits: usize,
) -> String {
    let count = trials.len();
    let Some((_, best)) = best.last() else {
        return if count == 0 {
            "No trial has been run.".to_owned()
        } else {
            format!("None of {count} trials has a score.")
        };
    };
    let shown = curves.iter().find(|curve| curve.shown).and_then(|curve| curve.best.last());
    match (bound, shown) {
        (Some(bound), Some(score)) => format!(
            "After {count} trials the best one's schedule scores {score:.digits$} without noise, {:.digits$} below the best \
             possible.",
            bound - score
        ),
        _ => format!("The best of {count} trials scored {best:.digits$}."),
    }
}

fn table(trials: &[ScoredTrial], curves: &[Curve], bound: Option<f64>) -> Table {
    let predicted = trials.iter().any(|trial| trial.predicted.is_some());
    let mut columns = vec!["trial".to_owned(), "origin".to_owned()];
    if predicted {
        columns.extend(["predicted", "standard deviation"].map(str::to_owned));
    }
    columns.push("score".to_owned());
    if curves.is_empty() {
        columns.push("best so far".to_owned());
    }
    for curve in curves {
        columns.push(format!("best so far, {}", curve.title));
        columns.push(format!("regret, {}", curve.title));
    }
    let mut table = Table { columns, rows: Vec::new() };
    let mut best = f64::NEG_INFINITY;
    for (index, trial) in trials.iter().enumerate() {
        let mut row = vec![Cell::Whole(trial.number as u64), Cell::Text(trial.origin.clone())];
        if predicted {
            row.push(number(trial.predicted.map(|score| score.mean)));
            row.push(number(trial.predicted.map(|score| score.std)));
        }
        row.push(trial.measured().map_or_else(|| Cell::Text("failed".to_owned()), Cell::Real));
        if curves.is_empty() {
            best = trial.measured().map_or(best, |score| best.max(score));
            row.push(number(Some(best).filter(|best| best.is_finite())));
        }
        for curve in curves {
            let score = curve.best.get(index).copied();
            row.push(number(score));
            row.push(number(score.zip(bound).map(|(score, bound)| bound - score)));
        }
        table.push(row);
    }
    table
}

/// A number, or an empty cell.
fn number(value: Option<f64>) -> Cell {
    value.map_or_else(|| Cell::Text(String::new()), Cell::Real)
}
