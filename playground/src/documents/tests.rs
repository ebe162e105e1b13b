use std::collections::BTreeMap;
use std::io::Cursor;

use hydra_shared::gradients::read as read_log;

use super::*;
use crate::analysis::Analysis;
use crate::export::exports;
use crate::intake::session_of;
use crate::link::{from_link, layout_of_link, to_link};
use crate::messages::ingest::{ReadFiles, ReadLog};
use crate::samples::Sample;
use crate::session::Session;
use hydra_shared::vlm::spec::ModelSpec;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/samples");

fn edited() -> Session {
    let mut session = Session::of_sample(Sample::SmolLm2);
    session.plan.delta = 4;
    session.by_hand.insert(10, 40);
    session.rebalance = true;
    session
}

fn address(session: &Session) -> String {
    format!("http://localhost:8080/playground/#{}", to_link(session, &BTreeMap::new()).0)
}

/// Ranks for a model that is shown.
fn given(text: &str, shown: &Arc<Layout>) -> Result<GivenRanks, String> {
    GivenRanks::read(text, &Known { shown: [Arc::clone(shown), Arc::clone(shown)], is_sample: false })
}

fn read_text(text: &str) -> Document {
    read(recognise(text.as_bytes()), text).expect("read as a whole").unwrap()
}

#[test]
fn every_exported_text_that_holds_a_comment_leads_back_to_the_same_session() {
    let session = edited();
    let analysis = Analysis::new(&session).unwrap();
    let mut found = 0;
    for export in exports(&session, &analysis, &address(&session)).unwrap() {
        if ["adapter_config.json", "ranks.csv"].contains(&export.file) {
            continue;
        }
        let link = match read_text(&export.text) {
            Document::Session(link) => link,
            Document::Schedule(schedule) => session_of(&schedule).expect(export.file),
            other => panic!("{} is no session but {other:?}", export.file),
        };
        assert_eq!(from_link(&link).session, session, "{}", export.file);
        assert_eq!(layout_of_link(&link), session.layout, "{}", export.file);
        found += 1;
    }
    assert_eq!(found, 4);
}

#[test]
fn an_exported_picture_leads_back_to_the_same_session() {
    let session = edited();
    let analysis = Analysis::new(&session).unwrap();
    let note = format!("{}{}", link::MARK, address(&session));
    let svg = crate::charts::heatmap::chart(&session, &analysis).drawing.to_svg(Default::default(), Some(&note));
    let Document::Session(link) = read_text(&svg) else { panic!("no session") };
    assert_eq!(from_link(&link).session, session);
}

#[test]
fn an_exported_peft_configuration_leads_back_to_the_same_ranks() {
    let session = edited();
    let analysis = Analysis::new(&session).unwrap();
    let exports = exports(&session, &analysis, &address(&session)).unwrap();
    assert_eq!(recognise(exports[0].text.as_bytes()), Kind::Ranks);
    let adapter = given(&exports[0].text, &session.layout).unwrap();
    assert_eq!((adapter.ranks, adapter.notices), (analysis.ranks, Vec::new()));
}

#[test]
fn a_schedule_that_was_edited_after_its_export_counts_by_its_own_ranks() {
    let session = edited();
    let analysis = Analysis::new(&session).unwrap();
    let mut schedule = crate::export::schedule(&session, &analysis, &address(&session)).unwrap();
    let lower = schedule.ranks.at(0).unwrap() - 1;
    schedule.ranks = schedule.ranks.with(0, lower);
    schedule.budget.used -= session.layout.modules()[0].rank_unit_cost();
    let Document::Schedule(read) = read_text(&schedule.to_json().unwrap()) else { panic!("no schedule") };
    assert_eq!(read.ranks, schedule.ranks);
    assert_eq!(session_of(&read), None);
    assert_eq!(layout_of_schedule(&read, &preset_layout("mobilevlm-3b").unwrap()).model(), "smollm2-135m");
}

#[test]
fn a_schedule_of_an_unknown_model_brings_its_shapes() {
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    (model.decoder.layers, model.decoder.intermediate, model.name) = (5, 1000, "mine".to_owned());
    let layout = model.layout().unwrap();
    let profile = crate::samples::made_up(&layout, Default::default());
    let session = Session { layout, profile, ..Session::default() };
    let analysis = Analysis::new(&session).unwrap();
    let schedule = crate::export::schedule(&session, &analysis, "").unwrap();
    let found = layout_of_schedule(&schedule, &preset_layout("tiny-mobilevlm").unwrap());
    assert!(schedule.layout().same_modules(&found) && found.model() == "mine");
}

