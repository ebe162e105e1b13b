use std::collections::BTreeMap;

use super::*;
use crate::link::{from_link, to_link};

fn exported(session: &Session) -> Vec<Export> {
    let analysis = Analysis::new(session).unwrap();
    let link = to_link(session, &BTreeMap::new()).0;
    exports(session, &analysis, &format!("http://localhost/#{link}")).unwrap()
}

#[test]
fn every_form_of_the_schedule_holds_the_same_ranks() {
    let mut session = Session::of_sample(Sample::TinyMobileVlm);
    session.plan.scale = hydra_shared::schedule::ScalePolicy::RsLora { alpha: 16.0 };
    let analysis = Analysis::new(&session).unwrap();
    let files = exported(&session);
    let text = |name: &str| &files.iter().find(|export| export.file == name).unwrap().text;
    let schedule = RankSchedule::from_json(text("schedule.json")).unwrap();
    assert_eq!(schedule.ranks, analysis.ranks);
    let csv = text("ranks.csv");
    let column: Vec<u32> = csv.lines().skip(1).map(|line| line.split(',').nth(6).unwrap().parse().unwrap()).collect();
    assert_eq!(column, analysis.ranks.as_slice());
    let yaml = text("axolotl.yml");
    let largest = analysis.ranks.largest();
    assert!(yaml.contains(&format!("\nlora_r: {largest}\n")) && yaml.contains("peft_use_rslora: true"), "{yaml}");
    for (module, rank) in schedule.ranks.iter() {
        let name = &module.name;
        assert!(yaml.contains(&format!("  - {name}\n")));
        assert_eq!(yaml.contains(&format!("\n  {name}: {rank}\n")), rank != largest, "{name}");
    }
    let peft: serde_json::Value = serde_json::from_str(text("adapter_config.json")).unwrap();
    assert_eq!(peft["inference_mode"], false);
}

#[test]
fn the_settings_file_and_the_command_name_every_choice() {
    let session = from_link(
        "v=1&sample=smollm2&r=16&stages=3&contiguous=1&seed=7&ranks=8,16,32&delta=4&signs=q=-,k=-,v=0,o=0,gate=0,up=%2B,down=0\
         &budget=4000000&cap=64&norm=root-sum-squares&scale=rslora:32&count=parameters",
    );
    assert_eq!(session.notices, Vec::<String>::new());
    let files = exported(&session.session);
    let settings = &files.iter().find(|export| export.file == "plan.toml").unwrap().text;
    let table: toml::Table = settings.parse().unwrap();
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    let expected = [
        "base_rank",
        "budget",
        "contiguous",
        "delta",
        "layer_norm",
        "rank_cap",
        "scale",
        "seed",
        "signs",
        "stage_ranks",
        "stages",
    ];
    assert_eq!(keys, expected);
    let (line, apart) = command(&session.session);
    assert!(line.starts_with(
        "trainer plan --gradients static/samples/grad-norms.jsonl.gz --model smollm2-135m --base-rank 16"
    ));
    assert!(
        line.contains("--stage-ranks 8,16,32") && line.contains("--signs q=-,k=-,v=0,o=0,gate=0,up=+,down=0"),
        "{line}"
    );
    assert_eq!(apart, None);
}

#[test]
fn axolotls_alphas_are_whole_or_the_file_says_why_there_is_none() {
    let of = |scale: &str| {
        let session = from_link(&format!("v=1&sample=smollm2&r=8&scale={scale}")).session;
        let files = exported(&session);
        files.into_iter().find(|export| export.file == "axolotl.yml").unwrap().text
    };
    let whole = of("constant:2");
    assert!(whole.contains("lora_alpha_pattern:\n"), "{whole}");
    let alphas = whole.split("lora_alpha_pattern:\n").nth(1).unwrap();
    assert!(alphas.lines().all(|line| line.split(": ").nth(1).is_some_and(|alpha| alpha.parse::<u32>().is_ok())));
    for scale in ["constant:1.5", "fixed-alpha:0.5", "rslora:16.5"] {
        let refused = of(scale);
        assert!(refused.contains("axolotl takes whole alphas alone, and this schedule has "), "{refused}");
        assert!(refused.lines().all(|line| line.starts_with('#')), "{refused}");
    }
}

#[test]
fn names_of_files_are_quoted_for_the_shell() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    session.source = Source::Log(vec!["it's; rm -rf $HOME.jsonl".to_owned(), "-x".to_owned(), "plain.csv".to_owned()]);
    let line = command(&session).0;
    assert!(line.contains(r"'it'\''s; rm -rf $HOME.jsonl' './-x' plain.csv --model"), "{line}");
}

#[test]
fn the_command_makes_the_schedule_that_is_shown() {
    let session = from_link("v=1&sample=smollm2&preset=linear&count=rank-units&seed=18446744073709551615").session;
    let (line, apart) = command(&session);
    assert!(line.contains("--count-rank-units") && line.contains("--schedule-kind linear"), "{line}");
    assert_eq!(apart, None);
    let files = exported(&session);
    let settings = &files.iter().find(|export| export.file == "plan.toml").unwrap().text;
    let table: toml::Table = settings.parse().unwrap();
    assert_eq!(table["schedule_kind"].as_str(), Some("linear"));
    assert_eq!(table["counting"].as_str(), Some("rank-units"));
    assert_eq!(table["seed"].as_str(), Some("18446744073709551615"));
}

#[test]
fn what_the_command_cannot_say_is_said_beside_it() {
    let mut session = Session::default();
    assert!(command(&session).1.unwrap().contains("made up"));
    session = Session::of_sample(Sample::SmolLm2);
    session.by_hand.insert(0, 3);
    assert!(command(&session).1.unwrap().contains("by hand"));
}

#[test]
fn what_is_said_of_the_worth_of_ranks_is_what_the_evidence_says() {
    let evidence = include_str!("../../../docs/evidence.md");
    let claim = evidence.lines().find(|line| line.starts_with("> **The paper's claim** (140 steps")).unwrap();
    assert!(claim.contains("is −0.5 [−5.1, +4.5] % over uniform"), "{claim}");
    assert!(WORTH.contains("were −0.5 % [−5.1, +4.5] ahead of uniform LoRA"));
}
