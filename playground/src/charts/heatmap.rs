//! The schedule: a rank for every layer and projection.

use hydra_shared::model_spec::{ModelSpec, Projection};

use super::Chart;
use crate::analysis::Analysis;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::session::Session;
use crate::table::Table;

const LEFT: f64 = 44.0;
const TOP: f64 = 8.0;
const WIDTH: f64 = 720.0;
const ROW: f64 = 26.0;
const LEGEND: f64 = 66.0;
/// Smaller text cannot be read.
const LEAST_SIZE: f64 = 7.0;

/// Where a cell is: layers go to the right, projections down.
struct Grid {
    cell: f64,
    layers: usize,
    /// Whether a cell has room for a digit.
    labelled: bool,
}

impl Grid {
    fn new(layers: usize) -> Self {
        let cell = (WIDTH - LEFT - 4.0) / layers.max(1) as f64;
        Self { cell, layers, labelled: size_of(cell, 1) >= LEAST_SIZE }
    }

    fn frame(&self, title: &str, summary: String) -> Drawing {
        let height = TOP + ROW * Projection::ALL.len() as f64 + LEGEND;
        let mut drawing =
            Drawing { width: WIDTH, height, title: title.to_owned(), summary, marks: Vec::with_capacity(2000) };
        for (row, projection) in Projection::ALL.into_iter().enumerate() {
            let y = TOP + ROW * row as f64 + ROW / 2.0 + 4.0;
            drawing.marks.push(Mark::text(LEFT - 6.0, y, Anchor::End, 12.0, Paint::Text, projection.name()));
        }
        let every = (26.0 / self.cell).ceil().max(1.0) as usize;
        let under = TOP + ROW * Projection::ALL.len() as f64 + 14.0;
        for layer in (0..self.layers).step_by(every) {
            let x = LEFT + self.cell * (layer as f64 + 0.5);
            let label = Mark::text(x, under, Anchor::Middle, 10.0, Paint::Soft, layer.to_string());
            drawing.marks.push(label.about(Subject::Layer(layer)));
        }
        drawing.marks.push(Mark::text(LEFT, under + 15.0, Anchor::Start, 11.0, Paint::Soft, "layer →"));
        drawing
    }

    /// A cell, with its label where there is room for it.
    fn cell(&self, drawing: &mut Drawing, module: usize, label: String, paints: (Paint, Paint), tip: Option<String>) {
        let (layer, row) = (module / Projection::ALL.len(), module % Projection::ALL.len());
        let (x, y) = (LEFT + self.cell * layer as f64, TOP + ROW * row as f64);
        let gap = if self.cell > 8.0 { 1.0 } else { 0.0 };
        let rect = Mark::rect(x, y, self.cell - gap, ROW - 1.0, paints.0);
        drawing.marks.push(Mark { tip, ..rect.about(Subject::Module(module)) });
        let size = size_of(self.cell, label.len());
        if size >= LEAST_SIZE && !label.is_empty() {
            let text = Mark::text(
                x + (self.cell - gap) / 2.0,
                y + ROW / 2.0 + size / 3.0,
                Anchor::Middle,
                size,
                paints.1,
                label,
            );
            drawing.marks.push(text.about(Subject::Module(module)));
        }
    }
}

/// Size of a label of so many characters in a cell: about seven units a character, signs included, at a size of ten.
fn size_of(cell: f64, digits: usize) -> f64 {
    (1.45 * (cell - 2.0) / digits.max(1) as f64).min(11.0)
}

/// What files of the schedule's picture are called.
pub const FILE: &str = "schedule";

/// What hovering a module says, wherever it is shown without a tip of its own.
pub fn tip(session: &Session, analysis: &Analysis, module: usize) -> Option<String> {
    let (layer, projection) = (module / Projection::ALL.len(), Projection::ALL.get(module % Projection::ALL.len())?);
    let rank = analysis.ranks.get(module)?;
    let by_hand = if session.by_hand.contains_key(&module) { ", set by hand" } else { "" };
    Some(format!("Layer {layer}, {}: rank {rank}{by_hand}", projection.name()))
}

/// The heat map with what hovering says written into every cell, for a picture that leaves the page.
pub fn with_tips(drawing: &Drawing, session: &Session, analysis: &Analysis) -> Drawing {
    let mut drawing = drawing.clone();
    for mark in drawing.marks.iter_mut().filter(|mark| mark.tag() == "rect" && mark.tip.is_none()) {
        if let Subject::Module(module) = mark.subject {
            mark.tip = tip(session, analysis, module);
        }
    }
    drawing
}

