//! The table of arms, and the verdict.

use maud::{Markup, html};

use super::data::{ArmKind, ArmRow, ComparisonSection};
use super::verdict::{Difference, Outcome, Spread, Verdict, mean_over_tasks, verdict};
use crate::output::thousands;

/// The section.
pub fn section(comparison: &ComparisonSection) -> Markup {
    html! {
        h2 { "The comparison" }
        @if let Some(verdict) = verdict(comparison) { (judgement(&verdict)) }
        p class="soft" {
            (comparison.split) ". Mean ± standard deviation over seeds; higher is better. Bold: the best arm within the budget."
        }
        div class="scroll" { (arms(comparison)) }
    }
}

fn judgement(verdict: &Verdict) -> Markup {
    let list = |outcome| verdict.tasks_with(outcome).join(", ");
    let line = |outcome, class: &str, word: &str| {
        let tasks = list(outcome);
        html! { @if !tasks.is_empty() { p { span class=(class) { (word) } " on " (tasks) "." } } }
    };
    html! {
        section class="verdict" aria-label="Verdict" {
            p { strong { (headline(verdict)) } }
            (line(Outcome::Win, "win", "Better than uniform LoRA"))
            (line(Outcome::Tie, "", "No difference (the 95 % interval holds 0)"))
            (line(Outcome::Loss, "loss", "Worse than uniform LoRA"))
            (line(Outcome::Unknown, "soft", "Not judged, because two seeds or more are needed,"))
            @if verdict.over_budget {
                p { span class="loss" { "It trains more parameters than uniform LoRA, so the comparison is not fair." } }
            }
            table {
                thead { tr { th { "task" } th { "difference" } th { "95 % interval" } } }
                tbody {
                    @for (task, difference) in &verdict.tasks { (row(task, difference)) }
                    (row("mean", &verdict.mean))
                }
            }
        }
    }
}

fn row(name: &str, difference: &Difference) -> Markup {
    let class = match difference.outcome {
        Outcome::Win => "win",
        Outcome::Loss => "loss",
        Outcome::Tie | Outcome::Unknown => "",
    };
    html! {
        tr {
            th scope="row" { (name) }
            td class=(class) { (signed(difference.value)) }
            td { (range(difference)) }
        }
    }
}

/// The verdict in a sentence.
pub fn headline(verdict: &Verdict) -> String {
    let word = match verdict.mean.outcome {
        Outcome::Win => "is better than uniform LoRA on the mean over tasks",
        Outcome::Tie => "does not differ from uniform LoRA on the mean over tasks",
        Outcome::Loss => "is worse than uniform LoRA on the mean over tasks",
        Outcome::Unknown => "cannot be judged against uniform LoRA: two seeds or more are needed",
    };
    if verdict.mean.outcome == Outcome::Unknown {
        format!("{} {word}.", verdict.arm)
    } else {
        let Difference { value, .. } = verdict.mean;
        format!("{} {word}: {}, 95 % interval {}.", verdict.arm, signed(value), range(&verdict.mean))
    }
}

fn range(difference: &Difference) -> String {
    difference.interval.map_or_else(|| "–".to_owned(), |i| format!("{} to {}", signed(i.low), signed(i.high)))
}

fn signed(value: f64) -> String {
    if value.is_finite() { format!("{value:+.2}").replace('-', "−") } else { "–".to_owned() }
}

fn arms(comparison: &ComparisonSection) -> Markup {
    let best = best_in_budget(comparison);
    html! {
        table class="arms" {
            thead {
                tr {
                    th { "arm" }
                    th { "mean" small { "over tasks" } }
                    @for task in &comparison.tasks { th { (task.name) small { (task.metric) } } }
                    th { "trainable" small { "parameters" } }
                }
            }
            tbody {
                @for (index, arm) in comparison.arms.iter().enumerate() {
                    tr class={ (if arm.kind == ArmKind::Uniform { "uniform" } else { "" }) (if best == Some(index) { " best" } else { "" }) } {
                        th scope="row" { (arm.name) }
                        td { (spread(&mean_over_tasks(arm))) }
                        @for task in 0..comparison.tasks.len() { td { (spread(arm.scores.get(task).map_or(&[], Vec::as_slice))) } }
                        td { (thousands(arm.trainable_parameters)) }
                    }
                }
            }
        }
    }
}

fn spread(scores: &[f64]) -> Markup {
    match Spread::of(scores) {
        None => html! { "–" },
        Some(spread) if spread.seeds < 2 => html! { (format!("{:.1}", spread.mean)) },
        Some(spread) => html! { (format!("{:.1}", spread.mean)) small { (format!(" ± {:.1}", spread.deviation)) } },
    }
}

/// The arm with the best mean among those that train no more than uniform LoRA.
fn best_in_budget(comparison: &ComparisonSection) -> Option<usize> {
    let budget = comparison.arms.iter().find(|arm| arm.kind == ArmKind::Uniform)?.trainable_parameters;
    let mean = |arm: &ArmRow| Spread::of(&mean_over_tasks(arm)).map(|spread| spread.mean);
    comparison
        .arms
        .iter()
        .enumerate()
        .filter(|(_, arm)| arm.trainable_parameters <= budget)
        .filter_map(|(index, arm)| Some((index, mean(arm)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::super::data::TaskColumn;
    use super::*;

    fn page(hydra: &[f64]) -> String {
        let arm = |name: &str, kind, scores: &[f64]| ArmRow {
            name: name.to_owned(),
            kind,
            trainable_parameters: 10,
            scores: vec![scores.to_vec()],
        };
        let full = ArmRow { trainable_parameters: 1_000, ..arm("full", ArmKind::Full, &[90.0, 90.0]) };
        let task = TaskColumn { name: "open".to_owned(), metric: "exact match, %".to_owned() };
        let arms =
            vec![arm("uniform", ArmKind::Uniform, &[50.0, 52.0]), arm("searched", ArmKind::Searched, hydra), full];
        section(&ComparisonSection { split: "test split".to_owned(), tasks: vec![task], arms }).into_string()
    }

    #[test]
    fn a_win_a_tie_and_a_loss_are_each_said_in_words() {
        assert!(page(&[60.0, 61.0]).contains("searched is better than uniform LoRA"));
        assert!(page(&[51.0, 52.0]).contains("searched does not differ from uniform LoRA"));
        let loss = page(&[40.0, 41.0]);
        assert!(loss.contains("searched is worse than uniform LoRA"), "{loss}");
        assert!(loss.contains("Worse than uniform LoRA</span> on open."), "{loss}");
    }

    #[test]
    fn the_best_arm_is_looked_for_within_the_budget_only() {
        assert!(page(&[60.0, 61.0]).contains("<tr class=\" best\"><th scope=\"row\">searched"));
    }

    #[test]
    fn one_seed_is_not_judged() {
        assert!(page(&[99.0]).contains("cannot be judged"));
    }
}
