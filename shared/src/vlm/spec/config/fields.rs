//! Reading fields of a configuration, all that is wrong with them collected before the first error is returned.

use serde_json::{Map, Value};

use super::ConfigError;

/// One JSON object of a configuration.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Path of the object, with the dot: "" or `text_config.`.
    path: String,
    missing: Vec<String>,
    invalid: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, path: &str) -> Self {
        Self { object, path: path.to_owned(), missing: Vec::new(), invalid: Vec::new(), notes: Vec::new() }
    }

    /// Full name of a field.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// The field, where it is there and not null.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.value(key).and_then(Value::as_str)
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        self.value(key).and_then(Value::as_bool)
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        self.value(key).and_then(Value::as_f64)
    }

    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        self.value(key).and_then(Value::as_u64)
    }

    /// The whole numbers of a list; none where there is no list.
    pub(super) fn integers(&self, key: &str) -> Vec<u64> {
        let values = self.value(key).and_then(Value::as_array);
        values.into_iter().flatten().filter_map(Value::as_u64).collect()
    }

    pub(super) fn is_list(&self, key: &str) -> bool {
        self.value(key).is_some_and(Value::is_array)
    }

    /// Whether the field is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// A nested object.
    pub(super) fn object(&self, key: &str) -> Option<Fields<'a>> {
        let object = self.value(key).and_then(Value::as_object)?;
        Some(Fields::new(object, &format!("{}{key}.", self.path)))
    }

    /// The object with what it leaves out taken from another, each field noted; `model` is whose defaults these are.
    pub(super) fn completed(
        &self,
        defaults: &Map<String, Value>,
        model: &str,
        notes: &mut Vec<String>,
    ) -> Map<String, Value> {
        let mut whole = defaults.clone();
        whole.extend(self.object.iter().map(|(key, value)| (key.clone(), value.clone())));
        let taken = defaults.iter().filter(|(key, value)| value.is_number() && !self.object.contains_key(*key));
        notes.extend(taken.map(|(key, value)| {
            format!("{} is missing: {value}, transformers' default for {model}, is taken", self.place(key))
        }));
        whole
    }

    /// A count of 1 to `most`; 1, with the field noted as missing or invalid, where it is not one.
    pub(super) fn count(&mut self, key: &str, most: usize) -> u64 {
        if !self.has(key) {
            self.missing.push(self.place(key));
            return 1;
        }
        self.count_or(key, 1, most)
    }

    /// A count of 1 to `most`; where it is missing, transformers' default, which is noted, or without one as [`Self::count`].
    pub(super) fn size(&mut self, key: &str, default: Option<u64>, most: usize) -> u64 {
        match default {
            Some(default) if !self.has(key) => {
                self.notes.push(format!("{} is missing: {default}, transformers' default, is taken", self.place(key)));
                default
            }
            _ => self.count(key, most),
        }
    }

    /// What was taken for granted.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// As [`Self::count`], with a default.
    pub(super) fn count_or(&mut self, key: &str, default: u64, most: usize) -> u64 {
        let Some(value) = self.value(key) else { return default };
        match value.as_u64() {
            Some(count) if count >= 1 && count <= most as u64 => count,
            _ => {
                self.invalid(key, &format!("{value}, expected a whole number from 1 to {most}"));
                1
            }
        }
    }

    /// A finite number above 0.
    pub(super) fn number_or(&mut self, key: &str, default: f64) -> f64 {
        let Some(value) = self.value(key) else { return default };
        match value.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => number,
            _ => {
                self.invalid(key, &format!("{value}, expected a number above 0"));
                default
            }
        }
    }

    /// True, false or not given.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        if value.as_bool().is_none() {
            self.invalid(key, &format!("{value}, expected true or false"));
        }
        value.as_bool()
    }

    pub(super) fn invalid(&mut self, key: &str, problem: &str) {
        let shown: String = problem.chars().take(200).collect();
        self.invalid.push(format!("{}: {shown}", self.place(key)));
    }

    /// The errors collected so far, missing fields first.
    pub(super) fn finish(&mut self) -> Result<(), ConfigError> {
        if !self.missing.is_empty() {
            return Err(ConfigError::Missing { fields: std::mem::take(&mut self.missing) });
        }
        if !self.invalid.is_empty() {
            return Err(ConfigError::Invalid { fields: std::mem::take(&mut self.invalid) });
        }
        Ok(())
    }

    /// Refuses what is recognised as another kind of model, whose missing fields would be a useless message.
    pub(super) fn refuse_other_kinds(&self) -> Result<(), ConfigError> {
        if self.boolean("is_encoder_decoder") == Some(true) || self.has("d_kv") {
            return Err(ConfigError::Unsupported(format!(
                "this is the configuration of an encoder–decoder ({}), and only those of LLaMA-like decoders are read here; give \
                 the checkpoint instead (its folder or model.safetensors), whose tensors tell the shapes",
                self.text("model_type").unwrap_or("as T5")
            )));
        }
        if !self.has("hidden_size") && (self.has("n_embd") || self.has("n_layer")) {
            return Err(ConfigError::Unsupported(format!(
                "this is the configuration of a GPT-2-like model ({}), and only those of LLaMA-like decoders are read here; give \
                 the checkpoint instead (its folder or model.safetensors), whose tensors tell the shapes",
                self.text("model_type").unwrap_or("n_embd, n_layer")
            )));
        }
        Ok(())
    }

    /// Refuses a mixture of experts whose dense part is not known.
    pub(super) fn refuse_experts(&self) -> Result<(), ConfigError> {
        let experts = ["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];
        let Some(key) = experts.into_iter().find(|key| self.integer(key).is_some_and(|count| count > 0)) else {
            return Ok(());
        };
        Err(ConfigError::Unsupported(format!(
            "{} says that this is a mixture of experts, and of a {} it is not known what of it is dense; give the checkpoint \
             instead (its folder, model.safetensors or model.safetensors.index.json), whose tensors tell it",
            self.place(key),
            self.text("model_type").unwrap_or("model without model_type")
        )))
    }
}
