//! Native inputs with their labels.

use std::fmt::Display;

use leptos::prelude::*;
use web_sys::HtmlInputElement;

/// A number that a person can enter.
pub trait Number: Copy + PartialOrd + Display + Send + Sync + 'static {
    /// What stands in an input, where it is such a number.
    fn entered(input: &HtmlInputElement) -> Option<Self>;
}

/// Seeds go beyond what a JavaScript number holds.
macro_rules! whole {
    ($($number:ty),*) => {
        $(impl Number for $number {
            fn entered(input: &HtmlInputElement) -> Option<Self> {
                input.value().trim().parse().ok()
            }
        })*
    };
}

whole!(u32, u64);

/// The browser's reading: that of the standard library brings tables of ten kilobytes.
impl Number for f64 {
    fn entered(input: &HtmlInputElement) -> Option<Self> {
        Some(input.value_as_number()).filter(|number| number.is_finite())
    }
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
) -> impl IntoView {
    view! {
        <div class="control" title=hint>
            <label for=id>{label}</label>
            <output for=id>{move || value.get()}</output>
            <input
                type="range"
                id=id
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

/// A box for a number; what is outside its bounds is brought to the nearest.
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
    /// Takes a new value; none where the box was emptied.
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
    view! {
        <div class="control" title=hint>
            <label for=id>{label}</label>
            <input
                type="number"
                id=id
                min=bounds.0.to_string()
                max=bounds.1.to_string()
                placeholder=empty
                prop:value=move || value.get().map(|value| value.to_string()).unwrap_or_default()
                on:change=move |event| {
                    match T::entered(&event_target(&event)) {
                        Some(number) if number < bounds.0 => set.set(Some(bounds.0)),
                        Some(number) if number > bounds.1 => set.set(Some(bounds.1)),
                        number => set.set(number),
                    }
                }
            />
        </div>
    }
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
        <div class="control" title=hint>
            <label for=id>{label}</label>
            <select id=id prop:value=move || value.get() on:change=move |event| set.set(event_target_value(&event))>
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
        <div class="control tick" title=hint>
            <input
                type="checkbox"
                id=id
                prop:checked=move || value.get()
                on:change=move |event| set.set(event_target_checked(&event))
            />
            <label for=id>{label}</label>
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
) -> impl IntoView {
    let problem = RwSignal::new(None::<String>);
    view! {
        <div class="control" title=hint>
            <label for=id>{label}</label>
            <input
                type="text"
                id=id
                placeholder=example
                prop:value=move || value.get()
                aria-invalid=move || problem.get().map(|_| "true")
                aria-describedby=move || problem.get().map(|_| format!("{id}-problem"))
                on:change=move |event| problem.set(set(event_target_value(&event).trim()).err())
            />
            {move || {
                problem.get().map(|text| view! { <p class="problem" id=format!("{id}-problem")>{text}</p> })
            }}
        </div>
    }
}
