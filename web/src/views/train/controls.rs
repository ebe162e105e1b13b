//! What is trained, on what, and the buttons.

use hydra_playground::messages::training::{Arm, DeviceChoice, TrainingRequest};
use hydra_playground::samples::Sample;
use hydra_playground::session::Session;
use leptos::prelude::*;

use super::state::TrainState;
use crate::history::TakeBack;
use crate::parts::{Choice, NumberBox};
use crate::settings::{SPEEDS, TrainingChoices};

/// Most steps of a run, and of conversations in a step.
const MOST_STEPS: usize = 1000;
const MOST_CONVERSATIONS: usize = 32;

/// The devices that can be chosen, their names and what the page calls them.
const DEVICES: [(DeviceChoice, &str, &str); 3] = [
    (DeviceChoice::Auto, "auto", "the faster one"),
    (DeviceChoice::Gpu, "gpu", "WebGPU, even in software"),
    (DeviceChoice::Cpu, "cpu", "CPU"),
];

/// What is trained, on what, and the buttons.
#[component]
pub(super) fn TrainControls(state: TrainState) -> impl IntoView {
    let choices = state.choices;
    let schedule = move || {
        state.wanted.with(|wanted| match wanted {
            Err(error) => view! { <p class="problem">{error.clone()}</p> }.into_any(),
            Ok((_, true)) => view! { <p>"The schedule of Analyse, against uniform LoRA at the base rank."</p> }.into_any(),
            Ok((_, false)) => {
                let use_sample = move |_| state.page.session.set(Session::of_sample(Sample::TinyMobileVlm));
                view! {
                    <p>
                        "Analyse shows another model, and only the tiny MobileVLM is small enough to be trained in a page. What is \
                         trained here meanwhile is HyDRA's plan from that model's own gradients."
                    </p>
                    <button type="button" id="use-tiny-sample" on:click=use_sample>"Use the tiny model's sample in Analyse"</button>
                }
                    .into_any()
            }
        })
    };
    let number = move |pick: fn(&TrainingChoices) -> u32| Signal::derive(move || Some(choices.with(pick)));
    view! {
        <section class="controls card" aria-label="Training">
            <div class="row">
                <h2>"Fine-tune the tiny MobileVLM"</h2>
                <TakeBack />
            </div>
            <p class="soft">
                "472,000 weights, in your browser: generated pictures, questions about them, LoRA on every module of its six \
                 decoder layers."
            </p>
            {schedule}
            <div class="player">
                <button
                    type="button"
                    id="train-play"
                    class="primary"
                    disabled=move || !state.can_step() && !state.playing.get()
                    on:click=move |_| state.play_or_pause()
                >
                    {move || if state.playing.get() { "Pause" } else { "Play" }}
                </button>
                <button
                    type="button"
                    id="train-step"
                    disabled=move || !state.can_step() || state.playing.get()
                    on:click=move |_| state.step()
                >
                    "Step"
                </button>
                <button type="button" id="train-start" on:click=move |_| state.begin()>
                    {move || if state.is_changed() { "Start again with these choices" } else { "Start again" }}
                </button>
            </div>
            {move || {
                (state.is_changed() && state.history.with(|history| !history.is_empty())).then(|| view! {
                    <p class="made-up" role="status">"The choices below were changed: they hold from the next start on."</p>
                })
            }}
            <p class="soft">"Keys: space plays and pauses, . takes a step, r starts again."</p>
            <Choice
                label="Speed"
                id="train-speed"
                options=SPEEDS.to_vec()
                value=Signal::derive(move || state.pause.get().to_string())
                set=move |pause: String| {
                    let pause = pause.parse().unwrap_or(0);
                    state.pause.set(pause);
                    if state.begun.with_untracked(Option::is_some) {
                        state.send(&TrainingRequest::Wait(pause));
                    }
                }
                hint="How long the page waits between two steps"
            />
            <Choice
                label="Device"
                id="train-device"
                options=DEVICES.map(|(_, name, title)| (name, title)).to_vec()
                value=Signal::derive(move || {
                    let chosen = choices.with(|choices| choices.device);
                    DEVICES.iter().find(|(device, ..)| *device == chosen).map_or("auto", |(_, name, _)| name).to_owned()
                })
                set=move |name: String| {
                    if let Some((device, ..)) = DEVICES.into_iter().find(|(_, own, _)| *own == name) {
                        choices.update(|choices| choices.device = device);
                    }
                }
                hint="Where tensors live. By itself the page takes WebGPU only where a step takes less time than on the CPU"
            />
            <NumberBox
                label="Steps"
                id="train-steps"
                bounds=(1, MOST_STEPS as u32)
                value=number(|c| c.steps as u32)
                set={move |steps: Option<u32>| choices.update(|c| c.steps = steps.unwrap_or(60) as usize)}
                hint="Optimizer steps of a run"
            />
            <NumberBox
                label="Conversations a step"
                id="train-batch"
                bounds=(1, MOST_CONVERSATIONS as u32)
                value=number(|c| c.batch_size as u32)
                set={move |size: Option<u32>| choices.update(|c| c.batch_size = size.unwrap_or(8) as usize)}
                hint="Each has five questions about one picture"
            />
            <NumberBox
                label="Learning rate"
                id="train-learning-rate"
                bounds=(1e-6, 0.1)
                value=Signal::derive(move || Some(choices.with(|c| c.learning_rate)))
                set={move |rate: Option<f64>| choices.update(|c| c.learning_rate = rate.unwrap_or(5e-3))}
                hint="At its peak: it rises over the first steps and falls along a cosine"
            />
            <NumberBox
                label="Seed"
                id="train-seed"
                bounds=(0, u32::MAX)
                value=number(|c| c.seed)
                set={move |seed: Option<u32>| choices.update(|c| c.seed = seed.unwrap_or(1))}
                hint="Of initial adapters and of the order of the conversations, in both arms"
            />
            <h3>"Take away"</h3>
            <p class="soft">"adapter_config.json, adapter_model.safetensors, and the projector that was trained beside it."</p>
            <div class="row">
                {Arm::BOTH
                    .map(|arm| {
                        view! {
                            <button
                                type="button"
                                id=format!("adapter-{}", arm.index())
                                disabled=move || state.history.with(Vec::is_empty)
                                on:click=move |_| state.send(&TrainingRequest::Adapter(arm))
                            >
                                {format!("Adapter, {}", arm.name())}
                            </button>
                        }
                    })
                    .collect_view()}
            </div>
        </section>
    }
}
