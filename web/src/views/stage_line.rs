//! How K-means came to the stages.

use std::time::Duration;

use hydra_playground::charts::stage_line;
use hydra_shared::stages::{Stage, Stages, k_means_trace};
use leptos::prelude::*;

use crate::browser::Later;
use crate::page::Page;
use crate::parts::Figure;

/// Time between two moments of K-means that is played.
const BEAT: Duration = Duration::from_millis(900);
/// When it turns to a new log.
const TURN: usize = 4;

/// K-means at work: play, pause, step, scrub.
#[component]
pub fn StageLine() -> impl IntoView {
    let page = Page::get();
    let waits = page.waits(TURN);
    let stages = Memo::new(move |last: Option<&(Vec<f64>, Vec<Stage>)>| {
        if let (Some(last), true) = (last, waits.get()) {
            return last.clone();
        }
        page.analysis.with(|analysis| match analysis {
            Ok(analysis) => {
                let stage = |s: &hydra_shared::schedule::PlannedStage| Stage { layers: s.layers.clone(), norm: s.norm };
                let stages: Vec<Stage> = analysis.plan.stages.iter().map(stage).collect();
                (analysis.plan.layer_norms.clone(), stages)
            }
            Err(_) => (Vec::new(), Vec::new()),
        })
    });
    let steps = Memo::new(move |_| {
        let (norms, stages) = stages.get();
        let stages = Stages { requested: stages.len(), stages };
        k_means_trace(&norms, &stages, page.session.with_untracked(|s| s.plan.seed())).unwrap_or_default()
    });
    let last = Memo::new(move |_| steps.with(|steps| stage_line::moments(steps).saturating_sub(1)));
    let moment = RwSignal::new(usize::MAX);
    let playing = RwSignal::new(false);
    // Other stages: show how they end.
    Effect::new(move |_| {
        steps.track();
        playing.set(false);
        moment.set(last.get_untracked());
    });
    let later = StoredValue::new_local(Later::default());
    Effect::new(move |_| {
        let at = moment.get();
        if playing.get() {
            if at >= last.get() {
                playing.set(false);
            } else {
                later.with_value(|later| {
                    later.run(BEAT, move || {
                        if playing.get_untracked() {
                            moment.set(at + 1);
                        }
                    });
                });
            }
        }
    });
    let shown = move || moment.get().min(last.get());
    let chart = page.chart(TURN, move |_, analysis| steps.with(|steps| stage_line::chart(analysis, steps, shown())));
    let play = move |_| {
        if !playing.get_untracked() && moment.get_untracked() >= last.get_untracked() {
            moment.set(0);
        }
        playing.update(|playing| *playing = !*playing);
    };
    let step = move |by: isize| {
        playing.set(false);
        moment
            .set(moment.get_untracked().min(last.get_untracked()).saturating_add_signed(by).min(last.get_untracked()));
    };
    let caption = move || steps.with(|steps| stage_line::caption(steps, shown()));
    view! {
        <Figure chart file="k-means">
            <div class="player">
                <button type="button" on:click=play>{move || if playing.get() { "Pause" } else { "Play" }}</button>
                <button type="button" on:click=move |_| step(-1) aria-label="One step back">"◀"</button>
                <button type="button" on:click=move |_| step(1) aria-label="One step on">"▶"</button>
                <label for="moment">"Moment"</label>
                <input
                    type="range"
                    id="moment"
                    min="0"
                    max=move || last.get()
                    prop:value=move || shown().to_string()
                    on:input=move |event| {
                        playing.set(false);
                        if let Ok(at) = event_target_value(&event).parse() {
                            moment.set(at);
                        }
                    }
                />
                <p class="caption" aria-live="polite">{caption}</p>
            </div>
        </Figure>
    }
}
