//! What schedules have in common, and how those fared of which a part is marked.

use std::collections::BTreeSet;

use hydra_playground::charts::search::{Brush, COORDINATES, Coordinate, Coordinates};
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use web_sys::{Element, PointerEvent};

use super::state::SearchState;
use crate::parts::Figure;

/// Positions of a slider over an axis.
const NOTCHES: f64 = 100.0;
/// How far a drawing has to move to mark something, in units of the picture: less is a click.
const LEAST: f64 = 4.0;

/// Every trial on its coordinates, or nothing yet.
pub(super) fn coordinates_of(state: SearchState) -> Memo<Option<Coordinates>> {
    Memo::new(move |_| {
        // First what it follows, which is there after what the study is about.
        state.progress.with(|progress| Some(Coordinates::new(progress.as_ref()?, &state.about()?.layout)))
    })
}

/// Numbers of the trials outside of what is marked.
pub(super) fn outside_of(state: SearchState, coordinates: Memo<Option<Coordinates>>) -> Memo<BTreeSet<usize>> {
    Memo::new(move |_| {
        let brush = state.brush.get();
        coordinates.with(|coordinates| coordinates.as_ref().map(|all| all.outside(&brush)).unwrap_or_default())
    })
}

/// Parallel coordinates with what marks them: drawing along an axis, or sliders.
#[component]
pub(super) fn Marked(state: SearchState, coordinates: Memo<Option<Coordinates>>) -> impl IntoView {
    let brush = state.brush;
    let chart = Memo::new(move |_| {
        let brush = brush.get();
        coordinates.with(|coordinates| coordinates.as_ref().map(|all| all.chart(&brush)).unwrap_or_default())
    });
    // Where drawing began: the axis, the value there, and the place.
    let began = StoredValue::new(None::<(usize, f64, f64)>);
    let at = move |event: &PointerEvent| {
        let size = chart.with_untracked(|chart| (chart.drawing.width, chart.drawing.height));
        let (x, y) = place_in_picture(event, size)?;
        let (axis, value) = coordinates.with_untracked(|coordinates| coordinates.as_ref()?.at(x, y))?;
        Some((axis, value, y))
    };
    let mark = move |axis: usize, range: Option<(f64, f64)>| {
        brush.update(|brush| {
            if let Some(slot) = brush.0.get_mut(axis) {
                *slot = range;
            }
        });
    };
    let down = move |event: PointerEvent| {
        // A finger scrolls; for it there are the sliders.
        if event.pointer_type() != "touch" && event.button() == 0 {
            began.set_value(at(&event));
        }
    };
    let drawn = move |event: &PointerEvent| {
        let (axis, from, top) = began.get_value()?;
        let size = chart.with_untracked(|chart| (chart.drawing.width, chart.drawing.height));
        let (_, y) = place_in_picture(event, size)?;
        let to = coordinates.with_untracked(|coordinates| Some(coordinates.as_ref()?.value(axis, y)))?;
        Some((axis, ((y - top).abs() >= LEAST).then(|| (from.min(to), from.max(to)))))
    };
    let moved = move |event: PointerEvent| {
        if let Some((axis, Some(range))) = drawn(&event) {
            event.prevent_default();
            mark(axis, Some(range));
        }
    };
    let up = move |event: PointerEvent| {
        if let Some((axis, range)) = drawn(&event) {
            mark(axis, range);
        }
        began.set_value(None);
    };
    let sentence = move || {
        let brush = brush.get();
        coordinates.with(|coordinates| coordinates.as_ref().map(|all| all.sentence(&brush)).unwrap_or_default())
    };
    let sliders = (0..COORDINATES).map(|axis| view! { <Range state coordinates axis /> }).collect_view();
    view! {
        <div
            class="brush"
            on:pointerdown=down
            on:pointermove=moved
            on:pointerup=up
            on:pointerleave=move |_| began.set_value(None)
        >
            <Figure chart file="coordinates">
                <p id="marked-told" role="status">{sentence}</p>
            </Figure>
        </div>
        <details class="card" id="mark-by-sliders">
            <summary>"Mark with sliders"</summary>
            <div class="ranges">{sliders}</div>
            <button
                type="button"
                id="mark-all"
                prop:disabled=move || brush.with(Brush::is_empty)
                on:click=move |_| brush.set(Brush::default())
            >
                "Clear all marks"
            </button>
        </details>
    }
}

/// The two ends of what is marked on an axis.
#[component]
fn Range(state: SearchState, coordinates: Memo<Option<Coordinates>>, axis: usize) -> impl IntoView {
    let coordinate = Coordinate::ALL[axis];
    let domain = move || coordinates.with(|all| all.as_ref().map_or((0.0, 1.0), |all| all.domain(axis)));
    let ends = move || state.brush.with(|brush| brush.0[axis]).unwrap_or_else(domain);
    let slider = move |upper: bool| {
        let what = if upper { "at most" } else { "at least" };
        let own = move || {
            let (low, high) = domain();
            (if upper { ends().1 } else { ends().0 }).clamp(low, high)
        };
        let text = move || {
            let digits = coordinates.with(|all| all.as_ref().map_or(1, |all| all.digits(axis)));
            format!("{:.digits$}", own()).replace('-', "−")
        };
        let notch = move || {
            let (low, high) = domain();
            (NOTCHES * (own() - low) / (high - low)).round()
        };
        let set = move |event| {
            let Ok(notch) = event_target_value(&event).parse::<f64>() else { return };
            let (low, high) = domain();
            // At its end it is open: later trials may lie beyond.
            let value = match notch {
                0.0 if !upper => f64::NEG_INFINITY,
                NOTCHES if upper => f64::INFINITY,
                _ => low + notch / NOTCHES * (high - low),
            };
            let (from, to) = state.brush.with(|brush| brush.0[axis]).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
            // Whichever end is moved takes the other along.
            let (from, to) = if upper { (from.min(value), value) } else { (value, to.max(value)) };
            let whole = from == f64::NEG_INFINITY && to == f64::INFINITY;
            state.brush.update(|brush| brush.0[axis] = (!whole).then_some((from, to)));
        };
        view! {
            <label>
                {what}
                " "
                <output>{text}</output>
                <input
                    type="range"
                    min="0"
                    max=NOTCHES.to_string()
                    step="1"
                    id=format!("mark-{axis}-{}", if upper { "to" } else { "from" })
                    aria-label=format!("{}, {what}", coordinate.title())
                    aria-valuetext=text
                    prop:value=move || notch().to_string()
                    on:input=set
                />
            </label>
        }
    };
    view! {
        <fieldset data-tip=coordinate.hint()>
            <legend>{coordinate.title()}</legend>
            {slider(false)}
            {slider(true)}
        </fieldset>
    }
}

/// Where in a picture of this size an event lies, in the picture's own units.
fn place_in_picture(event: &PointerEvent, (width, height): (f64, f64)) -> Option<(f64, f64)> {
    let target: Element = event.target()?.dyn_into().ok()?;
    let picture = target.closest("svg.picture").ok()??;
    let bounds = picture.get_bounding_client_rect();
    let share = |at: i32, start: f64, size: f64| (f64::from(at) - start) / size.max(1.0);
    let x = share(event.client_x(), bounds.left(), bounds.width()) * width;
    let y = share(event.client_y(), bounds.top(), bounds.height()) * height;
    Some((x, y))
}
