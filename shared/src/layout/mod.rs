//! What gets ranks: modules with their names, places and widths, and a rank for each of them.
//!
//! A [`Layout`] is a list of matrices that LoRA could adapt. It says nothing of how a model computes, so that a model can
//! be planned for which this project has no code to run. [`Ranks`] are a rank for every module of one layout and go
//! unchanged from plan to adapter.

mod catalog;
mod kind;
mod ranks;
mod text;
mod version_1;

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use catalog::{Catalog, is_sparse, short_name};
pub use kind::{Kind, ModuleId, Projection};
pub use ranks::{Ranks, WrongCount};
pub use text::in_arc;
pub use version_1::ModelOfVersion1;

/// Most layers that one stack may have here.
pub const MOST_LAYERS: usize = 1024;
/// Widest matrix that may get ranks here, in rows or columns. Products of two such widths fit 64 bits even when summed
/// over all modules.
pub const MOST_WIDTH: usize = 1 << 18;
/// Most modules of a layout: more than seven projections in every layer of several full stacks.
pub const MOST_MODULES: usize = 1 << 16;

/// Input and output width of a matrix; its weight is `[d_out, d_in]` in a PyTorch checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleShape {
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

impl ModuleShape {
    /// Trainable parameters that one unit of rank adds: `d_in + d_out`.
    pub fn rank_unit_cost(self) -> u64 {
        (self.d_in + self.d_out) as u64
    }

    /// Largest rank that a low-rank update of this matrix can use: `min(d_in, d_out)`.
    pub fn full_rank(self) -> u32 {
        u32::try_from(self.d_in.min(self.d_out)).unwrap_or(u32::MAX)
    }
}

/// A matrix that can get a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Full name as PEFT sees it, e.g. `model.layers.3.self_attn.q_proj`.
    pub name: String,
    /// Layer of its stack, counted from 0; none for a module outside any stack, such as `lm_head`.
    pub layer: Option<usize>,
    /// Which matrix of the layer.
    pub kind: Kind,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
}

impl Module {
    /// Both widths.
    pub fn shape(&self) -> ModuleShape {
        ModuleShape { d_in: self.d_in, d_out: self.d_out }
    }

    /// Trainable parameters of one unit of rank.
    pub fn rank_unit_cost(&self) -> u64 {
        self.shape().rank_unit_cost()
    }

    /// Largest rank that the module may get: `min(d_in, d_out)`, or `cap` where that is lower.
    pub fn highest_rank(&self, cap: Option<u32>) -> u32 {
        let full = self.shape().full_rank();
        cap.map_or(full, |cap| cap.min(full))
    }

    /// Path of the list of layers that the module lies in, e.g. `model.layers`; none outside any stack.
    pub fn stack(&self) -> Option<&str> {
        let place = format!(".{}.", self.layer?);
        self.name.find(&place).and_then(|at| self.name.get(..at))
    }
}

/// Modules that are planned together: those of one layer, or one module outside any stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Layer of its stack; none for a module outside any stack.
    pub layer: Option<usize>,
    /// Positions of its modules.
    pub modules: Range<usize>,
}

/// The modules of a model that get ranks, in a fixed order: every list of one value per module follows it.
///
/// A decoder whose layers are alike lies layer after layer, in each layer the seven projections in the order of
/// [`Projection::ALL`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "text::LayoutText", into = "text::LayoutText")]
pub struct Layout {
    model: String,
    decoder_parameters: Option<u64>,
    modules: Vec<Module>,
    blocks: Vec<Block>,
    kinds: Vec<Kind>,
    /// Position by name.
    positions: HashMap<String, usize>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from the modules.
        self.model == other.model
            && self.decoder_parameters == other.decoder_parameters
            && self.modules == other.modules
    }
}

impl Eq for Layout {}

/// Modules that make no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// No module, or more than [`MOST_MODULES`].
    #[error("a layout has 1 to {MOST_MODULES} modules, and this one has {found}")]
    Count {
        /// Modules given.
        found: usize,
    },
    /// Two modules of one name.
    #[error("the module {name} is given twice")]
    Repeated {
        /// Its name.
        name: String,
    },
    /// A name that cannot be a key of PEFT's patterns.
    #[error("\"{name}\" is not a module name such as model.layers.0.self_attn.q_proj")]
    Name {
        /// The name.
        name: String,
    },
    /// A width of 0, or beyond [`MOST_WIDTH`].
    #[error("{name} has a width outside 1 to {MOST_WIDTH}")]
    Width {
        /// Name of the module.
        name: String,
    },
    /// A layer number that the name does not hold, or beyond [`MOST_LAYERS`].
    #[error("{name} is said to lie in layer {layer}, which its name does not hold, or which is above {MOST_LAYERS}")]
    Layer {
        /// Name of the module.
        name: String,
        /// The layer.
        layer: usize,
    },
    /// Modules of one layer that do not stand together.
    #[error("{name} stands apart from the other modules of its layer; list the modules layer by layer")]
    Apart {
        /// Name of the module.
        name: String,
    },
}

