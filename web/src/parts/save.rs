//! Charts as files.

use hydra_playground::charts::{Chart, heatmap};
use hydra_playground::drawing::Drawing;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{Blob, CanvasRenderingContext2d, HtmlCanvasElement, HtmlImageElement};

use crate::browser::{save_blob, save_text};
use crate::page::Page;

/// Pixels of a PNG per unit of its drawing.
const PIXELS: f64 = 2.0;

/// What a chart is saved as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveAs {
    /// The picture, with the link that leads back to what is seen.
    Svg,
    /// The picture, in pixels.
    Png,
    /// The table.
    Csv,
}

/// Saves a chart as `file`, which has no ending.
pub fn save_chart(page: Page, chart: &Chart, file: &str, kind: SaveAs) {
    let (theme, drawing) = (page.theme.get_untracked(), &chart.drawing);
    match kind {
        SaveAs::Svg => {
            let with_tips = page.session.with_untracked(|session| {
                page.analysis.with_untracked(|analysis| {
                    let analysis = analysis.as_ref().ok().filter(|_| file == heatmap::FILE)?;
                    Some(heatmap::with_tips(drawing, session, analysis))
                })
            });
            let drawing = with_tips.as_ref().unwrap_or(drawing);
            save_text(&format!("{file}.svg"), "image/svg+xml", &drawing.to_svg(theme, Some(&page.mark())));
        }
        SaveAs::Png => png(drawing, &drawing.to_svg(theme, None), format!("{file}.png")),
        SaveAs::Csv => save_text(&format!("{file}.csv"), "text/csv", &chart.table.to_csv()),
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
