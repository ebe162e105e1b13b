use std::io::Cursor;

use hydra_shared::gradients::{GradientLog, Signal, read};
use hydra_shared::layout::Projection;
use hydra_shared::schedule::{Baseline, Counting, ScalePolicy, ScheduleKind, StageRanks};
use hydra_shared::search::{Study, StudyMetadata};
use hydra_shared::vlm::spec::{ModelSpec, preset_layout};

use super::*;
use crate::analysis::{Analysis, Grouping};
use crate::documents::model_of_layout;
use crate::export::{command, exports, schedule as schedule_of};
use crate::link::to_link;
use crate::messages::ingest::{NotProfiled, RankFile, RanksIn};
use crate::samples::made_up;
use crate::session::Pinned;

/// A log that says nothing of its adapters.
pub(super) const SMOL: &str = "samples/grad-norms.jsonl.gz";
/// A log that names its model and the rank of its adapters.
pub(super) const TINY: &str = "samples/tiny-mobilevlm.jsonl.gz";

pub(super) fn log(file: &str) -> GradientLog {
    let path = format!("{}/../static/{file}", env!("CARGO_MANIFEST_DIR"));
    read(file, Cursor::new(std::fs::read(path).unwrap())).unwrap()
}

/// The session of a sample after every choice that a file may overrule.
fn edited(sample: Sample) -> Session {
    let mut session = Session::of_sample(sample);
    session.by_hand.insert(3, 2);
    session.rebalance = true;
    session.plan.schedule_kind = Some(ScheduleKind::Baseline(Baseline::Linear));
    session.plan.delta = 2;
    session.plan.budget = Some(1_000_000);
    session.plan.stages = StageChoice::ByHand(vec![vec![0], (1..session.layout.blocks().len()).collect()]);
    session.plan.stage_ranks = StageRanks::ByHand(vec![2, 4]);
    session.pinned = Some(Pinned { name: "A".to_owned(), ranks: Ranks::uniform(&session.layout, 1) });
    session
}

fn read_log(file: &str, shown: &Session) -> ReadFiles {
    of_log("mine.jsonl", &log(file), shown.reading())
}

/// What the reader of files makes of a log.
fn of_log(name: &str, log: &GradientLog, reading: Reading) -> ReadFiles {
    let shown = model_of_layout(&reading.layout, []);
    let (log, _) = ReadLog::new(vec![name.to_owned()], log, &shown, None, reading).unwrap();
    ReadFiles { log: Some(log), ..ReadFiles::default() }
}

fn of_documents(documents: impl IntoIterator<Item = Document>) -> ReadFiles {
    let named = |(index, document)| (format!("file-{index}"), document);
    ReadFiles { documents: documents.into_iter().enumerate().map(named).collect(), ..ReadFiles::default() }
}

/// A file of ranks that is read as text.
fn rank_text(place: usize, name: &str, text: &str) -> RankFile {
    RankFile { place, name: name.to_owned(), holds: RanksIn::Text(text.to_owned()) }
}

/// A PEFT configuration alone.
fn of_adapter(text: &str, shown: &Session) -> ReadFiles {
    let mut files = ReadFiles::default();
    let is_sample = matches!(shown.source, Source::Sample(_));
    files.read_ranks(vec![rank_text(0, "file-0", text)], &shown.layout, is_sample, None);
    files
}

fn preset(name: &str) -> Document {
    Document::Model(Box::new(Arc::unwrap_or_clone(preset_layout(name).unwrap())), Vec::new())
}

/// Five layers of the tiny MobileVLM, which no sample has.
fn small_model() -> Arc<Layout> {
    let mut model = ModelSpec::preset("tiny-mobilevlm").unwrap();
    (model.name, model.decoder.layers) = ("mine".to_owned(), 5);
    model.layout().unwrap()
}

#[test]
fn a_log_of_another_model_replaces_model_and_profile_and_takes_the_base_rank_of_its_run() {
    let mut session = edited(Sample::MobileVlm);
    let taken = session.take(read_log(TINY, &session), None);
    assert_eq!(session.layout.model(), "tiny-mobilevlm");
    assert_eq!(session.source, Source::Log(vec!["mine.jsonl".to_owned()]));
    assert_eq!(session.profile, Sample::TinyMobileVlm.profile(&session.layout));
    assert_eq!(session.plan.base_rank, 4);
    // What belonged to the run or the model before is gone, every other choice stays.
    assert!(
        session.by_hand.is_empty()
            && !session.rebalance
            && session.plan.schedule_kind.is_none()
            && session.pinned.is_none()
    );
    assert_eq!((session.plan.budget, session.plan.delta), (None, 2));
    assert_eq!(session.plan.stages, PlanConfig::default().stages);
    assert_eq!(session.plan.stage_ranks, PlanConfig::default().stage_ranks);
    assert!(taken.changed && taken.deselect && taken.warnings.is_empty());
    assert_eq!(taken.held, Some(session.source.clone()));
    assert!(Analysis::new(&session).is_ok());
}

