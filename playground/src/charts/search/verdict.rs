//! What a search came to: the schedule that it recommends, beside uniform LoRA and the plan, and how sure that is.

use hydra_shared::performance::{Estimate, ModelKind};
use hydra_shared::search::{Basis, CONFIDENCE, LastRound, Origin, PlainTrial, TrialState};

use super::{digits, origin, percent};
use crate::messages::performance::{Next, Progress};
use crate::text::signed;

/// What a search came to, or has come to so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The trial whose schedule is recommended.
    pub trial: usize,
    /// Its ranks.
    pub ranks: Vec<u32>,
    /// What it is, for a heading.
    pub title: String,
    /// The schedules to compare, the found one first.
    pub rows: Vec<Compared>,
    /// How sure it is and what is luck, a sentence each.
    pub sentences: Vec<String>,
    /// Whether the search is over.
    pub over: bool,
}

/// One of the schedules that are compared. Numbers are written as many decimals long as tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// What it is.
    pub name: String,
    /// Number of its trial.
    pub trial: usize,
    /// Its score in the search.
    pub score: String,
    /// Mean over fresh seeds and how many they are; empty where there are none.
    pub fresh: String,
    /// Its worth without noise; empty where nobody knows it.
    pub truth: String,
    /// Whether it is recommended.
    pub recommended: bool,
}

/// What a search has come to; none before a trial is complete. `model` is the one whose uncertainty counts where no schedule
/// was tried again.
pub fn verdict(progress: &Progress, model: ModelKind) -> Option<Verdict> {
    let pick = progress.pick?;
    let find = |number: usize| progress.trials.iter().find(|trial| trial.number == number);
    let picked = find(pick.trial)?;
    let named = |name: &str| {
        progress.trials.iter().find(|trial| matches!(&trial.origin, Origin::Start { name: own } if own == name))
    };
    let best = |trials: &mut dyn Iterator<Item = &PlainTrial>| {
        let scored = trials.filter_map(|trial| Some((trial.number, trial.objective?)));
        scored.fold(None, |best: Option<(usize, f64)>, trial| best.filter(|best| best.1 >= trial.1).or(Some(trial)))
    };
    // What the search found, which may not be what it recommends.
    let found = pick.last_round.map(|round| round.found).or_else(|| {
        let is_found = |trial: &&PlainTrial| !matches!(&trial.origin, Origin::Start { .. });
        if is_found(&picked) {
            Some(pick.trial)
        } else {
            best(&mut progress.trials.iter().filter(is_found)).map(|best| best.0)
        }
    });
    let scores = || progress.trials.iter().filter_map(|trial| trial.objective);
    let digits = digits(scores().chain(progress.optimum.as_ref().map(|optimum| optimum.bound)));
    let fresh = |number: usize| {
        let scores: Vec<f64> = progress.fresh.iter().filter(|(of, _)| *of == number).map(|(_, score)| *score).collect();
        (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / scores.len() as f64, scores.len()))
    };
    let truth = |number: usize| {
        let place = progress.trials.iter().position(|trial| trial.number == number)?;
        progress.truths.get(place).copied()
    };
    let row = |name: String, trial: &PlainTrial| Compared {
        name,
        trial: trial.number,
        score: trial.objective.map_or("failed".to_owned(), |score| format!("{score:.digits$}")),
        fresh: fresh(trial.number).map_or(String::new(), |(mean, count)| format!("{mean:.digits$} ({count})")),
        truth: truth(trial.number).map_or(String::new(), |truth| format!("{truth:.digits$}")),
        recommended: trial.number == pick.trial,
    };
    let mut rows: Vec<Compared> = Vec::new();
    rows.extend(found.and_then(find).map(|trial| row(format!("found: {}", origin(trial)), trial)));
    for (name, title) in
        [("uniform", "uniform LoRA"), ("coarse + fine", "HyDRA's plan"), ("coarse", "the plan's stages alone")]
    {
        if let Some(trial) = named(name).filter(|trial| name != "coarse" || trial.number == pick.trial) {
            rows.push(row(title.to_owned(), trial));
        }
    }
    if rows.iter().all(|row| !row.recommended) {
        rows.push(row(origin(picked), picked));
    }

    let title = |number: usize| {
        let row = rows.iter().find(|row| row.trial == number);
        row.map_or(format!("trial {number}"), |row| match row.name.strip_prefix("found: ") {
            Some(_) => format!("trial {number}"),
            None => row.name.clone(),
        })
    };
    let estimates = estimates(progress, model);
    let estimate = |number: usize| estimates.iter().find(|(of, _)| *of == number).map(|(_, estimate)| *estimate);
    let mut sentences = Vec::new();
    match (pick.basis, pick.last_round) {
        (Basis::Untested, _) | (_, None) => {
            sentences.push(match progress.fresh.is_empty() {
                true => format!(
                    "Nothing was tried again with fresh seeds yet: of {} scores the best is mostly the luckiest.",
                    scores().count()
                ),
                false => "This rests on the first score of every schedule; what others scored with fresh seeds stands beside it."
                    .to_owned(),
            });
            let safe = named("uniform").filter(|uniform| uniform.number != pick.trial);
            if let Some((own, other)) = safe.and_then(|safe| Some((estimate(pick.trial)?, estimate(safe.number)?))) {
                sentences.push(format!(
                    "{} thinks it better than uniform LoRA with a probability of {}, if its own uncertainty is right.",
                    model.title(),
                    percent(better(own, other))
                ));
            }
        }
        (basis, Some(round)) => sentences.push(last_round(basis, round, digits, &title)),
    }
    // What the best of many scores owes to chance.
    let luckiest = best(&mut progress.trials.iter());
    let worth = |number: usize| match fresh(number) {
        Some((mean, 1)) => Some((mean, "with a fresh seed".to_owned())),
        Some((mean, count)) => Some((mean, format!("with {count} fresh seeds"))),
        None => estimate(number).map(|estimate| (estimate.mean, format!("by {}", model.title()))),
    };
    if let Some((number, score)) = luckiest
        && let Some((mean, how)) = worth(number)
    {
        let luck = score - mean;
        let count = scores().count();
        sentences.push(if luck > 0.0 {
            format!(
                "Luck: trial {number} has the best of {count} scores, {score:.digits$}; {how} it is {mean:.digits$}, so that \
                 {luck:.digits$} was luck."
            )
        } else {
            format!("Luck: trial {number} has the best of {count} scores, {score:.digits$}; {how} it is {mean:.digits$}, no less.")
        });
    }
    if let (Some(truth), Some(optimum)) = (truth(pick.trial), &progress.optimum) {
        sentences.push(format!(
            "These scores are made up, so the truth is known: the recommended schedule is worth {truth:.digits$}, and none \
             within the budget more than {:.digits$}.",
            optimum.bound
        ));
    }
    let what = title(pick.trial);
    Some(Verdict {
        trial: pick.trial,
        ranks: picked.ranks.clone(),
        title: if what.starts_with("trial") { format!("{what}, {}", origin(picked)) } else { what },
        rows,
        sentences,
        over: matches!(progress.next, Next::Over(_)),
    })
}

