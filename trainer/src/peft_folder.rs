//! Adapters that PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use anyhow::Result;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::{AdapterShape, Weights, adapter_names};
use indexmap::IndexMap;
use regex::Regex;
use serde::{Deserialize, Serialize};

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
    config: AdapterConfig,
}

/// What an `adapter_config.json` says about ranks and scales.
#[derive(Debug, Clone, Deserialize)]
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
        Ok(Self { shapes, weights, config })
    }

    /// What each program that reads LoRA makes of the adapter.
    pub fn consumers(&self) -> Vec<Consumer> {
        let global = self.config.lora_alpha;
        let of = |name: &'static str, scale: &dyn Fn(u32) -> f64| {
            let ratios: Vec<f64> = self
                .shapes
                .iter()
                .filter(|shape| shape.rank > 0 && shape.scale != 0.0)
                .map(|shape| scale(shape.rank) / shape.scale)
                .collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Alphas are written as decimal numbers: the last digits are rounding.
            let right = ratios.iter().all(|ratio| (ratio - 1.0).abs() < 1e-6);
            Consumer { name, right, least, most }
        };
        let global_rank = f64::from(self.config.r);
        let vllm = if self.config.use_rslora { global / global_rank.sqrt() } else { global / global_rank };
        vec![
            Consumer { name: "PEFT", right: true, least: 1.0, most: 1.0 },
            of("vLLM", &|_| vllm),
            of("llama.cpp", &|rank| if global == 0.0 { 1.0 } else { global / f64::from(rank) }),
        ]
    }

    /// Keys of `rank_pattern` and `alpha_pattern` that match no module or several, with how many.
    ///
    /// # Errors
    /// A key that is no regular expression.
    pub fn loose_keys(&self, spec: &ModelSpec) -> Result<Vec<(String, usize)>> {
        let modules: Vec<String> = spec.modules().map(|module| spec.module_name(module)).collect();
        let mut loose = Vec::new();
        for key in self.config.rank_pattern.keys().chain(self.config.alpha_pattern.keys()) {
            let pattern = Pattern::new(&IndexMap::from([(key.clone(), ())]))?;
            let matched = modules.iter().filter(|module| pattern.of(module).is_some()).count();
            if matched != 1 && !loose.iter().any(|(other, _)| other == key) {
                loose.push((key.clone(), matched));
            }
        }
        Ok(loose)
    }
}

/// What a program makes of an adapter: the factors by which its updates come out, relative to PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consumer {
    /// The program.
    pub name: &'static str,
    /// Whether every module's factor is 1.
    pub right: bool,
    /// Smallest factor over the modules.
    pub least: f64,
    /// Largest factor.
    pub most: f64,
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
