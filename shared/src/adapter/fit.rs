//! An adapter bound to a layout: which modules it adapts, with which rank and scale.

use std::sync::Arc;

use super::check::{Check, Naming, check};
use super::config::{LoraConfig, Modules, number};
use super::names::{embedding_names, lora_names, module_of};
use super::{CONFIG_FILE, PatternError};
use crate::layout::{Catalog, Layout, Ranks};
use crate::names::{first_names, first_sentences};
use crate::weights::Weights;

/// An adapter that fits a layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Rank of every module; 0 where the adapter has none.
    pub ranks: Ranks,
    /// A and B of the layout's modules under the model's names, without PEFT's prefix.
    pub weights: Weights,
    /// Every other tensor: of modules outside the layout, such as a vision tower's or the output head.
    pub outside: Weights,
    /// The configuration.
    pub config: LoraConfig,
    /// Why it changes nothing, or not everywhere, although it is whole: see [`Check::idle`].
    pub idle: Vec<String>,
    /// What is to be known of it.
    pub notes: Vec<String>,
    /// Factor of every module's update, in the layout's order; 0 where there is no adapter.
    scales: Vec<f64>,
}

/// Why an adapter does not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Another kind of adapter.
    #[error("{CONFIG_FILE}: only plain LoRA of linear layers can be used here, and this is not: {0}")]
    OtherKind(String),
    /// A pattern that is no regular expression.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// What [`check()`] found.
    #[error("{}", first_sentences(.0))]
    Problems(Vec<String>),
}

impl Adapter {
    /// Binds an adapter to a layout. Its tensors have to be what its configuration makes PEFT expect; see [`check()`].
    ///
    /// # Errors
    /// Kinds of adapters other than plain LoRA, a pattern that is no regular expression, configuration and tensors that
    /// contradict each other, modules that the layout does not have.
    pub fn new(config: LoraConfig, weights: Weights, layout: &Arc<Layout>) -> Result<Self, FitError> {
        Self::of_model(config, weights, &Arc::clone(layout).into())
    }

    /// [`Self::new`] for a model of which more is known than what gets ranks: the names of its vision tower tell the old paths
    /// of a decoder.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_model(config: LoraConfig, weights: Weights, model: &Catalog) -> Result<Self, FitError> {
        let layout = model.decoder();
        if !config.is_lora() {
            return Err(FitError::OtherKind(format!("peft_type is {:?}", config.peft_type)));
        }
        if let Some(what) = config.beyond_plain_lora() {
            return Err(FitError::OtherKind(what));
        }
        let Check { ranks, scales, problems, ignored, idle, notes, .. } = check(&config, &weights, model)?;
        if !problems.is_empty() || !ignored.is_empty() {
            return Err(FitError::Problems([problems, ignored].concat()));
        }
        let naming = Naming::of(&weights, model);
        let mut adapter =
            Self { ranks, weights: Weights::default(), outside: Weights::default(), config, idle, notes, scales };
        for (name, weight) in weights.tensors {
            let name = naming.of_layout(&name);
            let (module, part) = module_of(&name);
            let inside = part.is_some() && layout.find(module).is_some();
            let kept = if inside { &mut adapter.weights } else { &mut adapter.outside };
            kept.tensors.insert(name, weight);
        }
        if naming.old().is_some() {
            adapter.config = adapter.explicit(&naming)?;
        }
        Ok(adapter)
    }

    /// Rank and scale of the module of a full name; none where it has no adapter.
    pub fn module(&self, name: &str) -> Option<(u32, f64)> {
        let (position, _) = self.ranks.layout().find(name)?;
        let rank = self.ranks.at(position).filter(|rank| *rank > 0)?;
        Some((rank, self.scales.get(position).copied()?))
    }

    /// Rank and scale of a module outside the layout that has A and B, an embedding's or others'; none where it has not.
    pub fn outside_module(&self, name: &str) -> Option<(u32, f64)> {
        let pairs = [lora_names(name), embedding_names(name)];
        let [_, b] = pairs.iter().find(|pair| pair.iter().all(|name| self.outside.tensors.contains_key(name)))?;
        let rank = u32::try_from(*self.outside.tensors.get(b)?.shape.get(1)?).ok()?;
        // A pattern that fails would have failed when the adapter was bound.
        Some((rank, self.config.patterns().ok()?.scale(name).ok()?))
    }

    /// Names of the modules that have A and B, those outside the layout included, such as an embedding.
    pub fn adapted(&self) -> Vec<String> {
        let tensors = self.weights.tensors.keys().chain(self.outside.tensors.keys());
        let module = |name: &String| {
            let (module, part) = module_of(name);
            (part == Some(0) || *name == embedding_names(module)[0]).then(|| module.to_owned())
        };
        tensors.filter_map(module).collect()
    }

    /// Names of the modules outside the layout that it changes, for a message; none where there is none.
    pub fn beside(&self, counts: impl Fn(&str) -> bool) -> Option<String> {
        let mut names: Vec<&str> =
            self.outside.tensors.keys().map(|name| module_of(name).0).filter(|name| counts(name)).collect();
        names.dedup();
        (!names.is_empty()).then(|| first_names(&names))
    }

    /// The configuration with every module's full name of today.
    fn explicit(&self, naming: &Naming) -> Result<LoraConfig, PatternError> {
        let patterns = self.config.patterns()?;
        let mut config = with_targets(self.config.clone(), self.adapted());
        (config.rank_pattern, config.alpha_pattern) = Default::default();
        for name in self.adapted() {
            let own = naming.own(&name);
            let rank = patterns.rank(&own)?;
            let scale = patterns.scale(&own)?;
            let root = if config.use_rslora { f64::from(rank).sqrt() } else { f64::from(rank) };
            config.rank_pattern.insert(name.clone(), rank);
            config.alpha_pattern.insert(name, number(scale * root));
        }
        Ok(config)
    }
}

