//! What is proposed and why, and what a reader should be warned of, in sentences.

use hydra_shared::layout::Layout;
use hydra_shared::performance::{Estimate, HeldOutError, ModelKind};
use hydra_shared::search::{Acquisition, Origin, StopReason, TrialState, expected_improvement};

use super::{digits, percent, proposer_title};
use crate::messages::performance::{Next, Progress};

/// Fewer complete trials than this get a warning: HyDRA's own searches begin with eight and end at sixteen.
const FEW_TRIALS: usize = 12;

/// What is proposed and why, a sentence each.
pub fn reasons(progress: &Progress, layout: &Layout) -> Vec<String> {
    let proposed = match &progress.next {
        Next::Try(proposed) => proposed,
        Next::Over(reason) => return vec![ending(*reason).to_owned()],
        Next::TooManyTrials => {
            return vec![
                "The study holds more complete trials than the page fits models on. The trainer goes on with it."
                    .to_owned(),
            ];
        }
    };
    let best = proposed.best.and_then(|number| progress.trials.iter().find(|trial| trial.number == number));
    let mut sentences = Vec::new();
    if proposed.begun {
        sentences.push(format!("Trial {} was begun and has not been reported: it comes first.", proposed.number));
    }
    let number = proposed.number;
    match &proposed.origin {
        Origin::Start { name } => sentences.push(format!("Trial {number} is a starting schedule, {name}.")),
        Origin::Random { reason: None } => {
            sentences.push(format!("Trial {number} is drawn at random from the feasible schedules."));
        }
        Origin::Random { reason: Some(reason) } => {
            sentences.push(format!("Trial {number} is drawn at random: {reason}."));
        }
        Origin::Chosen { proposer } => {
            sentences.push(format!("Trial {number} was chosen by {}.", proposer_title(proposer)));
        }
        Origin::Replicate { of } => {
            sentences.push(format!("Trial {number} is trial {of} again, with a fresh seed."));
        }
        Origin::Foreign => sentences.push(format!("Trial {number} was put into the study by another program.")),
        Origin::Proposed { model, acquisition, predicted, held_out, fitted_on, .. } => {
            let scores = progress.trials.iter().filter_map(|trial| trial.objective);
            let digits = digits(scores.chain([predicted.mean]));
            let best = best.and_then(|trial| trial.objective).unwrap_or(f64::NEG_INFINITY);
            sentences.push(format!(
                "{} predicts {:.digits$} ± {:.digits$} for trial {number}; the best so far scored {best:.digits$}.",
                proposer_title(model),
                predicted.mean,
                predicted.std
            ));
            sentences.extend(reasons_of_model(acquisition, *predicted, best, digits));
            sentences.push(trust(*held_out, *fitted_on, digits));
        }
    }
    sentences.extend(best.map(|best| moves(layout, &best.ranks, &proposed.ranks, best.number)));
    sentences
}

/// Why a search is over.
fn ending(reason: StopReason) -> &'static str {
    match reason {
        StopReason::TrialsSpent => "The search is over: as many trials as were asked for have been run.",
        StopReason::NoGain => "The search is over: the last proposals brought no gain.",
        StopReason::SpaceExhausted => {
            "The search is over: every schedule within the budget that was found has been tried."
        }
        StopReason::EveryTrialFailed => "The search is over: every trial failed, so the cause is not in the schedules.",
    }
}

/// The rule by which a model chose a schedule, and what it hopes for.
fn reasons_of_model(acquisition: &str, predicted: Estimate, best: f64, digits: usize) -> [String; 2] {
    let improvement = expected_improvement(predicted, best);
    let (total, exploit, explore) = (improvement.total(), improvement.exploit, improvement.explore);
    let rule = match Acquisition::from_name(acquisition) {
        Some(Acquisition::ExpectedImprovement) => {
            format!("Of all candidates it has the highest expected improvement: {total:.digits$}.")
        }
        _ => "Of all candidates it has the highest predicted score.".to_owned(),
    };
    let hope = if exploit < 0.0 {
        format!(
            "It explores: it is predicted below the best so far, and its expected improvement of {total:.digits$} is there \
             only because the prediction may be wrong."
        )
    } else if explore > exploit {
        format!(
            "It explores more than it exploits: of its expected improvement of {total:.digits$}, {explore:.digits$} comes \
             from the uncertainty and {exploit:.digits$} from the predicted gain."
        )
    } else {
        format!(
            "It exploits more than it explores: of its expected improvement of {total:.digits$}, {exploit:.digits$} comes \
             from the predicted gain and {explore:.digits$} from the uncertainty."
        )
    };
    [rule, hope]
}

