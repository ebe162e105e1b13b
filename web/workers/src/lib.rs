//! What every worker of the playground shares: listening, answering, telling of a panic.
//!
//! A message to a worker is an array: the request, then the files that it is about.

#[cfg(feature = "performance")]
pub mod performance;
#[cfg(feature = "training")]
pub mod training;

pub mod file;
pub mod ingest;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use web_sys::{DedicatedWorkerGlobalScope, File, MessageEvent};

/// The worker's own scope.
pub fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Posts a reply to the page.
pub fn reply(message: &impl Serialize) {
    // A JavaScript number holds no seed above 2^53.
    let serializer = serde_wasm_bindgen::Serializer::new().serialize_large_number_types_as_bigints(true);
    match message.serialize(&serializer) {
        // A page that is gone needs no answer.
        Ok(value) => drop(scope().post_message(&value)),
        Err(error) => wasm_bindgen::throw_str(&error.to_string()),
    }
}

/// Answers requests from now on, and tells the page so.
pub fn listen<Request: DeserializeOwned>(mut handle: impl FnMut(Request, Vec<File>) + 'static) {
    console_error_panic_hook::set_once();
    let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
        let message: js_sys::Array = event.data().unchecked_into();
        match serde_wasm_bindgen::from_value(message.get(0)) {
            Ok(request) => handle(request, message.iter().skip(1).map(JsCast::unchecked_into).collect()),
            Err(error) => wasm_bindgen::throw_str(&error.to_string()),
        }
    });
    scope().set_onmessage(Some(on_message.as_ref().unchecked_ref()));
    on_message.forget();
    // A panic between two waits is a promise that nobody holds, of which the page hears only if it is thrown once more.
    let on_rejection = Closure::<dyn FnMut(JsValue)>::new(move |event: JsValue| {
        wasm_bindgen::throw_val(js_sys::Reflect::get(&event, &"reason".into()).unwrap_or(JsValue::NULL));
    });
    let event = "unhandledrejection";
    drop(scope().add_event_listener_with_callback(event, on_rejection.as_ref().unchecked_ref()));
    on_rejection.forget();
    drop(scope().post_message(&JsValue::from_str("ready")));
}
