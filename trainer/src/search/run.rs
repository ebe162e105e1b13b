//! Profile, plan and search in one run folder: what `search` does, and `demo` before its final comparison.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use hydra_shared::files::outside::starts;
use hydra_shared::gradients::{GradientLog, GradientProfile, profile, read};
use hydra_shared::layout::Ranks;
use hydra_shared::schedule::{Budget, Plan, PlanConfig, Provenance, RankSchedule, plan};
use hydra_shared::search::{Outcome, Study, StudyMetadata, Trial};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::Trainable;

use super::conversation::{Conversation, STUDY, StudyFile, check_same};
use super::drive::{Evaluator, drive};
use super::searched::Searched;
use super::trial::{remove_folder, run_trial};
use crate::data::Scores;
use crate::data::gradient_logs::{ReadLogs, configured_log_failure};
use crate::error::{Kind, ResultExt, kind_of, message_of};
use crate::model::recipe::Recipe;
use crate::output::Output;
use crate::runs::atomic::{write_file, write_json};
use crate::runs::{CheckpointStore, RunFolder};
use crate::train::job::Job;
use crate::train::run::{FineTune, GradientFile};
use crate::train::step::final_loss;
use crate::train::workbench::Workbench;

/// The study of a run.
pub const STUDY_FILE: &str = "search/study.journal";
/// Folder of the trials, in a run.
pub const TRIALS: &str = "search/trials";
/// The best schedule, in a run.
pub const BEST: &str = "search/best.json";
/// Where the profile run's gradient log is kept.
const GRADIENTS_FILE: &str = "profile/grads.jsonl";

/// What a search found, and what it began with.
pub struct Found {
    /// Gradient norms of uniform LoRA.
    pub profile: GradientProfile,
    /// The schedule that follows from them.
    pub plan: Plan,
    /// Its ranks without the fine step.
    pub coarse: Ranks,
    /// Its trials.
    pub searched: Searched,
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
    let (one, config) = (bench.config.gradients_run.as_deref(), &bench.config.profile);
    let mut logs = ReadLogs::read(paths, one, config, configured_log_failure)?;
    let profile = logs.profile(&bench.base.layout, config)?;
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
    let metadata = StudyMetadata {
        name: STUDY.to_owned(),
        layout: Arc::clone(&bench.base.layout),
        budget: bench.config.budget(&bench.base.layout),
        rank_cap: bench.config.plan.cap,
        base_rank: bench.config.plan.base_rank,
        benchmarks,
        profile: Some(profile.clone()),
    };
    let path = run.file(STUDY_FILE)?;
    let mut file = StudyFile::open(&path, output)?;
    let study = match file.study(output)? {
        Some(study) => {
            check_same(&path, &study, &metadata)?;
            study
        }
        None => file.begin(metadata, &[])?,
    };
    let starts = starts(&bench.base.layout, &profile, &coarse, &fine, &bench.config.plan, output)?;
    let mut conversation = Conversation::new(file, study, bench.config.search, starts)?;
    let mut trials = OwnTrials { bench, output, jobs: run.file(TRIALS)? };
    let reason = drive(&mut conversation, &mut trials, 1, output)?;
    let searched = Searched::new(&conversation, reason);
    let best =
        schedule_of(bench, &searched.picked()?.ranks, bench.config.budget(&bench.base.layout), "trainer search")?;
    write_file(&run.file(BEST)?, best.to_json()?.as_bytes())?;
    Ok(Found { profile, plan: fine, coarse: coarse.ranks, searched })
}

/// Trials as this program runs them itself, one at a time.
struct OwnTrials<'a> {
    bench: &'a Workbench,
    output: &'a Output,
    jobs: PathBuf,
}

impl Evaluator for OwnTrials<'_> {
    fn start(&mut self, _trial: &Trial) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, trial: &Trial, study: &Study) -> Result<Outcome> {
        let job = trial_job(self.bench, trial)?;
        let title = format!("trial {}", trial.number);
        let best = study.best().and_then(|best| best.objective);
        let better = |scores: &Scores| !trial.origin.is_replicate() && best.is_none_or(|best| scores.mean > best);
        match run_trial(self.bench, &job, self.output, &title, &self.jobs, better) {
            Ok(result) => {
                Ok(Outcome::Complete { scores: result.scores.tasks, wall_seconds: Some(result.wall_seconds) })
            }
            // A diverging schedule is a result; anything else is not the schedule's fault.
            Err(error) if kind_of(&error) == Kind::Numerical => {
                Ok(Outcome::Failed { error: message_of(&error), wall_seconds: None })
            }
            Err(error) => Err(error),
        }
    }
}

/// The fine-tune of a trial.
///
/// # Errors
/// As [`Job::new`].
pub fn trial_job(bench: &Workbench, trial: &Trial) -> Result<Job> {
    let recipe = Recipe::lora(trial.ranks.clone(), bench.config.plan.scale);
    Job::new(bench, recipe, bench.config.seed.wrapping_add(trial.seed), Split::Validation)
}
