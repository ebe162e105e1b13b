//! What one notch more of a choice of a made-up search would cost or change.

use hydra_shared::layout::Ranks;
use hydra_shared::search::{Origin, PlainStart, SearchConfig, SyntheticConfig, SyntheticSurface, most_replicates};
use hydra_shared::statistics::student_quantile_975;

use crate::messages::performance::{MOST_TRIALS, Progress, Synthetic};
use crate::text::signed;

/// Trials over which the last gain is told.
const LAST: usize = 4;

/// A choice with a slider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notch {
    /// Fresh seeds at the end.
    Seeds,
    /// First trials, without a model.
    Starts,
    /// Trials of different schedules.
    Trials,
    /// How far gradients tell the gains.
    Agreement,
    /// The noise of a score.
    Noise,
}

impl Notch {
    /// Its lowest and its highest value, and the distance of two.
    pub fn range(self) -> ((f64, f64), f64) {
        match self {
            Self::Seeds => ((0.0, 16.0), 4.0),
            Self::Starts => ((1.0, 24.0), 1.0),
            Self::Trials => ((4.0, MOST_TRIALS as f64), 1.0),
            Self::Agreement => ((0.0, 1.0), 0.05),
            Self::Noise => ((0.0, 2.0), 0.05),
        }
    }

    /// What one notch more would do, in a sentence or two; none at its end, or where nothing is known to say it with.
    pub fn one_more(self, made_up: &Synthetic, config: &SearchConfig, progress: Option<&Progress>) -> Option<String> {
        let ((_, most), step) = self.range();
        let now = match self {
            Self::Seeds => config.replicates as f64,
            Self::Starts => config.starts as f64,
            Self::Trials => config.trials as f64,
            Self::Agreement => made_up.response.agreement,
            Self::Noise => made_up.response.noise,
        };
        let next = now + step;
        // Twentieths are not exact.
        if next > most + 1e-9 {
            return None;
        }
        match self {
            Self::Seeds => Some(seeds(now as usize, next as usize, made_up.response.noise)),
            Self::Starts => Some(starts(made_up, config)),
            Self::Trials => trials(progress?),
            Self::Agreement => agreement(made_up, next),
            Self::Noise => noise(now, next, progress?),
        }
    }
}

fn seeds(now: usize, next: usize, noise: f64) -> String {
    let cost = most_replicates(next);
    // The last round has half of the seeds. A score is the mean of two, a difference that of two scores. The interval is the
    // verdict's own.
    let error = |seeds: usize| {
        let last = seeds - seeds / 2;
        student_quantile_975(last.saturating_sub(1).max(1)) * noise / (last as f64).sqrt()
    };
    let before = if now == 0 { String::new() } else { format!(" instead of ± {:.2}", error(now)) };
    format!(
        "One step more costs at most {} fine-tunes more, {cost} in all, and tells the last two schedules apart to about ± {:.2} (95 %){before}.",
        cost - most_replicates(now),
        error(next)
    )
}

fn starts(made_up: &Synthetic, config: &SearchConfig) -> String {
    let Synthetic { about, starts, .. } = made_up;
    let is_within = |start: &&PlainStart| {
        Ranks::new(&about.layout, start.ranks.clone()).is_ok_and(|ranks| about.budget.holds(&ranks))
    };
    let next =
        starts.iter().filter(is_within).nth(config.starts).map_or("a random schedule", |start| start.name.as_str());
    let all = config.trials.max(config.starts + 1);
    format!("One more is {next}, and leaves {} of {all} trials for a model to propose.", all - config.starts - 1)
}

fn trials(progress: &Progress) -> Option<String> {
    let best = &progress.curves.iter().find(|curve| curve.shown)?.best;
    let last = best.len().checked_sub(LAST + 1)?;
    let gain = best.last()? - best.get(last)?;
    Some(format!(
        "One more is a fine-tune more. The last {LAST} changed what the best schedule is worth by {}.",
        signed(gain, 2)
    ))
}

fn agreement(made_up: &Synthetic, next: f64) -> Option<String> {
    let Synthetic { about, response, starts } = made_up;
    let worth = |agreement: f64, name: &str| {
        let response = SyntheticConfig { agreement, ..*response };
        let surface = SyntheticSurface::new(&about.layout, about.base_rank, about.profile.as_ref(), response);
        let start = starts.iter().find(|start| start.name == name)?;
        Some(surface.expected(&Ranks::new(&about.layout, start.ranks.clone()).ok()?))
    };
    let gain = |agreement: f64| Some(worth(agreement, "coarse + fine")? - worth(agreement, "uniform")?);
    let [before, after] = [gain(response.agreement)?, gain(next)?].map(|gain| signed(gain, 2));
    Some(format!("One step more: HyDRA's plan is worth {after} against uniform LoRA, where it is {before} now."))
}

