//! What a stranger meets: the page before and after its program, the first screen, keys, the tour, the samples.

use serde_json::json;

use crate::support::page::{on_the_page, on_the_page_at, on_the_page_without};
use crate::{assert_seen_together, sample};

#[test]
fn the_first_view_stands_before_any_program_has_arrived() {
    on_the_page_without([".wasm"], async |page| {
        assert!(page.text("#app").await.contains("Gradient norm by layer"));
        let circles = page.js("return document.querySelectorAll('#app svg.light circle').length", vec![]).await;
        assert_eq!(circles, 24, "one for each layer of the sample");
    });
}

#[test]
fn a_part_that_cannot_be_loaded_is_told_of_and_the_rest_of_the_page_goes_on() {
    on_the_page_without(["-split_search.wasm", "-split_files.wasm"], async |page| {
        page.until_count("html[data-ready]", 1).await;
        page.click("#tab-search").await;
        page.until_text("main [role=alert]", "could not be loaded").await;
        page.click_text("main button", "Try again").await;
        page.until_text("main [role=alert]", "could not be loaded").await;
        page.click("#tab-analyse").await;
        page.until_count("#schedule rect[data-module]", 168).await;
        page.drop_files(&[("grad-norms.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text(".notices", "could not be loaded").await;
        assert_eq!(page.count(".progress").await, 0, "nothing is being read");
    });
}

#[test]
fn a_worker_that_cannot_be_loaded_is_told_of_and_tried_again() {
    let missing = ["ingest-worker_bg.wasm", "performance-worker.js", "training-worker_loader.js"];
    on_the_page_without(missing, async |page| {
        page.until_count("html[data-ready]", 1).await;
        page.drop_files(&[("grad-norms.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text(".notices", "The files could not be read").await;
        assert_eq!(page.count(".progress").await, 0);
        page.click_text(".notices button", "Try again").await;
        page.until_text(".notices", "The files could not be read").await;
        page.click("#tab-search").await;
        page.until_count("#search-again", 1).await;
        assert_eq!(page.count("main [aria-busy=true]").await, 0);
        page.click("#search-again").await;
        page.until_count("#search-again", 1).await;
        page.click("#tab-train").await;
        page.until_text("#train-failed", "could not be loaded").await;
        assert_eq!(page.count("#train-busy").await, 0);
        page.click("#train-again").await;
        page.until_text("#train-failed", "could not be loaded").await;
    });
}

#[test]
fn the_page_loads_without_errors_and_shows_the_sample_its_schedule_and_its_budget() {
    on_the_page(async |page| {
        assert_eq!(page.text("h1").await, "HyDRA");
        assert!(page.text("#source-name").await.contains("MobileVLM-like"));
        page.until_text("#budget-text", "of 121,110,528 parameters").await;
        page.until_count("#schedule rect[data-module]", 168).await;
        page.until_count("#gradient-norms circle[data-layer]", 24).await;
        page.until_text("#stage-quality svg", "stages").await;
        page.until_text("#command", "trainer plan --gradients grads.jsonl --model mobilevlm-1.7b").await;
    });
}

#[test]
fn once_it_is_loaded_the_page_asks_the_network_for_nothing() {
    on_the_page(async |page| {
        // The service worker fills its cache after the page has loaded.
        page.settle().await;
        let before = page.requests_so_far();
        page.set("#delta", "5").await;
        page.set("#stages", "4").await;
        page.choose("#preset", "exponential").await;
        page.choose("#preset", "hydra").await;
        page.click("#schedule rect[data-module='80']").await;
        page.choose("#theme", "dark").await;
        page.wait(600).await;
        // Parts of the program that are loaded on use were kept with the page.
        assert!(page.exported("adapter_config.json").await.contains("rank_pattern"));
        assert!(page.link().await.contains("delta=5"));
        assert_eq!(page.requests_so_far(), before);
    });
}

#[test]
fn every_sample_is_one_click_away() {
    on_the_page(async |page| {
        for (name, layers) in [("SmolLM2-135M log", 30), ("Tiny MobileVLM log", 6), ("MobileVLM-like profile", 24)] {
            page.click_text("button", name).await;
            page.until_text("#source-name", name).await;
            page.until_count("#schedule rect[data-module]", 7 * layers).await;
        }
    });
}

#[test]
fn the_first_screen_says_what_to_do_and_shows_a_picture_wide_and_narrow() {
    on_the_page(async |page| {
        let bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom";
        for (width, height) in [(1440, 900), (390, 844)] {
            page.resize(width, height).await;
            let inner = page.js("return innerHeight", vec![]).await.as_f64().unwrap();
            assert!(page.text("#start").await.contains("Drop the gradient log of your LoRA run"));
            for seen in ["#start", "#open-files", "#budget-text"] {
                assert!(page.js(bottom, vec![json!(seen)]).await.as_f64().unwrap() < inner, "{seen} at {width}");
            }
            let middle = "const r = document.querySelector('#gradient-norms svg').getBoundingClientRect(); return (r.top + r.bottom) / 2";
            assert!(page.js(middle, vec![]).await.as_f64().unwrap() < inner, "the picture at {width}");
        }
        for control in ["#ratio", "#preset"] {
            assert_seen_together(page, control, "#schedule svg").await;
        }
        page.resize(1280, 1000).await;
        // The logger is there to be read, copied and taken.
        page.click_text("summary", "No log yet? These lines in your training script write one").await;
        page.click("[data-act=show-logger]").await;
        page.until_text("#logger-text", "class HydraCallback").await;
        let got =
            "const done = arguments[0]; fetch(document.querySelector('#start a').href).then(r => r.text()).then(done)";
        let logger =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/hydra_grad_logger.py")).unwrap();
        assert_eq!(page.js_async(got).await, json!(logger));

        // Every choice explains itself to who points at it and to who focuses it.
        page.focus("#base-rank").await;
        page.until_text(".tip.shown", "The r of your LoRA today").await;
        page.hover("#ratio").await;
        page.until_text(".tip.shown", "Every stage has this many times the rank").await;
        page.focus("#delta").await;
        page.until_text(".tip.shown", "One step more changes ").await;
        page.touch("#ratio").await;
        page.until_text(".tip.shown", "Every stage has this many times the rank").await;
        let silent = "return [...document.querySelectorAll('.controls input, .controls select')].filter(e => !e.closest('[data-tip]') && \
                      !e.closest('.signs')).map(e => e.id)";
        assert_eq!(page.js(silent, vec![]).await, json!([]));

        // An own log needs no invitation, and is kept in this browser.
        page.drop_files(&[("mine.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text("#source-name", "mine.jsonl.gz").await;
        assert!(!page.is_seen("#start").await);
        page.set("#delta", "7").await;
        page.until_link("delta=7").await;
        // Another run's log may have the same name.
        page.drop_files(&[("mine.jsonl.gz", &sample("tiny-mobilevlm.jsonl.gz"))]).await;
        page.until_count("#schedule rect[data-module]", 42).await;
        assert_eq!(page.value("#base-rank").await, "4");
        page.set("#delta", "3").await;
        page.until_link("delta=3").await;
        page.click_text("button", "MobileVLM-like profile").await;
        page.until_link("sample=mobilevlm").await;
        page.reload().await;
        page.until_count("#recent button", 3).await;
        assert!(page.text("#recent").await.contains("mine.jsonl.gz, "), "twins have their time beside them");
        page.click("#recent button:nth-of-type(2)").await;
        page.until_text("#source-name", "mine.jsonl.gz").await;
        page.until_count("#schedule rect[data-module]", 210).await;
        assert_eq!(page.value("#delta").await, "7");
        page.click_text("#recent button", "Forget them").await;
        page.until_count("#recent", 0).await;
    });
}

#[test]
fn keys_are_told_and_a_tour_of_five_steps_can_be_linked_and_left() {
    on_the_page_at("#v=1&sample=mobilevlm&r=128&stages=3&ratio=2&delta=2&tour=2&hide=controls", &[], async |page| {
        page.until_text("#tour-step", "2 of 5").await;
        page.until_text(".tour", "K-means groups layers").await;
        page.until_count("#k-means.toured", 1).await;
        assert!(!page.is_seen(".controls").await, "hidden for a lecture");
        for step in 3..=5 {
            page.click_text(".tour button", "Next").await;
            page.until_text("#tour-step", &format!("{step} of 5")).await;
            page.until_link(&format!("tour={step}")).await;
        }
        assert!(page.link().await.contains("hide=controls"));
        page.click_text(".tour button", "Finish").await;
        page.until_count(".tour", 0).await;
        assert_eq!(page.count(".toured").await, 0);
        page.press("?").await;
        page.until_count("dialog[open]", 1).await;
        let help = page.text("dialog[open]").await;
        for part in ["Ctrl Z", "Space", "arrows", "Base rank", "Fine step", "Leave-one-out error"] {
            assert!(help.contains(part), "{part}: {help}");
        }
        page.press("Escape").await;
        page.until_count("dialog[open]", 0).await;
        // Every choice leads to what is said of it at more length.
        page.click("[data-act='help ratio']").await;
        page.until_count("dialog[open]", 1).await;
        let said = page.js("return document.activeElement.textContent", vec![]).await;
        assert!(said.as_str().unwrap().starts_with("From one stage to the next"), "{said}");
        page.press("Escape").await;
        for (view, choice) in [("train", "#train-steps"), ("search", "#search-rule"), ("analyse", "#ratio")] {
            page.click(&format!("#tab-{view}")).await;
            page.until_count(choice, 1).await;
            let missing = page
                .js(
                    "return [...document.querySelectorAll('.more')].map(b => b.dataset.act.split(' ')[1]) \
                     .filter(id => !document.querySelector(`#help [data-for~='${id}']`))",
                    vec![],
                )
                .await;
            assert_eq!(missing, json!([]), "{view}");
            assert!(page.count(".controls .more").await > 5, "{view}");
            // So does every picture, where it stands, and takes it away again.
            let silent = "return [...document.querySelectorAll('figure')].filter(f => !f.querySelector('figcaption [data-act^=explain]')) \
                          .map(f => f.id)";
            assert_eq!(page.js(silent, vec![]).await, json!([]), "{view}");
            let explained = match view {
                "train" => ("#training-loss", "read the thick one"),
                "search" => ("#search-history", "The line is the best so far"),
                _ => ("#gradient-norms", "a layer further up had larger gradients"),
            };
            page.until_count(explained.0, 1).await;
            let more = format!("{} figcaption .more", explained.0);
            page.click(&more).await;
            page.until_text(&format!("{} figcaption .explained", explained.0), explained.1).await;
            assert_eq!(page.count(&format!("{more}[aria-expanded=true]")).await, 1, "{view}");
            let unknown = "return [...document.querySelectorAll('figure')].map(f => f.id) \
                           .filter(id => !document.querySelector(`#help [data-for~='${id}'] + dd`))";
            assert_eq!(page.js(unknown, vec![]).await, json!([]), "{view}");
            assert_eq!(page.count("dialog[open]").await, 0, "nothing covers the picture");
            page.click(&more).await;
            page.until_count(".explained", 0).await;
            assert_eq!(page.count(&format!("{more}[aria-expanded=false]")).await, 1, "{view}");
        }
        page.press("2").await;
        page.until_count("#tab-search[aria-current=page]", 1).await;
    });
}
