//! Every choice of the search.

use hydra_playground::charts::search::Notch;
use hydra_playground::messages::performance::StudySource;
use hydra_shared::performance::ModelKind;
use hydra_shared::search::Rule;
use leptos::prelude::*;

use super::state::SearchState;
use crate::history::TakeBack;
use crate::parts::{Choice, Foresee, NumberBox, Slider};

/// Largest seed that survives as a JavaScript number.
const MOST_SEED: u64 = (1 << 53) - 1;

/// Every choice of the search.
#[component]
pub(super) fn SearchControls(state: SearchState) -> impl IntoView {
    let choices = state.choices;
    let made_up = move || state.dropped.with(Option::is_none) || !state.of_journal.get();
    let dropped = move || {
        state.dropped.with(|study| {
            study.as_ref().map(|study| {
                let own = study.begun.is_some();
                let name = if own { "Your study".to_owned() } else { format!("Study {:?}", study.about.name) };
                let text = format!("{name}, {} trials", study.trials);
                view! {
                    <fieldset>
                        <legend>"Study"</legend>
                        <div class="control tick">
                            <input
                                type="radio"
                                name="study"
                                id="study-dropped"
                                prop:checked=move || state.of_journal.get()
                                on:change=move |_| state.of_journal.set(true)
                            />
                            <label for="study-dropped">{text}</label>
                        </div>
                        <div class="control tick">
                            <input
                                type="radio"
                                name="study"
                                id="study-made-up"
                                prop:checked=move || !state.of_journal.get()
                                on:change=move |_| state.of_journal.set(false)
                            />
                            <label for="study-made-up">"Made up on the session's model"</label>
                        </div>
                    </fieldset>
                }
            })
        })
    };
    view! {
        <form class="controls card" aria-label="Search" on:submit=|event| event.prevent_default()>
            <div class="row">
                <h2>"Search"</h2>
                <TakeBack />
            </div>
            {dropped}
            <Choice
                label="The next schedule is proposed by"
                id="search-model"
                options=ModelKind::ALL.map(|model| (model.name(), model.title())).to_vec()
                value=Signal::derive(move || choices.get().model.name().to_owned())
                set=move |name: String| {
                    if let Some(model) = ModelKind::from_name(&name) {
                        choices.update(|choices| choices.model = model);
                    }
                }
                hint="A small model that learns from the trials which schedules score well"
            />
            <Choice
                label="Of its candidates it takes"
                id="search-rule"
                options=Rule::all().map(|rule| (rule.name(), rule.title())).collect()
                value=Signal::derive(move || choices.get().acquisition.name().to_owned())
                set=move |name: String| {
                    if let Some(rule) = Rule::from_name(&name) {
                        choices.update(|choices| choices.acquisition = rule);
                    }
                }
                hint="The highest predicted score, or what may gain most where the model is unsure"
            />
            <NumberBox
                label="Seed"
                id="search-seed"
                bounds=(0, MOST_SEED)
                value=Signal::derive(move || Some(choices.get().seed))
                set={move |seed: Option<u64>| choices.update(|choices| choices.seed = seed.unwrap_or(0))}
                hint="Seed of the proposals: the same study and seed give the trainer's proposal"
            />
            <Show when=made_up>
                <MadeUpControls state />
            </Show>
        </form>
    }
}

/// The choices that a made-up study has besides.
#[component]
fn MadeUpControls(state: SearchState) -> impl IntoView {
    let (choices, response) = (state.choices, state.response);
    let more = move |notch: Notch| -> Foresee {
        Box::new(move || {
            state.wanted.with_untracked(|wanted| {
                let Ok((StudySource::Synthetic(made_up), config)) = wanted else { return None };
                // What was seen of the study before says nothing of another one.
                let is_seen = !state.is_changed();
                state
                    .progress
                    .with_untracked(|progress| notch.one_more(made_up, config, progress.as_ref().filter(|_| is_seen)))
            })
        })
    };
    view! {
        <Slider
            label="Fresh seeds at the end"
            id="search-replicates"
            bounds=Notch::Seeds.range().0
            step=Notch::Seeds.range().1
            more=more(Notch::Seeds)
            value=Signal::derive(move || choices.get().replicates as f64)
            set=move |seeds: f64| choices.update(|choices| choices.replicates = seeds as usize)
            hint="The best schedules are tried again with so many other seeds, beside uniform LoRA and the plan: that tells worth from luck"
        />
        <Slider
            label="First trials, without a model"
            id="search-starts"
            bounds=Notch::Starts.range().0
            step=Notch::Starts.range().1
            more=more(Notch::Starts)
            value=Signal::derive(move || choices.get().starts as f64)
            set=move |starts: f64| choices.update(|choices| {
                choices.starts = starts as usize;
                choices.trials = choices.trials.max(choices.starts);
            })
            hint="Uniform LoRA, the plan and others made by hand, then random ones: what the model learns from first"
        />
        <Slider
            label="Trials"
            id="search-trials"
            bounds=Notch::Trials.range().0
            step=Notch::Trials.range().1
            more=more(Notch::Trials)
            value=Signal::derive(move || choices.get().trials as f64)
            set=move |trials: f64| choices.update(|choices| {
                choices.trials = trials as usize;
                choices.starts = choices.starts.min(choices.trials);
            })
            hint="Different schedules in all, the first ones included"
        />
        <Slider
            label="Gradients tell the gains"
            id="search-agreement"
            bounds=Notch::Agreement.range().0
            step=Notch::Agreement.range().1
            more=more(Notch::Agreement)
            value=Signal::derive(move || response.get().agreement)
            set=move |agreement| response.update(|response| response.agreement = agreement)
            hint="How far the gradient norms tell what rank a module gains from: 0 not at all, 1 wholly"
        />
        <Slider
            label="Noise of a score"
            id="search-noise"
            bounds=Notch::Noise.range().0
            step=Notch::Noise.range().1
            more=more(Notch::Noise)
            value=Signal::derive(move || response.get().noise)
            set=move |noise| response.update(|response| response.noise = noise)
            hint="Standard deviation of a measured score, in percent points"
        />
        <NumberBox
            label="Seed of the made-up scores"
            id="search-response"
            bounds=(0, MOST_SEED)
            value=Signal::derive(move || Some(response.get().seed))
            set={move |seed: Option<u64>| response.update(|response| response.seed = seed.unwrap_or(0))}
            hint="Seed of the made-up response: what every module gains from rank, and the noise"
        />
        <p class="soft">
            "Made up: every module adds to the score with diminishing returns. What it adds is hidden from the search, \
             and the best schedule within the budget is known, so that the search can be judged."
        </p>
    }
}
