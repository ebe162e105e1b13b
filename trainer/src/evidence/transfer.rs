//! Whether what a schedule is worth on one task says what it is worth on another, and whether a performance model fitted on some tasks
//! predicts others.

use std::sync::Arc;

use anyhow::Result;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::performance::{FeatureSpace, ModelKind, Observations};
use hydra_shared::statistics::{Interval, kendall, mean_interval};

use super::analysis::{reported, tuned_rates};
use super::file::Experiment;
use super::nested::Alone;
use super::record::Record;
use crate::train::experiment::ExperimentConfig;

/// Schedules that say something of an order.
const LEAST_SCHEDULES: usize = 20;
/// Parts of the schedules, each of which is predicted by a model that was fitted on the others.
const FOLDS: usize = 5;

/// How well something that is known of one fine-tune of each schedule orders them by their held-out loss on each task.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// The tasks that are predicted.
    pub tasks: Vec<String>,
    /// What orders, with Kendall's τ for each task.
    pub judges: Vec<(String, Vec<Option<Interval>>)>,
}

/// Losses by replicate, schedule and task.
type Losses = Vec<Vec<Vec<f64>>>;

/// One fine-tune of each schedule as a judge of all tasks; nothing where there are few schedules or replicates, or only one task.
///
/// The losses of one replicate are what is known; what is judged by is the mean of the others. Each replicate is the known one in
/// turn, over which the intervals are.
///
/// # Errors
/// Ranks that do not fit the layout.
pub fn transfer(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    schedules: &[Alone],
    layout: &Arc<Layout>,
) -> Result<Option<Transfer>> {
    let Some((baseline, others)) = schedules.split_first() else { return Ok(None) };
    let rates = tuned_rates(experiment, config, records);
    let by_arm = reported(experiment, config, records, &rates, experiment.steps[0]);
    let measured = |arm: usize, replicate: u64| Some(by_arm.get(&arm)?.get(&replicate)?.1);
    let replicates: Vec<u64> = baseline.measured.keys().copied().collect();
    let first = replicates.first().and_then(|replicate| measured(baseline.arm, *replicate));
    let tasks: Vec<String> = first.map(|first| first.held_out_loss.keys().cloned().collect()).unwrap_or_default();
    if others.len() < LEAST_SCHEDULES || replicates.len() < 2 || tasks.len() < 2 {
        return Ok(None);
    }
    let loss = |alone: &Alone, replicate: u64, task: &str| {
        measured(alone.arm, replicate)
            .and_then(|measured| measured.held_out_loss.get(task))
            .copied()
            .unwrap_or(f64::NAN)
    };
    let of = |replicate: &u64| {
        let of_schedule = |alone: &Alone| tasks.iter().map(|task| loss(alone, *replicate, task)).collect();
        others.iter().map(of_schedule).collect()
    };
    let losses: Losses = replicates.iter().map(of).collect();
    let ranks = others.iter().map(|alone| Ranks::new(layout, alone.ranks.clone())).collect::<Result<Vec<_>, _>>()?;
    judged(&tasks, &losses, &ranks).map(Some)
}

/// What is known of one fine-tune of each schedule.
enum Known {
    /// Its loss on this task.
    Task(usize),
    /// Its mean loss on all tasks but the one that is predicted.
    Others,
    /// What a model says that was fitted on these of other schedules.
    OthersByModel,
    /// The same of the task that is predicted.
    ItselfByModel,
}

impl Known {
    /// Kendall's τ with the mean loss on a task in the other replicates.
    fn tau(&self, losses: &Losses, ranks: &[Ranks], replicate: usize, task: usize) -> Result<f64> {
        let target = mean_without(losses, replicate, task);
        let count = losses.first().and_then(|own| own.first()).map_or(0, Vec::len);
        let others = || (0..count).filter(|other| *other != task).collect::<Vec<usize>>();
        let of = |tasks: &[usize]| standardized(losses, replicate, tasks);
        match self {
            Self::Task(known) => Ok(tau(&of(&[*known]), &target)),
            Self::Others => Ok(tau(&of(&others()), &target)),
            Self::OthersByModel => predicted(&of(&others()), ranks, &target),
            Self::ItselfByModel => predicted(&of(&[task]), ranks, &target),
        }
    }
}

