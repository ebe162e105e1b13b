//! A drawing in the page. Only what changed since the last drawing is written to the document, and of what is new no more at a time
//! than lets the page answer meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydra_playground::drawing::{Drawing, Mark, Theme};
use leptos::prelude::*;

use leptos::svg;
use wasm_bindgen::JsCast;

/// Elements that are made at once, with the change that asks for them: there are several pictures.
const AT_ONCE: usize = 30;
/// Elements that are made in a frame.
const IN_A_FRAME: usize = 70;

/// What the document shows: the first marks of a drawing, one element each.
#[derive(Clone, Default)]
struct Shown {
    theme: Theme,
    drawing: Arc<Drawing>,
    made: usize,
}

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
    let shown = Rc::new(RefCell::new(Shown::default()));
    Effect::new(move |_| {
        let (theme, drawing) = (theme.get(), drawing.get());
        let Some(group) = root.get() else { return };
        let group: &web_sys::Element = group.unchecked_ref();
        let made = shown.take().replace(group, theme, &drawing);
        shown.replace(Shown { theme, drawing, made });
        go_on(group.clone(), Rc::clone(&shown));
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

/// Adds what is missing of a drawing, some in each frame, as long as no other one is shown.
fn go_on(group: web_sys::Element, shown: Rc<RefCell<Shown>>) {
    let now = shown.borrow().clone();
    if now.made >= now.drawing.marks.len() {
        return;
    }
    request_animation_frame(move || {
        let is_shown = {
            let shown = shown.borrow();
            Arc::ptr_eq(&shown.drawing, &now.drawing) && shown.theme == now.theme && shown.made == now.made
        };
        if is_shown {
            let new = now.drawing.marks.iter().skip(now.made).take(IN_A_FRAME);
            let added = new.take_while(|mark| add(&group, None, mark, now.theme)).count();
            shown.borrow_mut().made += added;
            if added > 0 {
                go_on(group, shown);
            }
        }
    });
}

impl Shown {
    /// Makes the children of `group` show another drawing; gives how many of its marks they show.
    fn replace(self, group: &web_sys::Element, theme: Theme, drawing: &Drawing) -> usize {
        let mut child = group.first_element_child();
        // Where there are many, they are left to the frames that follow.
        let mut room = if drawing.marks.len() > self.made + AT_ONCE { 0 } else { AT_ONCE };
        let mut made = 0;
        for (index, mark) in drawing.marks.iter().enumerate() {
            let before = self.drawing.marks.get(index).filter(|_| index < self.made);
            match (&child, before) {
                (Some(_), Some(before)) if self.theme == theme && before == mark => {}
                (Some(element), Some(before)) if before.tag() == mark.tag() => {
                    update(element, (self.theme, before), (theme, mark));
                }
                _ if room == 0 => break,
                (current, _) => {
                    let next = current.as_ref().and_then(web_sys::Element::next_element_sibling);
                    if !add(group, child.take(), mark, theme) {
                        break;
                    }
                    child = next;
                    room -= 1;
                    made += 1;
                    continue;
                }
            }
            child = child.as_ref().and_then(web_sys::Element::next_element_sibling);
            made += 1;
        }
        while let Some(element) = child {
            child = element.next_element_sibling();
            element.remove();
        }
        made
    }
}

/// Makes an element of a mark, in place of another one or behind all; whether that was done.
fn add(group: &web_sys::Element, instead_of: Option<web_sys::Element>, mark: &Mark, theme: Theme) -> bool {
    let Some(document) = group.owner_document() else { return false };
    // Elements of a known name can always be made.
    let Ok(element) = document.create_element_ns(Some("http://www.w3.org/2000/svg"), mark.tag()) else { return false };
    write(&element, mark, theme);
    match instead_of {
        Some(old) => old.replace_with_with_node_1(&element).is_ok(),
        None => group.append_child(&element).is_ok(),
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
