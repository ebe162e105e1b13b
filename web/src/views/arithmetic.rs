//! How one cell came to its rank.

use hydra_playground::analysis::CellArithmetic;
use hydra_playground::charts::norms::digits;
use hydra_playground::text::thousands;
use hydra_shared::schedule::Sign;
use leptos::prelude::*;

use crate::page::Page;
use crate::parts::NumberBox;

/// The arithmetic of the selected cell, and its rank by hand.
#[component]
pub fn Arithmetic() -> impl IntoView {
    let page = Page::get();
    let cell = Memo::new(move |_| {
        let module = page.selected.get()?;
        page.session.with(|session| page.analysis.with(|a| a.as_ref().ok()?.arithmetic(session, module)))
    });
    let budget = Memo::new(move |_| page.analysis.with(|a| a.as_ref().map_or(1, |a| a.budget.allowed.max(1))));
    view! {
        <section class="card arithmetic" aria-live="polite" aria-label="Arithmetic of one rank" id="arithmetic">
            {move || match cell.get() {
                None => {
                    view! { <p class="soft">"No cell is selected: choose one above to see how its rank comes about."</p> }
                        .into_any()
                }
                Some(cell) => view! { <Steps cell budget=budget.get() /> }.into_any(),
            }}
        </section>
    }
}

/// The steps from a norm to a rank.
#[component]
fn Steps(cell: CellArithmetic, budget: u64) -> impl IntoView {
    let page = Page::get();
    let (module, rank) = (cell.position, cell.rank);
    let full = cell.module.highest_rank(None);
    let (sign, reason) = match cell.sign {
        Sign::Lower => ("−", "is below"),
        Sign::Keep => ("±0 ×", "is at"),
        Sign::Raise => ("+", "is above"),
    };
    let repair = f64::from(cell.planned) - cell.target;
    let fine = format!(
        "{} {sign} {} = {:.2}: its norm {reason} the mean of its layer, {}",
        format_args!("{:.2}", cell.coarse),
        cell.delta,
        cell.target,
        digits(cell.layer_mean)
    );
    let last = if cell.by_hand {
        format!("{} by hand; the plan says {}", cell.rank, cell.planned)
    } else if cell.rank == cell.planned {
        format!("{} ({repair:+.2}), so that all ranks together meet the budget", cell.rank)
    } else {
        format!("{}; HyDRA's plan says {}", cell.rank, cell.planned)
    };
    let cost = format!(
        "{} × ({} + {}) = {} parameters, {:.3} % of the budget",
        cell.rank,
        thousands(cell.module.d_in as u64),
        thousands(cell.module.d_out as u64),
        thousands(cell.parameters),
        100.0 * cell.parameters as f64 / budget as f64
    );
    view! {
        <h2>{cell.module.name.clone()}</h2>
        <dl>
            <dt>"Norm"</dt>
            <dd>{format!("{} ± {}", digits(cell.norm), digits(cell.standard_error))}</dd>
            <dt>"Layer norm"</dt>
            <dd>{match cell.module.layer {
                Some(layer) => format!("{} (layer {layer})", digits(cell.layer_norm)),
                None => digits(cell.layer_norm),
            }}</dd>
            <dt>"Stage"</dt>
            <dd>{format!("{} of {}", cell.stage + 1, cell.stages)}</dd>
            <dt>"Coarse rank"</dt>
            <dd>{format!("{:.2}: Rₜ of the stage, scaled to the budget", cell.coarse)}</dd>
            <dt>"Fine step ±Δd"</dt>
            <dd>{fine}</dd>
            <dt>"Rank"</dt>
            <dd>{last}</dd>
            <dt>"Cost"</dt>
            <dd>{cost}</dd>
        </dl>
        <div class="row">
            <NumberBox
                label="Rank by hand"
                id="cell-rank"
                bounds=(0, full)
                value=Signal::derive(move || Some(rank))
                set={move |rank: Option<u32>| page.update(|session| session.by_hand.extend(rank.map(|rank| (module, rank))))}
                hint="Another rank for this module alone; 0 leaves it without an adapter"
            />
            {cell
                .by_hand
                .then(|| {
                    view! {
                        <button
                            type="button"
                            on:click=move |_| page.update(|session| {
                                session.by_hand.remove(&module);
                            })
                        >
                            "As planned"
                        </button>
                    }
                })}
        </div>
    }
}
