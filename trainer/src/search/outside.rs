//! Studies of somebody else's training: which modules get ranks, what a trial is given, when its gradient log becomes the
//! profile. Their files hold all that is needed to go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hydra_shared::gradients::{GradientProfile, ProfileConfig, Wish, Wishes};
use hydra_shared::layout::{Catalog, Layout, Module, Ranks};
use hydra_shared::schedule::{PlanConfig, Provenance, RankSchedule};
use hydra_shared::search::{
    JournalStudy, Outcome, Search, SearchConfig, Start, Step, StopReason, Study, StudyMetadata, Trial,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::folder::TrialFolder;
use super::command::template::Template;
use super::command::{CommandTrials, TrialConfig, trials_beside};
use super::conversation::{Conversation, STUDY, StudyFile};
use super::drive::{Evaluator as _, drive};
use super::run::starts;
use super::searched::Searched;
use crate::config::Configuration;
use crate::data::gradient_logs::{
    Profiling, configured_log_failure, names, outside_warning, plan_of, profile_model, profile_of, read_logs,
};
use crate::error::{Kind, failure};
use crate::model::spec;
use crate::output::Output;
use crate::train::experiment::{ExperimentConfig, budget_of, idle_choices, wrong_replicates};

/// What is said where nobody gave the rank that sets the budget.
pub const NO_BASE_RANK: &str =
    "the base rank is missing: give --base-rank, the rank of the uniform LoRA that you would use otherwise";
/// Seconds after which a trial that was asked for and never told is asked again, unless somebody says otherwise: a day.
pub const EXPIRES: u64 = 24 * 60 * 60;
/// Attribute of the study with its [`StudySettings`].
const SETTINGS: &str = "settings";

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
        let message = if self.model.is_empty() {
            "the model is missing: give --model, a config.json, a checkpoint or a preset"
        } else if self.plan.base_rank == 0 {
            NO_BASE_RANK
        } else if self.plan.min_rank == 0 {
            "plan.min_rank is 0: a search gives every module a rank of at least 1; leave modules out with --exclude"
        } else if !(0.0..1.0).contains(&self.dropout) {
            "dropout must be at least 0 and below 1"
        } else if let Some(message) = wrong_replicates(&self.search) {
            message
        } else if self.trial.parallel == 0 || self.trial.timeout == Some(0) {
            "trial.parallel and trial.timeout must each be at least 1"
        } else {
            return Ok(());
        };
        Err(failure(Kind::Usage, message))
    }

    /// What the study keeps of it.
    pub fn settings(&self, expires: u64) -> StudySettings {
        let Self { dropout, profile, plan, search, .. } = self;
        StudySettings { plan: plan.clone(), profile: *profile, search: *search, dropout: *dropout, expires }
    }
}

/// How a study is searched: what its file keeps beside the trials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudySettings {
    /// From profile to schedule.
    pub plan: PlanConfig,
    /// From gradient log to profile.
    pub profile: ProfileConfig,
    /// The search.
    pub search: SearchConfig,
    /// Dropout in PEFT's configurations.
    pub dropout: f64,
    /// Seconds after which a trial that was asked for and never told is asked again.
    pub expires: u64,
}

impl StudySettings {
    /// Whether a trial that was handed out so many seconds ago is asked again.
    pub fn is_expired(&self, seconds: f64) -> bool {
        seconds >= self.expires as f64
    }

    /// The schedule's file for a trial.
    ///
    /// # Errors
    /// Ranks that do not fit the budget.
    pub fn schedule(&self, trial: &Trial) -> Result<RankSchedule> {
        let plan = &self.plan;
        let budget = budget_of(plan, trial.ranks.layout());
        let provenance =
            Provenance { command: "trainer search".to_owned(), inputs: Vec::new(), seed: Some(trial.seed) };
        Ok(RankSchedule::new(trial.ranks.clone(), plan.base_rank, plan.scale, budget, provenance)?)
    }

    /// The folder of a trial in the folder of all.
    ///
    /// # Errors
    /// As [`TrialFolder::make`].
    pub fn folder(&self, trials: &Path, trial: &Trial) -> Result<TrialFolder> {
        TrialFolder::make(trials, trial.number, trial.seed, &self.schedule(trial)?, self.dropout)
    }

