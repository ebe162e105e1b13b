//! A chart with its name, its table, and what can be taken away of it.

use hydra_playground::charts::Chart;
use hydra_playground::table::Cell;
use leptos::prelude::*;

use super::{Picture, SaveAs};
use crate::lazy;
use crate::page::Page;

/// Rows of a table that are put into the page; the CSV has all.
const MOST_ROWS: usize = 1500;

/// Shows a chart. `file` names what is saved of it, and what `help.html` says of it.
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
    let save = move |kind| {
        lazy::then(page, lazy::saving(), move |save| chart.with_untracked(|chart| save(page, chart, file, kind)));
    };
    let open = RwSignal::new(false);
    let what = move |kind: &str| format!("Save {} as {kind}", title.get());
    view! {
        <figure class="card" id=file>
            <figcaption>
                <div class="named">
                    <h2>{title}</h2>
                    <button
                        type="button"
                        class="quiet more"
                        data-act=format!("explain {file}")
                        aria-expanded="false"
                        aria-label=format!("How to read the picture {}", file.replace('-', " "))
                    >
                        "?"
                    </button>
                </div>
                <span class="saves">
                    <button type="button" class="quiet" on:click=move |_| save(SaveAs::Svg) aria-label=move || what("SVG")>"SVG"</button>
                    <button type="button" class="quiet" on:click=move |_| save(SaveAs::Png) aria-label=move || what("PNG")>"PNG"</button>
                    <button type="button" class="quiet" on:click=move |_| save(SaveAs::Csv) aria-label=move || what("CSV")>"CSV"</button>
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
