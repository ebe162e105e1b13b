//! Every view for everybody: themes, widths, the keyboard, the rules of axe; and pictures of all of them.

use std::path::Path;

use hydra_tests::named_by;
use serde_json::json;

use crate::assert_seen_together;
use crate::support::page::{on_the_page, on_the_page_at};

#[test]
fn the_theme_can_be_chosen_and_is_in_the_link() {
    on_the_page(async |page| {
        let background = "return getComputedStyle(document.body).backgroundColor";
        page.choose("#theme", "dark").await;
        page.until_link("theme=dark").await;
        assert_eq!(page.js(background, vec![]).await, "rgb(20, 23, 27)");
        page.reload().await;
        assert_eq!(page.js(background, vec![]).await, "rgb(20, 23, 27)");
        page.choose("#theme", "light").await;
        page.until_link("theme=light").await;
        assert_eq!(page.js(background, vec![]).await, "rgb(255, 255, 255)");
    });
}

#[test]
fn no_view_is_wider_than_a_narrow_telephone_nor_hides_a_picture_that_a_control_changes_its_table_or_its_files() {
    on_the_page(async |page| {
        page.resize(360, 800).await;
        page.choose("#pin-preset", "uniform").await;
        let views = [
            ("analyse", "Difference", "#preset", "#schedule svg"),
            ("search", "the last answer took", "#search-trials", "#search-history svg"),
            ("train", "Answers about pictures", "#train-steps", "#training-loss svg"),
        ];
        for (view, shown, control, picture) in views {
            page.click(&format!("#tab-{view}")).await;
            page.until_text_for("main", shown, 120).await;
            let overflow = "return [document.documentElement.scrollWidth, window.innerWidth]";
            let widths = page.js(overflow, vec![]).await;
            assert!(widths[0].as_f64() <= widths[1].as_f64(), "{view}: content and window are {widths} pixels wide");
            assert_seen_together(page, control, picture).await;
            // Its table and its files are there, under it.
            let figure = picture.split(' ').next().unwrap();
            let saves = format!("{figure} .saves button");
            assert!(page.is_seen(&saves).await, "{view}");
            let csv = page.saved(async || page.click(&format!("{saves}:last-child")).await).await;
            assert!(csv.lines().next().unwrap().contains(','), "{view}: {csv}");
            let svg = page.saved(async || page.click(&format!("{saves}:first-child")).await).await;
            assert!(svg.starts_with("<svg"), "{view}: {svg}");
            page.click(&format!("{figure} summary")).await;
            page.until_count(&format!("{figure} thead"), 1).await;
            assert!(page.is_seen(&format!("{figure} thead")).await, "{view}");
            let widths = page.js(overflow, vec![]).await;
            assert!(widths[0].as_f64() <= widths[1].as_f64(), "{view}: an open table makes it {widths} pixels wide");
            page.click(&format!("{figure} summary")).await;
        }
    });
}

#[test]
fn the_keyboard_reaches_every_control_in_the_order_in_which_they_stand() {
    on_the_page(async |page| {
        let mut reached = Vec::new();
        for _ in 0..64 {
            page.press("Tab").await;
            let name = "const e = document.activeElement; return e.id || (e.tagName === 'BUTTON' && e.textContent.slice(0, 20)) || e.className";
            reached.push(page.js(name, vec![]).await.as_str().unwrap_or_default().to_owned());
        }
        let at =
            |name: &str| reached.iter().position(|r| r.contains(name)).unwrap_or_else(|| panic!("{name}: {reached:?}"));
        let order =
            ["skip", "tab-analyse", "theme", "open-files", "base-rank", "stages", "ratio", "delta", "preset", "cells"];
        let places: Vec<usize> = order.iter().map(|name| at(name)).collect();
        assert!(places.is_sorted(), "{reached:?}");
    });
}

#[test]
fn the_page_is_accessible_by_the_rules_of_axe_in_every_view_and_theme() {
    let Some(axe) = named_by("HYDRA_AXE", "axe.min.js of axe-core") else { return };
    let axe = std::fs::read_to_string(axe).unwrap();
    on_the_page(async |page| {
        page.js(&axe, vec![]).await;
        for theme in ["light", "dark"] {
            page.choose("#theme", theme).await;
            for view in ["analyse", "search", "train"] {
                page.click(&format!("#tab-{view}")).await;
                page.wait(700).await;
                let found = page.js_async(
                    "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map(\
                     v => v.id + ': ' + v.help + ' ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' // ' + \
                     n.failureSummary).join(' | '))))",
                ).await;
                assert_eq!(found, json!([]), "{theme}, {view}");
            }
        }
    });
}

/// Pictures of the main views, wide and narrow, light and dark, and the two of the README, into the folder
/// `HYDRA_SCREENSHOTS`.
#[test]
#[ignore = "scripts/screenshots runs it"]
fn screenshots() {
    let Some(folder) = std::env::var_os("HYDRA_SCREENSHOTS") else { return };
    let flags = ["--hide-scrollbars", "--force-device-scale-factor=1.5"];
    on_the_page_at("", &flags, async |page| {
        for (width, size) in [(1360, "wide"), (390, "narrow")] {
            for theme in ["light", "dark"] {
                for view in ["analyse", "search", "train"] {
                    page.click(&format!("#tab-{view}")).await;
                    page.choose("#theme", theme).await;
                    if view == "analyse" {
                        page.click("#schedule rect[data-module='145']").await;
                        page.choose("#pin-preset", "uniform").await;
                    }
                    if view == "search" {
                        page.until_text("main", "trials; the last answer took").await;
                        page.click_text("button", "Play").await;
                        page.until_text("main", "16 trials").await;
                    }
                    if view == "train" && theme == "light" && size == "wide" {
                        page.until_text_for("#train-progress", "from the first to the last", 300).await;
                        page.click("#train-play").await;
                        page.until_text_for("#train-progress", "Step 40 of", 600).await;
                        page.click("#train-play").await;
                    }
                    let file = Path::new(&folder).join(format!("{view}-{size}-{theme}.png"));
                    page.screenshot(width, &file).await;
                    if matches!((view, size, theme), ("analyse", "wide", "light") | ("search", "wide", "dark")) {
                        page.resize(1200, 1000).await;
                        page.save_window(&Path::new(&folder).join(format!("{view}.png"))).await;
                    }
                }
            }
        }
    });
}
