use serde_json::{Value, json};

use super::super::{ModelSpec, ProjectorKind};
use super::{ConfigError, ModelConfig};
use crate::layout::{MOST_LAYERS, MOST_WIDTH};

fn read_config(config: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json(&config.to_string())
}

/// The shapes alone.
fn read(config: &Value) -> Result<ModelSpec, ConfigError> {
    read_config(config).map(|config| config.shapes().clone())
}

fn message(config: &Value) -> String {
    read(config).unwrap_err().to_string()
}

fn with(mut config: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn without(mut config: Value, keys: &[&str]) -> Value {
    for key in keys {
        config.as_object_mut().unwrap().remove(*key);
    }
    config
}

fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "hidden_act": "silu",
        "tie_word_embeddings": true
    })
}

fn mobilevlm(projector: &str) -> Value {
    json!({
        "architectures": ["MobileLlamaForCausalLM"], "model_type": "mobilevlm", "vocab_size": 32000,
        "max_position_embeddings": 2048, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_act": "silu", "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": false, "is_encoder_decoder": false,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "vision_tower_type": "clip", "mm_hidden_size": 1024,
        "mm_projector_type": projector, "mm_vision_select_layer": -2, "use_mm_proj": true, "_name_or_path": ""
    })
}

/// The decoder's fields of Qwen2-0.5B.
fn qwen2() -> Value {
    json!({
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": true,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "max_position_embeddings": 131072
    })
}

#[test]
fn smollm2_is_read_as_its_preset() {
    let model = read(&smollm2()).unwrap();
    assert_eq!(model.decoder, ModelSpec::preset("smollm2-135m").unwrap().decoder);
    assert_eq!(model.decoder_parameters(), 134_515_008);
    assert_eq!(model.layers_path, "model.layers");
    assert_eq!((model.vision, model.projector), (None, None));
}

#[test]
fn mobilevlm_is_read_as_its_presets_with_projector_and_vision_tower() {
    for (projector, preset) in [("ldpnet", "mobilevlm-1.7b"), ("ldpnetv2", "mobilevlm-v2-1.7b")] {
        let model = read(&mobilevlm(projector)).unwrap();
        let expected = ModelSpec { name: "mobilevlm".to_owned(), ..ModelSpec::preset(preset).unwrap() };
        assert_eq!(model, expected);
    }
}

#[test]
fn left_over_lit_gpt_fields_of_mobilevlm_3b_do_not_matter() {
    let fields = json!({
        "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "n_head": 16, "n_query_groups": 16, "n_layer": 32, "n_embd": 2560
    });
    let model = read(&with(mobilevlm("ldpnet"), &fields)).unwrap();
    assert_eq!(model.decoder, ModelSpec::preset("mobilevlm-3b").unwrap().decoder);
}

#[test]
fn a_vision_tower_of_another_width_than_its_name_says_is_left_out() {
    let model = read(&with(mobilevlm("ldpnetv2"), &json!({"mm_hidden_size": 48}))).unwrap();
    assert_eq!(model.vision, None);
    assert_eq!(model.projector.unwrap().vision_hidden, 48);
}

#[test]
fn projectors_are_known_by_name_and_unknown_ones_left_out() {
    let kind = |name: &str| read(&mobilevlm(name)).unwrap().projector.map(|p| p.kind);
    assert_eq!(kind("mlp2x_gelu"), Some(ProjectorKind::Mlp { depth: 2 }));
    assert_eq!(kind("linear"), Some(ProjectorKind::Linear));
    for unknown in ["mlp0x_gelu", "mlp99x_gelu", "resampler", ""] {
        assert_eq!(kind(unknown), None, "{unknown}");
    }
}

#[test]
fn defaults_are_those_of_transformers_llama() {
    let minimal = json!({
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100
    });
    let decoder = read(&minimal).unwrap().decoder;
    assert_eq!((decoder.kv_heads, decoder.head_dim), (4, 16));
    assert!(!decoder.tied_embeddings && !decoder.attention_bias && !decoder.output_bias && !decoder.mlp_bias);
    assert_eq!((decoder.rms_norm_eps, decoder.rope_theta, decoder.max_positions), (1e-6, 10_000.0, 2048));
    let nulls = with(minimal, &json!({"num_key_value_heads": null, "head_dim": null, "rope_theta": null}));
    assert_eq!(read(&nulls).unwrap().decoder, decoder);
}

