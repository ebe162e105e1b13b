//! What schedules have in common and what they scored: parallel coordinates, parts of which can be marked.

use std::collections::BTreeSet;
use std::sync::Arc;

use hydra_shared::layout::{Layout, Projection, Ranks};
use hydra_shared::search::PlainTrial;
use hydra_shared::statistics::{difference_of_means, mean};

use super::{BOTTOM, digits, origin};
use crate::charts::{Chart, WIDTH};
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::performance::Progress;
use crate::scale::{Scale, tick_labels};
use crate::table::{Cell, Table};

/// Top and bottom of the axes.
const AXES: (f64, f64) = (58.0, 300.0);
/// First and last axis.
const SIDES: (f64, f64) = (60.0, WIDTH - 70.0);
/// How far from an axis it is still meant.
const REACH: f64 = 30.0;
/// By which factor mean ranks of two stages differ at least.
const APART: f64 = 1.1;
/// Opacity of what lies outside of what is marked.
const FAINT: f64 = 0.15;

/// What is said of a schedule, an axis each. The first three are the paper's choices, as they show in any schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinate {
    /// Number of levels of the layers' mean ranks that differ by more than a tenth.
    Stages,
    /// The highest mean rank of a layer over the lowest.
    Ratio,
    /// Mean distance of a module's rank from its layer's mean.
    Delta,
    /// Share of the parameters in the last third of the layers, in percent.
    Late,
    /// Share of the parameters in attention, in percent.
    Attention,
    /// Mean score of its trial, and of those with fresh seeds where there are any.
    Score,
}

/// How many there are.
pub const COORDINATES: usize = 6;

impl Coordinate {
    /// All, from left to right.
    pub const ALL: [Self; COORDINATES] =
        [Self::Stages, Self::Ratio, Self::Delta, Self::Late, Self::Attention, Self::Score];

    /// What its axis is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Stages => "stages",
            Self::Ratio => "ratio",
            Self::Delta => "Δd",
            Self::Late => "last third, %",
            Self::Attention => "attention, %",
            Self::Score => "mean score",
        }
    }

    /// What it is, in a sentence.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Stages => "How many levels the layers' mean ranks have that lie more than a tenth apart",
            Self::Ratio => "The highest mean rank of a layer over the lowest",
            Self::Delta => "How far a module's rank lies from its layer's mean, on average",
            Self::Late => "Share of the trained parameters in the last third of the layers",
            Self::Attention => "Share of the trained parameters in attention's projections",
            Self::Score => "What the schedule scored, on average over its seeds",
        }
    }
}

/// What is marked: a range of values on some of the axes, whose ends may be infinite.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Brush(pub [Option<(f64, f64)>; COORDINATES]);

impl Brush {
    /// Whether nothing is marked, so that everything counts.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn holds(&self, values: &[f64; COORDINATES]) -> bool {
        self.0.iter().zip(values).all(|(range, value)| range.is_none_or(|(low, high)| (low..=high).contains(value)))
    }
}

/// The complete trials of a study on every axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordinates {
    trials: Vec<Placed>,
    scales: [Scale; COORDINATES],
}

#[derive(Debug, Clone, PartialEq)]
struct Placed {
    number: usize,
    origin: String,
    values: [f64; COORDINATES],
}

impl Coordinates {
    /// Of a study's trials so far; trials of another layout are left out.
    pub fn new(progress: &Progress, layout: &Arc<Layout>) -> Self {
        let placed = |trial: &PlainTrial| {
            let ranks = Ranks::new(layout, trial.ranks.clone()).ok()?;
            let fresh = progress.fresh.iter().filter(|(of, _)| *of == trial.number).map(|(_, score)| *score);
            let scores: Vec<f64> = [trial.objective?].into_iter().chain(fresh).collect();
            let values = values(&ranks, mean(&scores)?)?;
            Some(Placed { number: trial.number, origin: origin(trial), values })
        };
        let trials: Vec<Placed> = progress.trials.iter().filter_map(placed).collect();
        let scales =
            std::array::from_fn(|axis| Scale::around(trials.iter().map(|trial| trial.values[axis]), AXES.1, AXES.0));
        Self { trials, scales }
    }

    /// The axis at a place of the drawing, and the value there.
    pub fn at(&self, x: f64, y: f64) -> Option<(usize, f64)> {
        let axis = (0..COORDINATES).min_by(|a, b| (left_of(*a) - x).abs().total_cmp(&(left_of(*b) - x).abs()))?;
        ((left_of(axis) - x).abs() <= REACH).then(|| (axis, self.value(axis, y)))
    }

