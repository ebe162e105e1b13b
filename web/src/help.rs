//! Words, keys and the tour. Their text is a file of its own beside the page, which is loaded when it is first wanted.

use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Element, HtmlElement, Response};

use crate::lazy::NOT_LOADED;
use crate::page::Page;
use crate::settings::View;
use crate::views::take_away::copy;

/// Id of what the file is put into.
const HOLDER: &str = "help-text";
/// The Python logger, beside the page.
const LOGGER: &str = "hydra_grad_logger.py";

/// Does what an element asks for in its attribute `data-act`.
pub fn act(page: Page, what: &str) {
    let what = what.to_owned();
    spawn_local(async move {
        if try_act(page, &what).await.is_none() {
            page.warn(NOT_LOADED);
        }
    });
}

/// `what` is a word, and after a space what it is about.
async fn try_act(page: Page, what: &str) -> Option<()> {
    let (what, about) = what.split_once(' ').unwrap_or((what, ""));
    match what {
        "help" => {
            let dialog = holder().await?.query_selector("#help").ok().flatten()?;
            call(&dialog, "showModal");
            // What is said of it is brought into sight, and read out.
            if let Some(word) = word_of(&dialog, about).and_then(|word| word.dyn_into::<HtmlElement>().ok()) {
                word.set_tab_index(-1);
                let _ = word.focus();
            }
        }
        // The same where it is asked, and away again.
        "explain" => {
            let word = word_of(&holder().await?, about)?;
            let caption = find(&format!("#{about} figcaption"))?;
            let button = caption.query_selector("[data-act]").ok().flatten()?;
            let shown = caption.query_selector(".explained").ok().flatten();
            let _ = button.set_attribute("aria-expanded", if shown.is_some() { "false" } else { "true" });
            match shown {
                Some(shown) => shown.remove(),
                None => {
                    let text = document().create_element("p").ok()?;
                    text.set_class_name("explained");
                    text.set_inner_html(&word.inner_html());
                    button.parent_element()?.after_with_node_1(&text).ok()?;
                }
            }
        }
        "close" => call(&find("#help")?, "close"),
        "copy-logger" => copy(page, text_of(LOGGER).await?, LOGGER),
        "show-logger" => {
            let (shown, button) = (find("#logger-text")?, find("[data-act=show-logger]")?);
            if shown.text_content().unwrap_or_default().is_empty() {
                shown.set_text_content(Some(&text_of(LOGGER).await?));
            }
            let hidden = shown.has_attribute("hidden");
            let _ = shown.toggle_attribute("hidden");
            let _ = button.set_attribute("aria-expanded", if hidden { "true" } else { "false" });
        }
        _ => {}
    }
    Some(())
}

/// What is said of an id.
fn word_of(help: &Element, about: &str) -> Option<Element> {
    help.query_selector(&format!("[data-for~=\"{about}\"] + dd")).ok().flatten()
}

fn find(selector: &str) -> Option<Element> {
    document().query_selector(selector).ok().flatten()
}

/// Calls a method without arguments that an element of this kind has.
fn call(element: &Element, method: &str) {
    let found = js_sys::Reflect::get(element, &JsValue::from_str(method)).ok();
    if let Some(Ok(method)) = found.map(JsCast::dyn_into::<js_sys::Function>) {
        // A dialog that is open already is left as it is.
        let _ = method.call0(element);
    }
}

/// The text of a file beside the page.
async fn text_of(file: &str) -> Option<String> {
    let response = JsFuture::from(window().fetch_with_str(&format!("./{file}"))).await.ok()?;
    let response: Response = response.dyn_into().ok()?;
    if !response.ok() {
        return None;
    }
    JsFuture::from(response.text().ok()?).await.ok()?.as_string()
}

