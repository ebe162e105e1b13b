//! Which schedule a search recommends.
//!
//! The best of n noisy scores is mostly the luckiest of them. So when the trials are over, those with the largest posterior mean
//! are fine-tuned again with fresh seeds, beside the schedules that need no search (uniform LoRA and the planned ones), by
//! sequential halving (Karnin, Koren and Somekh 2013): all of them with a quarter of the seeds, the better half with as many
//! more, and in the last round, with the other half of the seeds, the best that was found against the best that needs no search.
//! That last round is judged by its own seeds alone, with which nothing was chosen.

use serde::{Deserialize, Serialize};

use super::study::{Origin, Study, Trial, TrialState};
use crate::statistics::{deviation, mean, student_above, student_quantile_975};

/// Starting schedules that need no search.
const SAFE: [&str; 3] = ["uniform", "coarse", "coarse + fine"];
/// Other schedules of the first round.
const CHALLENGERS: usize = 3;
/// Fewest fresh seeds: two in the last round.
pub const FEWEST_REPLICATES: usize = 4;
/// Probability of being better from which a found schedule is recommended over one that needs no search.
pub const CONFIDENCE: f64 = 0.9;

/// The most fine-tunes that `replicates` fresh seeds of the last two schedules cost in all rounds.
pub fn most_replicates(replicates: usize) -> usize {
    let (first, second) = (replicates / 4, replicates / 2);
    (SAFE.len() + CHALLENGERS) * first + 3 * (second - first) + 2 * (replicates - second)
}

/// What is wrong with a number of fresh seeds.
pub fn wrong_replicates(replicates: usize) -> Option<&'static str> {
    let is_right = replicates == 0 || (FEWEST_REPLICATES..=1 << 20).contains(&replicates);
    (!is_right)
        .then_some("search.replicates must be 0, or from 4 to 1048576: two seeds in the last round give an interval")
}

/// The schedule that a search recommends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    /// The trial whose schedule it is.
    pub trial: usize,
    /// What that rests on.
    pub basis: Basis,
    /// The last round; none where there was none.
    pub last_round: Option<LastRound>,
}

/// What a recommendation rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The found schedule was better on fresh seeds, with a probability of at least [`CONFIDENCE`].
    Shown,
    /// It was not, and the best schedule that needs no search is recommended.
    NotShown,
    /// The largest posterior mean; fresh seeds were not tried, or not to the end.
    Untested,
}

/// The best that a search found against the best that needs no search, fine-tuned with the same fresh seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LastRound {
    /// The trial of the found schedule.
    pub found: usize,
    /// The trial of the other one.
    pub safe: usize,
    /// Mean score of the found one minus that of the other, over the seeds; not a number where no seed gave both scores.
    pub difference: f64,
    /// Lower end of its 95 % interval (Student's, paired by seed); absent with fewer than two seeds.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Probability that the found one is better, by the same distribution with a flat prior.
    pub probability: Option<f64>,
    /// Seeds that gave both scores.
    pub seeds: usize,
}

/// What to run next so that a schedule can be recommended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Trials whose schedules are fine-tuned again, each with a seed.
    Run(Vec<(usize, u64)>),
    /// Nothing before what runs has been told.
    Wait,
    /// Nothing: the last two, the found one first.
    Over(usize, usize),
    /// Nothing: there are not both kinds of schedules.
    Alone,
}

/// The schedules that are tried with fresh seeds, by the numbers of their trials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contestants {
    safe: Vec<usize>,
    found: Vec<usize>,
}

impl Contestants {
    /// Those of a study of which all trials are told; `posterior` has the mean of each complete one.
    pub fn new(study: &Study, posterior: &[f64]) -> Self {
        let mut by_mean: Vec<(&Trial, f64)> = study.complete().zip(posterior.iter().copied()).collect();
        // Stable: the earliest of equals comes first.
        by_mean.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let (safe, found): (Vec<_>, Vec<_>) =
            by_mean.into_iter().map(|(trial, _)| trial).partition(|trial| is_safe(trial));
        let numbers = |trials: Vec<&Trial>, most: usize| trials.iter().take(most).map(|trial| trial.number).collect();
        Self { safe: numbers(safe, usize::MAX), found: numbers(found, CHALLENGERS) }
    }

