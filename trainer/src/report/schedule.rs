//! The schedule as a heat map: layers × projections, ranks written in the cells.

use hydra_playground::charts::Chart;
use hydra_playground::charts::heatmap::{RanksOfLayer, by_stage};
use maud::{Markup, html};

use super::data::ScheduleSection;
use super::figure::figure;
use crate::output::thousands;

/// The heat map; none without modules.
pub fn heat_map(schedule: &ScheduleSection) -> Option<Chart> {
    let layers: Vec<RanksOfLayer<'_>> =
        schedule.layers.iter().map(|layer| RanksOfLayer { stage: layer.stage, ranks: &layer.ranks }).collect();
    let empty = layers.is_empty() || schedule.projections.is_empty();
    (!empty).then(|| by_stage("Rank of every module", &schedule.projections, &layers))
}

/// The section.
pub fn section(schedule: &ScheduleSection, heat_map: Option<&Chart>) -> Markup {
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
        @if let Some(chart) = heat_map { (figure("schedule", chart)) }
    }
}