#[test]
fn stages_that_are_computed_before_a_log_is_shown_are_of_what_is_shown_then() {
    let mut session = Session::of_sample(Sample::MobileVlm);
    let files = read_log(SMOL, &session);
    let made = files.log.as_ref().unwrap().made.as_ref().unwrap().as_ref().unwrap();
    let ahead = Grouping::ahead(made, &session.plan);
    session.take(files, None);
    assert_eq!(Grouping::new(&session.layout, &session.profile, &session.plan), ahead);
}

#[test]
fn a_log_of_the_same_model_keeps_the_choices_of_the_method_but_no_rank_or_budget_of_another_run() {
    let mut session = edited(Sample::SmolLm2);
    session.plan.base_rank = 9;
    let before = session.clone();
    let taken = session.take(read_log(SMOL, &session), None);
    assert!(taken.asks_rank, "the log does not say its rank");
    let plan = PlanConfig { schedule_kind: None, base_rank: ASSUMED_RANK, budget: None, ..before.plan };
    assert_eq!(session.plan, plan);
    assert_eq!(session.pinned, before.pinned);
    assert!(session.by_hand.is_empty() && !session.rebalance);
    assert_eq!(session.source, Source::Log(vec!["mine.jsonl".to_owned()]));
    // The same file again is the same run.
    (session.plan.base_rank, session.plan.budget) = (8, Some(2_000_000));
    let before = session.plan.clone();
    let opened = |file, number, session: &Session| ReadFiles { reading: number, ..read_log(file, session) };
    let taken = session.take(opened(SMOL, 1, &session), None);
    assert!(!taken.asks_rank && session.plan == before && session.reading == 1);
    // Another file of that name is another run.
    let taken = session.take(opened(TINY, 2, &session), None);
    assert!(!taken.asks_rank, "the log says its rank");
    assert_eq!((session.plan.base_rank, session.plan.budget), (4, None));
}

#[test]
fn the_rank_of_a_run_is_read_from_the_configuration_of_its_adapter_beside_the_log() {
    let mut session = Session::default();
    let mut files = read_log(SMOL, &session);
    let adapter =
        r#"{"peft_type":"LORA","r":8,"lora_alpha":16,"lora_dropout":0.05,"target_modules":["q_proj","v_proj"]}"#;
    files.read_ranks(vec![rank_text(0, "adapter_config.json", adapter)], &session.layout, true, None);
    let taken = session.take(files, None);
    assert!(!taken.asks_rank && taken.warnings.is_empty(), "{:?}", taken.warnings);
    assert_eq!((session.layout.len(), session.plan.base_rank, session.plan.budget), (60, 8, None));
    // It is planned, beside what the run had.
    assert!(session.by_hand.is_empty());
    let pinned = session.pinned.clone().unwrap();
    assert_eq!((pinned.name.as_str(), pinned.ranks.all_equal()), ("adapter_config.json", Some(8)));
    assert_eq!(session.of_log.exclude, r"\.(k_proj|o_proj|gate_proj|up_proj|down_proj)$");
    let analysis = Analysis::new(&session).unwrap();
    assert!(!analysis.is_over() && analysis.ranks != pinned.ranks);
    assert!(taken.findings.unwrap().documents[0].1.contains("the LoRA of today"));
}

#[test]
fn a_samples_own_log_that_was_fetched_keeps_the_session_and_is_not_told_of() {
    let mut session = edited(Sample::TinyMobileVlm);
    session.profiling.signal = Signal::Rms;
    let before = session.clone();
    let taken = session.take(of_log(Sample::TinyMobileVlm.title(), &log(TINY), session.reading()), None);
    assert_eq!(session.profile.signal, Signal::Rms);
    assert_eq!(session, Session { profile: session.profile.clone(), ..before });
    assert_eq!((taken.findings, taken.held), (None, Some(Source::Sample(Sample::TinyMobileVlm))));
}

#[test]
fn a_log_without_a_known_model_changes_nothing_and_asks_for_its_configuration() {
    let mut session = Session::default();
    let mut files = read_log(SMOL, &session);
    let log = files.log.as_mut().unwrap();
    (log.made, log.layers) = (None, 5);
    let report = log.report.clone();
    let taken = session.take(files, None);
    assert_eq!(session, Session::default());
    assert!(!taken.changed && !taken.deselect && taken.held.is_none());
    assert!(taken.warnings[0].starts_with("The log has 5 layers") && taken.warnings[0].contains("config.json"));
    assert_eq!(taken.findings.unwrap().log, Some(report), "what was recognised is shown all the same");
}

#[test]
fn a_log_without_a_profile_changes_nothing_and_says_why() {
    let mut session = Session::default();
    let mut files = read_log(SMOL, &session);
    files.log.as_mut().unwrap().made = Some(Err("no step is left".to_owned()));
    let taken = session.take(files, None);
    assert_eq!((session, taken.changed), (Session::default(), false));
    assert_eq!(taken.warnings, ["no step is left"]);
}

