//! The built page in headless Chromium.
//!
//! `scripts/test` builds the page and names its folder in `HYDRA_PAGE`. Without that variable there is nothing to look
//! at, and the tests say that they were skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

mod support;

use std::time::Duration;

use fantoccini::Locator;
use support::browser::Browser;
use support::server::serve;

/// Runs `check` in a browser on the page, then requires that the page logged no error and asked no other server.
fn on_the_page<F>(check: F)
where
    F: AsyncFnOnce(&fantoccini::Client),
{
    let Some(folder) = std::env::var_os("HYDRA_PAGE") else {
        eprintln!("skipped: HYDRA_PAGE is not set (scripts/test builds the page and sets it)");
        return;
    };
    let server = serve(folder.as_ref());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let browser = Browser::start().await;
        browser.client.goto(&server.url).await.unwrap();
        check(&browser.client).await;
        let problems = browser.problems().await;
        let requests = browser.requests().await;
        browser.stop().await;
        assert!(problems.is_empty(), "the console shows: {problems:#?}");
        for request in requests {
            // The browser's own start page has chrome:// addresses.
            let own = ["data:", "blob:", "chrome://"].iter().any(|scheme| request.starts_with(scheme));
            assert!(own || request.starts_with(&server.url), "asked for {request}");
        }
    });
}

#[test]
fn the_page_loads_without_console_errors_or_foreign_requests_and_computes_the_published_budget() {
    on_the_page(async |client| {
        let cell = Locator::XPath("//td[text()='121,110,528']");
        client.wait().at_most(Duration::from_secs(30)).for_element(cell).await.unwrap();
        let heading = client.find(Locator::Css("h1")).await.unwrap().text().await.unwrap();
        assert_eq!(heading, "HyDRA");
        assert_eq!(client.title().await.unwrap(), "HyDRA");
    });
}
