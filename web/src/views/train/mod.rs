//! Fine-tuning the tiny MobileVLM in the page: the schedule at hand against uniform LoRA of the same budget.

mod answers;
mod controls;
mod state;
mod status;

use std::time::Duration;

use hydra_playground::charts::{gradients_live, loss};
use hydra_playground::messages::training::Arm;
use hydra_shared::vlm::spec::preset_layout;
use leptos::prelude::*;

use self::answers::SampleAnswers;
use self::controls::TrainControls;
use self::state::MODEL;
use self::status::Status;
use crate::browser::{Later, on_keys};
use crate::page::{Kept, Page};
use crate::parts::{Choice, Figure};

pub use self::state::TrainState;

/// How long a run waits for the choices to rest before it is prepared anew.
const REST: Duration = Duration::from_millis(500);

/// The view.
#[component]
pub fn TrainView() -> impl IntoView {
    let page = Page::get();
    let state = Kept::of(|| TrainState::new(page));
    if state.begun.get_untracked().is_none() {
        state.begin_or_go_on();
    }
    // Before the first step other choices cost no more than measuring one; only what is prepared is known to be before it.
    let later = StoredValue::new_local(Later::default());
    Effect::new(move |_| {
        let is_prepared = state.ready.with(Option::is_some);
        if is_prepared && state.is_changed() && state.history.with(Vec::is_empty) && state.since.with(Option::is_none) {
            later.with_value(|later| {
                later.run(REST, move || {
                    if state.is_changed() && state.history.with_untracked(Vec::is_empty) {
                        state.begin();
                    }
                });
            });
        }
    });
    on_keys(move |key| match key {
        " " => state.play_or_pause(),
        "." if state.can_step() => state.step(),
        "r" => state.begin(),
        _ => {}
    });
    let losses = Memo::new(move |_| state.history.with(|history| loss::chart(history, state.steps())));
    let arm = RwSignal::new(Arm::Uniform);
    let norms = Memo::new(move |_| {
        let layout = preset_layout(MODEL);
        state
            .history
            .with(|history| layout.map(|layout| gradients_live::chart(&layout, history, arm.get())).unwrap_or_default())
    });
    let busy = move || if state.busy.with(Option::is_some) { "true" } else { "false" };
    view! {
        <div class="columns">
            <div class="bench">
                <TrainControls state />
                <div class="lead" aria-busy=busy>
                    <Status state />
                    <Figure chart=losses file="training-loss">
                        <p class="soft">
                            "Both arms take the same steps on the same conversations. Thin: every step. Thick: the mean of \
                             the last eight."
                        </p>
                    </Figure>
                </div>
            </div>
            <div class="views" aria-busy=busy>
                <Figure chart=norms file="live-gradient-norms">
                    <div class="row">
                        <Choice
                            label="Arm"
                            id="norms-arm"
                            options=vec![("uniform", "uniform LoRA"), ("schedule", "schedule")]
                            value=Signal::derive(move || {
                                if arm.get() == Arm::Uniform { "uniform" } else { "schedule" }.to_owned()
                            })
                            set=move |name: String| arm.set(if name == "uniform" { Arm::Uniform } else { Arm::Schedule })
                            hint="HyDRA plans from the norms of a run with the same rank everywhere"
                        />
                        <button
                            type="button"
                            id="log-to-analysis"
                            class="primary"
                            disabled=move || state.history.with(Vec::is_empty)
                            on:click=move |_| state.ask_log(arm.get_untracked(), true)
                        >
                            "Analyse this log"
                        </button>
                        <button
                            type="button"
                            disabled=move || state.history.with(Vec::is_empty)
                            on:click=move |_| state.ask_log(arm.get_untracked(), false)
                        >
                            "Save the log"
                        </button>
                    </div>
                </Figure>
                <SampleAnswers state />
            </div>
        </div>
    }
}
