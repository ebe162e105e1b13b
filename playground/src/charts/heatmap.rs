//! The schedule: a rank for every layer and projection.

use hydra_shared::layout::{Kind, Layout, Module, Ranks};

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

/// Where a cell is: layers go to the right, kinds of modules down.
struct Grid<'a> {
    cell: f64,
    layout: &'a Layout,
    /// Whether a cell has room for a digit.
    labelled: bool,
}

impl<'a> Grid<'a> {
    fn new(layout: &'a Layout) -> Self {
        let cell = (WIDTH - LEFT - 4.0) / layout.blocks().len().max(1) as f64;
        Self { cell, layout, labelled: size_of(cell, 1) >= LEAST_SIZE }
    }

    fn frame(&self, title: &str, summary: String) -> Drawing {
        let height = TOP + ROW * self.layout.kinds().len() as f64 + LEGEND;
        let mut drawing =
            Drawing { width: WIDTH, height, title: title.to_owned(), summary, marks: Vec::with_capacity(2000) };
        for (row, kind) in self.layout.kinds().iter().enumerate() {
            let y = TOP + ROW * row as f64 + ROW / 2.0 + 4.0;
            drawing.marks.push(Mark::text(LEFT - 6.0, y, Anchor::End, 12.0, Paint::Text, kind.name()));
        }
        let every = (26.0 / self.cell).ceil().max(1.0) as usize;
        let under = TOP + ROW * self.layout.kinds().len() as f64 + 14.0;
        for (layer, block) in self.layout.blocks().iter().enumerate().step_by(every) {
            let x = LEFT + self.cell * (layer as f64 + 0.5);
            let name = block.layer.map(|layer| layer.to_string()).unwrap_or_default();
            let label = Mark::text(x, under, Anchor::Middle, 10.0, Paint::Soft, name);
            drawing.marks.push(label.about(Subject::Layer(layer)));
        }
        drawing.marks.push(Mark::text(LEFT, under + 15.0, Anchor::Start, 11.0, Paint::Soft, "layer →"));
        drawing
    }

    /// The upper left corner of a module's cell.
    fn corner(&self, module: usize) -> (f64, f64) {
        let (layer, row) = (self.layout.block_of(module), self.layout.kind_of(module).unwrap_or(0));
        (LEFT + self.cell * layer as f64, TOP + ROW * row as f64)
    }

