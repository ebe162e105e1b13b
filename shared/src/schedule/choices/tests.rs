use std::collections::BTreeSet;

use serde_json::json;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::schedule::{Baseline, Sign};

/// Choices that differ from the defaults, by a ratio and by hand.
fn unusual() -> [Choices; 2] {
    let profile = ProfileConfig { signal: Signal::Rms, warm_up_share: 0.25, skip_non_finite: true };
    let mut by_ratio = Choices { profile, ..Choices::default() };
    let plan = &mut by_ratio.plan;
    plan.base_rank = 7;
    plan.stages = StageChoice::Clustered(StageConfig { count: 5, contiguous: true, seed: u64::MAX, restarts: 9 });
    plan.stage_ranks = StageRanks::Ratio(1.1);
    plan.delta = 0;
    let mut signs = [Sign::Keep; 7];
    (signs[0], signs[5]) = (Sign::Lower, Sign::Raise);
    plan.signs = Some(signs);
    plan.layer_norm = LayerNorm::RootSumSquares;
    plan.budget = Some(1234);
    plan.counting = Counting::RankUnits;
    plan.scale = ScalePolicy::RsLora { alpha: 0.1 };
    plan.cap = Some(64);
    plan.schedule_kind = Some(ScheduleKind::Baseline(Baseline::EvaLike));
    let mut by_hand = by_ratio.clone();
    by_hand.plan.stages = StageChoice::ByHand(vec![vec![0, 1, 2, 5], vec![4, 3]]);
    by_hand.plan.stage_ranks = StageRanks::ByHand(vec![4, 8]);
    [by_ratio, by_hand]
}

/// A text of the choice that its default is not.
fn another(choice: &Choice) -> String {
    match choice.kind {
        Kind::Switch { .. } => "true".to_owned(),
        Kind::Whole { bounds, .. } => (bounds.0 + 7).to_string(),
        Kind::Number { bounds, .. } => (bounds.0 + 0.75).to_string(),
        Kind::Words { words, .. } => words[1].name.to_owned(),
        Kind::Scale { .. } => "rslora:32".to_owned(),
        Kind::Ranks { .. } => "4,8".to_owned(),
        Kind::Layers { .. } => "0-3/4".to_owned(),
        Kind::Signs { .. } => "q=-,k=0,v=0,o=0,gate=0,up=+,down=0".to_owned(),
    }
}

#[test]
fn every_choice_reads_back_what_it_says_as_text_and_as_a_value() {
    for choices in [Choices::default()].into_iter().chain(unusual()) {
        let (mut from_text, mut from_values) = (Choices::default(), Choices::default());
        for choice in ALL {
            if let Some(text) = choice.text(&choices) {
                choice.read(&mut from_text, &text).unwrap();
            }
        }
        Values::of(&choices, None).put_into(&mut from_values).unwrap();
        assert_eq!(from_text, choices);
        assert_eq!(from_values, choices);
    }
}

#[test]
fn a_choice_is_default_until_it_is_made_differently_and_then_in_every_form() {
    for choice in ALL {
        let mut made = Choices::default();
        assert!(choice.is_default(&made), "{}", choice.key);
        choice.read(&mut made, &another(choice)).unwrap();
        assert!(!choice.is_default(&made), "{}", choice.key);
        assert_eq!(choice.text(&made), Some(another(choice)), "{}", choice.key);
        let mut put = Choices::default();
        Values::of(&made, None).put_into(&mut put).unwrap();
        assert_eq!(put, made, "{}", choice.key);
        let plan: PlanConfig = serde_json::from_value(serde_json::to_value(&made.plan).unwrap()).unwrap();
        assert_eq!(plan, made.plan, "{}", choice.key);
    }
}

#[test]
fn names_are_given_once_and_lead_to_choices() {
    let once = |names: Vec<&str>| assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    let short = ALL.iter().filter_map(|choice| choice.short.map(|(name, _)| name));
    once(ALL.iter().map(|choice| choice.key).chain(short).collect());
    once(ALL.iter().filter_map(|choice| Some(choice.link?.key)).collect());
    once(ALL.iter().filter_map(|choice| Some(choice.control?.id)).collect());
    for choice in ALL {
        assert!(choice.instead_of.is_none_or(|key| of_key(key).is_some()), "{}", choice.key);
        assert!(choice.idles.iter().all(|key| of_key(key).is_some()), "{}", choice.key);
        assert!(!choice.help.is_empty() && !choice.help.ends_with('.'), "{}", choice.key);
        assert!(choice.link.is_none_or(|link| !link.otherwise.is_empty()), "{}", choice.key);
    }
}

#[test]
fn a_plan_configuration_is_a_table_of_its_choices() {
    let [by_ratio, by_hand] = unusual();
    for plan in [PlanConfig::default(), by_ratio.plan, by_hand.plan.clone()] {
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<PlanConfig>(&text).unwrap(), plan, "{text}");
    }
    let table = serde_json::to_value(&by_hand.plan).unwrap();
    assert_eq!(table["stage_layers"], "0-2,5/4,3");
    assert_eq!(table["stage_ranks"], json!([4, 8]));
    assert_eq!(table["signs"], "q=-,k=0,v=0,o=0,gate=0,up=+,down=0");
    assert_eq!(table["scale"], "rslora:0.1");
    assert_eq!(table["schedule_kind"], "eva-like");
    assert!(table["ratio"].is_null() && table.get("signal").is_none());
}

