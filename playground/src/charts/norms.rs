//! Gradient norm by layer with its spread, coloured by stage.

use hydra_shared::gradients::ModuleNorm;

use super::{Chart, WIDTH};
use crate::analysis::Analysis;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::scale::{Scale, counting_axis, vertical_axis};
use crate::session::Session;
use crate::table::Table;

const HEIGHT: f64 = 300.0;
/// Its height on a telephone.
const LOW: f64 = 210.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;

/// The norm of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormOfLayer<'a> {
    /// The norm.
    pub norm: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Its stage, counted from 0.
    pub stage: usize,
    /// Norms of its projections; empty where they are not known.
    pub modules: &'a [ModuleNorm],
}

/// The layer norms of a session, in its stages.
pub fn chart(session: &Session, analysis: &Analysis) -> Chart {
    chart_of_width(session, analysis, WIDTH)
}

/// [`chart`] of another width.
pub fn chart_of_width(session: &Session, analysis: &Analysis, width: f64) -> Chart {
    let stages = analysis.stage_of_layers();
    let of_layer = |layer: usize| {
        let block = session.layout.blocks().get(layer);
        block.and_then(|block| session.profile.modules.get(block.modules.clone())).unwrap_or(&[])
    };
    let rows: Vec<NormOfLayer<'_>> = analysis
        .plan
        .layer_norms
        .iter()
        .enumerate()
        .map(|(layer, &norm)| {
            let modules = of_layer(layer);
            // Independent errors of the modules: the error of their mean.
            let standard_error = modules.iter().map(|m| m.standard_error * m.standard_error).sum::<f64>().sqrt()
                / modules.len().max(1) as f64;
            NormOfLayer { norm, standard_error, stage: stages.get(layer).copied().unwrap_or(0), modules }
        })
        .collect();
    let axis = format!("gradient norm ({})", session.profile.signal.name());
    layers(&rows, analysis.plan.stages.len(), &axis, width)
}