#[test]
fn rope_theta_is_also_found_where_transformers_5_writes_it() {
    let config = with(without(smollm2(), &["rope_theta"]), &json!({"rope_parameters": {"rope_theta": 5e5}}));
    assert_eq!(read(&config).unwrap().decoder.rope_theta, 5e5);
}

#[test]
fn an_explicit_head_dim_widens_or_narrows_the_projections() {
    let model = read(&with(smollm2(), &json!({"head_dim": 32}))).unwrap();
    assert_eq!(model.shape(crate::layout::Projection::Q).d_out, 288);
    assert_eq!(model.shape(crate::layout::Projection::K).d_out, 96);
    assert_eq!(model.shape(crate::layout::Projection::O).d_in, 288);
}

#[test]
fn llama_biases_are_counted_as_the_configuration_says() {
    let plain = read(&smollm2()).unwrap().decoder_parameters();
    let attention = read(&with(smollm2(), &json!({"attention_bias": true}))).unwrap().decoder_parameters();
    assert_eq!(attention - plain, 30 * (576 + 192 + 192 + 576));
    let mlp = read(&with(smollm2(), &json!({"mlp_bias": true}))).unwrap().decoder_parameters();
    assert_eq!(mlp - plain, 30 * (1536 + 1536 + 576));
}

#[test]
fn qwen2_has_a_bias_on_q_k_and_v_alone() {
    let model = read(&qwen2()).unwrap();
    assert!(model.decoder.attention_bias && !model.decoder.output_bias);
    // The published size of Qwen2-0.5B.
    assert_eq!(model.decoder_parameters(), 494_032_768);
}

#[test]
fn qwen3_has_norms_on_q_and_k_and_heads_of_128() {
    let model = read_config(&json!({
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": true
    }))
    .unwrap();
    assert_eq!((model.shapes().decoder.head_dim, model.extra_norms()), (128, 256));
    // The published size of Qwen3-0.6B without its tied head.
    assert_eq!(model.decoder_parameters(), 596_049_920);
}

#[test]
fn gemma_ties_its_embeddings_unless_told_otherwise() {
    let gemma = json!({
        "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
        "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 256000
    });
    let model = read(&gemma).unwrap();
    assert_eq!((model.decoder.head_dim, model.decoder.tied_embeddings), (256, true));
    // The published size of Gemma 2B.
    assert_eq!(model.decoder_parameters(), 2_506_172_416);
    let untied = read(&with(gemma, &json!({"tie_word_embeddings": false}))).unwrap();
    assert_eq!(untied.decoder_parameters(), 2_506_172_416 + 2048 * 256_000);
}

#[test]
fn gemma_2_and_3_have_four_norms_and_gemma_3_norms_on_q_and_k_too() {
    let gemma2 = json!({
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000
    });
    // The published size of Gemma 2 2B.
    assert_eq!(read_config(&gemma2).unwrap().decoder_parameters(), 2_614_341_888);
    let gemma3 = json!({
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144
    });
    // The published size of Gemma 3 270M.
    assert_eq!(read_config(&gemma3).unwrap().decoder_parameters(), 268_098_176);
}

#[test]
fn a_nested_decoder_is_found_under_text_config_and_llm_config() {
    for key in ["text_config", "llm_config"] {
        let model = read(&json!({"model_type": "some_vlm", key: smollm2()})).unwrap();
        assert_eq!(model.decoder, ModelSpec::preset("smollm2-135m").unwrap().decoder);
        assert_eq!(model.layers_path, "model.language_model.layers");
        assert_eq!(model.name, "some_vlm");
    }
    let path = |kind: &str| read(&json!({"model_type": kind, "text_config": smollm2()})).unwrap().layers_path;
    assert_eq!(path("smolvlm"), "model.text_model.layers");
    assert_eq!(path("internvl_chat"), "language_model.model.layers");
}

#[test]
fn qwen2_vl_nests_its_decoder_though_its_configuration_is_flat() {
    let config = with(qwen2(), &json!({"model_type": "qwen2_vl", "vision_config": {"depth": 32}}));
    let model = read(&config).unwrap();
    assert_eq!(model.layers_path, "model.language_model.layers");
    assert_eq!(model.decoder_parameters(), 494_032_768);
}

