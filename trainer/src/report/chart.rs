//! The little that the charts share: a scale with round ticks, and the frame around a plot.
//!
//! Positions across are percentages, so that a chart fills any width while its text keeps its size.

use maud::{Markup, html};

/// Maps values to positions between 0 and 1, over a range that ends on round numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// Covers all finite values given; `from_zero` makes 0 part of it. About `ticks` ticks.
    pub fn over(values: impl IntoIterator<Item = f64>, from_zero: bool, ticks: usize) -> Self {
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for value in values.into_iter().filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if from_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            // All values are the same: show some room over them, and under them unless 0 is the floor.
            let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            (low, high) = (if from_zero { low } else { low - room }, high + room);
        }
        let step = round_step((high - low) / ticks.max(1) as f64);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// Position of a value: 0 at the low end, 1 at the high end.
    pub fn at(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Round values, from low to high, with their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        let decimals = (-self.step.log10().floor()).clamp(0.0, 12.0) as usize;
        (0..=count)
            .map(|index| {
                let value = self.low + index as f64 * self.step;
                // Not "-0".
                let value = if value.abs() < self.step * 1e-9 { 0.0 } else { value };
                (value, format!("{value:.decimals$}"))
            })
            .collect()
    }
}

/// The next of 1, 2, 5 × 10ⁿ that is not smaller.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= step * (1.0 - 1e-9)).unwrap_or(step)
}

/// A percentage for an SVG attribute.
pub fn percent(share: f64) -> String {
    format!("{:.3}%", share * 100.0)
}

/// Pixels for an SVG attribute.
pub fn px(length: f64) -> String {
    format!("{length:.1}")
}

/// A number with about four significant digits.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if !(-5.0..6.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let decimals = (3.0 - magnitude).clamp(0.0, 8.0) as usize;
    format!("{value:.decimals$}")
}

/// A chart with its heading, drawing and table.
pub struct Figure<'a> {
    /// Unique in the page; names the title and description for screen readers.
    pub id: &'a str,
    /// Short title.
    pub title: &'a str,
    /// What a person who does not see it should know.
    pub description: &'a str,
    /// Height of the drawing in pixels.
    pub height: f64,
    /// Largest width in pixels.
    pub max_width: u32,
    /// Width of the labels on the left, in pixels.
    pub labels_width: u32,
    /// The labels on the left: their own drawing, since they have a fixed width.
    pub labels: Markup,
    /// The drawing.
    pub drawing: Markup,
    /// What colours and marks mean.
    pub legend: Markup,
    /// The same numbers as a table.
    pub table: Markup,
}

impl Figure<'_> {
    /// The whole figure.
    pub fn render(&self) -> Markup {
        let (title_id, description_id) = (format!("{}-title", self.id), format!("{}-description", self.id));
        let height = px(self.height);
        html! {
            figure style={ "max-width:" (self.max_width) "px" } {
                figcaption { (self.title) }
                (self.legend)
                div class="plot" {
                    svg class="labels" width=(self.labels_width) height=(height) aria-hidden="true" { (self.labels) }
                    svg class="drawing" width="100%" height=(height) role="img"
                        aria-labelledby={ (title_id) " " (description_id) } {
                        title id=(title_id) { (self.title) }
                        desc id=(description_id) { (self.description) }
                        (self.drawing)
                    }
                }
                details { summary { "The numbers as a table" } div class="scroll" { (self.table) } }
            }
        }
    }
}

/// Horizontal grid lines of a vertical scale that ends `bottom` pixels under the top.
pub fn grid(scale: &Scale, top: f64, bottom: f64) -> Markup {
    html! {
        @for (value, _) in scale.ticks() {
            @let y = px(height_of(scale, value, top, bottom));
            line class="grid" x1="0" x2="100%" y1=(y) y2=(y) {}
        }
    }
}

/// Labels of the same grid, to stand left of it.
pub fn grid_labels(scale: &Scale, top: f64, bottom: f64, width: u32) -> Markup {
    html! {
        @for (value, label) in scale.ticks() {
            text class="end" x=(width.saturating_sub(6)) y=(px(height_of(scale, value, top, bottom) + 4.0)) { (label) }
        }
    }
}

/// Vertical position of a value, in pixels from the top.
pub fn height_of(scale: &Scale, value: f64, top: f64, bottom: f64) -> f64 {
    bottom - scale.at(value) * (bottom - top)
}

/// Steps of the colour ramp in `style.css`.
pub const RAMP: usize = 8;

/// Step of the ramp for a stage: the lowest is pale, the highest strong, the others evenly between.
pub fn stage_step(stage: usize, stages: usize) -> usize {
    if stages < 2 {
        return RAMP / 2;
    }
    // The palest step is hard to see beside the page's own colour.
    1 + stage.min(stages - 1) * (RAMP - 2) / (stages - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(labels(&Scale::over([0.005, 0.045], true, 5)), ["0.00", "0.01", "0.02", "0.03", "0.04", "0.05"]);
        assert_eq!(labels(&Scale::over([61.2, 68.9], false, 4)), ["60", "62", "64", "66", "68", "70"]);
        assert_eq!(labels(&Scale::over([-3.0, 2.0], false, 5)), ["-3", "-2", "-1", "0", "1", "2"]);
    }

    #[test]
    fn a_scale_without_spread_or_without_values_still_has_room() {
        for scale in [Scale::over([], false, 4), Scale::over([7.0, 7.0], false, 4), Scale::over([0.0], true, 4)] {
            assert!(scale.high > scale.low && scale.ticks().len() >= 2, "{scale:?}");
        }
        assert!(Scale::over([f64::NAN, 2.0], false, 4).at(2.0).is_finite());
    }

    #[test]
    fn positions_run_from_zero_to_one() {
        let scale = Scale::over([0.0, 10.0], true, 5);
        assert_eq!((scale.at(0.0), scale.at(5.0), scale.at(10.0), scale.at(99.0)), (0.0, 0.5, 1.0, 1.0));
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        assert_eq!(number(0.012_345), "0.01235");
        assert_eq!(number(123.456), "123.5");
        assert_eq!(number(0.0), "0.000");
        assert_eq!(number(f64::NAN), "n/a");
        assert_eq!(number(1.5e-9), "1.500e-9");
    }

    #[test]
    fn stages_use_the_ramp_from_pale_to_strong() {
        assert_eq!((0..3).map(|s| stage_step(s, 3)).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(stage_step(0, 1), 4);
        assert!((0..20).map(|s| stage_step(s, 20)).all(|step| (1..RAMP).contains(&step)));
    }
}
