#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::vlm::spec::ModelSpec;

fn layout(name: &str) -> Arc<Layout> {
    ModelSpec::preset(name).unwrap().layout().unwrap()
}

fn schedule() -> RankSchedule {
    let model = layout("tiny-mobilevlm");
    let ranks = Ranks::new(&model, (0..42).map(|i| 1 + i % 8).collect()).unwrap();
    let provenance = Provenance {
        command: "trainer plan --gradients log.jsonl".to_owned(),
        inputs: vec![InputFile::new("log.jsonl", b"abc")],
        seed: Some(u64::MAX),
    };
    let budget = Budget::uniform(&model, 8, Counting::Parameters);
    RankSchedule::new(ranks, 8, ScalePolicy::default(), budget, provenance).unwrap()
}

/// The same schedule as version 1 wrote it.
fn version_1() -> String {
    let text = schedule().to_json().unwrap();
    let (start, end) = (text.find("\"model\"").unwrap(), text.find("  \"base_rank\"").unwrap());
    let shape = |name: &str, d_in: u32, d_out: u32| format!("\"{name}\": {{\"d_in\": {d_in}, \"d_out\": {d_out}}}");
    let attention = ["q", "k", "v", "o"].map(|name| shape(name, 64, 64));
    let shapes = [&attention[..], &[shape("gate", 64, 128), shape("up", 64, 128), shape("down", 128, 64)]].concat();
    let model = format!(
        "\"model\": {{\"name\": \"tiny-mobilevlm\", \"layers_path\": \"model.layers\", \"layers\": 6, \"shapes\": {{{}}}}},\n",
        shapes.join(", ")
    );
    format!("{}{model}{}", &text[..start], &text[end..]).replacen("\"hydra_schedule\": 2", "\"hydra_schedule\": 1", 1)
}

fn edited(from: &str, to: &str) -> String {
    edit(&schedule().to_json().unwrap(), from, to)
}

fn edited_version_1(from: &str, to: &str) -> String {
    edit(&version_1(), from, to)
}

fn edit(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    let error = RankSchedule::from_json(&text.replacen(from, to, 1)).unwrap_err();
    error.to_string()
}

#[test]
fn text_to_value_to_text_is_the_same_text() {
    for scale in [
        ScalePolicy::default(),
        ScalePolicy::Constant { factor: 0.1 + 0.2 },
        ScalePolicy::FixedAlpha { alpha: 5.960_464_477_539_063e-8 },
        ScalePolicy::RsLora { alpha: 16.0 },
    ] {
        let written = RankSchedule { scale, ..schedule() };
        let text = written.to_json().unwrap();
        let read = RankSchedule::from_json(&text).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.to_json().unwrap(), text);
    }
}

