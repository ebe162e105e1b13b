//! The performance model, live: a study, what the models make of it, and the schedule that is tried next.

mod controls;
mod marked;
mod measured;
mod state;
mod verdict;

use std::time::Duration;

use hydra_playground::charts::{Chart, NARROW, WIDTH, heatmap, search};
use hydra_playground::messages::performance::{Next, Progress, Request};
use hydra_shared::layout::Ranks;
use hydra_shared::performance::ModelKind;
use leptos::prelude::*;

use self::controls::SearchControls;
use self::marked::{Marked, coordinates_of, outside_of};
use self::measured::MeasuredStudy;
use self::verdict::VerdictCard;
use crate::browser::{Later, on_keys};
use crate::intake::Intake;
use crate::page::Kept;
use crate::parts::{Choice, Figure};
use crate::settings::{SPEEDS, View};

pub use self::state::SearchState;

/// A measured study beside the page.
const STUDY: &str = "samples/schedules.journal";
/// How long a study waits for the choices to rest before it begins anew.
const REST: Duration = Duration::from_millis(400);

/// The view.
#[component]
pub fn SearchView() -> impl IntoView {
    let state = Kept::of(SearchState::new);
    let intake = Intake::get();
    // Begins when the view is opened, and anew when something else is wanted.
    let later = StoredValue::new_local(Later::default());
    Effect::new(move |_| {
        let open = state.page.view.get() == View::Search;
        state.wanted.track();
        if !state.is_changed() {
            // What kept the study from beginning anew is undone.
            state.failed.set(None);
        } else if open {
            // Whoever goes on before has begun it.
            later.with_value(|later| {
                later.run(REST, move || {
                    state.begin_changed();
                });
            });
        }
    });
    // What was wanted while a score was told.
    let telling = Memo::new(move |_| state.is_measured() && state.busy.get());
    Effect::new(move |told: Option<bool>| {
        let now = telling.get();
        if told == Some(true) && !now && state.failed.with_untracked(Option::is_none) {
            state.begin_changed();
        }
        now
    });
    let shown = RwSignal::new(ModelKind::Transformer);
    let charted = move |chart: fn(&Progress, ModelKind) -> Chart| {
        // While a study begins anew, the last charts stay.
        Memo::new(move |last: Option<&Chart>| {
            state.progress.with(|progress| match progress {
                Some(progress) => chart(progress, shown.get()),
                None => last.cloned().unwrap_or_default(),
            })
        })
    };
    let coordinates = coordinates_of(state);
    let outside = outside_of(state, coordinates);
    let marked =
        move |chart: Memo<Chart>| Memo::new(move |_| outside.with(|outside| search::marked(chart.get(), outside)));
    let (wide, slim) = (
        charted(|progress, _| search::history(progress, WIDTH)),
        charted(|progress, _| search::history(progress, NARROW)),
    );
    let history = marked(Memo::new(move |_| if state.page.narrow.get() { slim.get() } else { wide.get() }));
    let predictions = marked(charted(search::predictions));
    let errors = charted(|progress, _| search::errors(progress));
    let busy = move || if state.busy.get() { "true" } else { "false" };
    let begun = move || state.progress.with(Option::is_some);
    view! {
        <div class="columns">
            <div class="bench">
                <SearchControls state />
                <div class="lead" aria-busy=busy>
                    <Show when=move || state.is_made_up()>
                        <p class="made-up">
                            <strong>"The scores on this page are made up"</strong>
                            ", so that the best schedule is known and a search can be judged. To search over your own training, "
                            <button type="button" id="begin-own" on:click=move |_| state.begin_own()>"begin a study of your own"</button>
                            ": the page hands out a schedule, you fine-tune it wherever you like and type its score. Or look at "
                            <button type="button" id="measured-sample" on:click=move |_| intake.open_beside(STUDY)>"a study that was measured"</button>
                            ": schedules of the tiny MobileVLM at equal parameters, each fine-tuned with several seeds."
                        </p>
                    </Show>
                    <VerdictCard state />
                    <Show when=move || state.is_measured()>
                        <MeasuredStudy state />
                    </Show>
                    <Player state />
                    <Show when=begun>
                        <Figure chart=history file="search-history" />
                    </Show>
                </div>
            </div>
            <div class="views" aria-busy=busy>
                <Show when=begun>
                    <NextSchedule state shown />
                    <Marked state coordinates />
                    <div class="pair">
                        <Figure chart=predictions file="predicted-measured">
                            <Choice
                                label="Model"
                                id="shown-model"
                                options=ModelKind::ALL.map(|model| (model.name(), model.title())).to_vec()
                                value=Signal::derive(move || shown.get().name().to_owned())
                                set=move |name: String| {
                                    if let Some(model) = ModelKind::from_name(&name) {
                                        shown.set(model);
                                    }
                                }
                                hint="Whose predictions are shown"
                            />
                        </Figure>
                        <Figure chart=errors file="leave-one-out" />
                    </div>
                </Show>
            </div>
        </div>
    }
}

