//! The figures of the page of evidence.

use hydra_playground::drawing::{Anchor, Drawing, Mark, Paint};
use hydra_playground::scale::{Scale, horizontal_axis, vertical_axis};
use hydra_shared::statistics::Interval;

use super::analysis::RatePoint;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Where the names of lines stand.
const NAMES: f64 = 190.0;
/// Height of a row of intervals.
const ROW: f64 = 20.0;

/// Differences with their intervals, a row each; 0 is marked.
pub fn intervals(title: &str, axis: &str, rows: &[(String, Interval)]) -> Drawing {
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let ends = rows.iter().flat_map(|(_, interval)| [interval.low, interval.high]);
    let x = Scale::around(ends.chain([0.0]), NAMES + 10.0, WIDTH - 20.0);
    let mut drawing = Drawing {
        width: WIDTH,
        height,
        title: title.to_owned(),
        summary: format!("{} arms with their 95 % intervals; 0 is the baseline.", rows.len()),
        marks: Vec::new(),
    };
    drawing.marks.push(Mark::rect(0.0, 0.0, WIDTH, height, Paint::Page));
    let zero = x.at(0.0);
    drawing.marks.push(Mark::line(zero, TOP, zero, height - BOTTOM, Paint::Soft));
    for (row, (name, interval)) in rows.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        let paint = if interval.excludes_zero() { Paint::First } else { Paint::Soft };
        drawing.marks.push(Mark::text(NAMES, y + 4.0, Anchor::End, 11.0, Paint::Text, name.as_str()));
        let line = Mark::line(x.at(interval.low), y, x.at(interval.high), y, paint);
        drawing.marks.push(Mark { stroke_width: 2.0, ..line });
        drawing.marks.push(Mark::circle(x.at(interval.estimate), y, 3.5, paint));
    }
    horizontal_axis(&mut drawing, &x, height - BOTTOM, axis);
    drawing
}

/// A line of a chart: its name and its points.
pub type Series = (String, Vec<(f64, f64)>);

/// Lines over a logarithmic axis whose ticks are `ticks`, with the names at their ends.
pub fn lines(title: &str, axes: [&str; 2], ticks: &[(f64, String)], series: &[Series]) -> Drawing {
    const HEIGHT: f64 = 320.0;
    let right = WIDTH - NAMES;
    let position = |value: f64| value.max(f64::MIN_POSITIVE).log2();
    let x = Scale::around(ticks.iter().map(|(value, _)| position(*value)), LEFT, right);
    let y =
        Scale::around(series.iter().flat_map(|(_, points)| points.iter().map(|point| point.1)), HEIGHT - BOTTOM, TOP);
    let mut drawing = Drawing {
        width: WIDTH,
        height: HEIGHT,
        title: title.to_owned(),
        summary: format!("{} by {}, one line each for {} arms.", axes[1], axes[0], series.len()),
        marks: Vec::new(),
    };
    drawing.marks.push(Mark::rect(0.0, 0.0, WIDTH, HEIGHT, Paint::Page));
    vertical_axis(&mut drawing, &y, LEFT, right, axes[1]);
    for (value, label) in ticks {
        let at = x.at(position(*value));
        drawing.marks.push(Mark::line(at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4.0, Paint::Soft));
        drawing.marks.push(Mark::text(at, HEIGHT - BOTTOM + 16.0, Anchor::Middle, 11.0, Paint::Soft, label.as_str()));
    }
    let middle = 0.5 * (LEFT + right);
    drawing.marks.push(Mark::text(middle, HEIGHT - 12.0, Anchor::Middle, 11.0, Paint::Soft, axes[0]));
    let mut ends = Vec::new();
    for (index, (name, points)) in series.iter().enumerate() {
        let paint = Paint::Stage(index, series.len());
        let at: Vec<(f64, f64)> =
            points.iter().map(|(value, height)| (x.at(position(*value)), y.at(*height))).collect();
        for (cx, cy) in &at {
            drawing.marks.push(Mark::circle(*cx, *cy, 2.5, paint));
        }
        ends.extend(at.last().map(|end| (name, paint, *end)));
        drawing.marks.push(Mark { stroke_width: 2.0, ..Mark::polyline(at, paint) });
    }
    // Names beside the ends of the lines, apart from each other.
    ends.sort_by(|a, b| a.2.1.total_cmp(&b.2.1));
    let mut above = f64::NEG_INFINITY;
    for (name, paint, (end_x, end_y)) in ends {
        above = end_y.max(above + 13.0);
        drawing.marks.push(Mark::line(end_x, end_y, right + 12.0, above, Paint::Grid));
        drawing.marks.push(Mark::text(right + 16.0, above + 4.0, Anchor::Start, 11.0, paint, name.as_str()).bold());
    }
    drawing
}

/// Validation score by learning rate.
pub fn rate_curves(title: &str, curves: &[(String, Vec<RatePoint>)]) -> Drawing {
    let mut rates: Vec<f64> = curves.iter().flat_map(|(_, curve)| curve.iter().map(|point| point.rate)).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let ticks: Vec<(f64, String)> = rates.into_iter().map(|rate| (rate, format!("{rate:.1e}"))).collect();
    let points = |curve: &[RatePoint]| curve.iter().filter_map(|point| Some((point.rate, point.score?))).collect();
    let series: Vec<Series> = curves.iter().map(|(name, curve)| (name.clone(), points(curve))).collect();
    lines(title, ["learning rate", "validation score, %"], &ticks, &series)
}
