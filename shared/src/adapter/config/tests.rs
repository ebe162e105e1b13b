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

fn config(scale: ScalePolicy) -> LoraConfig {
    LoraConfig::new(&schedule(scale), &PeftOptions::default())
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
        let (patterns, targets) = (config.patterns().unwrap(), config.targets().unwrap());
        for (module, rank) in schedule.ranks.iter() {
            let name = &module.name;
            assert!(targets.adapts(name).unwrap());
            assert_eq!(patterns.rank(name), Ok(rank));
            assert!((patterns.scale(name).unwrap() - scale.scale(rank)).abs() < 1e-12, "{name}");
        }
        assert_eq!(config.use_rslora, scale.is_rslora());
    }
}

/// Numbers of modules that the keys of a configuration match, and of modules that it adapts.
fn matched(config: &LoraConfig, names: &[String]) -> (Vec<usize>, usize) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let matched = config.patterns().unwrap().matched(&names).unwrap();
    let targets = config.targets().unwrap();
    let adapted = names.iter().filter(|name| targets.adapts(name).unwrap()).count();
    (matched.into_iter().map(|(_, modules)| modules).collect(), adapted)
}

#[test]
fn each_key_matches_exactly_one_module_of_a_model_with_a_vision_tower() {
    let config = config(ScalePolicy::default());
    // The vision tower, the projector and the head stay as they are.
    assert_eq!(matched(&config, &mobilevlm_modules()), (vec![1; 168 - 19], 168));
}

#[test]
fn keys_still_match_once_where_the_decoder_is_nested() {
    let names: Vec<String> = mobilevlm_modules().into_iter().map(|name| format!("language_model.{name}")).collect();
    assert_eq!(matched(&config(ScalePolicy::default()), &names), (vec![1; 168 - 19], 168));
}

#[test]
fn a_schedule_for_another_model_is_found_out() {
    let config = config(ScalePolicy::default());
    let renamed: Vec<String> =
        mobilevlm_modules().iter().map(|name| name.replace("model.layers", "model.text.layers")).collect();
    assert_eq!(matched(&config, &renamed), (vec![0; 168 - 19], 0));
    let mut twice = mobilevlm_modules();
    twice.push("draft.model.layers.0.self_attn.q_proj".to_owned());
    let (keys, adapted) = matched(&config, &twice);
    assert_eq!((keys.iter().filter(|modules| **modules == 2).count(), adapted), (1, 169));
    let mut wrong = config;
    wrong.rank_pattern.shift_remove("model.layers.2.mlp.up_proj").unwrap();
    assert_eq!(wrong.patterns().unwrap().rank("model.layers.2.mlp.up_proj"), Ok(258));
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
    let config = LoraConfig::new(&schedule, &PeftOptions::default());
    assert!(config.rank_pattern.is_empty() && config.alpha_pattern.is_empty());
    assert_eq!((config.r, config.lora_alpha.as_u64()), (128, Some(256)));
}

#[test]
fn the_file_has_sorted_keys_and_pefts_names() {
    let options = PeftOptions { base_model: Some("mtgv/MobileVLM-1.7B".to_owned()), dropout: 0.05 };
    let text = LoraConfig::new(&schedule(ScalePolicy::default()), &options).to_json().unwrap();
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
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["target_modules"].as_array().unwrap().len(), 168);
}

#[test]
fn alpha_is_an_integer_where_it_is_one() {
    assert_eq!(number(128.0).to_string(), "128");
    assert_eq!(number(0.3 * 5.0).to_string(), "1.5");
}

/// As PEFT 0.21 saves it, with a pattern of one's own.
const SAVED_BY_PEFT: &str = r#"{
  "alora_invocation_tokens": null,
  "alpha_pattern": {
    "q_proj": 4.5,
    "model.layers.1.self_attn.q_proj": 4
  },
  "arrow_config": null,
  "auto_mapping": null,
  "base_model_name_or_path": "base",
  "bias": "none",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "kasa_config": null,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": [
    0,
    1
  ],
  "loftq_config": {},
  "lora_alpha": 16,
  "lora_bias": false,
  "lora_dropout": 0.0,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "monteclora_config": null,
  "peft_type": "LORA",
  "peft_version": "0.21.2",
  "qalora_group_size": 16,
  "r": 8,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "v_proj",
    "q_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false,
  "velora_config": null
}
"#;

