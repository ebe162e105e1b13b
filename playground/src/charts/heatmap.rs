//! The schedule: a rank for every layer and projection.

use hydra_shared::layout::{Block, Kind, Layout, Module, Ranks};

use super::Chart;
use super::norms::stage_legend;
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

/// The ranks of one layer, for a picture of which nothing else is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RanksOfLayer<'a> {
    /// Its stage, counted from 0.
    pub stage: usize,
    /// A rank per kind of module.
    pub ranks: &'a [u32],
}

/// Where cells are: layers go to the right, kinds of modules down.
struct Grid {
    cell: f64,
    /// Names of the layers.
    layers: Vec<String>,
    /// Names of the kinds.
    kinds: Vec<String>,
    /// Whether a cell has room for a digit.
    labelled: bool,
}

/// A module's place in the grid.
#[derive(Clone, Copy)]
struct Place {
    layer: usize,
    kind: usize,
    subject: Subject,
}

impl Grid {
    fn new(layers: Vec<String>, kinds: Vec<String>) -> Self {
        let cell = (WIDTH - LEFT - 4.0) / layers.len().max(1) as f64;
        Self { cell, layers, kinds, labelled: size_of(cell, 1) >= LEAST_SIZE }
    }

    fn of(layout: &Layout) -> Self {
        let name = |block: &Block| block.layer.map(|layer| layer.to_string()).unwrap_or_default();
        let kinds = layout.kinds().iter().map(|kind| kind.name().to_owned());
        Self::new(layout.blocks().iter().map(name).collect(), kinds.collect())
    }

    fn frame(&self, title: &str, summary: String) -> Drawing {
        let height = TOP + ROW * self.kinds.len() as f64 + LEGEND;
        let mut drawing =
            Drawing { width: WIDTH, height, title: title.to_owned(), summary, marks: Vec::with_capacity(2000) };
        for (row, kind) in self.kinds.iter().enumerate() {
            let y = TOP + ROW * row as f64 + ROW / 2.0 + 4.0;
            drawing.marks.push(Mark::text(LEFT - 6.0, y, Anchor::End, 12.0, Paint::Text, kind));
        }
        let every = (26.0 / self.cell).ceil().max(1.0) as usize;
        let under = TOP + ROW * self.kinds.len() as f64 + 14.0;
        for (layer, name) in self.layers.iter().enumerate().step_by(every) {
            let x = LEFT + self.cell * (layer as f64 + 0.5);
            let label = Mark::text(x, under, Anchor::Middle, 10.0, Paint::Soft, name);
            drawing.marks.push(label.about(Subject::Layer(layer)));
        }
        drawing.marks.push(Mark::text(LEFT, under + 15.0, Anchor::Start, 11.0, Paint::Soft, "layer →"));
        drawing
    }

    /// The upper left corner of a module's cell.
    fn corner(&self, place: Place) -> (f64, f64) {
        (LEFT + self.cell * place.layer as f64, TOP + ROW * place.kind as f64)
    }

