//! The last own sessions, kept in this browser until somebody forgets them: their links, the gradient profile in them though it be too
//! large for an address, and the files of the last two studies whose scores were told here.

use hydra_playground::link::{Opened, from_link, without_profile};
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
/// Where it keeps the last study and the one before it, and what these are called.
const STUDY_KEYS: [&str; 2] = ["hydra-study", "hydra-study-before"];
const STUDY_NAMES: [&str; 2] = ["the study of your own scores", "the one before it"];
/// Bytes of the largest study that is kept: browsers refuse what is much larger.
const LARGEST_STUDY: usize = 2_000_000;
/// Bytes of the largest session: several of them leave room for the studies.
const LARGEST_SESSION: usize = 200_000;

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
    [KEY].into_iter().chain(STUDY_KEYS).any(has)
}

/// Whether the browser keeps something under a key.
fn has(key: &str) -> bool {
    storage().is_some_and(|storage| js_sys::Reflect::has(&storage, &key.into()).unwrap_or(false))
}

/// What the browser keeps under a key.
fn read(key: &str) -> Option<String> {
    storage()?.get_item(key).ok().flatten().filter(|text| !text.is_empty())
}

/// Keeps the file of a study, which was `was` before, and that of the study before it. One that the browser refuses is in the page
/// alone, as before.
pub fn keep_study(text: &str, was: &str) {
    let Some(storage) = storage() else { return };
    let [last, before] = STUDY_KEYS;
    if let Some(other) = read(last).filter(|other| other != was && !text.starts_with(other.as_str())) {
        let _ = storage.set_item(before, &other);
    }
    if text.len() > LARGEST_STUDY || storage.set_item(last, text).is_err() {
        let _ = storage.remove_item(last);
    }
}

/// Keeps what is seen, where it is of an own log; a browser that keeps nothing is none the worse.
pub fn keep(page: Page, link: &str, with_profile: bool) {
    let name = page.session.with_untracked(|session| match &session.source {
        Source::Log(_) => Some(session.name().replace(['\t', '\n'], " ")),
        Source::Sample(_) | Source::Unknown => None,
    });
    let (Some(name), Some(storage)) = (name, storage()) else { return };
    let whole = if with_profile { link.to_owned() } else { page.whole_link() };
    let link = whole.as_str();
    if link.len() > LARGEST_SESSION {
        return;
    }
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

/// What a link says. The profile that is too large for it comes from this browser, where the session is one of the last.
pub fn read_link(link: &str) -> Opened {
    let opened = from_link(link);
    if opened.log_to_drop.is_empty() {
        return opened;
    }
    let short = link.trim_start_matches('#');
    let whole = kept().into_iter().find(|own| without_profile(&own.link) == short);
    whole.map_or(opened, |own| from_link(&own.link))
}

/// The last sessions, to be opened again.
#[component]
pub fn Recent() -> impl IntoView {
    let (page, intake) = (Page::get(), Intake::get());
    let studies_now = || STUDY_KEYS.map(has);
    let (all, studies) = (RwSignal::new(kept()), RwSignal::new(studies_now()));
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
        let question = "Forget the studies of your own scores, too?";
        let with_studies =
            studies.get_untracked().contains(&true) && window().confirm_with_message(question).unwrap_or(false);
        if let Some(storage) = storage() {
            let _ = storage.remove_item(KEY);
            for key in STUDY_KEYS.into_iter().filter(|_| with_studies) {
                let _ = storage.remove_item(key);
            }
        }
        studies.set(studies_now());
        all.set(Vec::new());
    };
    move || {
        let (sessions, studies) = (all.get(), studies.get());
        (studies.contains(&true) || !sessions.is_empty()).then(|| {
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
            let one_study = |(key, name): (&'static str, &'static str)| {
                let open = move |_| read(key).iter().for_each(|text| intake.open_kept(text));
                view! { <button type="button" class="quiet" id=format!("recent-{key}") on:click=open>{name}</button> }
            };
            let own_studies = STUDY_KEYS.into_iter().zip(STUDY_NAMES).zip(studies);
            let own_studies = own_studies.filter(|(_, is_kept)| *is_kept).map(|(study, _)| one_study(study));
            let own_studies = own_studies.collect_view();
            view! {
                <p class="row soft" id="recent">
                    "Your last sessions, kept in this browser alone:"
                    {sessions.iter().map(one).collect_view()}
                    {own_studies}
                    <button type="button" class="quiet" on:click=forget>"Forget them"</button>
                </p>
            }
        })
    }
}
