#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use std::sync::Arc;

use super::*;
use crate::vlm::spec::{ModelSpec, PRESETS};

fn module(name: &str, layer: Option<usize>, kind: &str) -> Module {
    Module { name: name.to_owned(), layer, kind: Kind::from(kind.to_owned()), d_in: 6, d_out: 4 }
}

/// A vision tower of two layers, a decoder with a layer that lacks a matrix, and a head.
fn mixed() -> Layout {
    let modules = vec![
        module("tower.layers.0.attn.q_proj", Some(0), "q"),
        module("tower.layers.1.attn.q_proj", Some(1), "q"),
        module("model.layers.0.self_attn.q_proj", Some(0), "q"),
        module("model.layers.0.mlp.gate_up_proj", Some(0), "gate_up_proj"),
        module("model.layers.1.mlp.gate_up_proj", Some(1), "gate_up_proj"),
        module("lm_head", None, "lm_head"),
    ];
    Layout::new("mixed", modules).unwrap()
}

fn refused(modules: Vec<Module>) -> String {
    Layout::new("refused", modules).unwrap_err().to_string()
}

#[test]
fn a_decoder_lies_layer_after_layer_with_its_projections_in_order() {
    let layout = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
    assert_eq!((layout.len(), layout.blocks().len(), layout.kinds().len()), (168, 24, 7));
    assert_eq!(layout.kinds(), Projection::ALL.map(Kind::Projection));
    let (position, found) = layout.find("model.layers.3.mlp.down_proj").unwrap();
    assert_eq!((position, found.layer, found.d_in, found.d_out), (27, Some(3), 5632, 2048));
    assert_eq!(ModuleId { layer: 3, projection: Projection::Down }.index(), 27);
    assert_eq!((layout.block_of(27), layout.kind_of(27), layout.at(3, 6)), (3, Some(6), Some(27)));
    assert_eq!(layout.size(), "24 layers × 7 projections");
    assert_eq!(layout.layers_path(), Some("model.layers"));
}

#[test]
fn layers_of_different_stacks_and_modules_outside_any_are_blocks_of_their_own() {
    let layout = mixed();
    let blocks: Vec<_> = layout.blocks().iter().map(|block| (block.layer, block.modules.clone())).collect();
    assert_eq!(blocks, [(Some(0), 0..1), (Some(1), 1..2), (Some(0), 2..4), (Some(1), 4..5), (None, 5..6)]);
    let kinds: Vec<&str> = layout.kinds().iter().map(Kind::name).collect();
    assert_eq!(kinds, ["q", "gate_up_proj", "lm_head"]);
    assert_eq!((layout.at(2, 1), layout.at(3, 0), layout.at(4, 2)), (Some(3), None, Some(5)));
    assert_eq!((0..6).map(|module| layout.block_of(module)).collect::<Vec<_>>(), [0, 1, 2, 2, 3, 4]);
    assert_eq!((layout.layers_path(), layout.size()), (None, "6 modules".to_owned()));
    assert_eq!(layout.depth(4), 1.0);
}

#[test]
fn what_makes_no_layout_is_named() {
    assert!(refused(Vec::new()).contains("this one has 0"));
    let twice = vec![module("lm_head", None, "lm_head"), module("lm_head", None, "lm_head")];
    assert!(refused(twice).contains("lm_head is given twice"));
    assert!(refused(vec![module("model.(a|b).q", None, "q")]).contains("is not a module name"));
    assert!(refused(vec![Module { d_in: 0, ..module("q", None, "q") }]).contains("q has a width outside"));
    assert!(refused(vec![module("model.layers.3.q", Some(2), "q")]).contains("said to lie in layer 2"));
    assert!(refused(vec![module("model.layers.1024.q", Some(1024), "q")]).contains("said to lie in layer 1024"));
    let apart = ["model.layers.0.q", "model.layers.1.q", "model.layers.0.k"];
    let apart = apart.iter().zip([0, 1, 0]).map(|(name, layer)| module(name, Some(layer), "q")).collect();
    assert!(refused(apart).contains("model.layers.0.k stands apart"));
}

