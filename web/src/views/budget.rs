//! The budget, always in sight.

use hydra_playground::text::{megabytes, thousands};
use hydra_shared::schedule::Counting;
use leptos::prelude::*;

use crate::page::Page;

/// Used against allowed, in parameters and megabytes, and what to do where it is too much.
#[component]
pub fn BudgetBar() -> impl IntoView {
    let page = Page::get();
    let budget = Memo::new(move |_| {
        page.analysis.with(|analysis| match analysis {
            Ok(analysis) => Ok((analysis.budget, analysis.used, analysis.parameters)),
            Err(error) => Err(error.to_string()),
        })
    });
    let share = move || match budget.get() {
        Ok((budget, used, _)) => (used as f64 / budget.allowed.max(1) as f64, used > budget.allowed),
        Err(_) => (0.0, true),
    };
    let text = move || match budget.get() {
        Ok((budget, used, parameters)) => {
            let unit = if budget.counting == Counting::Parameters { "parameters" } else { "rank units" };
            let size = megabytes(parameters);
            let extra = if budget.counting == Counting::Parameters {
                format!("{size} in bf16")
            } else {
                format!("{} parameters, {size} in bf16", thousands(parameters))
            };
            let left = if used > budget.allowed {
                format!("{} over the budget", thousands(used - budget.allowed))
            } else {
                format!("{} left", thousands(budget.allowed - used))
            };
            format!("{} of {} {unit} · {left} · {extra}", thousands(used), thousands(budget.allowed))
        }
        Err(error) => error,
    };
    let edited = Memo::new(move |_| page.session.with(|session| !session.by_hand.is_empty()));
    // Where every rank is set by hand, there is none that could give way.
    let all = Memo::new(move |_| page.session.with(|session| session.by_hand.len() >= session.layout.len()));
    let rebalanced = Memo::new(move |_| page.session.with(|session| session.rebalance));
    let of_decoder = Memo::new(move |_| {
        page.session.with(|session| {
            let parameters = page.analysis.with(|a| a.as_ref().map(|a| a.parameters).unwrap_or(0));
            let decoder = session.layout.decoder_parameters();
            decoder.map(|decoder| 100.0 * parameters as f64 / decoder.max(1) as f64)
        })
    });
    view! {
        <section class="budget" class:over=move || share().1 aria-label="Budget">
            <div class="meter" role="img" aria-label=move || format!("{:.2} % of the budget", 100.0 * share().0)>
                <div class="fill" style:width=move || format!("{:.3}%", 100.0 * share().0.min(1.0))></div>
            </div>
            <p role="status">
                <strong>"Budget "</strong>
                <span id="budget-text">{text}</span>
                {move || of_decoder.get().map(|share| format!(" · {share:.2} % of the decoder"))}
            </p>
            {move || (edited.get()).then(|| view! {
                <span class="actions">
                    {move || (!all.get()).then(|| view! {
                        <button
                            type="button"
                            class="primary"
                            data-tip="The other modules give up or take ranks until the budget is met; those set by hand stay"
                            disabled=move || rebalanced.get()
                            on:click=move |_| page.update(|session| session.rebalance = true)
                        >
                            {move || if rebalanced.get() { "Rebalanced" } else { "Rebalance" }}
                        </button>
                    })}
                    <button
                        type="button"
                        on:click=move |_| page.update(|session| {
                            session.by_hand.clear();
                            session.rebalance = false;
                        })
                    >
                        {move || if all.get() { "Plan these modules instead" } else { "Forget ranks set by hand" }}
                    </button>
                </span>
            })}
        </section>
    }
}
