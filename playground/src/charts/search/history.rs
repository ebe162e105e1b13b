//! How the search has fared, trial by trial.

use hydra_shared::search::{Origin, PlainTrial};

use super::{BOTTOM, LEFT, TOP, WIDTH, digits, origin, paint};
use crate::charts::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::performance::Progress;
use crate::scale::{Scale, horizontal_axis, vertical_axis};
use crate::table::Table;

/// How the search has fared: every trial, the best so far, and, where the response is made up, the rivals and the optimum.
pub fn history(progress: &Progress) -> Chart {
    let (height, right) = (300.0, WIDTH - 120.0);
    let mut drawing = Drawing {
        width: WIDTH,
        height: TOP + height + BOTTOM,
        title: "Best score so far".to_owned(),
        ..Drawing::default()
    };
    let best_measured = best_measured(&progress.trials);
    let scores = progress.trials.iter().filter_map(|trial| trial.objective);
    let digits = digits(scores.clone().chain(progress.optimum.iter().map(|optimum| optimum.bound)));
    let values = scores
        .chain(progress.curves.iter().flat_map(|curve| curve.best.iter().copied()))
        .chain(progress.optimum.iter().map(|optimum| optimum.bound));
    let y = Scale::around(values, TOP + height, TOP);
    let last = progress.trials.last().map_or(0, |trial| trial.number);
    let longest = progress.curves.iter().map(|curve| curve.best.len()).max().unwrap_or(0);
    let x = Scale::new(0.0, last.max(longest.saturating_sub(1)).max(1) as f64, LEFT + 8.0, right - 8.0);
    vertical_axis(&mut drawing, &y, LEFT, right, "mean score");
    horizontal_axis(&mut drawing, &x, TOP + height, "trial");

    let mut labels: Vec<(f64, Paint, String)> = Vec::new();
    if let Some(optimum) = &progress.optimum {
        let at = y.at(optimum.bound);
        let tip = format!("Best possible within the budget: {:.digits$}", optimum.bound);
        drawing.marks.push(Mark::dashed(LEFT, at, right, at, Paint::Text).with_tip(tip));
        labels.push((at, Paint::Text, "best possible".to_owned()));
    }
    // The search that is shown is drawn last, over its rivals.
    for curve in progress.curves.iter().filter(|curve| !curve.shown).chain(progress.curves.iter().filter(|c| c.shown)) {
        let Some(&end) = curve.best.last() else { continue };
        let steps = steps(curve.best.iter().enumerate().map(|(trial, score)| (x.at(trial as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, paint(curve.model));
        line.stroke_width = if curve.shown { 3.0 } else { 1.5 };
        drawing.marks.push(line.with_tip(format!("{}: {end:.digits$}", curve.title)));
        labels.push((y.at(end), paint(curve.model), curve.title.clone()));
    }
    if progress.curves.is_empty() {
        let steps = steps(best_measured.iter().map(|(number, score)| (x.at(*number as f64), y.at(*score))));
        let mut line = Mark::polyline(steps, Paint::First);
        line.stroke_width = 3.0;
        drawing.marks.push(line);
        labels.extend(best_measured.last().map(|(_, score)| (y.at(*score), Paint::First, "best so far".to_owned())));
    }
    for trial in &progress.trials {
        let (at, subject) = (x.at(trial.number as f64), Subject::Trial(trial.number));
        let Some(score) = trial.objective else {
            let tip = format!("Trial {} failed: {}", trial.number, trial.error.as_deref().unwrap_or("no score"));
            let cross = Mark::text(at, TOP + height - 4.0, Anchor::Middle, 14.0, Paint::Alarm, "×");
            drawing.marks.push(cross.about(subject).with_tip(tip));
            continue;
        };
        let tip = format!("Trial {}, {}: {score:.digits$}", trial.number, origin(trial));
        let dot = match trial.origin {
            Origin::Proposed { .. } => Mark::circle(at, y.at(score), 4.0, Paint::Text),
            _ => Mark::circle(at, y.at(score), 3.5, Paint::Page).outlined(Paint::Text, 1.5),
        };
        drawing.marks.push(dot.about(subject).with_tip(tip));
    }
    for (at, paint, text) in apart(labels) {
        drawing.marks.push(Mark::text(right + 6.0, at + 4.0, Anchor::Start, 11.0, paint, text));
    }
    let dots = "dots: trials as measured, filled if a model proposed them";
    // Noise can make another schedule seem the best: such a line may fall.
    let lines = if progress.curves.is_empty() { "" } else { "; lines: the worth, without noise, of the best so far" };
    let legend = format!("{dots}{lines}");
    drawing.marks.push(Mark::text(LEFT, 16.0, Anchor::Start, 11.0, Paint::Soft, legend));
    drawing.summary = history_summary(progress, &best_measured, digits);
    Chart { drawing: drawing.into(), table: history_table(progress) }
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
fn best_measured(trials: &[PlainTrial]) -> Vec<(usize, f64)> {
    let mut best = f64::NEG_INFINITY;
    let scored = trials.iter().filter_map(|trial| Some((trial.number, trial.objective?)));
    scored
        .map(|(number, score)| {
            best = best.max(score);
            (number, best)
        })
        .collect()
}

fn history_summary(progress: &Progress, best: &[(usize, f64)], digits: usize) -> String {
    let Some((_, best)) = best.last() else { return "No trial has been run.".to_owned() };
    let shown = progress.curves.iter().find(|curve| curve.shown).and_then(|curve| curve.best.last());
    match (&progress.optimum, shown) {
        (Some(optimum), Some(score)) => format!(
            "After {} trials the best one's schedule scores {score:.digits$} without noise, {:.digits$} below the best \
             possible.",
            progress.trials.len(),
            optimum.bound - score
        ),
        _ => format!("The best of {} trials scored {best:.digits$}.", progress.trials.len()),
    }
}

fn history_table(progress: &Progress) -> Table {
    let mut columns = vec!["trial".to_owned(), "origin".to_owned(), "score".to_owned()];
    if progress.curves.is_empty() {
        columns.push("best so far".to_owned());
    }
    for curve in &progress.curves {
        columns.push(format!("best so far, {}", curve.title));
        columns.push(format!("regret, {}", curve.title));
    }
    let mut table = Table { columns, rows: Vec::new() };
    let mut best = f64::NEG_INFINITY;
    for (index, trial) in progress.trials.iter().enumerate() {
        let mut row = vec![trial.number.to_string(), origin(trial)];
        row.push(trial.objective.map_or_else(|| "failed".to_owned(), |score| score.to_string()));
        if progress.curves.is_empty() {
            best = trial.objective.map_or(best, |score| best.max(score));
            row.push(if best.is_finite() { best.to_string() } else { String::new() });
        }
        for curve in &progress.curves {
            let score = curve.best.get(index);
            row.push(score.map(f64::to_string).unwrap_or_default());
            let regret = score.zip(progress.optimum.as_ref()).map(|(score, optimum)| optimum.bound - score);
            row.push(regret.map(|regret| regret.to_string()).unwrap_or_default());
        }
        table.push(row);
    }
    table
}
