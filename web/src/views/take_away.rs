//! What leaves the page.

use hydra_playground::export::{Export, WORTH, command, exports};
use leptos::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

use crate::browser::save_text;
use crate::lazy::{self, MakeExports};
use crate::page::Page;

/// Files to save, text to copy, the command that computes the same.
#[component]
pub fn TakeAway() -> impl IntoView {
    let page = Page::get();
    // Text of the file that is shown: made again with every change, once what makes it is there.
    let shown = RwSignal::new(0_usize);
    let open = RwSignal::new(false);
    let make = RwSignal::new(None::<MakeExports>);
    let text = Memo::new(move |_| {
        page.session.track();
        page.analysis.track();
        page.link.track();
        let Some(make) = make.get() else { return "Loading…".to_owned() };
        match make(page) {
            Ok(exports) => exports.get(shown.get()).map(|export| export.text.clone()).unwrap_or_default(),
            Err(error) => error,
        }
    });
    let save = move |index: usize| {
        lazy::then(page, lazy::exports(), move |make| match make(page) {
            Ok(exports) => {
                if let Some(Export { file, kind, text, .. }) = exports.get(index) {
                    save_text(file, kind, text);
                }
            }
            Err(error) => page.warn(error),
        });
    };
    let show = move |index: usize| {
        shown.set(index);
        open.set(true);
        lazy::then(page, lazy::exports(), move |loaded| make.set(Some(loaded)));
    };
    let copy_link = move |_| lazy::then(page, lazy::links(), move |links| copy(page, (links.address)(page), "Link"));
    const FILES: [(&str, &str); 6] = [
        ("adapter_config.json", "PEFT configuration"),
        ("lora_config.py", "PEFT, as Python"),
        ("schedule.json", "schedule for the trainer"),
        ("plan.toml", "settings of trainer plan"),
        ("axolotl.yml", "axolotl"),
        ("ranks.csv", "table of ranks"),
    ];
    let rows = FILES.into_iter().enumerate().map(|(index, (file, label))| {
        view! {
            <li>
                <button type="button" on:click=move |_| save(index) aria-label=format!("Save {file}")>{file}</button>
                <span class="soft">{label}</span>
                <button
                    type="button"
                    class="quiet"
                    aria-label=format!("Show {file}")
                    on:click=move |_| show(index)
                >
                    "Show"
                </button>
            </li>
        }
    });
    let line = Memo::new(move |_| page.session.with(command));
    view! {
        <section class="card take-away" aria-label="Take away" id="take-away">
            <h2>"Take away"</h2>
            <ul class="files">{rows.collect_view()}</ul>
            <p class="soft worth">{WORTH}</p>
            {move || (open.get()).then(|| view! {
                <div class="row">
                    <label for="export-text">{move || FILES.get(shown.get()).map(|file| file.0)}</label>
                    <button type="button" on:click=move |_| copy(page, text.get_untracked(), "Text")>"Copy"</button>
                    <button type="button" class="quiet" on:click=move |_| open.set(false)>"Hide"</button>
                </div>
                <textarea id="export-text" readonly rows="12" spellcheck="false" prop:value=move || text.get()></textarea>
            })}
            <h3>"The same on the command line"</h3>
            <pre tabindex="0" class="scroll" id="command"><code>{move || line.get().0}</code></pre>
            {move || line.get().1.map(|apart| view! { <p class="soft">{apart}</p> })}
            <div class="row">
                <button type="button" on:click=move |_| copy(page, line.get_untracked().0, "Command")>"Copy the command"</button>
                <button type="button" on:click=copy_link>"Copy the link to this view"</button>
                <span class="soft">
                    {move || {
                        if page.link.with(|link| link.1) {
                            "The address bar always holds it, the profile included."
                        } else {
                            "The profile is too large for a link: in another browser it leads to the choices, and the log has to be dropped again."
                        }
                    }}
                </span>
            </div>
        </section>
    }
}

/// Every file to take away, of what is seen.
pub fn made(page: Page) -> Result<Vec<Export>, String> {
    page.session.with_untracked(|session| {
        page.analysis.with_untracked(|analysis| match analysis {
            Ok(analysis) => exports(session, analysis, &page.address()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        })
    })
}

/// Copies text, and says so.
pub fn copy(page: Page, text: String, what: &'static str) {
    spawn_local(async move {
        match JsFuture::from(window().navigator().clipboard().write_text(&text)).await {
            Ok(_) => page.tell(format!("{what} copied.")),
            Err(_) => page.warn("The browser does not let this page use the clipboard: select the text and copy it."),
        }
    });
}
