//! Studies of somebody else's training: their configuration, and the loop over the commands that run their trials.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hydra_shared::files::digest;
use hydra_shared::files::outside::{EXPIRES, OutsideStudy, StudySettings, SubjectConfig, is_first};
use hydra_shared::files::trial_folder::TrialFolder;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::{Catalog, Layout};
use hydra_shared::schedule::PlanConfig;
use hydra_shared::search::{SearchConfig, Step, Trial};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::template::Template;
use super::command::{CommandTrials, Submitter, TrialConfig};
use super::drive::{Evaluator as _, drive};
use super::engines::WallClock;
use super::searched::Searched;
use crate::config::Configuration;
use crate::error::{Kind, failure};
use crate::output::Output;
use crate::runs::atomic::write_file;
use crate::runs::utc_now;
use crate::train::experiment::{ExperimentConfig, idle_choices};

/// File that holds what begins the names of a search's jobs.
const TOKEN: &str = "jobs.txt";
/// Letters of that.
const TOKEN_LENGTH: usize = 8;

/// The configuration of a search over somebody else's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutsideConfig {
    /// The model that is trained, as `trainer plan` takes it.
    pub model: String,
    /// Modules outside the decoder that get ranks, too, by expressions.
    pub include: Vec<String>,
    /// Modules that get none.
    pub exclude: Vec<String>,
    /// Gradient log that gives the profile; without one that of the first trial.
    pub gradients: Vec<PathBuf>,
    /// The run to read, where the log holds several.
    pub gradients_run: Option<String>,
    /// Dropout in PEFT's configurations.
    pub dropout: f64,
    /// From gradient log to profile.
    pub profile: ProfileConfig,
    /// From profile to schedule.
    pub plan: PlanConfig,
    /// The search.
    pub search: SearchConfig,
    /// The command that runs a trial.
    pub trial: TrialConfig,
}

impl Default for OutsideConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            gradients: Vec::new(),
            gradients_run: None,
            dropout: 0.0,
            profile: ProfileConfig::default(),
            // None until it is given.
            plan: PlanConfig { base_rank: 0, ..PlanConfig::default() },
            search: SearchConfig::default(),
            trial: TrialConfig::default(),
        }
    }
}

impl Configuration for OutsideConfig {
    fn modern(path: &str, value: &Value) -> Option<Vec<(String, Value)>> {
        ExperimentConfig::modern(path, value)
    }

    fn older_keys() -> Vec<String> {
        ExperimentConfig::older_keys()
    }

    fn idle(&self) -> Vec<(String, String)> {
        idle_choices(&self.plan, self.profile, &self.search)
    }
}

impl OutsideConfig {
    /// Refuses what cannot be searched, before anything is read.
    ///
    /// # Errors
    /// [`Kind::Usage`] for no model, no base rank, a number out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_empty() {
            let message = "the model is missing: give --model, a config.json, a checkpoint or a preset";
            return Err(failure(Kind::Usage, message));
        }
        self.settings(EXPIRES).validate()?;
        self.trial.validate()
    }

    /// What the study is about.
    pub fn subject(&self) -> SubjectConfig<'_> {
        SubjectConfig {
            model: &self.model,
            include: &self.include,
            exclude: &self.exclude,
            gradients: &self.gradients,
            gradients_run: self.gradients_run.as_deref(),
            profile: &self.profile,
            base_rank: self.plan.base_rank,
        }
    }

    /// What the study keeps of it.
    pub fn settings(&self, expires: u64) -> StudySettings {
        let Self { dropout, profile, plan, search, .. } = self;
        StudySettings { plan: plan.clone(), profile: *profile, search: *search, dropout: *dropout, expires }
    }
}

/// Runs the trials of a study with a command until the search is over. `folder` is what engines may keep something in.
///
/// # Errors
/// As [`drive`], and an engine that is not there.
pub fn search(study: &mut OutsideStudy, config: &TrialConfig, folder: &Path, output: &Output) -> Result<Searched> {
    let (settings, trials) = (study.settings().clone(), study.trials());
    let clock = Box::new(WallClock::default());
    let folder_of = |trial: &Trial| settings.folder(&trials, trial);
    let submitter = Submitter::new(config, config.engine(folder)?, clock, token(folder)?, output)?;
    let mut commands = CommandTrials::new(submitter, output, folder_of);
    search_with(study, &mut commands, config.parallel, output)
}

/// Runs the trials of a study, so many at a time, until the search is over.
///
/// # Errors
/// As [`drive`].
pub fn search_with(
    study: &mut OutsideStudy,
    commands: &mut CommandTrials<'_>,
    parallel: usize,
    output: &Output,
) -> Result<Searched> {
    let (settings, trials) = (study.settings().clone(), study.trials());
    if study.awaits_profile() {
        commands.need_gradients(true);
        let begun = study.study().pending().find(|trial| is_first(trial)).cloned();
        let first = match begun {
            Some(first) => first,
            None => match study.conversation().ask()? {
                Step::Run(first) => first,
                Step::Done(reason) => return Ok(Searched::new(study.conversation(), reason)),
            },
        };
        commands.start(&first)?;
        let outcome = commands.finish(&first, study.study())?;
        let log = settings.folder(&trials, &first)?.gradients();
        let told = study.tell(first.number, outcome, &[log], output)?;
        output.note(super::drive::describe(told));
        commands.need_gradients(false);
    }
    let reason = drive(study.conversation(), commands, parallel, output)?;
    Ok(Searched::new(study.conversation(), reason))
}

/// What begins the names of a search's jobs: made by chance once, so that a search that has the name of one that was deleted
/// has none of its jobs.
///
/// # Errors
/// A folder that cannot be written.
pub fn token(folder: &Path) -> Result<String> {
    let path = folder.join(TOKEN);
    if let Some(token) = std::fs::read_to_string(&path).ok().filter(|token| token.len() == TOKEN_LENGTH) {
        return Ok(token);
    }
    let mut token = digest::sha256_hex(format!("{} {} {}", utc_now(), std::process::id(), path.display()).as_bytes());
    token.truncate(TOKEN_LENGTH);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    write_file(&path, token.as_bytes())?;
    Ok(token)
}

/// The command of the next trial, for a look at it.
///
/// # Errors
/// As [`Template::parse`].
pub fn example(config: &TrialConfig, trials: &Path) -> Result<String> {
    let trials = std::path::absolute(trials).with_context(|| trials.display().to_string())?;
    Ok(Template::parse(&config.command)?.line(&TrialFolder::named(&trials, "0123456789abcdef", 0, 0)))
}

/// Refuses a model that a study is not about, by the shapes of its projections.
///
/// # Errors
/// [`Kind::Data`], with the first module that differs.
pub fn check_model(name: &str, study: &Layout, catalog: &Catalog) -> Result<()> {
    let of_layers =
        study.modules().iter().filter(|module| module.layer.is_some() && module.kind.projection().is_some());
    for module in of_layers.filter(|module| catalog.other(&module.name).is_none()) {
        let mut models = catalog.decoder().modules().iter();
        let differs = match models.find(|other| (other.layer, &other.kind) == (module.layer, &module.kind)) {
            None => "is in no layer of it".to_owned(),
            Some(other) if other.shape() != module.shape() => {
                format!("is {}×{} there, and {}×{} in the study", other.d_in, other.d_out, module.d_in, module.d_out)
            }
            Some(_) => continue,
        };
        let message = format!(
            "the schedules of this study are for another model: {} {differs}; restore the model that it began with, or begin a \
             new search",
            module.name
        );
        return Err(failure(Kind::Data, format!("--model {name}: {message}")));
    }
    Ok(())
}
