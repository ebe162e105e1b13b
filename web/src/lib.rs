//! HyDRA's playground: from a gradient log to ranks, in the browser.
//!
//! Components are thin: what they show is computed by `hydra-playground`, what takes long by workers. The whole state is
//! in the address bar.

mod browser;
mod folders;
mod help;
mod history;
mod intake;
mod lazy;
mod page;
pub mod parts;
mod recent;
mod settings;
mod views;
mod worker;

use std::time::Duration;

use hydra_playground::analysis::{Analysis, Grouping};
use hydra_playground::charts::heatmap;
use hydra_playground::drawing::Theme;
use hydra_playground::link::Opened;
use hydra_shared::search::SearchConfig;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use web_sys::{ClipboardEvent, DragEvent, Element, HtmlElement, KeyboardEvent, PointerEvent};

use crate::browser::Later;
use crate::folders::{dropped, named};
use crate::history::History;
use crate::intake::Intake;
use crate::page::{About, Grouped, Kept, Notice, Page, StartCard};
use crate::settings::{ThemeChoice, View};
use crate::views::analyse::AnalyseView;
use crate::views::search::SearchState;
use crate::views::train::TrainState;

/// How long the address bar waits for the controls to rest: browsers refuse to be told of every movement.
const REST: Duration = Duration::from_millis(250);

/// Id of the element that the page is mounted into; until then it shows a sample without any computation.
pub const ROOT: &str = "app";

/// Mounts the page in place of what `index.html` shows before.
pub fn start() {
    std::panic::set_hook(Box::new(tell_of_panic));
    let root = document().get_element_by_id(ROOT).and_then(|root| root.dyn_into::<HtmlElement>().ok());
    let Some(root) = root else { return };
    let fragment = browser::fragment();
    if !is_link(&fragment) {
        return mount(root, Opened::default());
    }
    // Leptos has no executor before it is mounted.
    wasm_bindgen_futures::spawn_local(async move {
        let opened = match lazy::links().await {
            Ok(links) => (links.read)(&fragment),
            Err(_) => Opened { notices: vec![lazy::NOT_LOADED.to_owned()], ..Opened::default() },
        };
        mount(root, opened);
    });
}

/// Shows the page in place of what stands in `root`.
fn mount(root: HtmlElement, opened: Opened) {
    // What the page begins with is text alone, which needs no program: it is kept.
    let start = document().get_element_by_id("start");
    root.replace_children_with_node_0();
    mount_to(root, move || {
        provide_context(StartCard(StoredValue::new_local(start)));
        view! { <App opened /> }
    })
    .forget();
    let _ = document().document_element().map(|html| html.set_attribute("data-ready", ""));
}

/// Whether what follows `#` in the address is a session: the skip link leads to an element and is none.
fn is_link(fragment: &str) -> bool {
    fragment.contains('=')
}

/// What a person sees of a panic: what happened, and that the address still leads back.
fn tell_of_panic(panic: &std::panic::PanicHookInfo<'_>) {
    web_sys::console::error_1(&panic.to_string().into());
    let Some(body) = document().body() else { return };
    let make = |tag: &str, text: &str| {
        let element = document().create_element(tag).ok()?;
        element.set_text_content(Some(text));
        Some(element)
    };
    let Some(alert) = make("div", "") else { return };
    let _ = alert.set_attribute("role", "alert");
    let _ = alert.set_attribute("class", "panic");
    let texts = [
        ("h2", "This page has stopped".to_owned()),
        (
            "p",
            "It made a mistake that it cannot go on from. Your state is in the address: reload to go on from it."
                .to_owned(),
        ),
        ("pre", panic.to_string()),
    ];
    for (tag, text) in texts {
        if let Some(element) = make(tag, &text) {
            let _ = alert.append_child(&element);
        }
    }
    if let Some(link) = make("a", "Reload") {
        let _ = link.set_attribute("href", "");
        let _ = alert.append_child(&link);
    }
    let _ = body.append_child(&alert);
}