fn last_round(basis: Basis, round: LastRound, digits: usize, title: &impl Fn(usize) -> String) -> String {
    let LastRound { found, safe, difference, low, high, probability, seeds } = round;
    let (found, safe) = (title(found), title(safe));
    let signed = |value: f64| signed(value, digits);
    let interval = low.zip(high).map(|(low, high)| format!(", 95 % interval {} to {}", signed(low), signed(high)));
    let measured = format!(
        "With {seeds} fresh seeds {found} differs from {safe} by {}{}",
        signed(difference),
        interval.unwrap_or_default()
    );
    let better =
        probability.map(|p| format!("; it is better with a probability of {}", percent(p))).unwrap_or_default();
    match basis {
        Basis::Shown => format!("{measured}{better}."),
        _ => format!(
            "{measured}{better}, and {} would be needed to prefer it: {safe} is recommended, which needs no search.",
            percent(CONFIDENCE)
        ),
    }
}

/// What a model says of every complete trial, by its number.
fn estimates(progress: &Progress, model: ModelKind) -> Vec<(usize, Estimate)> {
    let fit = progress.fits.iter().find(|fit| fit.model == model).and_then(|fit| fit.outcome.as_ref().ok());
    let complete = progress.trials.iter().filter(|trial| trial.state == TrialState::Complete).map(|trial| trial.number);
    fit.map(|fit| complete.zip(fit.seen.iter().copied()).collect()).unwrap_or_default()
}

/// Probability that one is better than another, where both are normal and independent.
fn better(one: Estimate, other: Estimate) -> f64 {
    let spread = one.std.hypot(other.std);
    if spread > 0.0 { 0.5 * libm::erfc((other.mean - one.mean) / (spread * std::f64::consts::SQRT_2)) } else { 0.5 }
}
