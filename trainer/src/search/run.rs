//! Profile, plan and search in one run folder: what `search` does, and `demo` before its final comparison.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use hydra_shared::gradients::{GradientLog, GradientProfile, profile, read};
use hydra_shared::layout::Ranks;
use hydra_shared::names::first_names;
use hydra_shared::performance::LeaveOneOut;
use hydra_shared::schedule::{Budget, Plan, PlanConfig, Provenance, RankSchedule, ScheduleKind, plan};
use hydra_shared::search::{
    Journal, Mended, Outcome, Search, Start, Step, StopReason, Study, StudyMetadata, Timestamp, Trial, mended,
    starting_schedules,
};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Trainable;

use super::trial::{remove_folder, run_trial};
use crate::data::Scores;
use crate::data::gradient_logs::{log_failure, names, profile_of, read_logs};
use crate::error::{Kind, ResultExt, failure, kind_of, message_of};
use crate::interrupt;
use crate::model::recipe::Recipe;
use crate::output::Output;
use crate::runs::atomic::{write_file, write_json};
use crate::runs::{CheckpointStore, JournalFile, RunFolder};
use crate::train::job::Job;
use crate::train::run::{FineTune, GradientFile};
use crate::train::step::final_loss;
use crate::train::workbench::Workbench;

/// Name of the study in its journal.
const STUDY: &str = "hydra";
/// Folder of the trials, in a run.
pub const TRIALS: &str = "search/trials";
/// Where the profile run's gradient log is kept.
const GRADIENTS_FILE: &str = "profile/grads.jsonl";

/// What a search found.
pub struct Found {
    /// Gradient norms of uniform LoRA.
    pub profile: GradientProfile,
    /// The schedule that follows from them.
    pub plan: Plan,
    /// Its ranks without the fine step.
    pub coarse: Ranks,
    /// Every trial.
    pub study: Study,
    /// Why the search ended.
    pub reason: StopReason,
    /// How well the performance model predicts trials that it did not see, fitted on all of them; none with too few.
    pub leave_one_out: Option<LeaveOneOut>,
}

impl Found {
    /// The trial with the best mean score.
    ///
    /// # Errors
    /// A study in which every trial failed.
    pub fn best(&self) -> Result<&Trial> {
        self.study.best().ok_or_else(|| {
            let cause = self.study.trials.iter().find_map(|trial| trial.error.as_deref()).unwrap_or("no trial ran");
            failure(Kind::Failure, format!("every trial of the search failed; the first said: {cause}"))
        })
    }
}

/// Measures gradient norms with uniform LoRA, or reads the log of the run where it was measured before.
///
/// # Errors
/// As a fine-tune; a log that is damaged.
pub fn measure_profile(run: &RunFolder, bench: &Workbench, output: &Output) -> Result<GradientProfile> {
    let file = run.file(GRADIENTS_FILE)?;
    let unfinished = run.file("profile/unfinished")?;
    if !file.exists() {
        let recipe = bench.config.uniform(&bench.base.layout)?;
        let job = Job::new(bench, recipe, bench.config.seed, Split::Validation)?;
        let partial = unfinished.join("grads.jsonl");
        std::fs::create_dir_all(&unfinished).or_fail(Kind::Failure, || unfinished.display().to_string())?;
        let checkpoints = CheckpointStore::new(&unfinished);
        let tune = FineTune::with_losses(bench, &job, Trainable::ProjectorAndLora, checkpoints)?;
        let spec = &bench.base.spec;
        let mut log = GradientFile::open(&partial, spec, &job, tune.resumed_from())?;
        let tuned = tune.run(output, "profile", |report| log.append(spec, report))?;
        std::fs::rename(&partial, &file).or_fail(Kind::Failure, || file.display().to_string())?;
        tracing::info!("profile run ended with loss {:?}", final_loss(&tuned.losses));
    }
    remove_folder(&unfinished)?;
    let name = file.display().to_string();
    let bytes = std::fs::read(&file).or_fail(Kind::Data, || name.clone())?;
    let log: GradientLog = read(&name, bytes.as_slice()).or_fail(Kind::Data, || "the profile run's gradient log")?;
    let profile = profile(&log, &bench.base.layout, &bench.config.profile).or_fail(Kind::Data, || name.clone())?;
    write_json(&run.file("profile/summary.json")?, &profile)?;
    Ok(profile)
}

/// The profile of the configured gradient log; without one it is measured.
fn given_profile(run: &RunFolder, bench: &Workbench, output: &Output) -> Result<GradientProfile> {
    let Some(log) = bench.config.gradients.clone() else { return measure_profile(run, bench, output) };
    let paths = std::slice::from_ref(&log);
    let (log, _) = read_logs(paths).map_err(log_failure)?;
    let profile = profile_of(&names(paths), &log, &bench.base.layout, &bench.config.profile)?;
    write_json(&run.file("profile/summary.json")?, &profile)?;
    Ok(profile)
}

