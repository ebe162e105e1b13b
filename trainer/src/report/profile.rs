//! Gradient norms by layer (the paper's Fig. 3) and by projection (its Table I).

use hydra_playground::charts::norms::{self, NormOfLayer};
use hydra_playground::charts::projections::{self, NormOfProjection};
use hydra_playground::charts::{Chart, WIDTH};
use maud::{Markup, html};

use super::data::ProfileSection;
use super::figure::figure;

/// The norms by layer; none without layers.
pub fn layers(profile: &ProfileSection) -> Option<Chart> {
    let rows: Vec<NormOfLayer<'_>> = profile
        .layers
        .iter()
        .map(|row| NormOfLayer { norm: row.norm, standard_error: row.standard_error, stage: row.stage, modules: &[] })
        .collect();
    (!rows.is_empty()).then(|| norms::layers(&rows, stages(profile), "gradient norm", WIDTH))
}

/// The norms by projection; none without projections.
pub fn projections(profile: &ProfileSection) -> Option<Chart> {
    let rows: Vec<NormOfProjection<'_>> = profile
        .projections
        .iter()
        .map(|row| NormOfProjection { name: &row.name, norm: row.norm, standard_error: row.standard_error })
        .collect();
    (!rows.is_empty()).then(|| projections::chart(&rows))
}

fn stages(profile: &ProfileSection) -> usize {
    profile.layers.iter().map(|row| row.stage + 1).max().unwrap_or(1)
}

/// The section.
pub fn section(profile: &ProfileSection, layers: Option<&Chart>, projections: Option<&Chart>) -> Markup {
    let stages = stages(profile);
    html! {
        h2 { "Where gradients are large" }
        p class="soft" {
            (profile.signal) ", " (profile.steps) " steps"
            @if profile.estimated { "; estimated from histograms, not logged" }
            ". Whiskers show twice the standard error."
            @if stages > 1 { " Stage 1 has the lowest norms, stage " (stages) " the highest." }
        }
        @if let Some(chart) = layers { (figure("layers", chart)) }
        @if let Some(chart) = projections { (figure("projections", chart)) }
    }
}