impl Layout {
    /// A layout of these modules, in this order; those of one layer are put into the order of their kinds.
    ///
    /// # Errors
    /// No modules or too many; names that repeat, hold other characters than letters, digits, `_` and dots, or not their
    /// layer's number; widths of 0; modules of one layer that do not stand together.
    pub fn new(model: impl Into<String>, mut modules: Vec<Module>) -> Result<Self, LayoutError> {
        if modules.is_empty() || modules.len() > MOST_MODULES {
            return Err(LayoutError::Count { found: modules.len() });
        }
        let blocks = blocks(&modules)?;
        for block in &blocks {
            if let Some(layer) = modules.get_mut(block.modules.clone()) {
                layer.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.name.cmp(&b.name)));
            }
        }
        let mut positions = HashMap::with_capacity(modules.len());
        let mut kinds: Vec<Kind> = Vec::new();
        for (position, module) in modules.iter().enumerate() {
            check(module)?;
            if positions.insert(module.name.clone(), position).is_some() {
                return Err(LayoutError::Repeated { name: module.name.clone() });
            }
            if !kinds.contains(&module.kind) {
                kinds.push(module.kind.clone());
            }
        }
        kinds.sort();
        Ok(Self { model: model.into(), decoder_parameters: None, modules, blocks, kinds, positions })
    }

    /// The same layout with the parameters of the decoder that it is part of, as a measure for LoRA's.
    #[must_use]
    pub fn with_decoder_parameters(mut self, parameters: u64) -> Self {
        self.decoder_parameters = Some(parameters);
        self
    }

    /// A stack of `layers` layers that are alike, under `path` (such as `model.layers`): in each the modules of `layer`,
    /// given by kind, path inside the layer and shape.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn stack(
        model: impl Into<String>,
        path: &str,
        layers: usize,
        layer: &[(Kind, &str, ModuleShape)],
    ) -> Result<Self, LayoutError> {
        Self::new(model, stack(path, layers.min(MOST_LAYERS + 1), layer))
    }

    /// A LLaMA-like decoder: the seven projections in every layer under `path`, with the widths that `shape` tells.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn decoder(
        model: impl Into<String>,
        path: &str,
        layers: usize,
        shape: impl Fn(Projection) -> ModuleShape,
    ) -> Result<Self, LayoutError> {
        let layer = Projection::ALL.map(|projection| (projection.into(), projection.path(), shape(projection)));
        Self::stack(model, path, layers, &layer)
    }

    /// Name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Parameters of the decoder that the modules are part of, where they are known.
    pub fn decoder_parameters(&self) -> Option<u64> {
        self.decoder_parameters
    }

    /// The modules.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Number of modules.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Never: a layout has at least one module.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The module of a full name, with its position.
    pub fn find(&self, name: &str) -> Option<(usize, &Module)> {
        let position = *self.positions.get(name)?;
        Some((position, self.modules.get(position)?))
    }

    /// The modules layer by layer, those outside any stack one by one. Stages are made of blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Position of the block that a module lies in.
    pub fn block_of(&self, module: usize) -> usize {
        self.blocks.partition_point(|block| block.modules.end <= module)
    }

    /// Depth of a block, from 0 for the first to 1 for the last.
    pub fn depth(&self, block: usize) -> f64 {
        block as f64 / self.blocks.len().saturating_sub(1).max(1) as f64
    }

    /// Every kind that occurs: the seven projections in their order, then others by name.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Position of a module's kind in [`Self::kinds`].
    pub fn kind_of(&self, module: usize) -> Option<usize> {
        let kind = &self.modules.get(module)?.kind;
        self.kinds.binary_search(kind).ok()
    }

    /// Position of a block's module of a kind, both by position.
    pub fn at(&self, block: usize, kind: usize) -> Option<usize> {
        let kind = self.kinds.get(kind)?;
        let mut modules = self.blocks.get(block)?.modules.clone();
        modules.find(|&module| self.modules.get(module).is_some_and(|found| found.kind == *kind))
    }

    /// The path of the layers, where all modules lie in one stack.
    pub fn layers_path(&self) -> Option<&str> {
        let mut stacks = self.modules.iter().map(Module::stack);
        let first = stacks.next()??;
        stacks.all(|stack| stack == Some(first)).then_some(first)
    }

    /// The same modules under another path of the layers; unchanged where they lie in several stacks or none.
    ///
    /// # Errors
    /// A path that makes no module names.
    pub fn moved_to(&self, path: &str) -> Result<Self, LayoutError> {
        let Some(old) = self.layers_path() else { return Ok(self.clone()) };
        let moved = self.modules.iter().map(|module| {
            let rest = module.name.get(old.len()..).unwrap_or_default();
            Module { name: format!("{path}{rest}"), ..module.clone() }
        });
        let moved = Self::new(self.model.clone(), moved.collect())?;
        Ok(Self { decoder_parameters: self.decoder_parameters, ..moved })
    }

    /// The modules that are kept alone, by position and module; the others get no rank.
    ///
    /// # Errors
    /// No module is left.
    pub fn only(&self, keep: impl Fn(usize, &Module) -> bool) -> Result<Self, LayoutError> {
        let kept = self.modules.iter().enumerate().filter(|(position, module)| keep(*position, module));
        let left = Self::new(self.model.clone(), kept.map(|(_, module)| module.clone()).collect())?;
        Ok(Self { decoder_parameters: self.decoder_parameters, ..left })
    }

    /// Whether another layout has the same modules: names, order and widths. Models may be called differently.
    pub fn same_modules(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.modules == other.modules
    }

    /// Trainable parameters of uniform LoRA at `rank`: Σ rank·(d_in + d_out). This is the budget C of the paper's Eq. 4
    /// when `rank` is the base rank.
    pub fn lora_parameters(&self, rank: u32) -> u64 {
        let unit: u64 = self.modules.iter().map(Module::rank_unit_cost).sum();
        unit.saturating_mul(u64::from(rank))
    }

    /// Largest rank that any module may get.
    pub fn highest_rank(&self, cap: Option<u32>) -> u32 {
        self.modules.iter().map(|module| module.highest_rank(cap)).max().unwrap_or(1)
    }

    /// Whether its blocks are the layers of one stack from the first on, so that a layer's number is its block's position.
    pub fn is_plain_stack(&self) -> bool {
        self.layers_path().is_some() && self.blocks.iter().enumerate().all(|(at, block)| block.layer == Some(at))
    }

    /// What a block is called: the number of its layer; with the path before it where there are several stacks; its name
    /// where it is one module outside any.
    pub fn block_name(&self, block: usize) -> String {
        let Some(found) = self.blocks.get(block) else { return String::new() };
        let first = self.modules.get(found.modules.start);
        match (found.layer, first) {
            (Some(layer), _) if self.layers_path().is_some() => layer.to_string(),
            (Some(layer), Some(module)) => format!("{}.{layer}", module.stack().unwrap_or_default()),
            (_, Some(module)) => module.name.clone(),
            (_, None) => String::new(),
        }
    }

    /// How large the layout is, for messages: `24 layers × 7 projections`, or a number of modules where blocks differ.
    pub fn size(&self) -> String {
        let (layers, kinds) = (self.blocks.len(), self.kinds.len());
        if layers * kinds == self.len() && self.modules.iter().all(|module| module.layer.is_some()) {
            format!("{layers} layers × {kinds} projections")
        } else {
            format!("{} modules", self.len())
        }
    }
}

