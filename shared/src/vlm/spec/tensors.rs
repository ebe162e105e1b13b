//! The matrices of a checkpoint, told by the names and shapes of its tensors alone.
//!
//! Whatever stands two-dimensional in a language layer can get a rank, so that models can be planned of which no
//! configuration is read here. Names become those that the model has in memory where checkpoints keep older ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::gradients::{ParameterName, SkipReason, Tower};
use crate::layout::{Catalog, Kind, Layout, LayoutError, Module, ModuleShape, is_sparse};

/// Modules whose weight is `[d_in, d_out]`: GPT-2's `Conv1D`.
const TRANSPOSED: [&str; 3] = ["c_attn", "c_fc", "c_proj"];
/// Ends of names that quantized checkpoints have, whose weights have other shapes than the matrices.
const QUANTIZED: [&str; 7] = [".absmax", ".qweight", ".qzeros", ".SCB", ".weight_packed", ".quant_map", "_blocks"];

/// What is said of a checkpoint with experts.
const EXPERTS: &str = "this is a mixture of experts, of which only the dense part can get ranks: PEFT adapts the experts of a \
                       layer as one tensor, and doubles rank and alpha of fused ones";

/// What has to be known of a model whose tensors have these names, where it is a mixture of experts.
pub fn experts_note(tensors: &[(String, Vec<usize>)]) -> Option<&'static str> {
    tensors.iter().any(|(name, _)| name.split('.').any(|part| part == "experts")).then_some(EXPERTS)
}

/// Tensors that make no catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorsError {
    /// Packed weights.
    #[error(
        "{tensor} says that this checkpoint is quantized, so that its tensors have other shapes than its matrices; give the \
         config.json, or the checkpoint before it was quantized"
    )]
    Quantized {
        /// A tensor that shows it.
        tensor: String,
    },
    /// No layers.
    #[error(
        "none of its {tensors} tensors is a matrix of a language layer such as model.layers.0.self_attn.q_proj.weight; give the \
         checkpoint of a decoder"
    )]
    NoLayers {
        /// Number of tensors.
        tensors: usize,
    },
    /// Names or widths that make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A matrix of the checkpoint.
struct Matrix {
    name: ParameterName,
    path: String,
    shape: ModuleShape,
}

impl Catalog {
    /// The matrices of a model by its tensors' names and shapes.
    ///
    /// The decoder's are those of the largest stack of language layers, without experts and routers: the dense part of a
    /// mixture of experts.
    ///
    /// # Errors
    /// Tensors of a quantized checkpoint, or none of a language layer.
    pub fn of_tensors(model: &str, tensors: &[(String, Vec<usize>)]) -> Result<Self, TensorsError> {
        Self::of_named(model, tensors, Saved::of(tensors))
    }

    /// [`Self::of_tensors`] of a model in memory, whose modules keep the names that they have there.
    ///
    /// # Errors
    /// As [`Self::of_tensors`].
    pub fn of_parameters(model: &str, parameters: &[(String, Vec<usize>)]) -> Result<Self, TensorsError> {
        Self::of_named(model, parameters, Saved::Plain)
    }

    /// The matrices of which names and widths are known and nothing else: those that an adapter adapts. Names are kept.
    ///
    /// # Errors
    /// None of a language layer.
    pub fn of_modules(
        model: &str,
        modules: impl IntoIterator<Item = (String, ModuleShape)>,
    ) -> Result<Self, TensorsError> {
        let matrix = |(path, shape): (String, ModuleShape)| {
            let name = ParameterName::parse(&format!("{path}.weight"));
            Matrix { name, path, shape }
        };
        let matrices: Vec<Matrix> = modules.into_iter().map(matrix).collect();
        let tensors = matrices.len();
        let (decoder, others) = main_part(matrices).ok_or(TensorsError::NoLayers { tensors })?;
        let layout = Layout::new(model, self::modules(&decoder))?;
        Ok(Self::new(Arc::new(layout), others.into_iter().map(|matrix| (matrix.path, matrix.shape))))
    }

