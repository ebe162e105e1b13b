//! The names under which an adapter has a model's modules.

use crate::adapter::names::OLD_NESTED;
use crate::layout::Catalog;
use crate::weights::Weights;

/// Where transformers keeps the decoder of a vision-language model since 4.52.
pub(super) const NESTED: &str = "model.language_model.layers";
/// The same path in a decoder that stands alone, and in MobileVLM.
pub(super) const ALONE: &str = "model.layers";
/// The parts of a decoder that lie beside its list of layers.
const PARTS: [&str; 3] = ["layers", "embed_tokens", "norm"];
/// Where a head lay in a vision-language model before transformers 4.52.
const OLD_HEAD: &str = "language_model.lm_head";
/// Where it lies.
const HEAD: &str = "lm_head";
/// Modules of a vision-language model that lay on top before transformers 4.52, and lie under `model` since.
const ONCE_ON_TOP: [&str; 3] = ["vision_tower.", "multi_modal_projector.", "visual."];

/// The names under which an adapter has a layout's modules.
#[derive(Debug)]
pub(in crate::adapter) struct Naming {
    /// Path that the adapter's trainer had for the one of today.
    old: Option<&'static str>,
}

impl Naming {
    /// Recognizes the path that vision-language models had before transformers 4.52.
    pub(in crate::adapter) fn of(weights: &Weights, model: &Catalog) -> Self {
        let nested = model.decoder().modules().iter().any(|module| in_path(&module.name, NESTED));
        let holds = |path: &str| weights.tensors.keys().any(|name| in_path(name, path));
        // Qwen2-VL and 2.5-VL had their decoder where one that stands alone has it.
        let visual = model.towers().iter().flatten().any(|name| in_path(name, "visual"));
        let old = if holds(OLD_NESTED) {
            Some(OLD_NESTED)
        } else {
            (visual && holds(ALONE) && !holds(NESTED)).then_some(ALONE)
        };
        Self { old: old.filter(|_| nested) }
    }

    /// A module's name for the adapter's configuration and tensors.
    pub(in crate::adapter) fn own(&self, module: &str) -> String {
        let Some(old) = self.old else { return module.to_owned() };
        if let Some(moved) = moved(module, NESTED, old) {
            return moved;
        }
        if module == HEAD && old == OLD_NESTED {
            return OLD_HEAD.to_owned();
        }
        let on_top = module.strip_prefix("model.").filter(|rest| ONCE_ON_TOP.iter().any(|part| rest.starts_with(part)));
        on_top.unwrap_or(module).to_owned()
    }

    /// The layout's name of a module or tensor.
    pub(in crate::adapter) fn of_layout(&self, name: &str) -> String {
        let Some(old) = self.old else { return name.to_owned() };
        if let Some(moved) = moved(name, old, NESTED) {
            return moved;
        }
        if name == OLD_HEAD || in_path(name, OLD_HEAD) {
            return name.replacen(OLD_HEAD, HEAD, 1);
        }
        let on_top = ONCE_ON_TOP.iter().any(|part| name.starts_with(part));
        if on_top { format!("model.{name}") } else { name.to_owned() }
    }

    /// The path that it has instead of today's.
    pub(in crate::adapter) fn old(&self) -> Option<&'static str> {
        self.old
    }
}

/// A name of a decoder whose layers lie under one path, in one whose layers lie under another.
fn moved(name: &str, from: &str, to: &str) -> Option<String> {
    let [from, to] = [from, to].map(|path| path.strip_suffix("layers").unwrap_or(path));
    let rest = name.strip_prefix(from)?;
    let is_part = PARTS.iter().any(|part| rest == *part || in_path(rest, part));
    is_part.then(|| format!("{to}{rest}"))
}

/// Whether a name lies in the list of layers of that path.
pub(super) fn in_path(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
}
