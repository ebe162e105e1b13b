//! How many stages a profile supports: elbow and silhouette.

use hydra_shared::stages::StageQuality;

use super::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::scale::{Scale, tick_labels};
use crate::table::Table;

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 46.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 40.0;

/// Most stages that are looked at.
pub const MOST_STAGES: usize = 8;

/// Spread that stages leave, as a share of all spread, and the mean silhouette; the number in use is marked.
pub fn chart(qualities: &[StageQuality], used: usize) -> Chart {
    let whole = qualities.first().map_or(0.0, |quality| quality.within_squares);
    let share = |quality: &StageQuality| if whole > 0.0 { quality.within_squares / whole } else { 0.0 };
    let x = Scale::new(0.7, qualities.len().max(2) as f64 + 0.3, LEFT, WIDTH - RIGHT);
    let y = Scale::new(0.0, 1.0, HEIGHT - BOTTOM, TOP);
    let mut drawing = Drawing {
        width: WIDTH,
        height: HEIGHT,
        title: "How many stages".to_owned(),
        summary: summary(qualities, used),
        marks: Vec::new(),
    };
    let ticks = y.ticks(5);
    for (tick, label) in ticks.iter().zip(tick_labels(&ticks)) {
        drawing.marks.push(Mark::line(LEFT, y.at(*tick), WIDTH - RIGHT, y.at(*tick), Paint::Grid));
        drawing.marks.push(Mark::text(LEFT - 6.0, y.at(*tick) + 4.0, Anchor::End, 11.0, Paint::First, &label));
        drawing.marks.push(Mark::text(
            WIDTH - RIGHT + 6.0,
            y.at(*tick) + 4.0,
            Anchor::Start,
            11.0,
            Paint::Second,
            label,
        ));
    }
    drawing.marks.push(Mark::text(12.0, 14.0, Anchor::Start, 11.0, Paint::First, "● spread left (elbow)"));
    drawing.marks.push(Mark::text(WIDTH - 12.0, 14.0, Anchor::End, 11.0, Paint::Second, "silhouette ■"));
    for quality in qualities {
        let at = x.at(quality.count as f64);
        let label = quality.count.to_string();
        if quality.count == used {
            drawing.marks.push(Mark::rect(at - 12.0, TOP, 24.0, HEIGHT - BOTTOM - TOP, Paint::Accent).faded(0.14));
        }
        drawing.marks.push(Mark::text(at, HEIGHT - BOTTOM + 15.0, Anchor::Middle, 11.0, Paint::Soft, label));
    }
    let middle = 0.5 * (LEFT + WIDTH - RIGHT);
    drawing.marks.push(Mark::text(middle, HEIGHT - 8.0, Anchor::Middle, 11.0, Paint::Soft, "stages"));
    let elbow: Vec<(f64, f64)> = qualities.iter().map(|q| (x.at(q.count as f64), y.at(share(q)))).collect();
    let silhouettes: Vec<(f64, f64)> =
        qualities.iter().filter_map(|q| Some((x.at(q.count as f64), y.at(q.silhouette?.max(0.0))))).collect();
    drawing.marks.push(Mark::polyline(elbow.iter().copied(), Paint::First));
    drawing.marks.push(Mark::polyline(silhouettes.iter().copied(), Paint::Second));
    for quality in qualities {
        let at = x.at(quality.count as f64);
        let tip = format!("{} stages leave {:.1} % of the spread", quality.count, 100.0 * share(quality));
        drawing.marks.push(Mark::circle(at, y.at(share(quality)), 3.5, Paint::First).with_tip(tip));
        if let Some(silhouette) = quality.silhouette {
            let tip = format!("{} stages: silhouette {silhouette:.2}", quality.count);
            let square = Mark::rect(at - 3.5, y.at(silhouette.max(0.0)) - 3.5, 7.0, 7.0, Paint::Second);
            drawing.marks.push(square.with_tip(tip));
        }
    }
    let mut table = Table::new(["stages", "share of spread left", "silhouette"]);
    for quality in qualities {
        let silhouette = quality.silhouette.map_or_else(String::new, |value| format!("{value:.4}"));
        table.push([quality.count.to_string(), format!("{:.4}", share(quality)), silhouette]);
    }
    Chart { drawing: drawing.into(), table }
}

fn summary(qualities: &[StageQuality], used: usize) -> String {
    let best =
        qualities.iter().filter_map(|q| Some((q.count, q.silhouette?))).reduce(|a, b| if b.1 > a.1 { b } else { a });
    match best {
        Some((count, silhouette)) => {
            format!("The silhouette is highest with {count} stages ({silhouette:.2}); {used} are used.")
        }
        None => "All layer norms are equal: there is one stage.".to_owned(),
    }
}
