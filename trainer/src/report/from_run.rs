//! Fills a report from what a run found.

use anyhow::{Context as _, Result};
use hydra_shared::search::{Origin, Trial};
use hydra_shared::shell::trainer_command;

use super::REPORT_VERSION;
use super::data::{
    ArmKind, ArmRow, ComparisonSection, LayerNormRow, LayerRanks, LeaveOneOut, ProfileSection, ProjectionNormRow,
    ReportData, RunDescription, ScheduleSection, SearchSection, TaskColumn, TrialRow,
};
use crate::data::{Scores, Source};
use crate::runs::utc_now;
use crate::search::run::Found;
use crate::train::workbench::Workbench;

/// An arm of the final comparison, measured.
pub struct Arm {
    /// What it is.
    pub kind: ArmKind,
    /// Its name.
    pub name: String,
    /// Parameters trained outside the projector.
    pub trainable_parameters: u64,
    /// Seeds of its fine-tunes.
    pub seeds: Vec<u64>,
    /// Test scores, one per seed.
    pub scores: Vec<Scores>,
}

/// Everything that the report shows.
///
/// # Errors
/// A search without a complete trial.
pub fn report_data(
    bench: &Workbench,
    found: &Found,
    arms: &[Arm],
    wall_seconds: f64,
    arguments: &[String],
) -> Result<ReportData> {
    let best = found.searched.picked()?;
    let tasks = &found.searched.study.metadata.benchmarks;
    let stage_of = stage_of_layer(found);
    let source = match bench.config.data.source {
        Source::Generated => "generated scenes",
        Source::EasyVqa => "easy-VQA",
        Source::Llava => "conversations in LLaVA's format",
    };
    let seeds = arms.iter().map(|arm| &arm.seeds).max_by_key(|seeds| seeds.len()).cloned().unwrap_or_default();
    let training = &bench.training()?;
    Ok(ReportData {
        hydra_report: REPORT_VERSION,
        title: format!("HyDRA on {}", bench.base.spec.name),
        run: RunDescription {
            model: bench.base.spec.name.clone(),
            data: format!(
                "{source}: {} training pictures, validation on {}, test on {}",
                amount(bench.config.data.train_pictures),
                bench.config.data.validation_pictures,
                amount(bench.config.data.test_pictures)
            ),
            base_rank: bench.config.plan.base_rank,
            budget: bench.config.budget(&bench.base.layout).allowed,
            seeds,
            device: bench.chosen.name.clone(),
            wall_seconds,
            command: trainer_command(arguments),
            trainer: env!("CARGO_PKG_VERSION").to_owned(),
            finished: utc_now(),
            notes: vec![
                format!(
                    "Every fine-tune takes {} steps of {} conversations; the vision tower is frozen and the projector is \
                     trained in every arm, outside the budget.",
                    training.steps, training.batch_size
                ),
                "The search scored its trials on the validation part; the test part was read once, for the table."
                    .to_owned(),
                "The final fine-tunes use seeds that no trial has used.".to_owned(),
            ],
        },
        profile: Some(profile_section(found, &stage_of)),
        schedule: Some(schedule_section(bench, best, &stage_of)),
        search: Some(search_section(bench, found)),
        comparison: Some(ComparisonSection {
            split: "Test part, read once".to_owned(),
            tasks: tasks
                .iter()
                .map(|task| TaskColumn { name: task.clone(), metric: metric(task).to_owned() })
                .collect(),
            arms: arms
                .iter()
                .map(|arm| {
                    let column = |task: &String| {
                        arm.scores
                            .iter()
                            .map(|s| s.tasks.get(task).copied().context("a task without a score"))
                            .collect()
                    };
                    Ok(ArmRow {
                        name: arm.name.clone(),
                        kind: arm.kind,
                        trainable_parameters: arm.trainable_parameters,
                        scores: tasks.iter().map(column).collect::<Result<_>>()?,
                    })
                })
                .collect::<Result<_>>()?,
        }),
    })
}

/// A number of pictures; 0 stands for all that the data set has.
fn amount(pictures: usize) -> String {
    if pictures == 0 { "all".to_owned() } else { pictures.to_string() }
}

/// What a task's number is.
fn metric(task: &str) -> &'static str {
    match task {
        "existence" => "POPE, F1 %",
        "perception" => "MME, of 100",
        "open" => "GQA, exact %",
        "referring" | "referring-plus" => "IoU ≥ 0.5, %",
        _ => "accuracy, %",
    }
}