fn judged(tasks: &[String], losses: &Losses, ranks: &[Ranks]) -> Result<Transfer> {
    let by_task = tasks.iter().enumerate().map(|(task, name)| (format!("its loss on {name}"), Known::Task(task)));
    let named = [
        ("its mean loss on the other tasks", Known::Others),
        ("a model fitted on the other tasks and other schedules", Known::OthersByModel),
        ("a model fitted on the task itself and other schedules", Known::ItselfByModel),
    ];
    let mut judges = Vec::new();
    for (name, known) in by_task.chain(named.map(|(name, known)| (name.to_owned(), known))) {
        let of = |task: usize| {
            let taus = (0..losses.len()).map(|replicate| known.tau(losses, ranks, replicate, task));
            Ok(mean_interval(&taus.collect::<Result<Vec<f64>>>()?, 1))
        };
        judges.push((name, (0..tasks.len()).map(of).collect::<Result<Vec<_>>>()?));
    }
    Ok(Transfer { tasks: tasks.to_vec(), judges })
}

/// Mean loss of each schedule on a task over all replicates but one.
fn mean_without(losses: &Losses, left_out: usize, task: usize) -> Vec<f64> {
    let others: Vec<_> = losses.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, own)| own).collect();
    let schedules = others.first().map_or(0, |own| own.len());
    (0..schedules).map(|at| others.iter().map(|own| own[at][task]).sum::<f64>() / others.len() as f64).collect()
}

/// Mean loss of each schedule on some tasks in a replicate, each task's with mean 0 and deviation 1 over the schedules.
fn standardized(losses: &Losses, replicate: usize, tasks: &[usize]) -> Vec<f64> {
    let own = &losses[replicate];
    let mut sums = vec![0.0; own.len()];
    for &task in tasks {
        let values: Vec<f64> = own.iter().map(|schedule| schedule[task]).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += (value - mean) / deviation.max(f64::MIN_POSITIVE));
    }
    sums
}

fn tau(a: &[f64], b: &[f64]) -> f64 {
    kendall(a, b).unwrap_or(f64::NAN)
}

/// How well ridge regression, fitted on the losses of other schedules, orders schedules as `target` does. Within each part of them: the
/// levels of several models, each of which saw what the others predict, would order the parts against what is true.
fn predicted(losses: &[f64], ranks: &[Ranks], target: &[f64]) -> Result<f64> {
    let Some(layout) = ranks.first().map(Ranks::layout) else { return Ok(f64::NAN) };
    let space = FeatureSpace::new(layout, 1, None);
    let mut sum = 0.0;
    for fold in 0..FOLDS {
        let (own, others): (Vec<usize>, Vec<usize>) = (0..losses.len()).partition(|at| at % FOLDS == fold);
        let observations = Observations {
            schedules: others.iter().map(|at| ranks[*at].clone()).collect(),
            scores: others.iter().map(|at| vec![-losses[*at]]).collect(),
        };
        let fitted = ModelKind::Ridge.build().fit(&space, &observations, 1)?;
        let asked: Vec<Ranks> = own.iter().map(|at| ranks[*at].clone()).collect();
        let found: Vec<f64> = fitted.predict(&asked)?.iter().map(|prediction| -prediction.objective.mean).collect();
        sum += tau(&found, &own.iter().map(|at| target[*at]).collect::<Vec<f64>>());
    }
    Ok(sum / FOLDS as f64)
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::spec::ModelSpec;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn tasks_that_share_what_rank_is_worth_predict_each_other_and_one_of_its_own_does_not() {
        let layout = ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let ranks: Vec<Ranks> = (0..60).map(|_| Ranks::from_fn(&layout, |_| random.random_range(1..8))).collect();
        let of = |ranks: &Ranks, module: usize| -f64::from(ranks.as_slice()[module]).log2();
        let mut replicate = || {
            let mut luck = || random.random_range(-0.3..0.3);
            let losses =
                |ranks: &Ranks| vec![of(ranks, 0) + luck(), 3.0 * of(ranks, 0) + luck(), of(ranks, 20) + luck()];
            ranks.iter().map(losses).collect::<Vec<_>>()
        };
        let losses: Losses = (0..4).map(|_| replicate()).collect();
        let tasks = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let Transfer { judges, .. } = judged(&tasks, &losses, &ranks).unwrap();
        let tau = |judge: usize, task: usize| judges[judge].1[task].as_ref().unwrap().estimate;
        assert!(tau(0, 0) > 0.7 && tau(0, 1) > 0.7 && tau(0, 2).abs() < 0.2, "{judges:?}");
        assert!(tau(2, 2) > 0.7 && tau(2, 0).abs() < 0.2, "{judges:?}");
        let (of_others, of_itself) = (4, 5);
        assert!(tau(of_itself, 0) > 0.5 && tau(of_itself, 2) > 0.5, "{judges:?}");
        assert!(tau(of_others, 0) > 0.3 && tau(of_others, 2).abs() < 0.2, "{judges:?}");
    }
}
