//! An experiment's fine-tunes as a study: what Optuna's tools and the playground open.

use std::sync::Arc;

use anyhow::Result;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::search::{Journal, Origin, StudyMetadata, Timestamp, Trial, TrialState};
use hydra_shared::statistics::mean;

use super::analysis::{reported, tuned_rates};
use super::arm::RankRule;
use super::file::Experiment;
use super::record::Record;
use crate::error::{Kind, failure};
use crate::train::experiment::ExperimentConfig;

/// The reported fine-tunes of an experiment's first length as Optuna's journal: a trial for each schedule within the budget, under
/// the experiment's own scale, that was run on every replicate, at most `most` of them, and its other replicates as trials of
/// the same schedule with a fresh seed.
///
/// The baseline comes first. Times count from 0: results have seconds and no clock.
///
/// # Errors
/// An experiment without such schedules, ranks that do not fit the layout.
pub fn journal(
    experiment: &Experiment,
    config: &ExperimentConfig,
    records: &[Record],
    layout: &Arc<Layout>,
    name: &str,
    most: usize,
) -> Result<String> {
    let rates = tuned_rates(experiment, config, records);
    let by_arm = reported(experiment, config, records, &rates, experiment.steps[0]);
    let baseline = experiment.baseline_index();
    let budget = config.budget(layout);
    let mut arms: Vec<usize> = by_arm.keys().copied().collect();
    arms.sort_by_key(|arm| *arm != baseline);
    let mut schedules = Vec::new();
    for arm in arms {
        let results: Vec<_> = by_arm[&arm].values().collect();
        let Some((record, _)) = results.first() else { continue };
        let whole = results.len() as u64 == experiment.report.replicates.count;
        // A study's schedules are told apart by their ranks alone.
        let own_scale = experiment.arms[arm].has_own_scale();
        if !whole || own_scale || record.ranks.is_empty() || record.parameters > budget.allowed {
            continue;
        }
        schedules.push((arm, Ranks::new(layout, record.ranks.clone())?, results));
    }
    schedules.truncate(most);
    if schedules.is_empty() {
        return Err(failure(
            Kind::Data,
            "no schedule within the budget was run on every replicate: run the experiment first",
        ));
    }
    let about = StudyMetadata {
        name: name.to_owned(),
        layout: Arc::clone(layout),
        budget,
        rank_cap: config.plan.cap,
        base_rank: config.plan.base_rank,
        benchmarks: schedules[0].2[0].1.scores.keys().cloned().collect(),
        profile: None,
    };
    let mut journal = Journal::default();
    let mut text = journal.begin_study(&about)?;
    let mut seconds = 0.0;
    let mut number = 0;
    // Every schedule once, then every one with the next seed.
    for round in 0..schedules[0].2.len() {
        for (of, (arm, ranks, results)) in schedules.iter().enumerate() {
            let (record, measured) = results[round];
            let origin = match round {
                // Drawn as a search's random schedules are; any other is one that somebody made.
                0 if matches!(experiment.arms[*arm].ranks, Some(RankRule::Random(_))) => {
                    Origin::Random { reason: None }
                }
                0 => Origin::Start { name: experiment.arms[*arm].name.clone() },
                _ => Origin::Replicate { of },
            };
            let values: Vec<f64> = measured.scores.values().copied().collect();
            let trial = Trial {
                number,
                ranks: ranks.clone(),
                state: TrialState::Complete,
                scores: measured.scores.clone(),
                objective: mean(&values),
                origin,
                seed: record.replicate,
                wall_seconds: Some(record.seconds),
                error: None,
            };
            let at = |seconds: f64| Timestamp::from_unix_micros((seconds * 1e6) as i64);
            text += &journal.begin_trial(&about, &trial, at(seconds))?;
            seconds += record.seconds;
            text += &journal.end_trial(&about, &trial, at(seconds))?;
            number += 1;
        }
    }
    Ok(text)
}
