//! Runs an experiment: trials side by side, each on a thread of its own, each result on the disk before the next begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::{Context as _, Result};
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::Ranks;
use serde::Serialize;

use super::analysis::tuned_rates;
use super::arm::Arm;
use super::file::{Cell, Experiment, Stage};
use super::jobs::{Jobs, Task};
use super::nested::{NestedRun, nested_cells, nested_path, read_nested, run_nested, schedules};
use super::record::{Record, parse_lines, results_path};
use super::replay::{Replay, Table, read_replay, replay, replay_path};
use super::signals::{Signals, expected_losses, measure_signals, signals_path};
use super::trial::{Replicate, measure_profiles, run_trial};
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
    let records: Vec<Record> = parse_lines(&opened.text, &results)?;
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
        session.measure_profiles(steps)?;
        session.run(&format!("{steps} steps, tuning"), rest, &mut jobs)?;
        let rates = tuned_rates(&experiment, &config, &session.records);
        let mut report = experiment.report_cells(|arm, steps| rates.of(arm, steps));
        report.retain(|cell| cell.steps == steps);
        session.run(&format!("{steps} steps, report"), report, &mut jobs)?;
    }
    if experiment.report.signals && !signals_path(path).exists() {
        write_json(&signals_path(path), &session.measure_signals()?)?;
    }
    if experiment.report.nested.is_some() {
        session.run_nested(&nested_path(path))?;
    }
    if let Some(wanted) = &experiment.report.replay {
        let (replayed, table) = (replay_path(path), session.table(path)?);
        let of = table.hash(wanted)?;
        if read_replay(&replayed)?.is_none_or(|found| found.of != of) {
            output.note("replaying searches");
            write_json(&replayed, &Replay { of, searches: replay(&table, wanted)? })?;
        }
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
    /// By steps of the fine-tunes, then by how many of them are profiled.
    profiles: BTreeMap<usize, BTreeMap<usize, GradientProfile>>,
    records: Vec<Record>,
}