#[test]
fn a_rank_that_the_new_models_matrices_cannot_hold_becomes_half_of_what_they_can() {
    let mut session = Session::default();
    let mut files = read_log(TINY, &session);
    files.log.as_mut().unwrap().rank = Some(500);
    session.take(files, None);
    let full = session.layout.modules().iter().map(|module| module.highest_rank(None)).min().unwrap();
    assert_eq!(session.plan.base_rank, full / 2);
}

#[test]
fn a_configuration_beside_a_log_comes_first_whatever_the_order_of_the_files() {
    let mut session = Session::default();
    let mut files = read_log(SMOL, &session);
    files.documents = vec![("file-1".to_owned(), preset("mobilevlm-3b"))];
    let adapter = r#"{"peft_type":"LORA","r":8,"rank_pattern":{"layers.3.self_attn.q_proj":6}}"#;
    files.read_ranks(vec![rank_text(0, "file-0", adapter)], &session.layout, true, None);
    let taken = session.take(files, None);
    // The log's model is that of the log; the adapter's ranks go into the model that the log left.
    assert_eq!(session.layout.model(), "smollm2-135m");
    assert!(session.by_hand.len() == 210 && session.by_hand.values().all(|rank| [6, 8].contains(rank)));
    let names: Vec<String> = taken.findings.unwrap().documents.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["file-1", "file-0"]);
}

#[test]
fn the_model_of_a_sample_brings_the_sample_where_the_profile_does_not_fit() {
    let mut session = edited(Sample::MobileVlm);
    let taken = session.take(of_documents([preset("smollm2-135m")]), None);
    assert_eq!(session, Session::of_sample(Sample::SmolLm2));
    assert!(taken.changed && taken.deselect && taken.requests.is_empty());
    let found = taken.findings.unwrap();
    assert_eq!(found.documents, [("file-0".to_owned(), "model configuration: 30 layers".to_owned())]);
}

#[test]
fn an_unknown_model_keeps_the_choices_and_knows_no_gradients() {
    let mut session = edited(Sample::MobileVlm);
    let model = small_model();
    assert_eq!(session.take_layout(model.clone(), None), Ok(None));
    assert_eq!((&session.layout, &session.source), (&model, &Source::Unknown));
    assert_eq!(session.profile, unknown_profile(&model));
    assert!(session.by_hand.is_empty() && session.pinned.is_none());
    assert_eq!(session.plan.delta, 2);
    assert!(session.plan.base_rank <= 32 && session.plan.budget.is_none());
}

#[test]
fn a_model_that_the_profile_fits_keeps_it_and_a_sample_becomes_a_profile_of_its_name() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    let mut model = ModelSpec::preset("smollm2-135m").unwrap();
    model.decoder.intermediate *= 2;
    let model = model.layout().unwrap();
    assert_eq!(session.take_layout(model.clone(), None), Ok(None));
    assert_eq!(session.profile, Sample::SmolLm2.profile(&model));
    assert_eq!(session.source, Source::Log(vec![Sample::SmolLm2.title().to_owned()]));
}

#[test]
fn a_log_that_is_still_held_is_measured_again_for_another_model_and_nothing_changes_before_that() {
    let mut session = Session::default();
    let held = session.take(read_log(SMOL, &session), None).held;
    let model = small_model();
    let before = session.clone();
    let request = session.take_layout(model.clone(), held.as_ref());
    assert_eq!(request, Ok(Some(IngestRequest::Profile(Reading { layout: model.clone(), ..session.reading() }))));
    assert_eq!(session, before);
    // What is held of another session is of no use.
    let mut other = Session::default();
    assert_eq!(other.take_layout(model, held.as_ref()), Ok(None));
    assert_eq!(other.source, Source::Unknown);
}

#[test]
fn a_file_that_does_not_fit_the_log_that_is_shown_changes_nothing_and_says_what_it_needs() {
    let mut session = edited(Sample::SmolLm2);
    session.take(read_log(SMOL, &session), None);
    session.plan.base_rank = 12;
    let before = session.clone();
    let tiny = Session::of_sample(Sample::TinyMobileVlm);
    let schedule = schedule_of(&tiny, &Analysis::new(&tiny).unwrap(), "").unwrap();
    let mut ranks = ReadFiles::default();
    let adapter = exports(&tiny, &Analysis::new(&tiny).unwrap(), "").unwrap().swap_remove(0).text;
    ranks.read_ranks(vec![rank_text(0, "file-0", &adapter)], &session.layout, false, None);
    let model = Document::Model(Box::new((*small_model()).clone()), Vec::new());
    for files in [of_documents([model]), of_documents([Document::Schedule(Box::new(schedule))]), ranks] {
        let taken = session.take(files, None);
        assert_eq!((&session, taken.changed, taken.deselect), (&before, false, false));
        let found = taken.findings.unwrap();
        assert!(found.documents.is_empty(), "{found:?}");
        let problem = &found.problems[0].1;
        assert!(problem.contains("nothing was changed. Drop the log of"), "{problem}");
    }
}

