//! Native inputs with their labels.

use std::fmt::Display;

use leptos::prelude::*;
use wasm_bindgen::JsValue;
use web_sys::HtmlInputElement;

/// A number that a person can enter.
pub trait Number: Copy + PartialOrd + Display + Send + Sync + 'static {
    /// What stands in an input, where it is such a number.
    fn entered(input: &HtmlInputElement) -> Option<Self>;

    /// What such a number is called.
    const WHAT: &'static str;
}

/// Seeds go beyond what a JavaScript number holds.
macro_rules! whole {
    ($($number:ty),*) => {
        $(impl Number for $number {
            fn entered(input: &HtmlInputElement) -> Option<Self> {
                input.value().trim().parse().ok()
            }

            const WHAT: &'static str = "a whole number";
        })*
    };
}

whole!(u32, u64);

/// The browser's reading: that of the standard library brings tables of ten kilobytes.
impl Number for f64 {
    fn entered(input: &HtmlInputElement) -> Option<Self> {
        Some(input.value_as_number()).filter(|number| number.is_finite())
    }

    const WHAT: &'static str = "a number";
}

/// What takes a new value. It is of one type whatever function it is, so that the page holds every kind of input once.
pub struct Setter<T>(Box<dyn Fn(T)>);

impl<T, F: Fn(T) + 'static> From<F> for Setter<T> {
    fn from(set: F) -> Self {
        Self(Box::new(set))
    }
}

impl<T> Setter<T> {
    fn set(&self, value: T) {
        (self.0)(value);
    }
}

/// What one step more of a choice would do, in a sentence.
pub type Foresee = Box<dyn Fn() -> Option<String>>;

/// What a control is called, with the way to what is said of it at more length: `help.html` has a word for every id.
pub fn named(id: &'static str, label: &'static str) -> AnyView {
    // A question says what it is about.
    let more = (!label.ends_with('?')).then(|| {
        let what = format!("{label}: what it means");
        view! { <button type="button" class="quiet more" data-act=format!("help {id}") aria-label=what>"?"</button> }
    });
    view! { <span class="named"><label for=id>{label}</label>{more}</span> }.into_any()
}

/// A slider with its value beside it.
#[component]
pub fn Slider(
    /// What stands before it.
    label: &'static str,
    /// Its id.
    id: &'static str,
    /// Lowest and highest value.
    bounds: (f64, f64),
    /// Distance of two values.
    step: f64,
    /// The value.
    #[prop(into)]
    value: Signal<f64>,
    /// Takes a new value.
    #[prop(into)]
    set: Setter<f64>,
    /// What it is for, in a sentence.
    hint: &'static str,
    /// What one step more would do, told when somebody points at it or focuses it.
    #[prop(optional)]
    more: Option<Foresee>,
) -> impl IntoView {
    let about = NodeRef::<leptos::html::Div>::new();
    let foresee = move || {
        if let (Some(about), Some(more)) = (about.get_untracked(), &more) {
            let more = more().map(|more| format!(". {more}")).unwrap_or_default();
            let _ = about.set_attribute("data-tip", &format!("{hint}{more}"));
        }
    };
    let foresee = StoredValue::new_local(foresee);
    let look = move || foresee.with_value(|foresee| foresee());
    view! {
        <div
            class="control"
            data-tip=hint
            node_ref=about
            on:pointerenter=move |_| look()
            on:focusin=move |_| look()
        >
            {named(id, label)}
            <output for=id>{move || value.get()}</output>
            <input
                type="range"
                id=id
                aria-description=hint
                min=bounds.0
                max=bounds.1
                step=step
                prop:value=move || value.get().to_string()
                on:input=move |event| {
                    if let Some(value) = f64::entered(&event_target(&event)) {
                        set.set(value);
                    }
                }
            />
        </div>
    }
}

/// A box for a number; what is none, or is outside its bounds, is refused where it stands.
#[component]
pub fn NumberBox<T>(
    /// What stands before it.
    label: &'static str,
    /// Its id.
    id: &'static str,
    /// Lowest and highest value.
    bounds: (T, T),
    /// The value; none for an empty box.
    #[prop(into)]
    value: Signal<Option<T>>,
    /// Takes a new value; none where the box was emptied, which only one may be that says what that means.
    #[prop(into)]
    set: Setter<Option<T>>,
    /// What an empty box means.
    #[prop(optional)]
    empty: &'static str,
    /// What it is for, in a sentence.
    hint: &'static str,
) -> impl IntoView
where
    T: Number,
{
    let text = Signal::derive(move || value.get().map(|value| value.to_string()).unwrap_or_default());
    let (low, high) = bounds;
    let take = move |input: &HtmlInputElement| match T::entered(input) {
        Some(number) if low <= number && number <= high => {
            set.set(Some(number));
            true
        }
        None if !empty.is_empty() && is_empty(input) => {
            set.set(None);
            true
        }
        _ => false,
    };
    number_box(NumberParts {
        label,
        id,
        low: low.to_string(),
        high: high.to_string(),
        what: T::WHAT,
        text,
        take: Box::new(take),
        empty,
        hint,
    })
}