/// The whole page.
#[component]
fn App(opened: Opened) -> impl IntoView {
    let (view, theme_choice) = (RwSignal::new(View::of(&opened)), RwSignal::new(ThemeChoice::of(&opened)));
    let own = |key: &str| opened.page.get(key).cloned().unwrap_or_default();
    let (tour, hidden) = (own("tour").parse().unwrap_or(0), own("hide").replace(',', " "));
    let about = About::Page;
    let notices: Vec<Notice> = opened.notices.into_iter().map(|text| Notice { text, wrong: true, about }).collect();
    let session = RwSignal::new(opened.session);
    // K-means takes longer than the rest of a frame: it runs again only if what it depends on has changed.
    let grouping = Memo::new(move |_| session.with(|s| Grouping::new(&s.layout, &s.profile, &s.plan)));
    let ahead = StoredValue::new(None::<Grouped>);
    let stages = Memo::new(move |_| {
        grouping.with(|grouping| {
            let known = ahead.try_update_value(Option::take).flatten().filter(|(of, _)| of == grouping);
            known.map_or_else(|| grouping.stages(), |(_, stages)| stages)
        })
    });
    let analysis = Memo::new(move |_| session.with(|session| Analysis::with_stages(session, stages.get())));
    let dark = holds("(prefers-color-scheme: dark)");
    let theme = Signal::derive(move || match (theme_choice.get(), dark.get()) {
        (ThemeChoice::Light, _) | (ThemeChoice::System, false) => Theme::Light,
        (ThemeChoice::Dark, _) | (ThemeChoice::System, true) => Theme::Dark,
    });
    let page = Page {
        session,
        ahead,
        turn: RwSignal::new(usize::MAX),
        analysis,
        // The trainer's own search tries again with eight fresh seeds, too.
        search: RwSignal::new(SearchConfig { replicates: 8, ..SearchConfig::default() }),
        response: RwSignal::default(),
        training: RwSignal::default(),
        view,
        theme_choice,
        theme,
        link: RwSignal::new((String::new(), true)),
        selected: RwSignal::new(None),
        notices: RwSignal::new(notices),
        narrow: holds("(max-width: 40rem)"),
        tour: RwSignal::new(tour),
        hidden: StoredValue::new(hidden.clone()),
        read_at: StoredValue::new(0.0),
        trained: StoredValue::new(false),
    };
    provide_context(page);
    let intake = Intake::new(page);
    provide_context(intake);
    // Leaving the page would lose what was told and not saved, and what was trained and is not kept.
    let _ = window_event_listener(leptos::ev::beforeunload, move |event| {
        if intake.unsaved.get_untracked() || page.trained.get_value() {
            event.prevent_default();
        }
    });
    provide_context(Kept::<SearchState>::new());
    provide_context(Kept::<TrainState>::new());
    let history = History::of(page);
    provide_context(history);
    if let (Some(html), false) = (document().document_element(), hidden.is_empty()) {
        let _ = html.set_attribute("data-hide", &hidden);
    }
    let later = Later::default();
    Effect::new(move |before: Option<()>| {
        session.track();
        view.track();
        theme_choice.track();
        page.tour.track();
        // The first one would replace the address that the page was opened with before anything has changed.
        if before.is_some() || is_link(&browser::fragment()) {
            later.run(REST, move || {
                lazy::then(page, lazy::links(), move |links| {
                    let (link, whole) = (links.write)(page);
                    (links.keep)(page, &link, whole);
                    page.link.set((link, whole));
                });
            });
        }
    });
    Effect::new(move |_| {
        page.link.with(|(link, _)| {
            if !link.is_empty() {
                browser::show_link(link);
            }
        });
    });
    Effect::new(move |_| {
        let choice = theme_choice.get();
        if let Some(html) = document().document_element() {
            let _ = match choice {
                ThemeChoice::System => html.remove_attribute("data-theme"),
                chosen => html.set_attribute("data-theme", chosen.name()),
            };
        }
    });
    follow_address(page);
    let dragging = take_files(page, intake);
    let hovered = follow_pointer(page);
    keys(page, history);
    view! {
        <a class="skip" href="#main">"Skip to the content"</a>
        <Header />
        <Notices />
        <main id="main">
            {move || match view.get() {
                View::Analyse => view! { <AnalyseView /> }.into_any(),
                View::Search => lazy::when_loaded(lazy::search),
                View::Train => lazy::when_loaded(lazy::train),
            }}
        </main>
        <footer class="soft">
            <p>
                "Files never leave this page: everything is computed in your browser. HyDRA: Hierarchical and Dynamic \
                 Rank Adaptation for Mobile Vision Language Models, arXiv 2512.20674; an independent implementation."
            </p>
        </footer>
        <div class="drop" class:shown=move || dragging.get() aria-hidden="true">
            <p>"Drop to open"</p>
        </div>
        {move || (page.tour.get() > 0).then(|| lazy::when_loaded(lazy::tour))}
        <Tip hovered />
    }
}