#[test]
fn a_log_that_comes_with_its_model_is_not_measured_again_as_the_one_before_was() {
    let mut session = Session::default();
    let held = session.take(read_log(SMOL, &session), None).held;
    let mut files = read_log(SMOL, &session);
    let run = |files: &mut ReadFiles, name: &str| {
        let made = files.log.as_mut().unwrap().made.as_mut().unwrap().as_mut().unwrap();
        made.of_log.run = Some(name.to_owned());
    };
    run(&mut files, "other");
    files.documents = vec![("config.json".to_owned(), preset("smollm2-135m"))];
    let taken = session.take(files, held.as_ref());
    assert!(taken.requests.is_empty());
    assert_eq!(session.of_log.run.as_deref(), Some("other"));
}

#[test]
fn a_held_log_keeps_even_the_model_of_a_sample_from_bringing_the_sample() {
    let mut session = Session::default();
    let held = session.take(read_log(SMOL, &session), None).held;
    let taken = session.take(of_documents([preset("tiny-mobilevlm")]), held.as_ref());
    assert_eq!(session.source, held.unwrap());
    assert_eq!((taken.requests.len(), taken.changed), (1, false));
}

#[test]
fn a_profile_that_was_made_again_is_taken_unless_it_is_of_another_model() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    let mut made = session.profile.clone();
    made.modules[0].mean = 7.0;
    let of_log = LogChoice::default;
    let (layout, outside) = (Arc::clone(&session.layout), None);
    let asked = Arc::clone(&layout);
    session.take_profile(Profiled { layout, profile: made.clone(), of_log: of_log(), outside }, &asked);
    assert_eq!(session.profile, rounded(made));
    let before = session.clone();
    let (layout, profile) = (small_model(), unknown_profile(&small_model()));
    assert!(!session.take_profile(Profiled { layout, profile, of_log: of_log(), outside: None }, &asked));
    assert_eq!(session, before);
}

/// The log with these projections alone.
fn only(mut log: GradientLog, projections: &[Projection]) -> GradientLog {
    let kept: Vec<bool> = log.modules.iter().map(|module| projections.contains(&module.id.projection)).collect();
    log.modules.retain(|module| projections.contains(&module.id.projection));
    for step in &mut log.steps {
        let mut kept = kept.iter();
        step.gradients.retain(|_| *kept.next().unwrap());
    }
    log
}

#[test]
fn a_log_of_lora_on_q_and_v_alone_shows_these_and_plans_within_their_budget() {
    let mut session = Session::default();
    let two = only(log(SMOL), &[Projection::Q, Projection::V]);
    let held = session.take(of_log("two.jsonl", &two, session.reading()), None).held;
    assert_eq!((session.layout.model(), session.layout.len()), ("smollm2-135m", 60));
    assert_eq!(session.layout.kinds(), [Projection::Q.into(), Projection::V.into()]);
    let analysis = Analysis::new(&session).unwrap();
    assert_eq!(analysis.budget.allowed, session.layout.lora_parameters(session.plan.base_rank));
    assert!(!analysis.is_over());

    // Its link holds these modules.
    let linked = from_link(&to_link(&session, &Default::default()).0);
    assert_eq!((linked.session.layout, linked.notices), (Arc::clone(&session.layout), Vec::<String>::new()));

    // The model's configuration, dropped later, does not bring the others back.
    let full = preset_layout("smollm2-135m").unwrap();
    let request = session.take_layout(full, held.as_ref()).unwrap().unwrap();
    let IngestRequest::Profile(reading) = request else { panic!() };
    session.take_profile(again(&two, &reading).unwrap(), &reading.layout);
    assert_eq!((session.layout.len(), session.profile.modules.len()), (60, 60));

    // A log of all seven is not cut to what the last one held.
    let all = log(SMOL);
    session.take(of_log("all.jsonl", &all, session.reading()), None);
    assert_eq!(session.layout.len(), 210);
}

/// What the reader of files answers that still holds the log.
fn again(log: &GradientLog, reading: &Reading) -> Result<Profiled, NotProfiled> {
    Profiled::new(log, &model_of_layout(&reading.layout, []), reading)
}