/// The heat map of ranks. Equal colours are equal ranks; the scale is logarithmic.
pub fn chart(session: &Session, analysis: &Analysis) -> Chart {
    let ranks = &analysis.ranks;
    let (least, most) = (ranks.iter().min().copied().unwrap_or(1), ranks.iter().max().copied().unwrap_or(1));
    let grid = Grid::new(session.model.decoder.layers);
    let title = match session.preset {
        Some(preset) => format!("Schedule: {preset}"),
        None => "Schedule: HyDRA".to_owned(),
    };
    let summary = format!("Ranks from {least} to {most} for {} modules.", ranks.len());
    let mut drawing = grid.frame(&title, summary);
    let log = |rank: u32| libm::log2(f64::from(rank.max(1)));
    let share = |rank: u32| {
        let extent = log(most) - log(least);
        if extent > 0.0 { (log(rank) - log(least)) / extent } else { 0.5 }
    };
    for (index, &rank) in ranks.iter().enumerate().take(session.model.module_count()) {
        let value = share(rank);
        let label = if grid.labelled { rank.to_string() } else { String::new() };
        grid.cell(&mut drawing, index, label, (Paint::Heat(value), Paint::OnHeat(value)), None);
    }
    for &module in session.by_hand.keys().filter(|module| **module < ranks.len()) {
        let (layer, row) = (module / Projection::ALL.len(), module % Projection::ALL.len());
        let (x, y) = (LEFT + grid.cell * layer as f64, TOP + ROW * row as f64);
        drawing.marks.push(Mark::circle(x + grid.cell - 4.0, y + 4.5, 2.5, Paint::Accent).outlined(Paint::Page, 1.0));
    }
    // The legend: a strip of the scale with its ranks.
    let under = drawing.height - 30.0;
    for step in 0..40 {
        let value = f64::from(step) / 39.0;
        drawing.marks.push(Mark::rect(WIDTH - 254.0 + 5.0 * f64::from(step), under, 5.2, 10.0, Paint::Heat(value)));
    }
    let middle = libm::exp2(0.5 * (log(least) + log(most))).round();
    let labels =
        [(WIDTH - 254.0, least.to_string()), (WIDTH - 154.0, middle.to_string()), (WIDTH - 54.0, most.to_string())];
    for (x, label) in labels {
        drawing.marks.push(Mark::text(x, under + 22.0, Anchor::Middle, 10.0, Paint::Soft, label));
    }
    drawing.marks.push(Mark::text(WIDTH - 264.0, under + 9.0, Anchor::End, 11.0, Paint::Soft, "rank (log scale)"));
    Chart { drawing: drawing.into(), table: table(&session.model, ranks) }
}

/// The difference between two schedules: B's ranks minus A's.
pub fn difference(model: &ModelSpec, a: &[u32], b: &[u32], names: (&str, &str)) -> Chart {
    let grid = Grid::new(model.decoder.layers);
    let changed = a.iter().zip(b).filter(|(a, b)| a != b).count();
    let title = format!("Difference: {} minus {}", names.1, names.0);
    let mut drawing = grid.frame(&title, format!("{changed} of {} modules differ.", a.len()));
    let ratio = |a: u32, b: u32| libm::log2(f64::from(b.max(1)) / f64::from(a.max(1)));
    let most = a.iter().zip(b).map(|(a, b)| ratio(*a, *b).abs()).fold(0.0, f64::max).max(1e-9);
    let mut table = Table::new(["layer", "projection", names.0, names.1, "difference"]);
    for (index, ((module, &a), &b)) in model.modules().zip(a).zip(b).enumerate() {
        let value = ratio(a, b) / most;
        let delta = i64::from(b) - i64::from(a);
        let label = if delta == 0 || !grid.labelled { String::new() } else { format!("{delta:+}") };
        let tip = format!("Layer {}, {}: {a} → {b} ({delta:+})", module.layer, module.projection.name());
        grid.cell(&mut drawing, index, label, (Paint::Difference(value), Paint::OnDifference(value)), Some(tip));
        table.push([
            module.layer.to_string(),
            module.projection.name().to_owned(),
            a.to_string(),
            b.to_string(),
            delta.to_string(),
        ]);
    }
    let under = drawing.height - 30.0;
    for step in 0..41 {
        let value = f64::from(step) / 20.0 - 1.0;
        let strip = Mark::rect(WIDTH - 254.0 + 4.9 * f64::from(step), under, 5.1, 10.0, Paint::Difference(value));
        drawing.marks.push(strip);
    }
    let factor = libm::exp2(most);
    for (x, label) in [
        (WIDTH - 254.0, format!("÷{factor:.2}")),
        (WIDTH - 154.0, "=".to_owned()),
        (WIDTH - 54.0, format!("×{factor:.2}")),
    ] {
        drawing.marks.push(Mark::text(x, under + 22.0, Anchor::Middle, 10.0, Paint::Soft, label));
    }
    Chart { drawing: drawing.into(), table }
}

/// A row per layer, a column per projection.
fn table(model: &ModelSpec, ranks: &[u32]) -> Table {
    let names = Projection::ALL.map(Projection::name);
    let mut table = Table::new(std::iter::once("layer").chain(names).chain(["parameters"]));
    for (layer, row) in ranks.chunks(Projection::ALL.len()).enumerate() {
        let parameters: u64 =
            Projection::ALL.into_iter().zip(row).map(|(p, rank)| model.rank_unit_cost(p) * u64::from(*rank)).sum();
        let cells = row.iter().map(|rank| u64::from(*rank));
        table.push(std::iter::once(layer as u64).chain(cells).chain([parameters]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Theme;

    #[test]
    fn a_schedule_that_is_saved_says_the_rank_of_every_cell() {
        let session = Session::default();
        let analysis = Analysis::new(&session).unwrap();
        let shown = chart(&session, &analysis);
        let saved = with_tips(&shown.drawing, &session, &analysis).to_svg(Theme::Light, None);
        let cells = saved.matches("<title>Layer ").count();
        assert_eq!(cells, session.model.module_count());
        let last = analysis.ranks[cells - 1];
        assert!(saved.contains(&format!("<title>Layer 23, down: rank {last}</title>")), "{last}");
        assert!(!shown.drawing.to_svg(Theme::Light, None).contains("<title>Layer "), "the page makes them on hovering");
    }
}