#[test]
fn keys_of_others_and_values_of_other_kinds_are_refused() {
    for (table, why) in [
        (json!({"delt": 1}), "no such choice"),
        // It belongs to the profile's table.
        (json!({"signal": "l2"}), "no such choice"),
        (json!({"delta": "two"}), "\"two\" is no whole number"),
        (json!({"delta": 1.5}), "\"1.5\" is no whole number"),
        (json!({"rank_cap": 5_000_000_000_u64}), "no whole number from 0 to 4294967295"),
        (json!({"contiguous": "yes"}), "neither true nor false"),
        (json!({"layer_norm": "median"}), "none of mean, root-sum-squares"),
        (json!({"scale": "often"}), "write constant:2"),
        (json!({"stages": {"clustered": {"cuont": 3}}}), "is not how this value is written"),
        (json!({"stage_ranks": [[1]]}), "is no rank"),
    ] {
        let error = serde_json::from_value::<PlanConfig>(table.clone()).unwrap_err().to_string();
        assert!(error.contains(why), "{table}: {error}");
    }
}

#[test]
fn the_tables_of_earlier_versions_mean_what_they_meant() {
    let nested = json!({
        "base_rank": 7,
        "stages": {"clustered": {"count": 5, "contiguous": true, "seed": u64::MAX, "restarts": 9}},
        "stage_ranks": {"ratio": 1.1},
        "delta": 0,
        "signs": ["lower", "keep", "keep", "keep", "keep", "raise", "keep"],
        "layer_norm": "root-sum-squares",
        "budget": 1234,
        "counting": "rank-units",
        "scale": {"policy": "rslora", "alpha": 0.1},
        "cap": 64,
        "schedule_kind": "eva-like",
    });
    let [by_ratio, by_hand] = unusual();
    assert_eq!(serde_json::from_value::<PlanConfig>(nested.clone()).unwrap(), by_ratio.plan);
    let mut layers = nested;
    layers["stages"] = json!({"by-hand": [[0, 1, 2, 5], [4, 3]]});
    layers["stage_ranks"] = json!({"by-hand": [4, 8]});
    assert_eq!(serde_json::from_value::<PlanConfig>(layers).unwrap(), by_hand.plan);
    // The flat dialect of plan files.
    let flat = json!({"stage_layers": "", "stage_ranks": [], "signs": "", "count_rank_units": true, "rank_cap": 64});
    let plan = serde_json::from_value::<PlanConfig>(flat).unwrap();
    let expected = PlanConfig { counting: Counting::RankUnits, cap: Some(64), ..PlanConfig::default() };
    assert_eq!(plan, expected);
}

#[test]
fn what_an_earlier_version_wrote_is_told_in_todays_words() {
    let told = |key: &str, value: serde_json::Value| {
        modern(key, &value).map(|now| now.into_iter().map(|(choice, value)| (choice.key, value)).collect::<Vec<_>>())
    };
    assert_eq!(told("cap", json!(64)), Some(vec![("rank_cap", json!(64))]));
    assert_eq!(told("count_rank_units", json!(false)), Some(vec![("counting", json!("parameters"))]));
    let clustered = told("stages", json!({"clustered": {"count": 4, "seed": 3}}));
    assert_eq!(clustered, Some(vec![("stages", json!(4)), ("seed", json!(3))]));
    assert_eq!(told("stages", json!({"by-hand": [[0, 1], [2]]})), Some(vec![("stage_layers", json!("0-1/2"))]));
    assert_eq!(told("scale", json!({"factor": 4.0})), Some(vec![("scale", json!("constant:4"))]));
    for (key, value) in
        [("stages", json!(4)), ("scale", json!("constant:4")), ("signs", json!("q=-")), ("colour", json!(1))]
    {
        assert_eq!(told(key, value), None, "{key}");
    }
    assert!(older_keys().all(|path| {
        let (key, rest) = path.split_once('.').unwrap_or((path, ""));
        let inner = rest.rsplit('.').filter(|part| !part.is_empty());
        modern(key, &inner.fold(json!(1), |value, part| json!({ part: value }))).is_some()
    }));
}

fn read(key: &str, text: &str) -> Result<Choices, TextError> {
    let mut choices = Choices::default();
    of_key(key).unwrap().read(&mut choices, text).map(|()| choices)
}

#[test]
fn signs_name_projections_and_the_others_keep_their_rank() {
    let expected = [Sign::Lower, Sign::Lower, Sign::Keep, Sign::Keep, Sign::Keep, Sign::Raise, Sign::Keep];
    assert_eq!(read("signs", "q=-, k=-,up=+").unwrap().plan.signs, Some(expected));
    for (text, why) in
        [("q", "has no ="), ("x=+", "is no projection"), ("q=*", "none of -, 0, +"), ("q=+,q=-", "q is given twice")]
    {
        let error = read("signs", text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn stages_are_given_as_ranges_and_single_layers() {
    let stages = StageChoice::ByHand(vec![vec![0, 1, 2], vec![3, 5], vec![4]]);
    assert_eq!(read("stage_layers", "0-2/3,5/4").unwrap().plan.stages, stages);
    for text in ["0-", "3-1", "a", "0//1", "0-99999999999", "0-99999/0-99999"] {
        assert!(read("stage_layers", text).is_err(), "{text}");
    }
}
