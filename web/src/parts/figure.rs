//! A chart with its name, its table, and what can be taken away of it.

use hydra_playground::charts::Chart;
use hydra_playground::drawing::Drawing;
use hydra_playground::table::Cell;
use leptos::prelude::*;

use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{Blob, CanvasRenderingContext2d, HtmlCanvasElement, HtmlImageElement};

use super::Picture;
use crate::browser::{save_blob, save_text};
use crate::page::Page;

/// Rows of a table that are put into the page; the CSV has all.
const MOST_ROWS: usize = 1500;
/// Pixels of a PNG per unit of its drawing.
const PIXELS: f64 = 2.0;

/// Shows a chart. `file` names what is saved of it.
#[component]
pub fn Figure(
    /// The chart.
    #[prop(into)]
    chart: Signal<Chart>,
    /// Name of saved files, without an ending.
    file: &'static str,
    /// What stands over the picture besides its title.
    #[prop(optional)]
    children: Option<Children>,
) -> impl IntoView {
    let page = Page::get();
    let drawing = Memo::new(move |_| chart.with(|chart| chart.drawing.clone()));
    // A heading without text would be none to a screen reader.
    let title = Memo::new(move |_| {
        drawing.with(
            |drawing| if drawing.title.is_empty() { "Nothing to show yet".to_owned() } else { drawing.title.clone() },
        )
    });
    let save_svg = move |_| {
        let text = drawing.with_untracked(|drawing| drawing.to_svg(page.theme.get_untracked(), Some(&page.mark())));
        save_text(&format!("{file}.svg"), "image/svg+xml", &text);
    };
    let save_png = move |_| {
        let theme = page.theme.get_untracked();
        drawing.with_untracked(|drawing| png(drawing, &drawing.to_svg(theme, None), format!("{file}.png")));
    };
    let save_csv = move |_| {
        save_text(&format!("{file}.csv"), "text/csv", &chart.with_untracked(|chart| chart.table.to_csv()));
    };
    let open = RwSignal::new(false);
    let what = move |kind: &str| format!("Save {} as {kind}", title.get());
    view! {
        <figure class="card" id=file>
            <figcaption>
                <h2>{title}</h2>
                <span class="saves">
                    <button type="button" class="quiet" on:click=save_svg aria-label=move || what("SVG")>"SVG"</button>
                    <button type="button" class="quiet" on:click=save_png aria-label=move || what("PNG")>"PNG"</button>
                    <button type="button" class="quiet" on:click=save_csv aria-label=move || what("CSV")>"CSV"</button>
                </span>
            </figcaption>
            {children.map(|children| children())}
            <Picture drawing theme=page.theme />
            <details on:toggle=move |_| open.update(|open| *open = !*open)>
                <summary>"Table"</summary>
                {move || open.get().then(|| view! { <TableView chart /> })}
            </details>
        </figure>
    }
}

/// The table of a chart.
#[component]
fn TableView(chart: Signal<Chart>) -> impl IntoView {
    let rows = move || {
        chart.with(|chart| {
            let row = |row: &Vec<Cell>| {
                let cells = row.iter().map(|cell| view! { <td>{cell.to_string()}</td> }).collect_view();
                view! { <tr>{cells}</tr> }
            };
            chart.table.rows.iter().take(MOST_ROWS).map(row).collect_view()
        })
    };
    let heads = move || {
        let head = |name: &String| view! { <th scope="col">{name.clone()}</th> };
        chart.with(|chart| chart.table.columns.iter().map(head).collect_view())
    };
    let name = move || chart.with(|chart| format!("Table: {}", chart.drawing.title));
    view! {
        <div class="scroll" tabindex="0" role="region" aria-label=name>
            <table>
                <thead>
                    <tr>{heads}</tr>
                </thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    }
}

/// Draws an SVG document onto a canvas and saves it.
fn png(drawing: &Drawing, svg: &str, name: String) {
    let (width, height) = (PIXELS * drawing.width, PIXELS * drawing.height);
    let Ok(image) = HtmlImageElement::new() else { return };
    let drawn = image.clone();
    let on_load = Closure::once_into_js(move || {
        let canvas = document().create_element("canvas").ok().and_then(|c| c.dyn_into::<HtmlCanvasElement>().ok());
        let Some(canvas) = canvas else { return };
        canvas.set_width(width as u32);
        canvas.set_height(height as u32);
        let context = canvas.get_context("2d").ok().flatten();
        let Some(context) = context.and_then(|c| c.dyn_into::<CanvasRenderingContext2d>().ok()) else { return };
        if context.draw_image_with_html_image_element_and_dw_and_dh(&drawn, 0.0, 0.0, width, height).is_err() {
            return;
        }
        let save = Closure::once_into_js(move |blob: Option<Blob>| {
            if let Some(blob) = blob {
                save_blob(&name, &blob);
            }
        });
        let _ = canvas.to_blob(save.unchecked_ref());
    });
    image.set_onload(Some(on_load.unchecked_ref()));
    // A data address: a blob's would need its own place in the page's policy for images on every browser.
    image.set_src(&format!("data:image/svg+xml,{}", String::from(js_sys::encode_uri_component(svg))));
}
