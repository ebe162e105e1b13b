#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

fn schedule() -> RankSchedule {
    let model = ModelSpec::preset("tiny-mobilevlm").unwrap();
    let ranks: Vec<u32> = (0..42).map(|i| 1 + i % 8).collect();
    let provenance = Provenance {
        command: "trainer plan --gradients log.jsonl".to_owned(),
        inputs: vec![InputFile::new("log.jsonl", b"abc")],
        seed: Some(u64::MAX),
    };
    let budget = Budget::uniform(&model, 8, Counting::Parameters);
    RankSchedule::new(&model, &ranks, 8, ScalePolicy::default(), budget, provenance).unwrap()
}

fn edited(from: &str, to: &str) -> String {
    let text = schedule().to_json().unwrap();
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
    assert!(text.starts_with("{\n  \"hydra_schedule\": 1,\n  \"model\": {\n    \"name\": \"tiny-mobilevlm\","));
    assert!(text.contains("\"q\": {\n        \"d_in\": 64,\n        \"d_out\": 64\n      }"), "{text}");
    assert!(text.contains("\"policy\": \"constant\",\n    \"factor\": 2.0"));
    assert!(text.contains("\"counting\": \"parameters\""));
    assert!(text.contains("\"model.layers.0.self_attn.q_proj\": 1,\n    \"model.layers.0.self_attn.k_proj\": 2,"));
    assert!(text.contains("\"sha256\": \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""));
    assert!(text.ends_with("}\n"));
}

#[test]
fn what_is_no_schedule_is_refused_with_the_reason() {
    let error = |text: &str| RankSchedule::from_json(text).unwrap_err().to_string();
    assert!(error("ranks: 1").contains("not a rank schedule: expected value at line 1"));
    assert!(error("{\"ranks\": {}}").contains("\"hydra_schedule\" with the version is missing"));
    assert!(error("[]").contains("\"hydra_schedule\" with the version is missing"));
    assert!(error("{\"hydra_schedule\": 1}").contains("missing field `model`"));
    assert!(error("{\"hydra_schedule\": \"1\"}").contains("invalid type"));
    let text = schedule().to_json().unwrap();
    assert!(error(&text[..text.len() / 2]).contains("EOF while parsing"));
}

#[test]
fn another_version_is_refused_before_anything_else_is_looked_at() {
    let error = RankSchedule::from_json("{\"hydra_schedule\": 2, \"unheard\": true}").unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn unknown_keys_are_errors_at_every_level() {
    for (from, to) in [
        ("\"base_rank\"", "\"bsae_rank\": 1, \"base_rank\""),
        ("\"layers_path\"", "\"colour\": 1, \"layers_path\""),
        ("\"d_in\"", "\"d_mid\": 1, \"d_in\""),
        ("\"factor\"", "\"alpha\": 1, \"factor\""),
        ("\"allowed\"", "\"spare\": 1, \"allowed\""),
        ("\"command\"", "\"author\": 1, \"command\""),
        ("\"file\"", "\"size\": 1, \"file\""),
    ] {
        let error = edited(from, to);
        assert!(error.contains("unknown field"), "{from}: {error}");
    }
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
    assert!(error.contains("rank 0 is outside 1 to 64"), "{error}");
    let error = edited("\"model.layers.0.self_attn.k_proj\": 2", "\"model.layers.0.self_attn.k_proj\": 65");
    assert!(error.contains("rank 65 is outside 1 to 64"), "{error}");
    let error = edited("\"layers\": 6", "\"layers\": 7");
    assert!(error.starts_with("ranks[\"model.layers.6.self_attn.q_proj\"]: is missing"), "{error}");
    let error = edited("\"layers\": 6", "\"layers\": 0");
    assert!(error.starts_with("model.layers: is 0"), "{error}");
    let error = edited("\"d_out\": 64", "\"d_out\": 60");
    assert!(error.starts_with("budget.used"), "{error}");
    let error = edited("\"d_out\": 64", "\"d_out\": 0");
    assert!(error.starts_with("model.shapes.q: has a width outside"), "{error}");
    let error = edited("\"layers_path\": \"model.layers\"", "\"layers_path\": \"model.(layers|blocks)\"");
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
    let model = ModelSpec::preset("tiny-mobilevlm").unwrap();
    let budget = Budget::uniform(&model, 8, Counting::Parameters);
    let new =
        |ranks: &[u32]| RankSchedule::new(&model, ranks, 8, ScalePolicy::default(), budget, Provenance::default());
    let error = new(&[9; 42]).unwrap_err();
    assert!(error.to_string().contains("more than the"), "{error}");
    let error = new(&[8; 41]).unwrap_err();
    assert!(error.to_string().contains("41 ranks for the model's 42 modules"), "{error}");
}

#[test]
fn ranks_in_another_order_are_put_into_the_models() {
    let mut shuffled = schedule();
    shuffled.ranks.reverse();
    let text = serde_json::to_string(&shuffled).unwrap();
    let read = RankSchedule::from_json(&text).unwrap();
    assert_eq!(read.to_json().unwrap(), schedule().to_json().unwrap());
}

#[test]
fn a_schedule_knows_its_ranks_parameters_and_model() {
    let schedule = schedule();
    assert_eq!(schedule.rank_list(), (0..42).map(|i| 1 + i % 8).collect::<Vec<u32>>());
    assert_eq!(schedule.trainable_parameters(), schedule.budget.used);
    assert_eq!(schedule.largest_rank(), 8);
    assert!(schedule.fits(&ModelSpec::preset("tiny-mobilevlm").unwrap()));
    assert!(!schedule.fits(&ModelSpec::preset("smollm2-135m").unwrap()));
}
