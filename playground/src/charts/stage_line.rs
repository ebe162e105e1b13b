//! The layer norms on a line, and K-means at work on them.

use hydra_shared::stages::nearest;

use super::Chart;
use super::norms::digits;
use crate::analysis::Analysis;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::scale::{Scale, horizontal_axis};
use crate::table::Table;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 16.0;
const LINE: f64 = 118.0;

/// A moment of K-means: each iteration has two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Layers went to their nearest centroid.
    Assign,
    /// Centroids went to the mean of their layers.
    Update,
}

/// Number of moments of a run: an assignment for each set of centroids, an update between two of them.
pub fn moments(steps: &[Vec<f64>]) -> usize {
    (2 * steps.len()).saturating_sub(1)
}

/// What happens at a moment, counted from 0: the iteration and its half.
pub fn half(moment: usize) -> (usize, Half) {
    if moment.is_multiple_of(2) { (moment / 2, Half::Assign) } else { (moment / 2, Half::Update) }
}

/// What a moment is called.
pub fn caption(steps: &[Vec<f64>], moment: usize) -> String {
    let last = moments(steps).saturating_sub(1);
    let (iteration, half) = half(moment.min(last));
    let what = match half {
        Half::Assign if moment >= last => "nothing moves any more: these are the stages",
        Half::Assign if iteration == 0 => "centroids drawn by K-means++; every layer goes to the nearest",
        Half::Assign => "every layer goes to its nearest centroid",
        Half::Update => "every centroid goes to the mean of its layers",
    };
    format!("Iteration {} of {}: {what}.", iteration + 1, steps.len().max(1))
}

/// The line at a moment of the run `steps`, the centroids before each iteration.
pub fn chart(analysis: &Analysis, steps: &[Vec<f64>], moment: usize) -> Chart {
    let norms = &analysis.plan.layer_norms;
    let x = Scale::around(norms.iter().copied(), LEFT + 10.0, WIDTH - LEFT - 10.0);
    let moment = moment.min(moments(steps).saturating_sub(1));
    let (iteration, now) = half(moment);
    let before = steps.get(iteration).map_or(&[][..], Vec::as_slice);
    let centroids = if now == Half::Update { steps.get(iteration + 1).map_or(before, Vec::as_slice) } else { before };
    let mut drawing = Drawing {
        width: WIDTH,
        height: HEIGHT,
        title: "K-means on the layer norms".to_owned(),
        summary: caption(steps, moment),
        marks: Vec::new(),
    };
    horizontal_axis(&mut drawing, &x, LINE + 12.0, "layer norm");
    // Where one stage ends and the next begins.
    for pair in centroids.windows(2) {
        if let [a, b] = pair {
            let border = x.at(0.5 * (a + b));
            drawing.marks.push(Mark::dashed(border, 22.0, border, LINE + 12.0, Paint::Grid));
        }
    }
    let mut table = Table::new(["layer", "norm", "stage", "centroid"]);
    let mut rows: Vec<f64> = Vec::new();
    let mut order: Vec<usize> = (0..norms.len()).collect();
    let norm_of = |layer: usize| norms.get(layer).copied().unwrap_or(0.0);
    order.sort_by(|a, b| norm_of(*a).total_cmp(&norm_of(*b)));
    let mut places = vec![(0.0, 0.0); norms.len()];
    for layer in order {
        // Points that would cover each other are stacked.
        let at = x.at(norm_of(layer));
        let row = rows.iter().position(|last| at - last >= 10.0).unwrap_or(rows.len());
        match rows.get_mut(row) {
            Some(last) => *last = at,
            None => rows.push(at),
        }
        // A stack that is too high goes on from the line again.
        let y = LINE - 9.0 * (row % 8) as f64;
        if let Some(place) = places.get_mut(layer) {
            *place = (at, y);
        }
    }
    for (layer, (cx, cy)) in places.into_iter().enumerate() {
        let (stage, _) = nearest(before, norm_of(layer));
        let centroid = before.get(stage).copied().unwrap_or(0.0);
        let tip = format!("Layer {layer}: norm {}, nearest to centroid {}", digits(norm_of(layer)), digits(centroid));
        let dot = Mark::circle(cx, cy, 4.5, Paint::Stage(stage, before.len()));
        drawing.marks.push(dot.outlined(Paint::Page, 0.8).about(Subject::Layer(layer)).with_tip(tip));
        table.push([layer.to_string(), digits(norm_of(layer)), (stage + 1).to_string(), digits(centroid)]);
    }
    for (stage, &centroid) in centroids.iter().enumerate() {
        let at = x.at(centroid);
        let paint = Paint::Stage(stage, centroids.len());
        if let Some(old) = before.get(stage).filter(|old| **old != centroid) {
            drawing.marks.push(Mark::line(x.at(*old), 32.0, at, 32.0, paint));
        }
        drawing.marks.push(Mark::line(at, 32.0, at, LINE + 12.0, paint).faded(0.6));
        let flag = format!("M{at} 40L{} 26L{} 26Z", at - 7.0, at + 7.0);
        drawing.marks.push(Mark::path(flag, paint));
        let name = format!("{} · {}", stage + 1, digits(centroid));
        drawing.marks.push(Mark::text(at, 18.0, Anchor::Middle, 11.0, Paint::Text, name));
    }
    Chart { drawing: drawing.into(), table }
}
