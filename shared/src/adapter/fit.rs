//! An adapter bound to a layout: which modules it adapts, with which rank and scale.

use std::sync::Arc;

use super::{CONFIG_FILE, Consumer, LoraConfig, PatternError, judge, lora_names};
use crate::layout::{Layout, Ranks};
use crate::weights::Weights;

/// An adapter that fits a layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Rank of every module; 0 where the adapter has none.
    pub ranks: Ranks,
    /// A and B under the model's names, without PEFT's prefix.
    pub weights: Weights,
    /// The configuration.
    pub config: LoraConfig,
    /// Factor of every module's update, in the layout's order; 0 where there is no adapter.
    scales: Vec<f64>,
}

/// Why an adapter does not fit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// Another kind of adapter.
    #[error(
        "{CONFIG_FILE}: only plain LoRA of linear layers can be read (peft_type LORA, without DoRA and fan_in_fan_out)"
    )]
    OtherKind,
    /// A pattern that is no regular expression.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A rank that configuration and tensor disagree on.
    #[error("{CONFIG_FILE} gives {module} rank {declared}, and its tensor has {stored}")]
    Rank {
        /// The module.
        module: String,
        /// Rank under the configuration.
        declared: u32,
        /// Rows of A.
        stored: usize,
    },
    /// One tensor of a pair.
    #[error("a module has one of lora_A and lora_B and not the other; save the adapter again")]
    Half,
    /// Tensors of modules that the layout does not have.
    #[error("this adapter is for another model: {model} has no module for {}", .names.join(", "))]
    OtherModel {
        /// The layout's model.
        model: String,
        /// The tensors.
        names: Vec<String>,
    },
}

impl Adapter {
    /// Binds an adapter to a layout. A module's rank is that of its tensors, and the configuration has to agree.
    ///
    /// # Errors
    /// Kinds of adapters other than plain LoRA, a pattern that is no regular expression, configuration and tensors that
    /// contradict each other, modules that the layout does not have.
    pub fn new(config: LoraConfig, weights: Weights, layout: &Arc<Layout>) -> Result<Self, FitError> {
        if !config.is_plain_lora() {
            return Err(FitError::OtherKind);
        }
        let patterns = config.patterns()?;
        let (mut ranks, mut scales) = (Vec::with_capacity(layout.len()), Vec::with_capacity(layout.len()));
        let mut known = 0;
        for module in layout.modules() {
            let [name_a, name_b] = lora_names(&module.name);
            let Some(a) = weights.tensors.get(&name_a) else {
                ranks.push(0);
                scales.push(0.0);
                continue;
            };
            if !weights.tensors.contains_key(&name_b) {
                return Err(FitError::Half);
            }
            known += 2;
            let declared = patterns.rank(&module.name)?;
            let stored = a.shape.first().copied().unwrap_or(0);
            if stored != declared as usize || declared == 0 {
                return Err(FitError::Rank { module: module.name.clone(), declared, stored });
            }
            ranks.push(declared);
            scales.push(patterns.scale(&module.name)?);
        }
        if known != weights.tensors.len() {
            return Err(left_over(&weights, layout));
        }
        let mut found = ranks.into_iter();
        let ranks = Ranks::from_fn(layout, |_| found.next().unwrap_or(0));
        Ok(Self { ranks, weights, config, scales })
    }

    /// Rank and scale of the module of a full name; none where it has no adapter.
    pub fn module(&self, name: &str) -> Option<(u32, f64)> {
        let (position, _) = self.ranks.layout().find(name)?;
        let rank = self.ranks.at(position).filter(|rank| *rank > 0)?;
        Some((rank, self.scales.get(position).copied()?))
    }

    /// What each program that reads LoRA makes of it.
    pub fn consumers(&self) -> Vec<Consumer> {
        let modules: Vec<(u32, f64)> = self.ranks.as_slice().iter().copied().zip(self.scales.iter().copied()).collect();
        judge(&self.config, &modules)
    }
}

/// What is wrong where not every tensor belongs to a whole pair of the layout.
fn left_over(weights: &Weights, layout: &Layout) -> FitError {
    let wanted = |name: &&String| {
        let module = name.strip_suffix(".lora_A.weight").or_else(|| name.strip_suffix(".lora_B.weight"));
        module.is_some_and(|module| layout.find(module).is_some())
    };
    let names: Vec<String> = weights.tensors.keys().filter(|name| !wanted(name)).cloned().collect();
    if names.is_empty() { FitError::Half } else { FitError::OtherModel { model: layout.model().to_owned(), names } }
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
    fn programs_that_read_no_patterns_are_right_only_where_their_own_rule_gives_the_scale() {
        let factors = |config: LoraConfig| -> Vec<(&'static str, bool, f64)> {
            let adapter = Adapter::new(config, weights(6), &layout()).unwrap();
            adapter.consumers().into_iter().map(|c| (c.name, c.right, c.most)).collect()
        };
        // One scale for all ranks: vLLM's lora_alpha / r is right, llama.cpp's lora_alpha / rank is not.
        let same_scale = config(6, 12, &format!(r#""{FIRST}": 6, ".*": 3"#), &format!(r#""{FIRST}": 12, ".*": 6"#));
        assert_eq!(factors(same_scale), [("PEFT", true, 1.0), ("vLLM", true, 1.0), ("llama.cpp", false, 2.0)]);
        // One alpha for all ranks: the other way round.
        let same_alpha = config(6, 12, &format!(r#""{FIRST}": 6, ".*": 3"#), "");
        assert_eq!(factors(same_alpha), [("PEFT", true, 1.0), ("vLLM", false, 1.0), ("llama.cpp", true, 1.0)]);
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
            assert!(refusal(plain.clone(), weights).contains("one of lora_A and lora_B and not the other"));
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
            assert!(refusal(LoraConfig::from_json(&text).unwrap(), weights(3)).contains("only plain LoRA"));
        }
    }
}