    /// The value of an axis at a height of the drawing.
    pub fn value(&self, axis: usize, y: f64) -> f64 {
        self.scales[axis].value(y)
    }

    /// Lowest and highest value of an axis.
    pub fn domain(&self, axis: usize) -> (f64, f64) {
        self.scales[axis].domain()
    }

    /// As many decimals as tell values of an axis apart.
    pub fn digits(&self, axis: usize) -> usize {
        digits(self.trials.iter().map(|trial| trial.values[axis]))
    }

    /// Numbers of the trials outside of what is marked.
    pub fn outside(&self, brush: &Brush) -> BTreeSet<usize> {
        self.trials.iter().filter(|trial| !brush.holds(&trial.values)).map(|trial| trial.number).collect()
    }

    /// The mean score of the trials that are marked beside that of the others.
    pub fn sentence(&self, brush: &Brush) -> String {
        let count = self.trials.len();
        if count == 0 {
            return "No trial is complete yet.".to_owned();
        }
        if brush.is_empty() {
            return format!(
                "{count} trials. Mark a part of an axis: how its schedules fared beside the others is told here."
            );
        }
        let score = COORDINATES - 1;
        let (inside, others): (Vec<&Placed>, Vec<&Placed>) =
            self.trials.iter().partition(|trial| brush.holds(&trial.values));
        let scores = |trials: &[&Placed]| trials.iter().map(|trial| trial.values[score]).collect::<Vec<f64>>();
        let (inside, others) = (scores(&inside), scores(&others));
        let digits = digits(inside.iter().chain(&others).copied());
        let Some(own) = mean(&inside) else { return format!("None of {count} trials is marked.") };
        let Some(other) = mean(&others) else {
            return format!("All {count} trials are marked; mean score {own:.digits$}.");
        };
        let start = format!(
            "{} of {count} trials are marked, mean score {own:.digits$}; that of the others is {other:.digits$}",
            inside.len()
        );
        // Whoever marks high scores finds high scores.
        if brush.0[score].is_some() {
            return format!(
                "{start}. The score itself is among what is marked: the difference says nothing of the schedules."
            );
        }
        match difference_of_means(&inside, &others) {
            None => format!("{start}. Of a single trial nothing can be told."),
            Some(found) => {
                let told = if found.excludes_zero() {
                    "more than luck of the seeds, if this part was not chosen for its scores and the trials were not chosen by a model"
                } else {
                    "which cannot be told from luck"
                };
                format!(
                    "{start}: a difference of {:+.digits$} [{:+.digits$}, {:+.digits$}], {told}.",
                    found.estimate, found.low, found.high
                )
                .replace('-', "−")
            }
        }
    }

