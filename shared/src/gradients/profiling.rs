//! From a log to a profile: steps after warm-up, one signal per module, mean and standard error.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, LayoutError, Module, ModuleId, Projection};

use super::fit::{Columns, shown};
use super::log::{GradientLog, LogStep, ModuleGradient};
use super::profile::{GradientProfile, ModuleNorm, ProfiledSteps, Signal};

/// How a profile is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileConfig {
    /// What is measured of a module in one step.
    pub signal: Signal,
    /// Share of the run's steps that is left out at its start, from 0 to below 1. B = 0 at the start makes ∇A vanish.
    pub warm_up_share: f64,
    /// Leave out steps in which a norm is NaN or infinite, instead of refusing the log.
    pub skip_non_finite: bool,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        Self { signal: Signal::L2, warm_up_share: 0.1, skip_non_finite: false }
    }
}

/// A log that gives no profile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// A warm-up share outside 0 ≤ share < 1.
    #[error("the warm-up share {0} is not between 0 and 1; give a share like 0.1")]
    WarmUpShare(f64),
    /// A log without steps.
    #[error("the log holds no steps; check that the run has logged gradients")]
    NoSteps,
    /// Other modules than the model has.
    #[error("the log does not fit the model {model}: {what}; give the configuration of the model that was trained")]
    Modules {
        /// Name of the model.
        model: String,
        /// What is missing and what is too much.
        what: String,
    },
    /// No module to plan.
    #[error(
        "no module of the log gets a rank as part of the model {model}: {what}; give the model that was trained, or include \
         modules by name"
    )]
    NoModules {
        /// Name of the model.
        model: String,
        /// What there is.
        what: String,
    },
    /// A module outside the decoder of which nothing tells the widths.
    #[error(
        "the widths of {modules} are not known; give the model's checkpoint (its folder, model.safetensors or \
         model.safetensors.index.json) instead of its configuration, or leave such modules out"
    )]
    UnknownShape {
        /// The modules.
        modules: String,
    },
    /// Experts that were asked for.
    #[error(
        "{module} is an expert of a mixture: PEFT adapts all experts of a layer as one tensor and doubles rank and alpha of \
         those that transformers keeps fused, so that no budget would hold; leave experts out, the other modules can be planned"
    )]
    Experts {
        /// The module.
        module: String,
    },
    /// Names that cannot be keys of PEFT's patterns.
    #[error("the modules of the log make no layout: {0}")]
    Layout(#[from] LayoutError),
    /// Only one of the two LoRA matrices.
    #[error(
        "the log never holds {missing} beside {present} for {modules}; log the gradients of both LoRA matrices \
         (0 for one that is frozen)"
    )]
    HalfLogged {
        /// The matrix that is there.
        present: &'static str,
        /// The matrix that is missing.
        missing: &'static str,
        /// The modules.
        modules: String,
    },
    /// A signal per element without the adapter's size.
    #[error(
        "the signal \"{signal}\" needs the rank of the adapter that was trained, which the log does not say; use the \
         signal \"l2\", or put \"lora\":{{\"r\":…}} into the log's header"
    )]
    UnknownRank {
        /// The signal.
        signal: &'static str,
    },
    /// NaN or infinity.
    #[error(
        "{file}{line}: step {step}, {module}: the gradient norm of {matrix} is {value}; leave such steps out with \
         skip_non_finite, or cut the log before the run diverged"
    )]
    NonFinite {
        /// File, where the log was read from one.
        file: String,
        /// `, line N`, where known.
        line: String,
        /// Step.
        step: u64,
        /// Module path.
        module: String,
        /// LoRA matrix or weight.
        matrix: &'static str,
        /// The value.
        value: f64,
    },
    /// NaN or infinity everywhere.
    #[error("every step after warm-up holds a norm that is NaN or infinite; the run diverged, give the log of another")]
    AllNonFinite,
    /// Zero everywhere.
    #[error(
        "every norm after warm-up is 0: the adapters got no gradient; check that they were active and required gradients, and \
         that norms are taken after backward and before zero_grad"
    )]
    AllZero,
    /// Norms whose squares are too large for a number.
    #[error("the norms of {module} are too large to be averaged; check that gradients were unscaled before logging")]
    Overflow {
        /// Module path.
        module: String,
    },
}

