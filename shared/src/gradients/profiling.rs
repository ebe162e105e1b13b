//! From a log to a profile: steps after warm-up, one signal per module, mean and standard error.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, LayoutError, Module, ModuleId, Projection};

use super::fit::{Columns, shown};
use super::log::{GradientLog, LogStep, ModuleGradient, Place};
use super::profile::{GradientProfile, ProfiledSteps, Signal};
use super::running::Running;
use super::summing::{Summed, SummedModule, Summing, Sums};

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
    /// The log was summed up for another profile while it was read.
    #[error("the log has to be read again for this profile")]
    Again(Box<Summing>),
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
/// what the signal needs; [`ProfileError::Again`] for a log that [`read_summed`](super::read_summed) read for another profile.
pub fn profile(log: &GradientLog, layout: &Layout, config: &ProfileConfig) -> Result<GradientProfile, ProfileError> {
    if !(config.warm_up_share >= 0.0 && config.warm_up_share < 1.0) {
        return Err(ProfileError::WarmUpShare(config.warm_up_share));
    }
    let (Some(first), Some(last)) = (log.steps.first(), log.steps.last()) else { return Err(ProfileError::NoSteps) };
    let after = warm_up_end(config.warm_up_share, first.step, &first.gradients, last.step);
    let columns = columns(log, layout)?;
    let Measured { steps, modules } = match &log.sums {
        None => measured(log, layout, &columns, after, config)?,
        Some(sums) => summed(log, sums, layout, &columns, after, config)?,
    };
    if steps.kept == 0 {
        return Err(ProfileError::AllNonFinite);
    }
    let nonzero = modules.iter().any(|module| module.nonzero);
    if !nonzero && modules.iter().any(|module| module.a || module.b || module.weight) {
        return Err(ProfileError::AllZero);
    }
    check_complete(&modules, layout)?;
    let mut norms = Vec::with_capacity(layout.len());
    for ((module, measured), column) in layout.modules().iter().zip(&modules).zip(columns) {
        if measured.unknown {
            return Err(ProfileError::UnknownRank { signal: config.signal.name() });
        }
        let norm = measured.running.norm();
        if !(norm.mean.is_finite() && norm.standard_error.is_finite()) {
            let logged = log.path(column).unwrap_or(&module.name);
            return Err(ProfileError::Overflow { module: logged.to_owned() });
        }
        norms.push(norm);
    }
    Ok(GradientProfile { signal: config.signal, estimated: log.estimated, steps, modules: norms })
}

/// What the steps after warm-up say of a layout's modules.
struct Measured {
    steps: ProfiledSteps,
    modules: Vec<MeasuredModule>,
}

/// What they say of one.
#[derive(Debug, Clone, Copy, Default)]
struct MeasuredModule {
    running: Running,
    /// Whether any step holds a norm of A, of B, of the weight.
    a: bool,
    b: bool,
    weight: bool,
    /// Whether any of these is another one than zero.
    nonzero: bool,
    /// Whether the signal needs a rank that is not known.
    unknown: bool,
}

/// Of norms that were kept.
fn measured(
    log: &GradientLog,
    layout: &Layout,
    columns: &[usize],
    after: Option<u64>,
    config: &ProfileConfig,
) -> Result<Measured, ProfileError> {
    let mut steps = ProfiledSteps::default();
    let mut modules = vec![MeasuredModule::default(); columns.len()];
    let elements: Vec<_> = layout.modules().iter().map(|m| [false, true].map(|a| elements(a, m, log))).collect();
    for step in &log.steps {
        if after.is_some_and(|after| step.step <= after) {
            steps.warm_up += 1;
            continue;
        }
        if let Some(error) = non_finite(log, step, columns) {
            if !config.skip_non_finite {
                return Err(error);
            }
            steps.non_finite += 1;
            continue;
        }
        if steps.kept == 0 {
            steps.first = step.step;
        }
        steps.last = step.step;
        steps.kept += 1;
        for ((module, column), elements) in modules.iter_mut().zip(columns).zip(&elements) {
            if let Some(gradient) = step.gradients.get(*column) {
                module.add(gradient, elements, config.signal);
            }
        }
    }
    Ok(Measured { steps, modules })
}

impl MeasuredModule {
    /// Whether any step holds its whole gradient.
    fn is_whole(&self) -> bool {
        self.unknown || !self.running.is_empty()
    }

    /// Takes the norms of a step. `elements` are those of the weight and of the adapter.
    fn add(&mut self, gradient: &ModuleGradient, elements: &[Option<f64>; 2], signal: Signal) {
        self.a |= gradient.a.is_some();
        self.b |= gradient.b.is_some();
        self.weight |= gradient.weight.is_some();
        self.nonzero |= gradient.values().into_iter().flatten().any(|norm| norm != 0.0);
        let [of_weight, of_adapter] = *elements;
        let Some(norm) = gradient.norm() else { return };
        match if gradient.a.is_some() { of_adapter } else { of_weight } {
            Some(elements) => self.running.add(signal.of(norm, elements)),
            None if signal == Signal::L2 => self.running.add(norm),
            None => self.unknown = true,
        }
    }
}

