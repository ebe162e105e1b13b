//! The last own sessions, kept in this browser until somebody forgets them: their links, the gradient profile in them, and the file
//! of the last study whose scores were told here.

use hydra_playground::session::Source;
use leptos::prelude::*;
use wasm_bindgen::JsValue;

use crate::intake::Intake;
use crate::lazy;
use crate::page::Page;

/// Where the browser keeps them.
const KEY: &str = "hydra-recent";
/// Most that are kept.
const MOST: usize = 5;
/// Where it keeps the study.
const STUDY_KEY: &str = "hydra-study";
/// Characters of the longest study that is kept: browsers refuse what is much longer.
const LONGEST_STUDY: usize = 2_000_000;

fn storage() -> Option<web_sys::Storage> {
    window().local_storage().ok().flatten()
}

/// One of them.
#[derive(Clone, PartialEq)]
struct RecentSession {
    name: String,
    /// When its log was read, in milliseconds since 1970.
    read_at: f64,
    link: String,
}

/// The newest first.
fn kept() -> Vec<RecentSession> {
    let text = read(KEY).unwrap_or_default();
    let one = |line: &str| {
        let mut parts = line.split('\t').rev();
        let link = parts.next()?.to_owned();
        let read_at = parts.next()?;
        // An older page kept no time.
        let (name, read_at) = match parts.next() {
            Some(name) => (name, read_at.parse().unwrap_or(0.0)),
            None => (read_at, 0.0),
        };
        Some(RecentSession { name: name.to_owned(), read_at, link })
    };
    text.lines().filter_map(one).collect()
}

/// Whether there are any, without reading them.
pub fn any() -> bool {
    [KEY, STUDY_KEY].into_iter().any(|key| read(key).is_some())
}

/// What the browser keeps under a key.
fn read(key: &str) -> Option<String> {
    storage()?.get_item(key).ok().flatten().filter(|text| !text.is_empty())
}

/// Keeps the file of a study; one that the browser refuses is in the page alone, as before.
pub fn keep_study(text: &str) {
    if let Some(storage) = storage().filter(|_| text.len() <= LONGEST_STUDY) {
        let _ = storage.set_item(STUDY_KEY, text);
    }
}

/// Keeps what is seen, where it is of an own log; a browser that keeps nothing is none the worse.
pub fn keep(page: Page, link: &str, with_profile: bool) {
    let name = page.session.with_untracked(|session| match &session.source {
        Source::Log(_) if with_profile => Some(session.name().replace(['\t', '\n'], " ")),
        _ => None,
    });
    let (Some(name), Some(storage)) = (name, storage()) else { return };
    let before = kept();
    // A page that was loaded again, and one gone back to, is at the log of the link that it has.
    let known = before.iter().find(|other| other.link == link).map(|other| other.read_at).filter(|time| *time > 0.0);
    let read_at = known.unwrap_or_else(|| page.read_at.get_value());
    let read_at = if read_at > 0.0 { read_at } else { js_sys::Date::now() };
    page.read_at.set_value(read_at);
    let is_same = |other: &RecentSession| other.link == link || (other.read_at == read_at && other.name == name);
    let rest = before.iter().filter(|other| !is_same(other)).cloned();
    let own = RecentSession { name: name.clone(), read_at, link: link.to_owned() };
    let lines = [own].into_iter().chain(rest).take(MOST);
    let text: String =
        lines.map(|RecentSession { name, read_at, link }| format!("{name}\t{read_at}\t{link}\n")).collect();
    let _ = storage.set_item(KEY, &text);
}

/// The last sessions, to be opened again.
#[component]
pub fn Recent() -> impl IntoView {
    let (page, intake) = (Page::get(), Intake::get());
    let (all, has_study) = (RwSignal::new(kept()), RwSignal::new(read(STUDY_KEY).is_some()));
    let open = move |RecentSession { read_at, link, .. }: RecentSession| {
        lazy::then(page, lazy::links(), move |links| {
            let opened = (links.read)(&link);
            intake.forget();
            page.read_at.set_value(read_at);
            page.session.set(opened.session);
            opened.notices.into_iter().for_each(|notice| page.warn(notice));
        });
    };
    let forget = move |_| {
        if let Some(storage) = storage() {
            let _ = storage.remove_item(KEY);
            let _ = storage.remove_item(STUDY_KEY);
        }
        has_study.set(false);
        all.set(Vec::new());
    };
    let open_study = move |_| read(STUDY_KEY).iter().for_each(|text| intake.open_text(text));
    move || {
        let (sessions, has_study) = (all.get(), has_study.get());
        (has_study || !sessions.is_empty()).then(|| {
            let one = |own: &RecentSession| {
                let has_twin = sessions.iter().filter(|other| other.name == own.name).count() > 1;
                let time = || js_sys::Date::new(&own.read_at.into()).to_locale_string("default", &JsValue::UNDEFINED);
                let name = match has_twin && own.read_at > 0.0 {
                    true => format!("{}, {}", own.name, String::from(time())),
                    false => own.name.clone(),
                };
                let own = own.clone();
                view! { <button type="button" class="quiet" on:click=move |_| open(own.clone())>{name}</button> }
            };
            view! {
                <p class="row soft" id="recent">
                    "Your last sessions, kept in this browser alone:"
                    {sessions.iter().map(one).collect_view()}
                    {has_study.then(|| view! { <button type="button" class="quiet" id="recent-study" on:click=open_study>"the study of your own scores"</button> })}
                    <button type="button" class="quiet" on:click=forget>"Forget them"</button>
                </p>
            }
        })
    }
}