/// Makes a profile of a log for the modules of a layout.
///
/// The warm-up share counts in steps of the run, not in rows of the log, so that a log of every fifth step leaves out
/// the same part of the run: steps up to `origin + share·(last − origin)` are dropped. The origin is step 0, except for
/// a log that shows where training began (every ∇A is zero in its first step): there it is the step before that one.
///
/// What else the log holds plays no part; [`fit`](super::fit()) finds out which modules a layout of it should have.
///
/// # Errors
/// A log that lacks modules of the layout, that holds NaN or infinity (unless they are to be skipped), or that does not say
/// what the signal needs.
pub fn profile(log: &GradientLog, layout: &Layout, config: &ProfileConfig) -> Result<GradientProfile, ProfileError> {
    if !(config.warm_up_share >= 0.0 && config.warm_up_share < 1.0) {
        return Err(ProfileError::WarmUpShare(config.warm_up_share));
    }
    let after = warm_up_end(log, config.warm_up_share)?;
    let columns = columns(log, layout)?;

    let late: Vec<&LogStep> = log.steps.iter().filter(|s| after.is_none_or(|after| s.step > after)).collect();
    let mut kept = Vec::with_capacity(late.len());
    for step in &late {
        match non_finite(log, step, &columns) {
            None => kept.push(*step),
            Some(_) if config.skip_non_finite => {}
            Some(error) => return Err(error),
        }
    }
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else { return Err(ProfileError::AllNonFinite) };
    let steps = ProfiledSteps {
        first: first.step,
        last: last.step,
        kept: kept.len(),
        warm_up: log.steps.len() - late.len(),
        non_finite: late.len() - kept.len(),
    };

    let norms = || kept.iter().flat_map(|step| columns.iter().filter_map(|column| step.gradients.get(*column)));
    let norms = || norms().flat_map(ModuleGradient::values).flatten();
    if norms().next().is_some() && norms().all(|norm| norm == 0.0) {
        return Err(ProfileError::AllZero);
    }
    check_complete(&columns, &kept, layout)?;
    let mut modules = Vec::with_capacity(layout.len());
    for (module, column) in layout.modules().iter().zip(columns) {
        let gradients = || kept.iter().filter_map(|step| step.gradients.get(column));
        let values: Option<Vec<f64>> = gradients()
            .filter(|gradient| gradient.norm().is_some())
            .map(|gradient| signal(gradient, module, log, config.signal))
            .collect();
        let values = values.ok_or(ProfileError::UnknownRank { signal: config.signal.name() })?;
        let norm = mean(&values);
        if !(norm.mean.is_finite() && norm.standard_error.is_finite()) {
            let logged = log.path(column).unwrap_or(&module.name);
            return Err(ProfileError::Overflow { module: logged.to_owned() });
        }
        modules.push(norm);
    }
    Ok(GradientProfile { signal: config.signal, estimated: log.estimated, steps, modules })
}

/// Last step of the warm-up; `None` where nothing is left out.
fn warm_up_end(log: &GradientLog, share: f64) -> Result<Option<u64>, ProfileError> {
    let (Some(first), Some(last)) = (log.steps.first(), log.steps.last()) else { return Err(ProfileError::NoSteps) };
    // Steps lie below 2^53, so the arithmetic on them is exact but for the share.
    let origin = if training_began(first) { first.step as f64 - 1.0 } else { 0.0 };
    // A share like 0.29 of 100 steps comes out a rounding error below 29.
    let end = (origin + share * (last.step as f64 - origin) + 1e-9).floor();
    // The last step is always kept.
    let end = end.min(last.step as f64 - 1.0);
    Ok((share > 0.0 && end >= 0.0).then_some(end as u64))
}

/// Whether B was still zero in this step: every ∇A is zero and some ∇B is not.
fn training_began(step: &LogStep) -> bool {
    let mut a = step.gradients.iter().filter_map(|g| g.a).peekable();
    a.peek().is_some() && a.all(|norm| norm == 0.0) && step.gradients.iter().any(|g| g.b.is_some_and(|norm| norm > 0.0))
}

