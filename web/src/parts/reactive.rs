//! What follows signals, with one type for all closures: each type would bring its own copy of Leptos' code into the page's
//! program, which doubled its size.

use leptos::prelude::*;

/// A value that follows signals.
pub fn sig<T: Send + Sync + 'static>(value: impl Fn() -> T + Send + Sync + 'static) -> Signal<T> {
    Signal::derive(value)
}

/// A part of the page that follows signals.
pub fn part<V: IntoAny>(mut view: impl FnMut() -> V + Send + 'static) -> Box<dyn FnMut() -> AnyView + Send> {
    Box::new(move || view().into_any())
}

/// What an event does.
pub fn on<E: 'static>(action: impl FnMut(E) + 'static) -> Box<dyn FnMut(E)> {
    Box::new(action)
}
