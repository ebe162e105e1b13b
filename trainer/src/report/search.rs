//! The search: what was predicted, what was measured, and the best so far.

use maud::{Markup, html};

use super::chart::{Figure, Scale, grid, grid_labels, height_of, number, percent, px};
use super::data::{LeaveOneOut, SearchSection};

const TOP: f64 = 12.0;
const BOTTOM: f64 = 232.0;
const LABELS_WIDTH: u32 = 52;

/// The section.
pub fn section(search: &SearchSection) -> Markup {
    let best = search
        .trials
        .iter()
        .filter_map(|trial| trial.measured.filter(|m| m.is_finite()).map(|measured| (trial, measured)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    html! {
        h2 { "The search" }
        p { (search.predictor) ". Score: " (search.score) "." }
        @if let Some((trial, measured)) = best {
            p { "Best: trial " (trial.number) " (" (trial.origin) ") with " (number(measured)) "." }
        }
        @if let Some(errors) = &search.leave_one_out { p { (leave_one_out(errors)) } }
        @if !search.trials.is_empty() { (progress(search)) }
    }
}

fn leave_one_out(errors: &LeaveOneOut) -> String {
    let judgement = if !errors.predictor.is_finite() || !errors.mean.is_finite() {
        "which says nothing"
    } else if errors.predictor < errors.mean {
        "so it has learned something from the trials"
    } else {
        "so it knows no more than the mean, and its proposals are no better than chance"
    };
    format!(
        "Leave-one-out error of the predictor: {}; of predicting the mean of the other trials: {}, {judgement}.",
        number(errors.predictor),
        number(errors.mean)
    )
}

fn progress(search: &SearchSection) -> Markup {
    let trials = &search.trials;
    let values = trials.iter().flat_map(|trial| {
        let deviation = trial.predicted_deviation.unwrap_or(0.0);
        [trial.measured, trial.predicted.map(|p| p - deviation), trial.predicted.map(|p| p + deviation)]
    });
    let scale = Scale::over(values.flatten(), false, 5);
    let y = |value: f64| px(height_of(&scale, value, TOP, BOTTOM));
    let slot = 1.0 / trials.len() as f64;
    let x = |index: usize| percent((index as f64 + 0.5) * slot);
    let every = [1, 2, 5, 10, 20, 50].into_iter().find(|n| trials.len() / n <= 16).unwrap_or(100);
    let best = best_so_far(search);
    let drawing = html! {
        (grid(&scale, TOP, BOTTOM))
        @for (index, pair) in best.windows(2).enumerate() {
            @if let [Some(before), now] = pair {
                line class="best" x1=(x(index)) x2=(x(index + 1)) y1=(y(*before)) y2=(y(*before)) {}
                @if let Some(now) = now {
                    line class="best" x1=(x(index + 1)) x2=(x(index + 1)) y1=(y(*before)) y2=(y(*now)) {}
                }
            }
        }
        @for (index, trial) in trials.iter().enumerate() {
            @if let Some(predicted) = trial.predicted.filter(|p| p.is_finite()) {
                @if let Some(deviation) = trial.predicted_deviation.filter(|d| *d > 0.0) {
                    line class="deviation" x1=(x(index)) x2=(x(index)) y1=(y(predicted - deviation)) y2=(y(predicted + deviation)) {}
                }
                circle class="predicted" cx=(x(index)) cy=(y(predicted)) r="5" {}
            }
            @match trial.measured.filter(|m| m.is_finite()) {
                Some(measured) => { circle class="measured" cx=(x(index)) cy=(y(measured)) r="4" {} }
                None => { line class="failed" x1=(x(index)) x2=(x(index)) y1=(px(BOTTOM - 8.0)) y2=(px(BOTTOM)) {} }
            }
            @if index % every == 0 { text class="middle" x=(x(index)) y=(px(BOTTOM + 16.0)) { (trial.number) } }
        }
        text class="middle" x="50%" y=(px(BOTTOM + 34.0)) { "trial" }
    };
    let last = best.last().copied().flatten();
    let description = format!(
        "{} trials in order, with measured and predicted scores. The best measured score is {}.",
        trials.len(),
        last.map_or_else(|| "missing".to_owned(), number)
    );
    Figure {
        id: "search",
        title: "Predicted and measured score by trial",
        description: &description,
        height: BOTTOM + 40.0,
        max_width: 860,
        labels_width: LABELS_WIDTH,
        labels: grid_labels(&scale, TOP, BOTTOM, LABELS_WIDTH),
        drawing,
        legend: legend(trials.iter().any(|trial| trial.measured.is_none())),
        table: html! {
            table {
                thead { tr { th { "trial" } th { "schedule" } th { "predicted" } th { "±" } th { "measured" } th { "best so far" } } }
                tbody {
                    @for (trial, best) in trials.iter().zip(&best) {
                        tr {
                            th scope="row" { (trial.number) }
                            td { (trial.origin) }
                            td { (trial.predicted.map_or_else(|| "–".to_owned(), number)) }
                            td { (trial.predicted_deviation.map_or_else(|| "–".to_owned(), number)) }
                            td { (trial.measured.map_or_else(|| "failed".to_owned(), number)) }
                            td { (best.map_or_else(|| "–".to_owned(), number)) }
                        }
                    }
                }
            }
        },
    }
    .render()
}

fn legend(failures: bool) -> Markup {
    html! {
        div class="legend" {
            span { svg width="14" height="14" aria-hidden="true" { circle class="measured" cx="7" cy="7" r="4" {} } "measured" }
            span {
                svg width="14" height="18" aria-hidden="true" {
                    line class="deviation" x1="7" x2="7" y1="0" y2="18" {}
                    circle class="predicted" cx="7" cy="9" r="5" {}
                }
                "predicted ± standard deviation"
            }
            span { svg width="22" height="14" aria-hidden="true" { line class="best" x1="0" x2="22" y1="7" y2="7" {} } "best so far" }
            @if failures {
                span { svg width="14" height="14" aria-hidden="true" { line class="failed" x1="7" x2="7" y1="3" y2="11" {} } "failed" }
            }
        }
    }
}

fn best_so_far(search: &SearchSection) -> Vec<Option<f64>> {
    let mut best: Option<f64> = None;
    search
        .trials
        .iter()
        .map(|trial| {
            if let Some(measured) = trial.measured.filter(|m| m.is_finite()) {
                best = Some(best.map_or(measured, |b| b.max(measured)));
            }
            best
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::TrialRow;
    use super::*;

    fn search(measured: &[Option<f64>]) -> SearchSection {
        let trials = measured
            .iter()
            .enumerate()
            .map(|(number, measured)| TrialRow {
                number: number as u64,
                origin: "proposed".to_owned(),
                predicted: None,
                predicted_deviation: None,
                measured: *measured,
            })
            .collect();
        SearchSection { predictor: "x".to_owned(), score: "y".to_owned(), trials, leave_one_out: None }
    }

    #[test]
    fn the_best_so_far_never_falls_and_ignores_failed_trials() {
        let best = best_so_far(&search(&[None, Some(2.0), Some(1.0), None, Some(3.0)]));
        assert_eq!(best, [None, Some(2.0), Some(2.0), Some(2.0), Some(3.0)]);
    }

    #[test]
    fn a_search_of_one_failed_trial_renders() {
        assert!(section(&search(&[None])).into_string().contains("failed"));
    }

    #[test]
    fn a_predictor_that_is_no_better_than_the_mean_is_called_so() {
        let text = leave_one_out(&LeaveOneOut { predictor: 2.0, mean: 1.5 });
        assert!(text.contains("no better than chance"), "{text}");
        let text = leave_one_out(&LeaveOneOut { predictor: 1.0, mean: 1.5 });
        assert!(text.contains("has learned something"), "{text}");
    }
}