/// A log of LoRA on the tiny MobileVLM, its vision tower and its head.
fn log_with_tower() -> GradientLog {
    let model = preset_layout("tiny-mobilevlm").unwrap();
    let tower = (0..4).flat_map(|layer| {
        ["q_proj", "v_proj"].map(|leaf| format!("model.vision_tower.encoder.layers.{layer}.self_attn.{leaf}"))
    });
    let modules = model.modules().iter().map(|module| module.name.clone());
    let names: Vec<String> = modules.chain(tower).chain(["lm_head".to_owned()]).collect();
    let rows = (1..=4).map(|step| {
        let norms = names.iter().enumerate().map(|(at, name)| format!("\"{name}\":{{\"A\":1,\"B\":{}}}", 1 + at % 5));
        format!("{{\"step\":{step},\"grads\":{{{}}}}}\n", norms.collect::<Vec<_>>().join(","))
    });
    let text = "{\"hydra_grads\":1,\"model\":\"tiny-mobilevlm\",\"lora\":{\"r\":4}}\n".to_owned();
    read("towers.jsonl", Cursor::new(text + &rows.collect::<String>())).unwrap()
}

#[test]
fn what_a_log_holds_outside_the_decoder_is_told_and_can_be_planned_and_left_again() {
    let log = log_with_tower();
    let mut session = Session::default();
    let taken = session.take(of_log("towers.jsonl", &log, session.reading()), None);
    assert_eq!(session.layout.len(), 42);
    let warning = taken.warnings.first().unwrap();
    for part in
        ["9 modules of the log are outside", "vision tower (", "output head (lm_head; 2,304 parameters)", "Include"]
    {
        assert!(warning.contains(part), "{part}: {warning}");
    }

    let mut reading = session.reading();
    reading.of_log =
        LogChoice { include: "vision_tower".to_owned(), exclude: r"layers\.5\.|lm_head".to_owned(), run: None };
    let made = again(&log, &reading).unwrap();
    assert_eq!(made.outside, None, "what is excluded is not told of");
    session.by_hand.insert(3, 2);
    let asked = Arc::clone(&session.layout);
    assert!(session.take_profile(made, &asked));
    assert_eq!((session.layout.len(), session.by_hand.len()), (35 + 8, 0));
    assert!(session.layout.find("model.vision_tower.encoder.layers.3.self_attn.v_proj").is_some());
    assert_eq!(session.of_log, reading.of_log);
    let analysis = Analysis::new(&session).unwrap();
    assert_eq!(analysis.budget.allowed, session.layout.lora_parameters(session.plan.base_rank));

    // The link, the command and the settings say it.
    let linked = from_link(&to_link(&session, &Default::default()).0);
    assert_eq!((linked.session, linked.notices), (session.clone(), Vec::new()));
    let flags = r"--include vision_tower --exclude 'layers\.5\.|lm_head'";
    assert!(command(&session).0.contains(flags), "{}", command(&session).0);
    let files = exports(&session, &analysis, "x").unwrap();
    assert!(files.iter().any(|file| file.file == "plan.toml" && file.text.contains(flags)));

    // Without its configuration, from a link, it can be left out again as well.
    reading = Reading { of_log: LogChoice::default(), ..session.reading() };
    assert!(session.take_profile(again(&log, &reading).unwrap(), &reading.layout));
    assert_eq!(session.layout.len(), 42);
}

#[test]
fn an_expression_that_means_nothing_is_refused_where_it_is_entered() {
    let (log, session) = (log_with_tower(), Session::of_sample(Sample::TinyMobileVlm));
    let refused = |include: &str, exclude: &str| {
        let of_log = LogChoice { include: include.to_owned(), exclude: exclude.to_owned(), run: None };
        again(&log, &Reading { of_log, ..session.reading() }).unwrap_err().to_string()
    };
    assert_eq!(refused("audio", ""), "--include audio: no module of the log or the model has that in its name");
    assert!(refused("", "(").starts_with("--exclude (: this is no regular expression"));
    assert!(refused("", ".").contains("every one of its 51 modules is excluded"));
}

#[test]
fn expressions_that_mean_nothing_for_the_next_log_are_left_out_of_it_with_the_reason() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    session.of_log = LogChoice { include: "vision_tower".to_owned(), exclude: "down_proj".to_owned(), run: None };
    let taken = session.take(of_log("mine.jsonl", &log(SMOL), session.reading()), None);
    assert_eq!((session.of_log.include.as_str(), session.of_log.exclude.as_str()), ("", "down_proj"));
    assert_eq!(session.layout.len(), 180);
    assert!(
        taken.warnings[0].contains("--include vision_tower: no module") && taken.warnings[0].ends_with("left out.")
    );
}

#[test]
fn a_sample_with_other_modules_than_its_own_is_a_log() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    let of = LogChoice { exclude: "mlp".to_owned(), ..LogChoice::default() };
    let title = Sample::SmolLm2.title();
    let taken = session.take(of_log(title, &log(SMOL), Reading { of_log: of, ..session.reading() }), None);
    assert_eq!(session.source, Source::Log(vec![title.to_owned()]));
    assert_eq!(taken.held, Some(session.source.clone()));
    assert_eq!(session.layout.len(), 120);
}

