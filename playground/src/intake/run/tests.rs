use hydra_shared::gradients::{LoraMeta, Signal};
use hydra_shared::vlm::spec::ModelSpec;

use super::super::tests::{SMOL, TINY, log};
use super::*;
use crate::analysis::Analysis;
use crate::export::schedule as schedule_of;
use crate::samples::Sample;

fn run(log: Option<GradientLog>, schedule: Option<RankSchedule>) -> Run {
    let log = log.map(|log| ("grads.jsonl".to_owned(), log));
    Run { layout: None, log, schedule, profiling: ProfileConfig::default(), plan: PlanConfig::default() }
}

#[test]
fn a_runs_log_is_shown_under_its_choices_with_the_rank_of_its_adapters() {
    let mut given = run(Some(log(TINY)), None);
    given.plan.budget = Some(500_000);
    given.plan.delta = 1;
    given.profiling.signal = Signal::Fisher;
    let session = Session::of_run(given).unwrap();
    assert_eq!(
        (session.layout.model(), &session.source),
        ("tiny-mobilevlm", &Source::Log(vec!["grads.jsonl".to_owned()]))
    );
    assert_eq!((session.plan.base_rank, session.plan.budget, session.plan.delta), (4, Some(500_000), 1));
    assert_eq!((session.profile.signal, session.profiling.signal), (Signal::Fisher, Signal::Fisher));
    assert_eq!(session.profile, rounded(session.profile.clone()), "as a link holds it");
}

#[test]
fn a_runs_schedule_that_its_plan_gives_leaves_no_rank_set_by_hand() {
    let mut session = Session::of_sample(Sample::SmolLm2);
    session.plan.base_rank = 24;
    let analysis = Analysis::new(&session).unwrap();
    let schedule = schedule_of(&session, &analysis, "").unwrap();
    let opened = Session::of_run(run(Some(log(SMOL)), Some(schedule.clone()))).unwrap();
    assert!(opened.by_hand.is_empty() && opened.plan.budget.is_none());
    assert_eq!(opened.plan.base_rank, 24, "the schedule's, not the log's");
    assert_eq!(Analysis::new(&opened).unwrap().ranks, analysis.ranks);
    // Under other choices the plan gives others.
    let mut other = run(Some(log(SMOL)), Some(schedule));
    other.plan.delta += 3;
    let opened = Session::of_run(other).unwrap();
    assert_eq!(opened.by_hand, analysis.ranks.as_slice().iter().copied().enumerate().collect());
    assert_eq!((opened.plan.budget, opened.plan.counting), (Some(analysis.budget.allowed), analysis.budget.counting));
}

#[test]
fn a_schedule_alone_makes_a_session_without_gradients() {
    let tiny = Session::of_sample(Sample::TinyMobileVlm);
    let analysis = Analysis::new(&tiny).unwrap();
    let schedule = schedule_of(&tiny, &analysis, "").unwrap();
    let opened = Session::of_run(run(None, Some(schedule))).unwrap();
    assert_eq!((&opened.layout, &opened.source), (&tiny.layout, &Source::Unknown));
    assert_eq!(opened.profile, unknown_profile(&tiny.layout));
    assert_eq!(Analysis::new(&opened).unwrap().ranks, analysis.ranks);
}

#[test]
fn the_model_that_a_person_names_comes_before_what_schedule_and_log_tell() {
    let mut named = ModelSpec::preset("smollm2-135m").unwrap();
    named.name = "mine".to_owned();
    let given = Run { layout: Some(named.layout().unwrap()), ..run(Some(log(SMOL)), None) };
    assert_eq!(Session::of_run(given).unwrap().layout.model(), "mine");
}

#[test]
fn a_run_whose_model_nothing_tells_is_refused() {
    let mut log = log(SMOL);
    log.modules.retain(|module| module.id.layer < 29);
    log.meta.model = None;
    assert!(matches!(Session::of_run(run(Some(log), None)), Err(RunError::UnknownModel)));
}

#[test]
fn an_adapter_rank_of_zero_in_a_log_counts_as_one() {
    let mut log = log(SMOL);
    log.meta.lora = Some(LoraMeta { r: 0, alpha: None });
    assert_eq!(Session::of_run(run(Some(log), None)).unwrap().plan.base_rank, 1);
}