    /// The chart, with what is marked.
    pub fn chart(&self, brush: &Brush) -> Chart {
        let mut drawing = Drawing {
            width: WIDTH,
            height: AXES.1 + BOTTOM,
            title: "What schedules have in common".to_owned(),
            summary: self.sentence(brush),
            ..Drawing::default()
        };
        drawing.marks.push(Mark::text(
            10.0,
            18.0,
            Anchor::Start,
            11.0,
            Paint::Soft,
            "a line is a trial; draw along an axis to mark a part of it, click the axis to take that back",
        ));
        let digits = self.digits(COORDINATES - 1);
        let best = self.trials.iter().map(|trial| trial.values[COORDINATES - 1]).fold(f64::NEG_INFINITY, f64::max);
        // What is marked is drawn last, over the others, and the best trial over all.
        let mut order: Vec<&Placed> = self.trials.iter().collect();
        order.sort_by(|a, b| {
            let key = |trial: &Placed| (brush.holds(&trial.values), trial.values[COORDINATES - 1]);
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        for trial in order {
            let inside = brush.holds(&trial.values);
            let is_best = trial.values[COORDINATES - 1] >= best;
            let points =
                trial.values.iter().enumerate().map(|(axis, value)| (left_of(axis), self.scales[axis].at(*value)));
            let mut line = Mark::polyline(points, if is_best { Paint::Second } else { Paint::First });
            line.stroke_width = if is_best { 2.5 } else { 1.5 };
            let tip = format!("Trial {}, {}: {:.digits$}", trial.number, trial.origin, trial.values[COORDINATES - 1]);
            let line = line.about(Subject::Trial(trial.number)).with_tip(tip);
            drawing.marks.push(line.faded(if inside { 0.8 } else { FAINT }));
        }
        // Over the lines, so that numbers can be read.
        for (axis, coordinate) in Coordinate::ALL.into_iter().enumerate() {
            let x = left_of(axis);
            drawing.marks.push(Mark::line(x, AXES.0, x, AXES.1, Paint::Soft).with_tip(coordinate.hint()));
            let title = Mark::text(x, AXES.0 - 12.0, Anchor::Middle, 12.0, Paint::Text, coordinate.title());
            drawing.marks.push(title.with_tip(coordinate.hint()));
            let ticks = self.scales[axis].ticks(5);
            for (tick, label) in ticks.iter().zip(tick_labels(&ticks)) {
                let y = self.scales[axis].at(*tick);
                drawing.marks.push(Mark::line(x - 4.0, y, x, y, Paint::Soft));
                drawing.marks.push(Mark::text(x - 6.0, y + 4.0, Anchor::End, 10.0, Paint::Soft, label));
            }
        }
        for (axis, range) in brush.0.iter().enumerate() {
            let Some((low, high)) = range else { continue };
            let (first, last) = self.domain(axis);
            let at = |value: f64| self.scales[axis].at(value.clamp(first, last));
            let (top, bottom) = (at(*high), at(*low));
            let area = Mark::rect(left_of(axis) - 7.0, top, 14.0, (bottom - top).max(1.0), Paint::Accent);
            drawing.marks.push(area.rounded(3.0).faded(0.35));
        }
        let y = AXES.1 + 24.0;
        drawing.marks.push(Mark::line(10.0, y - 4.0, 34.0, y - 4.0, Paint::Second));
        drawing.marks.push(Mark::text(40.0, y, Anchor::Start, 11.0, Paint::Soft, "the best trial"));
        let columns = ["trial", "origin"].into_iter().chain(Coordinate::ALL.map(Coordinate::title)).chain(["marked"]);
        let mut table = Table { columns: columns.map(str::to_owned).collect(), rows: Vec::new() };
        for trial in &self.trials {
            let mut row = vec![Cell::Whole(trial.number as u64), Cell::Text(trial.origin.clone())];
            row.extend(trial.values.map(Cell::Real));
            row.push(Cell::Text(if brush.holds(&trial.values) { "yes" } else { "no" }.to_owned()));
            table.push(row);
        }
        Chart { drawing: drawing.into(), table }
    }
}

/// The chart with what stands for trials outside of what is marked drawn faintly.
#[must_use]
pub fn marked(mut chart: Chart, outside: &BTreeSet<usize>) -> Chart {
    if !outside.is_empty() {
        for mark in &mut Arc::make_mut(&mut chart.drawing).marks {
            if matches!(mark.subject, Subject::Trial(number) if outside.contains(&number)) {
                mark.opacity *= FAINT;
            }
        }
    }
    chart
}

fn left_of(axis: usize) -> f64 {
    SIDES.0 + (SIDES.1 - SIDES.0) * axis as f64 / (COORDINATES - 1) as f64
}

/// None of a layout without modules.
fn values(ranks: &Ranks, score: f64) -> Option<[f64; COORDINATES]> {
    let layout = ranks.layout();
    let blocks = layout.blocks().len();
    let mut sums = vec![(0.0, 0.0); blocks];
    for (position, rank) in ranks.as_slice().iter().enumerate() {
        let block = sums.get_mut(layout.block_of(position))?;
        *block = (block.0 + f64::from(*rank), block.1 + 1.0);
    }
    let means: Vec<f64> = sums.iter().map(|(sum, count)| sum / f64::max(*count, 1.0)).collect();
    let mut sorted = means.clone();
    sorted.sort_by(f64::total_cmp);
    let stages = 1 + sorted.windows(2).filter(|pair| pair[1] > APART * pair[0]).count();
    let highest = means.iter().copied().fold(0.0, f64::max);
    let lowest = means.iter().copied().fold(f64::INFINITY, f64::min);
    let distances = ranks.as_slice().iter().enumerate();
    let distances: Vec<f64> =
        distances.map(|(position, rank)| (f64::from(*rank) - means[layout.block_of(position)]).abs()).collect();
    let share = |chosen: &dyn Fn(usize) -> bool| {
        let costs = ranks.iter().enumerate().filter(|(position, _)| chosen(*position));
        let inside: u64 = costs.map(|(_, (module, rank))| module.rank_unit_cost() * u64::from(rank)).sum();
        100.0 * inside as f64 / ranks.parameters().max(1) as f64
    };
    let late = share(&|position| layout.depth(layout.block_of(position)) >= 2.0 / 3.0);
    let is_attention = |projection: Projection| projection.index() < Projection::Gate.index();
    let attention = share(&|position| layout.modules()[position].kind.projection().is_some_and(is_attention));
    // A layer without rank has no ratio to it: half of a rank stands for none.
    let ratio = highest / lowest.max(0.5);
    Some([stages as f64, ratio, mean(&distances)?, late, attention, score])
}
