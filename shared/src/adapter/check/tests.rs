//! Adapters that PEFT would load whole, in part or not at all.

use super::*;
use crate::vlm::spec::ModelConfig;

const TEXT: &str = r#""model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10"#;
const QUERY: &str = "model.layers.0.self_attn.q_proj";

fn text() -> Catalog {
    ModelConfig::from_json(&format!("{{{TEXT}}}")).unwrap().catalog().unwrap()
}

/// A LLaVA around it, with two layers in its tower.
fn llava() -> Catalog {
    let config = format!(
        r#"{{"model_type": "llava", "text_config": {{{TEXT}}}, "vision_config": {{"model_type": "clip_vision_model",
            "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}}}}"#
    );
    ModelConfig::from_json(&config).unwrap().catalog().unwrap()
}

/// Ones of these shapes.
fn ones(tensors: &[(String, Vec<usize>)]) -> Weights {
    let one = |(name, shape): &(String, Vec<usize>)| {
        (name.clone(), Weight { shape: shape.clone(), values: vec![1.0; shape.iter().product()] })
    };
    Weights { tensors: tensors.iter().map(one).collect() }
}

fn pair(module: &str, d_in: usize, d_out: usize) -> [(String, Vec<usize>); 2] {
    let [a, b] = lora_names(module);
    [(a, vec![2, d_in]), (b, vec![d_out, 2])]
}

/// A of rank 2 and B for every module of the decoder whose name has that end.
fn decoder(model: &Catalog, end: &str) -> Vec<(String, Vec<usize>)> {
    let modules = model.decoder().modules().iter().filter(|module| module.name.ends_with(end));
    modules.flat_map(|module| pair(&module.name, module.d_in, module.d_out)).collect()
}

fn checked(model: &Catalog, fields: &str, weights: &Weights) -> Check {
    let config = format!(r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, {fields}}}"#);
    check(&LoraConfig::from_json(&config).unwrap(), weights, model).unwrap()
}

/// Compares what is found with parts of sentences, one for each problem.
fn assert_problems(what: &str, found: &Check, parts: &[&str]) {
    assert_eq!(found.problems.len(), parts.len(), "{what}: {:?}", found.problems);
    for (problem, part) in found.problems.iter().zip(parts) {
        assert!(problem.contains(part), "{what}: {problem}");
    }
}

