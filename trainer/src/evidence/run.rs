//! Runs an experiment: trials side by side, each on a thread of its own, each result on the disk before the next begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::{Context as _, Result};
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::Ranks;

use super::analysis::{reported_scores, tuned_rates};
use super::arm::Arm;
use super::file::{Cell, Experiment};
use super::jobs::{Jobs, Task};
use super::record::{Record, parse_records, results_path};
use super::replay::{Table, replay, replay_path};
use super::signals::{Signals, measure_signals, signals_path};
use super::trial::{Replicate, measure_profile, run_trial};
use crate::device::{Chosen, DeviceChoice};
use crate::error::{Kind, ResultExt, failure};
use crate::interrupt;
use crate::model::recipe::Recipe;
use crate::output::{Output, Progress};
use crate::runs::JournalFile;
use crate::runs::atomic::write_json;
use crate::search::command::TrialConfig;
use crate::train::experiment::ExperimentConfig;

/// Folder of the folders of jobs.
const FOLDER: &str = crate::runs::folder::DEFAULT_ROOT;

/// Runs what of an experiment has not run, and adds its results to the file beside the experiment's. With an executor, trials
/// are its jobs, whose folders lie in [`FOLDER`]; without one they are threads.
///
/// # Errors
/// Results of another version of the experiment without `resume`, configuration or data that cannot be used, a disk that
/// cannot be written, an executor that refuses, [`Kind::Interrupted`].
pub fn run_experiment(
    path: &Path,
    resume: bool,
    chosen: &Chosen,
    executor: Option<&TrialConfig>,
    output: &Output,
) -> Result<usize> {
    let experiment = Experiment::read(path)?;
    let config = experiment.config().or_fail(Kind::Usage, || path.display().to_string())?;
    let results = results_path(path);
    if !resume && std::fs::metadata(&results).is_ok_and(|file| file.len() > 0) {
        let message = format!("{} holds results already; go on with --resume, or move it away", results.display());
        return Err(failure(Kind::Usage, message));
    }
    // The data of the profile; what cannot be run is refused before there are results.
    let first = Replicate::open(&config, experiment.fresh_pictures, config.seed, chosen.clone()).map(Arc::new)?;
    for (index, arm) in experiment.arms.iter().enumerate().filter(|(_, arm)| !arm.needs_profile()) {
        arm.recipe(&first.bench.base.layout, &experiment.plan(index)?, &GradientProfile::default())
            .or_fail(Kind::Usage, || path.display().to_string())?;
    }
    let opened = JournalFile::open(&results)?;
    let records = parse_records(&opened.text, &results)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = Path::new(FOLDER).join(format!("experiment-{name}"));
    let mut jobs = executor.map(|executor| Jobs::new(executor, &folder, output)).transpose()?;
    let mut session = Session {
        experiment: &experiment,
        config: &config,
        chosen,
        output,
        name,
        journal: Mutex::new(opened.journal),
        first,
        replicates: Mutex::new(BTreeMap::new()),
        profiles: BTreeMap::new(),
        records,
    };
    let before = session.records.len();
    let baseline = experiment.baseline_index();
    // Length by length, so that what was run when it is stopped says something.
    for &steps in &experiment.steps {
        let mut tuning = experiment.tuning_cells();
        tuning.retain(|cell| cell.steps == steps);
        // The baseline first: the profile, which other arms follow from, is measured at its rate.
        let (first, rest): (Vec<Cell>, Vec<Cell>) = tuning.into_iter().partition(|cell| cell.arm == baseline);
        session.run(&format!("{steps} steps, tuning the baseline"), first, &mut jobs)?;
        session.measure_profile(steps)?;
        session.run(&format!("{steps} steps, tuning"), rest, &mut jobs)?;
        let rates = tuned_rates(&experiment, &config, &session.records);
        let mut report = experiment.report_cells(|arm, steps| rates.of(arm, steps));
        report.retain(|cell| cell.steps == steps);
        session.run(&format!("{steps} steps, report"), report, &mut jobs)?;
    }
    if experiment.report.signals && !signals_path(path).exists() {
        write_json(&signals_path(path), &session.measure_signals()?)?;
    }
    let replayed = replay_path(path);
    if let Some(wanted) = experiment.report.replay.as_ref().filter(|_| !replayed.exists()) {
        output.note("replaying searches");
        write_json(&replayed, &replay(&session.table()?, wanted)?)?;
    }
    Ok(session.records.len() - before)
}

