//! Two schedules side by side.

use hydra_playground::charts::{Chart, heatmap};
use hydra_playground::session::Pinned;
use hydra_playground::text::thousands;
use hydra_shared::schedule::Baseline;
use leptos::prelude::*;

use crate::page::Page;
use crate::parts::Figure;

/// Pin a schedule as A and see how B, the one at hand, differs.
#[component]
pub fn Compare() -> impl IntoView {
    let page = Page::get();
    let at_hand = move || {
        page.session.with_untracked(|s| match (s.baseline(), s.by_hand.is_empty()) {
            (None, true) => "HyDRA".to_owned(),
            (None, false) => "HyDRA, edited".to_owned(),
            (Some(preset), true) => preset.name().to_owned(),
            (Some(preset), false) => format!("{preset}, edited"),
        })
    };
    let pin = move |_| {
        let ranks = page.analysis.with_untracked(|a| a.as_ref().ok().map(|a| a.ranks.clone()));
        if let Some(ranks) = ranks {
            let name = at_hand();
            page.update(|session| session.pinned = Some(Pinned { name, ranks }));
        }
    };
    let pin_preset = move |event| {
        let Ok(preset) = event_target_value(&event).parse::<Baseline>() else { return };
        page.update(|session| {
            let (base, bounds) = (session.plan.base_rank, session.plan.bounds());
            if let Ok(ranks) = preset.ranks(&session.layout, &session.profile, base, bounds, session.plan.seed()) {
                session.pinned = Some(Pinned { name: preset.name().to_owned(), ranks });
            }
        });
    };
    let pinned = Memo::new(move |_| page.session.with(|session| session.pinned.clone()));
    let chart = page.chart(5, |session, analysis| match &session.pinned {
        Some(a) if a.ranks.layout().same_modules(analysis.ranks.layout()) => {
            heatmap::difference(&a.ranks, &analysis.ranks, (&a.name, "B"))
        }
        _ => Chart::default(),
    });
    let budgets = move || {
        page.session.with(|session| {
            page.analysis.with(|analysis| {
                let (Ok(analysis), Some(a)) = (analysis, &session.pinned) else { return String::new() };
                let of_a = a.ranks.parameters();
                let difference = analysis.parameters as i64 - of_a as i64;
                let sign = if difference < 0 { "−" } else { "+" };
                format!(
                    "A, {}: {} parameters · B, at hand: {} · B − A: {sign}{}",
                    a.name,
                    thousands(of_a),
                    thousands(analysis.parameters),
                    thousands(difference.unsigned_abs())
                )
            })
        })
    };
    let presets = Baseline::ALL.map(|preset| view! { <option value=preset.name()>{preset.name()}</option> });
    view! {
        <section class="compare" aria-label="Compare">
            <div class="row card">
                <h2>"Compare"</h2>
                <button type="button" on:click=pin>"Pin this schedule as A"</button>
                <label for="pin-preset">"or pin"</label>
                <select id="pin-preset" on:change=pin_preset>
                    <option value="">"a comparison schedule…"</option>
                    {presets.collect_view()}
                </select>
                {move || (pinned.get().is_some()).then(|| view! {
                    <button type="button" on:click=move |_| page.update(|session| session.pinned = None)>"Unpin"</button>
                    <p id="compare-budgets">{budgets}</p>
                })}
            </div>
            {move || (pinned.get().is_some()).then(|| view! {
                <Figure chart file="difference" />
            })}
        </section>
    }
}
