//! From a log to a schedule.

use std::sync::Arc;

use std::time::Duration;

use hydra_playground::charts::{Chart, NARROW, costs, heatmap, norms, quality};
use hydra_shared::stages::{StageQuality, quality_of_stages};
use leptos::prelude::*;
use web_sys::KeyboardEvent;

use super::budget::BudgetBar;
use super::controls::Controls;
use super::sources::Sources;
use crate::browser::Later;
use crate::lazy::{self, when_loaded};
use crate::page::Page;
use crate::parts::Figure;

/// How long the quality of other numbers of stages waits for the controls to rest.
const REST: Duration = Duration::from_millis(120);
/// And for a log that was just read to be drawn.
const DRAWN: Duration = Duration::from_millis(1200);
/// And each number of stages for the one before: long enough for a frame, and for whatever else the page has to do.
const BETWEEN: Duration = Duration::from_millis(25);

/// The view.
#[component]
pub fn AnalyseView() -> impl IntoView {
    let page = Page::get();
    let (wide, heat, costs) = (page.chart(1, norms::chart), page.chart(2, heatmap::chart), page.chart(3, costs::chart));
    let slim = page.chart(1, |session, analysis| norms::chart_of_width(session, analysis, NARROW));
    let norms = Memo::new(move |_| if page.narrow.get() { slim.get() } else { wide.get() });
    view! {
        <Sources />
        <BudgetBar />
        <div class="columns">
            <div class="bench">
                <Controls />
                <Figure chart=norms file="gradient-norms" />
                <HeatMap chart=heat />
            </div>
            <div class="views">
                {when_loaded(lazy::arithmetic)}
                <div class="pair">
                    <Figure chart=costs file="parameters-by-projection" />
                    {when_loaded(lazy::quality)}
                </div>
                {when_loaded(lazy::stage_line)}
                {when_loaded(lazy::compare)}
                {when_loaded(lazy::take_away)}
            </div>
        </div>
    }
}

/// The heat map: a cell can be clicked, or reached with the arrow keys.
#[component]
fn HeatMap(chart: Memo<Chart>) -> impl IntoView {
    let page = Page::get();
    let move_to = move |event: KeyboardEvent| {
        let layout = page.session.with_untracked(|session| Arc::clone(&session.layout));
        let now = page.selected.get_untracked();
        let at = now.unwrap_or(0);
        let (block, kind) = (layout.block_of(at), layout.kind_of(at).unwrap_or(0));
        let to = match event.key().as_str() {
            _ if now.is_none() && event.key().starts_with("Arrow") => Some(0),
            "ArrowRight" => layout.at(block + 1, kind),
            "ArrowLeft" => block.checked_sub(1).and_then(|block| layout.at(block, kind)),
            "ArrowDown" => (kind + 1..layout.kinds().len()).find_map(|kind| layout.at(block, kind)),
            "ArrowUp" => (0..kind).rev().find_map(|kind| layout.at(block, kind)),
            "Home" => (0..layout.blocks().len()).find_map(|block| layout.at(block, kind)),
            "End" => (0..layout.blocks().len()).rev().find_map(|block| layout.at(block, kind)),
            "Escape" => {
                page.selected.set(None);
                return;
            }
            _ => return,
        };
        event.prevent_default();
        if let Some(to) = to {
            page.selected.set(Some(to));
        }
    };
    view! {
        <div
            class="cells"
            tabindex="0"
            role="group"
            aria-label="Schedule. Arrow keys go from cell to cell, Escape leaves; the arithmetic of the cell is told below."
            on:keydown=move_to
        >
            <Figure chart file=heatmap::FILE>
                <p class="soft">"Click a cell, or use the arrow keys, for its arithmetic."</p>
            </Figure>
        </div>
    }
}

/// Elbow and silhouette, computed when the controls rest, one number of stages at a time: all together would hold the page up.
#[component]
pub fn Quality() -> impl IntoView {
    let page = Page::get();
    let wanted = Memo::new(move |_| {
        let norms =
            page.analysis.with(|analysis| analysis.as_ref().map(|a| a.plan.layer_norms.clone()).unwrap_or_default());
        (norms, page.session.with(|s| s.plan.seed()))
    });
    let qualities = RwSignal::new(Vec::<StageQuality>::new());
    let later = StoredValue::new_local(Later::default());
    Effect::new(move |_| {
        let (norms, seed) = wanted.get();
        let wait = if page.is_turning() { DRAWN } else { REST };
        later.with_value(|later| compute(later, wait, norms, seed, Vec::new(), qualities));
    });
    let used = Memo::new(move |_| page.analysis.with(|a| a.as_ref().map_or(0, |a| a.plan.stages.len())));
    let chart = Memo::new(move |_| qualities.with(|qualities| quality::chart(qualities, used.get())));
    view! { <Figure chart file="stage-quality" /> }
}

/// Computes the quality of one number of stages more, after a wait, and then those behind it.
fn compute(
    later: &Later,
    wait: Duration,
    norms: Vec<f64>,
    seed: u64,
    mut known: Vec<StageQuality>,
    all: RwSignal<Vec<StageQuality>>,
) {
    let then = later.clone();
    later.run(wait, move || {
        let next = (known.len() < quality::MOST_STAGES).then(|| quality_of_stages(&norms, known.len() + 1, seed));
        match next {
            Some(Ok(Some(quality))) => {
                known.push(quality);
                compute(&then, BETWEEN, norms, seed, known, all);
            }
            Some(Err(_)) => all.set(Vec::new()),
            _ => all.set(known),
        }
    });
}
