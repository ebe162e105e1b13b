//! Ranks of PEFT's `adapter_config.json`.

use std::sync::Arc;

use hydra_shared::adapter::{key_matches, suffix_matches};
use hydra_shared::layout::{Layout, Ranks};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// What an `adapter_config.json` says about ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterRanks {
    peft_type: String,
    r: u32,
    /// In file order: PEFT takes the first key that matches.
    #[serde(default)]
    rank_pattern: IndexMap<String, u32>,
    #[serde(default)]
    target_modules: Option<Targets>,
}

/// PEFT's `target_modules`: a list of names, or one regular expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Targets {
    List(Vec<String>),
    Expression(String),
}

/// The word for every linear layer.
const ALL_LINEAR: &str = "all-linear";

impl AdapterRanks {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Text that is none, or one of another kind than LoRA.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let ranks: Self =
            serde_json::from_str(text).map_err(|error| format!("this is no adapter_config.json: {error}"))?;
        if ranks.peft_type != "LORA" {
            return Err(format!("peft_type is {:?}; only LORA has ranks that can be shown", ranks.peft_type));
        }
        if ranks.r == 0 || ranks.rank_pattern.values().any(|rank| *rank == 0) {
            return Err("it gives a rank of 0, which PEFT refuses; take the module out of target_modules".to_owned());
        }
        Ok(ranks)
    }

    /// Ranks of a layout's modules, as PEFT would give it; and what else is to be told. Modules that PEFT would leave
    /// without an adapter count as rank 1.
    ///
    /// # Errors
    /// A configuration for another model.
    pub fn ranks(&self, layout: &Arc<Layout>) -> Result<(Ranks, Vec<String>), String> {
        let names: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
        let mut notices = Vec::new();
        let loose: Vec<&String> =
            self.rank_pattern.keys().filter(|key| !names.iter().any(|name| key_matches(key, name))).collect();
        if let Some(first) = loose.first() {
            if loose.len() == self.rank_pattern.len() {
                return Err(format!(
                    "none of its rank_pattern keys (such as {first}) is a module of {}; drop the config.json of its model \
                     first",
                    layout.model()
                ));
            }
            notices.push(format!("{} of its rank_pattern keys match no module, the first is {first}", loose.len()));
        }
        let adapted = |name: &str| match &self.target_modules {
            Some(Targets::List(list)) => list.iter().any(|target| suffix_matches(target, name)),
            Some(Targets::Expression(text)) if text == ALL_LINEAR => true,
            Some(Targets::Expression(_)) | None => true,
        };
        if matches!(&self.target_modules, Some(Targets::Expression(text)) if text != ALL_LINEAR) {
            notices.push(
                "target_modules is a regular expression, which is not read: all modules count as adapted".to_owned(),
            );
        }
        let left_out = names.iter().filter(|name| !adapted(name)).count();
        if left_out > 0 {
            notices.push(format!("it adapts not all modules: {left_out} without an adapter are shown with rank 1"));
        }
        let mut capped = 0;
        let ranks = Ranks::from_fn(layout, |module| {
            if !adapted(&module.name) {
                return 1;
            }
            let found = self.rank_pattern.iter().find(|(key, _)| key_matches(key, &module.name));
            let rank = found.map_or(self.r, |(_, &rank)| rank);
            let highest = module.highest_rank(None);
            capped += usize::from(rank > highest);
            rank.min(highest)
        });
        if capped > 0 {
            notices.push(format!("{capped} ranks are above what their matrices can use and were lowered to that"));
        }
        Ok((ranks, notices))
    }
}