/// Name, tabs, theme.
#[component]
fn Header() -> impl IntoView {
    let page = Page::get();
    let tab = |view: View| {
        view! {
            <button
                type="button"
                id=format!("tab-{}", view.name())
                aria-current=move || (page.view.get() == view).then_some("page")
                on:click=move |_| page.view.set(view)
            >
                {view.title()}
            </button>
        }
    };
    let option = |choice: ThemeChoice| {
        view! {
            <option value=choice.name() selected=move || page.theme_choice.get() == choice>
                {choice.name()}
            </option>
        }
    };
    view! {
        <header>
            <h1>"HyDRA"</h1>
            <p class="soft">"LoRA ranks where gradients are large, at the same number of trainable parameters"</p>
            <nav aria-label="Views">{View::ALL.map(tab).collect_view()}</nav>
            <span class="group">
                <button type="button" class="quiet" id="tour-start" on:click=move |_| page.tour.set(1)>"Tour"</button>
                <button
                    type="button"
                    class="quiet"
                    id="help-open"
                    aria-label="Help: words and keys"
                    on:click=move |_| lazy::then(page, lazy::help(), move |act| act(page, "help"))
                >
                    "?"
                </button>
            </span>
            <label class="theme">
                "Theme "
                <select
                    id="theme"
                    on:change=move |event| {
                        page.theme_choice.set(ThemeChoice::from_name(&event_target_value(&event)).unwrap_or_default());
                    }
                >
                    {ThemeChoice::ALL.map(option).collect_view()}
                </select>
            </label>
        </header>
    }
}

/// What the page has to tell.
#[component]
fn Notices() -> impl IntoView {
    let page = Page::get();
    let intake = Intake::get();
    let all = move || {
        let one = |(index, notice): (usize, Notice)| {
            let again = (notice.about == About::Unread).then(|| {
                view! { <button type="button" on:click=move |_| intake.try_again()>"Try again"</button> }
            });
            view! {
                <li class:wrong=notice.wrong>
                    <span>{notice.text}</span>
                    {again}
                    <button
                        type="button"
                        class="quiet"
                        aria-label="Dismiss"
                        on:click=move |_| page.notices.update(|notices| {
                            if index < notices.len() {
                                notices.remove(index);
                            }
                        })
                    >
                        "×"
                    </button>
                </li>
            }
        };
        page.notices.get().into_iter().enumerate().map(one).collect_view()
    };
    view! {
        <div role="status" aria-live="polite">
            <ul class="notices" aria-label="Messages">
                {all}
            </ul>
        </div>
    }
}

/// What the pointer is over.
#[derive(Debug, Clone, PartialEq, Default)]
struct Hovered {
    layer: Option<String>,
    tip: Option<String>,
    at: (f64, f64),
}

/// The text beside the pointer.
#[component]
fn Tip(hovered: RwSignal<Hovered>) -> impl IntoView {
    let width = || window().inner_width().ok().and_then(|w| w.as_f64()).unwrap_or(800.0);
    let left = move || format!("{:.0}px", hovered.with(|h| (h.at.0 + 14.0).min(width() - 270.0).max(4.0)));
    let height = || window().inner_height().ok().and_then(|h| h.as_f64()).unwrap_or(800.0);
    // Over what is pointed at where there is no room below.
    let below = move || hovered.with(|h| h.at.1 + 18.0);
    let top = move || format!("{:.0}px", if below() > height() - 90.0 { below() - 110.0 } else { below() });
    view! {
        <div class="tip" class:shown=move || hovered.with(|h| h.tip.is_some()) aria-hidden="true" style:left=left style:top=top>
            {move || hovered.with(|h| h.tip.clone())}
        </div>
    }
}

