//! Keys of an `adapter_config.json` that make an adapter more, or something else, than B·A added to a weight.

use serde_json::Value;

use super::LoraConfig;
use crate::names::first_names;

/// A key that changes what an adapter means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// The key, with its value where that is a word.
    pub key: String,
    /// What it does.
    pub what: &'static str,
    /// Whether vLLM 0.32 refuses it by name; other programs read the adapter as if it were not there.
    pub vllm_refuses: bool,
}

/// Beginnings of `init_lora_weights` that change the base model's weights as well.
const INITIAL: [&str; 7] = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica", "kasa"];

/// Those of them that vLLM 0.32 takes for plain LoRA.
const TAKEN_FOR_PLAIN: [&str; 2] = ["lora_ga", "mica"];

/// The keys that have no value in plain LoRA, what they do, and whether vLLM 0.32 refuses them by name.
const KEYS: [(&str, &str, bool); 10] = [
    ("alora_invocation_tokens", "works only from certain tokens on (aLoRA)", true),
    ("arrow_config", "chooses among several adapters for each token (Arrow)", false),
    ("kasa_config", "cuts the base's weights down (KaSA)", false),
    ("layer_replication", "repeats layers of the base", true),
    ("lora_bias", "adds a bias to B", true),
    ("monteclora_config", "draws its weights at random (MonteCLoRA)", false),
    ("target_parameters", "adapts parameters that are no linear module's weight", false),
    ("use_bdlora", "has block-diagonal matrices (BD-LoRA)", true),
    ("use_qalora", "averages its input in groups (QALoRA)", true),
    ("velora_config", "was trained through compressed activations (VeLoRA)", false),
];

impl LoraConfig {
    /// The keys that change what this adapter means; none for plain LoRA.
    pub fn meanings(&self) -> Vec<Meaning> {
        let word = |key: &str| self.other.get(key).and_then(Value::as_str);
        let mut found = Vec::new();
        let mut tell = |key: String, what, vllm_refuses| found.push(Meaning { key, what, vllm_refuses });
        if self.use_dora {
            tell("use_dora".to_owned(), "splits weights into magnitude and direction (DoRA)", true);
        }
        if self.fan_in_fan_out {
            tell("fan_in_fan_out".to_owned(), "is for weights that are stored [in, out]", false);
        }
        if let Some(method) = word("init_lora_weights")
            && INITIAL.iter().any(|initial| method.to_lowercase().starts_with(initial))
        {
            let refused = !TAKEN_FOR_PLAIN.iter().any(|taken| taken.eq_ignore_ascii_case(method));
            let what = "changed the base's weights before training, so that the adapter fits that changed base alone";
            tell(format!("init_lora_weights {method:?}"), what, refused);
        }
        if let Some(bias) = word("bias").filter(|bias| *bias != "none") {
            tell(format!("bias {bias:?}"), "trained biases of the base, too", false);
        }
        for (key, what, refused) in KEYS {
            let is_set = match key {
                "target_parameters" => self.target_parameters.as_ref().is_some_and(|names| !names.is_empty()),
                _ => self.other.get(key).is_some_and(is_set),
            };
            if is_set {
                tell(key.to_owned(), what, refused);
            }
        }
        found
    }

    /// Its keys that change the meaning, in words; none for plain LoRA.
    pub fn beyond_plain_lora(&self) -> Option<String> {
        let found: Vec<String> =
            self.meanings().iter().map(|Meaning { key, what, .. }| format!("{key} {what}")).collect();
        (!found.is_empty()).then(|| first_names(&found))
    }
}

/// Whether a value says something: not null, false, 0, or empty.
pub(super) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn keys(fields: &str) -> Vec<String> {
        let config = LoraConfig::from_json(&format!(r#"{{"peft_type": "LORA", "r": 1{fields}}}"#)).unwrap();
        config.meanings().into_iter().map(|meaning| meaning.key).collect()
    }

    #[test]
    fn plain_lora_has_no_key_that_changes_its_meaning() {
        for plain in [
            "",
            r#", "init_lora_weights": true, "bias": "none", "loftq_config": {}, "use_qalora": false, "qalora_group_size": 16"#,
            r#", "init_lora_weights": "gaussian", "target_parameters": [], "layer_replication": null, "lora_bias": false"#,
            r#", "init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "init_unknown": 1"#,
            // PEFT reads these where init_lora_weights says their word, and nowhere else.
            r#", "loftq_config": {"loftq_bits": 4}, "corda_config": {"x": 1}, "lora_ga_config": {"x": 1}"#,
        ] {
            assert_eq!(keys(plain), [""; 0], "{plain}");
        }
    }

    #[test]
    fn vllm_refuses_every_word_but_those_that_leave_the_base_as_it_was() {
        let refused = |word: &str| {
            let config = format!(r#"{{"peft_type": "LORA", "init_lora_weights": "{word}"}}"#);
            LoraConfig::from_json(&config).unwrap().meanings().first().map(|meaning| meaning.vllm_refuses)
        };
        assert_eq!(["pissa_niter_4", "PISSA", "corda", "loftq"].map(refused), [Some(true); 4]);
        assert_eq!([refused("lora_ga"), refused("gaussian")], [Some(false), None]);
    }

    #[test]
    fn keys_that_change_the_meaning_are_named() {
        for (fields, key) in [
            (r#", "use_dora": true"#, "use_dora"),
            (r#", "init_lora_weights": "pissa_niter_16""#, "init_lora_weights \"pissa_niter_16\""),
            (r#", "init_lora_weights": "olora""#, "init_lora_weights \"olora\""),
            (r#", "init_lora_weights": "loftq""#, "init_lora_weights \"loftq\""),
            (r#", "bias": "all""#, "bias \"all\""),
            (r#", "alora_invocation_tokens": [1, 2]"#, "alora_invocation_tokens"),
            (r#", "layer_replication": [[0, 4], [2, 5]]"#, "layer_replication"),
            (r#", "use_bdlora": {"nblocks": 2}"#, "use_bdlora"),
            (r#", "use_qalora": true"#, "use_qalora"),
            (r#", "target_parameters": ["gate_up_proj"]"#, "target_parameters"),
            (r#", "kasa_config": {"beta": 1e-4}"#, "kasa_config"),
        ] {
            assert_eq!(keys(fields), [key], "{fields}");
        }
    }
}
