//! `report.html`: one self-contained page that needs no script and no network.
//!
//! [`ReportData`] is plain data; [`render`] turns it into the page, with the playground's charts. Text goes through maud,
//! and that of charts through the drawing's own writer, which both escape it.

mod comparison;
mod data;
mod figure;
pub mod from_run;
mod profile;
mod schedule;
mod search;
mod verdict;

use hydra_playground::charts::Chart;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use data::{ArmKind, ReportData, RunDescription};
pub use verdict::{Difference, Spread, compare};

use crate::output::thousands;

/// Data of a run's report.
pub const REPORT_DATA: &str = "report.json";
/// The page.
pub const REPORT_PAGE: &str = "report.html";
/// Version of [`ReportData`]'s layout.
pub const REPORT_VERSION: u32 = 1;

const STYLE: &str = include_str!("style.css");

/// What the comparison at the end shows, in a sentence; none without one.
pub fn finding(data: &ReportData) -> Option<String> {
    data.comparison.as_ref().and_then(verdict::verdict).map(|verdict| comparison::headline(&verdict))
}

/// Renders the page.
pub fn render(data: &ReportData) -> String {
    page(data).into_string()
}

fn page(data: &ReportData) -> Markup {
    let layers = data.profile.as_ref().and_then(profile::layers);
    let projections = data.profile.as_ref().and_then(profile::projections);
    let heat_map = data.schedule.as_ref().and_then(schedule::heat_map);
    let scores = data.search.as_ref().and_then(search::scores);
    let charts: Vec<&Chart> = [&layers, &projections, &heat_map, &scores].into_iter().flatten().collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="color-scheme" content="light dark";
                title { (data.title) }
                style { (PreEscaped(figure::colours(&charts))) (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (data.title) }
                    (run(&data.run))
                }
                main {
                    @if let Some(comparison) = &data.comparison { (comparison::section(comparison)) }
                    @if let Some(profile) = &data.profile { (profile::section(profile, layers.as_ref(), projections.as_ref())) }
                    @if let Some(schedule) = &data.schedule { (schedule::section(schedule, heat_map.as_ref())) }
                    @if let Some(search) = &data.search { (search::section(search, scores.as_ref())) }
                }
                footer { "Written by trainer " (data.run.trainer) ", " (data.run.finished) "." }
            }
        }
    }
}

fn run(run: &RunDescription) -> Markup {
    let seeds: Vec<String> = run.seeds.iter().map(ToString::to_string).collect();
    html! {
        dl class="run" {
            dt { "Model" } dd { (run.model) }
            dt { "Data" } dd { (run.data) }
            dt { "Budget" } dd { (thousands(run.budget)) " trainable parameters (uniform LoRA at rank " (run.base_rank) ")" }
            dt { "Seeds" } dd { (seeds.join(", ")) }
            dt { "Device" } dd { (run.device) }
            dt { "Wall time" } dd { (duration(run.wall_seconds)) }
            dt { "Command" } dd { code { (run.command) } }
        }
        @if !run.notes.is_empty() {
            ul class="notes" { @for note in &run.notes { li { (note) } } }
        }
    }
}

/// `7 min 31 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{hours} h {minutes} min {rest} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report with every section: a made-up run, for looks and tests only.
    fn example() -> ReportData {
        serde_json::from_str(include_str!("example.json")).unwrap()
    }

    #[test]
    fn the_page_needs_no_script_and_nothing_from_elsewhere() {
        let page = render(&example());
        for forbidden in ["<script", "http://", "https://", "src=", "@import", "url(", "javascript:", "<link"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn every_chart_has_a_title_a_description_and_a_table() {
        let page = render(&example());
        let charts = page.matches("role=\"img\"").count();
        assert_eq!(charts, 4, "layers, projections, heat map, search");
        assert_eq!(page.matches("<desc ").count(), charts);
        assert_eq!(page.matches("<figure").count(), charts);
        assert_eq!(page.matches("<details").count(), charts);
    }

    #[test]
    fn hostile_names_are_shown_as_text() {
        let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
        let mut data = example();
        data.title = hostile.to_owned();
        data.run.model = hostile.to_owned();
        data.run.command = hostile.to_owned();
        data.run.notes = vec![hostile.to_owned()];
        let comparison = data.comparison.as_mut().unwrap();
        comparison.tasks[0].name = hostile.to_owned();
        comparison.arms.iter_mut().for_each(|arm| arm.name = hostile.to_owned());
        data.profile.as_mut().unwrap().projections[0].name = hostile.to_owned();
        data.schedule.as_mut().unwrap().projections[0] = hostile.to_owned();
        data.schedule.as_mut().unwrap().name = hostile.to_owned();
        data.search.as_mut().unwrap().trials[0].origin = hostile.to_owned();
        data.search.as_mut().unwrap().predictor = hostile.to_owned();
        let page = render(&data);
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn a_report_without_any_section_still_describes_the_run() {
        let mut data = example();
        (data.profile, data.schedule, data.search, data.comparison) = (None, None, None, None);
        let page = render(&data);
        assert!(page.contains("121,110,528") && !page.contains("<figure"));
    }

    #[test]
    fn data_round_trips_through_json() {
        let data = example();
        let text = serde_json::to_string(&data).unwrap();
        assert_eq!(serde_json::from_str::<ReportData>(&text).unwrap(), data);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(42.4), "42 s");
        assert_eq!(duration(451.0), "7 min 31 s");
        assert_eq!(duration(3723.0), "1 h 2 min 3 s");
    }
}