/// Whether a query of media holds, now and later.
fn holds(query: &str) -> RwSignal<bool> {
    let is_so = RwSignal::new(false);
    if let Ok(Some(query)) = window().match_media(query) {
        is_so.set(query.matches());
        let watched = query.clone();
        let changed = wasm_bindgen::closure::Closure::<dyn FnMut()>::new(move || is_so.set(watched.matches()));
        query.set_onchange(Some(changed.as_ref().unchecked_ref()));
        changed.forget();
    }
    is_so
}

/// Opens a link that is put into the address bar while the page is open.
fn follow_address(page: Page) {
    let _ = window_event_listener(leptos::ev::hashchange, move |_| {
        let fragment = browser::fragment();
        if !is_link(&fragment) {
            return;
        }
        lazy::then(page, lazy::links(), move |links| {
            let opened = (links.read)(&fragment);
            page.selected.set(None);
            page.view.set(View::of(&opened));
            page.theme_choice.set(ThemeChoice::of(&opened));
            page.tour.set(opened.page.get("tour").and_then(|step| step.parse().ok()).unwrap_or(0));
            page.session.set(opened.session);
            opened.notices.into_iter().for_each(|notice| page.warn(notice));
        });
    });
}

/// Takes files and folders that are dropped anywhere, and files and text that are pasted outside a text box. The signal
/// tells that files hang over the page.
fn take_files(page: Page, intake: Intake) -> RwSignal<bool> {
    let dragging = RwSignal::new(false);
    let has_files = |event: &DragEvent| {
        event
            .data_transfer()
            .is_some_and(|data| data.types().iter().any(|kind| kind.as_string().as_deref() == Some("Files")))
    };
    let _ = window_event_listener(leptos::ev::dragover, move |event| {
        if has_files(&event) {
            event.prevent_default();
            dragging.set(true);
        }
    });
    let _ = window_event_listener(leptos::ev::dragleave, move |event| {
        // Leaving for an element inside the page has one that is entered.
        if event.related_target().is_none() {
            dragging.set(false);
        }
    });
    let _ = window_event_listener(leptos::ev::drop, move |event| {
        if has_files(&event) {
            event.prevent_default();
            dragging.set(false);
            let (files, folders) = event.data_transfer().map(|data| dropped(&data)).unwrap_or_default();
            if folders.is_empty() {
                intake.open(files);
            } else {
                lazy::then(page, lazy::folders(), move |open| open(intake, files, folders));
            }
        }
    });
    let _ = window_event_listener(leptos::ev::paste, move |event: ClipboardEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        if target.is_some_and(|target| target.matches("input, textarea").unwrap_or(false)) {
            return;
        }
        let Some(data) = event.clipboard_data() else { return };
        let files = named(data.files());
        if !files.is_empty() {
            intake.open(files);
        } else if let Ok(text) = data.get_data("text/plain")
            && !text.trim().is_empty()
        {
            intake.open_text(&text);
        }
    });
    dragging
}

