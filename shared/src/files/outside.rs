//! Studies of somebody else's training: which modules get ranks, what a trial is given, when its gradient log becomes the
//! profile. Their files hold all that is needed to go on.

mod status;
mod subject;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::conversation::{Conversation, STUDY, StudyFile};
use super::error::{Kind, failure};
use super::gradient_logs::{ReadLogs, configured_log_failure, plan_of};
use super::trial_folder::{TrialFolder, read_scores};
use super::voice::Voice;
use crate::gradients::{GradientProfile, ProfileConfig};
use crate::layout::{Layout, Ranks};
use crate::schedule::{Budget, Plan, PlanConfig, Provenance, RankSchedule, ScheduleKind};
use crate::search::{
    JournalStudy, Origin, Outcome, Pick, Search, SearchConfig, SearchError, Start, Step, StopReason, Study,
    StudyMetadata, Trial, TrialState, starting_schedules, wrong_replicates,
};

pub use self::status::{BestTrial, StudyStatus, status_of};
pub use self::subject::{Subject, SubjectConfig};

/// What is said where nobody gave the rank that sets the budget.
pub const NO_BASE_RANK: &str =
    "the base rank is missing: give --base-rank, the rank of the uniform LoRA that you would use otherwise";
/// Seconds after which a trial that was asked for and never told is asked again, unless somebody says otherwise: a day.
pub const EXPIRES: u64 = 24 * 60 * 60;
/// Attribute of the study with its [`StudySettings`].
const SETTINGS: &str = "settings";

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
    /// Refuses what cannot be searched, before anything is read.
    ///
    /// # Errors
    /// [`Kind::Usage`] for no base rank, a number out of its range.
    pub fn validate(&self) -> Result<()> {
        let message = if self.plan.base_rank == 0 {
            NO_BASE_RANK
        } else if self.plan.min_rank == 0 {
            "plan.min_rank is 0: a search gives every module a rank of at least 1; leave modules out with --exclude"
        } else if !(0.0..1.0).contains(&self.dropout) {
            "dropout must be at least 0 and below 1"
        } else if let Some(message) = wrong_replicates(self.search.replicates) {
            message
        } else {
            return Ok(());
        };
        Err(failure(Kind::Usage, message))
    }

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
    fn starts(
        &self,
        layout: &Arc<Layout>,
        profile: Option<&GradientProfile>,
        output: &dyn Voice,
    ) -> Result<Vec<Start>> {
        let plan = PlanConfig { schedule_kind: None, ..self.plan.clone() };
        let Some(profile) = profile else {
            return Ok(vec![Start { name: "uniform".to_owned(), ranks: Ranks::uniform(layout, plan.base_rank) }]);
        };
        let of = |config: &PlanConfig| plan_of("the profile", profile, layout, config, config.seed());
        let (coarse, fine) = (of(&plan.coarse_only())?, of(&plan)?);
        starts(layout, profile, &coarse, &fine, &self.plan, output)
    }
}

/// The trial that a study recommends.
///
/// # Errors
/// As [`best_of`].
pub fn picked_of<'a>(study: &'a Study, pick: Option<&Pick>) -> Result<&'a Trial> {
    let picked = pick.and_then(|pick| study.trials.iter().find(|trial| trial.number == pick.trial));
    picked.map_or_else(|| best_of(study), Ok)
}

/// The trial of a study with the best mean score.
///
/// # Errors
/// A study without a complete trial: with what the first that failed said.
pub fn best_of(study: &Study) -> Result<&Trial> {
    study.best().ok_or_else(|| {
        let message = match study.trials.iter().find_map(|trial| trial.error.as_deref()) {
            Some(cause) => format!("every trial of the search failed; the first said: {cause}"),
            None => "no trial of the search has been scored yet".to_owned(),
        };
        failure(Kind::Failure, message)
    })
}

/// What a schedule of these modules may use under the choices of a plan.
pub fn budget_of(plan: &PlanConfig, layout: &Layout) -> Budget {
    match plan.budget {
        Some(allowed) => Budget { counting: plan.counting, allowed },
        None => Budget::uniform(layout, plan.base_rank, plan.counting),
    }
}

/// The schedules that a search begins with and the configured one, as far as the budget holds them.
///
/// # Errors
/// As [`starting_schedules`].
pub fn starts(
    layout: &Arc<Layout>,
    profile: &GradientProfile,
    coarse: &Plan,
    fine: &Plan,
    config: &PlanConfig,
    output: &dyn Voice,
) -> Result<Vec<Start>> {
    let mut starts = starting_schedules(coarse, fine, profile, config, config.seed())?;
    let chosen = config.schedule_kind.and_then(ScheduleKind::baseline);
    if let Some(chosen) = chosen.filter(|chosen| starts.iter().all(|start| start.name != chosen.name())) {
        let ranks = chosen.ranks(layout, profile, config.base_rank, config.bounds(), config.seed())?;
        starts.push(Start { name: chosen.name().to_owned(), ranks });
    }
    // A budget given by hand may be below that of the base rank: then those schedules are no candidates.
    let budget = budget_of(config, layout);
    starts.retain(|start| budget.holds(&start.ranks));
    if let Some(chosen) = chosen.filter(|chosen| starts.iter().all(|start| start.name != chosen.name())) {
        output.warn(format_args!("the schedule {chosen} uses more than the budget: the search does not try it"));
    }
    Ok(starts)
}

