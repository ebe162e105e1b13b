//! Gradient norms of every module as they are measured.

use hydra_shared::layout::Layout;

use super::Chart;
use super::norms::digits;
use crate::drawing::{Anchor, Drawing, Mark, Paint, Subject};
use crate::messages::training::{Arm, StepReport};
use crate::table::Table;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 8.0;
const ROW: f64 = 26.0;
const UNDER: f64 = 34.0;

/// The heat map of an arm: each module's norm at the last step, the darkest and the lightest colour being the least and the
/// greatest of them; its mean over all steps stands beside it in tips and table. Layers go to the right, projections down.
pub fn chart(layout: &Layout, history: &[StepReport], arm: Arm) -> Chart {
    let latest = history.last().map(|step| step.norms[arm.index()].as_slice()).unwrap_or_default();
    let (least, most) =
        latest.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), norm| (least.min(*norm), most.max(*norm)));
    let rows = layout.kinds().len();
    let height = TOP + ROW * rows as f64 + UNDER;
    let (title, summary) = match history.last() {
        Some(step) => (
            format!("Gradient norms at step {}, {}", step.step, arm.name()),
            format!("Norms of this step alone, from {} to {}.", digits(least), digits(most)),
        ),
        None => (format!("Gradient norms, {}", arm.name()), "No step was taken yet.".to_owned()),
    };
    let mut drawing = Drawing { width: WIDTH, height, title, summary, marks: Vec::new() };
    let mut table = Table::new(["layer", "projection", "norm of the last step", "mean norm"]);
    let layers = layout.blocks().len().max(1);
    let cell = (WIDTH - LEFT - 4.0) / layers as f64;
    for (row, kind) in layout.kinds().iter().enumerate() {
        let y = TOP + ROW * row as f64 + ROW / 2.0 + 4.0;
        drawing.marks.push(Mark::text(LEFT - 6.0, y, Anchor::End, 12.0, Paint::Text, kind.name()));
    }
    for layer in 0..layers {
        let x = LEFT + cell * (layer as f64 + 0.5);
        let y = TOP + ROW * rows as f64 + 14.0;
        let label = Mark::text(x, y, Anchor::Middle, 10.0, Paint::Soft, layer.to_string());
        drawing.marks.push(label.about(Subject::Layer(layer)));
    }
    drawing.marks.push(Mark::text(LEFT, height - 5.0, Anchor::Start, 11.0, Paint::Soft, "layer →"));
    for (index, (module, mean)) in layout.modules().iter().zip(means(layout, history, arm)).enumerate() {
        let (layer, row) = (layout.block_of(index), layout.kind_of(index).unwrap_or(0));
        let (x, y) = (LEFT + cell * layer as f64, TOP + ROW * row as f64);
        let norm = latest.get(index).copied();
        let (value, last) = match norm {
            Some(norm) => (if most > least { (norm - least) / (most - least) } else { 0.5 }, digits(norm)),
            None => (0.5, String::new()),
        };
        let fill = if norm.is_some() { Paint::Heat(value) } else { Paint::Grid };
        let rect = Mark::rect(x, y, cell - 1.0, ROW - 1.0, fill).about(Subject::Module { position: index, layer });
        let tip = || format!("Layer {layer}, {}: {last} at this step, mean {}", module.kind, digits(mean));
        drawing.marks.push(if norm.is_some() { rect.with_tip(tip()) } else { rect });
        if norm.is_some() && cell > 60.0 {
            let (x, y) = (x + cell / 2.0, y + ROW / 2.0 + 4.0);
            drawing.marks.push(Mark::text(x, y, Anchor::Middle, 11.0, Paint::OnHeat(value), last.as_str()));
        }
        table.push([layer.to_string(), module.kind.name().to_owned(), last, mean.to_string()]);
    }
    Chart { drawing: drawing.into(), table }
}

fn means(layout: &Layout, history: &[StepReport], arm: Arm) -> Vec<f64> {
    let mut sums = vec![0.0; layout.len()];
    for step in history {
        for (sum, norm) in sums.iter_mut().zip(&step.norms[arm.index()]) {
            *sum += norm;
        }
    }
    sums.iter().map(|sum| sum / history.len().max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::spec::preset_layout;

    use super::*;

    fn step(step: usize, norm: f64) -> StepReport {
        let norms = (0..42).map(|module| norm * (module + 1) as f64).collect::<Vec<f64>>();
        StepReport {
            step,
            losses: [1.0; 2],
            norms: [norms, vec![0.0; 42]],
            learning_rate: 0.0,
            milliseconds: 1.0,
            tokens: 64,
        }
    }

    #[test]
    fn a_cell_shows_the_norm_of_the_last_step_and_has_the_mean_over_all_beside_it() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        // What was large before is small now.
        let mut before = step(1, 1.0);
        before.norms[0].reverse();
        let chart = chart(&layout, &[before, step(2, 3.0)], Arm::Schedule);
        assert_eq!(chart.drawing.title, "Gradient norms at step 2, schedule");
        assert_eq!(chart.drawing.summary, "Norms of this step alone, from 3.00000 to 126.00000.");
        assert_eq!(chart.table.rows.len(), 42);
        assert_eq!(chart.table.rows[0][2], "3.00000");
        assert_eq!(chart.table.rows[0][3], "22.5");
        let cells: Vec<&Mark> = chart.drawing.marks.iter().filter(|mark| mark.tip.is_some()).collect();
        assert_eq!((cells[0].fill, cells[41].fill), (Paint::Heat(0.0), Paint::Heat(1.0)));
        assert_eq!(cells[0].tip.as_deref(), Some("Layer 0, q: 3.00000 at this step, mean 22.50000"));
    }

    #[test]
    fn without_a_step_there_are_cells_and_no_values() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let chart = chart(&layout, &[], Arm::Uniform);
        assert!(chart.drawing.marks.iter().all(|mark| mark.tip.is_none()));
        assert_eq!(chart.drawing.summary, "No step was taken yet.");
    }
}
