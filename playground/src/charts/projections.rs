//! Gradient norm by projection, as in the paper's Table I.

use super::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::scale::{Scale, horizontal_axis};
use crate::table::Table;
use crate::text::significant;

const WIDTH: f64 = 520.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 14.0;
const ROW: f64 = 26.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 44.0;

/// The norm of one projection, averaged over layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormOfProjection<'a> {
    /// Its name.
    pub name: &'a str,
    /// The norm.
    pub norm: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// A bar per projection with twice its standard error, and a line at the mean of all, below which bars are pale.
pub fn chart(rows: &[NormOfProjection<'_>]) -> Chart {
    let mean = rows.iter().map(|row| row.norm).sum::<f64>() / rows.len().max(1) as f64;
    let bottom = TOP + ROW * rows.len() as f64;
    let ends = rows.iter().map(|row| row.norm + 2.0 * row.standard_error);
    let most = ends.filter(|end| end.is_finite()).fold(0.0, f64::max);
    let x = Scale::new(0.0, if most > 0.0 { 1.02 * most } else { 1.0 }, LEFT, WIDTH - RIGHT);
    let mut drawing = Drawing {
        width: WIDTH,
        height: bottom + BOTTOM,
        title: "Gradient norm by projection, averaged over layers".to_owned(),
        summary: summary(rows, mean),
        marks: Vec::new(),
    };
    horizontal_axis(&mut drawing, &x, bottom, "gradient norm");
    let mut table = Table::new(["projection", "norm", "standard error", "relative to the mean"]);
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let middle = y + ROW / 2.0;
        let tip = format!("{}: norm {:.4} ± {:.4}", row.name, row.norm, row.standard_error);
        drawing.marks.push(Mark::text(LEFT - 6.0, middle + 4.0, Anchor::End, 12.0, Paint::Text, row.name));
        let bar = Mark::rect(LEFT, y + 4.0, x.at(row.norm) - LEFT, ROW - 8.0, Paint::First).rounded(2.0);
        drawing.marks.push(if row.norm > mean { bar } else { bar.faded(0.45) }.with_tip(tip));
        let whisker = [row.norm - 2.0 * row.standard_error, row.norm + 2.0 * row.standard_error].map(|end| x.at(end));
        drawing.marks.push(Mark::line(whisker[0].max(LEFT), middle, whisker[1], middle, Paint::Text));
        table.push([
            row.name.to_owned(),
            significant(row.norm),
            significant(row.standard_error),
            significant(row.norm / mean),
        ]);
    }
    drawing.marks.push(Mark::dashed(x.at(mean), TOP - 4.0, x.at(mean), bottom, Paint::Text));
    let label = format!("mean of all: {}", significant(mean));
    drawing.marks.push(Mark::text(x.at(mean), TOP - 10.0, Anchor::Middle, 11.0, Paint::Soft, label));
    Chart { drawing: drawing.into(), table }
}

fn summary(rows: &[NormOfProjection<'_>], mean: f64) -> String {
    let above: Vec<&str> = rows.iter().filter(|row| row.norm > mean).map(|row| row.name).collect();
    let above = if above.is_empty() { "none".to_owned() } else { above.join(", ") };
    format!("{} projections. Above their mean of {}: {above}.", rows.len(), significant(mean))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Theme;

    #[test]
    fn projections_above_the_mean_are_named_and_stand_out() {
        let norms = [("q", 1.0), ("up", 4.0), ("down", 2.0)];
        let chart = chart(&norms.map(|(name, norm)| NormOfProjection { name, norm, standard_error: 0.1 }));
        assert!(chart.drawing.summary.ends_with("Above their mean of 2.333: up."), "{}", chart.drawing.summary);
        let bars = chart.drawing.marks.iter().filter(|mark| mark.tag() == "rect");
        assert_eq!(bars.map(|bar| bar.opacity).collect::<Vec<_>>(), [0.45, 1.0, 0.45]);
        assert_eq!(chart.table.rows[0][3], "0.4286");
    }

    #[test]
    fn norms_of_zero_still_have_a_picture() {
        let chart = chart(&[NormOfProjection { name: "q", norm: 0.0, standard_error: 0.0 }]);
        let svg = chart.drawing.to_svg(Theme::Dark, None);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