#[test]
fn a_run_stays_chosen_for_files_of_the_same_names_alone() {
    let paths = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut session = Session::of_sample(Sample::SmolLm2);
    let run = LogChoice { run: Some("b".to_owned()), ..LogChoice::default() };
    session.take(of_log("runs", &log(SMOL), Reading { of_log: run.clone(), ..session.reading() }), None);
    assert_eq!(session.name(), "runs, run b");
    assert_eq!(session.reading_of(&paths(&["runs/a/x.csv", "runs/b/x.csv"])).of_log, run);
    assert_eq!(session.reading_of(&paths(&["other.csv"])).of_log.run, None);
    assert!(command(&session).0.contains("--gradients runs --model smollm2-135m --run b "));
    let linked = from_link(&to_link(&session, &Default::default()).0);
    assert_eq!(linked.session.of_log, run);
}

#[test]
fn what_a_dropped_configuration_leaves_out_is_told() {
    let mut session = Session::default();
    let model = Document::Model(Box::new((*small_model()).clone()), vec!["hidden_size is missing".to_owned()]);
    let taken = session.take(of_documents([model]), None);
    assert_eq!(taken.warnings, ["file-0: hidden_size is missing"]);
}

#[test]
fn a_schedule_is_shown_as_set_by_hand_under_its_own_rank_scale_and_budget() {
    let mut wide = Session::of_sample(Sample::SmolLm2);
    wide.plan.scale = ScalePolicy::Constant { factor: 2.0 };
    wide.plan.counting = Counting::RankUnits;
    wide.plan.base_rank = 12;
    let analysis = Analysis::new(&wide).unwrap();
    let schedule = schedule_of(&wide, &analysis, "").unwrap();
    let mut session = edited(Sample::SmolLm2);
    let taken = session.take(of_documents([Document::Schedule(Box::new(schedule))]), None);
    assert_eq!(session.by_hand, analysis.ranks.as_slice().iter().copied().enumerate().collect());
    assert_eq!((session.plan.base_rank, session.plan.scale), (12, ScalePolicy::Constant { factor: 2.0 }));
    assert_eq!((session.plan.counting, session.plan.budget), (Counting::RankUnits, Some(analysis.budget.allowed)));
    assert!(session.plan.schedule_kind.is_none() && !session.rebalance);
    assert!(session.pinned.is_some() && session.source == Source::Sample(Sample::SmolLm2), "the profile fits");
    assert!(taken.changed && taken.deselect);
    assert_eq!(taken.findings.unwrap().documents[0].1, "schedule: 210 modules of smollm2-135m");
}

#[test]
fn a_schedule_of_another_model_brings_it_and_no_gradients() {
    let tiny = Session::of_sample(Sample::TinyMobileVlm);
    let schedule = schedule_of(&tiny, &Analysis::new(&tiny).unwrap(), "").unwrap();
    let mut session = edited(Sample::SmolLm2);
    session.take(of_documents([Document::Schedule(Box::new(schedule))]), None);
    assert_eq!((&session.layout, &session.source), (&tiny.layout, &Source::Unknown));
    assert!(session.pinned.is_none());
}

#[test]
fn a_peft_configuration_is_shown_as_what_it_says_and_exported_as_the_same() {
    let mut session = edited(Sample::TinyMobileVlm);
    let text = r#"{"peft_type":"LORA","r":4,"lora_alpha":12,"lora_dropout":0.05,"base_model_name_or_path":"me/tiny-mobilevlm",
        "target_modules":["q_proj","v_proj"],"rank_pattern":{"layers.1.self_attn.q_proj":6},
        "alpha_pattern":{"layers.1.self_attn.q_proj":18}}"#;
    let taken = session.take(of_adapter(text, &session), None);
    assert_eq!((session.layout.len(), session.by_hand.len()), (12, 12), "its modules and no others");
    assert_eq!([0, 1, 2].map(|module| session.by_hand[&module]), [4, 4, 6]);
    assert!(session.plan.schedule_kind.is_none() && !session.rebalance);
    assert_eq!(session.plan.scale, ScalePolicy::Constant { factor: 3.0 });
    assert!(taken.changed && taken.warnings.is_empty(), "{:?}", taken.warnings);
    assert!(taken.findings.unwrap().documents[0].1.contains("as set by hand"));
    let analysis = Analysis::new(&session).unwrap();
    assert_eq!(analysis.used, analysis.budget.allowed, "its budget is what it uses");

    let peft_of = |session: &Session| {
        let analysis = Analysis::new(session).unwrap();
        exports(session, &analysis, "").unwrap().swap_remove(0).text
    };
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let mut expected = value(text);
    expected["inference_mode"] = false.into();
    let without_mode = |text: &str| {
        let mut value = value(text);
        value["inference_mode"] = false.into();
        value
    };
    assert_eq!(without_mode(&peft_of(&session)), expected, "the same document, for training");
    // One rank more, and it is the configuration of a schedule.
    session.by_hand.insert(0, 5);
    let again = peft_of(&session);
    assert_eq!(value(&again)["task_type"], "CAUSAL_LM");
    let mut fresh = Session::default();
    fresh.take(of_adapter(&again, &fresh), None);
    assert_eq!((&fresh.layout, &fresh.by_hand, &fresh.peft), (&session.layout, &session.by_hand, &session.peft));
    assert_eq!(fresh.plan.scale, session.plan.scale);
    session.given = None;
    let linked = from_link(&to_link(&session, &Default::default()).0);
    assert_eq!((linked.session, linked.notices), (session, Vec::<String>::new()));
}