#[test]
fn the_file_reads_as_documented() {
    let text = schedule().to_json().unwrap();
    assert!(text.starts_with("{\n  \"hydra_schedule\": 2,\n  \"model\": {\n    \"name\": \"tiny-mobilevlm\","));
    let matrix = "\"self_attn.q_proj\": {\n            \"kind\": \"q\",\n            \"d_in\": 64,\n            \"d_out\": 64\n          }";
    assert!(text.contains(matrix), "{text}");
    assert!(text.contains("\"path\": \"model.layers\",\n        \"layers\": 6"), "{text}");
    assert!(text.contains("\"policy\": \"constant\",\n    \"factor\": 2.0"));
    assert!(text.contains("\"counting\": \"parameters\""));
    assert!(text.contains("\"model.layers.0.self_attn.q_proj\": 1,\n    \"model.layers.0.self_attn.k_proj\": 2,"));
    assert!(text.contains("\"sha256\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""));
    assert!(text.ends_with("}\n"));
}

#[test]
fn what_is_no_schedule_is_refused_with_the_reason() {
    let error = |text: &str| RankSchedule::from_json(text).unwrap_err().to_string();
    assert!(error("ranks: 1").contains("not a rank schedule: line 1: expected value"));
    assert!(error("{\"ranks\": {}}").contains("\"hydra_schedule\" with the version is missing"));
    assert!(error("[]").contains("\"hydra_schedule\" with the version is missing"));
    assert!(error("{\"hydra_schedule\": 2}").contains("missing field `model`"));
    assert!(error("{\"hydra_schedule\": \"2\"}").contains("invalid type"));
    let text = schedule().to_json().unwrap();
    assert!(error(&text[..text.len() / 2]).contains("EOF while parsing"));
}

#[test]
fn another_version_is_refused_before_anything_else_is_looked_at() {
    let error = RankSchedule::from_json("{\"hydra_schedule\": 3, \"unheard\": true}").unwrap_err();
    assert!(error.to_string().contains("version 3"), "{error}");
}

#[test]
fn unknown_keys_are_errors_at_every_level() {
    for (from, to) in [
        ("\"base_rank\"", "\"bsae_rank\": 1, \"base_rank\""),
        ("\"path\"", "\"colour\": 1, \"path\""),
        ("\"d_in\"", "\"d_mid\": 1, \"d_in\""),
        ("\"factor\"", "\"alpha\": 1, \"factor\""),
        ("\"allowed\"", "\"spare\": 1, \"allowed\""),
        ("\"command\"", "\"author\": 1, \"command\""),
        ("\"file\"", "\"size\": 1, \"file\""),
    ] {
        let error = edited(from, to);
        assert!(error.contains("unknown field"), "{from}: {error}");
    }
    let error = edited_version_1("\"layers_path\"", "\"colour\": 1, \"layers_path\"");
    assert!(error.contains("unknown field"), "{error}");
}

#[test]
fn a_file_of_version_1_is_the_same_schedule() {
    let read = RankSchedule::from_json(&version_1()).unwrap();
    assert_eq!(read.to_json().unwrap(), RankSchedule::from_json(&read.to_json().unwrap()).unwrap().to_json().unwrap());
    assert!(read.layout().same_modules(schedule().layout()));
    assert_eq!(read.ranks, schedule().ranks);
    assert_eq!((read.budget, read.scale, read.base_rank), (schedule().budget, schedule().scale, 8));
}

#[test]
fn names_shapes_and_budget_that_disagree_are_named_with_place_and_remedy() {
    let error = edited("\"model.layers.3.mlp.up_proj\"", "\"model.layers.3.mlp.upproj\"");
    assert!(error.starts_with("ranks[\"model.layers.3.mlp.up_proj\"]: is missing; the file was edited"), "{error}");
    let error = edited("\"ranks\": {", "\"ranks\": {\"lm_head\": 4,");
    assert!(error.starts_with("ranks[\"lm_head\"]: the model has no such module"), "{error}");
    let error = edited("\"model.layers.0.self_attn.k_proj\": 2", "\"model.layers.0.self_attn.k_proj\": 3");
    assert!(error.starts_with("budget.used: says "), "{error}");
    let error = edited("\"model.layers.0.self_attn.k_proj\": 2", "\"model.layers.0.self_attn.k_proj\": 0");
    // Rank 0 drops a module, and the budget says that somebody did.
    assert!(error.starts_with("budget.used: says "), "{error}");
    let error = edited("\"model.layers.0.self_attn.k_proj\": 2", "\"model.layers.0.self_attn.k_proj\": 65");
    assert!(error.contains("rank 65 is outside 0 to 64"), "{error}");
    let error = edited("\"layers\": 6", "\"layers\": 7");
    assert!(error.starts_with("ranks[\"model.layers.6.self_attn.q_proj\"]: is missing"), "{error}");
    let error = edited("\"layers\": 6", "\"layers\": 0");
    assert!(error.contains("a layout has 1 to 65536 modules, and this one has 0"), "{error}");
    let error = edited_version_1("\"layers\": 6", "\"layers\": 0");
    assert!(error.starts_with("model.layers: is 0"), "{error}");
    let error = edited("\"d_out\": 64", "\"d_out\": 60");
    assert!(error.starts_with("budget.used"), "{error}");
    let error = edited("\"d_out\": 64", "\"d_out\": 0");
    assert!(error.contains("model.layers.0.self_attn.q_proj has a width outside"), "{error}");
    let error = edited_version_1("\"d_out\": 64", "\"d_out\": 0");
    assert!(error.starts_with("model.shapes.q: has a width outside"), "{error}");
    let error = edited("\"path\": \"model.layers\"", "\"path\": \"model.(layers|blocks)\"");
    assert!(error.contains("is not a module name"), "{error}");
    let error = edited_version_1("\"layers_path\": \"model.layers\"", "\"layers_path\": \"model.(layers|blocks)\"");
    assert!(error.starts_with("model.layers_path"), "{error}");
    let error = edited("\"factor\": 2.0", "\"factor\": -2.0");
    assert!(error.starts_with("scale: is not a finite number above 0"), "{error}");
    let error = edited("\"sha256\": \"ba", "\"sha256\": \"BA");
    assert!(error.starts_with("provenance.inputs[0].sha256"), "{error}");
    let error = edited("\"base_rank\": 8", "\"base_rank\": 0");
    assert!(error.starts_with("base_rank"), "{error}");
}

#[test]
fn a_module_given_twice_is_refused() {
    let error = edited("\"ranks\": {", "\"ranks\": {\"model.layers.0.self_attn.q_proj\": 1,");
    assert!(error.contains("model.layers.0.self_attn.q_proj is given twice"), "{error}");
}

#[test]
fn ranks_over_the_budget_are_refused() {
    let model = layout("tiny-mobilevlm");
    let budget = Budget::uniform(&model, 8, Counting::Parameters);
    let new = |ranks| RankSchedule::new(ranks, 8, ScalePolicy::default(), budget, Provenance::default());
    let error = new(Ranks::uniform(&model, 9)).unwrap_err();
    assert!(error.to_string().contains("more than the"), "{error}");
    let error = ScheduleFileError::from(Ranks::new(&model, vec![8; 41]).unwrap_err());
    assert!(error.to_string().contains("41 ranks for the model's 42 modules"), "{error}");
}

#[test]
fn ranks_in_another_order_are_put_into_the_models() {
    let mut document: serde_json::Value = serde_json::from_str(&schedule().to_json().unwrap()).unwrap();
    let ranks = document["ranks"].as_object().unwrap().clone();
    document["ranks"] = ranks.into_iter().rev().collect::<serde_json::Map<_, _>>().into();
    let read = RankSchedule::from_json(&document.to_string()).unwrap();
    assert_eq!(read.to_json().unwrap(), schedule().to_json().unwrap());
}

#[test]
fn a_schedule_knows_its_ranks_parameters_and_model() {
    let schedule = schedule();
    assert_eq!(schedule.ranks.as_slice(), (0..42).map(|i| 1 + i % 8).collect::<Vec<u32>>());
    assert_eq!(schedule.ranks.parameters(), schedule.budget.used);
    assert_eq!(schedule.ranks.largest(), 8);
    assert!(schedule.layout().same_modules(&layout("tiny-mobilevlm")));
    assert!(!schedule.layout().same_modules(&layout("smollm2-135m")));
}