/// The log's column of every module of the layout.
///
/// # Errors
/// A module that the log does not hold.
fn columns(log: &GradientLog, layout: &Layout) -> Result<Vec<usize>, ProfileError> {
    let columns = Columns::of(log);
    let (mut found, mut missing) = (Vec::with_capacity(layout.len()), Vec::new());
    for module in layout.modules() {
        match columns.find(module) {
            Some(column) => found.push(column),
            None => missing.push(module),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let what = format!("it lacks {}", shown(&missing));
    Err(ProfileError::Modules { model: layout.model().to_owned(), what })
}

/// Every module must have its whole gradient in some kept step.
fn check_complete(columns: &[usize], kept: &[&LogStep], layout: &Layout) -> Result<(), ProfileError> {
    let ever = |column: usize, has: fn(&ModuleGradient) -> bool| {
        kept.iter().filter_map(|step| step.gradients.get(column)).any(has)
    };
    let modules = layout.modules().iter().zip(columns.iter().copied());
    let lacking: Vec<(&Module, usize)> = modules.filter(|(_, column)| !ever(*column, |g| g.norm().is_some())).collect();
    let with = |has: fn(&ModuleGradient) -> bool| -> Vec<&Module> {
        lacking.iter().filter(|(_, column)| ever(*column, has)).map(|(module, _)| *module).collect()
    };
    let (only_a, only_b) = (with(|g| g.a.is_some()), with(|g| g.b.is_some()));
    if !only_b.is_empty() {
        return Err(ProfileError::HalfLogged { present: "lora_B", missing: "lora_A", modules: shown(&only_b) });
    }
    if !only_a.is_empty() {
        return Err(ProfileError::HalfLogged { present: "lora_A", missing: "lora_B", modules: shown(&only_a) });
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let empty: Vec<&Module> = lacking.iter().map(|(module, _)| *module).collect();
    let model = layout.model().to_owned();
    Err(ProfileError::Modules { model, what: format!("after warm-up it lacks {}", shown(&empty)) })
}

fn non_finite(log: &GradientLog, step: &LogStep, columns: &[usize]) -> Option<ProfileError> {
    let matrices = ["lora_A", "lora_B", "weight"];
    columns.iter().find_map(|&column| {
        let values = step.gradients.get(column)?.values().into_iter().zip(matrices);
        let (value, matrix) = values.filter_map(|(v, m)| Some((v?, m))).find(|(v, _)| !v.is_finite())?;
        Some(ProfileError::NonFinite {
            file: log.report.files.get(step.place.file).map_or_else(|| "the log".to_owned(), |f| f.name.clone()),
            line: if step.place.line > 0 { format!(", line {}", step.place.line) } else { String::new() },
            step: step.step,
            module: log.path(column).unwrap_or_default().to_owned(),
            matrix,
            value,
        })
    })
}

/// The signal of one module in one step; `None` where it needs a rank that is not known. A missing norm counts as 0:
/// the caller has left those steps out.
fn signal(gradient: &ModuleGradient, module: &Module, log: &GradientLog, signal: Signal) -> Option<f64> {
    let norm = gradient.norm().unwrap_or(0.0);
    let elements = || {
        let shape = module.shape();
        if gradient.a.is_none() {
            return Some(shape.d_in as f64 * shape.d_out as f64);
        }
        log.meta.lora.map(|lora| f64::from(lora.r) * shape.rank_unit_cost() as f64)
    };
    match signal {
        Signal::L2 => Some(norm),
        Signal::Rms => Some(norm / elements()?.sqrt()),
        Signal::Fisher => Some(norm * norm / elements()?),
    }
}

fn mean(values: &[f64]) -> ModuleNorm {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let standard_error = if values.len() > 1 {
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        (squares / (n - 1.0) / n).sqrt()
    } else {
        0.0
    };
    ModuleNorm { mean, standard_error, steps: values.len() }
}

/// Modules in few words: `layers 28–29, k_proj in layer 3`.
pub(super) fn list(modules: &[ModuleId]) -> String {
    let count = Projection::ALL.len();
    let layers: BTreeSet<usize> = modules.iter().map(|id| id.layer).collect();
    let (whole, partial): (Vec<usize>, Vec<usize>) =
        layers.into_iter().partition(|layer| modules.iter().filter(|id| id.layer == *layer).count() == count);
    let mut parts = Vec::new();
    if !whole.is_empty() {
        parts.push(layer_list(&whole));
    }
    for projection in Projection::ALL {
        let of: Vec<usize> = modules
            .iter()
            .filter(|id| id.projection == projection && partial.contains(&id.layer))
            .map(|id| id.layer)
            .collect();
        if !of.is_empty() {
            let name = projection.path().rsplit('.').next().unwrap_or_default();
            parts.push(format!("{name} in {}", layer_list(&of)));
        }
    }
    parts.join(", ")
}

/// Ascending layers in few words: `layer 3`, `layers 28–29`, `layers 0, 4–6`.
pub(super) fn layer_list(layers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == *layer => *end = *layer,
            _ => ranges.push((*layer, *layer)),
        }
    }
    /// Ranges that are written out.
    const SHOWN: usize = 8;
    let mut text: Vec<String> = ranges
        .iter()
        .take(SHOWN)
        .map(|(start, end)| if start == end { start.to_string() } else { format!("{start}–{end}") })
        .collect();
    if ranges.len() > SHOWN {
        text.push("…".to_owned());
    }
    format!("{} {}", if layers.len() == 1 { "layer" } else { "layers" }, text.join(", "))
}
