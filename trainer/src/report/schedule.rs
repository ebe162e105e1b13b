//! The schedule as a heat map: layers × projections, ranks written in the cells.

use maud::{Markup, html};

use super::chart::{Figure, RAMP, percent, px, stage_step};
use super::data::ScheduleSection;
use super::profile::stage_legend;
use crate::output::thousands;

const HEADER: f64 = 20.0;
const ROW: f64 = 22.0;
const LABELS_WIDTH: u32 = 52;

/// The section.
pub fn section(schedule: &ScheduleSection) -> Markup {
    let share = 100.0 * schedule.budget_used as f64 / schedule.budget_allowed.max(1) as f64;
    html! {
        h2 { "The schedule" }
        p {
            (schedule.name) ": " (thousands(schedule.budget_used)) " of " (thousands(schedule.budget_allowed))
            " trainable parameters (" (format!("{share:.3}")) " %)."
            @if schedule.budget_used > schedule.budget_allowed {
                " " span class="loss" { "This is over the budget, so it is no fair comparison." }
            }
        }
        @if !schedule.layers.is_empty() && !schedule.projections.is_empty() { (heat_map(schedule)) }
    }
}

fn heat_map(schedule: &ScheduleSection) -> Markup {
    let ranks = || schedule.layers.iter().flat_map(|layer| &layer.ranks).copied();
    let (low, high) = (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0));
    // Ranks double from stage to stage, so the colour follows their logarithm.
    let log = |rank: u32| f64::from(rank.max(1)).ln();
    let span = log(high) - log(low);
    let share = |rank: u32| if span > 0.0 { (log(rank) - log(low)) / span } else { 0.5 };
    let step = |rank: u32| (share(rank) * (RAMP - 1) as f64).round() as usize;
    // A browser that cannot mix colours shows the nearest step of the ramp.
    let fill = |rank: u32| format!("fill:color-mix(in oklab,var(--r7) {:.1}%,var(--r0))", 100.0 * share(rank));
    let stages = schedule.layers.iter().map(|layer| layer.stage + 1).max().unwrap_or(1);
    let width = 1.0 / schedule.projections.len() as f64;
    let drawing = html! {
        @for (column, name) in schedule.projections.iter().enumerate() {
            text class="middle strong" x=(percent((column as f64 + 0.5) * width)) y=(px(HEADER - 7.0)) { (name) }
        }
        @for (layer, row) in schedule.layers.iter().enumerate() {
            @let y = HEADER + ROW * layer as f64;
            @for (column, rank) in row.ranks.iter().enumerate().take(schedule.projections.len()) {
                rect class={ "gap f" (step(*rank)) } style=(fill(*rank)) x=(percent(column as f64 * width)) width=(percent(width)) y=(px(y)) height=(px(ROW)) {}
                text class={ "middle c" (step(*rank)) } x=(percent((column as f64 + 0.5) * width)) y=(px(y + ROW / 2.0 + 4.0)) { (rank) }
            }
        }
    };
    let labels = html! {
        text class="end" x=(LABELS_WIDTH - 16) y=(px(HEADER - 7.0)) { "layer" }
        @for (layer, row) in schedule.layers.iter().enumerate() {
            @let y = HEADER + ROW * layer as f64;
            text class="end" x=(LABELS_WIDTH - 16) y=(px(y + ROW / 2.0 + 4.0)) { (layer) }
            rect class={ "f" (stage_step(row.stage, stages)) } x=(LABELS_WIDTH - 11) width="6" y=(px(y)) height=(px(ROW)) {}
        }
    };
    let description = format!(
        "Heat map of {} layers and {} projections. Ranks go from {low} to {high}.",
        schedule.layers.len(),
        schedule.projections.len()
    );
    Figure {
        id: "schedule",
        title: "Rank of every module",
        description: &description,
        height: HEADER + ROW * schedule.layers.len() as f64,
        max_width: 640,
        labels_width: LABELS_WIDTH,
        labels,
        drawing,
        legend: stage_legend(stages),
        table: html! {
            table {
                thead { tr { th { "layer" } th { "stage" } @for name in &schedule.projections { th { (name) } } } }
                tbody {
                    @for (layer, row) in schedule.layers.iter().enumerate() {
                        tr { th scope="row" { (layer) } td { (row.stage + 1) } @for rank in &row.ranks { td { (rank) } } }
                    }
                }
            }
        },
    }
    .render()
}
