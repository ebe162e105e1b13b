//! Device, parity with the CPU, how far the run is, and what happened.

use hydra_playground::charts::pause;
use hydra_playground::messages::training::{PARITY_STEPS, PARITY_TOLERANCE, TrainingRequest};
use hydra_playground::text::thousands;
use hydra_shared::vlm::spec::preset_layout;
use leptos::prelude::*;

use super::state::{MODEL, TrainState};

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", 1000.0 * s),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// Device, parity, how far it is, and what happened.
#[component]
pub(super) fn Status(state: TrainState) -> impl IntoView {
    let device = move || {
        state.device.get().map(|device| {
            let kind = match (device.webgpu, device.software) {
                (true, false) => "WebGPU",
                (true, true) => "WebGPU on a software adapter: no GPU, and slow",
                (false, _) => "No GPU",
            };
            let reason = device.reason.map(|reason| format!(" Why: {reason}."));
            view! {
                <p id="train-device-name">
                    <strong>{kind}</strong>
                    {format!(": {}.", device.name)}
                    {reason}
                </p>
            }
        })
    };
    let parity = move || {
        let on_gpu = state.device.with(|device| device.as_ref().is_some_and(|device| device.webgpu));
        let badge = match state.parity.get() {
            Some(parity) => {
                let (class, verdict) = if parity.passed() {
                    ("badge right", "agrees with the CPU")
                } else {
                    ("badge wrong", "differs from the CPU")
                };
                let text =
                    format!("{verdict}: {:.1e} after {} of {PARITY_STEPS} steps", parity.difference, parity.steps);
                view! { <span class=class id="parity">{text}</span> }.into_any()
            }
            None if on_gpu => {
                view! { <span class="badge" id="parity">"not compared with the CPU yet"</span> }.into_any()
            }
            None => return None,
        };
        let why = format!(
            "The first {PARITY_STEPS} steps are computed on the CPU as well. Both compute in single precision, in another \
             order; up to {PARITY_TOLERANCE} of relative difference in a loss is rounding, and what a broken kernel does lies \
             far above."
        );
        Some(view! { <p>"GPU " {badge} " " <span class="soft">{why}</span></p> })
    };
    let clock = RwSignal::new(0.0);
    let ticking =
        set_interval_with_handle(move || clock.set(js_sys::Date::now()), std::time::Duration::from_secs(1)).ok();
    on_cleanup(move || ticking.iter().for_each(IntervalHandle::clear));
    // What takes long is seen to go on.
    let under_way = move || {
        let seconds = (clock.get() - state.since.get()?) / 1000.0;
        (seconds > 1.5).then(|| format!(" This one has taken {} so far.", duration(seconds)))
    };
    let far = move || {
        let (Some(ready), taken) = (state.ready.get(), state.history.with(Vec::len)) else { return None };
        let [schedule, uniform] = ready.parameters;
        let on_gpu = state.device.with(|device| device.as_ref().is_some_and(|device| device.webgpu));
        let whole = state.pace.get().and_then(|pace| pace.of(on_gpu)).map(|step| {
            format!("; about {} from the first to the last", duration(ready.setup.steps as f64 * step / 1000.0))
        });
        let pace = state.history.with(|history| {
            let last = &history[history.len().saturating_sub(10)..];
            let sum = last.iter().map(|step| step.milliseconds).sum::<f64>();
            let mean = sum / last.len().max(1) as f64;
            let tokens = 1000.0 * last.iter().map(|step| step.tokens).sum::<usize>() as f64 / sum.max(1.0);
            (!last.is_empty()).then(|| {
                let left = (ready.setup.steps - taken.min(ready.setup.steps)) as f64 * mean / 1000.0;
                let left = if left > 0.0 { format!("; about {} left", duration(left)) } else { String::new() };
                format!("; {} a step, {} tokens a second{left}", duration(mean / 1000.0), thousands(tokens as u64))
            })
        });
        Some(view! {
            <p>
                <progress max=ready.setup.steps value=taken aria-label="Steps taken"></progress>
                <span id="train-progress">
                    {format!("Step {taken} of {}{}.", ready.setup.steps, pace.or(whole).unwrap_or_else(|| "; the first step tells how long it takes".to_owned()))}
                </span>
                <span id="train-under-way">{under_way}</span>
            </p>
            {state.pace.get().map(|pace| view! { <p class="soft" id="train-pace">{pace.comparison()}</p> })}
            <p class="soft">
                {format!(
                    "Trainable parameters: {} under the schedule, {} under uniform LoRA; the projector is \
                     trained beside both. {} pictures, {} conversations.",
                    thousands(schedule as u64),
                    thousands(uniform as u64),
                    ready.pictures,
                    ready.conversations,
                )}
            </p>
        })
    };
    // While it moves there is nothing to read.
    let seen = move || {
        if state.playing.get() || state.since.with(Option::is_some) {
            return Vec::new();
        }
        let explained = state.ready.with(|ready| {
            let (ready, layout) = (ready.as_ref()?, preset_layout(MODEL)?);
            let explain = |history: &Vec<_>| {
                let (given, scored) = (state.answers.get(), state.scored.get());
                pause::explained(ready, &layout, history, given.as_ref(), scored.as_ref())
            };
            Some(state.history.with(explain))
        });
        explained.unwrap_or_default()
    };
    let events = move || {
        state.events.with(|events| events.iter().map(|event| view! { <li>{event.clone()}</li> }).collect_view())
    };
    let on_gpu = move || state.device.with(|device| device.as_ref().is_some_and(|device| device.webgpu));
    view! {
        <section class="card status" aria-label="The run">
            <div role="status" aria-live="polite">
                {device}
                {parity}
                {move || state.busy.get().map(|busy| view! { <p id="train-busy">{format!("{busy}…")}</p> })}
                {move || {
                    state.failed.get().map(|error| view! {
                        <p class="problem" id="train-failed">
                            {error} " " <button type="button" id="train-again" on:click=move |_| state.begin()>"Try again"</button>
                        </p>
                    })
                }}
                <ul class="events" id="train-events">
                    {events}
                </ul>
            </div>
            {far}
            <div id="train-pause" role="region" aria-label="What is seen now">
                <ul class="reasons">{move || seen().into_iter().map(|text| view! { <li>{text}</li> }).collect_view()}</ul>
            </div>
            {move || {
                on_gpu()
                    .then(|| {
                        view! {
                            <button
                                type="button"
                                id="lose-device"
                                class="quiet"
                                data-tip="Destroys the WebGPU device, as a driver that restarts does: the run goes on from its last snapshot"
                                on:click=move |_| state.send(&TrainingRequest::LoseDevice)
                            >
                                "Lose the device, to see the run recover"
                            </button>
                        }
                    })
            }}
        </section>
    }
}