/// A bar per layer from the least to the most of its projections, a line per projection, and the layer's norm as a circle
/// with twice its standard error. Where projections are not known, the bar goes from 0 to the norm. `axis` names the norms, `wide` is the width.
pub fn layers(rows: &[NormOfLayer<'_>], stages: usize, axis: &str, wide: f64) -> Chart {
    let spread = rows.iter().any(|row| !row.modules.is_empty());
    let values = rows.iter().flat_map(|row| {
        let end = if spread { row.norm } else { row.norm + 2.0 * row.standard_error };
        row.modules.iter().map(|module| module.mean).chain([row.norm, end])
    });
    let high = if wide < WIDTH { LOW } else { HEIGHT };
    let y = Scale::around(values.chain([0.0]), high - BOTTOM, TOP);
    let x = Scale::new(-0.5, rows.len() as f64 - 0.5, LEFT, wide - RIGHT);
    let step = (wide - RIGHT - LEFT) / rows.len().max(1) as f64;

    let mut drawing = Drawing {
        width: wide,
        height: high,
        title: "Gradient norm by layer".to_owned(),
        summary: summary(rows, stages),
        marks: Vec::new(),
    };
    vertical_axis(&mut drawing, &y, LEFT, wide - RIGHT, axis);
    counting_axis(&mut drawing, &x, high - BOTTOM, "layer");

    let columns = ["layer", "stage", "norm", "standard error", "least", "most"];
    let mut table = Table::new(columns.into_iter().take(if spread { 6 } else { 4 }));
    for (layer, row) in rows.iter().enumerate() {
        let NormOfLayer { norm, standard_error: error, stage, modules } = *row;
        let paint = Paint::Stage(stage, stages);
        let (least, most) = if spread { ends(modules) } else { (0.0, norm) };
        let mut tip = format!("Layer {layer}, stage {}: norm {norm:.4} ± {error:.4}", stage + 1);
        if spread {
            tip += &format!("; projections {least:.4} to {most:.4}");
        }
        let (cx, width) = (x.at(layer as f64), (0.62 * step).max(1.0));
        let subject = Subject::Layer(layer);
        let (top, bottom) = (y.at(most), y.at(least));
        drawing.marks.push(
            Mark::rect(cx - width / 2.0, top, width, (bottom - top).max(1.0), paint)
                .faded(0.28)
                .about(subject)
                .with_tip(&tip),
        );
        for module in modules {
            let at = y.at(module.mean);
            drawing.marks.push(Mark::line(cx - width / 2.0, at, cx + width / 2.0, at, paint).faded(0.75));
        }
        drawing.marks.push(Mark::line(cx, y.at(norm - 2.0 * error), cx, y.at(norm + 2.0 * error), Paint::Text));
        let radius = (0.28 * step).clamp(1.5, 6.0);
        let dot = Mark::circle(cx, y.at(norm), radius, paint).outlined(Paint::Page, 1.0).about(subject).with_tip(tip);
        drawing.marks.push(dot);
        let ends = [least, most].into_iter().take(if spread { 2 } else { 0 });
        let numbers = [norm, error].into_iter().chain(ends).map(digits);
        table.push([layer.to_string(), (stage + 1).to_string()].into_iter().chain(numbers));
    }
    stage_legend(&mut drawing, stages, (LEFT + 8.0, wide), 6.0);
    Chart { drawing: drawing.into(), table }
}

/// The least and the greatest norm; 0 for none.
fn ends(modules: &[ModuleNorm]) -> (f64, f64) {
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for module in modules {
        (least, most) = (least.min(module.mean), most.max(module.mean));
    }
    (if least.is_finite() { least } else { 0.0 }, most)
}

/// A square and a name per stage, as many as there is room for between two positions.
pub(super) fn stage_legend(drawing: &mut Drawing, stages: usize, (left, right): (f64, f64), top: f64) {
    for stage in 0..stages {
        let x = left + 74.0 * stage as f64;
        if x + 74.0 > right {
            break;
        }
        drawing.marks.push(Mark::rect(x, top, 11.0, 11.0, Paint::Stage(stage, stages)).rounded(2.0));
        let name = format!("stage {}", stage + 1);
        drawing.marks.push(Mark::text(x + 16.0, top + 10.0, Anchor::Start, 11.0, Paint::Soft, name));
    }
}

fn summary(rows: &[NormOfLayer<'_>], stages: usize) -> String {
    let ends = rows.iter().enumerate().fold((0, 0), |(least, most), (layer, row)| {
        let at = |layer: usize| rows.get(layer).map_or(0.0, |row| row.norm);
        (if row.norm < at(least) { layer } else { least }, if row.norm > at(most) { layer } else { most })
    });
    format!(
        "{} layers in {stages} stages; the lowest norm is layer {}'s, the highest layer {}'s.",
        rows.len(),
        ends.0,
        ends.1
    )
}

/// Four significant digits, or as many as a reader needs.
pub fn digits(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) { format!("{value:.5}") } else { format!("{value:.4e}") }
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;
    use crate::drawing::{Theme, escape, short};

    /// The sample's chart as the page holds it before its program has arrived.
    fn first_view() -> String {
        let session = Session::default();
        let mut drawing = Drawing::clone(&chart(&session, &Analysis::new(&session).unwrap()).drawing);
        let mut html = String::new();
        for mark in &mut drawing.marks {
            (mark.tip, mark.subject) = (None, Subject::None);
        }
        for (theme, class) in [(Theme::Light, "light"), (Theme::Dark, "dark")] {
            let (width, height) = (short(drawing.width), short(drawing.height));
            let name = escape(&format!("{}. {}", drawing.title, drawing.summary));
            html += &format!(
                "<svg class=\"picture {class}\" role=\"img\" viewBox=\"0 0 {width} {height}\" aria-label=\"{name}\">\n"
            );
            drawing.write_marks(&mut html, theme);
            html += "</svg>\n";
        }
        html
    }

    #[test]
    fn the_page_shows_the_sample_before_its_program_has_arrived() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/first-view.html");
        if std::env::var_os("UPDATE_SAMPLES").is_some() {
            std::fs::write(path, first_view()).unwrap();
            return;
        }
        let shown = std::fs::read_to_string(path).unwrap();
        assert!(shown == first_view(), "web/first-view.html is stale: set UPDATE_SAMPLES=1 and run this again");
    }

    #[test]
    fn every_layer_and_projection_is_in_the_picture_and_every_layer_in_the_table() {
        let session = Session::default();
        let chart = chart(&session, &Analysis::new(&session).unwrap());
        assert_eq!(chart.table.rows.len(), 24);
        let of_layers = chart.drawing.marks.iter().filter(|mark| matches!(mark.subject, Subject::Layer(_))).count();
        assert_eq!(of_layers, 2 * 24);
        assert!(chart.drawing.summary.contains("24 layers in 3 stages"), "{}", chart.drawing.summary);
    }

    #[test]
    fn a_profile_of_zeros_still_has_a_picture() {
        let mut session = Session::default();
        session.profile = crate::session::unknown_profile(&session.layout);
        let chart = chart(&session, &Analysis::new(&session).unwrap());
        let svg = chart.drawing.to_svg(Theme::Dark, None);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