    /// The schedules that the search begins with: uniform LoRA alone until there is a profile.
    fn starts(&self, layout: &Arc<Layout>, profile: Option<&GradientProfile>, output: &Output) -> Result<Vec<Start>> {
        let plan = PlanConfig { schedule_kind: None, ..self.plan.clone() };
        let Some(profile) = profile else {
            return Ok(vec![Start { name: "uniform".to_owned(), ranks: Ranks::uniform(layout, plan.base_rank) }]);
        };
        let of = |config: &PlanConfig| plan_of("the profile", profile, layout, config, config.seed());
        let (coarse, fine) = (of(&plan.coarse_only())?, of(&plan)?);
        starts(layout, profile, &coarse, &fine, &self.plan, output)
    }
}

/// What gets ranks, and what is known of its gradients.
pub struct Subject {
    layout: Arc<Layout>,
    profile: Option<GradientProfile>,
}

impl Subject {
    /// Reads the model, and the gradient log where there is one; it decides then which modules get ranks.
    ///
    /// # Errors
    /// As `trainer plan`.
    pub fn read(config: &OutsideConfig, output: &Output) -> Result<Self> {
        let wishes = Wishes::new(&config.include, &config.exclude).map_err(|error| failure(Kind::Usage, error))?;
        let model = spec::load_catalog(&config.model)?;
        let (subject, notes) = if config.gradients.is_empty() {
            let layout = wanted(&model.catalog, &wishes, config)?;
            (Self { layout, profile: None }, model.notes)
        } else {
            let from = Profiling {
                paths: &config.gradients,
                run: config.gradients_run.as_deref(),
                failure: configured_log_failure,
                wishes: &wishes,
                config: &config.profile,
                base_rank: config.plan.base_rank,
            };
            let profiled = profile_model(&from, model)?;
            if let Some(warning) = outside_warning(&profiled.outside) {
                output.warn(warning);
            }
            (Self { layout: profiled.layout, profile: Some(profiled.profile) }, profiled.notes)
        };
        notes.iter().for_each(|note| output.note(format_args!("note: {note}")));
        Ok(subject)
    }

    /// The modules that get ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether there is a profile already.
    pub fn is_profiled(&self) -> bool {
        self.profile.is_some()
    }
}

/// The modules of the decoder that nobody excluded.
fn wanted(catalog: &Catalog, wishes: &Wishes, config: &OutsideConfig) -> Result<Arc<Layout>> {
    let decoder = catalog.decoder();
    if let Some(expression) = config.include.first() {
        let message = "only a gradient log says which modules outside the decoder can get ranks; give --gradients LOG";
        return Err(failure(Kind::Usage, format!("--include {expression}: {message}")));
    }
    let kept = decoder.modules().iter().filter(|module| wishes.of(&module.name) != Wish::Exclude);
    let modules: Vec<Module> = kept.cloned().collect();
    wishes.check().map_err(|error| failure(Kind::Usage, error))?;
    if modules.is_empty() {
        return Err(failure(Kind::Usage, format!("--exclude leaves no module of {}", config.model)));
    }
    let layout = Layout::new(decoder.model(), modules)?;
    Ok(Arc::new(match decoder.decoder_parameters() {
        Some(parameters) => layout.with_decoder_parameters(parameters),
        None => layout,
    }))
}

/// What comes of asking.
pub enum Asked {
    /// A trial to run, and whether it was handed out before.
    Trial(Box<Trial>, bool),
    /// The search is over.
    Done(StopReason),
}

/// A study of somebody else's training, held against other writers.
#[derive(Debug)]
pub struct OutsideStudy {
    conversation: Conversation,
    settings: StudySettings,
    path: PathBuf,
}

