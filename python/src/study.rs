//! Studies: every call opens the file, speaks with it and lets it go, so that several processes can.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hydra_shared::files::conversation::read_study;
use hydra_shared::files::error::{Kind, failure};
use hydra_shared::files::outside::{
    Asked, AskedTrial, OutsideStudy, StudySettings, Subject, SubjectConfig, best_of, picked_of, settings_of, status_of,
    still_to_tell,
};
use hydra_shared::files::trial_folder::{finite, read_scores};
use hydra_shared::search::{JournalStudy, Origin, Outcome, Search, SearchConfig, StopReason, Study, Trial, TrialState};
use indexmap::IndexMap;
use pyo3::prelude::*;
use serde::Serialize;

use crate::model::Model;
use crate::plan::Texts;
use crate::{Heard, Said, call, choices};

/// Begins a study in a file.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "each is an argument of the package's function")]
pub fn study_create(
    py: Python<'_>,
    path: PathBuf,
    model: &str,
    log: Vec<PathBuf>,
    run: Option<String>,
    include: Vec<String>,
    exclude: Vec<String>,
    dropout: f64,
    expires: u64,
    settings: &str,
    search: &str,
) -> PyResult<(String, Said)> {
    call(py, |heard| {
        let model = Model::parse(model)?;
        let search: SearchConfig =
            serde_json::from_str(search).map_err(|error| failure(Kind::Usage, format!("the search: {error}")))?;
        let (choices, _) = choices::read(settings, false)?;
        if expires == 0 {
            return Err(failure(Kind::Usage, "expires must be at least 1 second"));
        }
        let settings = StudySettings { plan: choices.plan, profile: choices.profile, search, dropout, expires };
        settings.validate()?;
        let config = SubjectConfig {
            model: model.name(),
            include: &include,
            exclude: &exclude,
            gradients: &log,
            gradients_run: run.as_deref(),
            profile: &settings.profile,
            base_rank: settings.plan.base_rank,
        };
        let subject = Subject::read(&config, model.read()?, heard)?;
        OutsideStudy::begin(&path, settings.clone(), subject, heard).map(drop)
    })
}

/// Whether a file holds a study that can be spoken with.
#[pyfunction]
pub fn study_exists(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    call(py, |_| {
        if !path.exists() {
            return Ok(false);
        }
        let Some((record, _)) = read_study(&path)? else { return Ok(false) };
        settings_of(&path, Some(&record)).map(|_| true)
    })
}

/// What asking comes to.
#[derive(Serialize)]
struct AskedFor {
    trial: Option<AskedTrial>,
    stopped: Option<StopReason>,
}

/// A trial to run. Where Ctrl-C came meanwhile, it is asked again at once by whoever asks next.
#[pyfunction]
pub fn study_ask(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    let mut number = None;
    let said = call(py, |heard| {
        let mut study = open(&path, heard)?;
        let (trial, again) = match study.ask(heard)? {
            Asked::Trial(trial, again) => (trial, again),
            Asked::Done(reason) => return Ok(AskedFor { trial: None, stopped: Some(reason) }),
        };
        number = Some(trial.number);
        Ok(AskedFor { trial: Some(study.asked_trial(&trial, again)?), stopped: None })
    })?;
    if let (Err(interrupt), Some(number)) = (py.check_signals(), number) {
        study_let_go(py, path, number)?;
        return Err(interrupt);
    }
    Ok(said)
}

/// Lets a running trial be asked again at once.
#[pyfunction]
pub fn study_let_go(py: Python<'_>, path: PathBuf, number: usize) -> PyResult<(String, Said)> {
    call(py, |heard| open(&path, heard)?.let_go(number))
}

/// What telling comes to.
#[derive(Serialize)]
struct Told {
    /// Whether the trial is asked again rather than told, since its gradient log is awaited.
    again: bool,
}

