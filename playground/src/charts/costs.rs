//! What each projection costs.

use hydra_shared::layout::Ranks;

use super::Chart;
use crate::analysis::Analysis;
use crate::drawing::{Anchor, Drawing, Mark, Paint};
use crate::export::parameters_by_kind;
use crate::session::Session;
use crate::table::Table;
use crate::text::{millions, thousands};

const WIDTH: f64 = 340.0;
const LEFT: f64 = 44.0;
const ROW: f64 = 22.0;
const TOP: f64 = 22.0;

/// A bar per projection: parameters of the schedule, and a line where uniform LoRA at the base rank is.
pub fn chart(session: &Session, analysis: &Analysis) -> Chart {
    let now = parameters_by_kind(&analysis.ranks);
    let base = parameters_by_kind(&Ranks::uniform(&session.layout, session.plan.base_rank));
    let kinds = session.layout.kinds();
    let most = now.iter().chain(&base).copied().max().unwrap_or(1).max(1) as f64;
    let room = WIDTH - LEFT - 104.0;
    let mut drawing = Drawing {
        width: WIDTH,
        height: TOP + ROW * kinds.len() as f64 + 10.0,
        title: "Parameters by projection".to_owned(),
        summary: "Bars are this schedule, lines uniform LoRA at the base rank.".to_owned(),
        marks: vec![Mark::text(LEFT, 12.0, Anchor::Start, 11.0, Paint::Soft, "this schedule; line: uniform LoRA")],
    };
    let mut table = Table::new(["projection", "parameters", "uniform", "mean rank", "parameters of one rank unit"]);
    for (row, kind) in kinds.iter().enumerate() {
        let (own, plain) = (now.get(row).copied().unwrap_or(0), base.get(row).copied().unwrap_or(0));
        let y = TOP + ROW * row as f64;
        let of_kind = || analysis.ranks.iter().filter(|(module, _)| module.kind == *kind);
        let unit = of_kind().next().map_or(0, |(module, _)| module.rank_unit_cost());
        let mean = of_kind().map(|(_, rank)| f64::from(rank)).sum::<f64>() / of_kind().count().max(1) as f64;
        let tip = format!("{}: {} parameters, mean rank {mean:.1}", kind.name(), thousands(own));
        drawing.marks.push(Mark::text(LEFT - 6.0, y + 14.0, Anchor::End, 12.0, Paint::Text, kind.name()));
        let bar = Mark::rect(LEFT, y + 2.0, room * own as f64 / most, ROW - 6.0, Paint::First);
        drawing.marks.push(bar.rounded(2.0).with_tip(tip));
        let at = LEFT + room * plain as f64 / most;
        let line = Mark::line(at, y, at, y + ROW - 2.0, Paint::Text);
        drawing.marks.push(Mark { stroke_width: 2.0, ..line });
        let label = format!("{} · r̄ {mean:.1}", millions(own));
        drawing.marks.push(Mark::text(WIDTH - 4.0, y + 14.0, Anchor::End, 11.0, Paint::Soft, label));
        table.push([
            kind.name().to_owned(),
            own.to_string(),
            plain.to_string(),
            format!("{mean:.2}"),
            unit.to_string(),
        ]);
    }
    Chart { drawing: drawing.into(), table }
}
