//! From values to positions, and where the ticks of an axis go.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;

use crate::drawing::{Anchor, Drawing, Mark, Paint};

/// A linear scale from values to positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Values from `low` to `high` at positions from `from` to `to`. A range without extent, or one that is not finite,
    /// is widened to one that has some.
    pub fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let (low, high) = match (low.is_finite(), high.is_finite()) {
            (true, true) if high > low => (low, high),
            (true, _) => (low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0)),
            _ => (0.0, 1.0),
        };
        Self { low, high, from, to }
    }

    /// A scale over all finite `values`, with a little room at both ends.
    pub fn around(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        let room = 0.05 * (high - low);
        Self::new(low - room, high + room, from, to)
    }

    /// The position of a value.
    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The value at a position; at positions beyond an end, that end's.
    pub fn value(&self, position: f64) -> f64 {
        let share = ((position - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.low + share * (self.high - self.low)
    }

    /// Lowest and highest value.
    pub fn domain(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round values for ticks, about as many as asked for.
    pub fn ticks(&self, about: usize) -> Vec<f64> {
        // One at 0 may come out as a remainder of rounding, with a sign that would be shown.
        let least = 1e-9 * (self.high - self.low);
        let ticks = RangedCoordf64::from(self.low..self.high).key_points(about);
        ticks.into_iter().map(|tick| if tick.abs() < least { 0.0 } else { tick }).collect()
    }
}

/// Labels of ticks: as many decimals as tell them apart.
pub fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let largest = ticks.iter().fold(0.0_f64, |largest, tick| largest.max(tick.abs()));
    if largest >= 1e6 || (largest > 0.0 && largest < 1e-3) {
        return ticks.iter().map(|tick| if *tick == 0.0 { "0".to_owned() } else { format!("{tick:e}") }).collect();
    }
    let decimals = if step.is_finite() && step > 0.0 { (-libm::floor(libm::log10(step) + 1e-9)).max(0.0) } else { 0.0 };
    ticks.iter().map(|tick| format!("{tick:.*}", decimals as usize)).collect()
}

/// Draws a vertical axis with its grid: ticks at the left of `left`, lines to `right`.
pub fn vertical_axis(drawing: &mut Drawing, scale: &Scale, left: f64, right: f64, name: &str) {
    let ticks = scale.ticks(6);
    for (tick, label) in ticks.iter().zip(tick_labels(&ticks)) {
        let y = scale.at(*tick);
        drawing.marks.push(Mark::line(left, y, right, y, Paint::Grid));
        drawing.marks.push(Mark::text(left - 6.0, y + 4.0, Anchor::End, 11.0, Paint::Soft, label));
    }
    let middle = 0.5 * (scale.from + scale.to);
    drawing.marks.push(Mark::text(13.0, middle, Anchor::Middle, 11.0, Paint::Soft, name).upwards());
}

/// Draws a horizontal axis: ticks under `bottom`, the name under them.
pub fn horizontal_axis(drawing: &mut Drawing, scale: &Scale, bottom: f64, name: &str) {
    axis_below(drawing, scale, bottom, name, &scale.ticks(room_for_labels(scale)));
}

/// A horizontal axis of what is counted, such as layers: ticks at whole numbers alone.
pub fn counting_axis(drawing: &mut Drawing, scale: &Scale, bottom: f64, name: &str) {
    let (first, last) = (libm::ceil(scale.low), libm::floor(scale.high));
    let most = room_for_labels(scale);
    // 1, 2, 5, 10, 20, …
    let mut step = 1.0;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if (last - first) / step < most as f64 || !(last - first).is_finite() {
            break;
        }
        step *= factor;
    }
    let start = libm::ceil(first / step) * step;
    let ticks = (0..most).map(|count| start + count as f64 * step).filter(|tick| *tick <= last);
    // Adding 0 takes the sign off a zero.
    axis_below(drawing, scale, bottom, name, &ticks.map(|tick| tick + 0.0).collect::<Vec<_>>());
}

fn room_for_labels(scale: &Scale) -> usize {
    ((scale.to - scale.from) / 30.0).clamp(2.0, 8.0) as usize
}

fn axis_below(drawing: &mut Drawing, scale: &Scale, bottom: f64, name: &str, ticks: &[f64]) {
    drawing.marks.push(Mark::line(scale.from, bottom, scale.to, bottom, Paint::Soft));
    for (tick, label) in ticks.iter().zip(tick_labels(ticks)) {
        let x = scale.at(*tick);
        drawing.marks.push(Mark::line(x, bottom, x, bottom + 4.0, Paint::Soft));
        drawing.marks.push(Mark::text(x, bottom + 16.0, Anchor::Middle, 11.0, Paint::Soft, label));
    }
    let middle = 0.5 * (scale.from + scale.to);
    drawing.marks.push(Mark::text(middle, bottom + 32.0, Anchor::Middle, 11.0, Paint::Soft, name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Shape;

    #[test]
    fn ticks_are_round_and_lie_inside_the_range() {
        let scale = Scale::new(0.013, 0.987, 0.0, 100.0);
        let ticks = scale.ticks(6);
        assert!(ticks.len() >= 3 && ticks.iter().all(|t| (0.013..=0.987).contains(t)), "{ticks:?}");
        assert_eq!(tick_labels(&[0.2, 0.4, 0.6]), ["0.2", "0.4", "0.6"]);
        let around_0 = Scale::new(-0.5, 0.5, 0.0, 100.0).ticks(6);
        assert_eq!(tick_labels(&around_0), ["-0.4", "-0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(tick_labels(&[0.0, 50.0, 100.0]), ["0", "50", "100"]);
        assert_eq!(tick_labels(&[0.0, 2e6]), ["0", "2e6"]);
    }

    #[test]
    fn what_is_counted_has_ticks_at_whole_numbers_alone() {
        let up_to_16 = ["0", "5", "10", "15"];
        for (count, labels) in [(1, &up_to_16[..1]), (2, &["0", "1"]), (3, &["0", "1", "2"]), (17, &up_to_16)] {
            let mut drawing = Drawing {
                width: 100.0,
                height: 100.0,
                title: String::new(),
                summary: String::new(),
                marks: Vec::new(),
            };
            counting_axis(&mut drawing, &Scale::new(-0.5, f64::from(count) - 0.5, 0.0, 150.0), 0.0, "layer");
            let texts = drawing.marks.iter().filter_map(|mark| match &mark.shape {
                Shape::Text { text, .. } => Some(text.as_str()),
                _ => None,
            });
            assert_eq!(texts.collect::<Vec<_>>(), [labels, &["layer"]].concat());
        }
    }

    #[test]
    fn values_without_extent_still_have_a_scale() {
        for scale in [Scale::around([3.0], 0.0, 10.0), Scale::around([], 0.0, 10.0), Scale::new(0.0, 0.0, 0.0, 10.0)] {
            assert!(scale.at(3.0).is_finite(), "{scale:?}");
        }
        assert_eq!(Scale::around([3.0, 3.0], 0.0, 10.0).at(3.0), 5.0);
    }
}