/// The configuration for just these modules.
pub(super) fn with_targets(mut config: LoraConfig, modules: Vec<String>) -> LoraConfig {
    config.target_modules = Some(Modules::List(modules));
    (config.exclude_modules, config.layers_to_transform, config.layers_pattern) = (None, None, None);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::spec::preset_layout;
    use crate::weights::Weight;

    const FIRST: &str = "model.layers.0.self_attn.q_proj";

    fn layout() -> Arc<Layout> {
        preset_layout("tiny-mobilevlm").unwrap()
    }

    /// As text: the order of the keys counts, and a `Value` would sort them.
    fn config(rank: u32, alpha: u32, rank_pattern: &str, alpha_pattern: &str) -> LoraConfig {
        let text = format!(
            r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {alpha},
            "rank_pattern": {{{rank_pattern}}}, "alpha_pattern": {{{alpha_pattern}}}}}"#
        );
        LoraConfig::from_json(&text).unwrap()
    }

    /// Tensors of rank 3 in every module but the first, which has `first`.
    fn weights(first: usize) -> Weights {
        let mut weights = Weights::default();
        let zeros = |shape: [usize; 2]| Weight { shape: shape.to_vec(), values: vec![0.0; shape[0] * shape[1]] };
        for module in layout().modules() {
            let rank = if module.name == FIRST { first } else { 3 };
            let [a, b] = lora_names(&module.name);
            weights.tensors.insert(a, zeros([rank, module.d_in]));
            weights.tensors.insert(b, zeros([module.d_out, rank]));
        }
        weights
    }

    fn refusal(config: LoraConfig, weights: Weights) -> String {
        Adapter::new(config, weights, &layout()).unwrap_err().to_string()
    }

    #[test]
    fn ranks_and_scales_are_found_by_the_modules_name_and_a_module_may_have_none() {
        let mut some = weights(6);
        some.tensors.retain(|name, _| !name.contains("down_proj"));
        let adapter = Adapter::new(config(3, 6, &format!(r#""{FIRST}": 6"#), ""), some, &layout()).unwrap();
        assert_eq!(adapter.module(FIRST), Some((6, 1.0)));
        assert_eq!(adapter.module("model.layers.5.mlp.up_proj"), Some((3, 2.0)));
        assert_eq!((adapter.module("model.layers.5.mlp.down_proj"), adapter.module("lm_head")), (None, None));
        assert_eq!(adapter.ranks.get("model.layers.5.mlp.down_proj"), Some(0));
        assert_eq!(adapter.ranks.parameters(), adapter.weights.parameters());
    }

    #[test]
    fn a_rank_that_configuration_and_tensor_disagree_on_is_named() {
        let message = refusal(config(3, 6, "", ""), weights(5));
        assert!(message.contains("gives model.layers.0.self_attn.q_proj rank 3, and its tensor has 5"), "{message}");
    }

    #[test]
    fn half_an_adapter_and_one_for_another_model_are_refused() {
        let plain = config(3, 6, "", "");
        for half in lora_names(FIRST) {
            let mut weights = weights(3);
            weights.tensors.remove(&half).unwrap();
            let missing = if half.contains("lora_A") { "lora_A" } else { "lora_B" };
            assert_eq!(refusal(plain.clone(), weights), format!("{missing} is missing for {FIRST}"));
        }
        for strange in ["model.layers.9.mlp.up_proj.lora_A.weight", "model.layers.0.mlp.up_proj.lora_A.bias"] {
            let mut weights = weights(3);
            let weight = weights.tensors[&lora_names(FIRST)[0]].clone();
            weights.tensors.insert(strange.to_owned(), weight);
            let expected = format!("this adapter is for another model: tiny-mobilevlm has no module for {strange}");
            assert_eq!(refusal(plain.clone(), weights), expected);
        }
        for change in [r#""use_dora": true"#, r#""fan_in_fan_out": true"#] {
            let text = format!(r#"{{"peft_type": "LORA", "r": 3, "lora_alpha": 6, {change}}}"#);
            let message = refusal(LoraConfig::from_json(&text).unwrap(), weights(3));
            assert!(message.contains("only plain LoRA") && message.contains(&change[1..8]), "{message}");
        }
    }
}
