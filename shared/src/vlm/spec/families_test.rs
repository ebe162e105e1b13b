//! What is read of models' configurations and tensors, beside what PEFT 0.21.2 adapts in them: `fixtures/families.json`, which
//! `tests/python/families.py` writes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ModelConfig;
use crate::layout::{Catalog, Layout, ModuleShape};

const FAMILIES: &str = include_str!("fixtures/families.json");

fn families(key: &str) -> Vec<Value> {
    serde_json::from_str::<Value>(FAMILIES).unwrap()[key].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().filter_map(Value::as_u64).map(|number| number as usize).collect()
}

/// Names and shapes of the compact form. A name whose layers are not said is that of both.
fn shapes(compact: &Value) -> BTreeMap<String, Vec<usize>> {
    let mut all = BTreeMap::new();
    for (name, value) in compact.as_object().unwrap() {
        let several = value[0].is_array();
        let entries = if several { value.as_array().unwrap().clone() } else { vec![value.clone()] };
        for entry in entries {
            let layers = entry.as_array().unwrap().iter().find(|part| part.is_array()).map(numbers);
            for layer in layers.unwrap_or_else(|| vec![0, 1]) {
                all.insert(name.replace("{}", &layer.to_string()), numbers(&entry));
            }
        }
    }
    all
}

fn modules(layout: &Layout) -> BTreeMap<String, Vec<usize>> {
    layout.modules().iter().map(|module| (module.name.clone(), vec![module.d_in, module.d_out])).collect()
}

#[test]
fn a_configuration_that_leaves_out_transformers_defaults_gives_the_modules_that_peft_adapts() {
    let families = families("configs");
    assert!(families.len() >= 78);
    for family in families {
        let config = ModelConfig::from_json(&family["config"].to_string()).unwrap();
        assert_eq!(modules(&config.layout().unwrap()), shapes(&family["modules"]), "{}", family["config"]);
        // Mixtures of experts say how many parameters they have: experts count, and get no ranks.
        let Some(parameters) = family["parameters"].as_u64() else { continue };
        assert_eq!(config.decoder_parameters(), parameters, "{}", family["config"]);
        assert!(config.is_mixture() && config.notes().iter().any(|note| note.contains("only the dense part")));
        assert!(config.runnable().unwrap_err().reason.contains("experts"));
    }
}

#[test]
fn the_linear_modules_of_a_vision_tower_have_the_names_and_shapes_that_peft_adapts() {
    let families = families("towers");
    assert!(families.len() >= 15);
    for family in families {
        let catalog = ModelConfig::from_json(&family["config"].to_string()).unwrap().catalog().unwrap();
        let mut names = BTreeSet::new();
        for (name, widths) in family["modules"].as_object().unwrap() {
            for layer in 0..family["layers"].as_u64().unwrap() {
                let name = name.replace("{}", &layer.to_string());
                let widths = numbers(widths);
                let shape = ModuleShape { d_in: widths[0], d_out: widths[1] };
                assert_eq!(catalog.other(&name), Some(shape), "{} {name}", family["family"]);
                names.insert(name);
            }
        }
        let known = |names: &&Vec<String>| names.iter().cloned().collect::<BTreeSet<String>>();
        assert!(catalog.towers().iter().any(|tower| known(&tower) == names), "{}", family["family"]);
    }
}

#[test]
fn the_tensors_of_a_checkpoint_give_the_modules_that_peft_adapts() {
    for family in families("checkpoints") {
        let name = family["family"].as_str().unwrap();
        let tensors: Vec<_> = shapes(&family["tensors"]).into_iter().collect();
        let catalog = Catalog::of_tensors(name, &tensors).unwrap();
        let adapted = shapes(&family["modules"]);
        // Experts are refused, and what chooses among them is no part of the dense rest.
        let sparse = ["experts", "gate", "shared_expert_gate"];
        let dense = |name: &str| name.split('.').all(|part| !sparse.contains(&part));
        // Each is known with its shape, in the decoder or outside it.
        let mut outside = 0;
        for (module, widths) in adapted.iter().filter(|(module, _)| dense(module)) {
            let shape = match catalog.decoder().find(module) {
                Some((_, found)) => Some(found.shape()),
                None => {
                    outside += 1;
                    catalog.other(module)
                }
            };
            assert_eq!(shape, Some(ModuleShape { d_in: widths[0], d_out: widths[1] }), "{name} {module}");
        }
        // And the decoder has no others.
        for module in catalog.decoder().modules() {
            assert!(adapted.contains_key(&module.name), "{name} {}", module.name);
        }
        assert_eq!(outside > 0, ["llava", "qwen2_vl"].contains(&name), "{name}");
    }
}

#[test]
fn fused_matrices_convolutions_and_routers_are_told_apart() {
    let catalog = |wanted: &str| {
        let family = families("checkpoints").into_iter().find(|family| family["family"] == wanted).unwrap();
        let tensors: Vec<_> = shapes(&family["tensors"]).into_iter().collect();
        Catalog::of_tensors(wanted, &tensors).unwrap()
    };
    let kinds = |wanted: &str| catalog(wanted).decoder().kinds().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(kinds("llama"), ["q", "k", "v", "o", "gate", "up", "down"]);
    assert_eq!(kinds("phi3"), ["o", "down", "gate_up_proj", "qkv_proj"]);
    assert_eq!(kinds("lfm2"), ["q", "k", "v", "in_proj", "out_proj", "w1", "w2", "w3"]);
    assert_eq!(kinds("mixtral"), ["q", "k", "v", "o"]);
    // The shared expert is dense.
    assert_eq!(kinds("qwen2_moe"), ["q", "k", "v", "o", "down_proj", "gate_proj", "up_proj"]);
    let llava = catalog("llava");
    assert_eq!(llava.decoder().layers_path(), Some("model.language_model.layers"));
    let tower = llava.other("model.vision_tower.encoder.layers.1.mlp.fc1");
    assert_eq!(tower, Some(ModuleShape { d_in: 16, d_out: 24 }));
    assert_eq!(llava.other("lm_head"), Some(ModuleShape { d_in: 32, d_out: 96 }));
}

#[test]
fn a_quantized_checkpoint_and_one_without_layers_are_refused_with_the_remedy() {
    let refused = |tensors: &[(&str, &[usize])]| {
        let tensors: Vec<_> = tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        Catalog::of_tensors("m", &tensors).unwrap_err().to_string()
    };
    let packed = refused(&[
        ("model.layers.0.self_attn.q_proj.weight", &[8192, 1]),
        ("model.layers.0.self_attn.q_proj.weight.absmax", &[256]),
    ]);
    assert!(
        packed.contains("q_proj.weight.absmax says that this checkpoint is quantized")
            && packed.contains("config.json")
    );
    assert!(refused(&[("conv.weight", &[3, 3])]).contains("none of its 1 tensors is a matrix of a language layer"));
}