#[test]
fn what_is_read_is_written_again_as_it_was() {
    let saved = LoraConfig::from_json(SAVED_BY_PEFT).unwrap();
    assert_eq!(saved.to_json().unwrap(), SAVED_BY_PEFT);
    let options = PeftOptions { base_model: None, dropout: 0.05 };
    let written = LoraConfig::new(&schedule(ScalePolicy::RsLora { alpha: 0.5 }), &options).to_json().unwrap();
    assert_eq!(LoraConfig::from_json(&written).unwrap().to_json().unwrap(), written);
    // Keys of another release, and none that was not there.
    let strange = "{\n  \"new\": {\n    \"key\": 1e-9\n  },\n  \"peft_type\": \"LORA\",\n  \"r\": 4\n}\n";
    let read = LoraConfig::from_json(strange).unwrap();
    assert_eq!(read.alpha(), 8.0, "PEFT's default");
    let again: Value = serde_json::from_str(&read.to_json().unwrap()).unwrap();
    assert_eq!(again, json!({"new": {"key": 1e-9}, "peft_type": "LORA", "r": 4, "lora_alpha": 8}));
}

#[test]
fn patterns_keep_the_order_of_the_file_where_the_first_match_counts() {
    let config = LoraConfig::from_json(SAVED_BY_PEFT).unwrap();
    let first = "model.layers.1.self_attn.q_proj";
    assert_eq!(config.patterns().unwrap().scale(first), Ok(4.5 / 8.0));
    let again = LoraConfig::from_json(&config.to_json().unwrap()).unwrap();
    assert_eq!(again.patterns().unwrap().scale(first), Ok(4.5 / 8.0));
}

#[test]
fn text_that_is_no_configuration_is_refused_with_its_place() {
    let refused = |text: &str| LoraConfig::from_json(text).unwrap_err().to_string();
    assert_eq!(refused(r#"{"r": 8}"#), "this is no adapter_config.json: missing field `peft_type` at line 1 column 8");
    assert!(refused(r#"{"peft_type": "LORA", "r": -1}"#).contains("integer `-1`"));
    assert!(refused("[]").starts_with("this is no adapter_config.json: invalid type: sequence"));
}

#[test]
fn a_dropout_that_is_no_number_is_read_and_written_as_0() {
    let read = |value: &str| LoraConfig::from_json(&format!(r#"{{"peft_type": "LORA", "lora_dropout": {value}}}"#));
    assert!(read("NaN").unwrap().lora_dropout.is_nan());
    assert_eq!(["Infinity", "-Infinity"].map(|word| read(word).unwrap().lora_dropout), [f64::INFINITY, -f64::INFINITY]);
    let written: Value = serde_json::from_str(&read("NaN").unwrap().to_json().unwrap()).unwrap();
    assert_eq!(written["lora_dropout"], 0.0);
    assert!(read("null").unwrap_err().to_string().contains("lora_dropout is null"));
}

#[test]
fn a_switch_that_is_null_is_off_as_in_python() {
    let config = r#"{"peft_type": "LORA", "use_rslora": null, "use_dora": null, "fan_in_fan_out": null}"#;
    let read = LoraConfig::from_json(config).unwrap();
    assert_eq!((read.use_rslora, read.use_dora, read.fan_in_fan_out), (false, false, false));
}

#[test]
fn a_configuration_of_mlx_lms_is_named_with_what_to_do() {
    for text in [
        r#"{"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 2, "scale": 20.0}}"#,
        r#"{"lora_parameters": {"rank": 2}}"#,
    ] {
        let error = LoraConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains("an adapter of mlx-lm's") && error.contains("mlx_lm.fuse"), "{error}");
    }
}

#[test]
fn modules_of_rank_0_are_left_out() {
    let schedule = schedule(ScalePolicy::default());
    let without = RankSchedule { ranks: schedule.ranks.clone().with(3, 0), ..schedule };
    let config = LoraConfig::new(&without, &PeftOptions::default());
    let (module, _) = without.ranks.iter().nth(3).unwrap();
    assert!(!config.target_names().contains(&module.name) && !config.rank_pattern.contains_key(&module.name));
    assert_eq!(config.target_names().len(), 167);
}
