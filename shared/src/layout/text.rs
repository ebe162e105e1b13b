//! A layout as JSON: stacks of equal layers in a few lines, all other modules one by one.

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Kind, Layout, LayoutError, MOST_LAYERS, MOST_MODULES, Module, ModuleShape, stack};

/// The written form of a [`Layout`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayoutText {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decoder_parameters: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stacks: Vec<StackText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    modules: Vec<ModuleText>,
}

/// Layers that are alike.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StackText {
    path: String,
    #[serde(deserialize_with = "saturating")]
    layers: usize,
    /// By path inside a layer.
    modules: IndexMap<String, MatrixText>,
}

/// A matrix of every layer of a stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MatrixText {
    kind: Kind,
    #[serde(deserialize_with = "saturating")]
    d_in: usize,
    #[serde(deserialize_with = "saturating")]
    d_out: usize,
}

/// A module that is not part of a stack of equal layers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleText {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    kind: Kind,
    #[serde(deserialize_with = "saturating")]
    d_in: usize,
    #[serde(deserialize_with = "saturating")]
    d_out: usize,
}

/// A number that wasm32's `usize` may not hold, as the largest that it does: one that is refused on every machine alike, by
/// the layout's own bounds.
fn saturating<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    Ok(usize::try_from(u64::deserialize(deserializer)?).unwrap_or(usize::MAX))
}

impl StackText {
    fn modules(&self) -> Vec<Module> {
        let layer: Vec<_> = self
            .modules
            .iter()
            .map(|(path, m)| (m.kind.clone(), path.as_str(), ModuleShape { d_in: m.d_in, d_out: m.d_out }))
            .collect();
        stack(&self.path, self.layers, &layer)
    }
}

impl TryFrom<LayoutText> for Layout {
    type Error = LayoutError;

    fn try_from(text: LayoutText) -> Result<Self, LayoutError> {
        // Before anything is made of them: a short text can ask for any number of modules.
        let wanted = text.stacks.iter().map(|stack| stack.layers.saturating_mul(stack.modules.len().max(1)));
        let found = wanted.fold(text.modules.len(), usize::saturating_add);
        if found > MOST_MODULES || text.stacks.iter().any(|stack| stack.layers > MOST_LAYERS) {
            return Err(LayoutError::Count { found });
        }
        let mut modules: Vec<Module> = text.stacks.iter().flat_map(StackText::modules).collect();
        modules.extend(text.modules.into_iter().map(|ModuleText { name, layer, kind, d_in, d_out }| Module {
            name,
            layer,
            kind,
            d_in,
            d_out,
        }));
        let layout = Self::new(text.name, modules)?;
        Ok(Self { decoder_parameters: text.decoder_parameters, ..layout })
    }
}

impl From<Layout> for LayoutText {
    fn from(layout: Layout) -> Self {
        let mut stacks = Vec::new();
        let mut rest = layout.modules.as_slice();
        // Only stacks at the beginning: what is read back has to stand in the same order.
        while let Some((found, length)) = leading_stack(rest) {
            stacks.push(found);
            rest = rest.get(length..).unwrap_or_default();
        }
        let modules = rest.iter().cloned().map(|Module { name, layer, kind, d_in, d_out }| ModuleText {
            name,
            layer,
            kind,
            d_in,
            d_out,
        });
        Self { name: layout.model, decoder_parameters: layout.decoder_parameters, stacks, modules: modules.collect() }
    }
}

/// The stack of equal layers that the modules begin with, and how many of them it takes.
fn leading_stack(modules: &[Module]) -> Option<(StackText, usize)> {
    let path = modules.first()?.stack()?.to_owned();
    let inside = |module: &Module, layer: usize| {
        let rest = module.name.strip_prefix(&path)?.strip_prefix(&format!(".{layer}."))?;
        (module.layer == Some(layer)).then(|| rest.to_owned())
    };
    let mut first = IndexMap::new();
    for module in modules {
        let Some(place) = inside(module, 0) else { break };
        first.insert(place, MatrixText { kind: module.kind.clone(), d_in: module.d_in, d_out: module.d_out });
    }
    let width = first.len();
    if width == 0 {
        return None;
    }
    let mut layers = 0;
    for (layer, chunk) in modules.chunks_exact(width).enumerate() {
        let alike = chunk.iter().zip(&first).all(|(module, (place, matrix))| {
            let same = (&module.kind, module.d_in, module.d_out) == (&matrix.kind, matrix.d_in, matrix.d_out);
            same && inside(module, layer).as_deref() == Some(place)
        });
        if !alike {
            break;
        }
        layers += 1;
    }
    Some((StackText { path, layers, modules: first }, layers * width))
}

/// A layout behind an `Arc` as the layout itself, for `#[serde(with)]`.
pub mod in_arc {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Layout;

    /// Writes the layout.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(layout: &Arc<Layout>, serializer: S) -> Result<S::Ok, S::Error> {
        layout.as_ref().serialize(serializer)
    }

    /// Reads a layout.
    ///
    /// # Errors
    /// The deserializer's; what makes no layout.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Layout>, D::Error> {
        Layout::deserialize(deserializer).map(Arc::new)
    }
}
