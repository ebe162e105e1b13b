//! PEFT's `adapter_config.json`.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Number, Value, json, to_value};

use super::Foreign;
use super::pattern::{PatternError, Patterns, Targets};
use crate::json;
use crate::schedule::{RankSchedule, ScalePolicy};

/// The key of the dropout.
const DROPOUT: &str = "lora_dropout";
/// `peft_type` of LoRA.
const LORA: &str = "LORA";
/// Keys that [`LoraConfig::new`] writes even where they hold PEFT's default. The others would stop PEFT before 0.7, which
/// refuses keys that it does not know.
const ALWAYS_WRITTEN: [&str; 6] =
    ["alpha_pattern", "fan_in_fan_out", "inference_mode", "lora_dropout", "modules_to_save", "rank_pattern"];

/// The keys that have a field of their own.
const FIELDS: [&str; 16] = [
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "use_dora",
    "use_rslora",
];

/// What a schedule does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeftOptions {
    /// Name or path of the base model, for programs that load it by themselves.
    pub base_model: Option<String>,
    /// Dropout in front of A; 0 by default as in PEFT (MobileVLM trains with 0.05).
    pub dropout: f64,
}

/// The content of an `adapter_config.json` of LoRA, as PEFT 0.21 has it.
///
/// What [`Self::from_json`] read and [`Self::to_json`] writes again is the same document: keys that have no field here are
/// kept in `other`, and keys that stood in the file are written even where they hold PEFT's default. Keys stand in
/// alphabetical order, as PEFT writes them; those of the patterns in the order of the file, since the first that matches
/// counts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LoraConfig {
    /// α of the modules that a key matches; see [`Patterns`].
    #[serde(default)]
    pub alpha_pattern: IndexMap<String, Number>,
    /// Modules that `target_modules` names and that are left out.
    #[serde(default)]
    pub exclude_modules: Option<Modules>,
    /// Whether weights are `[in, out]`; those of `nn.Linear` are `[out, in]`.
    #[serde(default, deserialize_with = "switch")]
    pub fan_in_fan_out: bool,
    /// Whether PEFT freezes the adapter when it loads it.
    #[serde(default, deserialize_with = "switch")]
    pub inference_mode: bool,
    /// Names of lists of layers, for `layers_to_transform`; any list where there is none.
    #[serde(default)]
    pub layers_pattern: Option<OneOrMore<String>>,
    /// The layers that are adapted, where not all are.
    #[serde(default)]
    pub layers_to_transform: Option<OneOrMore<u64>>,
    /// α of the modules that no key of `alpha_pattern` matches.
    #[serde(default = "default_alpha")]
    pub lora_alpha: Number,
    /// Dropout in front of A. A trained adapter does not use it: it may be NaN, or infinite.
    #[serde(default, deserialize_with = "dropout")]
    pub lora_dropout: f64,
    /// Modules that are trained and saved whole, and so get no adapter.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// `LORA`, or another kind of adapter.
    pub peft_type: String,
    /// Rank of the modules that no key of `rank_pattern` matches.
    #[serde(default = "default_rank")]
    pub r: u32,
    /// Rank of the modules that a key matches; see [`Patterns`].
    #[serde(default)]
    pub rank_pattern: IndexMap<String, u32>,
    /// The adapted modules; see [`Targets`].
    #[serde(default)]
    pub target_modules: Option<Modules>,
    /// Parameters that are adapted without being a linear module's weight.
    #[serde(default)]
    pub target_parameters: Option<Vec<String>>,
    /// Whether the adapter decomposes weights into magnitude and direction.
    #[serde(default, deserialize_with = "switch")]
    pub use_dora: bool,
    /// Whether the scale is α/√r instead of α/r.
    #[serde(default, deserialize_with = "switch")]
    pub use_rslora: bool,
    /// Every other key, as it is.
    // serde's own way of keeping them would take 15 kB in the page.
    #[serde(skip)]
    pub other: BTreeMap<String, Value>,
    /// Keys that are written even where they hold PEFT's default.
    #[serde(skip)]
    named: BTreeSet<String>,
}

/// Modules, as PEFT's `target_modules` and `exclude_modules` name them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Names, or ends of paths.
    List(Vec<String>),
    /// One regular expression for the whole name.
    Expression(String),
}

