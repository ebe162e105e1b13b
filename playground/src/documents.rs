//! What a dropped file is, told by its content, and reading all that are not gradient logs.

mod adapter;

use hydra_shared::gradients::GradientLog;
use hydra_shared::model_spec::{ModelSpec, PRESETS};
use hydra_shared::schedule::RankSchedule;
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
    /// The shapes of a model.
    Model(Box<ModelSpec>),
    /// A schedule.
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

/// Reads a file of a kind that is read as a whole; `None` for kinds that are not.
///
/// # Errors
/// What is wrong with it, and the remedy.
pub fn read(kind: Kind, text: &str) -> Option<Result<Document, String>> {
    Some(match kind {
        Kind::Log | Kind::Journal => return None,
        Kind::Model => ModelSpec::from_config_json(text).map(Box::new).map(Document::Model).map_err(|e| e.to_string()),
        Kind::Schedule => match session_of(text) {
            Some(link) => Ok(Document::Session(link)),
            None => RankSchedule::from_json(text).map(Box::new).map(Document::Schedule).map_err(|e| e.to_string()),
        },
        Kind::Adapter => AdapterRanks::from_json(text).map(Document::Adapter),
        Kind::Session => match link::find_in(text) {
            Some(link) => Ok(Document::Session(link)),
            None => Err("the link in this file is damaged; export it again".to_owned()),
        },
    })
}

/// The session behind a schedule that this page exported, if its ranks are still those of the session: a schedule that
/// was edited since is a schedule like any other.
fn session_of(text: &str) -> Option<String> {
    let schedule = RankSchedule::from_json(text).ok()?;
    let link = link::find_in(&schedule.provenance.command)?;
    let opened = link::from_link(&link);
    let analysis = crate::analysis::Analysis::new(&opened.session).ok()?;
    let same = schedule.fits(&opened.session.model) && analysis.ranks == schedule.rank_list();
    same.then_some(link)
}

/// The model of a log: the one that is shown where it has as many layers, otherwise the preset that the log names or
/// that alone has as many. Its layers' path follows the log, as in `trainer plan`.
pub fn model_of(log: &GradientLog, shown: &ModelSpec) -> Option<ModelSpec> {
    let layers = log.modules.iter().map(|module| module.id.layer + 1).max().unwrap_or(0);
    let presets = || PRESETS.into_iter().filter_map(|name| ModelSpec::preset(name).ok());
    let named = log.meta.model.as_deref().map(str::to_lowercase);
    let named = named.and_then(|name| presets().find(|preset| name.ends_with(&preset.name)));
    let shown = (shown.decoder.layers == layers).then(|| shown.clone());
    let alone = || {
        let mut fitting = presets().filter(|preset| preset.decoder.layers == layers);
        let first = fitting.next()?;
        // Both generations of MobileVLM have the same decoder.
        fitting.all(|other| other.decoder == first.decoder).then_some(first)
    };
    let mut model = named.filter(|model| model.decoder.layers == layers).or(shown).or_else(alone)?;
    if let Some(path) = log.other_path(&model) {
        model.layers_path = path;
    }
    Some(model)
}

/// The model of a schedule: the one that is shown or a preset, where names and shapes are the same; otherwise one of
/// those shapes, of which nothing else is known.
pub fn model_of_schedule(schedule: &RankSchedule, shown: &ModelSpec) -> ModelSpec {
    use hydra_shared::model_spec::Projection;

    let candidates = PRESETS.into_iter().filter_map(|name| ModelSpec::preset(name).ok());
    if let Some(model) = std::iter::once(shown.clone()).chain(candidates).find(|model| schedule.fits(model)) {
        return model;
    }
    let mut model = shown.clone();
    model.name.clone_from(&schedule.model.name);
    model.layers_path.clone_from(&schedule.model.layers_path);
    (model.vision, model.projector) = (None, None);
    let width = |projection, out: bool| {
        schedule.model.shapes.get(&projection).map_or(1, |shape| if out { shape.d_out } else { shape.d_in })
    };
    let (q, k) = (width(Projection::Q, true), width(Projection::K, true));
    // Head counts are not in a schedule; any that give the shapes do.
    let head_dim = if k > 0 && q % k == 0 { k } else { 1 };
    model.decoder.layers = schedule.model.layers;
    model.decoder.hidden = width(Projection::Q, false);
    model.decoder.intermediate = width(Projection::Gate, true);
    (model.decoder.heads, model.decoder.kv_heads, model.decoder.head_dim) = (q / head_dim, k / head_dim, head_dim);
    model.decoder.vocab = 0;
    model
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
