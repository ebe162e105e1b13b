//! The last own sessions, kept in this browser until somebody forgets them: their links, the gradient profile in them.

use hydra_playground::session::Source;
use leptos::prelude::*;

use crate::intake::Intake;
use crate::lazy;
use crate::page::Page;

/// Where the browser keeps them.
const KEY: &str = "hydra-recent";
/// Most that are kept.
const MOST: usize = 5;

fn storage() -> Option<web_sys::Storage> {
    window().local_storage().ok().flatten()
}

/// Names and links, the newest first.
fn kept() -> Vec<(String, String)> {
    let text = storage().and_then(|storage| storage.get_item(KEY).ok().flatten()).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, link)| (name.to_owned(), link.to_owned()))
        .collect()
}

/// Whether there are any, without reading them.
pub fn any() -> bool {
    storage().and_then(|storage| storage.get_item(KEY).ok().flatten()).is_some_and(|text| !text.is_empty())
}

/// Keeps what is seen, where it is of an own log; a browser that keeps nothing is none the worse.
pub fn keep(page: Page, link: &str, with_profile: bool) {
    let name = page.session.with_untracked(|session| match &session.source {
        Source::Log(_) if with_profile => Some(session.name().replace(['\t', '\n'], " ")),
        _ => None,
    });
    let (Some(name), Some(storage)) = (name, storage()) else { return };
    let rest = kept().into_iter().filter(|(other, _)| *other != name);
    let lines = [(name.clone(), link.to_owned())].into_iter().chain(rest).take(MOST);
    let text: String = lines.map(|(name, link)| format!("{name}\t{link}\n")).collect();
    let _ = storage.set_item(KEY, &text);
}

/// The last sessions, to be opened again.
#[component]
pub fn Recent() -> impl IntoView {
    let (page, intake) = (Page::get(), Intake::get());
    let all = RwSignal::new(kept());
    let open = move |link: String| {
        lazy::then(page, lazy::links(), move |links| {
            let opened = (links.read)(&link);
            intake.forget();
            page.session.set(opened.session);
            opened.notices.into_iter().for_each(|notice| page.warn(notice));
        });
    };
    let forget = move |_| {
        if let Some(storage) = storage() {
            let _ = storage.remove_item(KEY);
        }
        all.set(Vec::new());
    };
    move || {
        let sessions = all.get();
        (!sessions.is_empty()).then(|| {
            let one = |(name, link): (String, String)| {
                view! { <button type="button" class="quiet" on:click=move |_| open(link.clone())>{name}</button> }
            };
            view! {
                <p class="row soft" id="recent">
                    "Your last sessions, kept in this browser alone:"
                    {sessions.into_iter().map(one).collect_view()}
                    <button type="button" class="quiet" on:click=forget>"Forget them"</button>
                </p>
            }
        })
    }
}