/// Of norms that were summed up while the log was read.
fn summed(
    log: &GradientLog,
    sums: &Sums,
    layout: &Layout,
    columns: &[usize],
    after: Option<u64>,
    config: &ProfileConfig,
) -> Result<Measured, ProfileError> {
    let mut unknown = Vec::with_capacity(columns.len());
    let mut modules = Vec::with_capacity(columns.len());
    for (module, column) in layout.modules().iter().zip(columns) {
        let entry = sums.columns.get(*column).copied().unwrap_or_default();
        let places = sums.entries.get(entry).map_or([None; 3], |entry| entry.places);
        let [a, b, weight] = places.map(|place| place.is_some());
        let elements = (config.signal != Signal::L2).then(|| elements(a, module, log));
        let is_whole = if weight { a == b } else { a && b };
        unknown.push(is_whole && elements.is_some_and(|elements| elements.is_none()));
        modules.push(SummedModule { entry, elements: elements.flatten() });
    }
    let wanted = Summing {
        warm_up_share: config.warm_up_share,
        last: log.steps.last().map(|step| step.step),
        signal: config.signal,
        modules: Some(modules),
    };
    let Some(found) = sums.of(&wanted) else { return Err(ProfileError::Again(Box::new(wanted))) };
    if let Some(bad) = sums.first_non_finite.filter(|_| !config.skip_non_finite) {
        let column = sums.columns.iter().position(|entry| *entry == bad.entry);
        return Err(non_finite_error(log, bad.step, bad.place, column, bad.matrix, bad.value));
    }
    let late = log.steps.iter().filter(|step| after.is_none_or(|after| step.step > after)).count();
    let (first, last) = sums.kept.unwrap_or_default();
    let steps = ProfiledSteps {
        first,
        last,
        kept: late - sums.non_finite.min(late),
        warm_up: log.steps.len() - late,
        non_finite: sums.non_finite,
    };
    let module = |(found, unknown): (&Summed, bool)| {
        let [a, b, weight] = found.entry.places.map(|place| place.is_some() && steps.kept > 0);
        MeasuredModule { running: found.running, a, b, weight, nonzero: found.nonzero, unknown }
    };
    Ok(Measured { steps, modules: found.into_iter().zip(unknown).map(module).collect() })
}

/// Last step of the warm-up; `None` where nothing is left out.
pub(super) fn warm_up_end(share: f64, first: u64, gradients: &[ModuleGradient], last: u64) -> Option<u64> {
    // Steps lie below 2^53, so the arithmetic on them is exact but for the share.
    let origin = if training_began(gradients) { first as f64 - 1.0 } else { 0.0 };
    // A share like 0.29 of 100 steps comes out a rounding error below 29.
    let end = (origin + share * (last as f64 - origin) + 1e-9).floor();
    // The last step is always kept.
    let end = end.min(last as f64 - 1.0);
    (share > 0.0 && end >= 0.0).then_some(end as u64)
}

/// Whether B was still zero in a step: every ∇A is zero and some ∇B is not.
fn training_began(gradients: &[ModuleGradient]) -> bool {
    let mut a = gradients.iter().filter_map(|g| g.a).peekable();
    a.peek().is_some() && a.all(|norm| norm == 0.0) && gradients.iter().any(|g| g.b.is_some_and(|norm| norm > 0.0))
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
fn check_complete(measured: &[MeasuredModule], layout: &Layout) -> Result<(), ProfileError> {
    let modules = || layout.modules().iter().zip(measured);
    let lacking: Vec<(&Module, &MeasuredModule)> = modules().filter(|(_, measured)| !measured.is_whole()).collect();
    let with = |has: fn(&MeasuredModule) -> bool| -> Vec<&Module> {
        lacking.iter().filter(|(_, measured)| has(measured)).map(|(module, _)| *module).collect()
    };
    let (only_a, only_b) = (with(|measured| measured.a), with(|measured| measured.b));
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
    columns.iter().find_map(|&column| {
        let values = step.gradients.get(column)?.values().into_iter().enumerate();
        let (matrix, value) = values.filter_map(|(m, v)| Some((m, v?))).find(|(_, v)| !v.is_finite())?;
        Some(non_finite_error(log, step.step, step.place, Some(column), matrix, value))
    })
}

/// What is said of a norm that is NaN or infinite; `matrix` is A, B or the weight.
fn non_finite_error(
    log: &GradientLog,
    step: u64,
    place: Place,
    column: Option<usize>,
    matrix: usize,
    value: f64,
) -> ProfileError {
    ProfileError::NonFinite {
        file: log.report.files.get(place.file).map_or_else(|| "the log".to_owned(), |f| f.name.clone()),
        line: if place.line > 0 { format!(", line {}", place.line) } else { String::new() },
        step,
        module: column.and_then(|column| log.path(column)).unwrap_or_default().to_owned(),
        matrix: ["lora_A", "lora_B", "weight"].get(matrix).copied().unwrap_or_default(),
        value,
    }
}

/// Elements of a module's adapter, or of its weight where that was trained itself; none where the rank is not known.
fn elements(has_a: bool, module: &Module, log: &GradientLog) -> Option<f64> {
    let shape = module.shape();
    if !has_a {
        return Some(shape.d_in as f64 * shape.d_out as f64);
    }
    log.meta.lora.map(|lora| f64::from(lora.r) * shape.rank_unit_cost() as f64)
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
