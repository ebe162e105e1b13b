//! What an adapter adapts, told by the names and shapes of its tensors alone: a file's header holds them.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{adapter_of, module_of};
use super::{Foreign, saved_name};
use crate::layout::ModuleShape;
use crate::names::first_names;

/// A module that has a pair of matrices A, `[rank, d_in]`, and B, `[d_out, rank]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedModule {
    /// Its name in the model, without PEFT's prefix.
    pub name: String,
    /// Rank of its pair.
    pub rank: u32,
    /// Its widths.
    pub shape: ModuleShape,
}

/// What an adapter's tensors adapt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdaptedModules {
    /// The linear modules, by name.
    pub linear: Vec<AdaptedModule>,
    /// Names of tensors that are neither A nor B of one: of convolutions and embeddings, magnitudes and biases, whole modules.
    pub others: Vec<String>,
}

/// Tensors that make no adapter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapesError {
    /// In another program's names.
    #[error("{0}")]
    Foreign(Foreign),
    /// Of more than one adapter.
    #[error("it holds the tensors of several adapters: {0}; save each into a folder of its own")]
    Several(String),
    /// A module without its A or its B, or with two that do not fit each other.
    #[error(
        "{module} has no A of [rank, d_in] with a B of [d_out, rank]; save the adapter again with PEFT's save_pretrained"
    )]
    NoPair {
        /// The module.
        module: String,
    },
    /// No module at all.
    #[error("none of its {tensors} tensors is the lora_A or lora_B of a linear module")]
    None {
        /// Number of tensors.
        tensors: usize,
    },
}

/// What an adapter's tensors adapt.
///
/// # Errors
/// Another program's names, several adapters, a module whose A and B are no pair, no module.
pub fn adapted_modules(tensors: &[(String, Vec<usize>)]) -> Result<AdaptedModules, ShapesError> {
    let names = || tensors.iter().map(|(name, _)| name.as_str());
    if let Some(foreign) = Foreign::of_tensors(names) {
        return Err(ShapesError::Foreign(foreign));
    }
    let adapters: BTreeSet<&str> = names().filter_map(adapter_of).collect();
    if adapters.len() > 1 {
        return Err(ShapesError::Several(first_names(adapters)));
    }
    let mut pairs: BTreeMap<String, [Option<&[usize]>; 2]> = BTreeMap::new();
    let mut others = Vec::new();
    for (name, shape) in tensors {
        let name = saved_name(name);
        match (module_of(&name), shape.len()) {
            ((module, Some(part)), ..=2) => {
                if let Some(slot) = pairs.entry(module.to_owned()).or_default().get_mut(part) {
                    *slot = Some(shape);
                }
            }
            // The base's own weight, beside an embedding or a head that is adapted.
            _ if name.contains(".base_layer.") => {}
            // PEFT makes convolutions of the matrices of a convolution.
            _ => others.push(name),
        }
    }
    if pairs.is_empty() {
        return Err(ShapesError::None { tensors: tensors.len() });
    }
    let adapted = |(name, pair): (String, [Option<&[usize]>; 2])| match pair {
        [Some(&[rank, d_in]), Some(&[d_out, other])] if rank == other && rank > 0 => {
            let narrow = u32::try_from(rank).map_err(|_| ShapesError::NoPair { module: name.clone() })?;
            Ok(AdaptedModule { name, rank: narrow, shape: ModuleShape { d_in, d_out } })
        }
        _ => Err(ShapesError::NoPair { module: name }),
    };
    Ok(AdaptedModules { linear: pairs.into_iter().map(adapted).collect::<Result<_, _>>()?, others })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(named: &[(&str, [usize; 2])]) -> Vec<(String, Vec<usize>)> {
        named.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    #[test]
    fn modules_have_the_rank_of_a_and_the_widths_of_a_and_b() {
        let saved = tensors(&[
            ("base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight", [8, 64]),
            ("base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight", [192, 8]),
            // As in memory, and what PEFT saves beside a pair.
            ("base_model.model.lm_head.lora_A.default.weight", [4, 64]),
            ("base_model.model.lm_head.lora_B.default.weight", [1000, 4]),
            ("base_model.model.lm_head.base_layer.weight", [1000, 64]),
            ("base_model.model.model.embed_tokens.lora_embedding_A", [4, 1000]),
        ]);
        let module = |name: &str, rank, d_in, d_out| AdaptedModule {
            name: name.to_owned(),
            rank,
            shape: ModuleShape { d_in, d_out },
        };
        let wanted = [module("lm_head", 4, 64, 1000), module("model.layers.0.self_attn.qkv_proj", 8, 64, 192)];
        let adapted = adapted_modules(&saved).unwrap();
        assert_eq!(
            (adapted.linear, adapted.others),
            (wanted.into(), vec!["model.embed_tokens.lora_embedding_A".to_owned()])
        );
    }

    #[test]
    fn a_convolution_beside_linear_modules_is_another_tensor() {
        let pair = tensors(&[("q.lora_A.weight", [8, 4]), ("q.lora_B.weight", [4, 8])]);
        let convolution = [
            ("visual.proj.lora_A.weight".to_owned(), vec![8, 3, 2, 14, 14]),
            ("visual.proj.lora_B.weight".to_owned(), vec![32, 8, 1, 1, 1]),
        ];
        let adapted = adapted_modules(&[&pair[..], &convolution].concat()).unwrap();
        assert_eq!((adapted.linear.len(), adapted.others.len()), (1, 2));
    }

    #[test]
    fn what_is_no_adapter_of_pefts_is_refused_with_the_step_that_helps() {
        let refused = |named: &[(&str, [usize; 2])]| adapted_modules(&tensors(named)).unwrap_err().to_string();
        assert!(refused(&[("q.lora_A.weight", [8, 4])]).starts_with("q has no A"));
        assert!(refused(&[("q.lora_A.weight", [8, 4]), ("q.lora_B.weight", [4, 7])]).starts_with("q has no A"));
        assert!(refused(&[("q.lora_A.weight", [0, 4]), ("q.lora_B.weight", [4, 0])]).starts_with("q has no A"));
        assert!(refused(&[("q.lora_down.weight", [8, 4])]).contains("kohya"));
        assert!(refused(&[("q.lora_A.one.weight", [8, 4]), ("q.lora_B.two.weight", [4, 8])]).contains("one, two"));
        assert!(refused(&[("q.weight", [8, 4])]).contains("none of its 1 tensors"));
    }
}
