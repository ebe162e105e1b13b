//! Sample pictures, what is asked about them, and the answers before and after.

use std::sync::Arc;

use hydra_playground::charts::answers;
use hydra_playground::messages::training::{Arm, TrainingRequest};
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::{Clamped, JsCast};
use web_sys::{CanvasRenderingContext2d, ImageData};

use super::state::TrainState;
use crate::browser::save_text;
use crate::parts::Picture;

/// The sample pictures, what is asked about them, and the answers before and after.
#[component]
pub(super) fn SampleAnswers(state: TrainState) -> impl IntoView {
    let ask = move |_| {
        state.busy.set(Some("answering the sample questions".to_owned()));
        state.send(&TrainingRequest::Answer);
    };
    let save = move |_| {
        let table = state.ready.with_untracked(|ready| {
            let ready = ready.as_ref()?;
            Some(state.answers.with_untracked(|given| answers::table(ready, given.as_ref())))
        });
        if let Some(table) = table {
            save_text("sample-answers.csv", "text/csv", &table.to_csv());
        }
    };
    let cards = move || {
        let count = state.ready.with(|ready| ready.as_ref().map_or(0, |ready| ready.questions.len()));
        (0..count).map(|question| view! { <Sampled state question /> }).collect_view()
    };
    let when = move || {
        state.answers.with(|answers| match answers {
            Some(answers) => format!("After {} steps.", answers.step),
            None => "Before training. The answers after it come by themselves when the last step is taken.".to_owned(),
        })
    };
    view! {
        <section class="card" aria-label="Answers">
            <div class="row">
                <h2>"Answers about pictures of the validation part"</h2>
                <span class="saves">
                    <button type="button" class="quiet" on:click=save aria-label="Save the answers as CSV">"CSV"</button>
                </span>
            </div>
            <p>
                {when} " Boxes:" <span class="key target">"right"</span> " " <span class="key schedule">"schedule"</span> " "
                <span class="key uniform">"uniform LoRA"</span>
            </p>
            <button
                type="button"
                id="train-answer"
                disabled=move || state.busy.with(Option::is_some) || state.history.with(Vec::is_empty)
                on:click=ask
            >
                "Answer now"
            </button>
            <div class="samples">{cards}</div>
        </section>
    }
}

/// One question.
#[component]
fn Sampled(state: TrainState, question: usize) -> impl IntoView {
    let canvas = NodeRef::<html::Canvas>::new();
    let asked = state.ready.with_untracked(|r| r.as_ref().and_then(|r| r.questions.get(question).cloned()));
    let picture = state.ready.with_untracked(|ready| {
        let (ready, asked) = (ready.as_ref()?, asked.as_ref()?);
        Some((ready.side, ready.samples.get(asked.picture)?.clone()))
    });
    let side = picture.as_ref().map_or(0, |(side, _)| *side);
    Effect::new(move |_| {
        if let (Some(canvas), Some((side, rgb))) = (canvas.get(), &picture) {
            paint(&canvas, *side, rgb);
        }
    });
    let over = Memo::new(move |_| {
        state.ready.with(|ready| {
            let ready = ready.as_ref()?;
            state.answers.with(|given| answers::overlay(ready, question, given.as_ref()))
        })
    });
    let rows = move || {
        state.ready.with(|ready| {
            let ready = ready.as_ref()?;
            let asked = ready.questions.get(question)?;
            let given = state.answers.get();
            let mut rows = vec![("untouched".to_owned(), ready.before.get(question).cloned())];
            for arm in Arm::BOTH {
                let answer = given.as_ref().and_then(|given| given.texts[arm.index()].get(question).cloned());
                rows.push((arm.name().to_owned(), answer));
            }
            let row = |(name, answer): (String, Option<String>)| {
                let judged = answer.map(|answer| answers::judge(asked, &answer, ready.side));
                let (text, mark) = match judged {
                    Some(judged) => (judged.text, if judged.right { "✓ right" } else { "✗ wrong" }),
                    None => ("–".to_owned(), ""),
                };
                view! {
                    <tr>
                        <th scope="row">{name}</th>
                        <td>{text}</td>
                        <td>{mark}</td>
                    </tr>
                }
            };
            Some(rows.into_iter().map(row).collect_view())
        })
    };
    let overlay = Signal::derive(move || Arc::new(over.get().unwrap_or_default()));
    let page = state.page;
    asked.map(|asked| {
        let name = format!("Sample picture {}", asked.picture + 1);
        let expected = if asked.target.is_some() { "the dashed box".to_owned() } else { asked.answer };
        view! {
            <div class="sample">
                <div class="sample-picture">
                    <canvas node_ref=canvas width=side height=side role="img" aria-label=name></canvas>
                    {move || over.with(Option::is_some).then(|| view! { <Picture drawing=overlay theme=page.theme /> })}
                </div>
                <div class="sample-text">
                    <p>
                        <strong>{asked.text}</strong>
                    </p>
                    <p class="soft">{format!("{}; expected: {expected}", asked.kind.name())}</p>
                </div>
                <table>
                    <tbody>{rows}</tbody>
                </table>
            </div>
        }
    })
}

/// Puts a picture onto a canvas.
fn paint(canvas: &web_sys::HtmlCanvasElement, side: u32, rgb: &[u8]) {
    let rgba: Vec<u8> = rgb.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
    let context = canvas.get_context("2d").ok().flatten();
    let context = context.and_then(|context| context.dyn_into::<CanvasRenderingContext2d>().ok());
    if let (Some(context), Ok(data)) =
        (context, ImageData::new_with_u8_clamped_array_and_sh(Clamped(&rgba), side, side))
    {
        // A picture that does not appear is no reason to stop.
        let _ = context.put_image_data(&data, 0.0, 0.0);
    }
}