#[test]
fn targeted_heads_and_embeddings_need_their_pairs_in_the_widths_of_the_model() {
    let model = text();
    let embedding = "model.embed_tokens";
    let embedded = |rows: usize, width: usize| {
        vec![
            (format!("{embedding}.lora_embedding_A"), vec![2, rows]),
            (format!("{embedding}.lora_embedding_B"), vec![width, 2]),
            (format!("{embedding}.base_layer.weight"), vec![10, 8]),
        ]
    };
    let [head, wide] = [8, 16].map(|d_in| pair("lm_head", d_in, 10).to_vec());
    let without_b = vec![(format!("{embedding}.lora_embedding_A"), vec![2, 10])];
    for (what, target, tensors, parts) in [
        ("head", "lm_head", head.clone(), &[][..]),
        ("no head", "lm_head", vec![], &["targets modules without tensors, which stay untrained: lm_head"]),
        ("wide head", "lm_head", wide, &["lm_head.lora_A.weight is [2, 16], and [2, 8] belongs there"]),
        (
            "untargeted head",
            "q_proj",
            head,
            &["does not target what there are tensors for, and PEFT drops them: lm_head"],
        ),
        ("embedding", "embed_tokens", embedded(10, 8), &[]),
        ("no embedding", "embed_tokens", vec![], &["stay untrained: model.embed_tokens"]),
        ("half an embedding", "embed_tokens", without_b, &["lora_B is missing for model.embed_tokens"]),
        (
            "long embedding",
            "embed_tokens",
            embedded(11, 8),
            &["lora_embedding_A is [2, 11], and [2, 10] belongs there"],
        ),
    ] {
        let weights = ones(&[decoder(&model, "q_proj"), tensors].concat());
        let found = checked(&model, &format!(r#""target_modules": ["q_proj", "{target}"]"#), &weights);
        assert_problems(what, &found, parts);
    }
    // The output head is no module of all linear layers, and embeddings are none.
    let weights = ones(&decoder(&model, ""));
    assert_problems("all", &checked(&model, r#""target_modules": "all-linear""#, &weights), &[]);
}

#[test]
fn what_is_saved_whole_has_to_be_there_in_the_shape_of_the_model() {
    let model = text();
    let saved = |name: &str, shape: [usize; 2]| vec![(format!("{name}.weight"), shape.to_vec())];
    let tokens = "model.embed_tokens.token_adapter.trainable_tokens_delta";
    for (what, fields, tensors, parts) in [
        ("head", r#""modules_to_save": ["lm_head"]"#, saved("lm_head", [10, 8]), &[][..]),
        (
            "no head",
            r#""modules_to_save": ["lm_head"]"#,
            vec![],
            &["there are no tensors of, and PEFT stops there: lm_head"],
        ),
        (
            "short head",
            r#""modules_to_save": ["lm_head"]"#,
            saved("lm_head", [5, 8]),
            &["lm_head.weight is [5, 8], and [10, 8] belongs there; if tokens were added"],
        ),
        (
            "narrow embedding",
            r#""modules_to_save": ["embed_tokens"]"#,
            saved("model.embed_tokens", [10, 4]),
            &["is [10, 4], and [10, 8] belongs there"],
        ),
        (
            "tied",
            r#""modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": true"#,
            saved("model.embed_tokens", [10, 8]),
            &[],
        ),
        ("classifier", r#""modules_to_save": ["classifier", "score"]"#, vec![], &[]),
        ("tokens", r#""trainable_token_indices": [1, 2]"#, vec![(tokens.to_owned(), vec![2, 8])], &[]),
        (
            "no tokens",
            r#""trainable_token_indices": [1]"#,
            vec![],
            &["no embed_tokens.token_adapter.trainable_tokens_delta"],
        ),
        (
            "tokens beyond",
            r#""trainable_token_indices": [1, 99]"#,
            vec![(tokens.to_owned(), vec![2, 8])],
            &["names token 99, and the model has 10"],
        ),
        (
            "undeclared tokens",
            r#""trainable_token_indices": null"#,
            vec![(tokens.to_owned(), vec![2, 8])],
            &["trainable_token_indices names no tokens, and PEFT drops"],
        ),
        (
            "other tokens",
            r#""trainable_token_indices": {"embed_tokens": [1, 2, 3]}"#,
            vec![(tokens.to_owned(), vec![2, 8])],
            &["is [2, 8], and [3, 8] belongs there"],
        ),
    ] {
        let weights = ones(&[decoder(&model, "q_proj"), tensors].concat());
        assert_problems(what, &checked(&model, &format!(r#""target_modules": ["q_proj"], {fields}"#), &weights), parts);
    }
    let weights = ones(&decoder(&model, "q_proj"));
    let found = checked(&model, r#""target_modules": ["q_proj"], "modules_to_save": ["adapter_head"]"#, &weights);
    assert_problems("unknown", &found, &[]);
    assert!(found.notes.iter().any(|note| note.contains("if the model has it, PEFT stops there: adapter_head")));
}

/// Pairs for those modules of the tower and the projector whose names pass.
fn beside(model: &Catalog, counts: impl Fn(&str) -> bool) -> Vec<(String, Vec<usize>)> {
    let names = model.towers()[0].iter().chain(model.projector()).filter(|name| counts(name));
    names.flat_map(|name| pair(name, model.other(name).unwrap().d_in, model.other(name).unwrap().d_out)).collect()
}

#[test]
fn every_targeted_module_of_a_tower_and_of_a_projector_needs_its_pair() {
    let model = llava();
    let queries = |name: &str| name.ends_with("q_proj");
    let last = |name: &str| model.towers()[0].iter().rev().find(|tower| tower.ends_with(name)).unwrap().clone();
    let projector = &model.projector()[1];
    for (what, target, end, tensors, parts) in [
        ("suffix", r#"["q_proj"]"#, "q_proj", beside(&model, queries), vec![]),
        (
            "half",
            r#"["q_proj"]"#,
            "q_proj",
            beside(&model, |name| queries(name) && *name != last("q_proj")),
            vec![format!("stay untrained: {}", last("q_proj"))],
        ),
        ("all", r#""all-linear""#, "", beside(&model, |_| true), vec![]),
        (
            "all but one of the projector",
            r#""all-linear""#,
            "",
            beside(&model, |name| name != projector),
            vec![format!("stay untrained: {projector}")],
        ),
        ("none", r#"["q_proj"]"#, "q_proj", vec![], vec!["also adapts 2 modules of the vision tower".to_owned()]),
    ] {
        let weights = ones(&[decoder(&model, end), tensors].concat());
        let found = checked(&model, &format!(r#""target_modules": {target}"#), &weights);
        assert_problems(what, &found, &parts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // What no layer of the tower has tensors for is said, and no error.
    let both = r#""target_modules": ["q_proj", "k_proj"]"#;
    let tensors = [decoder(&model, "q_proj"), decoder(&model, "k_proj"), beside(&model, queries)].concat();
    let found = checked(&model, both, &ones(&tensors));
    assert_problems("no keys", &found, &[]);
    assert!(found.notes.iter().any(|note| note.contains(&last("k_proj"))), "{:?}", found.notes);
    let narrow = beside(&model, queries).into_iter().map(|(name, shape)| {
        let shape = if name.contains("lora_A") { vec![2, 3] } else { shape };
        (name, shape)
    });
    let tensors: Vec<_> = decoder(&model, "q_proj").into_iter().chain(narrow).collect();
    let found = checked(&model, r#""target_modules": ["q_proj"]"#, &ones(&tensors));
    assert_problems("narrow", &found, &[]);
    assert!(found.notes.iter().any(|note| note.contains("other widths than the tensors have")), "{:?}", found.notes);
    // A tower of three layers is another one.
    let beyond = pair(&last("q_proj").replace(".1.", ".2."), 8, 8).to_vec();
    let tensors = [decoder(&model, "q_proj"), beside(&model, queries), beyond].concat();
    let found = checked(&model, r#""target_modules": ["q_proj"]"#, &ones(&tensors));
    assert_problems("third layer", &found, &["this adapter is for another model"]);
    let whole = vec![(format!("{projector}.weight"), vec![3, 4])];
    let fields = r#""target_modules": "model.language_model.*q_proj", "modules_to_save": ["multi_modal_projector"]"#;
    let found = checked(&model, fields, &ones(&[whole, decoder(&model, "q_proj")].concat()));
    assert!(found.notes.iter().any(|note| note.contains("and [3, 4] here")), "{:?}", found.notes);
    // The tower alone is adapted: nothing is wrong with that.
    let found = checked(&model, r#""target_modules": ".*vision_tower.*q_proj""#, &ones(&beside(&model, queries)));
    assert_problems("tower alone", &found, &[]);
    assert!(
        found.idle.is_empty() && found.notes.iter().any(|note| note.contains("for what lies outside")),
        "{found:?}"
    );
}

#[test]
fn layers_of_a_tower_that_is_not_known_are_compared_with_each_other() {
    let model = text();
    let module = |layer: u32, name: &str| pair(&format!("visual.blocks.{layer}.attn.{name}"), 4, 4).to_vec();
    let tower = [module(0, "qkv"), module(1, "qkv"), module(1, "proj")];
    let weights = ones(&[decoder(&model, "q_proj"), tower.concat()].concat());
    let found = checked(&model, r#""target_modules": ["q_proj", "qkv", "proj"]"#, &weights);
    assert_problems("uneven", &found, &[]);
    assert!(found.notes.iter().any(|note| note.contains("untrained: visual.blocks.0.attn.proj")), "{:?}", found.notes);
    let found = checked(&model, r#""target_modules": ["q_proj", "qkv", "blocks.1.attn.proj"]"#, &weights);
    assert!(!found.notes.iter().any(|note| note.contains("untrained")), "{:?}", found.notes);
}

#[test]
fn magnitudes_and_biases_are_there_where_the_configuration_says_so_and_nowhere_else() {
    let model = text();
    let queries = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    let each = |end: &str, width: usize| queries.map(|module| (format!("{module}{end}"), vec![width])).to_vec();
    for (what, fields, tensors, parts) in [
        ("dora", r#""use_dora": true"#, each(".lora_magnitude_vector", 8), &[][..]),
        (
            "dora without",
            r#""use_dora": true"#,
            vec![],
            &["lora_magnitude_vector, which PEFT leaves at its beginning, is missing"],
        ),
        ("no dora", r#""use_dora": false"#, each(".lora_magnitude_vector", 8), &["use_dora is off"]),
        ("wide", r#""use_dora": true"#, each(".lora_magnitude_vector", 9), &["is [9], and [8] belongs there"]),
        ("bias", r#""lora_bias": true"#, each(".lora_B.bias", 8), &[]),
        ("bias without", r#""lora_bias": true"#, vec![], &["lora_bias is on, and lora_B.bias"]),
        ("no bias", r#""lora_bias": false"#, each(".lora_B.bias", 8), &["lora_bias is off"]),
        ("base's bias", r#""bias": "all""#, each(".base_layer.bias", 8), &[]),
        (
            "base's bias as before 0.7",
            r#""bias": "all""#,
            each(".bias", 8),
            &["PEFT keeps the bias of an adapted module"],
        ),
        (
            "base's bias in one layer",
            r#""bias": "lora_only""#,
            vec![("model.layers.1.self_attn.q_proj.base_layer.bias".to_owned(), vec![8])],
            &["other layers have a trained bias"],
        ),
        ("base without", r#""bias": "all""#, vec![], &[]),
        ("no base's bias", r#""bias": "none""#, each(".bias", 8), &["bias is \"none\""]),
    ] {
        let weights = ones(&[decoder(&model, "q_proj"), tensors].concat());
        let found = checked(&model, &format!(r#""target_modules": ["q_proj"], {fields}"#), &weights);
        assert_problems(what, &found, parts);
        if let Some(problem) = found.problems.first() {
            assert!(problem.contains(QUERY), "{what}: {problem}");
        }
    }
}

#[test]
fn keys_of_one_pattern_that_give_a_module_two_values_are_an_error_unless_the_tensors_show_their_order() {
    let model = text();
    let weights = ones(&decoder(&model, "q_proj"));
    let of = |fields: &str| checked(&model, &format!(r#""target_modules": ["q_proj"], {fields}"#), &weights);
    let two = |first: &str, second: &str| format!(r#""alpha_pattern": {{{first}, {second}}}"#);
    let [one, all, same] = [format!("\"{QUERY}\": 2"), "\"q_proj\": 8".to_owned(), "\"q_proj\": 2".to_owned()];
    assert_problems(
        "as saved",
        &of(&two(&one, &all)),
        &["it was trained with another scale; write one key per module"],
    );
    assert_problems("before", &of(&two(&all, &one)), &["the other one counts in the saved adapter"]);
    assert_problems("equal", &of(&two(&one, &same)), &[]);
    let ranks = format!(r#""rank_pattern": {{"{QUERY}": 2, "q_proj": 3}}, {}"#, two(&one, &all));
    let weights = ones(
        &[
            pair(QUERY, 8, 8).to_vec(),
            vec![
                ("model.layers.1.self_attn.q_proj.lora_A.weight".to_owned(), vec![3, 8]),
                ("model.layers.1.self_attn.q_proj.lora_B.weight".to_owned(), vec![8, 3]),
            ],
        ]
        .concat(),
    );
    let found = checked(&model, &format!(r#""target_modules": ["q_proj"], {ranks}"#), &weights);
    assert_problems("ranks show it", &found, &[]);
}

#[test]
fn repeated_layers_are_checked_as_peft_makes_them() {
    let model = text();
    let layers = |count: usize| -> Vec<(String, Vec<usize>)> {
        (0..count).flat_map(|layer| pair(&format!("model.layers.{layer}.self_attn.q_proj"), 8, 8)).collect()
    };
    let of = |map: &str, count: usize| {
        checked(&model, &format!(r#""target_modules": ["q_proj"], "layer_replication": {map}"#), &ones(&layers(count)))
    };
    let found = of("[[0, 2], [1, 2]]", 3);
    assert_problems("three layers", &found, &[]);
    assert_eq!((found.ranks.layout().blocks().len(), found.ranks.parameters()), (3, 3 * 2 * 16));
    assert_problems("two of three", &of("[[0, 2], [1, 2]]", 2), &["stay untrained: model.layers.2.self_attn.q_proj"]);
    assert_problems("too far", &of("[[0, 3]]", 2), &["layer_replication repeats layer 2, and llama has 2 layers"]);
}

#[test]
fn targets_that_are_lists_of_modules_stop_peft() {
    let model = text();
    let weights = ones(&decoder(&model, ""));
    for (target, found) in [
        (r#""model.layers.*""#, true),
        (r#"["mlp", "self_attn"]"#, true),
        (r#"".*_proj""#, false),
        (r#""all-linear""#, false),
    ] {
        let check = checked(&model, &format!(r#""target_modules": {target}"#), &weights);
        let said = check.problems.iter().any(|problem| problem.contains("no linear layer, and PEFT stops there"));
        assert_eq!(said, found, "{target}: {:?}", check.problems);
    }
}

#[test]
fn what_is_0_everywhere_is_said_and_what_changes_outside_the_decoder_is_no_such_thing() {
    let model = llava();
    let tower = beside(&model, |name| name.ends_with("q_proj"));
    let zero = |tensors: &[(String, Vec<usize>)], part: &str| {
        let mut weights = ones(tensors);
        weights
            .tensors
            .iter_mut()
            .filter(|(name, _)| name.contains(part) && name.contains("language_model"))
            .for_each(|(_, weight)| weight.values.fill(0.0));
        checked(&model, r#""target_modules": ["q_proj"]"#, &weights)
    };
    let queries = decoder(&model, "q_proj");
    let both = [queries, tower].concat();
    for (part, matrix) in [("lora_B", "lora_B is 0"), ("lora_A", "lora_A is 0")] {
        let found = zero(&both, part);
        assert!(found.idle.is_empty(), "{part}: {:?}", found.idle);
        assert!(
            found.notes.iter().any(|note| note.contains(matrix) && note.contains("lies outside it")),
            "{:?}",
            found.notes
        );
    }
    let text = text();
    let mut weights = ones(&decoder(&text, "q_proj"));
    for name in [&lora_names(QUERY)[0], "model.layers.1.self_attn.q_proj.lora_B.weight"] {
        weights.tensors.get_mut(name).unwrap().values.fill(0.0);
    }
    let found = checked(&text, r#""target_modules": ["q_proj"]"#, &weights);
    assert_eq!(found.idle, ["lora_A or lora_B is 0 in every module: this adapter changes nothing"]);
}

#[test]
fn lists_of_shapes_and_of_keys_end_after_five() {
    let model = text();
    let narrow: Vec<_> = decoder(&model, "").into_iter().map(|(name, shape)| (name, vec![shape[0], 1])).collect();
    let keys: Vec<String> = (0..7).map(|number| format!("\"nothing{number}\": 3")).collect();
    let fields = format!(r#""target_modules": "all-linear", "rank_pattern": {{{}}}"#, keys.join(","));
    let found = checked(&model, &fields, &ones(&narrow));
    assert_problems("narrow", &found, &["and 23 more"]);
    assert_eq!(found.problems[0].matches("belongs there").count(), 5);
    assert!(found.ignored.len() == 1 && found.ignored[0].ends_with("and 2 more"), "{:?}", found.ignored);
}

#[test]
fn a_prefix_that_stands_there_twice_is_named() {
    let model = text();
    let queries = decoder(&model, "q_proj").into_iter();
    let twice: Vec<_> = queries.map(|(name, shape)| (format!("base_model.model.{name}"), shape)).collect();
    let found = checked(&model, r#""target_modules": ["q_proj"]"#, &ones(&twice));
    assert_problems("twice", &found, &["PEFT's prefix stands there twice"]);
}