/// The modules of `layers` equal layers.
fn stack(path: &str, layers: usize, layer: &[(Kind, &str, ModuleShape)]) -> Vec<Module> {
    let module = |index: usize, (kind, inside, shape): &(Kind, &str, ModuleShape)| Module {
        name: format!("{path}.{index}.{inside}"),
        layer: Some(index),
        kind: kind.clone(),
        d_in: shape.d_in,
        d_out: shape.d_out,
    };
    (0..layers).flat_map(|index| layer.iter().map(move |entry| module(index, entry))).collect()
}

fn check(module: &Module) -> Result<(), LayoutError> {
    let name = || module.name.clone();
    // Module names become keys of PEFT's patterns, where other characters would have a meaning of their own.
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !module.name.split('.').all(plain) {
        return Err(LayoutError::Name { name: name() });
    }
    if [module.d_in, module.d_out].iter().any(|&width| width == 0 || width > MOST_WIDTH) {
        return Err(LayoutError::Width { name: name() });
    }
    match module.layer {
        Some(layer) if layer >= MOST_LAYERS || module.stack().is_none() => {
            Err(LayoutError::Layer { name: name(), layer })
        }
        _ => Ok(()),
    }
}

fn blocks(modules: &[Module]) -> Result<Vec<Block>, LayoutError> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut before = None;
    for (position, module) in modules.iter().enumerate() {
        let place = module.layer.map(|layer| (module.stack(), layer));
        match blocks.last_mut().filter(|_| place.is_some() && place == before) {
            Some(block) => block.modules.end = position + 1,
            None if place.is_some_and(|place| !seen.insert(place)) => {
                return Err(LayoutError::Apart { name: module.name.clone() });
            }
            None => blocks.push(Block { layer: module.layer, modules: position..position + 1 }),
        }
        before = place;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests;