impl OutsideStudy {
    /// Begins a study in a new file.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a file that holds one already; as [`Conversation::new`].
    pub fn begin(path: &Path, settings: StudySettings, subject: Subject, output: &Output) -> Result<Self> {
        let Subject { layout, profile } = subject;
        // What cannot be searched is not begun.
        let starts = settings.starts(&layout, profile.as_ref(), output)?;
        let metadata = StudyMetadata {
            name: STUDY.to_owned(),
            budget: budget_of(&settings.plan, &layout),
            layout,
            rank_cap: settings.plan.cap,
            base_rank: settings.plan.base_rank,
            benchmarks: Vec::new(),
            profile,
        };
        Search::new(settings.search, Study::new(metadata.clone()), starts.clone())?;
        let mut file = StudyFile::open(path, output)?;
        if file.study(output)?.is_some() {
            let message = "there is a study in this file already; go on with it, or choose another name";
            return Err(failure(Kind::Usage, format!("{}: {message}", path.display())));
        }
        let study = file.begin(metadata, &[(SETTINGS, serde_json::to_value(&settings)?)])?;
        let conversation = Conversation::new(file, study, settings.search, starts)?;
        Ok(Self { conversation, settings, path: path.to_owned() })
    }

    /// Goes on with the study of a file; none where it was never begun.
    ///
    /// # Errors
    /// A study that is damaged, of another program, or of this program's own training.
    pub fn open(path: &Path, output: &Output) -> Result<Option<Self>> {
        let file = StudyFile::open(path, output)?;
        let Some(study) = file.study(output)? else { return Ok(None) };
        let settings = settings_of(path, file.record())?;
        let starts = settings.starts(&study.metadata.layout, study.metadata.profile.as_ref(), output)?;
        let conversation = Conversation::new(file, study, settings.search, starts)?;
        Ok(Some(Self { conversation, settings, path: path.to_owned() }))
    }

    /// The study so far.
    pub fn study(&self) -> &Study {
        self.conversation.study()
    }

    /// How it is searched.
    pub fn settings(&self) -> &StudySettings {
        &self.settings
    }

    /// Folder of its trials.
    pub fn trials(&self) -> PathBuf {
        trials_beside(&self.path)
    }

    /// Whether the gradient log of the first trial is still to become the profile.
    pub fn awaits_profile(&self) -> bool {
        self.study().metadata.profile.is_none()
    }

    /// Whether a trial stands in Optuna's queue.
    pub fn is_waiting(&self, number: usize) -> bool {
        self.conversation.is_waiting(number)
    }

    /// Whether a trial was asked for so long ago that it is asked again.
    pub fn has_expired(&self, number: usize) -> bool {
        self.conversation.seconds_since_asked(number).is_some_and(|since| self.settings.is_expired(since))
    }

    /// A trial to run: one that expired, or that another program put into the queue, or a new one.
    ///
    /// # Errors
    /// [`Kind::TryAgain`] where one that runs must be told first; as [`Conversation::ask`].
    pub fn ask(&mut self, output: &Output) -> Result<Asked> {
        let awaits = self.awaits_profile();
        let running: Vec<Trial> = self.study().pending().filter(|trial| !awaits || is_first(trial)).cloned().collect();
        for trial in &running {
            if self.conversation.is_waiting(trial.number) {
                self.conversation.take_up(trial, output)?;
                return Ok(Asked::Trial(Box::new(trial.clone()), false));
            }
            if self.has_expired(trial.number) {
                self.conversation.ask_again(trial.number, false)?;
                return Ok(Asked::Trial(Box::new(trial.clone()), true));
            }
        }
        let place = self.path.display().to_string();
        let wait = |why: &str| failure(Kind::TryAgain, format!("{place}: {why}"));
        if let Some(first) = running.first().filter(|_| awaits) {
            let why = format!(
                "trial {} runs, whose gradient log the other schedules are planned from; tell it first, or begin the study \
                 with --gradients LOG",
                first.number
            );
            return Err(wait(&why));
        }
        match self.conversation.ask()? {
            Step::Run(trial) => Ok(Asked::Trial(Box::new(trial), false)),
            Step::Done(reason) if running.is_empty() => Ok(Asked::Done(reason)),
            Step::Done(_) => {
                let numbers: Vec<String> = running.iter().map(|trial| trial.number.to_string()).collect();
                let why = format!("nothing to run before trial {} is told, or expires", numbers.join(" or "));
                Err(wait(&why))
            }
        }
    }

