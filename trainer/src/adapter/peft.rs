//! Adapters that PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use anyhow::Result;
use hydra_shared::adapter::{ADAPTER_FILE, CONFIG_FILE, PEFT_PREFIX};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::{AdapterShape, Weights, adapter_names};
use indexmap::IndexMap;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, ResultExt, failure};

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

    /// An adapter that no file holds.
    #[cfg(test)]
    pub fn for_tests(shapes: Vec<AdapterShape>, weights: Weights) -> Self {
        let config = AdapterConfig {
            peft_type: "LORA".to_owned(),
            r: 1,
            lora_alpha: 1.0,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            use_rslora: false,
            use_dora: false,
            fan_in_fan_out: false,
        };
        Self { shapes, weights, config }
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
        if strange.is_empty() {
            let message = "a module has one of lora_A and lora_B and not the other; save the adapter again";
            return Err(failure(Kind::Data, message));
        }
        Err(failure(
            Kind::Data,
            format!("this adapter is for another model: {} has no module for {}", spec.name, strange.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::{Precision, initial_adapters};
    use tempfile::TempDir;

    use super::*;
    use crate::error::message_of;

    fn spec() -> ModelSpec {
        ModelSpec::preset("tiny-mobilevlm").unwrap()
    }

    /// An adapter of rank 3 in every module but the first, which has `first`.
    fn folder(config: &str, first: u32, change: impl Fn(&mut Weights)) -> TempDir {
        let folder = TempDir::new().unwrap();
        let shapes: Vec<AdapterShape> = (0..spec().modules().count())
            .map(|index| AdapterShape { rank: if index == 0 { first } else { 3 }, scale: 2.0 })
            .collect();
        let weights = initial_adapters(&spec(), &shapes, 1);
        let mut weights =
            Weights { tensors: weights.tensors.into_iter().map(|(n, w)| (format!("{PEFT_PREFIX}{n}"), w)).collect() };
        change(&mut weights);
        std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
        std::fs::write(folder.path().join(ADAPTER_FILE), weights.to_safetensors(Precision::F32).unwrap()).unwrap();
        folder
    }

    fn refusal(folder: &TempDir) -> String {
        message_of(&PeftAdapter::open(folder.path(), &spec()).unwrap_err())
    }

    /// As text: the order of the keys counts, and a `Value` would sort them.
    fn config(rank: u32, alpha: u32, rank_pattern: &str, alpha_pattern: &str) -> String {
        format!(
            r#"{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {alpha},
            "rank_pattern": {{{rank_pattern}}}, "alpha_pattern": {{{alpha_pattern}}}}}"#
        )
    }

    const FIRST: &str = "model.layers.0.self_attn.q_proj";

    #[test]
    fn programs_that_read_no_patterns_are_right_only_where_their_own_rule_gives_the_scale() {
        let factors = |config: &str, first: u32| -> Vec<(&'static str, bool, f64)> {
            let adapter = PeftAdapter::open(folder(config, first, |_| {}).path(), &spec()).unwrap();
            adapter.consumers().into_iter().map(|c| (c.name, c.right, c.most)).collect()
        };
        // One scale for all ranks: vLLM's lora_alpha / r is right, llama.cpp's lora_alpha / rank is not.
        let same_scale = config(6, 12, &format!(r#""{FIRST}": 6, ".*": 3"#), &format!(r#""{FIRST}": 12, ".*": 6"#));
        assert_eq!(factors(&same_scale, 6), [("PEFT", true, 1.0), ("vLLM", true, 1.0), ("llama.cpp", false, 2.0)]);
        // One alpha for all ranks: the other way round.
        let same_alpha = config(6, 12, &format!(r#""{FIRST}": 6, ".*": 3"#), "");
        assert_eq!(factors(&same_alpha, 6), [("PEFT", true, 1.0), ("vLLM", false, 1.0), ("llama.cpp", true, 1.0)]);
    }

    #[test]
    fn a_rank_that_configuration_and_tensor_disagree_on_is_named() {
        let message = refusal(&folder(&config(3, 6, "", ""), 5, |_| {}));
        assert!(message.contains("gives model.layers.0.self_attn.q_proj rank 3, and its tensor has 5"), "{message}");
    }

    #[test]
    fn half_an_adapter_and_one_for_another_model_are_refused() {
        let plain = config(3, 6, "", "");
        let half = folder(&plain, 3, |weights| {
            weights.tensors.remove(&format!("{PEFT_PREFIX}{FIRST}.lora_A.weight")).unwrap();
        });
        assert!(refusal(&half).contains("one of lora_A and lora_B and not the other"));
        let strange = folder(&plain, 3, |weights| {
            let weight = weights.tensors[&format!("{PEFT_PREFIX}{FIRST}.lora_A.weight")].clone();
            weights.tensors.insert("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight".to_owned(), weight);
        });
        assert!(refusal(&strange).contains("for another model: tiny-mobilevlm has no module for model.layers.9.mlp"));
        let dora = r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_dora": true}"#;
        assert!(refusal(&folder(dora, 3, |_| {})).contains("only plain LoRA"));
    }

    #[test]
    fn pattern_keys_that_match_nothing_or_several_modules_are_counted() {
        let config = config(3, 6, &format!(r#""{FIRST}": 3, "up_proj": 3, "nothing": 4"#), "");
        let adapter = PeftAdapter::open(folder(&config, 3, |_| {}).path(), &spec()).unwrap();
        assert_eq!(adapter.loose_keys(&spec()).unwrap(), [("up_proj".to_owned(), 6), ("nothing".to_owned(), 0)]);
    }
}
