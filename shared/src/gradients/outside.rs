//! What a log holds and the plan leaves out, and the other way round.

use indexmap::IndexMap;
use serde::Serialize;

use crate::layout::{Catalog, Kind, Layout};
use crate::names::{first_names, thousands};

use super::fit::{Fit, Outside};
use super::report::SkipReason;

/// A part of the model that was trained and gets no rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutsidePart {
    /// What it is: `vision tower`, `output head`, …
    part: &'static str,
    /// Its modules that the log holds.
    modules: Vec<String>,
    /// What was trained of them in the run, in parameters; none where the widths of one are not known.
    parameters: Option<u64>,
    /// Whether the weights themselves were trained, as `modules_to_save` does, not LoRA on them.
    whole: bool,
    /// Why they get no rank, where they cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The modules outside by part. LoRA on them had this rank.
pub fn outside_parts(outside: &[Outside], rank: u32) -> Vec<OutsidePart> {
    let mut parts: IndexMap<(&'static str, bool), Vec<&Outside>> = IndexMap::new();
    for module in outside {
        parts.entry((module.reason.part(), module.whole)).or_default().push(module);
    }
    let part = |((part, whole), modules): ((&'static str, bool), Vec<&Outside>)| {
        let trained = |module: &&Outside| {
            let shape = module.shape?;
            let weight = (shape.d_in as u64).saturating_mul(shape.d_out as u64);
            Some(if whole { weight } else { shape.rank_unit_cost().saturating_mul(u64::from(rank)) })
        };
        let experts = modules.iter().any(|module| module.reason == SkipReason::Experts);
        OutsidePart {
            part,
            parameters: modules.iter().map(trained).sum(),
            modules: modules.into_iter().map(|module| module.name.clone()).collect(),
            whole,
            reason: experts
                .then_some("PEFT adapts the experts of a layer as one tensor and doubles rank and alpha of fused ones"),
        }
    };
    parts.into_iter().map(part).collect()
}

/// What has to be said of them before what can be done about it; none where nothing lies outside.
pub fn outside_text(parts: &[OutsidePart]) -> Option<String> {
    let count: usize = parts.iter().map(|part| part.modules.len()).sum();
    let texts: Vec<String> = parts.iter().map(OutsidePart::text).collect();
    let (modules, are) = if count == 1 { ("module", "is") } else { ("modules", "are") };
    (count > 0).then(|| {
        format!(
            "{count} {modules} of the log {are} outside the planned decoder and get no LoRA in this plan: {}",
            texts.join("; ")
        )
    })
}

impl OutsidePart {
    fn text(&self) -> String {
        let names = first_names(&self.modules);
        let parameters = match self.parameters {
            Some(parameters) => format!("{} parameters", thousands(parameters)),
            None => "widths not known".to_owned(),
        };
        let whole = if self.whole { ", trained whole: keep them in modules_to_save" } else { "" };
        let reason = self.reason.map(|reason| format!(", {reason}")).unwrap_or_default();
        format!("{} ({names}; {parameters}{whole}{reason})", self.part)
    }
}

/// What has to be known of the modules that are planned.
pub fn fit_notes(fit: &Fit, catalog: &Catalog) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some((logged, own)) = &fit.renamed {
        let beginning = |name: &str| match (name.find(".layers."), name.rsplit_once('.')) {
            (Some(at), _) => name.get(..at + ".layers".len()).unwrap_or(name).to_owned(),
            (None, Some((parent, _))) => parent.to_owned(),
            (None, None) => name.to_owned(),
        };
        notes.push(format!("module names follow the log: {}.…, not {}.…", beginning(logged), beginning(own)));
    }
    if fit.untrained > 0 {
        notes.push(format!(
            "the log holds {} of the {} modules of {}: {}; the budget is that of uniform LoRA on these",
            fit.layout.len(),
            catalog.decoder().len(),
            fit.layout.model(),
            kinds(&fit.layout)
        ));
    }
    notes
}

/// `q, v in 30 layers`.
fn kinds(layout: &Layout) -> String {
    let kinds: Vec<&str> = layout.kinds().iter().map(Kind::name).collect();
    let more = if kinds.len() > 12 { ", …" } else { "" };
    let kinds: Vec<&str> = kinds.into_iter().take(12).collect();
    format!("{}{more} in {} layers", kinds.join(", "), layout.blocks().len())
}
