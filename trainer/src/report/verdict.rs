//! Whether HyDRA won, computed from the scores.

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

    /// Variance of the mean.
    fn variance_of_mean(self) -> f64 {
        self.deviation * self.deviation / self.seeds as f64
    }
}

/// How two arms compare on one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Better by more than one standard error of the difference.
    Win,
    /// Within one standard error of the difference.
    Tie,
    /// Worse by more than one standard error of the difference.
    Loss,
    /// Cannot be judged: fewer than two seeds in an arm, or a score that is missing.
    Unknown,
}

/// A difference between two arms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Mean of the first minus mean of the second.
    pub value: f64,
    /// Standard error of it.
    pub standard_error: f64,
    /// What follows.
    pub outcome: Outcome,
}

/// Compares two arms by their scores over seeds.
pub fn compare(hydra: &[f64], uniform: &[f64]) -> Difference {
    let (Some(a), Some(b)) = (Spread::of(hydra), Spread::of(uniform)) else {
        return Difference { value: f64::NAN, standard_error: f64::NAN, outcome: Outcome::Unknown };
    };
    let value = a.mean - b.mean;
    let standard_error = (a.variance_of_mean() + b.variance_of_mean()).sqrt();
    let outcome = if a.seeds < 2 || b.seeds < 2 {
        Outcome::Unknown
    } else if value.abs() <= standard_error {
        Outcome::Tie
    } else if value > 0.0 {
        Outcome::Win
    } else {
        Outcome::Loss
    };
    Difference { value, standard_error, outcome }
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
    fn a_difference_within_one_standard_error_is_a_tie_and_beyond_it_a_win_or_a_loss() {
        // Deviation 1, three seeds each: the standard error of the difference is sqrt(2/3) = 0.816.
        let around = |mean: f64| [mean - 1.0, mean, mean + 1.0];
        assert_eq!(compare(&around(50.8), &around(50.0)).outcome, Outcome::Tie);
        assert_eq!(compare(&around(50.9), &around(50.0)).outcome, Outcome::Win);
        assert_eq!(compare(&around(49.2), &around(50.0)).outcome, Outcome::Tie);
        assert_eq!(compare(&around(49.1), &around(50.0)).outcome, Outcome::Loss);
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