#[test]
fn a_nested_decoder_may_leave_tying_to_the_outer_configuration() {
    let inner = without(smollm2(), &["tie_word_embeddings"]);
    let tied = |outer: Value| read(&with(outer, &json!({"text_config": inner}))).unwrap().decoder.tied_embeddings;
    assert!(tied(json!({"tie_word_embeddings": true})));
    assert!(!tied(json!({})));
}

#[test]
fn llava_has_clip_and_two_linear_layers() {
    let vision = json!({
        "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
        "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768
    });
    let llava = json!({"model_type": "llava", "text_config": smollm2(), "vision_config": vision});
    let model = read(&llava).unwrap();
    assert_eq!(model.vision_parameters(), Some(303_507_456));
    assert_eq!(model.projector_parameters(), Some(1024 * 576 + 576 + 576 * 576 + 576));
    let siglip = with(llava.clone(), &json!({"vision_config": {"model_type": "siglip_vision_model"}}));
    let other = read(&siglip).unwrap();
    assert_eq!((other.vision, other.projector), (None, None));
    let several_layers = read(&with(llava, &json!({"vision_feature_layer": [-2, -5]}))).unwrap();
    assert_eq!(several_layers.projector, None);
}

#[test]
fn a_broken_clip_tower_is_left_out() {
    for (key, value) in [("num_attention_heads", json!(7)), ("patch_size", json!(0)), ("image_size", json!([336, 336]))]
    {
        let mut vision = json!({
            "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14
        });
        vision[key] = value;
        let model = read(&json!({"model_type": "llava", "text_config": smollm2(), "vision_config": vision})).unwrap();
        assert_eq!(model.vision, None, "{key}");
    }
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    let error = |text: &str| ModelConfig::from_json(text).unwrap_err().to_string();
    assert!(error("hidden_size: 5").contains("not JSON"));
    assert!(error("").contains("not JSON"));
    for text in ["[]", "3", "null", "\"llama\""] {
        assert!(error(text).contains("a JSON object is expected"), "{text}");
    }
}

#[test]
fn every_missing_field_is_listed() {
    assert!(
        message(&json!({}))
            .contains("lacks hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, vocab_size;")
    );
    // A decoder of no known type has no defaults.
    let inner = without(smollm2(), &["model_type", "hidden_size", "num_hidden_layers"]);
    let error = message(&json!({"model_type": "some_vlm", "text_config": inner}));
    assert!(error.contains("lacks text_config.hidden_size, text_config.num_hidden_layers;"), "{error}");
    assert!(error.contains("use_diff=False"));
}

#[test]
fn what_a_configuration_leaves_out_is_transformers_default_and_is_said() {
    // The keys of llava-1.5-7b-hf.
    let llava = json!({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}});
    let config = read_config(&llava).unwrap();
    let decoder = &config.shapes().decoder;
    let sizes = [decoder.hidden, decoder.intermediate, decoder.layers, decoder.heads, decoder.kv_heads, decoder.vocab];
    assert_eq!(sizes, [4096, 11008, 32, 32, 32, 32064]);
    assert_eq!(config.notes().len(), 4);
    assert_eq!(config.notes()[0], "text_config.hidden_size is missing: 4096, transformers' default, is taken");
    // A decoder that is not named at all is of the kind that its model has.
    let unnamed = json!({"model_type": "idefics2", "text_config": {"vocab_size": 32064}});
    assert_eq!(read(&unnamed).unwrap().decoder.kv_heads, 8);
}

#[test]
fn missing_key_value_heads_are_the_types_default_and_null_means_as_many_as_heads() {
    let config = |kind: &str, kv: Option<Value>| {
        let mut config = json!({
            "model_type": kind, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16,
            "num_hidden_layers": 24, "vocab_size": 32000
        });
        if let Some(kv) = kv {
            config["num_key_value_heads"] = kv;
        }
        config
    };
    for (kind, heads) in
        [("mistral", 8), ("qwen2_vl_text", 8), ("gemma2", 4), ("gemma3_text", 4), ("gemma", 16), ("llama", 16)]
    {
        assert_eq!(read(&config(kind, None)).unwrap().decoder.kv_heads, heads, "{kind}");
        assert_eq!(read(&config(kind, Some(Value::Null))).unwrap().decoder.kv_heads, 16, "{kind}");
    }
    // 32 of them do not share 16 heads, which is the model that transformers would make.
    let error = message(&config("qwen3", None));
    assert!(error.contains("16 is no multiple of num_key_value_heads, 32"), "{error}");
}

