//! What the search came to.

use hydra_playground::charts::search::{Compared, Verdict, verdict};
use leptos::prelude::*;

use super::state::SearchState;

/// The recommended schedule beside uniform LoRA and the plan, how sure that is, and what can be done with it.
#[component]
pub(super) fn VerdictCard(state: SearchState) -> impl IntoView {
    let found = Memo::new(move |_| {
        let model = state.choices.with(|choices| choices.model);
        state.progress.with(|progress| progress.as_ref().and_then(|progress| verdict(progress, model)))
    });
    let row = |row: Compared| {
        view! {
            <tr class:recommended=row.recommended>
                <th scope="row">{row.name}{row.recommended.then_some(" (recommended)")}</th>
                <td>{row.trial}</td>
                <td>{row.score}</td>
                <td>{row.fresh}</td>
                <td>{row.truth}</td>
            </tr>
        }
    };
    let shown = move |verdict: Verdict| {
        let Verdict { trial, ranks, title, rows, sentences, over } = verdict;
        let pinned = ranks.clone();
        let heading = if over { "Recommended: " } else { "Recommended so far: " };
        view! {
            <section class="card verdict" id="verdict" aria-labelledby="verdict-title">
                <h2 id="verdict-title">{heading}{title.clone()}</h2>
                <div class="scroll" tabindex="0" role="region" aria-label="Schedules compared">
                    <table>
                        <thead>
                            <tr>
                                <th scope="col">"schedule"</th>
                                <th scope="col">"trial"</th>
                                <th scope="col">"score in the search"</th>
                                <th scope="col">"with fresh seeds (how many)"</th>
                                <th scope="col">"without noise"</th>
                            </tr>
                        </thead>
                        <tbody>{rows.into_iter().map(row).collect_view()}</tbody>
                    </table>
                </div>
                <ul class="reasons">{sentences.into_iter().map(|text| view! { <li>{text}</li> }).collect_view()}</ul>
                <div class="row">
                    <button
                        type="button"
                        class="primary"
                        id="take-best"
                        on:click=move |_| state.take_into_analysis(&ranks)
                    >
                        "Take it into Analyse, and to every export"
                    </button>
                    <button
                        type="button"
                        on:click=move |_| state.pin(format!("trial {trial}, recommended"), pinned.clone())
                    >
                        "Pin it as A"
                    </button>
                </div>
            </section>
        }
    };
    move || found.get().map(shown)
}