    fn of_named(model: &str, tensors: &[(String, Vec<usize>)], saved: Saved) -> Result<Self, TensorsError> {
        let shows_quantization =
            |name: &str| QUANTIZED.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.");
        if let Some((tensor, _)) = tensors.iter().find(|(name, _)| shows_quantization(name)) {
            return Err(TensorsError::Quantized { tensor: tensor.clone() });
        }
        let parsed = tensors.iter().map(|(name, shape)| (ParameterName::parse(name), shape));
        let mut language_parameters = 0_u64;
        let mut matrices = Vec::new();
        for (name, shape) in parsed {
            if name.tower == Tower::Language {
                language_parameters = language_parameters.saturating_add(product(shape));
            }
            if let (true, [rows, columns]) = (name.is_matrix, shape.as_slice()) {
                let path = saved.in_memory(&name);
                matrices.push(Matrix { shape: widths(&name, *rows, *columns), path, name });
            }
        }
        let Some((decoder, others)) = main_part(matrices) else {
            return Err(TensorsError::NoLayers { tensors: tensors.len() });
        };
        let layout = Layout::new(model, modules(&decoder))?.with_decoder_parameters(language_parameters);
        let is_linear = |matrix: &&Matrix| matrix.name.tower == Tower::Vision && !matrix.leaf().contains("embed");
        let tower = others.iter().filter(is_linear);
        let tower: Vec<String> = tower.map(|matrix| matrix.path.clone()).collect();
        // transformers 5 took a level out of CLIP's and SigLIP's towers that checkpoints still have.
        let newer = tower.iter().map(|path| path.replace("vision_tower.vision_model.", "vision_tower.")).collect();
        let others = with_head(others.into_iter().map(|matrix| (matrix.path, matrix.shape)));
        Ok(Self::new(Arc::new(layout), others).with_towers([newer, tower]))
    }
}

impl Matrix {
    fn leaf(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Whether it is a linear module of a language layer.
    fn is_of_decoder(&self) -> bool {
        let part = !matches!(self.name.skip, Some(SkipReason::Embeddings | SkipReason::OutputHead | SkipReason::Norms));
        self.name.tower == Tower::Language && self.name.layer.is_some() && part && !is_sparse(&self.path)
    }

    fn stack(&self) -> Option<&String> {
        self.name.layers_path.as_ref()
    }
}

/// How the names of a checkpoint differ from those that the model has in memory, with a head on it.
#[derive(Debug, Clone, Copy)]
enum Saved {
    /// Not at all.
    Plain,
    /// A vision-language model whose decoder is nested in memory and not, or otherwise, on disk.
    Nested,
    /// A model that was saved without its head, and so without what its names begin with under one.
    Headless(&'static str),
}

impl Saved {
    fn of(tensors: &[(String, Vec<usize>)]) -> Self {
        let begins = |start: &str| tensors.iter().any(|(name, _)| name.starts_with(start));
        // Whatever has a decoder beside a tower.
        if begins("language_model.") || begins("visual.") {
            return Self::Nested;
        }
        if begins("h.0.") {
            return Self::Headless("transformer");
        }
        // Of all models whose attention is called so, the list of layers lies in `model`.
        let attends = |start: &str| {
            let of_attention = |rest: &str| rest.starts_with("self_attn.");
            tensors.iter().filter_map(|(name, _)| name.strip_prefix(start)).any(of_attention)
        };
        if attends("layers.0.") || attends("decoder.layers.0.") {
            return Self::Headless("model");
        }
        if begins("layers.0.attention.query_key_value.") {
            return Self::Headless("gpt_neox");
        }
        Self::Plain
    }