/// Plans the coarse and the fine schedule from a profile; writes the configured kind, by default the fine one, to
/// `plan/schedule.json`.
///
/// # Errors
/// A plan that does not fit the model or its budget.
pub fn make_plan(run: &RunFolder, bench: &Workbench, profile: &GradientProfile) -> Result<(Plan, Plan)> {
    let config = &bench.config.plan;
    let of = |config: &PlanConfig| plan(&bench.base.layout, profile, config).or_fail(Kind::Budget, || "plan");
    let (coarse, fine) = (of(&config.coarse_only())?, of(config)?);
    let planned =
        fine.clone().of_kind(&bench.base.layout, profile, config, config.seed()).or_fail(Kind::Budget, || "plan")?;
    let schedule = schedule_of(bench, &planned.ranks, planned.budget, "trainer plan")?;
    write_file(&run.file("plan/schedule.json")?, schedule.to_json()?.as_bytes())?;
    Ok((coarse, fine))
}

/// The schedule's file for ranks within a budget, under this configuration.
///
/// # Errors
/// Ranks that do not fit the budget.
pub fn schedule_of(bench: &Workbench, ranks: &Ranks, budget: Budget, command: &str) -> Result<RankSchedule> {
    let config = &bench.config.plan;
    let provenance = Provenance { command: command.to_owned(), inputs: Vec::new(), seed: Some(bench.config.seed) };
    Ok(RankSchedule::new(ranks.clone(), config.base_rank, config.scale, budget, provenance)?)
}

/// Profile, plan, and trials until the search says that it is over. Every step is on the disk before the next begins, so
/// that an interrupted run goes on where it stopped.
///
/// # Errors
/// Data or configuration that cannot be used; [`Kind::Interrupted`].
pub fn search_in_run(run: &RunFolder, bench: &Workbench, output: &Output) -> Result<Found> {
    let profile = given_profile(run, bench, output)?;
    let (coarse, fine) = make_plan(run, bench, &profile)?;
    let benchmarks = bench.part(Split::Validation)?.set.tasks();

    let study_file = run.file("search/study.journal")?;
    mend(&study_file, output)?;
    let opened = JournalFile::open(&study_file)?;
    let mut file = opened.journal;
    let mut journal = Journal::parse(opened.text.as_bytes()).or_fail(Kind::Data, || "search/study.journal")?;
    let metadata = StudyMetadata {
        name: STUDY.to_owned(),
        layout: Arc::clone(&bench.base.layout),
        budget: bench.config.budget(&bench.base.layout),
        rank_cap: bench.config.plan.cap,
        base_rank: bench.config.plan.base_rank,
        benchmarks,
        profile: Some(profile.clone()),
    };
    let study = match journal.study(STUDY) {
        Some(found) if found.is_hydra() => {
            let study = found.to_study().or_fail(Kind::Data, || "search/study.journal")?;
            name_ignored(&study, output);
            study
        }
        _ => {
            append(&mut file, &journal.begin_study(&metadata)?)?;
            Study::new(metadata.clone())
        }
    };
    let starts = starts(bench, &profile, &coarse, &fine, output)?;
    let mut search = Search::new(bench.config.search, study, starts)?;
    let jobs = run.file(TRIALS)?;
    let reason = loop {
        if interrupt::requested() {
            return Err(failure(Kind::Interrupted, "interrupted between two trials"));
        }
        let proposal = match search.ask()? {
            Step::Done(reason) => break reason,
            Step::Run(proposal) => proposal,
        };
        let number = proposal.trial.number;
        if journal.is_waiting(&metadata, number) {
            output.note(format_args!("trial {number} was put into the queue by another program"));
            append(&mut file, &journal.take_waiting(&metadata, &proposal.trial, now())?)?;
        } else if !proposal.resumed {
            append(&mut file, &journal.begin_trial(&metadata, &proposal.trial, now())?)?;
        }
        let job = trial_job(bench, &proposal.trial.ranks)?;
        let title = format!("trial {number}");
        let best = search.study().best().and_then(|best| best.objective);
        let better = |scores: &Scores| best.is_none_or(|best| scores.mean > best);
        let outcome = match run_trial(bench, &job, output, &title, &jobs, better) {
            Ok(result) => Outcome::Complete { scores: result.scores.tasks, wall_seconds: Some(result.wall_seconds) },
            // A diverging schedule is a result; anything else is not the schedule's fault.
            Err(error) if kind_of(&error) == Kind::Numerical => {
                Outcome::Failed { error: message_of(&error), wall_seconds: None }
            }
            Err(error) => return Err(error),
        };
        let trial = search.tell(number, outcome)?;
        append(&mut file, &journal.end_trial(&metadata, trial, now())?)?;
        output.note(describe(trial));
    };
    let study = search.study().clone();
    let model = bench.config.search.model.build();
    let fitted = model.fit(&study.features(), &study.observations(), bench.config.search.seed);
    let leave_one_out = fitted.ok().map(|fitted| fitted.leave_one_out().clone());
    let found = Found { profile, plan: fine, coarse: coarse.ranks, study, reason, leave_one_out };
    let best = schedule_of(bench, &found.best()?.ranks, bench.config.budget(&bench.base.layout), "trainer search")?;
    write_file(&run.file("search/best.json")?, best.to_json()?.as_bytes())?;
    Ok(found)
}