/// A value or a list of such.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// A list.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// Text that is no configuration of PEFT.
#[derive(Debug, thiserror::Error)]
#[error("this is no adapter_config.json: {0}")]
pub struct ConfigError(#[from] serde_json::Error);

impl LoraConfig {
    /// The configuration of a schedule.
    ///
    /// `r` is the largest rank (vLLM compares it with its limit), and every module of another rank has its full name in
    /// both patterns, so that neither PEFT nor a reader of one pattern alone has to guess. Full names without `^` work in
    /// every version of PEFT that knows patterns, and suffixes would also hit a vision tower. Modules of rank 0 are left
    /// out.
    pub fn new(schedule: &RankSchedule, options: &PeftOptions) -> Self {
        let r = schedule.ranks.largest();
        let adapted = || schedule.ranks.iter().filter(|&(_, rank)| rank > 0);
        let others = || adapted().filter(move |&(_, rank)| rank != r);
        let mut target_modules: Vec<String> = adapted().map(|(module, _)| module.name.clone()).collect();
        target_modules.sort_unstable();
        let mut alpha_pattern: IndexMap<String, Number> =
            others().map(|(module, rank)| (module.name.clone(), number(schedule.scale.alpha(rank)))).collect();
        alpha_pattern.sort_unstable_keys();
        let mut rank_pattern: IndexMap<String, u32> =
            others().map(|(module, rank)| (module.name.clone(), rank)).collect();
        rank_pattern.sort_unstable_keys();
        let other = [
            ("base_model_name_or_path", json!(options.base_model)),
            ("bias", json!("none")),
            ("init_lora_weights", json!(true)),
            ("task_type", json!("CAUSAL_LM")),
        ];
        Self {
            alpha_pattern,
            exclude_modules: None,
            fan_in_fan_out: false,
            inference_mode: true,
            layers_pattern: None,
            layers_to_transform: None,
            lora_alpha: number(schedule.scale.alpha(r)),
            lora_dropout: options.dropout,
            modules_to_save: None,
            peft_type: LORA.to_owned(),
            r,
            rank_pattern,
            target_modules: Some(Modules::List(target_modules)),
            target_parameters: None,
            use_dora: false,
            use_rslora: schedule.scale.is_rslora(),
            other: other.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            named: ALWAYS_WRITTEN.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The same for an adapter that is still to be trained: PEFT freezes one whose configuration says that it is for
    /// inference.
    #[must_use]
    pub fn for_training(self) -> Self {
        Self { inference_mode: false, ..self }
    }

    /// Reads an `adapter_config.json`. What `peft_type` says is left to the caller.
    ///
    /// # Errors
    /// Text that is none.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        if text.starts_with('\u{feff}') {
            let problem = "the file begins with a byte order mark, which PEFT refuses; save it as UTF-8 without one";
            return Err(ConfigError(serde_json::Error::custom(problem)));
        }
        let mended = json::with_null_for_bare_words(text);
        let mut other: BTreeMap<String, Value> = serde_json::from_str(&mended)?;
        if let Some(foreign) = Foreign::of_config(&other) {
            return Err(ConfigError(serde_json::Error::custom(foreign)));
        }
        let named = other.keys().cloned().collect();
        other.retain(|key, _| !FIELDS.contains(&key.as_str()));
        let mut config = Self { other, named, ..serde_json::from_str(&mended)? };
        if config.lora_dropout.is_nan() {
            config.lora_dropout = bare_dropout(text)?;
        }
        Ok(config)
    }

    /// The text of `adapter_config.json`.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Whether it is LoRA of any kind.
    pub fn is_lora(&self) -> bool {
        self.peft_type == LORA
    }

    /// `lora_alpha` as a number to compute with.
    pub fn alpha(&self) -> f64 {
        float(&self.lora_alpha)
    }

    /// Factor of the update of a module of this α and rank.
    pub fn scale(&self, alpha: f64, rank: u32) -> f64 {
        let policy = if self.use_rslora { ScalePolicy::RsLora { alpha } } else { ScalePolicy::FixedAlpha { alpha } };
        policy.scale(rank)
    }

    /// The ranks and scales of its patterns.
    ///
    /// # Errors
    /// A key that is no regular expression.
    pub fn patterns(&self) -> Result<Patterns<'_>, PatternError> {
        Patterns::new(self)
    }

    /// The modules that it adapts.
    ///
    /// # Errors
    /// An entry that is no regular expression where one is meant.
    pub fn targets(&self) -> Result<Targets, PatternError> {
        Targets::new(self)
    }

    /// The names that `target_modules` lists; none where it is a regular expression.
    pub fn target_names(&self) -> &[String] {
        match &self.target_modules {
            Some(Modules::List(names)) => names,
            Some(Modules::Expression(_)) | None => &[],
        }
    }

    /// What is written, by key.
    fn entries(&self) -> Result<BTreeMap<&str, Entry<'_>>, serde_json::Error> {
        // Each field with PEFT's default, under which it may be left out.
        let fields = [
            ("exclude_modules", self.exclude_modules.is_none(), to_value(&self.exclude_modules)?),
            ("fan_in_fan_out", !self.fan_in_fan_out, to_value(self.fan_in_fan_out)?),
            ("inference_mode", !self.inference_mode, to_value(self.inference_mode)?),
            ("layers_pattern", self.layers_pattern.is_none(), to_value(&self.layers_pattern)?),
            ("layers_to_transform", self.layers_to_transform.is_none(), to_value(&self.layers_to_transform)?),
            ("lora_alpha", false, to_value(&self.lora_alpha)?),
            // JSON has no NaN.
            (
                DROPOUT,
                self.lora_dropout == 0.0,
                to_value(if self.lora_dropout.is_finite() { self.lora_dropout } else { 0.0 })?,
            ),
            ("modules_to_save", self.modules_to_save.is_none(), to_value(&self.modules_to_save)?),
            ("peft_type", false, to_value(&self.peft_type)?),
            ("r", false, to_value(self.r)?),
            ("target_modules", self.target_modules.is_none(), to_value(&self.target_modules)?),
            ("target_parameters", self.target_parameters.is_none(), to_value(&self.target_parameters)?),
            ("use_dora", !self.use_dora, to_value(self.use_dora)?),
            ("use_rslora", !self.use_rslora, to_value(self.use_rslora)?),
        ];
        let fields = fields.into_iter().map(|(key, is_default, value)| (key, is_default, Entry::Value(value)));
        let patterns = [
            ("alpha_pattern", self.alpha_pattern.is_empty(), Entry::Alphas(&self.alpha_pattern)),
            ("rank_pattern", self.rank_pattern.is_empty(), Entry::Ranks(&self.rank_pattern)),
        ];
        let written = fields.chain(patterns).filter(|(key, is_default, _)| !is_default || self.named.contains(*key));
        let other = self.other.iter().map(|(key, value)| (key.as_str(), Entry::Other(value)));
        Ok(other.chain(written.map(|(key, _, entry)| (key, entry))).collect())
    }
}