/// How far a model's prediction can be trusted.
fn trust(error: HeldOutError, fitted_on: usize, digits: usize) -> String {
    if error.rmse < error.baseline_rmse {
        format!(
            "On {fitted_on} trials, each left out in turn, the model is wrong by {:.digits$}; predicting the mean is wrong by \
             {:.digits$}.",
            error.rmse, error.baseline_rmse
        )
    } else {
        format!(
            "On {fitted_on} trials, each left out in turn, the model is wrong by {:.digits$}, no less than predicting the mean \
             ({:.digits$}): what it proposes is a guess.",
            error.rmse, error.baseline_rmse
        )
    }
}

/// How a schedule differs from the best so far.
fn moves(layout: &Layout, best: &[u32], ranks: &[u32], number: usize) -> String {
    let changed = best.iter().zip(ranks).filter(|(a, b)| a != b).count();
    if changed == 0 {
        return format!("It is the schedule of trial {number}, the best so far.");
    }
    let ratio = |which: &dyn Fn(usize) -> bool| {
        let (mut before, mut after) = (0_u64, 0_u64);
        for (module, (a, b)) in best.iter().zip(ranks).enumerate() {
            if which(module) {
                (before, after) = (before + u64::from(*a), after + u64::from(*b));
            }
        }
        (before > 0).then(|| after as f64 / before as f64 - 1.0)
    };
    let layers = layout.blocks().len();
    let mut groups: Vec<(String, f64)> = Vec::new();
    for (at, kind) in layout.kinds().iter().enumerate() {
        let change = ratio(&|module| layout.kind_of(module) == Some(at));
        groups.extend(change.map(|change| (format!("{kind} in all layers"), change)));
    }
    for (name, third) in ["the first", "the middle", "the last"].into_iter().zip(0..3) {
        let change = ratio(&|module| layout.block_of(module) * 3 / layers.max(1) == third);
        groups.extend(change.map(|change| (format!("{name} third of the layers"), change)));
    }
    groups.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut sentence = format!(
        "Against trial {number}, the best so far, it changes the rank of {changed} of {} modules",
        best.len().min(ranks.len())
    );
    if let (Some(most), Some(least)) = (groups.first(), groups.last()) {
        for (name, change) in [most, least] {
            if change.abs() >= 0.005 {
                sentence += &format!("; {name}: {}{}", if *change > 0.0 { "+" } else { "−" }, percent(change.abs()));
            }
        }
    }
    sentence + "."
}

/// What a reader should keep in mind, a sentence each.
pub fn warnings(progress: &Progress, shown: ModelKind) -> Vec<String> {
    let complete = progress.trials.iter().filter(|trial| trial.state == TrialState::Complete).count();
    let failed = progress.trials.len() - complete;
    let mut sentences = Vec::new();
    let fit = progress.fits.iter().find(|fit| fit.model == shown);
    match fit.map(|fit| &fit.outcome) {
        Some(Err(reason)) => sentences.push(format!("There is nothing to predict from yet: {reason}.")),
        Some(Ok(fitted)) => {
            if complete < FEW_TRIALS {
                sentences.push(format!(
                    "{complete} trials are few: the predictions and even their leave-one-out error can be far off."
                ));
            }
            let error = fitted.error;
            if error.baseline_rmse == 0.0 {
                sentences.push("Every trial scored the same: there is nothing to learn from.".to_owned());
            } else if error.rmse >= error.baseline_rmse {
                sentences.push(format!(
                    "{} does not predict unseen trials better than their mean does. Its proposals are guesses.",
                    shown.title()
                ));
            }
        }
        None => {}
    }
    if failed > 0 {
        let trials = if failed == 1 { "1 trial" } else { &format!("{failed} trials") };
        sentences.push(format!("{trials} failed; no model learns from that."));
    }
    // Forecasts are the hardest test: they were made before the score was known.
    let forecasts = progress.trials.iter().filter_map(|trial| match &trial.origin {
        Origin::Proposed { predicted, .. } => Some((*predicted, trial.objective?)),
        _ => None,
    });
    let forecasts: Vec<(Estimate, f64)> = forecasts.collect();
    let within =
        forecasts.iter().filter(|(estimate, score)| (score - estimate.mean).abs() <= 2.0 * estimate.std).count();
    if forecasts.len() >= 3 {
        sentences.push(format!(
            "{within} of {} proposals scored within two standard deviations of their forecast; 95 % would if the \
             uncertainty were right.",
            forecasts.len()
        ));
    }
    sentences
}