/// What the page's own file of help holds, put into the page when it is first asked for.
async fn holder() -> Option<Element> {
    let known = || document().get_element_by_id(HOLDER);
    if let Some(known) = known() {
        return Some(known);
    }
    let text = text_of("help.html").await?;
    // Another one may have been quicker.
    if let Some(known) = known() {
        return Some(known);
    }
    let holder = document().create_element("div").ok()?;
    holder.set_id(HOLDER);
    holder.set_inner_html(&text);
    document().body()?.append_child(&holder).ok()?;
    Some(holder)
}

/// A step of the tour.
#[derive(Clone)]
struct Step {
    html: String,
    view: Option<View>,
    at: String,
}

/// The steps of the tour.
async fn steps() -> Option<Vec<Step>> {
    let template = holder().await?.query_selector("#tour-steps").ok().flatten()?;
    let content: web_sys::Node = js_sys::Reflect::get(&template, &"content".into()).ok()?.dyn_into().ok()?;
    let children = content.child_nodes();
    let elements = (0..children.length()).filter_map(|at| children.get(at)?.dyn_into::<Element>().ok());
    let step = |element: Element| Step {
        html: element.inner_html(),
        view: element.get_attribute("data-view").and_then(|name| View::from_name(&name)),
        at: element.get_attribute("data-at").unwrap_or_default(),
    };
    Some(elements.map(step).collect())
}

/// A short tour over the real charts, a step at a time.
#[component]
pub fn Tour() -> impl IntoView {
    let page = Page::get();
    let all = RwSignal::new(Vec::<Step>::new());
    spawn_local(async move {
        match steps().await {
            Some(steps) => drop(all.try_set(steps)),
            None => {
                page.tour.set(0);
                page.warn(NOT_LOADED);
            }
        }
    });
    let step = Memo::new(move |_| page.tour.get().min(all.with(Vec::len)));
    let heading = NodeRef::<leptos::html::Div>::new();
    Effect::new(move |_| {
        let now = all.with(|all| all.get(step.get().wrapping_sub(1)).cloned());
        let Some(Step { view, at, .. }) = now else { return };
        if let Some(view) = view {
            page.view.set(view);
        }
        // What it is about may only be there in a while: parts of the view are loaded on use.
        for wait in [60, 600] {
            let at = at.clone();
            let meant = page.tour.get_untracked();
            let point = move || {
                // The tour may have gone on, or have ended.
                if page.tour.get_untracked() == meant {
                    point_at(&at);
                }
            };
            set_timeout(point, std::time::Duration::from_millis(wait));
        }
        if let Some(heading) = heading.get_untracked() {
            let _ = heading.focus();
        }
    });
    on_cleanup(|| point_at(""));
    let html =
        move || all.with(|all| all.get(step.get().wrapping_sub(1)).map(|step| step.html.clone()).unwrap_or_default());
    let last = move || step.get() >= all.with(Vec::len);
    view! {
        <aside class="tour" aria-label="Tour">
            <div node_ref=heading tabindex="-1" role="status" inner_html=html></div>
            <div class="row">
                <span class="soft" id="tour-step">{move || format!("{} of {}", step.get(), all.with(Vec::len))}</span>
                <button type="button" prop:disabled=move || step.get() < 2 on:click=move |_| page.tour.set(step.get_untracked() - 1)>
                    "Back"
                </button>
                <button
                    type="button"
                    class="primary"
                    on:click=move |_| page.tour.set(if last() { 0 } else { step.get_untracked() + 1 })
                >
                    {move || if last() { "Finish" } else { "Next" }}
                </button>
                <button type="button" class="quiet" on:click=move |_| page.tour.set(0)>"Leave the tour"</button>
            </div>
        </aside>
    }
}

/// Brings an element into sight and marks it, in place of the one before.
fn point_at(selector: &str) {
    if let Some(before) = find(".toured") {
        let _ = before.class_list().remove_1("toured");
    }
    if selector.is_empty() {
        return;
    }
    if let Some(element) = find(selector).and_then(|element| element.dyn_into::<HtmlElement>().ok()) {
        let _ = element.class_list().add_1("toured");
        element.scroll_into_view();
    }
}