/// A value of the document. The patterns are no JSON values, whose keys would be sorted.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Alphas(&'a IndexMap<String, Number>),
    Ranks(&'a IndexMap<String, u32>),
    Value(Value),
    Other(&'a Value),
}

impl Serialize for LoraConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries().map_err(S::Error::custom)?)
    }
}

/// A switch, which Python takes for off where it is null.
fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(false))
}

/// A dropout; NaN for null, which may be a word that JSON does not have.
fn dropout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The word that stands for the dropout in a text where it is no number.
fn bare_dropout(text: &str) -> Result<f64, serde_json::Error> {
    let (_, after) = text.rsplit_once(&format!("\"{DROPOUT}\"")).unwrap_or_default();
    let value = after.trim_start().trim_start_matches(':').trim_start();
    if value.starts_with("NaN") {
        Ok(f64::NAN)
    } else if value.starts_with("Infinity") {
        Ok(f64::INFINITY)
    } else if value.starts_with("-Infinity") {
        Ok(f64::NEG_INFINITY)
    } else {
        Err(serde_json::Error::custom(format_args!("{DROPOUT} is null, and a number belongs there")))
    }
}

/// PEFT's default of `r`.
fn default_rank() -> u32 {
    8
}

/// PEFT's default of `lora_alpha`.
fn default_alpha() -> Number {
    Number::from(8)
}

/// PEFT declares α as an integer: it is written as one where it is one.
pub(super) fn number(value: f64) -> Number {
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() < EXACT {
        Number::from(value as i64)
    } else {
        Number::from_f64(value).unwrap_or_else(|| Number::from(0))
    }
}

/// A number of the document, which always is a float: more digits than one holds are kept by no reader here.
pub(super) fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
