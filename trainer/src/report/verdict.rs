//! Whether HyDRA won, computed from the scores.

use hydra_shared::statistics::{Interval, mean_interval};

use super::data::{ArmRow, ComparisonSection};

/// Mean and spread of one arm's scores over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean over seeds.
    pub mean: f64,
    /// Sample standard deviation over seeds; 0 for fewer than two.
    pub deviation: f64,
    /// Number of seeds.
    pub seeds: usize,
}

impl Spread {
    /// Of some scores; `None` where there are none or one is not finite.
    pub fn of(scores: &[f64]) -> Option<Self> {
        if scores.is_empty() || scores.iter().any(|score| !score.is_finite()) {
            return None;
        }
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let squares = scores.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>();
        let deviation = if scores.len() < 2 { 0.0 } else { (squares / (count - 1.0)).sqrt() };
        Some(Self { mean, deviation, seeds: scores.len() })
    }
}

/// How two arms compare on one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Better: the whole 95 % interval of the difference is above 0.
    Win,
    /// The interval holds 0.
    Tie,
    /// Worse: the whole interval is below 0.
    Loss,
    /// Cannot be judged: fewer than two seeds in an arm, or a score that is missing.
    Unknown,
}

/// A difference between two arms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Mean of the first minus mean of the second.
    pub value: f64,
    /// Its 95 % interval, paired by seed; none with fewer than two pairs.
    pub interval: Option<Interval>,
    /// What follows.
    pub outcome: Outcome,
}

/// Compares two arms by their scores over the same seeds.
pub fn compare(hydra: &[f64], uniform: &[f64]) -> Difference {
    let differences: Vec<f64> = hydra.iter().zip(uniform).map(|(a, b)| a - b).collect();
    let interval = (hydra.len() == uniform.len()).then(|| mean_interval(&differences, 1)).flatten();
    let outcome = match interval {
        None => Outcome::Unknown,
        Some(Interval { low, .. }) if low > 0.0 => Outcome::Win,
        Some(Interval { high, .. }) if high < 0.0 => Outcome::Loss,
        Some(_) => Outcome::Tie,
    };
    let value = match (Spread::of(hydra), Spread::of(uniform)) {
        (Some(a), Some(b)) => a.mean - b.mean,
        _ => f64::NAN,
    };
    Difference { value, interval, outcome }
}

/// The verdict on one arm against uniform LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The arm with the most of HyDRA in it.
    pub arm: String,
    /// One per task, with the task's name.
    pub tasks: Vec<(String, Difference)>,
    /// On the mean over tasks.
    pub mean: Difference,
    /// Whether the arm trains more parameters than uniform LoRA, which makes the comparison unfair.
    pub over_budget: bool,
}

impl Verdict {
    /// Names of the tasks with that outcome.
    pub fn tasks_with(&self, outcome: Outcome) -> Vec<&str> {
        self.tasks.iter().filter(|(_, d)| d.outcome == outcome).map(|(name, _)| name.as_str()).collect()
    }
}

/// Judges HyDRA's furthest arm against uniform LoRA; `None` where one of the two is missing.
pub fn verdict(comparison: &ComparisonSection) -> Option<Verdict> {
    let uniform = comparison.arms.iter().find(|arm| arm.kind == super::data::ArmKind::Uniform)?;
    let hydra =
        comparison.arms.iter().filter(|arm| arm.kind.hydra_steps() > 0).max_by_key(|arm| arm.kind.hydra_steps())?;
    let scores = |arm: &ArmRow, task: usize| arm.scores.get(task).cloned().unwrap_or_default();
    let tasks = comparison
        .tasks
        .iter()
        .enumerate()
        .map(|(index, task)| (task.name.clone(), compare(&scores(hydra, index), &scores(uniform, index))))
        .collect();
    Some(Verdict {
        arm: hydra.name.clone(),
        tasks,
        mean: compare(&mean_over_tasks(hydra), &mean_over_tasks(uniform)),
        over_budget: hydra.trainable_parameters > uniform.trainable_parameters,
    })
}