/// Puts every record of a study's file on a line of its own, where a writer died and another one went on after it.
fn mend(path: &Path, output: &Output) -> Result<()> {
    let Ok(bytes) = std::fs::read(path) else { return Ok(()) };
    let Some(Mended { text, parted, lost_bytes }) = mended(&bytes) else { return Ok(()) };
    write_file(path, text.as_bytes())?;
    if !parted.is_empty() {
        let lines = first_names(&parted);
        output.warn(format_args!("the study's file held several records on one line (line {lines}); they were parted"));
    }
    if lost_bytes > 0 {
        output.warn(format_args!("a line of the study's file was torn; {lost_bytes} bytes were cut off"));
    }
    Ok(())
}

/// Says which trials of the journal are none of this search.
fn name_ignored(study: &Study, output: &Output) {
    let named = study.ignored.iter().map(|trial| format!("trial {} ({})", trial.number, trial.reason));
    if !study.ignored.is_empty() {
        output.warn(format_args!("trials of another program that do not count: {}", first_names(named)));
    }
}

/// The fine-tune of a trial with these ranks.
///
/// # Errors
/// As [`Job::new`].
pub fn trial_job(bench: &Workbench, ranks: &Ranks) -> Result<Job> {
    let recipe = Recipe::Lora { ranks: ranks.clone(), scale: bench.config.plan.scale };
    Job::new(bench, recipe, bench.config.seed + bench.config.search.seed, Split::Validation)
}

/// The schedules that a search begins with and the configured one, as far as the budget holds them.
fn starts(
    bench: &Workbench,
    profile: &GradientProfile,
    coarse: &Plan,
    fine: &Plan,
    output: &Output,
) -> Result<Vec<Start>> {
    let config = &bench.config.plan;
    let mut starts = starting_schedules(coarse, fine, profile, config, bench.config.seed)?;
    let chosen = config.schedule_kind.and_then(ScheduleKind::baseline);
    if let Some(chosen) = chosen.filter(|chosen| starts.iter().all(|start| start.name != chosen.name())) {
        let ranks = chosen.ranks(&bench.base.layout, profile, config.base_rank, config.cap, config.seed())?;
        starts.push(Start { name: chosen.name().to_owned(), ranks });
    }
    // A budget given by hand may be below that of the base rank: then those schedules are no candidates.
    let budget = bench.config.budget(&bench.base.layout);
    starts.retain(|start| budget.holds(&start.ranks));
    if let Some(chosen) = chosen.filter(|chosen| starts.iter().all(|start| start.name != chosen.name())) {
        output.warn(format_args!("the schedule {chosen} uses more than the budget: the search does not try it"));
    }
    Ok(starts)
}

/// One line about a trial.
fn describe(trial: &Trial) -> String {
    use hydra_shared::search::Origin;
    let origin = match &trial.origin {
        Origin::Start { name } => name.clone(),
        Origin::Random { .. } => "random".to_owned(),
        Origin::Proposed { model, predicted, .. } => {
            format!("proposed by {model}, predicted {:.1} ± {:.1}", predicted.mean, predicted.std)
        }
        Origin::Chosen { proposer } => format!("chosen by {proposer}"),
        Origin::Foreign => "another program".to_owned(),
    };
    match (trial.objective, &trial.error) {
        (Some(score), _) => format!("trial {:>2}: {score:.2}  ({origin})", trial.number),
        (None, Some(error)) => format!("trial {:>2}: failed  ({origin}): {error}", trial.number),
        (None, None) => format!("trial {:>2}: no score  ({origin})", trial.number),
    }
}

fn append(file: &mut JournalFile, lines: &str) -> Result<()> {
    let lines: Vec<&str> = lines.lines().collect();
    file.append(&lines)
}

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros());
    Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// The number of trials and the best one, for `--json`.
///
/// # Errors
/// A study in which every trial failed.
pub fn summary(found: &Found) -> Result<serde_json::Value> {
    let best = found.best()?;
    let used = found.study.metadata.budget.used(&best.ranks);
    let loo = found.leave_one_out.as_ref().map(|loo| {
        serde_json::json!({
            "rmse": loo.objective.rmse,
            "baseline_rmse": loo.objective.baseline_rmse,
            "rank_correlation": loo.objective.rank_correlation,
        })
    });
    Ok(serde_json::json!({
        "trials": found.study.trials.len(),
        "stopped": serde_json::to_value(found.reason).context("stop reason")?,
        "best": {
            "trial": best.number,
            "mean": best.objective,
            "scores": best.scores,
            "origin": best.origin,
            "used": used,
        },
        "leave_one_out": loo,
    }))
}