impl Session<'_> {
    /// The profiles of a length, at the baseline's rate.
    fn measure_profiles(&mut self, steps: usize) -> Result<()> {
        if self.experiment.arms.iter().any(Arm::needs_profile) || self.experiment.report.signals {
            let rates = tuned_rates(self.experiment, self.config, &self.records);
            let rate = rates.of(self.experiment.baseline_index(), steps);
            let windows = self.experiment.arms.iter().filter_map(|arm| arm.profile_steps).collect();
            self.profiles.insert(steps, measure_profiles(&self.first, steps, rate, &windows)?);
        }
        Ok(())
    }

    /// Signals at the first length, from data of the tuning.
    fn measure_signals(&self) -> Result<Signals> {
        let steps = self.experiment.steps[0];
        let profile = self.profiles.get(&steps).and_then(|of| of.get(&steps)).context("signals need a profile")?;
        measure_signals(&self.first, profile, steps)
    }

    /// Name and ranks of every arm that can be a truncation beside the others: within the baseline's parameters, under the same
    /// scale, without ranks of 0.
    fn nested_schedules(&self) -> Result<Vec<(String, Ranks)>> {
        let spec = &self.first.bench.base.spec;
        let steps = self.experiment.steps[0];
        let recipe = |arm| {
            let cell = Cell { arm, steps, rate: 0.0, replicate: self.config.seed, stage: Stage::Report };
            self.recipe(&cell, &self.first)
        };
        let budget = recipe(self.experiment.baseline_index())?.trainable_parameters(spec);
        let mut schedules = Vec::new();
        for (index, arm) in self.experiment.arms.iter().enumerate() {
            if let Recipe::Lora { ranks, scale, scale_of: None } = recipe(index)?
                && ranks.parameters() <= budget
                && scale == self.config.plan.scale
                && !ranks.as_slice().contains(&0)
            {
                schedules.push((arm.name.clone(), ranks));
            }
        }
        Ok(schedules)
    }

    /// The table of schedules that searches are replayed on.
    fn table(&self, path: &Path) -> Result<Table> {
        let schedules = schedules(self.experiment, self.config, &self.records);
        let cells = nested_cells(self.experiment, self.config, &self.records)?;
        let (baseline, others) = schedules.split_first().context("the baseline has no results")?;
        let layout = &self.first.bench.base.layout;
        let mut table = Table { base_rank: self.config.plan.base_rank, ..Table::default() };
        for alone in others {
            let pairs = alone.measured.iter().zip(&baseline.measured);
            table.leads.push(pairs.map(|((_, own), (_, other))| own[0] - other[0]).collect());
            table.schedules.push(Ranks::new(layout, alone.ranks.clone())?);
        }
        // Of nested runs the longest.
        let runs = read_nested(&nested_path(path), &cells)?;
        let longest = runs.iter().map(|run| run.steps).max();
        let of_all = |run: &NestedRun| others.iter().map(|alone| run.loss(&alone.name)).collect::<Option<Vec<f64>>>();
        table.nested = runs.iter().filter(|run| Some(run.steps) == longest).filter_map(of_all).collect();
        if let Some(name) = self.experiment.report.replay.as_ref().and_then(|replay| replay.gains_of.as_ref()) {
            let path = path.with_file_name(name).with_extension("toml");
            table.expected = expected_losses(&path, self.experiment, &table.schedules)?;
        }
        Ok(table)
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
        let name = |cell: &Cell| self.experiment.arms[cell.arm].name.as_str();
        let trial = |cell: &Cell, trial: &String, replicate: &Replicate| {
            let recipe = self.recipe(cell, replicate)?;
            run_trial(replicate, &recipe, cell, name(cell), trial.clone())
        };
        let found = self.side_by_side(waiting, progress, &self.journal, name, trial)?;
        self.records.extend(found);
        Ok(())
    }

    /// Runs cells side by side, and adds each result to a file as it comes.
    fn side_by_side<'n, T: Send + Sync, R: Serialize + Send>(
        &self,
        mut waiting: Vec<(Cell, T)>,
        progress: Progress,
        journal: &Mutex<JournalFile>,
        name: impl Fn(&Cell) -> &'n str + Sync,
        run: impl Fn(&Cell, &T, &Replicate) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        waiting.reverse();
        let queue = Mutex::new((waiting, progress));
        // One worker: takes cells until there are none.
        let work = || -> Result<Vec<R>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().context("a thread for trials")?;
            let mut results = Vec::new();
            let mut held: Option<Arc<Replicate>> = None;
            loop {
                if interrupt::requested() {
                    return Err(failure(Kind::Interrupted, "interrupted between two trials"));
                }
                let Some((cell, own)) = lock(&queue).0.pop() else { return Ok(results) };
                let replicate = self.replicate(cell.replicate)?;
                // The one before is given up only now: it may be the same.
                held.replace(Arc::clone(&replicate));
                let result = match pool.install(|| run(&cell, &own, &replicate)) {
                    Err(error) => {
                        // The others stop after the trial that they are in.
                        lock(&queue).0.clear();
                        return Err(error.context(format!("{}, replicate {}", name(&cell), cell.replicate)));
                    }
                    Ok(result) => result,
                };
                lock(journal).append(&[serde_json::to_string(&result)?])?;
                lock(&queue).1.step(format_args!("{}, replicate {}", name(&cell), cell.replicate));
                results.push(result);
            }
        };
        // A GPU has one queue; on a CPU small fine-tunes gain more from running side by side than from threads of their own.
        let workers = if self.chosen.choice == DeviceChoice::Cpu { self.chosen.threads.max(1) } else { 1 };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<R>>>| {
                thread.join().unwrap_or_else(|_| Err(failure(Kind::Failure, "a trial's thread ended unexpectedly")))
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        let mut all = Vec::new();
        for results in found {
            all.extend(results?);
        }
        Ok(all)
    }

    /// Nested runs that have no result yet.
    fn run_nested(&self, path: &Path) -> Result<()> {
        let mut waiting = nested_cells(self.experiment, self.config, &self.records)?;
        let opened = JournalFile::open(path)?;
        let done: Vec<NestedRun> = parse_lines(&opened.text, path)?;
        waiting.retain(|(_, run)| done.iter().all(|done| done.run != *run));
        if waiting.is_empty() {
            return Ok(());
        }
        let schedules = self.nested_schedules()?;
        let progress = self.output.progress(&format!("{}: nested runs", self.name), waiting.len() as u64);
        let journal = Mutex::new(opened.journal);
        let run = |cell: &Cell, run: &String, replicate: &Replicate| run_nested(replicate, &schedules, cell, run);
        self.side_by_side(waiting, progress, &journal, |_| "a nested run", run).map(drop)
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
        let arm = &self.experiment.arms[cell.arm];
        let window = arm.profile_steps.unwrap_or(cell.steps);
        let profile = self.profiles.get(&cell.steps).and_then(|of| of.get(&window)).unwrap_or(&none);
        arm.recipe(&replicate.bench.base.layout, &self.experiment.plan(cell.arm)?, profile)
    }
}

/// The value behind a lock; one whose holder panicked is as it was left, which is whole here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
