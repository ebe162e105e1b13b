//! The losses of both arms, step by step.

use super::Chart;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::messages::training::{Arm, StepReport};
use crate::scale::{Scale, counting_axis, vertical_axis};
use crate::table::Table;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 92.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Steps that the smooth line is the mean of: every step has other conversations, and its loss jumps.
pub const WINDOW: usize = 8;

/// The colour of an arm.
pub fn paint(arm: Arm) -> Paint {
    match arm {
        Arm::Schedule => Paint::First,
        Arm::Uniform => Paint::Second,
    }
}

/// A thin line through the losses and a thick one through the mean of the last [`WINDOW`]; `steps` is where the axis ends.
pub fn chart(history: &[StepReport], steps: usize) -> Chart {
    let x = Scale::new(0.0, steps.max(1) as f64, LEFT, WIDTH - RIGHT);
    let losses = history.iter().flat_map(|step| step.losses);
    // Before the first step the axis has something to say all the same.
    let y = Scale::around(losses.chain([0.0]).chain(history.is_empty().then_some(1.0)), HEIGHT - BOTTOM, TOP);
    let mut drawing = Drawing {
        width: WIDTH,
        height: HEIGHT,
        title: "Training loss".to_owned(),
        summary: summary(history, steps),
        marks: Vec::new(),
    };
    vertical_axis(&mut drawing, &y, LEFT, WIDTH - RIGHT, "loss (nats per answer token)");
    counting_axis(&mut drawing, &x, HEIGHT - BOTTOM, "step");
    let points = |value: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
        history.iter().enumerate().map(|(index, step)| (x.at(step.step as f64), y.at(value(index)))).collect()
    };
    let mut ends = Vec::new();
    for arm in Arm::BOTH {
        let raw = points(&|index| history[index].losses[arm.index()]);
        let smooth = points(&|index| mean(&history[..=index], arm));
        drawing.marks.push(Mark::polyline(raw, paint(arm)).faded(0.4));
        ends.extend(smooth.last().map(|end| (arm, *end)));
        drawing.marks.push(Mark { stroke_width: 2.5, ..Mark::polyline(smooth, paint(arm)) });
    }
    // Names at the ends of the lines, apart from each other.
    ends.sort_by(|a, b| a.1.1.total_cmp(&b.1.1));
    let mut above = f64::NEG_INFINITY;
    for (arm, (end_x, end_y)) in ends {
        let at = end_y.max(above + 13.0);
        above = at;
        drawing.marks.push(Mark::circle(end_x, end_y, 3.0, paint(arm)));
        drawing.marks.push(Mark::text(end_x + 7.0, at + 4.0, Anchor::Start, 11.0, paint(arm), arm.name()).bold());
    }
    let mut table = Table::new(["step", "learning rate", "loss, schedule", "loss, uniform LoRA", "milliseconds"]);
    for step in history {
        let [schedule, uniform] = step.losses;
        table.push([
            step.step.to_string(),
            format!("{:.3e}", step.learning_rate),
            schedule.to_string(),
            uniform.to_string(),
            format!("{:.0}", step.milliseconds),
        ]);
    }
    Chart { drawing: drawing.into(), table }
}

/// Mean loss of an arm over the last steps.
pub fn mean(history: &[StepReport], arm: Arm) -> f64 {
    let last = &history[history.len().saturating_sub(WINDOW)..];
    last.iter().map(|step| step.losses[arm.index()]).sum::<f64>() / last.len().max(1) as f64
}

fn summary(history: &[StepReport], steps: usize) -> String {
    let Some(last) = history.last() else { return "No step was taken yet.".to_owned() };
    let [schedule, uniform] = Arm::BOTH.map(|arm| mean(history, arm));
    format!(
        "After {} of {steps} steps: {schedule:.3} under the schedule, {uniform:.3} under uniform LoRA (means of the last {} \
         steps).",
        last.step,
        history.len().min(WINDOW)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(losses: &[[f64; 2]]) -> Vec<StepReport> {
        let step = |(index, losses): (usize, &[f64; 2])| StepReport {
            step: index + 1,
            losses: *losses,
            norms: [Vec::new(), Vec::new()],
            learning_rate: 1e-3,
            milliseconds: 120.0,
            tokens: 64,
        };
        losses.iter().enumerate().map(step).collect()
    }

    #[test]
    fn the_summary_compares_means_and_the_table_has_every_step() {
        let chart = chart(&history(&[[2.0, 2.0], [1.0, 1.5]]), 60);
        assert!(chart.drawing.summary.starts_with("After 2 of 60 steps: 1.500 under the schedule, 1.750"));
        assert_eq!(chart.table.rows.len(), 2);
        assert_eq!(chart.table.rows[1][2..4], ["1", "1.5"]);
    }

    #[test]
    fn names_of_lines_that_end_together_do_not_overlap() {
        let chart = chart(&history(&[[2.0, 2.0]]), 10);
        let heights: Vec<f64> = chart
            .drawing
            .marks
            .iter()
            .filter(|mark| Arm::BOTH.iter().any(|arm| mark.content() == arm.name()))
            .map(|mark| match &mark.shape {
                crate::drawing::Shape::Text { y, .. } => *y,
                _ => f64::NAN,
            })
            .collect();
        assert_eq!(heights.len(), 2);
        assert!((heights[1] - heights[0]).abs() >= 13.0, "{heights:?}");
    }

    #[test]
    fn nothing_yet_is_drawn_as_an_empty_frame() {
        let chart = chart(&[], 0);
        assert_eq!(chart.drawing.summary, "No step was taken yet.");
        assert!(!chart.drawing.marks.is_empty());
    }
}