fn stage_of_layer(found: &Found) -> Vec<usize> {
    let mut stages = vec![0; found.plan.layer_norms.len()];
    for (index, stage) in found.plan.stages.iter().enumerate() {
        for &layer in &stage.layers {
            if let Some(slot) = stages.get_mut(layer) {
                *slot = index;
            }
        }
    }
    stages
}

fn profile_section(found: &Found, stage_of: &[usize]) -> ProfileSection {
    let (profile, layout) = (&found.profile, found.plan.ranks.layout());
    // Errors of independent means add in squares.
    let error = |modules: &mut dyn Iterator<Item = f64>, count: usize| {
        modules.map(|error| error * error).sum::<f64>().sqrt() / count.max(1) as f64
    };
    let layers = layout.blocks().iter().zip(&found.plan.layer_norms).zip(stage_of);
    let rows = layers.map(|((block, norm), stage)| {
        let modules = profile.modules.get(block.modules.clone()).unwrap_or_default();
        LayerNormRow {
            norm: *norm,
            standard_error: error(&mut modules.iter().map(|m| m.standard_error), modules.len()),
            stage: *stage,
        }
    });
    let by_projection = layout.kinds().iter().map(|kind| {
        let modules = layout.modules().iter().zip(&profile.modules).filter(|(module, _)| module.kind == *kind);
        let norms: Vec<_> = modules.map(|(_, norm)| norm).collect();
        ProjectionNormRow {
            name: kind.to_string(),
            norm: norms.iter().map(|m| m.mean).sum::<f64>() / norms.len().max(1) as f64,
            standard_error: error(&mut norms.iter().map(|m| m.standard_error), norms.len()),
        }
    });
    ProfileSection {
        signal: "L2 norm of [∇A; ∇B] before clipping, mean over optimizer steps after warm-up".to_owned(),
        steps: profile.modules.first().map_or(0, |module| module.steps),
        estimated: profile.estimated,
        layers: rows.collect(),
        projections: by_projection.collect(),
    }
}

fn schedule_section(bench: &Workbench, best: &Trial, stage_of: &[usize]) -> ScheduleSection {
    let (budget, layout) = (bench.config.budget(&bench.base.layout), best.ranks.layout());
    let rank = |block, kind| layout.at(block, kind).and_then(|module| best.ranks.at(module)).unwrap_or(0);
    let ranks = |block| (0..layout.kinds().len()).map(|kind| rank(block, kind)).collect();
    let layers = stage_of.iter().enumerate().map(|(block, stage)| LayerRanks { stage: *stage, ranks: ranks(block) });
    ScheduleSection {
        name: format!("recommended schedule, trial {} ({})", best.number, origin(best)),
        projections: best.ranks.layout().kinds().iter().map(ToString::to_string).collect(),
        layers: layers.collect(),
        budget_allowed: budget.allowed,
        budget_used: budget.used(&best.ranks),
    }
}

fn search_section(bench: &Workbench, found: &Found) -> SearchSection {
    let trials = found.searched.study.candidates().map(|trial| {
        let predicted = match &trial.origin {
            Origin::Proposed { predicted, .. } => Some(*predicted),
            Origin::Start { .. } | Origin::Random { .. } | Origin::Chosen { .. } => None,
            Origin::Replicate { .. } | Origin::Foreign => None,
        };
        TrialRow {
            number: trial.number as u64,
            origin: origin(trial),
            predicted: predicted.map(|estimate| estimate.mean),
            predicted_deviation: predicted.map(|estimate| estimate.std),
            measured: trial.objective,
        }
    });
    SearchSection {
        predictor: format!("performance model: {}", bench.config.search.model.name()),
        score: format!("mean validation score over {} tasks, %", found.searched.study.metadata.benchmarks.len()),
        trials: trials.collect(),
        leave_one_out: found
            .searched
            .leave_one_out
            .as_ref()
            .map(|loo| LeaveOneOut { predictor: loo.objective.rmse, mean: loo.objective.baseline_rmse }),
    }
}

fn origin(trial: &Trial) -> String {
    match &trial.origin {
        Origin::Start { name } => name.clone(),
        Origin::Random { .. } => "random".to_owned(),
        Origin::Proposed { .. } | Origin::Chosen { .. } => "proposed".to_owned(),
        Origin::Replicate { of } => format!("trial {of} again"),
        Origin::Foreign => "another program".to_owned(),
    }
}
