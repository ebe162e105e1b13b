//! A chart of the playground in the page: its picture, and its table to open.

use hydra_playground::charts::Chart;
use hydra_playground::drawing::{Theme, variables};
use hydra_playground::table::{Cell, Table};
use hydra_playground::text::significant;
use maud::{Markup, PreEscaped, html};

/// Declares the colours of charts and page: light, dark where the reader wants it, and light on paper.
pub fn colours(charts: &[&Chart]) -> String {
    let of = |theme| variables(theme, charts.iter().map(|chart| &*chart.drawing));
    let (light, dark) = (of(Theme::Light), of(Theme::Dark));
    format!(
        ":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n@media print{{:root{{{light}}}}}\n"
    )
}

/// The figure. `id` is its own in the page.
pub fn figure(id: &str, chart: &Chart) -> Markup {
    let drawing = &chart.drawing;
    html! {
        figure style={ "--width:" (drawing.width) } {
            figcaption { (drawing.title) }
            // On a narrow screen the picture is wider than the page, and scrolled.
            div class="frame" tabindex="0" role="group" aria-label=(drawing.title) { (PreEscaped(drawing.to_html(id))) }
            details { summary { "The numbers as a table" } div class="scroll" { (table(&chart.table)) } }
        }
    }
}

fn table(table: &Table) -> Markup {
    html! {
        table {
            thead { tr { @for name in &table.columns { th { (name) } } } }
            tbody {
                @for row in &table.rows {
                    tr {
                        @for (column, value) in row.iter().enumerate() {
                            @if column == 0 { th scope="row" { (cell(value)) } } @else { td { (cell(value)) } }
                        }
                    }
                }
            }
        }
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) if text.is_empty() => "–".to_owned(),
        Cell::Real(number) => significant(*number),
        Cell::Text(_) | Cell::Whole(_) => cell.to_string(),
    }
}