#[test]
fn an_absent_text_config_is_said_and_the_default_of_its_model_taken() {
    for (kind, layers, hidden) in [
        ("llava", 32, 4096),
        ("gemma3", 26, 2304),
        ("paligemma", 18, 2048),
        ("mistral3", 40, 5120),
        ("qwen3_vl", 32, 4096),
    ] {
        let config = read_config(&json!({"model_type": kind})).unwrap();
        assert_eq!((config.shapes().decoder.layers, config.shapes().decoder.hidden), (layers, hidden), "{kind}");
        let [note] = config.notes() else { panic!("{:?}", config.notes()) };
        assert!(note.contains("no text_config") && note.contains(kind), "{note}");
    }
}

#[test]
fn a_model_that_hears_completes_its_text_config_from_its_own_defaults_and_says_so() {
    let config = read_config(&json!({"model_type": "voxtral", "text_config": {"model_type": "llama"}})).unwrap();
    let decoder = &config.shapes().decoder;
    assert_eq!([decoder.hidden, decoder.intermediate, decoder.layers, decoder.kv_heads], [3072, 8192, 30, 8]);
    let said = "text_config.hidden_size is missing: 3072, transformers' default for voxtral, is taken";
    assert!(config.notes().iter().any(|note| note == said), "{:?}", config.notes());
    // Others take those of the decoder's type.
    let other = json!({"model_type": "qwen3_asr", "text_config": {"model_type": "qwen3"}});
    assert_eq!(read(&other).unwrap().decoder.hidden, 4096);
    assert_eq!(read(&json!({"model_type": "qwen3_asr"})).unwrap().decoder.hidden, 2048);
}

#[test]
fn where_peft_takes_names_for_those_of_experts_the_way_around_is_said() {
    let note = |kind: &str, keys: Value| {
        let config = with(without(smollm2(), &["model_type"]), &with(keys, &json!({"model_type": kind})));
        read_config(&config).unwrap().mixture_note().unwrap()
    };
    assert!(note("glm4_moe", json!({})).contains("shared experts; "));
    for (kind, keys, claimed) in [
        ("glm4_moe", json!({}), true),
        ("qwen3_moe", json!({"mlp_only_layers": [0]}), true),
        ("qwen3_moe", json!({}), false),
        ("qwen2_moe", json!({"decoder_sparse_step": 2}), false),
    ] {
        assert_eq!(note(kind, keys).contains("--exclude mlp"), claimed, "{kind}");
    }
}

#[test]
fn heads_embeddings_towers_and_projectors_are_known_beside_the_decoder() {
    let vision = json!({
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2
    });
    let catalog = read_config(&json!({"model_type": "llava", "text_config": smollm2(), "vision_config": vision}))
        .unwrap()
        .catalog()
        .unwrap();
    let shape = |name: &str| catalog.other(name).map(|shape| [shape.d_in, shape.d_out]);
    assert_eq!(shape("lm_head"), Some([576, 49152]));
    assert_eq!(shape("model.language_model.embed_tokens"), Some([49152, 576]));
    assert_eq!(shape("model.vision_tower.encoder.layers.1.mlp.fc2"), Some([24, 16]));
    assert_eq!(shape("model.vision_tower.encoder.layers.2.mlp.fc2"), None);
}