#[test]
fn what_an_export_of_other_ranks_lacks_is_told() {
    let mut session = Session::of_sample(Sample::TinyMobileVlm);
    let text = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"],"modules_to_save":["lm_head"],
        "init_lora_weights":"gaussian","task_type":"SEQ_CLS","base_model_name_or_path":"me/tiny-mobilevlm"}"#;
    let taken = session.take(of_adapter(text, &session), None);
    assert_eq!(
        taken.warnings,
        ["file-0: an export with other ranks lacks its modules_to_save, init_lora_weights, task_type"]
    );
    let analysis = Analysis::new(&session).unwrap();
    let exported = exports(&session, &analysis, "").unwrap().swap_remove(0).text;
    for kept in ["\"SEQ_CLS\"", "\"gaussian\"", "\"lm_head\""] {
        assert!(exported.contains(kept), "{exported}");
    }
}

#[test]
fn a_session_whose_profile_is_too_large_for_its_file_is_restored_over_its_log_alone() {
    let mut model = ModelSpec::preset("mobilevlm-3b").unwrap();
    (model.decoder.layers, model.name) = (200, "wide".to_owned());
    let layout = model.layout().unwrap();
    let profile = made_up(&layout, Signal::L2);
    let source = Source::Log(vec!["big.jsonl".to_owned()]);
    let mut wide = Session { layout, profile, source, ..Session::default() };
    let before = wide.clone();
    wide.plan.delta = 3;
    wide.by_hand.insert(5, 7);
    let (link, whole) = to_link(&wide, &Default::default());
    assert!(!whole);
    let mut other = edited(Sample::SmolLm2);
    let taken = other.take(of_documents([Document::Session(link.clone())]), None);
    assert_eq!((other, taken.changed), (edited(Sample::SmolLm2), false));
    assert!(format!("{:?}", taken.findings).contains("Drop big.jsonl first"), "{:?}", taken.findings);
    let mut shown = before;
    shown.take(of_documents([Document::Session(link)]), None);
    assert_eq!(shown, wide);
}

#[test]
fn ranks_that_the_page_exported_come_back_on_a_fresh_page() {
    let mut mine = Session::of_sample(Sample::SmolLm2);
    mine.by_hand.insert(12, 40);
    mine.rebalance = true;
    let analysis = Analysis::new(&mine).unwrap();
    for (file, export) in exports(&mine, &analysis, "").unwrap().into_iter().enumerate() {
        if !["adapter_config.json", "ranks.csv"].contains(&export.file) {
            continue;
        }
        let mut fresh = Session::default();
        let taken = fresh.take(of_adapter(&export.text, &fresh), None);
        assert!(taken.warnings.is_empty(), "{file}: {:?}", taken.warnings);
        assert_eq!(fresh.layout, mine.layout);
        assert_eq!(fresh.plan.base_rank, 16, "of the budget");
        assert_eq!(Analysis::new(&fresh).unwrap().ranks, analysis.ranks);
        // The table holds the norms, too.
        let norms = |session: &Session| session.profile.norms();
        assert_eq!(norms(&fresh) == norms(&mine), export.file == "ranks.csv");
    }
}

#[test]
fn a_peft_configuration_of_another_model_is_a_problem_and_changes_nothing() {
    let mut session = edited(Sample::TinyMobileVlm);
    let before = session.clone();
    let text = r#"{"peft_type":"LORA","r":4,"rank_pattern":{"layers.9.mlp.up_proj":8}}"#;
    let taken = session.take(of_adapter(text, &session), None);
    assert_eq!((session, taken.changed, taken.deselect), (before, false, false));
    let found = taken.findings.unwrap();
    assert!(found.documents.is_empty() && found.problems[0].1.contains("layers.9.mlp.up_proj"));
}

#[test]
fn a_file_of_the_pages_own_restores_its_session_and_leaves_the_selection() {
    let wanted = edited(Sample::SmolLm2);
    let (link, _) = to_link(&wanted, &Default::default());
    let mut session = Session::default();
    let taken = session.take(of_documents([Document::Session(format!("{link}&new=1"))]), None);
    assert_eq!(session, wanted);
    assert!(taken.changed && !taken.deselect);
    assert!(taken.warnings.len() == 1 && taken.warnings[0].contains("new"), "{:?}", taken.warnings);
}

