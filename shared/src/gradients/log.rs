//! A gradient log in memory.

use serde::{Deserialize, Serialize};

use crate::layout::{ModuleId, Ranks};

use super::parameter::{ParameterName, Tower};
use super::report::{IngestReport, SkipReason};
use super::summing::Sums;

/// When the gradients were taken, relative to clipping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clip {
    /// Before clipping, or with the clip factor divided out.
    Pre,
    /// After clipping: large steps are scaled down.
    Post,
}

/// What one row of a log stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogUnit {
    /// One optimizer step, accumulated over its micro-batches.
    OptimizerStep,
    /// One backward pass.
    MicroBatch,
}

/// The adapter that was trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoraMeta {
    /// Rank, the same in every module.
    pub r: u32,
    /// PEFT's `lora_alpha`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

/// What a log says of its run. Norms are always L2.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogMeta {
    /// Model name.
    pub model: Option<String>,
    /// Before or after clipping; unknown in most formats.
    pub clip: Option<Clip>,
    /// What a row stands for; unknown in most formats.
    pub unit: Option<LogUnit>,
    /// The adapter; unknown in most formats.
    pub lora: Option<LoraMeta>,
}

impl LogMeta {
    /// Of a log that this project writes: norms of optimizer steps, before clipping.
    pub fn of_training(model: &str) -> Self {
        Self { model: Some(model.to_owned()), clip: Some(Clip::Pre), unit: Some(LogUnit::OptimizerStep), lora: None }
    }

    /// [`Self::of_training`] of adapters, whose rank and α are told where all modules have the same.
    pub fn of_lora(model: &str, ranks: &Ranks, alpha: impl Fn(u32) -> f64) -> Self {
        let lora = ranks.all_equal().map(|r| LoraMeta { r, alpha: Some(alpha(r)) });
        Self { lora, ..Self::of_training(model) }
    }
}

/// A module that the log holds gradients of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedModule {
    /// Layer and projection.
    pub id: ModuleId,
    /// Its path in the user's model, e.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
}

/// A module that the log holds gradients of and that is none of the decoder's seven projections: one of a tower or a
/// projector, the output head, embeddings, a fused matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherModule {
    /// Its path in the user's model, e.g. `model.vision_tower.encoder.layers.0.self_attn.q_proj`.
    pub path: String,
    /// What it is.
    pub reason: SkipReason,
}

/// L2 norms of one module's gradients in one step; `None` is what the log does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ModuleGradient {
    /// ‖∇A‖ of LoRA.
    pub a: Option<f64>,
    /// ‖∇B‖ of LoRA.
    pub b: Option<f64>,
    /// ‖∇W‖ of the full weight.
    pub weight: Option<f64>,
}

impl ModuleGradient {
    /// Norms of both LoRA matrices.
    pub fn lora(a: f64, b: f64) -> Self {
        Self { a: Some(a), b: Some(b), weight: None }
    }

    /// Norm of the full weight's gradient.
    pub fn full(weight: f64) -> Self {
        Self { weight: Some(weight), ..Self::default() }
    }

    /// The three norms: A, B, weight.
    pub fn values(&self) -> [Option<f64>; 3] {
        [self.a, self.b, self.weight]
    }

    /// Whether the log holds nothing of the module in this step.
    pub fn is_empty(&self) -> bool {
        self.values().iter().all(Option::is_none)
    }

    /// √(‖∇A‖² + ‖∇B‖²), or ‖∇W‖ where only that is known; `None` where a half is missing.
    pub fn norm(&self) -> Option<f64> {
        match (self.a, self.b, self.weight) {
            (Some(a), Some(b), _) => Some((a * a + b * b).sqrt()),
            (None, None, weight) => weight,
            _ => None,
        }
    }
}

/// Where a step stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Index into [`IngestReport::files`].
    pub file: usize,
    /// Line, or record of an event file, counted from 1; 0 for a log that was not read from a file.
    pub line: u64,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct LogStep {
    /// Optimizer step.
    pub step: u64,
    /// Training loss, where logged.
    pub loss: Option<f64>,
    /// One entry per module of [`GradientLog::modules`], then one per module of [`GradientLog::others`]. Empty in all steps but
    /// the first of a log that was read by [`read_summed`](super::read_summed).
    pub gradients: Vec<ModuleGradient>,
    /// Where the step was last written.
    pub place: Place,
}

/// Gradient norms of one training run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GradientLog {
    /// What the log says of its run.
    pub meta: LogMeta,
    /// Whether any norm was estimated from a histogram.
    pub estimated: bool,
    /// The modules, in the order of [`ModuleId`].
    pub modules: Vec<LoggedModule>,
    /// Modules that are none of these, in the order in which the log names them.
    pub others: Vec<OtherModule>,
    /// The steps that hold gradients, ascending and without repetition.
    pub steps: Vec<LogStep>,
    /// What was recognised and what was left out.
    pub report: IngestReport,
    /// What the norms come to, where they were summed up while the log was read.
    pub(super) sums: Option<Sums>,
}

impl GradientLog {
    /// Path of the decoder layers in the user's model, e.g. `model.layers`; `None` where the modules disagree.
    pub fn layers_path(&self) -> Option<String> {
        let mut paths = self.modules.iter().map(|module| ParameterName::parse(&module.path).layers_path);
        let first = paths.next()??;
        paths.all(|path| path.as_deref() == Some(first.as_str())).then_some(first)
    }

    /// The path of the module in a column of [`LogStep::gradients`].
    pub fn path(&self, column: usize) -> Option<&str> {
        let others = || self.others.get(column.checked_sub(self.modules.len())?).map(|other| other.path.as_str());
        self.modules.get(column).map(|module| module.path.as_str()).or_else(others)
    }

    /// Whether it holds gradients of the weight itself of the module in a column.
    pub fn holds_weight(&self, column: usize) -> bool {
        let mut norms = self.steps.iter().filter_map(|step| step.gradients.get(column));
        norms.any(|norms| norms.weight.is_some())
    }

    /// Every path with its column.
    pub fn paths(&self) -> impl Iterator<Item = (usize, &str)> {
        let paths = self.modules.iter().map(|module| module.path.as_str());
        paths.chain(self.others.iter().map(|other| other.path.as_str())).enumerate()
    }

    /// Layers of the decoder that it names, counted from the first to the last.
    pub fn layers(&self) -> usize {
        // Projections of other names count where there are none of the seven.
        let other = |other: &OtherModule| {
            let name = ParameterName::parse(&other.path);
            name.layer.filter(|_| name.tower == Tower::Language)
        };
        let last = self.modules.iter().map(|module| module.id.layer).max();
        last.or_else(|| self.others.iter().filter_map(other).max()).map_or(0, |last| last + 1)
    }
}