/// Marks the layer under the pointer in every view, and selects the cell that is clicked.
fn follow_pointer(page: Page) -> RwSignal<Hovered> {
    let hovered = RwSignal::new(Hovered::default());
    let attribute = |target: Option<web_sys::EventTarget>, name: &str| {
        let element = target?.dyn_into::<Element>().ok()?;
        element.closest(&format!("[{name}]")).ok()??.get_attribute(name)
    };
    let look = move |event: PointerEvent| {
        let of_module = || {
            // Other pictures of modules are not about the schedule.
            let target = event.target()?.dyn_into::<Element>().ok()?;
            target.closest(".cells").ok()??;
            let module = attribute(event.target(), "data-module")?.parse().ok()?;
            page.session.with_untracked(|session| {
                page.analysis.with_untracked(|analysis| heatmap::tip(session, analysis.as_ref().ok()?, module))
            })
        };
        let now = Hovered {
            layer: attribute(event.target(), "data-layer"),
            tip: attribute(event.target(), "data-tip").or_else(of_module),
            at: (f64::from(event.client_x()), f64::from(event.client_y())),
        };
        if now.tip.is_some() || hovered.with_untracked(|old| old.tip.is_some() || old.layer != now.layer) {
            hovered.set(now);
        }
    };
    let _ = window_event_listener(leptos::ev::pointermove, look);
    // A finger comes down without having moved, and gives a slider no focus.
    let _ = window_event_listener(leptos::ev::pointerdown, look);
    let _ = window_event_listener(leptos::ev::click, move |event| {
        if let Some(act) = attribute(event.target(), "data-act") {
            lazy::then(page, lazy::help(), move |call| call(page, &act));
        }
        if let Some(module) = attribute(event.target(), "data-module").and_then(|module| module.parse().ok()) {
            page.selected.set(Some(module));
        }
    });
    // What is focused is explained as what is pointed at is: by keyboard and by touch.
    let _ = window_event_listener(leptos::ev::focusin, move |event| {
        let explain = move || {
            let element = event.target().and_then(|target| target.dyn_into::<Element>().ok());
            let now = element.and_then(|element| {
                let at = element.get_bounding_client_rect();
                let tip = attribute(event.target(), "data-tip")?;
                Some(Hovered { tip: Some(tip), at: (at.left() - 14.0, at.bottom() - 10.0), layer: None })
            });
            hovered.set(now.unwrap_or_default());
        };
        // Once the element has said what it is.
        set_timeout(explain, Duration::ZERO);
    });
    let marked = Memo::new(move |_| {
        let selected = page.selected.get();
        let layer = hovered.with(|hovered| hovered.layer.clone());
        (layer.map(|layer| format!("[data-layer=\"{layer}\"]")), selected.map(|m| format!("[data-module=\"{m}\"]")))
    });
    Effect::new(move |before: Option<(Option<String>, Option<String>)>| {
        let now = marked.get();
        let (old_layer, old_cell) = before.unwrap_or_default();
        for (class, old, new) in [("hovered", &old_layer, &now.0), ("selected", &old_cell, &now.1)] {
            mark(old.as_deref(), class, false);
            mark(new.as_deref(), class, true);
        }
        now
    });
    hovered
}

/// Clicks what a key stands for, where it is there.
fn click(selector: &str) {
    let found = document().query_selector(selector).ok().flatten();
    if let Some(element) = found.and_then(|found| found.dyn_into::<HtmlElement>().ok()) {
        element.click();
    }
}

fn mark(selector: Option<&str>, class: &str, on: bool) {
    let Some(found) = selector.and_then(|selector| document().query_selector_all(selector).ok()) else { return };
    for index in 0..found.length() {
        if let Some(element) = found.get(index).and_then(|node| node.dyn_into::<Element>().ok()) {
            let _ = element.class_list().toggle_with_force(class, on);
        }
    }
}

/// Keys that work everywhere outside of inputs: 1 to 3 for the views, ? for help, and those that take back.
fn keys(page: Page, history: History) {
    let _ = window_event_listener(leptos::ev::keydown, move |event: KeyboardEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        let is = |what: &str| target.as_ref().is_some_and(|target| target.matches(what).unwrap_or(false));
        let (key, command) = (event.key(), event.ctrl_key() || event.meta_key());
        // Where text is typed the browser has its own.
        if command && !event.alt_key() && !is("input[type=text], input[type=number], textarea") {
            match key.as_str() {
                "z" | "Z" | "y" => history.go(page, event.shift_key() || key == "y"),
                "o" => click("#open-files"),
                "s" => click("#take-away button"),
                _ => return,
            }
            event.prevent_default();
            return;
        }
        if is("input, textarea, select") || command || event.alt_key() {
            return;
        }
        if key == "?" {
            lazy::then(page, lazy::help(), move |act| act(page, "help"));
        } else if key == "Escape" {
            page.tour.set(0);
        } else if let Ok(number) = key.parse::<usize>()
            && let Some(view) = number.checked_sub(1).and_then(|index| View::ALL.get(index))
        {
            page.view.set(*view);
        }
    });
}