/// Whether nothing was typed: what a browser cannot read as a number it gives as nothing, too.
fn is_empty(input: &HtmlInputElement) -> bool {
    let get = |object: &JsValue, key: &str| js_sys::Reflect::get(object, &key.into()).unwrap_or_default();
    input.value().is_empty() && !get(&get(input, "validity"), "badInput").is_truthy()
}

/// A box for a number of any type.
struct NumberParts {
    label: &'static str,
    id: &'static str,
    low: String,
    high: String,
    what: &'static str,
    text: Signal<String>,
    /// Takes what stands in the input, unless it cannot be.
    take: Box<dyn Fn(&HtmlInputElement) -> bool>,
    empty: &'static str,
    hint: &'static str,
}

fn number_box(parts: NumberParts) -> AnyView {
    let NumberParts { label, id, low, high, what, text, take, empty, hint } = parts;
    let problem = RwSignal::new(None::<String>);
    // Another value has taken the place of what was refused.
    Effect::new(move |_| {
        text.track();
        problem.set(None);
    });
    let refusal = format!("Write {what} from {low} to {high}{}.", if empty.is_empty() { "" } else { ", or nothing" });
    view! {
        <div class="control" data-tip=hint>
            {named(id, label)}
            <input
                type="number"
                id=id
                aria-description=hint
                min=low
                max=high
                step="any"
                placeholder=empty
                prop:value=move || text.get()
                aria-invalid=move || problem.get().map(|_| "true")
                aria-describedby=move || problem.get().map(|_| format!("{id}-problem"))
                on:change=move |event| problem.set((!take(&event_target(&event))).then(|| refusal.clone()))
            />
            {move || problem_of(id, problem.get())}
        </div>
    }
    .into_any()
}

/// Why what stands in an input is not taken.
fn problem_of(id: &'static str, problem: Option<String>) -> AnyView {
    problem.map(|text| view! { <p class="problem" role="alert" id=format!("{id}-problem")>{text}</p> }).into_any()
}

/// A choice of a few words.
#[component]
pub fn Choice(
    /// What stands before it.
    label: &'static str,
    /// Its id.
    id: &'static str,
    /// Value and text of each choice.
    options: Vec<(&'static str, &'static str)>,
    /// The value.
    #[prop(into)]
    value: Signal<String>,
    /// Takes a new value.
    #[prop(into)]
    set: Setter<String>,
    /// What it is for, in a sentence.
    hint: &'static str,
) -> impl IntoView {
    let options = options
        .into_iter()
        .map(|(name, text)| view! { <option value=name selected=move || value.get() == name>{text}</option> })
        .collect_view();
    view! {
        <div class="control" data-tip=hint>
            {named(id, label)}
            <select id=id aria-description=hint prop:value=move || value.get() on:change=move |event| set.set(event_target_value(&event))>
                {options}
            </select>
        </div>
    }
}

/// A box to tick.
#[component]
pub fn Tick(
    /// What stands beside it.
    label: &'static str,
    /// Its id.
    id: &'static str,
    /// Whether it is ticked.
    #[prop(into)]
    value: Signal<bool>,
    /// Takes a new value.
    #[prop(into)]
    set: Setter<bool>,
    /// What it is for, in a sentence.
    hint: &'static str,
) -> impl IntoView {
    view! {
        <div class="control tick" data-tip=hint>
            <input
                type="checkbox"
                id=id
                aria-description=hint
                prop:checked=move || value.get()
                on:change=move |event| set.set(event_target_checked(&event))
            />
            {named(id, label)}
        </div>
    }
}

/// What takes a line of text, or says why it does not.
pub type TakeText = Box<dyn Fn(&str) -> Result<(), String>>;

/// A line of text that may be refused: `set` says why.
#[component]
pub fn TextBox(
    /// What stands before it.
    label: &'static str,
    /// Its id.
    id: &'static str,
    /// The value.
    #[prop(into)]
    value: Signal<String>,
    /// Takes a new value, or says what is wrong with it.
    set: TakeText,
    /// An example.
    example: &'static str,
    /// What it is for, in a sentence.
    hint: &'static str,
    /// Why what was taken turned out to be wrong, where that takes a while.
    #[prop(optional, into)]
    refused: Signal<Option<String>>,
) -> impl IntoView {
    let own = RwSignal::new(None::<String>);
    let problem = Signal::derive(move || own.get().or_else(|| refused.get()));
    view! {
        <div class="control" data-tip=hint>
            {named(id, label)}
            <input
                type="text"
                id=id
                aria-description=hint
                placeholder=example
                prop:value=move || value.get()
                aria-invalid=move || problem.get().map(|_| "true")
                aria-describedby=move || problem.get().map(|_| format!("{id}-problem"))
                on:change=move |event| own.set(set(event_target_value(&event).trim()).err())
            />
            {move || problem_of(id, problem.get())}
        </div>
    }
}