/// Takes down how a trial went: with these scores, as failed, or with what its folder holds.
#[pyfunction]
pub fn study_tell(
    py: Python<'_>,
    path: PathBuf,
    number: usize,
    scores: Option<Vec<(String, f64)>>,
    failed: Option<String>,
    log: Vec<PathBuf>,
    seconds: Option<f64>,
) -> PyResult<(String, Said)> {
    call(py, |heard| {
        let mut study = open(&path, heard)?;
        let trial = study.running(number)?;
        if let Some(seconds) = seconds.filter(|seconds| !(seconds.is_finite() && *seconds >= 0.0)) {
            return Err(failure(Kind::Usage, format!("seconds {seconds} is no time; give 0 or more")));
        }
        let awaits = study.awaits_profile();
        if awaits && failed.is_some() {
            study.let_go(number)?;
            return Ok(Told { again: true });
        }
        let folder = study.settings().folder(&study.trials(), &trial)?;
        let outcome = match failed {
            Some(error) => Outcome::Failed { error, wall_seconds: seconds },
            None => {
                let (place, scores) = match scores {
                    Some(given) => {
                        let given: IndexMap<String, Option<f64>> =
                            given.into_iter().map(|(task, score)| (task, Some(score))).collect();
                        ("values".to_owned(), finite(given))
                    }
                    None => (folder.result().display().to_string(), read_scores(&folder.result())),
                };
                let scores = scores.map_err(|bad| {
                    let message =
                        format!("trial {number}: {place} {}; tell finite scores, or state=\"fail\"", bad.problem);
                    failure(bad.kind, message)
                })?;
                Outcome::Complete { scores, wall_seconds: seconds }
            }
        };
        let mut log = log;
        if awaits && log.is_empty() && folder.gradients().exists() {
            log.push(folder.gradients());
        } else if !awaits && !log.is_empty() {
            return Err(failure(Kind::Usage, "log has no effect: the study has its profile already; leave it out"));
        }
        study.tell(number, outcome, &log, heard).map_err(|error| still_to_tell(number, error))?;
        Ok(Told { again: false })
    })
}

/// A trial as Python has it.
#[derive(Serialize)]
struct Frozen<'a> {
    number: usize,
    state: &'static str,
    value: Option<f64>,
    values: &'a IndexMap<String, f64>,
    origin: &'a Origin,
    seed: u64,
    seconds: Option<f64>,
    error: Option<&'a str>,
    ranks: IndexMap<&'a str, u32>,
    schedule: Texts,
}

impl<'a> Frozen<'a> {
    fn new(trial: &'a Trial, is_waiting: bool, settings: &StudySettings) -> Result<Self> {
        Ok(Self {
            number: trial.number,
            state: match trial.state {
                TrialState::Running if is_waiting => "WAITING",
                TrialState::Running => "RUNNING",
                TrialState::Complete => "COMPLETE",
                TrialState::Failed => "FAIL",
            },
            value: trial.objective,
            values: &trial.scores,
            origin: &trial.origin,
            seed: trial.seed,
            seconds: trial.wall_seconds,
            error: trial.error.as_deref(),
            ranks: trial.ranks.iter().map(|(module, rank)| (module.name.as_str(), rank)).collect(),
            schedule: Texts::of(&settings.schedule(trial)?, settings.dropout, None)?,
        })
    }
}

/// All trials.
#[pyfunction]
pub fn study_trials(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    call(py, |_| {
        let (record, study) = read(&path)?;
        let settings = settings_of(&path, Some(&record))?;
        let is_waiting = |number: usize| {
            record.trials.get(number).is_some_and(|entry| entry.status == hydra_shared::search::TrialStatus::Waiting)
        };
        let frozen: Result<Vec<_>> =
            study.trials.iter().map(|trial| Frozen::new(trial, is_waiting(trial.number), &settings)).collect();
        serde_json::to_value(frozen?).context("trials")
    })
}

/// The trial with the best mean score.
#[pyfunction]
pub fn study_best(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    call(py, |_| {
        let (record, study) = read(&path)?;
        let settings = settings_of(&path, Some(&record))?;
        serde_json::to_value(Frozen::new(best_of(&study)?, false, &settings)?).context("the best trial")
    })
}

/// The recommended trial, and what that rests on.
#[pyfunction]
pub fn study_pick(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    call(py, |_| {
        let (record, study) = read(&path)?;
        let settings = settings_of(&path, Some(&record))?;
        let pick = Search::new(settings.search, study.clone(), Vec::new())?.pick();
        let mut picked = serde_json::to_value(pick).context("the recommendation")?;
        let trial = Frozen::new(picked_of(&study, pick.as_ref())?, false, &settings)?;
        picked["trial"] = serde_json::to_value(trial).context("the recommended trial")?;
        Ok(picked)
    })
}

/// How many trials there are, and how they stand.
#[pyfunction]
pub fn study_status(py: Python<'_>, path: PathBuf) -> PyResult<(String, Said)> {
    call(py, |_| {
        let (record, study) = read(&path)?;
        Ok(status_of(&path, &record, &study))
    })
}

/// The study to speak with.
fn open(path: &Path, heard: &Heard) -> Result<OutsideStudy> {
    // Opening would make it.
    if !path.is_file() {
        return Err(nothing(path));
    }
    OutsideStudy::open(path, heard)?.ok_or_else(|| nothing(path))
}

/// The study to look at.
fn read(path: &Path) -> Result<(JournalStudy, Study)> {
    if !path.is_file() {
        return Err(nothing(path));
    }
    read_study(path)?.ok_or_else(|| nothing(path))
}

fn nothing(path: &Path) -> anyhow::Error {
    failure(Kind::Data, format!("{}: there is no study; begin one with create_study", path.display()))
}
