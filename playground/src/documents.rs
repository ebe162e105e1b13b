//! What a dropped file is, told by its content, and reading all that are not gradient logs.

mod adapter;

use std::sync::Arc;

use hydra_shared::gradients::{Fit, GradientLog, Outside, ProfileError, SkipReason, Wish, fit};
use hydra_shared::layout::Layout;
use hydra_shared::schedule::RankSchedule;
use hydra_shared::vlm::spec::{ModelConfig, PRESETS, preset_layout};
use serde::{Deserialize, Serialize};

pub use adapter::AdapterRanks;

use crate::link;

/// Most bytes of a file that is read as a whole. Gradient logs are read in pieces and may be larger.
pub const MOST_BYTES: usize = 16 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A gradient log, or nothing that is known: the reader of logs says which.
    Log,
    /// A Hugging Face `config.json`.
    Model,
    /// A schedule of this project.
    Schedule,
    /// PEFT's `adapter_config.json`.
    Adapter,
    /// A study journal.
    Journal,
    /// A file that this page wrote: it leads back to its session.
    Session,
}

/// A file that was read as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Document {
    /// The modules of a model, and what its configuration left to be taken for granted.
    Model(Box<Layout>, Vec<String>),
    /// A schedule, of this page or of the trainer.
    Schedule(Box<RankSchedule>),
    /// Ranks of a PEFT configuration.
    Adapter(AdapterRanks),
    /// The link of a session.
    Session(String),
}

/// Tells what a file is by its first bytes.
pub fn recognise(start: &[u8]) -> Kind {
    let text = String::from_utf8_lossy(start);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_start();
    let has = |key: &str| text.contains(&format!("\"{key}\""));
    if text.starts_with('{') {
        let first_line = text.lines().next().unwrap_or_default();
        if has("hydra_schedule") {
            return Kind::Schedule;
        }
        if has("peft_type") {
            return Kind::Adapter;
        }
        if first_line.contains("\"op_code\"") {
            return Kind::Journal;
        }
        let is_config = has("num_hidden_layers") || has("text_config") || has("model_type") || has("architectures");
        if is_config && !has("log_history") && !first_line.contains("\"hydra_grads\"") && !has("step") {
            return Kind::Model;
        }
        return Kind::Log;
    }
    if link::find_in(text).is_some() { Kind::Session } else { Kind::Log }
}

/// Reads a file of a kind that is read as a whole and by itself; `None` for kinds that are not, among them adapters, which
/// are read for a layout ([`AdapterRanks`]).
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn read(kind: Kind, text: &str) -> Option<Result<Document, String>> {
    Some(match kind {
        Kind::Log | Kind::Journal | Kind::Adapter => return None,
        Kind::Model => model_of_config(text),
        Kind::Schedule => {
            RankSchedule::from_json(text).map(Box::new).map(Document::Schedule).map_err(|e| e.to_string())
        }
        Kind::Session => match link::find_in(text) {
            Some(link) => Ok(Document::Session(link)),
            None => Err("the link in this file is damaged; export it again".to_owned()),
        },
    })
}

fn model_of_config(text: &str) -> Result<Document, String> {
    let config = ModelConfig::from_json(text).map_err(|error| error.to_string())?;
    let layout = config.layout().map(Arc::unwrap_or_clone).map_err(|error| error.to_string())?;
    Ok(Document::Model(Box::new(layout), config.notes().to_vec()))
}

/// The layout of a log: of the model that is shown, if any, where that has as many layers and all modules that the log holds
/// of its decoder, otherwise of the preset that the log names or that alone has as many. The log decides which of the model's
/// modules it has and what they are called, as in `trainer plan`.
pub fn layout_of_log(log: &GradientLog, shown: Option<&Arc<Layout>>) -> Option<Arc<Layout>> {
    let presets = || PRESETS.into_iter().filter_map(preset_layout);
    let named = log.meta.model.as_deref().map(str::to_lowercase);
    let named = named.and_then(|name| presets().find(|preset| name.ends_with(preset.model())));
    let has_as_many = |layout: &Arc<Layout>| layers_of(layout) == log.layers();
    let holds_all = |layout: &Arc<Layout>| fit_to(log, layout).is_ok_and(|fit| !fit.outside.iter().any(is_of_decoder));
    let shown = shown.filter(|shown| has_as_many(shown) && holds_all(shown)).cloned();
    let alone = || {
        let mut fitting = presets().filter(has_as_many);
        let first = fitting.next()?;
        // Both generations of MobileVLM have the same decoder.
        fitting.all(|other| other.same_modules(&first)).then_some(first)
    };
    let layout = named.filter(has_as_many).or(shown).or_else(alone)?;
    // What does not fit is told when its profile is made.
    Some(fit_to(log, &layout).map_or(layout, |fit| fit.layout))
}

/// The modules of a layout that a log holds, and what else it holds.
///
/// # Errors
/// A log that is not of this model.
pub fn fit_to(log: &GradientLog, layout: &Arc<Layout>) -> Result<Fit, ProfileError> {
    fit(log, &Arc::clone(layout).into(), |_| Wish::None)
}

/// Layers that a layout's stack counts, whether or not modules of all of them get ranks.
fn layers_of(layout: &Layout) -> usize {
    layout.blocks().iter().filter_map(|block| block.layer).max().map_or(0, |last| last + 1)
}

/// Whether a module that gets no rank is none of a tower, a head or another part outside the decoder.
fn is_of_decoder(outside: &Outside) -> bool {
    outside.reason == SkipReason::Unknown
}

/// The layout of a schedule: under the name by which it is shown or known as a preset, where the modules are the same.
pub fn layout_of_schedule(schedule: &RankSchedule, shown: &Arc<Layout>) -> Arc<Layout> {
    let known = PRESETS.into_iter().filter_map(preset_layout);
    let same = std::iter::once(Arc::clone(shown)).chain(known).find(|layout| layout.same_modules(schedule.layout()));
    same.unwrap_or_else(|| Arc::clone(schedule.layout()))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