    /// The path that a module has in memory. A checkpoint of a vision-language model keeps `language_model.model.…`,
    /// `vision_tower.…` and, for Qwen2-VL, `visual.…` beside `model.layers.…`.
    fn in_memory(self, name: &ParameterName) -> String {
        let path = name.path.as_str();
        match self {
            Self::Plain => return path.to_owned(),
            Self::Headless(_) if name.skip == Some(SkipReason::OutputHead) => return path.to_owned(),
            Self::Headless(start) => return format!("{start}.{path}"),
            Self::Nested => {}
        }
        if let Some(rest) = path.strip_prefix("language_model.model.") {
            return format!("model.language_model.{rest}");
        }
        if let Some(rest) = path.strip_prefix("language_model.") {
            let is_head = name.skip == Some(SkipReason::OutputHead);
            return if is_head { rest.to_owned() } else { format!("model.{path}") };
        }
        if name.tower != Tower::Language && !path.starts_with("model.") {
            return format!("model.{path}");
        }
        match path.strip_prefix("model.") {
            Some(rest) if name.tower == Tower::Language && !rest.starts_with("language_model.") => {
                format!("model.language_model.{rest}")
            }
            _ => path.to_owned(),
        }
    }
}

/// Widths of a matrix that PyTorch keeps as `[rows, columns]`.
fn widths(name: &ParameterName, rows: usize, columns: usize) -> ModuleShape {
    let leaf = name.path.rsplit('.').next().unwrap_or_default();
    // An embedding looks up a row.
    let conv1d = TRANSPOSED.contains(&leaf) && name.layers_path.as_ref().is_some_and(|path| path.ends_with('h'));
    let as_it_stands = conv1d || name.skip == Some(SkipReason::Embeddings);
    let (d_in, d_out) = if as_it_stands { (rows, columns) } else { (columns, rows) };
    ModuleShape { d_in, d_out }
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().fold(1, |product, width| u64::saturating_mul(product, *width as u64))
}

/// The matrices of the main stack, and the others; none where there is no stack.
fn main_part(matrices: Vec<Matrix>) -> Option<(Vec<Matrix>, Vec<Matrix>)> {
    let stack = main_stack(&matrices)?;
    Some(matrices.into_iter().partition(|matrix| matrix.is_of_decoder() && matrix.stack() == Some(&stack)))
}

/// The stack of language layers with most modules; a decoder before an encoder of the same size.
fn main_stack(matrices: &[Matrix]) -> Option<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for stack in matrices.iter().filter(|matrix| matrix.is_of_decoder()).filter_map(Matrix::stack) {
        *counts.entry(stack).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(path, count)| (*count, path.contains("decoder"))).map(|(path, _)| path.clone())
}

/// The decoder's modules, layer after layer.
fn modules(decoder: &[Matrix]) -> Vec<Module> {
    let mut leaves: BTreeMap<(Option<usize>, &str), usize> = BTreeMap::new();
    for matrix in decoder {
        *leaves.entry((matrix.name.layer, matrix.leaf())).or_default() += 1;
    }
    let mut modules: Vec<Module> = decoder
        .iter()
        .map(|matrix| {
            let leaf = matrix.leaf();
            let repeated = leaves.get(&(matrix.name.layer, leaf)).is_some_and(|count| *count > 1);
            let mut parts = matrix.path.rsplit('.');
            let kind = match (matrix.name.skip, matrix.name.projection) {
                (None, Some(projection)) if projection.path().ends_with(leaf) && !repeated => projection.into(),
                _ if repeated => match (parts.next(), parts.next()) {
                    (Some(leaf), Some(parent)) => Kind::Other(format!("{parent}.{leaf}")),
                    _ => Kind::Other(leaf.to_owned()),
                },
                _ => Kind::Other(leaf.to_owned()),
            };
            let ModuleShape { d_in, d_out } = matrix.shape;
            Module { name: matrix.path.clone(), layer: matrix.name.layer, kind, d_in, d_out }
        })
        .collect();
    modules.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
    modules
}

/// The same with the output head of a model that ties it to its embedding, and so does not save it.
fn with_head(others: impl Iterator<Item = (String, ModuleShape)>) -> Vec<(String, ModuleShape)> {
    let mut others: Vec<(String, ModuleShape)> = others.collect();
    let embedding = others.iter().find(|(path, _)| path.ends_with("embed_tokens")).map(|(_, shape)| *shape);
    if let Some(ModuleShape { d_in, d_out }) = embedding.filter(|_| !others.iter().any(|(path, _)| path == "lm_head")) {
        others.push(("lm_head".to_owned(), ModuleShape { d_in: d_out, d_out: d_in }));
    }
    others
}