/// Step, play, pause, begin anew.
#[component]
fn Player(state: SearchState) -> impl IntoView {
    let play = move |_| state.play_or_pause();
    on_keys(move |key| match key {
        " " if state.is_made_up() => state.play_or_pause(),
        "." => state.step(),
        "r" if state.is_made_up() => state.begin(),
        _ => {}
    });
    let status = move || {
        if let Some(error) = state.failed.get() {
            return error;
        }
        let before = state.progress.with(|progress| {
            progress.as_ref().map(|progress| {
                let count = progress.trials.len();
                format!("{count} trials; the last answer took {:.1} s.", progress.milliseconds / 1000.0)
            })
        });
        match (before, state.busy.get()) {
            (Some(before), false) => before,
            (Some(before), true) => format!("{before} Fitting the models…"),
            (None, true) => {
                "Fitting performance models to the first trials: they learn from scores which schedules score well, and propose \
                 the next…"
                    .to_owned()
            }
            (None, false) => "No study has begun.".to_owned(),
        }
    };
    let stepping = move || state.can_step() && !state.busy.get();
    view! {
        <section class="card" aria-label="Run the search">
            <div class="player">
                <Show when=move || state.is_made_up()>
                    <button
                        type="button"
                        prop:disabled=move || !state.running.get() && !stepping()
                        on:click=play
                    >
                        {move || if state.running.get() { "Pause" } else { "Play" }}
                    </button>
                    <button
                        type="button"
                        prop:disabled=move || !stepping()
                        on:click=move |_| state.step()
                    >
                        "Step"
                    </button>
                    <Choice
                        label="Speed"
                        id="search-speed"
                        options=SPEEDS.to_vec()
                        value=Signal::derive(move || state.pause.get().to_string())
                        set=move |pause: String| {
                            state.pause.set(pause.parse().unwrap_or(0));
                            if state.running.get_untracked() {
                                state.send(&Request::Run { pause: state.pause.get_untracked() });
                            }
                        }
                        hint="Pause between two trials"
                    />
                </Show>
                <Show when=move || state.is_made_up()>
                    <button type="button" on:click=move |_| state.begin()>"Begin anew"</button>
                </Show>
                <Show when=move || state.failed.with(Option::is_some)>
                    <button type="button" id="search-again" on:click=move |_| state.begin()>"Try again"</button>
                </Show>
            </div>
            <p class="caption" id="search-status" class:problem=move || state.failed.with(Option::is_some) role="status">
                {status}
            </p>
            <Show when=move || state.is_made_up()>
                <p class="soft">"Keys: space plays and pauses, . takes a step, r begins anew."</p>
            </Show>
        </section>
    }
}

/// The schedule that is tried next, why, and how it differs from the best so far.
#[component]
fn NextSchedule(state: SearchState, shown: RwSignal<ModelKind>) -> impl IntoView {
    let next = move || {
        state.progress.with_untracked(|progress| match &progress.as_ref()?.next {
            Next::Try(proposed) => Some((proposed.number, proposed.ranks.clone())),
            Next::Over(_) | Next::TooManyTrials => None,
        })
    };
    let best = move || {
        state.progress.with_untracked(|progress| {
            let trials = progress.as_ref()?.trials.iter().filter(|trial| trial.objective.is_some());
            let best = trials.fold(None, |best: Option<&hydra_shared::search::PlainTrial>, trial| match best {
                Some(b) if trial.objective <= b.objective => Some(b),
                _ => Some(trial),
            })?;
            Some((best.number, best.ranks.clone()))
        })
    };
    let sentences = move || {
        state.progress.with(|progress| {
            let (Some(progress), Some(about)) = (progress, state.about()) else { return Vec::new() };
            search::reasons(progress, &about.layout)
        })
    };
    let warnings = move || {
        state.progress.with(|progress| progress.as_ref().map(|progress| search::warnings(progress, shown.get())))
    };
    let list =
        |sentences: Vec<String>| sentences.into_iter().map(|sentence| view! { <li>{sentence}</li> }).collect_view();
    let difference = Memo::new(move |last: Option<&Chart>| {
        let (about, next, best) = (state.about(), state.progress.with(|_| next()), best());
        match (about, next, best) {
            (Some(about), Some(next), Some(best)) => {
                let names = (format!("trial {}", best.0), format!("trial {}", next.0));
                let bound = |ranks| Ranks::new(&about.layout, ranks).ok();
                let chart = bound(best.1).zip(bound(next.1));
                chart.map(|(best, next)| heatmap::difference(&best, &next, (&names.0, &names.1))).unwrap_or_default()
            }
            _ => last.cloned().unwrap_or_default(),
        }
    });
    let has_next = move || state.progress.with(|_| next().is_some());
    let has_best = move || state.progress.with(|_| best().is_some());
    view! {
        <section class="card" aria-labelledby="next-schedule">
            <h2 id="next-schedule">"Next schedule"</h2>
            <ul class="reasons">{move || list(sentences())}</ul>
            <ul class="warnings">{move || list(warnings().unwrap_or_default())}</ul>
            <div class="row">
                <button
                    type="button"
                    prop:disabled=move || !has_next()
                    on:click=move |_| {
                        if let Some((_, ranks)) = next() {
                            state.take_into_analysis(&ranks);
                        }
                    }
                >
                    "Take the next into Analyse"
                </button>
            </div>
        </section>
        <Show when=move || has_next() && has_best()>
            <Figure chart=difference file="next-against-best" />
        </Show>
    }
}
