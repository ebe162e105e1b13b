//! What is loaded when it is first wanted: `wasm-split` moves code that only these functions reach out of the page's
//! program, into files of its own. All share one memory, so that what they hand out are plain functions.
#![cfg_attr(feature = "split", allow(unsafe_code, reason = "the macro calls what was moved as a foreign function"))]

use hydra_playground::charts::Chart;
use hydra_playground::export::Export;
use hydra_playground::link::Opened;
use hydra_playground::messages::ingest::IngestRequest;
use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_split_helpers::SplitLoaderError;
#[cfg(feature = "split")]
use wasm_split_helpers::wasm_split;
use web_sys::FileSystemEntry;

use crate::folders;
use crate::help;
use crate::intake::{self, Intake, Named};
use crate::page::Page;
use crate::parts::{SaveAs, save_chart};
use crate::recent;
use crate::views::analyse::Quality;
use crate::views::arithmetic::Arithmetic;
use crate::views::compare::Compare;
use crate::views::search::SearchView;
use crate::views::sources::ReportView;
use crate::views::stage_line::StageLine;
use crate::views::take_away::{self, TakeAway};
use crate::views::train::TrainView;

/// What is said when code cannot be loaded.
pub const NOT_LOADED: &str =
    "A part of this page could not be loaded: the connection is gone, or the page was renewed. Try again, or reload.";

/// Makes a view.
pub type MakeView = fn() -> AnyView;
/// Makes the files to take away, or says why there are none.
pub type MakeExports = fn(Page) -> Result<Vec<Export>, String>;
/// Saves a chart under a name without its ending.
pub type SaveChart = fn(Page, &Chart, &str, SaveAs);
/// Reads files, and those of folders.
pub type OpenFolders = fn(Intake, Vec<Named>, Vec<FileSystemEntry>);
/// Does what an element asks for.
pub type Act = fn(Page, &str);
/// Sends files to the worker that reads them.
pub type SendFiles = fn(Intake, &IngestRequest);

/// Links, both ways.
#[derive(Clone, Copy)]
pub struct Links {
    /// What a link says.
    pub read: fn(&str) -> Opened,
    /// The link to what is seen, and whether it holds the profile.
    pub write: fn(Page) -> (String, bool),
    /// The page's address with that link.
    pub address: fn(Page) -> String,
    /// Keeps the link to an own session, which holds the profile or not.
    pub keep: fn(Page, &str, bool),
}

/// A function that begins a part: `module, name: what it hands out = value`. Without the feature `split`, as in tests, parts
/// stay in the program.
macro_rules! parts {
    ($($(#[$doc:meta])* $module:ident, $name:ident: $out:ty = $value:expr;)*) => {
        $(
            $(#[$doc])*
            #[cfg(feature = "split")]
            #[wasm_split($module, fallible)]
            pub fn $name() -> Result<$out, SplitLoaderError> {
                Ok($value)
            }

            $(#[$doc])*
            #[cfg(not(feature = "split"))]
            pub async fn $name() -> Result<$out, SplitLoaderError> {
                Ok($value)
            }
        )*
    };
}

parts! {
    /// How a rank comes about, which stands below the first screen.
    analyse, arithmetic: MakeView = || Arithmetic().into_any();
    /// Elbow and silhouette, the same.
    analyse, quality: MakeView = || Quality().into_any();
    /// What can be taken away, the same.
    analyse, take_away: MakeView = || TakeAway().into_any();
    /// K-means at work, the same.
    analyse, stage_line: MakeView = || StageLine().into_any();
    /// Two schedules side by side, the same.
    analyse, compare: MakeView = || Compare().into_any();
    /// The view of the search.
    search, search: MakeView = || SearchView().into_any();
    /// The view of fine-tuning.
    train, train: MakeView = || TrainView().into_any();
    /// What was found in files.
    files, report: MakeView = || ReportView().into_any();
    /// Reading files.
    files, files: SendFiles = intake::send;
    /// Looking into folders.
    files, folders: OpenFolders = folders::open;
    /// Files to take away.
    files, exports: MakeExports = take_away::made;
    /// Saving charts.
    files, saving: SaveChart = save_chart;
    /// Words, keys, the Python logger.
    help, help: Act = help::act;
    /// The tour.
    help, tour: MakeView = || help::Tour().into_any();
    /// The last sessions.
    links, recent: MakeView = || recent::Recent().into_any();
    /// Links.
    links, links: Links =
        Links { read: recent::read_link, write: Page::link_now, address: Page::address, keep: recent::keep };
}

/// Calls what is loaded; says where it cannot be.
pub fn then<T: 'static>(
    page: Page,
    loading: impl Future<Output = Result<T, SplitLoaderError>> + 'static,
    call: impl FnOnce(T) + 'static,
) {
    spawn_local(async move {
        match loading.await {
            Ok(loaded) => call(loaded),
            Err(_) => page.warn(NOT_LOADED),
        }
    });
}

/// Shows a view once its code is there.
pub fn when_loaded<Loading>(load: fn() -> Loading) -> AnyView
where
    Loading: Future<Output = Result<MakeView, SplitLoaderError>> + 'static,
{
    let loaded = RwSignal::new_local(None);
    let start = move || {
        loaded.set(None);
        spawn_local(async move {
            let result = load().await;
            // Another view may be open by now.
            loaded.try_set(Some(result.ok()));
        });
    };
    start();
    (move || match loaded.get() {
        None => view! { <p class="loading" role="status">"Loading…"</p> }.into_any(),
        Some(Some(view)) => view(),
        Some(None) => view! {
            <p class="problem" role="alert">
                {NOT_LOADED} " "
                <button type="button" on:click=move |_| start()>"Try again"</button>
            </p>
        }
        .into_any(),
    })
    .into_any()
}