/// An experiment that runs.
struct Session<'a> {
    experiment: &'a Experiment,
    config: &'a ExperimentConfig,
    chosen: &'a Chosen,
    output: &'a Output,
    name: String,
    journal: Mutex<JournalFile>,
    /// The data of the configuration's own seed: of profile and signals.
    first: Arc<Replicate>,
    /// Data that a trial is using; forgotten after the last one.
    replicates: Mutex<BTreeMap<u64, Weak<Replicate>>>,
    /// By steps.
    profiles: BTreeMap<usize, GradientProfile>,
    records: Vec<Record>,
}

impl Session<'_> {
    /// The profile of a length, at the baseline's rate.
    fn measure_profile(&mut self, steps: usize) -> Result<()> {
        if self.experiment.arms.iter().any(Arm::needs_profile) || self.experiment.report.signals {
            let rates = tuned_rates(self.experiment, self.config, &self.records);
            let rate = rates.of(self.experiment.baseline_index(), steps);
            self.profiles.insert(steps, measure_profile(&self.first, steps, rate)?);
        }
        Ok(())
    }

    /// Signals at the first length, from data of the tuning.
    fn measure_signals(&self) -> Result<Signals> {
        let steps = self.experiment.steps[0];
        let profile = self.profiles.get(&steps).context("signals need a profile")?;
        measure_signals(&self.first, profile, steps)
    }

    /// The table of schedules that searches are replayed on.
    fn table(&self) -> Result<Table> {
        let steps = self.experiment.steps[0];
        let scores = reported_scores(self.experiment, self.config, &self.records, steps);
        let baseline = scores.get(&self.experiment.baseline_index()).context("the baseline has no results")?;
        let layout = Arc::clone(&self.first.bench.base.layout);
        let (mut schedules, mut leads) = (Vec::new(), Vec::new());
        for (arm, found) in &scores {
            let name = &self.experiment.arms[*arm].name;
            let ranks = self.records.iter().find(|record| record.arm == *name).map(|record| record.ranks.clone());
            let lead = |(replicate, score): (&u64, &[f64; 2])| Some(score[0] - baseline.get(replicate)?[0]);
            let lead: Option<Vec<f64>> = found.iter().map(lead).collect();
            let whole = lead.filter(|lead| lead.len() == baseline.len() && *arm != self.experiment.baseline_index());
            // Performance models tell no rank below 1 apart.
            let known = |ranks: &Vec<u32>| !ranks.is_empty() && !ranks.contains(&0);
            if let (Some(lead), Some(ranks)) = (whole, ranks.filter(known)) {
                schedules.push(Ranks::new(&layout, ranks)?);
                leads.push(lead);
            }
        }
        Ok(Table { schedules, leads, base_rank: self.config.plan.base_rank })
    }

    /// The data of a replicate, prepared once for all trials that use it at a time.
    fn replicate(&self, number: u64) -> Result<Arc<Replicate>> {
        // Held while the data is prepared: the others wait for the same.
        let mut held = lock(&self.replicates);
        let key = if self.experiment.fresh_pictures { number } else { 0 };
        if let Some(replicate) = held.get(&key).and_then(Weak::upgrade) {
            return Ok(replicate);
        }
        let opened =
            Replicate::open(self.config, self.experiment.fresh_pictures, number, self.chosen.clone()).map(Arc::new)?;
        held.insert(key, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// Runs the trials that have no result, as jobs where there are such.
    fn run(&mut self, stage: &str, cells: Vec<Cell>, jobs: &mut Option<Jobs<'_>>) -> Result<()> {
        let done: BTreeSet<&str> = self.records.iter().map(|record| record.trial.as_str()).collect();
        let mut waiting = Vec::new();
        for cell in cells {
            let trial = self.experiment.identity(self.config, &cell)?;
            if !done.contains(trial.as_str()) {
                waiting.push((cell, trial));
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let mut progress = self.output.progress(&format!("{}: {stage}", self.name), waiting.len() as u64);
        if let Some(jobs) = jobs {
            return self.run_jobs(jobs, waiting, &mut progress);
        }
        waiting.reverse();
        let queue = Mutex::new((waiting, progress));
        // A GPU has one queue; on a CPU small fine-tunes gain more from running side by side than from threads of their own.
        let workers = if self.chosen.choice == DeviceChoice::Cpu { self.chosen.threads.max(1) } else { 1 };
        let session: &Self = self;
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| session.work(&queue))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<Record>>>| {
                thread.join().unwrap_or_else(|_| Err(failure(Kind::Failure, "a trial's thread ended unexpectedly")))
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        for records in found {
            self.records.extend(records?);
        }
        Ok(())
    }

    /// Runs trials as jobs, so many at a time.
    fn run_jobs(&mut self, jobs: &mut Jobs<'_>, waiting: Vec<(Cell, String)>, progress: &mut Progress) -> Result<()> {
        let mut waiting = waiting.into_iter().peekable();
        let mut open = 0;
        while open > 0 || waiting.peek().is_some() {
            if let Some((cell, trial)) = waiting.next_if(|_| jobs.has_room()) {
                let recipe = self.recipe(&cell, &self.first)?;
                let arm = self.experiment.arms[cell.arm].name.clone();
                let fresh_pictures = self.experiment.fresh_pictures;
                jobs.begin(&Task { config: self.config.clone(), fresh_pictures, arm, cell, recipe, trial })?;
                open += 1;
                continue;
            }
            let record = jobs.next()?;
            open -= 1;
            lock(&self.journal).append(&[serde_json::to_string(&record)?])?;
            progress.step(format_args!("{}, replicate {}", record.arm, record.replicate));
            self.records.push(record);
        }
        Ok(())
    }

    /// What a trial trains.
    fn recipe(&self, cell: &Cell, replicate: &Replicate) -> Result<Recipe> {
        let none = GradientProfile::default();
        let profile = self.profiles.get(&cell.steps).unwrap_or(&none);
        self.experiment.arms[cell.arm].recipe(&replicate.bench.base.layout, &self.experiment.plan(cell.arm)?, profile)
    }

    /// One worker: takes trials until there are none.
    fn work(&self, queue: &Mutex<(Vec<(Cell, String)>, Progress)>) -> Result<Vec<Record>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().context("a thread for trials")?;
        let mut records = Vec::new();
        let mut held: Option<Arc<Replicate>> = None;
        loop {
            if interrupt::requested() {
                return Err(failure(Kind::Interrupted, "interrupted between two trials"));
            }
            let Some((cell, trial)) = lock(queue).0.pop() else { return Ok(records) };
            let replicate = self.replicate(cell.replicate)?;
            // The one before is given up only now: it may be the same.
            held.replace(Arc::clone(&replicate));
            let arm = &self.experiment.arms[cell.arm];
            let recipe = self.recipe(&cell, &replicate)?;
            let record = pool.install(|| run_trial(&replicate, &recipe, &cell, &arm.name, trial));
            let record = match record {
                Err(error) => {
                    // The others stop after the trial that they are in.
                    lock(queue).0.clear();
                    return Err(error.context(format!("arm \"{}\", replicate {}", arm.name, cell.replicate)));
                }
                Ok(record) => record,
            };
            lock(&self.journal).append(&[serde_json::to_string(&record)?])?;
            lock(queue).1.step(format_args!("{}, replicate {}", arm.name, cell.replicate));
            records.push(record);
        }
    }
}

/// The value behind a lock; one whose holder panicked is as it was left, which is whole here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
