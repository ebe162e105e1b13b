//! A drawing in the page. Only what changed since the last drawing is written to the document.

use std::sync::Arc;

use hydra_playground::drawing::{Drawing, Mark, Theme};
use leptos::prelude::*;

use leptos::svg;
use wasm_bindgen::JsCast;

/// Shows a drawing, scaled to the room there is.
#[component]
pub fn Picture(
    /// The drawing.
    #[prop(into)]
    drawing: Signal<Arc<Drawing>>,
    /// Light or dark.
    theme: Signal<Theme>,
) -> impl IntoView {
    let root = NodeRef::<svg::G>::new();
    Effect::new(move |shown: Option<(Theme, Arc<Drawing>)>| {
        let (theme, drawing) = (theme.get(), drawing.get());
        let Some(group) = root.get() else { return (theme, Arc::default()) };
        let (old_theme, old) = shown.unwrap_or_default();
        patch(group.unchecked_ref(), (old_theme, &old.marks), (theme, &drawing.marks));
        (theme, drawing)
    });
    let view_box = Memo::new(move |_| drawing.with(|d| format!("0 0 {} {}", d.width, d.height)));
    let name = Memo::new(move |_| drawing.with(|d| format!("{}. {}", d.title, d.summary)));
    let broad = Memo::new(move |_| drawing.with(|d| d.width > 500.0));
    view! {
        <div class="frame" tabindex=move || broad.get().then_some("0") role="group" aria-label=move || drawing.with(|d| d.title.clone())>
            <svg class="picture" class:broad=move || broad.get() role="img" viewBox=view_box aria-label=name>
                <g node_ref=root></g>
            </svg>
        </div>
    }
}

/// Makes the children of `group`, which show `old`, show `new`.
fn patch(group: &web_sys::Element, old: (Theme, &[Mark]), new: (Theme, &[Mark])) {
    let Some(document) = group.owner_document() else { return };
    let mut child = group.first_element_child();
    for (index, mark) in new.1.iter().enumerate() {
        let before = old.1.get(index);
        let current = child.take();
        child = current.as_ref().and_then(web_sys::Element::next_element_sibling);
        match (current, before) {
            (Some(_), Some(before)) if old.0 == new.0 && before == mark => {}
            (Some(element), Some(before)) if before.tag() == mark.tag() => {
                update(&element, (old.0, before), (new.0, mark));
            }
            (current, _) => {
                // Elements of a known name can always be made.
                let Ok(element) = document.create_element_ns(Some("http://www.w3.org/2000/svg"), mark.tag()) else {
                    return;
                };
                write(&element, mark, new.0);
                let done = match current {
                    Some(current) => current.replace_with_with_node_1(&element),
                    None => group.append_child(&element).map(drop),
                };
                if done.is_err() {
                    return;
                }
            }
        }
    }
    while let Some(element) = child {
        child = element.next_element_sibling();
        element.remove();
    }
}

fn write(element: &web_sys::Element, mark: &Mark, theme: Theme) {
    for (name, value) in mark.attributes(theme) {
        // Known names and plain values are never refused.
        let _ = element.set_attribute(name, &value);
    }
    if let Some(tip) = &mark.tip {
        let _ = element.set_attribute("data-tip", tip);
    }
    if !mark.content().is_empty() {
        element.set_text_content(Some(mark.content()));
    }
}

fn update(element: &web_sys::Element, old: (Theme, &Mark), new: (Theme, &Mark)) {
    // Most changes are of a colour: everything else would take longer to write down than to compare.
    if old.0 == new.0 && old.1.differs_in_fill_alone(new.1) {
        let _ = element.set_attribute("fill", &new.0.color(new.1.fill));
        return;
    }
    let [before, after] = if old.1.shape == new.1.shape {
        [old.1.painting(old.0), new.1.painting(new.0)]
    } else {
        [old.1.attributes(old.0), new.1.attributes(new.0)]
    };
    for (name, value) in &after {
        if !before.iter().any(|(n, v)| n == name && v == value) {
            let _ = element.set_attribute(name, value);
        }
    }
    for (name, _) in before.iter().filter(|(name, _)| !after.iter().any(|(n, _)| n == name)) {
        let _ = element.remove_attribute(name);
    }
    if old.1.tip != new.1.tip {
        match &new.1.tip {
            Some(tip) => drop(element.set_attribute("data-tip", tip)),
            None => drop(element.remove_attribute("data-tip")),
        }
    }
    if old.1.content() != new.1.content() {
        element.set_text_content(Some(new.1.content()));
    }
}