/// Mean over tasks of every seed; empty where the tasks have different numbers of seeds.
pub fn mean_over_tasks(arm: &ArmRow) -> Vec<f64> {
    let Some(first) = arm.scores.first() else { return Vec::new() };
    if arm.scores.iter().any(|scores| scores.len() != first.len()) {
        return Vec::new();
    }
    let tasks = arm.scores.len() as f64;
    (0..first.len()).map(|seed| arm.scores.iter().filter_map(|scores| scores.get(seed)).sum::<f64>() / tasks).collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::{ArmKind, TaskColumn};
    use super::*;

    fn arm(name: &str, kind: ArmKind, scores: &[&[f64]]) -> ArmRow {
        ArmRow {
            name: name.to_owned(),
            kind,
            trainable_parameters: 100,
            scores: scores.iter().map(|s| s.to_vec()).collect(),
        }
    }

    fn comparison(arms: Vec<ArmRow>) -> ComparisonSection {
        let tasks = ["existence", "perception", "open"]
            .map(|name| TaskColumn { name: name.to_owned(), metric: "accuracy, %".to_owned() });
        ComparisonSection { split: "test".to_owned(), tasks: tasks.to_vec(), arms }
    }

    #[test]
    fn a_spread_is_the_sample_standard_deviation() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 6.0]).unwrap();
        assert_eq!(spread.mean, 4.0);
        assert_eq!(spread.deviation, (8.0_f64 / 3.0).sqrt());
        assert_eq!(Spread::of(&[5.0]).unwrap().deviation, 0.0);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_difference_is_a_win_or_a_loss_only_where_its_interval_excludes_zero() {
        // Pairs differ by `by` give or take 0.1: the interval is by ± 4.303 · 0.1 / √3, that is 0.248.
        let pair = |by: f64| compare(&[40.0 + by, 50.1 + by, 59.9 + by], &[40.0, 50.0, 60.0]);
        assert_eq!(pair(0.25).outcome, Outcome::Win);
        assert_eq!(pair(0.24).outcome, Outcome::Tie);
        assert_eq!(pair(-0.24).outcome, Outcome::Tie);
        assert_eq!(pair(-0.25).outcome, Outcome::Loss);
        assert_eq!(compare(&[50.0, 50.0], &[50.0, 50.0]).outcome, Outcome::Tie);
    }

    #[test]
    fn one_seed_or_a_missing_score_is_never_called_a_win() {
        assert_eq!(compare(&[90.0], &[10.0]).outcome, Outcome::Unknown);
        assert_eq!(compare(&[90.0, 91.0], &[10.0]).outcome, Outcome::Unknown);
        assert_eq!(compare(&[90.0, f64::NAN], &[10.0, 11.0]).outcome, Outcome::Unknown);
        assert_eq!(compare(&[], &[10.0, 11.0]).outcome, Outcome::Unknown);
    }

    #[test]
    fn the_verdict_is_about_the_searched_arm_where_there_is_one_and_names_its_losses() {
        let verdict = verdict(&comparison(vec![
            arm("uniform LoRA", ArmKind::Uniform, &[&[50.0, 50.2], &[60.0, 60.2], &[70.0, 71.0]]),
            arm("searched", ArmKind::Searched, &[&[55.0, 55.2], &[58.0, 58.2], &[70.2, 71.0]]),
            arm("coarse", ArmKind::Coarse, &[&[90.0, 90.0], &[90.0, 90.0], &[90.0, 90.0]]),
        ]))
        .unwrap();
        assert_eq!(verdict.arm, "searched");
        assert_eq!(verdict.tasks_with(Outcome::Win), ["existence"]);
        assert_eq!(verdict.tasks_with(Outcome::Loss), ["perception"]);
        assert_eq!(verdict.tasks_with(Outcome::Tie), ["open"]);
        assert!(!verdict.over_budget);
    }

    #[test]
    fn an_arm_that_trains_more_parameters_is_marked_as_unfair() {
        let mut larger = arm("searched", ArmKind::Searched, &[&[1.0, 1.0], &[1.0, 1.0], &[1.0, 1.0]]);
        larger.trainable_parameters += 1;
        let uniform = arm("uniform LoRA", ArmKind::Uniform, &[&[1.0, 1.0], &[1.0, 1.0], &[1.0, 1.0]]);
        assert!(verdict(&comparison(vec![uniform, larger])).unwrap().over_budget);
    }

    #[test]
    fn without_uniform_lora_there_is_no_verdict() {
        assert_eq!(verdict(&comparison(vec![arm("searched", ArmKind::Searched, &[])])), None);
    }
}
