//! Components in a browser, each alone.

#![cfg(target_family = "wasm")]
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::sync::Arc;

use hydra_playground::drawing::{Drawing, Mark, Paint, Theme};
use hydra_web::parts::{NumberBox, Picture, Slider};
use leptos::mount::mount_to;
use leptos::prelude::*;
use leptos::task::tick;
use wasm_bindgen::JsCast;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};
use web_sys::{Element, Event, EventInit, HtmlElement, HtmlInputElement};

wasm_bindgen_test_configure!(run_in_browser);

fn place() -> HtmlElement {
    let place = document().create_element("div").unwrap().dyn_into::<HtmlElement>().unwrap();
    document().body().unwrap().append_child(&place).unwrap();
    place
}

fn input(place: &HtmlElement) -> HtmlInputElement {
    place.query_selector("input").unwrap().unwrap().dyn_into().unwrap()
}

fn tell(element: &Element, kind: &str) {
    let bubbling = EventInit::new();
    bubbling.set_bubbles(true);
    element.dispatch_event(&Event::new_with_event_init_dict(kind, &bubbling).unwrap()).unwrap();
}

#[wasm_bindgen_test]
async fn a_slider_shows_its_value_and_hands_on_what_it_is_moved_to() {
    let (place, value) = (place(), RwSignal::new(3.0));
    let _mounted = mount_to(place.clone(), move || {
        view! {
            <Slider
                label="Stages"
                id="a"
                bounds=(1.0, 9.0)
                step=1.0
                value=value
                set=move |to| value.set(to)
                hint="How many"
            />
        }
    });
    tick().await;
    assert_eq!(place.query_selector("output").unwrap().unwrap().text_content().unwrap(), "3");
    let slider = input(&place);
    slider.set_value("7");
    tell(&slider, "input");
    tick().await;
    assert_eq!(value.get_untracked(), 7.0);
    assert_eq!(place.query_selector("output").unwrap().unwrap().text_content().unwrap(), "7");
    assert_eq!(place.query_selector("label[for=a]").unwrap().unwrap().text_content().unwrap(), "Stages");
}

#[wasm_bindgen_test]
async fn a_number_that_cannot_be_is_refused_where_it_stands_and_an_empty_box_means_what_it_says() {
    let (place, value) = (place(), RwSignal::new(Some(5_u32)));
    let _mounted = mount_to(place.clone(), move || {
        view! {
            <NumberBox
                label="Rank"
                id="b"
                bounds=(1_u32, 64)
                value=value
                set=move |to| value.set(to)
                empty="none"
                hint="A rank"
            />
        }
    });
    tick().await;
    let number = input(&place);
    for (typed, taken) in
        [("999", None), ("64", Some(Some(64))), ("0", None), ("1.5", None), ("12", Some(Some(12))), ("", Some(None))]
    {
        let before = value.get_untracked();
        number.set_value(typed);
        tell(&number, "change");
        tick().await;
        assert_eq!(value.get_untracked(), taken.unwrap_or(before), "{typed}");
        assert_eq!(number.get_attribute("aria-invalid").is_some(), taken.is_none(), "{typed}");
        let problem = place.query_selector("[role=alert]").unwrap().and_then(|problem| problem.text_content());
        let expected = taken.is_none().then_some("Write a whole number from 1 to 64, or nothing.");
        assert_eq!(problem.as_deref(), expected, "{typed}");
        assert_eq!(number.value(), typed, "what was typed stays");
    }
}

#[wasm_bindgen_test]
async fn a_picture_follows_its_drawing_and_keeps_the_elements_that_did_not_change() {
    let drawing = |marks: Vec<Mark>| Arc::new(Drawing { width: 10.0, height: 10.0, marks, ..Drawing::default() });
    let rect = |x: f64| Mark::rect(x, 0.0, 2.0, 2.0, Paint::Text);
    let (place, shown) = (place(), RwSignal::new(drawing(vec![rect(0.0), rect(4.0)])));
    let _mounted = mount_to(place.clone(), move || {
        view! { <Picture drawing=shown theme=Signal::stored(Theme::Light) /> }
    });
    tick().await;
    let rects = || place.query_selector_all("rect").unwrap();
    assert_eq!(rects().length(), 2);
    let first: Element = rects().get(0).unwrap().dyn_into().unwrap();
    shown.set(drawing(vec![rect(0.0), rect(8.0), Mark::circle(1.0, 1.0, 1.0, Paint::Soft)]));
    tick().await;
    assert!(rects().get(0).unwrap().is_same_node(Some(&first)));
    assert_eq!(rects().get(1).unwrap().dyn_into::<Element>().unwrap().get_attribute("x").unwrap(), "8");
    assert_eq!(place.query_selector_all("circle").unwrap().length(), 1);
    shown.set(drawing(Vec::new()));
    tick().await;
    assert_eq!(place.query_selector("g").unwrap().unwrap().child_element_count(), 0);
}
