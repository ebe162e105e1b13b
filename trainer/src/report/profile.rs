//! Gradient norms by layer (the paper's Fig. 3) and by projection (its Table I).

use maud::{Markup, html};

use super::chart::{Figure, Scale, grid, grid_labels, height_of, number, percent, px, stage_step};
use super::data::ProfileSection;

const TOP: f64 = 14.0;
const BOTTOM: f64 = 214.0;
const LABELS_WIDTH: u32 = 52;
const ROW: f64 = 28.0;

/// The section.
pub fn section(profile: &ProfileSection) -> Markup {
    html! {
        h2 { "Where gradients are large" }
        p class="soft" {
            (profile.signal) ", " (profile.steps) " steps"
            @if profile.estimated { "; estimated from histograms, not logged" }
            ". Whiskers show one standard error."
        }
        @if !profile.layers.is_empty() { (layers(profile)) }
        @if !profile.projections.is_empty() { (projections(profile)) }
    }
}

fn layers(profile: &ProfileSection) -> Markup {
    let rows = &profile.layers;
    let stages = rows.iter().map(|row| row.stage + 1).max().unwrap_or(1);
    let scale = Scale::over(rows.iter().map(|row| row.norm + row.standard_error), true, 5);
    let slot = 1.0 / rows.len() as f64;
    // At most about a dozen layer numbers fit under a narrow chart.
    let every = [1, 2, 5, 10, 20, 50].into_iter().find(|n| rows.len() / n <= 12).unwrap_or(100);
    let drawing = html! {
        (grid(&scale, TOP, BOTTOM))
        @for (layer, row) in rows.iter().enumerate() {
            @let top = height_of(&scale, row.norm, TOP, BOTTOM);
            @let middle = percent((layer as f64 + 0.5) * slot);
            rect class={ "bar f" (stage_step(row.stage, stages)) }
                x=(percent((layer as f64 + 0.12) * slot)) width=(percent(0.76 * slot))
                y=(px(top)) height=(px(BOTTOM - top)) {}
            @if row.standard_error > 0.0 {
                line class="whisker" x1=(middle) x2=(middle)
                    y1=(px(height_of(&scale, row.norm - row.standard_error, TOP, BOTTOM)))
                    y2=(px(height_of(&scale, row.norm + row.standard_error, TOP, BOTTOM))) {}
            }
            @if layer % every == 0 { text class="middle" x=(middle) y=(px(BOTTOM + 16.0)) { (layer) } }
        }
        text class="middle" x="50%" y=(px(BOTTOM + 34.0)) { "decoder layer" }
    };
    let strongest = rows.iter().enumerate().max_by(|a, b| a.1.norm.total_cmp(&b.1.norm));
    let description = strongest.map_or_else(String::new, |(layer, row)| {
        format!(
            "Bar chart of {} decoder layers in {stages} stages. The largest norm is {} in layer {layer}.",
            rows.len(),
            number(row.norm)
        )
    });
    Figure {
        id: "layers",
        title: "Gradient norm by layer",
        description: &description,
        height: BOTTOM + 40.0,
        max_width: 860,
        labels_width: LABELS_WIDTH,
        labels: grid_labels(&scale, TOP, BOTTOM, LABELS_WIDTH),
        drawing,
        legend: stage_legend(stages),
        table: html! {
            table {
                thead { tr { th { "layer" } th { "stage" } th { "norm" } th { "standard error" } } }
                tbody {
                    @for (layer, row) in rows.iter().enumerate() {
                        tr { th scope="row" { (layer) } td { (row.stage + 1) } td { (number(row.norm)) } td { (number(row.standard_error)) } }
                    }
                }
            }
        },
    }
    .render()
}

/// One swatch per stage.
pub fn stage_legend(stages: usize) -> Markup {
    html! {
        div class="legend" {
            @for stage in 0..stages {
                span {
                    svg width="14" height="14" aria-hidden="true" { rect class={ "bar f" (stage_step(stage, stages)) } width="14" height="14" {} }
                    "stage " (stage + 1)
                    @if stages > 1 && stage == 0 { " (lowest norms)" }
                    @if stages > 1 && stage + 1 == stages { " (highest)" }
                }
            }
        }
    }
}

fn projections(profile: &ProfileSection) -> Markup {
    let rows = &profile.projections;
    let scale = Scale::over(rows.iter().map(|row| row.norm + row.standard_error), true, 4);
    let mean = rows.iter().map(|row| row.norm).sum::<f64>() / rows.len() as f64;
    let bottom = ROW * rows.len() as f64 + 6.0;
    let drawing = html! {
        @for (value, label) in scale.ticks() {
            @let x = percent(scale.at(value));
            line class="grid" x1=(x) x2=(x) y1="0" y2=(px(bottom)) {}
            @if value > 0.0 { text class="middle" x=(x) y=(px(bottom + 16.0)) { (label) } }
        }
        @for (index, row) in rows.iter().enumerate() {
            @let y = ROW * index as f64 + 6.0;
            @let middle = px(y + (ROW - 8.0) / 2.0);
            rect class={ "bar f" (if row.norm > mean { 5 } else { 2 }) } x="0" width=(percent(scale.at(row.norm))) y=(px(y)) height=(px(ROW - 8.0)) {}
            @if row.standard_error > 0.0 {
                line class="whisker" y1=(middle) y2=(middle)
                    x1=(percent(scale.at(row.norm - row.standard_error)))
                    x2=(percent(scale.at(row.norm + row.standard_error))) {}
            }
        }
        @let x = percent(scale.at(mean));
        line class="reference" x1=(x) x2=(x) y1="0" y2=(px(bottom)) {}
    };
    let labels = html! {
        @for (index, row) in rows.iter().enumerate() {
            text class="end strong" x=(LABELS_WIDTH - 8) y=(px(ROW * index as f64 + 6.0 + (ROW - 8.0) / 2.0 + 4.0)) { (row.name) }
        }
    };
    let above: Vec<&str> = rows.iter().filter(|row| row.norm > mean).map(|row| row.name.as_str()).collect();
    let description = format!(
        "Bar chart of {} projections, averaged over layers. Above their mean of {}: {}.",
        rows.len(),
        number(mean),
        if above.is_empty() { "none".to_owned() } else { above.join(", ") }
    );
    Figure {
        id: "projections",
        title: "Gradient norm by projection, averaged over layers",
        description: &description,
        height: bottom + 24.0,
        max_width: 620,
        labels_width: LABELS_WIDTH,
        labels,
        drawing,
        legend: html! {
            div class="legend" {
                span { svg width="14" height="14" aria-hidden="true" { rect class="bar f5" width="14" height="14" {} } "above the mean" }
                span { svg width="14" height="14" aria-hidden="true" { rect class="bar f2" width="14" height="14" {} } "below" }
                span { svg width="22" height="14" aria-hidden="true" { line class="reference" x1="0" x2="22" y1="7" y2="7" {} } "mean" }
            }
        },
        table: html! {
            table {
                thead { tr { th { "projection" } th { "norm" } th { "standard error" } th { "relative to the mean" } } }
                tbody {
                    @for row in rows {
                        tr { th scope="row" { (row.name) } td { (number(row.norm)) } td { (number(row.standard_error)) } td { (number(row.norm / mean)) } }
                    }
                }
            }
        },
    }
    .render()
}
