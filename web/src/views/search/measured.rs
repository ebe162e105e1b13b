//! A study whose trials a person fine-tunes: a schedule is handed out, its score is typed, the file is saved.

use hydra_playground::analysis::Analysis;
use hydra_playground::export::exports;
use hydra_playground::messages::performance::{Next, OWN_STUDY, Proposed, Request};
use hydra_playground::session::Session;
use hydra_playground::trial_result::scores_for;
use leptos::prelude::*;

use super::state::SearchState;
use crate::browser::save_text;
use crate::intake::Intake;

/// The trial that is asked for, and what came of it.
#[component]
pub(super) fn MeasuredStudy(state: SearchState) -> impl IntoView {
    let asked = Memo::new(move |_| {
        state.progress.with(|progress| match &progress.as_ref()?.next {
            Next::Try(proposed) => Some(proposed.as_ref().clone()),
            Next::Over(_) | Next::TooManyTrials => None,
        })
    });
    let told = move || state.progress.with(|progress| progress.as_ref()?.written.as_ref()?.told);
    let save = move |_| {
        let text = state.dropped.with_untracked(|study| study.as_ref().map(|study| study.text.clone()));
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            save_text("study.journal", "application/jsonl", &text);
            state.unsaved.set(false);
        }
    };
    let heading = move || match state.dropped.with(|study| study.as_ref().map(|study| study.about.name.clone())) {
        Some(name) if name != OWN_STUDY => format!("Study {name:?}"),
        _ => "Your study".to_owned(),
    };
    view! {
        <section class="card" aria-labelledby="own-study" id="measured">
            <h2 id="own-study">{heading}</h2>
            <p>
                "To go on with it, fine-tune the schedule that the page hands out wherever you like, with the seed that stands beside \
                 it, and type what it scores on a validation split, or drop the file that your training wrote for trainer search: \
                 {\"scores\": {\"task\": 61.5}}. Higher is better."
            </p>
            {move || asked.get().map(|asked| view! { <Asked state asked /> })}
            {move || told().map(|number| view! {
                <button
                    type="button"
                    id="take-back"
                    prop:disabled=move || state.busy.get()
                    on:click=move |_| {
                        let question = format!(
                            "Take back what was told of trial {number}? The trial that was asked since is chosen anew: what you may train \
                             for it already counts for nothing."
                        );
                        if window().confirm_with_message(&question).unwrap_or(false) {
                            state.send(&Request::TakeBack);
                        }
                    }
                >
                    {format!("Take back what was told of trial {number}")}
                </button>
            })}
            <div class="row">
                <button type="button" id="save-study" on:click=save>"Save the study (Optuna's journal)"</button>
                <span class="soft" role="status">
                    {move || {
                        if state.unsaved.get() {
                            "There is something in it that was not saved. Drop the file here to go on next week; trainer study and \
                             Optuna's dashboard read it, too."
                        } else {
                            "Drop the file here to go on next week; trainer study and Optuna's dashboard read it, too."
                        }
                    }}
                </span>
            </div>
        </section>
    }
}

/// A trial to run, and the boxes for its scores.
#[component]
fn Asked(state: SearchState, asked: Proposed) -> impl IntoView {
    let Proposed { number, ranks, seed, .. } = asked;
    let benchmarks: Vec<String> = state.about().map(|about| about.benchmarks).unwrap_or_default();
    // The first trial that is told names the scores.
    let names = RwSignal::new(if benchmarks.is_empty() { vec!["score".to_owned()] } else { benchmarks.clone() });
    let values = RwSignal::new(vec![String::new(); names.with_untracked(Vec::len)]);
    let problem = RwSignal::new(None::<String>);
    // A file with the scores fills the boxes; it is told when somebody has looked at them.
    let dropped = Intake::get().scores;
    Effect::new(move |_| {
        let Some(scores) = dropped.get() else { return };
        match scores_for(&benchmarks, scores) {
            Ok(scores) => {
                let (tasks, found): (Vec<String>, Vec<String>) =
                    scores.into_iter().map(|(task, score)| (task, score.to_string())).unzip();
                problem.set(None);
                values.set(found);
                names.set(tasks);
            }
            Err(why) => problem.set(Some(why)),
        }
    });
    let tell = move |_| {
        let scores: Option<Vec<(String, f64)>> = names.with_untracked(|names| {
            values.with_untracked(|values| {
                let one = |(name, value): (&String, &String)| {
                    let number = js_sys::Number::parse_float(value.trim());
                    (!value.trim().is_empty() && number.is_finite()).then(|| (name.clone(), number))
                };
                names.iter().zip(values).map(one).collect()
            })
        });
        match scores {
            Some(scores) => {
                problem.set(None);
                // Until the file is saved, it is here alone.
                state.unsaved.set(true);
                dropped.set(None);
                state.send(&Request::Tell { number, scores: Ok(scores) });
            }
            None => problem.set(Some("Write the score as a number, such as 61.5.".to_owned())),
        }
    };
    let failed = move |_| {
        state.unsaved.set(true);
        dropped.set(None);
        state.send(&Request::Tell { number, scores: Err("told in the page as failed".to_owned()) });
    };
    let for_analysis = ranks.clone();
    let peft = move |_| {
        let text = state.session_of(&ranks).and_then(|session: Session| {
            let analysis = Analysis::new(&session).ok()?;
            exports(&session, &analysis, "").ok()?.into_iter().next()
        });
        match text {
            Some(export) => save_text(&format!("trial-{number}-{}", export.file), export.kind, &export.text),
            None => state.page.warn("The schedule cannot be written as PEFT configuration."),
        }
    };
    let boxes = move || {
        let one = |(place, name): (usize, String)| {
            let id = format!("score-{place}");
            view! {
                <div class="control">
                    <label for=id.clone()>{name}</label>
                    <input
                        type="number"
                        step="any"
                        id=id
                        aria-invalid=move || problem.get().map(|_| "true")
                        aria-describedby="score-problem"
                        prop:value=move || values.with(|values| values.get(place).cloned().unwrap_or_default())
                        on:input=move |event| values.update(|values| {
                            if let Some(slot) = values.get_mut(place) {
                                *slot = event_target_value(&event);
                            }
                        })
                    />
                </div>
            }
        };
        names.get().into_iter().enumerate().map(one).collect_view()
    };
    view! {
        <p id="asked-trial">
            <strong>{format!("Trial {number}, seed {seed}")}</strong>
            " "
            <button type="button" id="asked-peft" on:click=peft>"Save its adapter_config.json"</button>
            " "
            <button type="button" on:click=move |_| state.take_into_analysis(&for_analysis)>"Look at it in Analyse"</button>
        </p>
        <form class="tell" on:submit=|event| event.prevent_default()>
            {boxes}
            <button type="submit" class="primary" id="tell" prop:disabled=move || state.busy.get() on:click=tell>"Tell the score"</button>
            <button type="button" prop:disabled=move || state.busy.get() on:click=failed>"It failed"</button>
        </form>
        <p class="problem" id="score-problem" role="alert">{move || problem.get()}</p>
    }
}
