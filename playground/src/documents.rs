//! What a dropped file is, told by its content, and reading all that are not gradient logs.

mod given;
mod weights;

use std::collections::BTreeSet;
use std::sync::Arc;

use hydra_shared::file_kind::FileKind;
use hydra_shared::gradients::{GradientLog, Outside, ParameterName, SkipReason, Wishes, fit};
use hydra_shared::layout::{Catalog, Layout, Module};
use hydra_shared::schedule::RankSchedule;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec, PRESETS, preset_layout};
use serde::{Deserialize, Serialize};

pub use given::{GivenRanks, Known};
pub use weights::{AdapterShapes, Header, model_of_adapter, model_of_headers};

use crate::link;
use crate::session::LogChoice;
use crate::trial_result;

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
    /// PEFT's `adapter_config.json`, or the page's own table of ranks.
    Ranks,
    /// Weights in safetensors, of a model or an adapter: their header alone is read.
    Weights,
    /// A study journal.
    Journal,
    /// What a trial scored, as commands write it for `trainer search --trial`.
    Scores,
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
    /// Ranks of a PEFT configuration or of the page's own table.
    Ranks(Box<GivenRanks>),
    /// Weights whose shapes were read for the configuration beside them, which says the rest.
    Weights,
    /// What a trial scored, by task; at least one.
    Scores(trial_result::Scores),
    /// The link of a session.
    Session(String),
}

/// Tells what a file is by its first bytes.
pub fn recognise(start: &[u8]) -> Kind {
    if FileKind::of(start) == Some(FileKind::Safetensors) {
        return Kind::Weights;
    }
    let text = String::from_utf8_lossy(start);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_start();
    let has = |key: &str| text.contains(&format!("\"{key}\""));
    if text.starts_with('{') {
        let first_line = text.lines().next().unwrap_or_default();
        if has("hydra_schedule") {
            return Kind::Schedule;
        }
        if has("peft_type") {
            return Kind::Ranks;
        }
        if first_line.contains("\"op_code\"") {
            return Kind::Journal;
        }
        let is_config = has("num_hidden_layers") || has("text_config") || has("model_type") || has("architectures");
        if is_config && !has("log_history") && !first_line.contains("\"hydra_grads\"") && !has("step") {
            return Kind::Model;
        }
        // What a trial scored stands together; a log may have keys of any name.
        let after = text.split_once("\"scores\"").map_or("", |(_, after)| after.trim_start());
        let are_together = after.strip_prefix(':').is_some_and(|value| value.trim_start().starts_with(['{', '[']));
        if are_together
            && !has("step")
            && !["\"grads\"", "grad_norm", "lora_A", "lora_B"].iter().any(|word| text.contains(word))
        {
            return Kind::Scores;
        }
        return Kind::Log;
    }
    if text.starts_with(given::TABLE_START) {
        return Kind::Ranks;
    }
    if link::find_in(text).is_some() { Kind::Session } else { Kind::Log }
}

/// Reads a file of a kind that is read as a whole and by itself; `None` for kinds that are not, among them ranks, which
/// are read for a model ([`GivenRanks`]), and weights.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn read(kind: Kind, text: &str) -> Option<Result<Document, String>> {
    Some(match kind {
        Kind::Log | Kind::Journal | Kind::Ranks | Kind::Weights => return None,
        Kind::Model => model_of_config(text).map(|(model, notes)| document_of(&model, notes)),
        Kind::Schedule => {
            RankSchedule::from_json(text).map(Box::new).map(Document::Schedule).map_err(|e| e.to_string())
        }
        Kind::Scores => trial_result::read(text).map(Document::Scores),
        Kind::Session => match link::find_in(text) {
            Some(link) => Ok(Document::Session(link)),
            None => Err("the link in this file is damaged; export it again".to_owned()),
        },
    })
}

/// The matrices of the model of a `config.json`, and what that left to be taken for granted.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn model_of_config(text: &str) -> Result<(Catalog, Vec<String>), String> {
    let config = ModelConfig::from_json(text).map_err(|error| error.to_string())?;
    let model = config.catalog().map_err(|error| error.to_string())?;
    Ok((model, config.notes().to_vec()))
}