    /// A cell, with its label where there is room for it.
    fn cell(&self, drawing: &mut Drawing, place: Place, label: String, paints: (Paint, Paint), tip: Option<String>) {
        let ((x, y), subject) = (self.corner(place), place.subject);
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

impl Place {
    fn of(layout: &Layout, position: usize) -> Self {
        let layer = layout.block_of(position);
        Self { layer, kind: layout.kind_of(position).unwrap_or(0), subject: Subject::Module { position, layer } }
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
    Some(format!("{}: rank {rank}{by_hand}", name_of(found)))
}

/// Where a module is, in words: `Layer 3, up`.
fn name_of(module: &Module) -> String {
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

/// The heat map of a session's ranks.
pub fn chart(session: &Session, analysis: &Analysis) -> Chart {
    let layout = &session.layout;
    let grid = Grid::of(layout);
    let title = match session.baseline() {
        Some(preset) => format!("Schedule: {preset}"),
        None => "Schedule: HyDRA".to_owned(),
    };
    let ranks = analysis.ranks.as_slice().iter().enumerate();
    let cells: Vec<Ranked> = ranks.map(|(module, rank)| (Place::of(layout, module), *rank, None)).collect();
    let extent = Extent::of(&cells);
    let mut drawing = grid.frame(&title, extent.summary(cells.len()));
    extent.fill(&grid, &mut drawing, cells);
    for &module in session.by_hand.keys().filter(|module| **module < layout.len()) {
        let (x, y) = grid.corner(Place::of(layout, module));
        drawing.marks.push(Mark::circle(x + grid.cell - 4.0, y + 4.5, 2.5, Paint::Accent).outlined(Paint::Page, 1.0));
    }
    extent.legend(&mut drawing);
    Chart { drawing: drawing.into(), table: table(&analysis.ranks) }
}

/// The heat map of ranks of which stages are known and no widths: a strip over every layer is in the colour of its stage.
pub fn by_stage(title: &str, kinds: &[String], layers: &[RanksOfLayer<'_>]) -> Chart {
    let grid = Grid::new((0..layers.len()).map(|layer| layer.to_string()).collect(), kinds.to_vec());
    let mut cells = Vec::new();
    let mut table = Table::new(["layer", "stage"].into_iter().chain(kinds.iter().map(String::as_str)));
    for (layer, row) in layers.iter().enumerate() {
        for (kind, (name, &rank)) in kinds.iter().zip(row.ranks).enumerate() {
            let tip = format!("Layer {layer}, {name}: rank {rank}");
            cells.push((Place { layer, kind, subject: Subject::None }, rank, Some(tip)));
        }
        let ranks = row.ranks.iter().take(kinds.len()).map(|rank| u64::from(*rank));
        table.push([layer as u64, row.stage as u64 + 1].into_iter().chain(ranks));
    }
    let extent = Extent::of(&cells);
    let mut drawing = grid.frame(title, extent.summary(cells.len()));
    extent.fill(&grid, &mut drawing, cells);
    extent.legend(&mut drawing);
    let stages = layers.iter().map(|layer| layer.stage + 1).max().unwrap_or(1);
    for (layer, row) in layers.iter().enumerate() {
        let x = LEFT + grid.cell * layer as f64;
        let strip = Mark::rect(x, 1.0, grid.cell - 1.0, 5.0, Paint::Stage(row.stage, stages));
        drawing.marks.push(strip.with_tip(format!("Layer {layer}: stage {}", row.stage + 1)));
    }
    let top = drawing.height - 31.0;
    stage_legend(&mut drawing, stages, (LEFT, WIDTH - 360.0), top);
    Chart { drawing: drawing.into(), table }
}

/// A rank in its place, and what hovering it says, where that is written into the picture.
type Ranked = (Place, u32, Option<String>);

/// The least and the greatest rank, which the colours reach over. Equal colours are equal ranks; the scale is logarithmic.
struct Extent {
    least: u32,
    most: u32,
}

impl Extent {
    fn of(cells: &[Ranked]) -> Self {
        let ranks = || cells.iter().map(|(_, rank, _)| *rank);
        Self { least: ranks().min().unwrap_or(1), most: ranks().max().unwrap_or(0) }
    }

    fn summary(&self, modules: usize) -> String {
        format!("Ranks from {} to {} for {modules} modules.", self.least, self.most)
    }

    /// Where a rank is between the two, from 0 to 1.
    fn share(&self, rank: u32) -> f64 {
        let extent = log(self.most) - log(self.least);
        if extent > 0.0 { (log(rank) - log(self.least)) / extent } else { 0.5 }
    }

    fn fill(&self, grid: &Grid, drawing: &mut Drawing, cells: Vec<Ranked>) {
        for (place, rank, tip) in cells {
            let value = self.share(rank);
            let label = if grid.labelled { rank.to_string() } else { String::new() };
            grid.cell(drawing, place, label, (Paint::Heat(value), Paint::OnHeat(value)), tip);
        }
    }

    /// A strip of the scale with its ranks.
    fn legend(&self, drawing: &mut Drawing) {
        let under = drawing.height - 30.0;
        for step in 0..40 {
            let value = f64::from(step) / 39.0;
            drawing.marks.push(Mark::rect(WIDTH - 254.0 + 5.0 * f64::from(step), under, 5.2, 10.0, Paint::Heat(value)));
        }
        let middle = libm::exp2(0.5 * (log(self.least) + log(self.most))).round();
        let labels = [
            (WIDTH - 254.0, self.least.to_string()),
            (WIDTH - 154.0, middle.to_string()),
            (WIDTH - 54.0, self.most.to_string()),
        ];
        for (x, label) in labels {
            drawing.marks.push(Mark::text(x, under + 22.0, Anchor::Middle, 10.0, Paint::Soft, label));
        }
        drawing.marks.push(Mark::text(WIDTH - 264.0, under + 9.0, Anchor::End, 11.0, Paint::Soft, "rank (log scale)"));
    }
}

fn log(rank: u32) -> f64 {
    libm::log2(f64::from(rank.max(1)))
}

/// The difference between two schedules: B's ranks minus A's.
pub fn difference(a: &Ranks, b: &Ranks, names: (&str, &str)) -> Chart {
    let layout = a.layout();
    let grid = Grid::of(layout);
    let pairs = || a.as_slice().iter().zip(b.as_slice());
    let changed = pairs().filter(|(a, b)| a != b).count();
    let title = format!("Difference: {} minus {}", names.1, names.0);
    let mut drawing = grid.frame(&title, format!("{changed} of {} modules differ.", layout.len()));
    let ratio = |a: u32, b: u32| libm::log2(f64::from(b.max(1)) / f64::from(a.max(1)));
    let most = pairs().map(|(a, b)| ratio(*a, *b).abs()).fold(0.0, f64::max).max(1e-9);
    let mut table = Table::new(["layer", "projection", names.0, names.1, "difference"]);
    for (index, ((module, a), (_, b))) in a.iter().zip(b.iter()).enumerate() {
        let value = ratio(a, b) / most;
        let delta = i64::from(b) - i64::from(a);
        let label = if delta == 0 || !grid.labelled { String::new() } else { format!("{delta:+}") };
        let tip = format!("{}: {a} → {b} ({delta:+})", name_of(module));
        let place = Place::of(layout, index);
        grid.cell(&mut drawing, place, label, (Paint::Difference(value), Paint::OnDifference(value)), Some(tip));
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

    #[test]
    fn ranks_without_a_layout_show_the_stage_of_every_layer_and_say_both_on_hovering() {
        let kinds = ["q", "up"].map(str::to_owned);
        let layers = [RanksOfLayer { stage: 0, ranks: &[2, 4] }, RanksOfLayer { stage: 1, ranks: &[8, 16] }];
        let chart = by_stage("Ranks", &kinds, &layers);
        assert_eq!(chart.drawing.summary, "Ranks from 2 to 16 for 4 modules.");
        assert_eq!(chart.table.columns, ["layer", "stage", "q", "up"]);
        assert_eq!(chart.table.rows, [["0", "1", "2", "4"], ["1", "2", "8", "16"]]);
        let svg = chart.drawing.to_svg(Theme::Light, None);
        for said in ["Layer 1, up: rank 16", "Layer 1: stage 2", ">stage 2</text>"] {
            assert!(svg.contains(said), "{said}");
        }
    }
}