#[test]
fn the_first_study_of_a_journal_is_handed_on_and_problems_are_listed() {
    let of = |name: &str| {
        let (layout, analysis) = (Session::default().layout, Analysis::new(&Session::default()).unwrap());
        Study::new(StudyMetadata {
            name: name.to_owned(),
            layout,
            budget: analysis.budget,
            rank_cap: None,
            base_rank: 128,
            benchmarks: vec!["a".to_owned()],
            profile: None,
        })
    };
    let problem = ("b".to_owned(), "broken".to_owned());
    let files = ReadFiles {
        studies: [of("first"), of("second")].map(|study| Measured::of_study(&study, String::new())).into(),
        problems: vec![problem.clone()],
        ..ReadFiles::default()
    };
    let mut session = Session::default();
    let taken = session.take(files, None);
    assert_eq!((session, taken.changed), (Session::default(), false));
    assert_eq!(taken.study.unwrap().about.name, "first");
    let found = taken.findings.unwrap();
    assert_eq!(found.problems, [problem]);
    assert_eq!(found.documents, [("journal".to_owned(), "study journal: 0 trials of \"first\"".to_owned())]);
}

#[test]
fn an_adapter_is_for_the_model_that_the_files_before_it_show() {
    let mine = edited(Sample::SmolLm2);
    let schedule = schedule_of(&mine, &Analysis::new(&mine).unwrap(), "").unwrap();
    let files = [
        Document::Schedule(Box::new(schedule)),
        Document::Session(to_link(&edited(Sample::MobileVlm), &Default::default()).0),
    ];
    let adapter = |place| rank_text(place, &format!("adapter-{place}"), r#"{"peft_type":"LORA","r":8}"#);
    let mut files = of_documents(files);
    files.read_ranks((0..3).map(adapter).collect(), &Session::of_sample(Sample::TinyMobileVlm).layout, false, None);
    let names: Vec<&str> = files.documents.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["adapter-0", "file-0", "adapter-1", "file-1", "adapter-2"]);
    let models: Vec<&str> = files
        .documents
        .iter()
        .filter_map(|(_, document)| match document {
            Document::Ranks(given) => Some(given.ranks.layout().model()),
            _ => None,
        })
        .collect();
    assert_eq!(models, ["tiny-mobilevlm", "smollm2-135m", Session::of_sample(Sample::MobileVlm).layout.model()]);
}

#[test]
fn a_file_of_scores_changes_nothing_and_is_for_a_study() {
    let mut session = edited(Sample::SmolLm2);
    let before = session.clone();
    let scores = vec![("a".to_owned(), 61.5)];
    let taken = session.take(of_documents([Document::Scores(scores.clone())]), None);
    assert!(!taken.changed && session == before);
    assert_eq!(taken.scores, Some(("file-0".to_owned(), scores)));
}

#[test]
fn what_was_left_out_of_a_log_and_what_was_not_read_beside_it_is_named() {
    let group = |what: &str, count: usize, examples: &[&str]| KeyGroup {
        what: what.to_owned(),
        why: "why".to_owned(),
        count,
        examples: examples.iter().map(|example| (*example).to_owned()).collect(),
    };
    let file = |name: &str, format, skipped| FileReport {
        name: name.to_owned(),
        format,
        gzipped: false,
        rows: 0,
        recognised: Vec::new(),
        skipped,
        other_keys: 0,
        notes: Vec::new(),
    };
    let read = log(SMOL).report.files[0].format;
    let many = file("a", read, vec![group("bias", 2, &["x", "y"]), group("unknown", 9, &["z", "u", "v"])]);
    assert_eq!(left_out(&many).unwrap(), "Keys left out (11): x, y, z and 8 more");
    let one = file("b", read, vec![group("bias", 1, &["x"])]);
    assert_eq!(left_out(&one).unwrap(), "Keys left out (1): x");
    let none = file("c", None, Vec::new());
    assert_eq!(left_out(&none), None);
    let findings = Findings {
        problems: vec![("d".to_owned(), "broken".to_owned())],
        log: Some(IngestReport { files: vec![many, one, none], ..IngestReport::default() }),
        ..Findings::default()
    };
    assert_eq!(findings.unread(), ["d", "c"]);
}

#[test]
fn of_a_log_that_is_not_read_every_file_is_named() {
    let told = |file: &str| {
        let mut found = ReadFiles::default();
        let names = ["a.csv", "b.bin", "run"].map(str::to_owned).to_vec();
        found.refuse_log(names, file.to_owned(), format!("{file}: why"));
        found.problems.into_iter().map(|(file, _)| file).collect::<Vec<_>>()
    };
    assert_eq!(told("b.bin"), ["b.bin", "a.csv", "run"]);
    assert_eq!(told("run/x.csv"), ["run/x.csv", "a.csv", "b.bin"]);
    assert_eq!(told("a.csv and 2 more"), ["a.csv and 2 more", "a.csv", "b.bin", "run"]);
}
