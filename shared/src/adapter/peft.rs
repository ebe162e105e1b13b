//! PEFT's `adapter_config.json`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Number;

use super::pattern::{key_matches, suffix_matches};
use crate::schedule::{RankSchedule, ScalePolicy};

/// What the schedule does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeftOptions {
    /// Name or path of the base model, for programs that load it by themselves.
    pub base_model: Option<String>,
    /// Dropout in front of A; 0 by default as in PEFT (MobileVLM trains with 0.05).
    pub dropout: f64,
}

/// The content of an `adapter_config.json` that holds a schedule. Fields stand in alphabetical order, as PEFT writes them.
///
/// `r` is the largest rank (vLLM compares it with its limit), and every module of another rank has its full name in both
/// patterns, so that neither PEFT nor a reader of one pattern alone has to guess. Full names without `^` work in every
/// version of PEFT that knows patterns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeftConfig {
    /// α of every module whose rank is not `r`.
    pub alpha_pattern: BTreeMap<String, Number>,
    /// Name or path of the base model.
    pub base_model_name_or_path: Option<String>,
    /// No bias is trained.
    pub bias: &'static str,
    /// `nn.Linear` weights are `[out, in]`.
    pub fan_in_fan_out: bool,
    /// As PEFT writes it when saving.
    pub inference_mode: bool,
    /// B starts at 0.
    pub init_lora_weights: bool,
    /// α of the modules of rank `r`.
    pub lora_alpha: Number,
    /// Dropout in front of A.
    pub lora_dropout: f64,
    /// No other module is trained and saved whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Always `LORA`.
    pub peft_type: &'static str,
    /// The largest rank.
    pub r: u32,
    /// Rank of every module whose rank is not `r`.
    pub rank_pattern: BTreeMap<String, u32>,
    /// Full name of every adapted module: suffixes would also hit a vision tower.
    pub target_modules: Vec<String>,
    /// Always `CAUSAL_LM`.
    pub task_type: &'static str,
    /// Whether the scale is α/√r instead of α/r. Left out where it is not: PEFT before 0.7 refuses keys that it does not
    /// know.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
}

/// Why a schedule cannot be a PEFT configuration of a given model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeftError {
    /// A key that PEFT would ignore silently.
    #[error(
        "the module {key} of the schedule is not in the model: PEFT would ignore it without a word; check the layers' path"
    )]
    NoModule {
        /// The key.
        key: String,
    },
    /// A key that PEFT would apply more than once.
    #[error("the module {key} of the schedule matches {} modules of the model: {}", .modules.len(), .modules.join(", "))]
    SeveralModules {
        /// The key.
        key: String,
        /// What it matches.
        modules: Vec<String>,
    },
    /// A module that would get another rank or scale than the schedule says.
    #[error("{module} would get rank {found} and not the {expected} of the schedule")]
    OtherRank {
        /// The module.
        module: String,
        /// Rank in the schedule.
        expected: u32,
        /// Rank under PEFT's rules.
        found: u32,
    },
}

impl PeftConfig {
    /// The configuration of a schedule.
    pub fn new(schedule: &RankSchedule, options: &PeftOptions) -> Self {
        let r = schedule.ranks.largest();
        let others = || schedule.ranks.iter().filter(move |&(_, rank)| rank != r);
        let mut target_modules: Vec<String> = schedule.ranks.iter().map(|(module, _)| module.name.clone()).collect();
        target_modules.sort_unstable();
        Self {
            alpha_pattern: others().map(|(m, rank)| (m.name.clone(), number(schedule.scale.alpha(rank)))).collect(),
            base_model_name_or_path: options.base_model.clone(),
            bias: "none",
            fan_in_fan_out: false,
            inference_mode: true,
            init_lora_weights: true,
            lora_alpha: number(schedule.scale.alpha(r)),
            lora_dropout: options.dropout,
            modules_to_save: None,
            peft_type: "LORA",
            r,
            rank_pattern: others().map(|(module, rank)| (module.name.clone(), rank)).collect(),
            target_modules,
            task_type: "CAUSAL_LM",
            use_rslora: schedule.scale.is_rslora(),
        }
    }