    /// What is to be run next with fresh seeds, which follow `seed`; `replicates` are those of the last two schedules.
    pub fn next(&self, study: &Study, replicates: usize, seed: u64) -> Next {
        let (mut safe, mut found) = (self.safe.clone(), self.found.clone());
        for (seeds, kept) in [(replicates / 4, 3), (replicates / 2, 2), (replicates, 2)] {
            if safe.is_empty() || found.is_empty() {
                return Next::Alone;
            }
            let (mut missing, mut runs) = (Vec::new(), false);
            for seed in fresh_seeds(seed, 0..seeds) {
                for &of in safe.iter().chain(&found) {
                    match replicate(study, of, seed).map(|trial| trial.state) {
                        None => missing.push((of, seed)),
                        Some(TrialState::Running) => runs = true,
                        Some(_) => {}
                    }
                }
            }
            if !missing.is_empty() {
                return Next::Run(missing);
            }
            if runs {
                return Next::Wait;
            }
            let mean = |of: &usize| mean_of(study, *of, &fresh_seeds(seed, 0..seeds));
            let sort = |numbers: &mut Vec<usize>| numbers.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            sort(&mut safe);
            sort(&mut found);
            // The best of each kind, and as many of the rest as are kept, the best first.
            let rest =
                safe.get(1).into_iter().map(|of| (of, true)).chain(found.get(1).into_iter().map(|of| (of, false)));
            let third = rest.fold(None, |best: Option<(&usize, bool)>, other| match best {
                Some(best) if mean(best.0) >= mean(other.0) => Some(best),
                _ => Some(other),
            });
            let (two_safe, two_found) = match third.filter(|_| kept > 2) {
                Some((_, true)) => (2, 1),
                Some((_, false)) => (1, 2),
                None => (1, 1),
            };
            safe.truncate(two_safe);
            found.truncate(two_found);
        }
        match (found.first(), safe.first()) {
            (Some(found), Some(safe)) => Next::Over(*found, *safe),
            _ => Next::Alone,
        }
    }
}

/// The recommendation of a study in which nothing is left to run between these two.
pub(super) fn judged(study: &Study, found: usize, safe: usize, replicates: usize, seed: u64) -> Pick {
    let seeds = fresh_seeds(seed, replicates / 2..replicates);
    let score = |of: usize, seed: u64| replicate(study, of, seed).and_then(|trial| trial.objective);
    let pairs = seeds.iter().filter_map(|seed| Some(score(found, *seed)? - score(safe, *seed)?));
    let differences: Vec<f64> = pairs.collect();
    let difference = mean(&differences).unwrap_or(f64::NAN);
    let error = deviation(&differences).map(|deviation| deviation / (differences.len() as f64).sqrt());
    let half = error.map(|error| student_quantile_975(differences.len() - 1) * error);
    let probability = error.map(|error| match difference / error {
        // No difference on any seed.
        ratio if ratio.is_nan() => 0.5,
        ratio => 1.0 - student_above(ratio, differences.len() - 1),
    });
    let failures = |of: usize| seeds.iter().filter(|seed| score(of, **seed).is_none()).count();
    let shown = match probability {
        // Where one of the two fails with most seeds, nothing else tells them apart.
        None => failures(found) < failures(safe),
        Some(probability) => probability >= CONFIDENCE && failures(found) <= failures(safe),
    };
    let last_round = LastRound {
        found,
        safe,
        difference,
        low: half.map(|half| difference - half),
        high: half.map(|half| difference + half),
        probability,
        seeds: differences.len(),
    };
    let (trial, basis) = if shown { (found, Basis::Shown) } else { (safe, Basis::NotShown) };
    Pick { trial, basis, last_round: Some(last_round) }
}

/// The complete trial with the largest posterior mean, the earliest of equals.
pub(super) fn untested(study: &Study, posterior: &[f64]) -> Option<Pick> {
    let trials = study.complete().zip(posterior);
    let best = trials.reduce(|best, other| if other.1 > best.1 { other } else { best });
    best.map(|(trial, _)| Pick { trial: trial.number, basis: Basis::Untested, last_round: None })
}

fn is_safe(trial: &Trial) -> bool {
    matches!(&trial.origin, Origin::Start { name } if SAFE.contains(&name.as_str()))
}

fn fresh_seeds(seed: u64, places: std::ops::Range<usize>) -> Vec<u64> {
    places.map(|place| seed.wrapping_add(1 + place as u64)).collect()
}

/// The trial that fine-tuned a trial's schedule again with a seed.
fn replicate(study: &Study, of: usize, seed: u64) -> Option<&Trial> {
    let is_it = |trial: &&Trial| matches!(trial.origin, Origin::Replicate { of: other } if other == of);
    study.trials.iter().filter(is_it).find(|trial| trial.seed == seed)
}

/// Mean score with these seeds; nothing is below that of a schedule that failed with one of them.
fn mean_of(study: &Study, of: usize, seeds: &[u64]) -> f64 {
    let scores: Option<Vec<f64>> = seeds.iter().map(|seed| replicate(study, of, *seed)?.objective).collect();
    scores.and_then(|scores| mean(&scores)).unwrap_or(f64::NEG_INFINITY)
}