/// What the page is told of such a model.
pub fn document_of(model: &Catalog, notes: Vec<String>) -> Document {
    Document::Model(Box::new(model.decoder().as_ref().clone()), notes)
}

/// The model of a log: the first of those that are shown or given which has as many layers and all modules of the log's decoder
/// that are not excluded, otherwise the preset that the log names or that alone has as many. The log decides which of the
/// model's modules it has and what they are called, as in `trainer plan`.
pub fn model_of_log<'a>(
    log: &GradientLog,
    shown: impl IntoIterator<Item = &'a Catalog>,
    of_log: &LogChoice,
) -> Option<Catalog> {
    let presets = || PRESETS.into_iter().filter_map(preset_catalog);
    let named = log.meta.model.as_deref().map(str::to_lowercase);
    let named = named.and_then(|name| presets().find(|preset| name.ends_with(preset.decoder().model())));
    let has_as_many = |model: &Catalog| layers_of(model.decoder()) == log.layers();
    let excluded = LogChoice { include: String::new(), ..of_log.clone() }.wishes();
    let excluded: Wishes = excluded.unwrap_or_default();
    let holds_all = |model: &Catalog| {
        fit(log, model, |name| excluded.of(name)).is_ok_and(|fit| !fit.outside.iter().any(is_of_decoder))
    };
    let shown = || shown.into_iter().find(|shown| has_as_many(shown) && holds_all(shown)).cloned();
    let alone = || {
        // The layers of a preset hold the seven projections.
        let mut fitting = presets().filter(|preset| !log.modules.is_empty() && has_as_many(preset));
        let first = fitting.next()?;
        // Both generations of MobileVLM have the same decoder.
        fitting.all(|other| other.decoder().same_modules(first.decoder())).then_some(first)
    };
    named.filter(has_as_many).or_else(shown).or_else(alone)
}

/// The matrices of the model of which a layout is shown: all that is known of it, where it is one of the models that were
/// given or a preset; otherwise those of the layout.
pub fn model_of_layout<'a>(layout: &Arc<Layout>, given: impl IntoIterator<Item = &'a Catalog>) -> Catalog {
    let known = given.into_iter().find(|known| is_part_of(layout, known)).cloned();
    let preset = || preset_catalog(layout.model()).filter(|preset| is_part_of(layout, preset));
    let own = || {
        // Modules outside the decoder are there because they were asked for, and go when they are not.
        let outside =
            |module: &Module| Some((module.name.clone(), module.shape())).filter(|_| is_outside(&module.name));
        let decoder = layout.only(|_, module| !is_outside(&module.name)).map_or_else(|_| Arc::clone(layout), Arc::new);
        Catalog::new(decoder, layout.modules().iter().filter_map(outside))
    };
    known.or_else(preset).unwrap_or_else(own)
}

/// Whether a model has all modules of a layout. What they are called may have been taken from a log.
fn is_part_of(layout: &Layout, model: &Catalog) -> bool {
    let place = |module: &Module| (module.layer, module.kind.clone(), module.shape());
    let decoder: BTreeSet<_> = model.decoder().modules().iter().map(place).collect();
    let has = |module: &Module| decoder.contains(&place(module)) || model.other(&module.name) == Some(module.shape());
    layout.model() == model.decoder().model() && layout.modules().iter().all(has)
}

/// Whether a module's name says that it lies outside the decoder.
fn is_outside(name: &str) -> bool {
    use SkipReason::{Embeddings, OtherTower, OutputHead, Projector, VisionTower};
    let skip = ParameterName::parse(name).skip;
    matches!(skip, Some(VisionTower | Projector | OtherTower | Embeddings | OutputHead))
}

/// The matrices of the preset of that name; none for any other name.
pub fn preset_catalog(name: &str) -> Option<Catalog> {
    ModelConfig::from(ModelSpec::preset(name).ok()?).catalog().ok()
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
