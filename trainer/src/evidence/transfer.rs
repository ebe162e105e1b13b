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

fn judged(tasks: &[String], losses: &Losses, ranks: &[Ranks]) -> Result<Transfer> {
    let all: Vec<usize> = (0..tasks.len()).collect();
    let but = |task: usize| all.iter().copied().filter(|other| *other != task).collect::<Vec<usize>>();
    let taus = |order: &dyn Fn(usize, usize) -> Result<Vec<f64>>| -> Result<Vec<Option<Interval>>> {
        let of = |task: usize| {
            let known = |replicate: usize| {
                let target = mean_without(losses, replicate, task);
                Ok(kendall(&order(replicate, task)?, &target).unwrap_or(f64::NAN))
            };
            let values = (0..losses.len()).map(known).collect::<Result<Vec<f64>>>()?;
            Ok(mean_interval(&values, 1))
        };
        (0..tasks.len()).map(of).collect()
    };
    let mut judges = Vec::new();
    for (known, name) in tasks.iter().enumerate() {
        let order = |replicate: usize, _| Ok(standardized(losses, replicate, &[known]));
        judges.push((format!("its loss on {name}"), taus(&order)?));
    }
    let of_others = |replicate: usize, task: usize| Ok(standardized(losses, replicate, &but(task)));
    judges.push(("its mean loss on the other tasks".to_owned(), taus(&of_others)?));
    let model_of_others =
        |replicate: usize, task: usize| predicted(&standardized(losses, replicate, &but(task)), ranks);
    judges.push(("a model fitted on the other tasks and other schedules".to_owned(), taus(&model_of_others)?));
    let model_of_task = |replicate: usize, task: usize| predicted(&standardized(losses, replicate, &[task]), ranks);
    judges.push(("a model fitted on the task itself and other schedules".to_owned(), taus(&model_of_task)?));
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

/// What ridge regression on log-ranks says of each schedule, fitted on the losses of others.
fn predicted(losses: &[f64], ranks: &[Ranks]) -> Result<Vec<f64>> {
    let Some(layout) = ranks.first().map(Ranks::layout) else { return Ok(Vec::new()) };
    let space = FeatureSpace::new(layout, 1, None);
    let mut found = vec![f64::NAN; losses.len()];
    for fold in 0..FOLDS {
        let (own, others): (Vec<usize>, Vec<usize>) = (0..losses.len()).partition(|at| at % FOLDS == fold);
        let observations = Observations {
            schedules: others.iter().map(|at| ranks[*at].clone()).collect(),
            scores: others.iter().map(|at| vec![-losses[*at]]).collect(),
        };
        let fitted = ModelKind::Ridge.build().fit(&space, &observations, 1)?;
        let asked: Vec<Ranks> = own.iter().map(|at| ranks[*at].clone()).collect();
        for (at, prediction) in own.iter().zip(fitted.predict(&asked)?) {
            found[*at] = -prediction.objective.mean;
        }
    }
    Ok(found)
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