#[test]
fn every_file_of_the_samples_is_told_by_its_content() {
    let start = |file: &str| std::fs::read(format!("{SAMPLES}/{file}")).unwrap();
    assert_eq!(recognise(&start("smollm2-config.json")), Kind::Model);
    for log in ["grad-norms.jsonl.gz", "lightning-metrics.csv.gz", "trainer_state.json", "wandb-history.jsonl.gz"] {
        assert_eq!(recognise(&start(log)), Kind::Log, "{log}");
    }
    assert_eq!(recognise(br#"{"op_code": 0, "worker_id": "x"}"#), Kind::Journal);
    assert_eq!(recognise(br#"{"hydra_grads":1,"model":"m"}"#), Kind::Log);
    assert_eq!(recognise(br#"{"step": 1, "model_type": 3}"#), Kind::Log);
    assert_eq!(recognise(b""), Kind::Log);
}

#[test]
fn a_log_finds_the_model_of_as_many_layers() {
    let bytes = std::fs::read(format!("{SAMPLES}/grad-norms.jsonl.gz")).unwrap();
    let log = read_log("log", Cursor::new(bytes)).unwrap();
    let shown = preset_layout("mobilevlm-1.7b").unwrap();
    let model = model_of_log(&log, [&shown.into()], &LogChoice::default()).unwrap();
    assert_eq!(model.decoder().model(), "smollm2-135m");
}

#[test]
fn the_file_of_every_tracker_gives_the_page_the_same_ranks() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tracker-logs");
    let config = std::fs::read_to_string(format!("{folder}/config.json")).unwrap();
    let Document::Model(layout, _) = read_text(&config) else { panic!("no model") };
    let layout = Arc::new(*layout);
    let ranks = |file: &str| {
        let bytes = std::fs::read(format!("{folder}/{file}")).unwrap();
        assert_eq!(recognise(&bytes), Kind::Log, "{file}");
        let log = read_log(file, Cursor::new(bytes)).unwrap();
        let mut session = Session::default();
        let (log, _) =
            ReadLog::new(vec![file.to_owned()], &log, &Arc::clone(&layout).into(), None, session.reading()).unwrap();
        session.plan.base_rank = 8;
        session.take(ReadFiles { log: Some(log), ..ReadFiles::default() }, None);
        session.plan.base_rank = 8;
        Analysis::new(&session).unwrap().ranks.as_slice().to_vec()
    };
    let reference = ranks("reference-grads.jsonl.gz");
    assert_eq!(reference.len(), 21);
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name != "config.json" {
            assert_eq!(ranks(&name), reference, "{name}");
        }
    }
}

#[test]
fn broken_documents_say_what_is_wrong() {
    let layout = preset_layout("tiny-mobilevlm").unwrap();
    let problem = |text: &str| match recognise(text.as_bytes()) {
        Kind::Ranks => given(text, &layout).unwrap_err(),
        kind => read(kind, text).unwrap().unwrap_err(),
    };
    assert!(problem(r#"{"peft_type": "ADALORA", "r": 4}"#).contains("only LORA"));
    assert!(problem(r#"{"peft_type": "LORA", "r": 0}"#).contains("rank of 0"));
    assert!(problem(r#"{"hydra_schedule": 9}"#).contains("version 9"));
    assert!(problem(r#"{"num_hidden_layers": 2}"#).contains("lacks hidden_size"));
}

#[test]
fn a_configuration_for_another_model_is_refused_and_a_partial_one_has_its_modules_alone() {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let other = r#"{"peft_type":"LORA","r":4,"rank_pattern":{"layers.9.mlp.up_proj":8}}"#;
    assert!(given(other, &model).unwrap_err().contains("layers.9.mlp.up_proj"));
    let mut known = Known { shown: [Arc::clone(&model), Arc::clone(&model)], is_sample: true };
    let named = r#"{"peft_type":"LORA","r":4,"base_model_name_or_path":"meta/other","target_modules":["q_proj"]}"#;
    assert!(GivenRanks::read(named, &known).unwrap_err().contains("it is for meta/other, and a sample is shown"));
    known.is_sample = false;
    assert_eq!(GivenRanks::read(named, &known).unwrap().ranks.layout().len(), 6, "paths are called as anyone likes");
    let preset = named.replace("meta/other", "HuggingFaceTB/SmolLM2-135M");
    assert_eq!(GivenRanks::read(&preset, &known).unwrap().ranks.layout().model(), "smollm2-135m");
    let partial = r#"{"peft_type":"LORA","r":4,"target_modules":["q_proj","v_proj"],"rank_pattern":{"layers.1.self_attn.q_proj":999}}"#;
    let GivenRanks { ranks, notices, .. } = given(partial, &model).unwrap();
    assert_eq!(ranks.as_slice()[..4], [4, 4, 64, 4]);
    assert!(ranks.as_slice().len() == 12 && notices[0].contains("1 ranks are above"), "{notices:?}");
    // What a layout of two projections lacks, the whole model has.
    let part = Arc::new(model.only(|_, module| module.name.ends_with("q_proj")).unwrap());
    let known = Known { shown: [part, Arc::clone(&model)], is_sample: false };
    let all = GivenRanks::read(r#"{"peft_type":"LORA","r":4}"#, &known).unwrap();
    assert_eq!(all.ranks.layout().len(), 42);
}

#[test]
fn the_alphas_of_a_configuration_become_the_rule_that_gives_them() {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let scale = |rest: &str| {
        let text = format!(r#"{{"peft_type":"LORA","r":4,"lora_alpha":8,"rank_pattern":{{"q_proj":2}}{rest}}}"#);
        let given = given(&text, &model).unwrap();
        assert_eq!(given.scale.is_none(), given.notices.iter().any(|notice| notice.contains("alphas")));
        given.scale
    };
    use hydra_shared::schedule::ScalePolicy::{Constant, FixedAlpha, RsLora};
    assert_eq!(scale(""), Some(FixedAlpha { alpha: 8.0 }));
    assert_eq!(scale(r#","alpha_pattern":{"q_proj":4}"#), Some(Constant { factor: 2.0 }));
    assert!(matches!(scale(r#","use_rslora":true"#), Some(RsLora { alpha }) if (alpha - 8.0).abs() < 1e-9));
    assert_eq!(scale(r#","alpha_pattern":{"q_proj":5}"#), None);
}

#[test]
fn regular_expressions_of_a_configuration_are_read_as_peft_reads_them() {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let text = r#"{"peft_type":"LORA","r":4,"target_modules":"(?!.*layers\\.0\\.).*\\.(q|v)_proj","rank_pattern":{"(q|k)_proj":6}}"#;
    let GivenRanks { ranks, .. } = given(text, &model).unwrap();
    assert_eq!((ranks.as_slice().len(), &ranks.as_slice()[..4]), (10, &[6, 4, 6, 4][..]));
    let broken = given(r#"{"peft_type":"LORA","r":4,"target_modules":"(q_proj"}"#, &model);
    assert!(broken.unwrap_err().starts_with("the pattern \"(q_proj\" cannot be read: "));
}

#[test]
fn a_table_of_ranks_that_is_damaged_says_its_line() {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let session = Session::of_sample(Sample::TinyMobileVlm);
    let analysis = Analysis::new(&session).unwrap();
    let table = crate::export::rank_table(&session, &analysis).to_csv();
    assert_eq!(recognise(table.as_bytes()), Kind::Ranks);
    assert_eq!(given(&table, &model).unwrap().ranks, analysis.ranks);
    let broken = |from: &str, to: &str| given(&table.replacen(from, to, 1), &model).unwrap_err();
    assert!(
        broken("model.layers.0.self_attn.q_proj,0,q,", "model.layers.0.self_attn.q_proj,0,q,x")
            .starts_with("line 2: a norm")
    );
    assert!(broken("model.layers.5.mlp.down_proj", "model.layers.77.mlp.down_proj").contains("drop the config.json"));
}

#[test]
fn ranks_of_an_adapter_go_from_worker_to_page_with_their_layout() {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let adapter =
        given(r#"{"peft_type":"LORA","r":4,"lora_dropout":0.1,"target_modules":["q_proj"]}"#, &model).unwrap();
    let sent = serde_json::to_string(&adapter).unwrap();
    assert_eq!(serde_json::from_str::<GivenRanks>(&sent).unwrap(), adapter);
    assert!(serde_json::from_str::<GivenRanks>(&sent.replace("[4,", "[4,4,")).is_err());
}

#[test]
fn the_model_of_a_layout_is_the_whole_one_where_that_is_known() {
    let whole = preset_catalog("tiny-mobilevlm").unwrap();
    let part = Arc::new(whole.decoder().only(|_, module| module.name.ends_with("q_proj")).unwrap());
    assert_eq!(model_of_layout(&part, []), whole, "of a preset");
    // Of another model, the one that was given last, if it is that.
    let text = std::fs::read_to_string(format!("{SAMPLES}/smollm2-config.json")).unwrap();
    let (mine, _) = model_of_config(&text.replace("\"num_hidden_layers\": 30", "\"num_hidden_layers\": 5")).unwrap();
    let part = Arc::new(mine.decoder().only(|_, module| module.layer != Some(2)).unwrap());
    assert_eq!(model_of_layout(&part, [&whole, &mine]), mine);
    assert_eq!(model_of_layout(&part, [&whole]).decoder(), &part);
}

#[test]
fn modules_outside_the_decoder_are_told_by_their_names_where_nothing_else_is_known() {
    let module = |name: &str, layer, kind: &str| Module {
        name: name.to_owned(),
        layer,
        kind: kind.to_owned().into(),
        d_in: 8,
        d_out: 4,
    };
    let modules = vec![module("model.layers.0.self_attn.q_proj", Some(0), "q"), module("lm_head", None, "lm_head")];
    let layout = Arc::new(Layout::new("mine", modules).unwrap());
    let model = model_of_layout(&layout, []);
    assert_eq!(model.decoder().len(), 1);
    assert_eq!(model.other("lm_head"), Some(layout.modules()[1].shape()));
}
