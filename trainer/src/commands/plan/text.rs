//! What a person sees.

use std::fmt::Write;

use hydra_shared::layout::{Layout, Module};
use hydra_shared::schedule::{Counting, Sign};

use super::{Planned, Written};
use crate::output::{table, thousands};

pub fn text(planned: &Planned, written: &[Written]) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{}\n", source(planned));
    let _ = writeln!(text, "{}", stages(planned));
    if let Some(line) = quality(planned) {
        let _ = writeln!(text, "{line}\n");
    }
    let _ = writeln!(text, "{}", projections(planned));
    let _ = writeln!(text, "{}", budget(planned));
    let _ = write!(text, "{}", files(written));
    text
}

fn source(planned: &Planned) -> String {
    let steps = planned.profile.steps;
    let signal = planned.profile.signal.name();
    let estimated = if planned.profile.estimated { ", estimated from histograms" } else { "" };
    let skipped =
        if steps.non_finite > 0 { format!(", {} with NaN or infinity", steps.non_finite) } else { String::new() };
    format!(
        "{}: {} layers. Signal {signal}{estimated}: {} steps from {} to {} ({} left out as warm-up{skipped}).",
        planned.layout.model(),
        planned.layout.blocks().len(),
        steps.kept,
        steps.first,
        steps.last,
        steps.warm_up
    )
}

fn stages(planned: &Planned) -> String {
    let rows = planned.plan.stages.iter().enumerate().map(|(index, stage)| {
        vec![
            (index + 1).to_string(),
            format!("{:.5}", stage.norm),
            stage.rank.to_string(),
            stage.layers.len().to_string(),
            layers(&planned.layout, &stage.layers),
        ]
    });
    table(&["stage", "norm", "rank", "count", "layers"], &[1, 2, 3], rows)
}

/// What the blocks of a stage are called.
fn layers(layout: &Layout, blocks: &[usize]) -> String {
    let numbers = |block: &usize| layout.blocks().get(*block).and_then(|found| found.layer);
    match blocks.iter().map(numbers).collect::<Option<Vec<_>>>().filter(|_| layout.layers_path().is_some()) {
        Some(layers) => ranges(&layers),
        None => blocks.iter().map(|&block| layout.block_name(block)).collect::<Vec<_>>().join(", "),
    }
}

/// `0-4, 7, 9-11`.
fn ranges(layers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer)),
        }
    }
    let run =
        |&(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// Silhouette by number of stages, so that a reader sees whether another number would fit better.
fn quality(planned: &Planned) -> Option<String> {
    let known: Vec<String> = planned
        .quality
        .iter()
        .filter_map(|quality| Some(format!("{}: {:.2}", quality.count, quality.silhouette?)))
        .collect();
    (!known.is_empty()).then(|| format!("Silhouette by number of stages (1 is best): {}", known.join("  ")))
}

fn projections(planned: &Planned) -> String {
    let plan = &planned.plan;
    let layout = &planned.layout;
    let rows = layout.kinds().iter().enumerate().map(|(kind, name)| {
        let of = |index: usize| layout.kind_of(index) == Some(kind);
        let modules: Vec<(&Module, u32)> = plan.ranks.iter().filter(|(module, _)| module.kind == *name).collect();
        let ranks = || modules.iter().map(|(_, rank)| *rank);
        let count = modules.len().max(1) as f64;
        let norms = planned.profile.modules.iter().enumerate().filter(|(i, _)| of(*i)).map(|(_, norm)| norm.mean);
        let raised = plan.signs.iter().enumerate().filter(|(i, sign)| of(*i) && **sign == Sign::Raise).count();
        let lowered = plan.signs.iter().enumerate().filter(|(i, sign)| of(*i) && **sign == Sign::Lower).count();
        let total: u64 = ranks().map(u64::from).sum();
        let parameters = modules.iter().map(|(module, rank)| module.rank_unit_cost() * u64::from(*rank));
        vec![
            name.to_string(),
            format!("{:.5}", norms.sum::<f64>() / count),
            format!("{lowered} / {raised}"),
            ranks().min().map_or_else(String::new, |rank| rank.to_string()),
            format!("{:.1}", total as f64 / count),
            ranks().max().map_or_else(String::new, |rank| rank.to_string()),
            thousands(parameters.sum()),
        ]
    });
    table(
        &["projection", "norm", "layers − / +", "least", "mean rank", "most", "parameters"],
        &[1, 2, 3, 4, 5, 6],
        rows,
    )
}

fn budget(planned: &Planned) -> String {
    let plan = &planned.plan;
    let what = match plan.budget.counting {
        Counting::Parameters => "trainable parameters",
        Counting::RankUnits => "rank units",
    };
    let share = 100.0 * plan.used as f64 / plan.budget.allowed.max(1) as f64;
    let mut line = format!(
        "Budget: {} of {} {what} used ({share:.3} %), {} left; no module could take one rank more.",
        thousands(plan.used),
        thousands(plan.budget.allowed),
        thousands(plan.budget.allowed.saturating_sub(plan.used)),
    );
    if plan.budget.counting == Counting::RankUnits {
        let uniform = planned.layout.lora_parameters(planned.config.base_rank);
        let _ = write!(
            line,
            "\nThese are {} trainable parameters; uniform LoRA has {}.",
            thousands(plan.trainable_parameters),
            thousands(uniform)
        );
    }
    line
}

fn files(written: &[Written]) -> String {
    if written.is_empty() {
        return "Nothing was written: --peft lora.json gives PEFT's configuration, --out schedule.json the schedule.\n"
            .to_owned();
    }
    let mut text = String::new();
    for file in written {
        let verb = if file.dry { "would be written to" } else { "is in" };
        let _ = writeln!(text, "The {} {verb} {}", file.what, file.path.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_listed_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges(&[]), "");
    }
}