fn noise(now: f64, next: f64, progress: &Progress) -> Option<String> {
    // What two values of one normal distribution differ by, each the mean of two scores.
    let differ = |noise: f64| noise * std::f64::consts::FRAC_2_SQRT_PI / std::f64::consts::SQRT_2;
    let is_uniform = |origin: &Origin| matches!(origin, Origin::Start { name } if name == "uniform");
    let uniform = progress.trials.iter().position(|trial| is_uniform(&trial.origin))?;
    let room = progress.optimum.as_ref()?.score - progress.truths.get(uniform)?;
    Some(format!(
        "One step more: two fine-tunes of one schedule differ by {:.2} on average instead of {:.2}; the best schedule that is \
         known is {room:.2} better than uniform LoRA.",
        differ(next),
        differ(now)
    ))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use hydra_shared::search::{Optimum, TrialState};

    use super::*;
    use crate::messages::performance::{Curve, Next};
    use crate::samples::Sample;
    use crate::session::Session;

    fn made_up() -> Synthetic {
        Synthetic::of_session(&Session::of_sample(Sample::TinyMobileVlm), SyntheticConfig::default()).unwrap()
    }

    fn progress() -> Progress {
        let trial = |(number, name): (usize, &str)| hydra_shared::search::PlainTrial {
            number,
            ranks: vec![4; 42],
            state: TrialState::Complete,
            scores: Default::default(),
            objective: Some(60.0),
            origin: Origin::Start { name: name.to_owned() },
            seed: 0,
            wall_seconds: None,
            error: None,
        };
        Progress {
            id: 1,
            trials: ["coarse", "uniform"].into_iter().enumerate().map(trial).collect(),
            fits: Vec::new(),
            next: Next::TooManyTrials,
            optimum: Some(Optimum { ranks: vec![4; 42], score: 61.0, bound: 61.5 }),
            curves: vec![Curve {
                model: None,
                title: "random".to_owned(),
                shown: true,
                best: vec![50.0, 60.0, 60.0, 60.2, 60.1, 60.25],
            }],
            pick: None,
            fresh: Vec::new(),
            truths: vec![59.0, 60.0],
            written: None,
            milliseconds: 2600.0,
        }
    }

    fn more(notch: Notch, config: SearchConfig) -> Option<String> {
        notch.one_more(&made_up(), &config, Some(&progress()))
    }

    #[test]
    fn one_notch_more_of_a_search_is_told_with_what_it_costs_and_changes() {
        let config = SearchConfig { starts: 5, trials: 16, replicates: 8, ..SearchConfig::default() };
        assert_eq!(
            more(Notch::Seeds, config).unwrap(),
            "One step more costs at most 13 fine-tunes more, 39 in all, and tells the last two schedules apart to about ± 0.21 \
             (95 %) instead of ± 0.32."
        );
        assert_eq!(
            more(Notch::Starts, config).unwrap(),
            "One more is norm-proportional, and leaves 10 of 16 trials for a model to propose."
        );
        assert_eq!(
            more(Notch::Trials, config).unwrap(),
            "One more is a fine-tune more. The last 4 changed what the best schedule is worth by +0.25."
        );
        assert_eq!(
            more(Notch::Noise, config).unwrap(),
            "One step more: two fine-tunes of one schedule differ by 0.20 on average instead of 0.16; the best schedule that is \
             known is 1.00 better than uniform LoRA."
        );
        let gains = more(Notch::Agreement, config).unwrap();
        assert!(gains.starts_with("One step more: HyDRA's plan is worth ") && gains.contains("where it is"), "{gains}");
    }

    #[test]
    fn at_its_end_a_choice_has_no_notch_more_and_what_is_not_known_is_not_told() {
        let config = SearchConfig { starts: 24, trials: MOST_TRIALS, replicates: 16, ..SearchConfig::default() };
        for notch in [Notch::Seeds, Notch::Starts, Notch::Trials] {
            assert_eq!(more(notch, config), None, "{notch:?}");
        }
        let mut made_up = made_up();
        (made_up.response.agreement, made_up.response.noise) = (0.95, 1.95);
        assert!(Notch::Agreement.one_more(&made_up, &config, None).is_some(), "the last notch");
        assert_eq!(Notch::Noise.one_more(&made_up, &config, None), None, "nothing was measured yet");
        (made_up.response.agreement, made_up.response.noise) = (1.0, 2.0);
        for notch in [Notch::Agreement, Notch::Noise] {
            assert_eq!(notch.one_more(&made_up, &config, Some(&progress())), None, "{notch:?}");
        }
        let first = SearchConfig { starts: 23, trials: 8, replicates: 0, ..config };
        assert!(more(Notch::Starts, first).unwrap().contains("a random schedule, and leaves 0 of 24 trials"));
        assert!(!more(Notch::Seeds, first).unwrap().contains("instead"));
    }
}
