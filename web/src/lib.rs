//! HyDRA's page. The playground is not here yet: the page says what HyDRA is and shows that the shared core computes in
//! the browser.

use hydra_shared::model_spec::{ModelSpec, PRESETS};
use leptos::prelude::*;

/// Rank of uniform LoRA in MobileVLM's published recipe.
const BASE_RANK: u32 = 128;

/// The whole page.
#[component]
pub fn App() -> impl IntoView {
    view! {
        <main>
            <h1>"HyDRA"</h1>
            <p>
                "Hierarchical and dynamic rank adaptation for mobile vision-language models. LoRA gives every matrix \
                 the same rank. HyDRA measures where gradients are large and gives those layers and projections more \
                 of it, at the same number of trainable parameters."
            </p>
            <p class="soft">
                "The playground is not built yet. It will read a gradient log of your own training run and show \
                 stages, ranks and the PEFT configuration, without sending the file anywhere. Until then the program "
                <code>"trainer"</code> " does this on the command line."
            </p>
            <Budgets />
        </main>
    }
}

/// What uniform LoRA costs on the presets whose matrices have room for it.
#[component]
fn Budgets() -> impl IntoView {
    let rows = budgets(BASE_RANK)
        .into_iter()
        .map(|(name, decoder, lora)| {
            view! {
                <tr>
                    <th scope="row">{name}</th>
                    <td>{thousands(decoder)}</td>
                    <td>{thousands(lora)}</td>
                </tr>
            }
        })
        .collect_view();
    view! {
        <div class="scroll">
            <table>
                <caption>{format!("The budget: uniform LoRA at rank {BASE_RANK}, computed in this page")}</caption>
                <thead>
                    <tr>
                        <th scope="col">"model"</th>
                        <th scope="col">"decoder parameters"</th>
                        <th scope="col">"trainable parameters"</th>
                    </tr>
                </thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    }
}

/// Name, decoder parameters and LoRA parameters of every preset that is wide enough for the rank.
fn budgets(rank: u32) -> Vec<(String, u64, u64)> {
    use hydra_shared::model_spec::Projection;
    PRESETS
        .into_iter()
        .filter_map(|name| ModelSpec::preset(name).ok())
        .filter(|model| Projection::ALL.into_iter().all(|p| model.shape(p).full_rank() >= rank))
        .map(|model| (model.name.clone(), model.decoder_parameters(), model.lora_parameters(rank)))
        .collect()
}

/// `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_the_published_budgets_and_leaves_out_models_that_are_too_narrow() {
        let rows = budgets(BASE_RANK);
        assert!(rows.contains(&("mobilevlm-1.7b".to_owned(), 1_364_297_728, 121_110_528)));
        assert!(rows.iter().all(|(name, ..)| name != "tiny-mobilevlm"));
    }
}