    /// The text of `adapter_config.json`.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Whether PEFT would adapt a module of this name.
    pub fn adapts(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| suffix_matches(target, module))
    }

    /// Rank that PEFT would give a module that it adapts: that of the first key that matches, or `r`.
    pub fn rank_of(&self, module: &str) -> u32 {
        self.rank_pattern.iter().find(|(key, _)| key_matches(key, module)).map_or(self.r, |(_, &rank)| rank)
    }

    /// Factor that PEFT would give the update of a module that it adapts.
    pub fn scale_of(&self, module: &str) -> f64 {
        let found = self.alpha_pattern.iter().find(|(key, _)| key_matches(key, module));
        let alpha = found.map_or(&self.lora_alpha, |(_, alpha)| alpha).as_f64().unwrap_or(0.0);
        let rank = self.rank_of(module);
        let policy = if self.use_rslora { ScalePolicy::RsLora { alpha } } else { ScalePolicy::FixedAlpha { alpha } };
        policy.scale(rank)
    }

    /// Checks against the names of a model's linear modules (relative to the base model, as in `named_modules`) that
    /// PEFT would adapt exactly the schedule's modules with exactly its ranks.
    ///
    /// # Errors
    /// The first module of the schedule that matches none or several of `modules`, or would get another rank.
    pub fn verify(&self, schedule: &RankSchedule, modules: &[String]) -> Result<(), PeftError> {
        for (module, expected) in schedule.ranks.iter() {
            let key = &module.name;
            let matched: Vec<&String> =
                modules.iter().filter(|m| key_matches(key, m) || suffix_matches(key, m)).collect();
            match matched.as_slice() {
                [] => return Err(PeftError::NoModule { key: key.clone() }),
                [module] => {
                    let found = self.rank_of(module);
                    if found != expected || !self.adapts(module) {
                        let found = if self.adapts(module) { found } else { 0 };
                        return Err(PeftError::OtherRank { module: (*module).clone(), expected, found });
                    }
                }
                several => {
                    let modules = several.iter().map(|&m| m.clone()).collect();
                    return Err(PeftError::SeveralModules { key: key.clone(), modules });
                }
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Ranks;
    use crate::schedule::{Budget, Counting, Provenance};
    use crate::vlm::spec::ModelSpec;

    fn schedule(scale: ScalePolicy) -> RankSchedule {
        let layout = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
        let ranks = (0..168).map(|i| [64, 128, 256][i as usize / 56] + i % 3).collect();
        let budget = Budget { counting: Counting::Parameters, allowed: u64::MAX };
        RankSchedule::new(Ranks::new(&layout, ranks).unwrap(), 128, scale, budget, Provenance::default()).unwrap()
    }

    fn config(scale: ScalePolicy) -> PeftConfig {
        PeftConfig::new(&schedule(scale), &PeftOptions::default())
    }

    /// Every linear module of MobileVLM: decoder, head, vision tower, projector.
    fn mobilevlm_modules() -> Vec<String> {
        let mut names: Vec<String> =
            schedule(ScalePolicy::default()).ranks.iter().map(|(module, _)| module.name.clone()).collect();
        for layer in 0..24 {
            for path in
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]
            {
                names.push(format!("model.vision_tower.vision_tower.vision_model.encoder.layers.{layer}.{path}"));
            }
        }
        names.extend(["lm_head", "model.mm_projector.model.mlp.1", "model.mm_projector.model.mlp.3"].map(String::from));
        names
    }

    #[test]
    fn each_module_gets_the_schedules_rank_and_scale_under_pefts_rules() {
        for scale in [
            ScalePolicy::default(),
            ScalePolicy::FixedAlpha { alpha: 256.0 },
            ScalePolicy::RsLora { alpha: 16.0 },
            ScalePolicy::Constant { factor: 0.3 },
        ] {
            let (schedule, config) = (schedule(scale), config(scale));
            for (module, rank) in schedule.ranks.iter() {
                let name = &module.name;
                assert_eq!(config.rank_of(name), rank);
                assert!((config.scale_of(name) - scale.scale(rank)).abs() < 1e-12, "{name}");
            }
            assert_eq!(config.use_rslora, scale.is_rslora());
        }
    }

    #[test]
    fn each_key_matches_exactly_one_module_of_a_model_with_a_vision_tower() {
        let (config, names) = (config(ScalePolicy::default()), mobilevlm_modules());
        for key in config.rank_pattern.keys().chain(&config.target_modules) {
            let matched: Vec<_> = names.iter().filter(|name| key_matches(key, name)).collect();
            assert_eq!(matched, [key]);
        }
        let adapted = names.iter().filter(|name| config.adapts(name)).count();
        assert_eq!(adapted, 168, "the vision tower, the projector and the head stay as they are");
        assert_eq!(config.verify(&schedule(ScalePolicy::default()), &names), Ok(()));
    }

    #[test]
    fn keys_still_match_once_where_the_decoder_is_nested() {
        let (config, schedule) = (config(ScalePolicy::default()), schedule(ScalePolicy::default()));
        let names: Vec<String> = mobilevlm_modules().into_iter().map(|name| format!("language_model.{name}")).collect();
        assert_eq!(config.verify(&schedule, &names), Ok(()));
    }

    #[test]
    fn a_schedule_for_another_model_is_found_out() {
        let (config, schedule) = (config(ScalePolicy::default()), schedule(ScalePolicy::default()));
        let renamed: Vec<String> =
            mobilevlm_modules().iter().map(|n| n.replace("model.layers", "model.text.layers")).collect();
        let error = config.verify(&schedule, &renamed).unwrap_err();
        assert!(error.to_string().starts_with("the module model.layers.0.self_attn.q_proj of the schedule is not in"));
        let mut twice = mobilevlm_modules();
        twice.push("draft.model.layers.0.self_attn.q_proj".to_owned());
        assert!(
            matches!(config.verify(&schedule, &twice), Err(PeftError::SeveralModules { modules, .. }) if modules.len() == 2)
        );
        let mut wrong = config.clone();
        wrong.rank_pattern.remove("model.layers.2.mlp.up_proj");
        assert!(matches!(
            wrong.verify(&schedule, &mobilevlm_modules()),
            Err(PeftError::OtherRank { expected: 65, found: 258, .. })
        ));
    }

    #[test]
    fn r_is_the_largest_rank_and_both_patterns_name_all_other_modules() {
        let config = config(ScalePolicy::default());
        assert_eq!((config.r, config.lora_alpha.as_u64()), (258, Some(516)));
        assert_eq!(config.rank_pattern.len(), 168 - 19);
        assert!(config.rank_pattern.keys().eq(config.alpha_pattern.keys()));
        let alpha_is_twice_the_rank =
            config.rank_pattern.iter().all(|(k, &r)| config.alpha_pattern[k].as_u64() == Some(2 * u64::from(r)));
        assert!(alpha_is_twice_the_rank);
    }

    #[test]
    fn a_uniform_schedule_needs_no_patterns() {
        let ranks = Ranks::uniform(schedule(ScalePolicy::default()).layout(), 128);
        let budget = Budget::uniform(ranks.layout(), 128, Counting::Parameters);
        let schedule = RankSchedule::new(ranks, 128, ScalePolicy::default(), budget, Provenance::default()).unwrap();
        let config = PeftConfig::new(&schedule, &PeftOptions::default());
        assert!(config.rank_pattern.is_empty() && config.alpha_pattern.is_empty());
        assert_eq!((config.r, config.lora_alpha.as_u64()), (128, Some(256)));
    }

    #[test]
    fn the_file_has_sorted_keys_and_pefts_names() {
        let options = PeftOptions { base_model: Some("mtgv/MobileVLM-1.7B".to_owned()), dropout: 0.05 };
        let text = PeftConfig::new(&schedule(ScalePolicy::default()), &options).to_json().unwrap();
        let keys: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("  \"")?.split_once('"')).map(|(key, _)| key).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        for line in [
            "  \"peft_type\": \"LORA\",",
            "  \"task_type\": \"CAUSAL_LM\",",
            "  \"bias\": \"none\",",
            "  \"lora_dropout\": 0.05,",
            "  \"r\": 258,",
            "  \"lora_alpha\": 516,",
            "  \"base_model_name_or_path\": \"mtgv/MobileVLM-1.7B\",",
            "    \"model.layers.0.self_attn.q_proj\": 128,",
        ] {
            assert!(text.lines().any(|found| found == line || format!("{found},") == line), "{line}");
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["target_modules"].as_array().unwrap().len(), 168);
    }

    #[test]
    fn alpha_is_an_integer_where_it_is_one() {
        assert_eq!(number(128.0).to_string(), "128");
        assert_eq!(number(0.3 * 5.0).to_string(), "1.5");
    }
}
