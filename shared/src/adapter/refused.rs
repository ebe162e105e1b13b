//! Configurations that PEFT refuses before it looks at a tensor.

use serde_json::Value;

use super::LoraConfig;
use super::config::{Modules, OneOrMore};
use super::meaning::is_set;

/// Words of `init_lora_weights` that PEFT 0.21 compares as they stand.
const EXACT: [&str; 5] = ["eva", "kasa", "loftq", "lora_ga", "orthogonal"];
/// Those that it compares without regard to case.
const ANY_CASE: [&str; 3] = ["gaussian", "mica", "olora"];
/// Those that something may follow.
const BEGINNINGS: [&str; 2] = ["corda", "pissa"];

impl LoraConfig {
    /// Why PEFT 0.21 refuses this configuration by itself; empty where it does not.
    pub fn refused(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_text = matches!(self.target_modules, Some(Modules::Expression(_)));
        for (key, is_given) in [
            ("layers_to_transform", self.layers_to_transform.is_some()),
            ("layers_pattern", self.layers_pattern.is_some()),
        ] {
            if is_text && is_given {
                found.push(format!(
                    "PEFT refuses {key} beside a target_modules that is a text; write the layers into the expression, or \
                     target_modules as a list"
                ));
            }
        }
        let names_lists = match &self.layers_pattern {
            None => false,
            Some(OneOrMore::One(name)) => !name.is_empty(),
            Some(OneOrMore::More(names)) => !names.is_empty(),
        };
        if names_lists && !is_text && self.layers_to_transform.is_none() {
            found.push("PEFT refuses layers_pattern without layers_to_transform; give both, or neither".to_owned());
        }
        if self.lora_dropout > 1.0 {
            found.push(format!("PEFT refuses a lora_dropout of {}: it is a share from 0 to 1", self.lora_dropout));
        }
        let set = |key: &str| self.other.get(key).is_some_and(is_set);
        let word = self.other.get("init_lora_weights").and_then(Value::as_str);
        if let Some(word) = word.filter(|word| !is_known(word)) {
            found.push(format!("PEFT 0.21 refuses init_lora_weights {word:?}, which is none of its words"));
        }
        if word == Some("loftq") && !set("loftq_config") {
            found.push("PEFT refuses init_lora_weights \"loftq\" without a loftq_config".to_owned());
        }
        if set("lora_bias") && (self.use_dora || word.is_some()) {
            let other = if self.use_dora { "use_dora" } else { "an init_lora_weights that is a word" };
            found.push(format!("PEFT refuses lora_bias beside {other}"));
        }
        found
    }
}

/// Whether PEFT 0.21 knows a word of `init_lora_weights`.
fn is_known(word: &str) -> bool {
    EXACT.contains(&word)
        || ANY_CASE.iter().any(|known| known.eq_ignore_ascii_case(word))
        || BEGINNINGS.iter().any(|start| word.starts_with(start))
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_peft_refuses_of_a_configuration_alone_is_named() {
        for (fields, parts) in [
            (r#""layers_pattern": "layers""#, &["layers_pattern without layers_to_transform"][..]),
            (
                r#""target_modules": ["q_proj"], "layers_pattern": ["h"]"#,
                &["layers_pattern without layers_to_transform"],
            ),
            (
                r#""target_modules": ".*_proj", "layers_to_transform": 0"#,
                &["layers_to_transform beside a target_modules"],
            ),
            (r#""target_modules": "all-linear", "layers_to_transform": []"#, &["layers_to_transform beside"]),
            (
                r#""target_modules": ".*_proj", "layers_to_transform": [0], "layers_pattern": """#,
                &["layers_to_transform beside", "layers_pattern beside"],
            ),
            (r#""lora_dropout": Infinity"#, &["a lora_dropout of inf"]),
            (r#""lora_dropout": 1.5"#, &["a lora_dropout of 1.5"]),
            (r#""init_lora_weights": "PISSA""#, &["\"PISSA\""]),
            (r#""init_lora_weights": "loftq", "loftq_config": {}"#, &["without a loftq_config"]),
            (r#""lora_bias": true, "use_dora": true"#, &["lora_bias beside use_dora"]),
            (r#""lora_bias": true, "init_lora_weights": "gaussian""#, &["lora_bias beside an init_lora_weights"]),
            (r#""layers_to_transform": [0], "layers_pattern": "layers""#, &[]),
            (r#""layers_pattern": [], "target_modules": ["q_proj"]"#, &[]),
            (r#""lora_dropout": NaN, "init_lora_weights": "pissa_niter_4", "lora_bias": false"#, &[]),
            (r#""lora_dropout": -0.1, "init_lora_weights": "Gaussian""#, &[]),
        ] {
            let config = LoraConfig::from_json(&format!(r#"{{"peft_type": "LORA", {fields}}}"#)).unwrap();
            let found = config.refused();
            assert_eq!(found.len(), parts.len(), "{fields}: {found:?}");
            for (found, part) in found.iter().zip(parts) {
                assert!(found.contains(part), "{fields}: {found}");
            }
        }
    }
}
