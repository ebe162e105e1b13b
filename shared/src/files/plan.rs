//! From a gradient log to a plan: what `trainer plan` makes and prints with `--json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use indexmap::IndexMap;
use serde::Serialize;

use super::error::{Kind, ResultExt, failure};
use super::gradient_logs::{self, Profiled, Profiling, profile_model};
use super::spec::Described;
use crate::gradients::{GradientLog, GradientProfile, IngestReport, OutsidePart, ProfiledSteps, Signal, Wishes};
use crate::layout::Layout;
use crate::schedule::choices::Choices;
use crate::schedule::{Counting, Plan, PlanConfig, PlannedStage, Provenance, RankSchedule, ScalePolicy};
use crate::stages::{StageQuality, stage_quality};

/// Most stages that the quality table goes up to.
const QUALITY_STAGES: usize = 8;

/// All that a plan was made from and of.
pub struct Planned {
    /// The modules that get ranks.
    pub layout: Arc<Layout>,
    /// What the log holds besides.
    pub outside: Vec<OutsidePart>,
    /// The log.
    pub log: GradientLog,
    /// Its profile.
    pub profile: GradientProfile,
    /// How it was planned.
    pub config: PlanConfig,
    /// The plan.
    pub plan: Plan,
    /// How well the layers fall into so many stages.
    pub quality: Vec<StageQuality>,
    /// The schedule's file.
    pub schedule: RankSchedule,
    /// What was read otherwise than one might think.
    pub notes: Vec<String>,
}

/// What a plan is made from, besides the model.
pub struct PlanSource<'a> {
    /// Files and folders of the gradient log.
    pub gradients: &'a [PathBuf],
    /// The run to read, where the log holds several.
    pub run: Option<&'a str>,
    /// Modules outside the decoder that get ranks, too, by expressions.
    pub include: &'a [String],
    /// Modules that get none.
    pub exclude: &'a [String],
    /// Every choice.
    pub choices: Choices,
    /// The seed, which is known even where no stage is clustered.
    pub seed: u64,
    /// What the schedule's file says that it was made by.
    pub command: String,
}

/// Reads a log and plans from it. The model is read only where the expressions can be.
///
/// # Errors
/// A log that cannot be read or does not fit the model, a budget that is too small.
pub fn make(source: PlanSource<'_>, model: impl FnOnce() -> Result<Described>) -> Result<Planned> {
    let PlanSource { gradients, run, include, exclude, choices, seed, command } = source;
    let wishes = Wishes::new(include, exclude).map_err(|error| failure(Kind::Usage, error))?;
    let from = Profiling {
        paths: gradients,
        run,
        failure: gradient_logs::log_failure,
        wishes: &wishes,
        config: &choices.profile,
        base_rank: choices.plan.base_rank,
    };
    let Profiled { layout, outside, log, inputs, profile, mut notes } = profile_model(&from, model()?)?;
    let place = gradient_logs::names(gradients);
    let config = choices.plan;
    let plan = gradient_logs::plan_of(&place, &profile, &layout, &config, seed)?;
    notes.extend(other_schedule(&config));
    if plan.stages.len() < plan.requested_stages {
        notes.push(format!(
            "{} stages were asked for, but the layer norms have only {} different values: {} stages were made",
            plan.requested_stages,
            plan.stages.len(),
            plan.stages.len()
        ));
    }
    let quality = stage_quality(&plan.layer_norms, QUALITY_STAGES, seed)?;
    let provenance = Provenance { command, inputs, seed: Some(seed) };
    let schedule = RankSchedule::new(plan.ranks.clone(), config.base_rank, config.scale, plan.budget, provenance)
        .or_fail(Kind::Usage, || "the schedule is not valid")?;
    Ok(Planned { layout, outside, log, profile, config, plan, quality, schedule, notes })
}

/// What has to be known of a comparison schedule.
fn other_schedule(config: &PlanConfig) -> Option<String> {
    let baseline = config.schedule_kind?.baseline()?;
    let mut note = format!("the ranks are those of {baseline}, a schedule to compare with; the stages are HyDRA's");
    if config.budget.is_some() || config.counting != baseline.counting() {
        let counted = match baseline.counting() {
            Counting::Parameters => "parameters",
            Counting::RankUnits => "rank units",
        };
        note += &format!(", and the budget is uniform LoRA's, in {counted}");
    }
    Some(note)
}

/// What `--json` prints.
#[derive(Serialize)]
pub struct Document<'a> {
    model: &'a str,
    base_rank: u32,
    signal: Signal,
    estimated: bool,
    steps: ProfiledSteps,
    layer_norms: &'a [f64],
    budget: BudgetDocument,
    requested_stages: usize,
    stages: Vec<StageDocument>,
    stage_quality: &'a [StageQuality],
    delta: u32,
    scale: ScalePolicy,
    trainable_parameters: u64,
    ranks: IndexMap<&'a str, u32>,
    /// What the log holds and the plan leaves out.
    outside: &'a [OutsidePart],
    written: BTreeMap<&'static str, String>,
    dry_run: bool,
    notes: &'a [String],
    log: &'a IngestReport,
}

#[derive(Serialize)]
struct BudgetDocument {
    counting: Counting,
    allowed: u64,
    used: u64,
}

#[derive(Serialize)]
struct StageDocument {
    /// Numbers of its layers; positions among all blocks where these are not the layers of one stack.
    layers: Vec<usize>,
    /// Names of its blocks, where numbers do not say it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<String>,
    norm: f64,
    rank: u32,
}

impl<'a> Document<'a> {
    /// Of a plan, and of the files that it was written to, by what they are.
    pub fn new(planned: &'a Planned, written: BTreeMap<&'static str, String>, dry_run: bool) -> Self {
        let plan = &planned.plan;
        Self {
            model: planned.layout.model(),
            base_rank: planned.config.base_rank,
            signal: planned.profile.signal,
            estimated: planned.profile.estimated,
            steps: planned.profile.steps,
            layer_norms: &plan.layer_norms,
            budget: BudgetDocument { counting: plan.budget.counting, allowed: plan.budget.allowed, used: plan.used },
            requested_stages: plan.requested_stages,
            stages: plan.stages.iter().map(|stage| StageDocument::new(stage, &planned.layout)).collect(),
            stage_quality: &planned.quality,
            delta: planned.config.delta,
            scale: planned.config.scale,
            trainable_parameters: plan.trainable_parameters,
            ranks: plan.ranks.iter().map(|(module, rank)| (module.name.as_str(), rank)).collect(),
            outside: &planned.outside,
            written,
            dry_run,
            notes: &planned.notes,
            log: &planned.log.report,
        }
    }
}

impl StageDocument {
    fn new(stage: &PlannedStage, layout: &Layout) -> Self {
        let numbered = layout.layers_path().is_some();
        let number = |&block: &usize| layout.blocks().get(block).and_then(|found| found.layer).filter(|_| numbered);
        let blocks = if numbered { Vec::new() } else { stage.layers.iter().map(|&at| layout.block_name(at)).collect() };
        Self {
            layers: stage.layers.iter().map(|block| number(block).unwrap_or(*block)).collect(),
            blocks,
            norm: stage.norm,
            rank: stage.rank,
        }
    }
}
