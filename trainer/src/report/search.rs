//! The search: what was predicted, what was measured, and the best so far.

use hydra_playground::charts::search::{self, ScoredTrial};
use hydra_playground::charts::{Chart, WIDTH};
use hydra_playground::text::significant;
use hydra_shared::performance::Estimate;
use maud::{Markup, html};

use super::data::{LeaveOneOut, SearchSection, TrialRow};
use super::figure::figure;

/// Predicted and measured scores; none without trials.
pub fn scores(search: &SearchSection) -> Option<Chart> {
    let trials: Vec<ScoredTrial> = search.trials.iter().map(scored).collect();
    (!trials.is_empty()).then(|| search::scores("Predicted and measured score by trial", &trials, &[], None, WIDTH))
}

fn scored(trial: &TrialRow) -> ScoredTrial {
    let predicted = trial.predicted.filter(|mean| mean.is_finite());
    ScoredTrial {
        number: usize::try_from(trial.number).unwrap_or(usize::MAX),
        origin: trial.origin.clone(),
        proposed: predicted.is_some(),
        predicted: predicted
            .map(|mean| Estimate { mean, std: trial.predicted_deviation.filter(|std| std.is_finite()).unwrap_or(0.0) }),
        score: measured(trial).ok_or_else(|| "no score".to_owned()),
    }
}

fn measured(trial: &TrialRow) -> Option<f64> {
    trial.measured.filter(|score| score.is_finite())
}

/// The section.
pub fn section(search: &SearchSection, scores: Option<&Chart>) -> Markup {
    let scored = search.trials.iter().filter_map(|trial| Some((trial, measured(trial)?)));
    let failed = search.trials.len() - scored.clone().count();
    html! {
        h2 { "The search" }
        p { (search.predictor) ". Score: " (search.score) "." }
        @if let Some((trial, score)) = scored.max_by(|a, b| a.1.total_cmp(&b.1)) {
            p { "Best: trial " (trial.number) " (" (trial.origin) ") with " (significant(score)) "." }
        }
        @if failed > 0 {
            p { (failed) (if failed == 1 { " trial" } else { " trials" }) " failed: a cross stands in place of the score." }
        }
        @if let Some(errors) = &search.leave_one_out { p { (leave_one_out(errors)) } }
        @if let Some(chart) = scores { (figure("search", chart)) }
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
        significant(errors.predictor),
        significant(errors.mean)
    )
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
    fn a_search_of_one_failed_trial_renders() {
        let search = search(&[None]);
        assert!(section(&search, scores(&search).as_ref()).into_string().contains("failed"));
    }

    #[test]
    fn a_predictor_that_is_no_better_than_the_mean_is_called_so() {
        let text = leave_one_out(&LeaveOneOut { predictor: 2.0, mean: 1.5 });
        assert!(text.contains("no better than chance"), "{text}");
        let text = leave_one_out(&LeaveOneOut { predictor: 1.0, mean: 1.5 });
        assert!(text.contains("has learned something"), "{text}");
    }
}