#[test]
fn a_layout_is_written_in_few_lines_and_reads_back_as_it_was() {
    for preset in PRESETS {
        let layout = ModelSpec::preset(preset).unwrap().layout().unwrap();
        let text = serde_json::to_string(layout.as_ref()).unwrap();
        assert!(text.len() < 700, "{text}");
        assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), *layout);
    }
    let text = serde_json::to_string(&mixed()).unwrap();
    assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), mixed());
    assert!(text.contains(r#"{"name":"lm_head","kind":"lm_head","d_in":6,"d_out":4}"#), "{text}");
}

#[test]
fn a_text_whose_keys_were_sorted_is_the_same_layout() {
    let layout = ModelSpec::preset("smollm2-135m").unwrap().layout().unwrap();
    // Without its feature `preserve_order`, serde_json's values sort keys, as other programs do.
    let sorted = serde_json::to_value(layout.as_ref()).unwrap().to_string();
    assert_eq!(serde_json::from_str::<Layout>(&sorted).unwrap(), *layout);
}

#[test]
fn a_short_text_cannot_ask_for_a_huge_layout() {
    let text = r#"{"name":"x","stacks":[{"path":"model.layers","layers":99999999999,
                   "modules":{"q":{"kind":"q","d_in":1,"d_out":1}}}]}"#;
    let error = serde_json::from_str::<Layout>(text).unwrap_err().to_string();
    assert!(error.contains("a layout has 1 to 65536 modules"), "{error}");
}

#[test]
fn a_layout_moves_to_the_path_that_the_users_model_has() {
    let layout = ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap();
    let moved = layout.moved_to("language_model.model.layers").unwrap();
    assert_eq!(moved.modules()[41].name, "language_model.model.layers.5.mlp.down_proj");
    assert_eq!(moved.layers_path(), Some("language_model.model.layers"));
    assert_eq!(moved.decoder_parameters(), layout.decoder_parameters());
    assert_eq!(*layout, moved.moved_to("model.layers").unwrap());
    assert!(layout.moved_to("model.(layers)").is_err());
    assert_eq!(mixed().moved_to("x").unwrap(), mixed(), "several stacks stay where they are");
}

#[test]
fn ranks_are_found_by_name_and_by_position_and_know_what_they_cost() {
    let layout = Arc::new(mixed());
    let ranks = Ranks::new(&layout, vec![1, 0, 2, 3, 4, 2]).unwrap();
    assert_eq!(ranks.get("model.layers.0.mlp.gate_up_proj"), Some(3));
    assert_eq!((ranks.get("model.layers.9.mlp.gate_up_proj"), ranks.at(1), ranks.at(6)), (None, Some(0), None));
    assert_eq!((ranks.units(), ranks.parameters(), ranks.largest()), (12, 120, 4));
    assert!(ranks.fit_their_modules(None) && !ranks.fit_their_modules(Some(3)));
    assert!(!ranks.clone().with(0, 5).fit_their_modules(None), "min(6, 4) is the most that a module can use");
    assert_eq!((ranks.all_equal(), Ranks::uniform(&layout, 3).all_equal()), (None, Some(3)));
    assert_eq!(serde_json::to_string(&ranks).unwrap(), "[1,0,2,3,4,2]");
    let error = Ranks::new(&layout, vec![1; 5]).unwrap_err().to_string();
    assert_eq!(error, "5 ranks were given for the 6 modules of mixed; give one rank per module");
}

#[test]
fn ranks_are_equal_where_ranks_and_modules_are() {
    let layout = |preset: &str| ModelSpec::preset(preset).unwrap().layout().unwrap();
    // Both generations of MobileVLM have the same decoder.
    let (one, two) = (layout("mobilevlm-1.7b"), layout("mobilevlm-v2-1.7b"));
    assert_eq!(Ranks::uniform(&one, 8), Ranks::uniform(&two, 8));
    assert_ne!(Ranks::uniform(&one, 8), Ranks::uniform(&one, 9));
    let moved = Arc::new(one.moved_to("decoder.layers").unwrap());
    assert_ne!(Ranks::uniform(&one, 8), Ranks::uniform(&moved, 8));
}
