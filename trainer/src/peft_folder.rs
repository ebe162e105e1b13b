//! Adapters that PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use anyhow::Result;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::{AdapterShape, Weights, adapter_names};
use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;

use crate::error::{Kind, ResultExt, failure};

/// PEFT's prefix of every adapter tensor.
pub const PEFT_PREFIX: &str = "base_model.model.";
/// PEFT's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Adapter tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// An adapter of PEFT, ready to be put onto a model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    /// Rank and scale of every module, in module order; rank 0 where the adapter has none.
    pub shapes: Vec<AdapterShape>,
    /// A and B under the model's names.
    pub weights: Weights,
}

/// What an `adapter_config.json` says about ranks and scales.
#[derive(Debug, Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: u32,
    lora_alpha: f64,
    /// In file order: PEFT takes the first key that matches.
    #[serde(default)]
    rank_pattern: IndexMap<String, u32>,
    #[serde(default)]
    alpha_pattern: IndexMap<String, f64>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
}

/// The keys of a pattern, compiled as PEFT's `get_pattern_key` matches them: `re.match(rf"(.*\.)?({key})$", name)`.
struct Pattern<T>(Vec<(Regex, T)>);

impl<T: Copy> Pattern<T> {
    fn new(entries: &IndexMap<String, T>) -> Result<Self> {
        let compile = |(key, value): (&String, &T)| {
            let regex = Regex::new(&format!(r"^(?:(?:.*\.)?(?:{key}))$"))
                .or_fail(Kind::Data, || format!("the pattern key {key:?} cannot be read"))?;
            Ok((regex, *value))
        };
        entries.iter().map(compile).collect::<Result<Vec<_>>>().map(Self)
    }

    fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(key, _)| key.is_match(module)).map(|(_, value)| *value)
    }
}

impl PeftAdapter {
    /// Reads an adapter folder for a model.
    ///
    /// # Errors
    /// Files that are missing, damaged or contradict each other; kinds of adapters other than plain LoRA; modules that
    /// the model does not have.
    pub fn open(folder: &Path, spec: &ModelSpec) -> Result<Self> {
        let place = |file: &str| folder.join(file).display().to_string();
        let read = |file: &str| {
            std::fs::read(folder.join(file)).or_fail(Kind::Data, || {
                format!("{}: cannot be read; an adapter folder holds {CONFIG_FILE} and {ADAPTER_FILE}", place(file))
            })
        };
        let config: AdapterConfig =
            serde_json::from_slice(&read(CONFIG_FILE)?).or_fail(Kind::Data, || place(CONFIG_FILE))?;
        if config.peft_type != "LORA" || config.use_dora || config.fan_in_fan_out {
            return Err(failure(
                Kind::Data,
                format!(
                    "{}: only plain LoRA of linear layers can be read (peft_type LORA, without DoRA and fan_in_fan_out)",
                    place(CONFIG_FILE)
                ),
            ));
        }
        let stored = Weights::from_safetensors(&read(ADAPTER_FILE)?).or_fail(Kind::Data, || place(ADAPTER_FILE))?;
        let plain = |(name, weight): (String, _)| (name.strip_prefix(PEFT_PREFIX).unwrap_or(&name).to_owned(), weight);
        let weights = Weights { tensors: stored.tensors.into_iter().map(plain).collect() };
        let shapes = config.shapes(spec, &weights).or_fail(Kind::Data, || folder.display().to_string())?;
        Ok(Self { shapes, weights })
    }
}

impl AdapterConfig {
    /// A module's rank is that of its tensors, and the configuration has to agree.
    fn shapes(&self, spec: &ModelSpec, weights: &Weights) -> Result<Vec<AdapterShape>> {
        let (ranks, alphas) = (Pattern::new(&self.rank_pattern)?, Pattern::new(&self.alpha_pattern)?);
        let mut known = 0;
        let shapes = spec
            .modules()
            .map(|module| {
                let [name_a, name_b] = adapter_names(spec, module);
                let Some(a) = weights.tensors.get(&name_a) else { return Ok(AdapterShape { rank: 0, scale: 0.0 }) };
                known += 1 + usize::from(weights.tensors.contains_key(&name_b));
                let name = spec.module_name(module);
                let rank = ranks.of(&name).unwrap_or(self.r);
                let stored = a.shape.first().copied().unwrap_or(0);
                if stored != rank as usize || rank == 0 {
                    let message = format!("{CONFIG_FILE} gives {name} rank {rank}, and its tensor has {stored}");
                    return Err(failure(Kind::Data, message));
                }
                let alpha = alphas.of(&name).unwrap_or(self.lora_alpha);
                let policy =
                    if self.use_rslora { ScalePolicy::RsLora { alpha } } else { ScalePolicy::FixedAlpha { alpha } };
                Ok(AdapterShape { rank, scale: policy.scale(rank) })
            })
            .collect::<Result<Vec<_>>>()?;
        if known == weights.tensors.len() {
            return Ok(shapes);
        }
        let names: Vec<String> = spec.modules().flat_map(|module| adapter_names(spec, module)).collect();
        let strange: Vec<&str> =
            weights.tensors.keys().filter(|name| !names.contains(name)).map(String::as_str).collect();
        Err(failure(
            Kind::Data,
            format!("this adapter is for another model: {} has no module for {}", spec.name, strange.join(", ")),
        ))
    }
}