/// The folder of the trials of a study, beside its file.
pub fn trials_beside(study: &Path) -> PathBuf {
    study.with_file_name("trials")
}

/// A trial to run.
#[derive(Debug, Serialize)]
pub struct AskedTrial {
    /// Its number.
    pub number: usize,
    /// Seed of the training.
    pub seed: u64,
    /// Why its schedule is tried.
    pub origin: Origin,
    /// Whether it was handed out before and expired.
    pub again: bool,
    /// Its folder.
    pub folder: String,
    /// PEFT's configuration.
    pub lora: String,
    /// The schedule's file.
    pub schedule: String,
    /// Where `tell` looks for scores.
    pub result: String,
    /// Whether there are such already, of the same schedule, seed and model.
    pub has_result: bool,
    /// Where `tell` looks for the gradient log that the study awaits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradients: Option<String>,
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
    pub fn begin(path: &Path, settings: StudySettings, subject: Subject, output: &dyn Voice) -> Result<Self> {
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
    pub fn open(path: &Path, output: &dyn Voice) -> Result<Option<Self>> {
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

    /// What asks and tells.
    pub fn conversation(&mut self) -> &mut Conversation {
        &mut self.conversation
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
    pub fn ask(&mut self, output: &dyn Voice) -> Result<Asked> {
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

    /// The trial that is told, which must be running.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a trial that is unknown, waits in the queue, or was told.
    pub fn running(&self, number: usize) -> Result<Trial> {
        let refused = |why: String| failure(Kind::Usage, format!("{}: trial {number} {why}", self.path.display()));
        let trials = &self.study().trials;
        let Some(trial) = trials.iter().find(|trial| trial.number == number) else {
            return Err(refused(match trials.last() {
                Some(last) => {
                    format!("is unknown, the last that was asked for is trial {}; `ask` gives numbers", last.number)
                }
                None => "is unknown, none was asked for yet; `ask` gives one".to_owned(),
            }));
        };
        match trial.state {
            TrialState::Running if self.is_waiting(number) => {
                Err(refused("waits in Optuna's queue; ask for it before it is told".to_owned()))
            }
            TrialState::Running => Ok(trial.clone()),
            TrialState::Complete => {
                let score = trial.objective.unwrap_or(f64::NAN);
                Err(refused(format!("was told already, with {score}; what was told stays")))
            }
            TrialState::Failed => Err(refused("was told already, as failed; what was told stays".to_owned())),
        }
    }

    /// What whoever runs a trial is given; its folder is made.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn asked_trial(&self, trial: &Trial, again: bool) -> Result<AskedTrial> {
        let folder = self.settings().folder(&self.trials(), trial)?;
        let text = |path: PathBuf| path.display().to_string();
        Ok(AskedTrial {
            number: trial.number,
            seed: trial.seed,
            origin: trial.origin.clone(),
            again,
            folder: text(folder.path().to_owned()),
            lora: text(folder.lora()),
            schedule: text(folder.schedule()),
            result: text(folder.result()),
            has_result: read_scores(&folder.result()).is_ok(),
            gradients: self.awaits_profile().then(|| text(folder.gradients())),
        })
    }

    /// Takes down how a trial went. The gradient log is that of the first trial where the study awaits one.
    ///
    /// # Errors
    /// No log where one is awaited, a log that does not fit the model; as [`Conversation::tell`].
    pub fn tell(
        &mut self,
        number: usize,
        outcome: Outcome,
        gradients: &[PathBuf],
        output: &dyn Voice,
    ) -> Result<&Trial> {
        if !self.awaits_profile() {
            return self.conversation.tell(number, outcome);
        }
        if gradients.is_empty() {
            let message = "the gradient log of this trial is what schedules are planned from; tell it with --gradients LOG \
                           (scripts/hydra_grad_logger.py writes one)";
            return Err(failure(Kind::Usage, format!("trial {number}: {message}")));
        }
        let layout = Arc::clone(&self.study().metadata.layout);
        let mut logs = ReadLogs::read(gradients, None, &self.settings.profile, configured_log_failure)?;
        let profile = logs
            .profile(&layout, &self.settings.profile)
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
}

/// An error of telling, with the trial where it is the study that refuses it.
pub fn still_to_tell(number: usize, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<SearchError>() {
        Some(wrong) => failure(Kind::Data, format!("trial {number}: {wrong}; it is still to be told")),
        None => error,
    }
}

/// Whether a trial is the uniform LoRA whose gradient log becomes the profile.
pub fn is_first(trial: &Trial) -> bool {
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