    /// A cell, with its label where there is room for it.
    fn cell(&self, drawing: &mut Drawing, module: usize, label: String, paints: (Paint, Paint), tip: Option<String>) {
        let (x, y) = self.corner(module);
        let subject = Subject::Module { position: module, layer: self.layout.block_of(module) };
        let gap = if self.cell > 8.0 { 1.0 } else { 0.0 };
        let rect = Mark::rect(x, y, self.cell - gap, ROW - 1.0, paints.0);
        drawing.marks.push(Mark { tip, ..rect.about(subject) });
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
            drawing.marks.push(text.about(subject));
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
    let (found, rank) = (session.layout.modules().get(module)?, analysis.ranks.at(module)?);
    let by_hand = if session.by_hand.contains_key(&module) { ", set by hand" } else { "" };
    Some(format!("{}: rank {rank}{by_hand}", place(found)))
}

/// Where a module is, in words: `Layer 3, up`.
fn place(module: &Module) -> String {
    match module.layer {
        Some(layer) => format!("Layer {layer}, {}", module.kind),
        None => module.kind.to_string(),
    }
}

/// The heat map with what hovering says written into every cell, for a picture that leaves the page.
pub fn with_tips(drawing: &Drawing, session: &Session, analysis: &Analysis) -> Drawing {
    let mut drawing = drawing.clone();
    for mark in drawing.marks.iter_mut().filter(|mark| mark.tag() == "rect" && mark.tip.is_none()) {
        if let Subject::Module { position, .. } = mark.subject {
            mark.tip = tip(session, analysis, position);
        }
    }
    drawing
}

/// The heat map of ranks. Equal colours are equal ranks; the scale is logarithmic.
pub fn chart(session: &Session, analysis: &Analysis) -> Chart {
    let ranks = &analysis.ranks;
    let (least, most) = (ranks.as_slice().iter().min().copied().unwrap_or(1), ranks.largest());
    let grid = Grid::new(&session.layout);
    let title = match session.baseline() {
        Some(preset) => format!("Schedule: {preset}"),
        None => "Schedule: HyDRA".to_owned(),
    };
    let summary = format!("Ranks from {least} to {most} for {} modules.", session.layout.len());
    let mut drawing = grid.frame(&title, summary);
    let log = |rank: u32| libm::log2(f64::from(rank.max(1)));
    let share = |rank: u32| {
        let extent = log(most) - log(least);
        if extent > 0.0 { (log(rank) - log(least)) / extent } else { 0.5 }
    };
    for (index, &rank) in ranks.as_slice().iter().enumerate() {
        let value = share(rank);
        let label = if grid.labelled { rank.to_string() } else { String::new() };
        grid.cell(&mut drawing, index, label, (Paint::Heat(value), Paint::OnHeat(value)), None);
    }
    for &module in session.by_hand.keys().filter(|module| **module < session.layout.len()) {
        let (x, y) = grid.corner(module);
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
    Chart { drawing: drawing.into(), table: table(ranks) }
}

/// The difference between two schedules: B's ranks minus A's.
pub fn difference(a: &Ranks, b: &Ranks, names: (&str, &str)) -> Chart {
    let grid = Grid::new(a.layout());
    let pairs = || a.as_slice().iter().zip(b.as_slice());
    let changed = pairs().filter(|(a, b)| a != b).count();
    let title = format!("Difference: {} minus {}", names.1, names.0);
    let mut drawing = grid.frame(&title, format!("{changed} of {} modules differ.", a.layout().len()));
    let ratio = |a: u32, b: u32| libm::log2(f64::from(b.max(1)) / f64::from(a.max(1)));
    let most = pairs().map(|(a, b)| ratio(*a, *b).abs()).fold(0.0, f64::max).max(1e-9);
    let mut table = Table::new(["layer", "projection", names.0, names.1, "difference"]);
    for (index, ((module, a), (_, b))) in a.iter().zip(b.iter()).enumerate() {
        let value = ratio(a, b) / most;
        let delta = i64::from(b) - i64::from(a);
        let label = if delta == 0 || !grid.labelled { String::new() } else { format!("{delta:+}") };
        let tip = format!("{}: {a} → {b} ({delta:+})", place(module));
        grid.cell(&mut drawing, index, label, (Paint::Difference(value), Paint::OnDifference(value)), Some(tip));
        table.push([
            module.layer.map(|layer| layer.to_string()).unwrap_or_default(),
            module.kind.name().to_owned(),
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

/// A row per layer, a column per kind of module.
fn table(ranks: &Ranks) -> Table {
    let layout = ranks.layout();
    let names = layout.kinds().iter().map(Kind::name);
    let mut table = Table::new(std::iter::once("layer").chain(names).chain(["parameters"]));
    for (block, found) in layout.blocks().iter().enumerate() {
        let rank = |kind| layout.at(block, kind).and_then(|module| ranks.at(module)).unwrap_or(0);
        let modules = ranks.iter().skip(found.modules.start).take(found.modules.len());
        let parameters: u64 = modules.map(|(module, rank)| module.rank_unit_cost() * u64::from(rank)).sum();
        let cells = (0..layout.kinds().len()).map(|kind| u64::from(rank(kind)));
        table.push(std::iter::once(block as u64).chain(cells).chain([parameters]));
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
        assert_eq!(cells, session.layout.len());
        let last = analysis.ranks.at(cells - 1).unwrap();
        assert!(saved.contains(&format!("<title>Layer 23, down: rank {last}</title>")), "{last}");
        assert!(!shown.drawing.to_svg(Theme::Light, None).contains("<title>Layer "), "the page makes them on hovering");
    }
}
