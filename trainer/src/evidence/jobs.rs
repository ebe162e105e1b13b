//! An experiment's trials as jobs of an executor: each a folder with all that its fine-tune follows from, and a command of this
//! program that runs it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use hydra_shared::files::trial_folder::{BadResult, TrialFolder};
use hydra_shared::shell::word;
use serde::{Deserialize, Serialize};

use super::file::Cell;
use super::record::Record;
use super::trial::{Replicate, run_trial};
use crate::device::{Chosen, DeviceChoice};
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::model::recipe::Recipe;
use crate::output::Output;
use crate::runs::atomic::write_json;
use crate::search::command::{Over, Scores, Submitter, TrialConfig};
use crate::search::engines::WallClock;
use crate::search::outside::token;
use crate::train::experiment::ExperimentConfig;

/// File in a trial's folder that says what is run.
const TASK: &str = "trial.json";

/// One trial of an experiment, complete in itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task<R> {
    /// The experiment's configuration.
    pub config: ExperimentConfig,
    /// Whether its replicate has pictures of its own.
    pub fresh_pictures: bool,
    /// Name of its arm.
    pub arm: String,
    /// Length, learning rate, replicate, and what it is for.
    pub cell: Cell,
    /// What is trained.
    pub recipe: R,
    /// Its hash.
    pub trial: String,
}

/// Hands trials over to an executor.
pub struct Jobs<'a> {
    submitter: Submitter<'a>,
    trials: PathBuf,
    parallel: usize,
    begun: usize,
    open: usize,
}

impl<'a> Jobs<'a> {
    /// Jobs whose folders lie in `folder`.
    ///
    /// # Errors
    /// An engine that is not there, a folder that cannot be made.
    pub fn new(config: &TrialConfig, folder: &Path, output: &'a Output) -> Result<Self> {
        let engine = config.engine(folder)?;
        let clock = Box::new(WallClock::default());
        let submitter = Submitter::new(config, engine, clock, token(folder)?, output)?.reading(read_result);
        let trials = std::path::absolute(folder.join("trials")).with_context(|| folder.display().to_string())?;
        Ok(Self { submitter, trials, parallel: config.parallel, begun: 0, open: 0 })
    }

    /// Whether another trial may be begun before one ends.
    pub fn has_room(&self) -> bool {
        self.open < self.parallel
    }

    /// Begins a trial.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin(&mut self, task: &Task<Recipe>) -> Result<()> {
        let folder = TrialFolder::named(&self.trials, &task.trial, self.begun, task.cell.replicate);
        let place = || format!("cannot create {}", folder.path().display());
        std::fs::create_dir_all(folder.path()).with_context(place)?;
        write_json(&folder.path().join(TASK), task)?;
        self.submitter.begin(folder)?;
        self.begun += 1;
        self.open += 1;
        Ok(())
    }

    /// Waits for the result of the next trial that ends.
    ///
    /// # Errors
    /// A trial that failed as often as may be, an engine that refuses, an interrupt.
    pub fn next(&mut self) -> Result<Record> {
        let (folder, over) = self.submitter.wait_any()?;
        self.open -= 1;
        match over {
            Over::Scored { .. } => {
                let path = folder.result();
                let record: Record =
                    serde_json::from_str(&input::text(&path)?).or_fail(Kind::Data, || path.display().to_string())?;
                let expected = folder.path().file_name().unwrap_or_default().to_string_lossy();
                if record.trial != expected {
                    let message = format!("{} is the result of the trial {}; delete it", path.display(), record.trial);
                    return Err(failure(Kind::Data, message));
                }
                Ok(record)
            }
            Over::Failed { kind, message } => Err(failure(kind, message)),
        }
    }
}

/// The command that runs the trial of a folder.
///
/// # Errors
/// A program that does not know where it is.
pub fn command(device: DeviceChoice) -> Result<String> {
    let program = std::env::current_exe().context("this program's own path")?;
    let device = device.to_possible_value().map(|value| format!(" --device {}", value.get_name()));
    Ok(format!("{} experiment trial {{folder}}{}", word(&program.to_string_lossy()), device.unwrap_or_default()))
}

/// Runs the trial of a folder and leaves its record there.
///
/// # Errors
/// A folder that holds no trial, what a trial fails with, a disk that cannot be written.
pub fn run_in_folder(folder: &Path, chosen: &Chosen) -> Result<Record> {
    let path = folder.join(TASK);
    let place = || path.display().to_string();
    let task: Task<Recipe<Vec<u32>>> = serde_json::from_str(&input::text(&path)?).or_fail(Kind::Data, place)?;
    let Task { config, fresh_pictures, arm, cell, recipe, trial } = task;
    let replicate = Replicate::open(&config, fresh_pictures, cell.replicate, chosen.clone())?;
    let recipe = recipe.bound(&replicate.bench.base.layout).or_fail(Kind::Data, place)?;
    let record = run_trial(&replicate, &recipe, &cell, &arm, trial)?;
    // The same name as every trial's result has.
    let result = TrialFolder::named(folder.parent().unwrap_or(folder), &record.trial, 0, cell.replicate).result();
    write_json(&folder.join(result.file_name().unwrap_or_default()), &record)?;
    Ok(record)
}

/// The scores of a record; none where the trial diverged, which is a result as well.
fn read_result(path: &Path) -> Result<Scores, BadResult> {
    let bad = |problem: String| BadResult { kind: Kind::Data, problem, again: true };
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => bad("was not written".to_owned()),
        _ => bad(format!("cannot be read: {error}")),
    })?;
    let record: Record = serde_json::from_str(&text)
        .map_err(|error| bad(format!("is no record of a trial, or half of one: {error}")))?;
    Ok(record.measured.map(|measured| measured.scores).unwrap_or_default())
}
