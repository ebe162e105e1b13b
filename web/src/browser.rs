//! What the page asks of the browser: downloads, the clipboard, the address bar, timers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use js_sys::Array;
use leptos::prelude::{TimeoutHandle, on_cleanup, set_timeout_with_handle, window, window_event_listener};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, BlobPropertyBag, Element, HtmlAnchorElement, KeyboardEvent, Url};

/// Saves text as a file.
pub fn save_text(name: &str, kind: &str, text: &str) {
    save(name, kind, &JsValue::from_str(text));
}

/// Saves bytes as a file.
pub fn save_bytes(name: &str, kind: &str, bytes: &[u8]) {
    save(name, kind, &js_sys::Uint8Array::from(bytes));
}

fn save(name: &str, kind: &str, part: &JsValue) {
    let options = BlobPropertyBag::new();
    options.set_type(kind);
    if let Ok(blob) = Blob::new_with_blob_sequence_and_options(&Array::of1(part), &options) {
        save_blob(name, &blob);
    }
}

/// Saves a blob as a file.
pub fn save_blob(name: &str, blob: &Blob) {
    let Ok(url) = Url::create_object_url_with_blob(blob) else { return };
    let link = window().document().and_then(|document| document.create_element("a").ok());
    if let Some(link) = link.and_then(|link| link.dyn_into::<HtmlAnchorElement>().ok()) {
        link.set_href(&url);
        link.set_download(&file_name(name));
        link.click();
    }
    // A download that has begun keeps what it needs.
    let _ = Url::revoke_object_url(&url);
}

/// A name that no file system minds.
fn file_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).take(80).collect();
    plain.trim_start_matches('.').to_owned()
}

/// The page's address without what follows `#`.
pub fn address() -> String {
    let location = window().location();
    let href = location.href().unwrap_or_default();
    href.split('#').next().unwrap_or_default().to_owned()
}

/// What follows `#` in the address.
pub fn fragment() -> String {
    window().location().hash().unwrap_or_default()
}

/// Puts a link into the address bar, without a new entry in the history.
pub fn show_link(link: &str) {
    if let Ok(history) = window().history() {
        // Refused when it is called too often; the next change tries again.
        let _ = history.replace_state_with_url(&JsValue::NULL, "", Some(&format!("#{link}")));
    }
}

/// Calls a function for every key that is pressed outside of anything that takes it itself, as long as the component is there.
pub fn on_keys(call: impl Fn(&str) + 'static) {
    let handle = window_event_listener(leptos::ev::keydown, move |event: KeyboardEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        // A button takes only the keys that press it, so that one that was clicked leaves the others.
        let takes = match event.key().as_str() {
            " " | "Enter" => "input, textarea, select, button, summary, a, [tabindex], dialog *",
            _ => "input, textarea, select, dialog *",
        };
        let taken = target.is_some_and(|target| target.matches(takes).unwrap_or(false));
        if taken || event.ctrl_key() || event.alt_key() || event.meta_key() {
            return;
        }
        if event.key() == " " {
            event.prevent_default();
        }
        call(&event.key());
    });
    on_cleanup(move || handle.remove());
}

/// Runs the latest of several actions once none has come for a while.
#[derive(Clone, Default)]
pub struct Later(Rc<RefCell<Option<TimeoutHandle>>>);

impl Later {
    /// Runs `action` after `wait`, unless another one comes before.
    pub fn run(&self, wait: Duration, action: impl FnOnce() + 'static) {
        if let Some(pending) = self.0.borrow_mut().take() {
            pending.clear();
        }
        *self.0.borrow_mut() = set_timeout_with_handle(action, wait).ok();
    }
}
