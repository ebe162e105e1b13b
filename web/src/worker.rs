//! The page's end of a web worker: typed messages out, typed messages in.

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::Array;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use web_sys::{Event, File, MessageEvent, Worker};

/// What a worker posts once it listens. Messages that are posted earlier would be lost.
const READY: &str = "ready";

/// What its loader posts meanwhile: this, the bytes that have come and the bytes of its program (`scripts/finish-page.mjs`).
const LOADING: &str = "loading ";

/// Why a worker says nothing at all.
const NOT_LOADED: &str = "a part of this page could not be loaded; the connection is gone, or the page was renewed";

/// A running worker; it is terminated when this is dropped.
pub struct WorkerHandle {
    worker: Worker,
    waiting: Rc<RefCell<Option<Vec<JsValue>>>>,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut(Event)>,
}

impl WorkerHandle {
    /// Starts the worker that is called `name`; the page's folder holds `<name>_loader.js`.
    ///
    /// `on_loading` gets how much of its program has come: `3.1 of 9.0 MB`.
    /// `on_reply` gets every reply, and what went wrong: a worker that cannot be loaded, a panic inside it, a reply that
    /// cannot be read.
    ///
    /// # Errors
    /// A browser without workers.
    pub fn start<Reply: DeserializeOwned>(
        name: &str,
        on_loading: impl Fn(String) + 'static,
        on_reply: impl Fn(Result<Reply, String>) + 'static,
    ) -> Result<Self, String> {
        let worker = Worker::new(&format!("./{name}_loader.js")).map_err(|error| text_of(&error))?;
        let waiting = Rc::new(RefCell::new(Some(Vec::new())));
        let on_reply = Rc::new(on_reply);
        let on_message = {
            let (worker, waiting, on_reply) = (worker.clone(), Rc::clone(&waiting), Rc::clone(&on_reply));
            Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
                // A reply without fields is a text, too: its name.
                let text = event.data().as_string().unwrap_or_default();
                if text == READY {
                    for message in waiting.borrow_mut().take().unwrap_or_default() {
                        // A worker that has just said that it listens takes messages.
                        let _ = worker.post_message(&message);
                    }
                    return;
                }
                if let Some(share) = share_loaded(&text) {
                    return on_loading(share);
                }
                let reply = serde_wasm_bindgen::from_value(event.data());
                on_reply(reply.map_err(|error| format!("the worker's answer cannot be read: {error}")));
            })
        };
        let on_error = Closure::<dyn FnMut(Event)>::new(move |event: Event| {
            event.prevent_default();
            // A script that cannot be loaded gives an event without a message.
            let message = js_sys::Reflect::get(&event, &"message".into()).ok().and_then(|message| message.as_string());
            on_reply(Err(message.filter(|message| !message.is_empty()).unwrap_or_else(|| NOT_LOADED.to_owned())));
        });
        worker.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
        Ok(Self { worker, waiting, _on_message: on_message, _on_error: on_error })
    }

    /// Sends a request, with the files that it is about.
    ///
    /// # Errors
    /// A request that cannot be turned into a JavaScript value.
    pub fn send(&self, request: &impl Serialize, files: &[File]) -> Result<(), String> {
        let message = Array::new();
        // A JavaScript number holds no seed above 2^53.
        let serializer = serde_wasm_bindgen::Serializer::new().serialize_large_number_types_as_bigints(true);
        message.push(&request.serialize(&serializer).map_err(|error| error.to_string())?);
        for file in files {
            message.push(file);
        }
        match self.waiting.borrow_mut().as_mut() {
            Some(waiting) => waiting.push(message.into()),
            None => self.worker.post_message(&message).map_err(|error| text_of(&error))?,
        }
        Ok(())
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.worker.set_onmessage(None);
        self.worker.set_onerror(None);
        self.worker.terminate();
    }
}

/// How much of a program has come, of what its loader says.
fn share_loaded(text: &str) -> Option<String> {
    let (came, whole) = text.strip_prefix(LOADING)?.split_once(' ')?;
    let [came, whole] = [came, whole].map(|bytes| bytes.parse::<f64>().ok());
    Some(format!("{:.1} of {:.1} MB", came? / 1e6, whole? / 1e6))
}

/// What a JavaScript error says.
pub fn text_of(error: &JsValue) -> String {
    match error.dyn_ref::<js_sys::Error>() {
        Some(error) => String::from(error.message()),
        None => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}
