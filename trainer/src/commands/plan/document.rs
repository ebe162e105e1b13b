//! What `--json` prints.

use std::collections::BTreeMap;

use hydra_shared::gradients::{IngestReport, OutsidePart, ProfiledSteps, Signal};
use hydra_shared::layout::Layout;
use hydra_shared::schedule::{Counting, PlannedStage, ScalePolicy};
use hydra_shared::stages::StageQuality;
use indexmap::IndexMap;
use serde::Serialize;

use super::{Planned, Written};

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
    pub fn new(planned: &'a Planned, written: &[Written]) -> Self {
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
            written: written.iter().map(|file| (file.key, file.path.display().to_string())).collect(),
            dry_run: written.iter().any(|file| file.dry),
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