    /// Takes down how a trial went. The gradient log is that of the first trial where the study awaits one.
    ///
    /// # Errors
    /// No log where one is awaited, a log that does not fit the model; as [`Conversation::tell`].
    pub fn tell(&mut self, number: usize, outcome: Outcome, gradients: &[PathBuf], output: &Output) -> Result<&Trial> {
        if !self.awaits_profile() {
            return self.conversation.tell(number, outcome);
        }
        if gradients.is_empty() {
            let message = "the gradient log of this trial is what schedules are planned from; tell it with --gradients LOG \
                           (scripts/hydra_grad_logger.py writes one)";
            return Err(failure(Kind::Usage, format!("trial {number}: {message}")));
        }
        let layout = Arc::clone(&self.study().metadata.layout);
        let (log, _) = read_logs(gradients, None).map_err(configured_log_failure)?;
        let profile = profile_of(&names(gradients), &log, &layout, &self.settings.profile)
            .with_context(|| format!("trial {number}: its gradient log cannot be the profile"))?;
        let starts = self.settings.starts(&layout, Some(&profile), output)?;
        self.conversation.tell_with_profile(number, outcome, profile, starts)
    }

    /// Lets a running trial be asked again at once.
    ///
    /// # Errors
    /// A trial that does not run, a disk that cannot be written.
    pub fn let_go(&mut self, number: usize) -> Result<()> {
        self.conversation.ask_again(number, true)
    }

    /// Runs trials with a command until the search is over.
    ///
    /// # Errors
    /// As [`drive`].
    pub fn search(&mut self, config: &TrialConfig, output: &Output) -> Result<Searched> {
        let (settings, trials) = (self.settings.clone(), self.trials());
        let mut commands = CommandTrials::new(config, output, |trial| settings.folder(&trials, trial))?;
        if self.awaits_profile() {
            commands.needs_gradients = true;
            let begun = self.study().pending().find(|trial| is_first(trial)).cloned();
            let first = match begun {
                Some(first) => first,
                None => match self.conversation.ask()? {
                    Step::Run(first) => first,
                    Step::Done(reason) => return Ok(Searched::new(&self.conversation, reason)),
                },
            };
            commands.start(&first)?;
            let outcome = commands.finish(&first, self.study())?;
            let log = self.settings.folder(&trials, &first)?.gradients();
            let told = self.tell(first.number, outcome, &[log], output)?;
            output.note(super::drive::describe(told));
            commands.needs_gradients = false;
        }
        let reason = drive(&mut self.conversation, &mut commands, config.parallel, output)?;
        Ok(Searched::new(&self.conversation, reason))
    }

    /// The command of the next trial, for a look at it.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn example(config: &TrialConfig, trials: &Path) -> Result<String> {
        let trials = std::path::absolute(trials).with_context(|| trials.display().to_string())?;
        Ok(Template::parse(&config.command)?.line(&TrialFolder::named(&trials, "0123456789abcdef", 0, 0)))
    }
}

/// Whether a trial is the uniform LoRA whose gradient log becomes the profile.
fn is_first(trial: &Trial) -> bool {
    trial.origin.is_start()
}

/// The settings in the record of a study.
///
/// # Errors
/// A study of this program's own training, which has none; settings that were changed.
pub fn settings_of(path: &Path, record: Option<&JournalStudy>) -> Result<StudySettings> {
    let value = record.and_then(|record| record.user_attrs.get(SETTINGS)).cloned().ok_or_else(|| {
        let message = "this study is of `trainer search` without --trial, whose trials nobody else can run; go on with it by \
                       `trainer search --resume`; its best schedule is in best.json beside it";
        failure(Kind::Usage, format!("{}: {message}", path.display()))
    })?;
    serde_json::from_value(value).map_err(|error| {
        let message =
            format!("attribute {SETTINGS:?} of the study cannot be read ({error}); was it edited in another program?");
        failure(Kind::Data, format!("{}: {message}", path.display()))
    })
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