#[test]
fn every_unusable_value_is_listed_with_what_was_expected() {
    let error = message(&with(
        smollm2(),
        &json!({"hidden_size": "576", "num_hidden_layers": 0, "vocab_size": -1, "rms_norm_eps": 0, "attention_bias": 1}),
    ));
    for part in [
        "hidden_size: \"576\", expected a whole number from 1 to 262144",
        "num_hidden_layers: 0, expected a whole number from 1 to 1024",
        "vocab_size: -1",
        "rms_norm_eps: 0, expected a number above 0",
        "attention_bias: 1, expected true or false",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn absurd_sizes_are_refused_and_the_largest_allowed_ones_do_not_overflow() {
    for key in
        ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"]
    {
        for size in [json!(u64::MAX), json!(1e300), json!(1_u64 << 40)] {
            assert!(message(&with(smollm2(), &json!({key: size}))).contains(key));
        }
    }
    let wide = json!({"num_attention_heads": 4096, "num_key_value_heads": 1, "head_dim": 4096});
    assert!(message(&with(smollm2(), &wide)).contains("head_dim: 4096 heads of width 4096 are wider than 262144"));
    let most = json!({
        "hidden_size": MOST_WIDTH, "intermediate_size": MOST_WIDTH,
        "num_hidden_layers": MOST_LAYERS, "num_attention_heads": 1, "num_key_value_heads": 1,
        "head_dim": MOST_WIDTH, "vocab_size": 1 << 24, "attention_bias": true, "mlp_bias": true
    });
    let model = read(&most).unwrap();
    assert!(model.decoder_parameters() > 1 << 48);
    assert_eq!(model.layout().unwrap().lora_parameters(u32::MAX), 7 * 1024 * (1_u64 << 19) * u64::from(u32::MAX));
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    let error = message(&with(smollm2(), &json!({"num_attention_heads": 10, "num_key_value_heads": 5})));
    assert!(error.contains("hidden_size: 576 does not divide into 10 heads"), "{error}");
    let error = message(&with(smollm2(), &json!({"num_key_value_heads": 4})));
    assert!(error.contains("num_attention_heads: 9 is no multiple of num_key_value_heads, 4"), "{error}");
}

#[test]
fn models_of_other_kinds_are_refused_by_name() {
    let gpt2 = json!({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257});
    assert!(message(&gpt2).contains("GPT-2-like model (gpt2)"));
    let t5 = json!({"model_type": "t5", "d_model": 512, "d_kv": 64, "num_layers": 6, "is_encoder_decoder": true});
    assert!(message(&t5).contains("encoder–decoder (t5)"));
    for (key, place) in [("num_local_experts", "num_local_experts"), ("num_experts", "num_experts")] {
        assert!(message(&with(smollm2(), &json!({key: 8}))).starts_with(place));
    }
    let nested = json!({"model_type": "some_vlm", "text_config": with(smollm2(), &json!({"num_experts": 4}))});
    assert!(message(&nested).starts_with("text_config.num_experts says"));
    for kind in ["phi3", "mllama_text_model", "llama4_text", "opt"] {
        let error = message(&with(smollm2(), &json!({"model_type": kind})));
        assert!(error.contains(&format!("\"{kind}\" is not known to be built as LLaMA's")), "{error}");
        assert!(error.contains("set model_type to \"llama\""));
    }
}

#[test]
fn what_llamas_layers_do_not_compute_is_named_and_the_shapes_are_known_all_the_same() {
    let config = |extra: &str| {
        format!(
            r#"{{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 100, {extra}}}"#
        )
    };
    let reason = |extra: &str| {
        let config = ModelConfig::from_json(&config(extra)).unwrap();
        assert_eq!(config.layout().unwrap().len(), 14);
        config.runnable().err().map(|error| error.to_string())
    };
    assert_eq!(reason(r#""model_type": "llama", "hidden_act": "silu", "rope_scaling": null"#), None);
    assert_eq!(
        reason(r#""model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}"#),
        None
    );
    let scaled = r#""model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}"#;
    assert!(reason(scaled).unwrap().contains("scaled as \"llama3\""));
    let old = r#""model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}"#;
    assert!(reason(old).unwrap().contains("scaled as \"linear\""));
    assert!(reason(r#""model_type": "llama", "hidden_act": "gelu""#).unwrap().contains("not silu"));
    assert!(reason(r#""model_type": "granite""#).unwrap().contains("multipliers"));
    assert!(reason(r#""model_type": "gemma", "head_dim": 16"#).unwrap().contains("GELU"));
    assert!(reason(r#""model_type": "qwen3", "head_dim": 16"#).unwrap().contains("more norms than LLaMA's"));
}
