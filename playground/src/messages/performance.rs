//! A search with the performance model, live: what the page asks of its worker, and what it is told.
//!
//! The page begins a study, its own or a dropped one, and then lets the worker step through it. Every answer holds all that
//! the view shows, so that the page keeps nothing of its own.

use std::sync::Arc;

use hydra_shared::gradients::ProfileConfig;
use hydra_shared::performance::{Estimate, HeldOutError, ModelKind};
use hydra_shared::schedule::{Plan, PlanConfig, PlanError, ScalePolicy, plan};
use hydra_shared::search::{
    Optimum, Origin, Pick, PlainStart, PlainTrial, SearchConfig, Start, StopReason, Study, StudyMetadata,
    SyntheticConfig, SyntheticSurface, TrialState, starting_schedules,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::Session;

/// Most complete trials that models are fitted on in the page. Leaving each out once makes a fit's time grow with their
/// square: 16 take about a second, 64 a quarter of a minute.
pub const MOST_TRIALS: usize = 64;

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Begins a study, in place of the one before. Its starting schedules are measured at once: they need no model.
    Begin(Box<Begin>),
    /// Measures the schedule that was proposed, and proposes the next.
    Step,
    /// Steps until the search is over or stopped. Sent again while it runs, it changes the pause.
    Run {
        /// Pause between two steps, in milliseconds.
        pause: u32,
    },
    /// Stops after the step that is being made.
    Stop,
    /// How a trial of a study that is measured elsewhere went.
    Tell {
        /// Its number.
        number: usize,
        /// Its scores by benchmark, or why it has none.
        scores: Result<Vec<(String, f64)>, String>,
    },
    /// Takes back what was told here last in such a study: its trial is asked again.
    TakeBack,
}

/// A study to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Comes back with every answer, so that answers about an earlier study are told apart.
    pub id: u32,
    /// Where its trials come from.
    pub source: StudySource,
    /// How to search. The search goes on for all of its trials, at most [`MOST_TRIALS`] of them: whoever watches can stop it.
    pub config: SearchConfig,
}

/// Where a study's trials come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StudySource {
    /// A study whose trials are measured elsewhere.
    Journal(Box<Measured>),
    /// A made-up response, whose best schedule is known.
    Synthetic(Synthetic),
}

/// A study whose trials somebody fine-tunes: what is asked next is handed out, scores are told. Its trials stand in its file
/// alone, which the worker reads: the page would only grow by what reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it is about.
    pub about: StudyMetadata,
    /// Its file, Optuna's journal, to which every trial that is handed out or told is appended. Empty for a study that begins.
    pub text: String,
    /// How a study that begins here is searched; none for one that was dropped, whose file says it or which gets proposals
    /// without end.
    pub begun: Option<BegunHere>,
    /// Trials of different schedules.
    pub trials: usize,
    /// Trials that have ended, those with fresh seeds among them.
    pub ended: usize,
    /// Seed of the last trial.
    pub seed: Option<u64>,
    /// How its trials' adapters are made beside their ranks; none where its file does not say it.
    pub adapters: Option<Adapters>,
}

/// How adapters are made beside their ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Adapters {
    /// From rank to scale.
    pub scale: ScalePolicy,
    /// Dropout in PEFT's configurations.
    pub dropout: f64,
}

impl Adapters {
    /// What a study's file says of them: `settings` as `trainer study create` and this page write them.
    fn of_settings(settings: &Value) -> Option<Self> {
        let scale = settings.get("plan")?.get("scale")?.as_str()?.parse().ok()?;
        Some(Self { scale, dropout: settings.get("dropout").and_then(Value::as_f64).unwrap_or(0.0) })
    }
}

/// The file of such a study as it stands now, and what is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The file.
    pub text: String,
    /// Names of the scores.
    pub benchmarks: Vec<String>,
    /// Trials of different schedules.
    pub trials: usize,
    /// Trials that have ended, those with fresh seeds among them.
    pub ended: usize,
    /// The trial that was told here last.
    pub told: Option<usize>,
}

/// What the file of a study says beside its trials, as `trainer study create` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BegunHere {
    /// From profile to schedule.
    pub plan: PlanConfig,
    /// From gradient log to profile.
    pub profile: ProfileConfig,
    /// Dropout in PEFT's configurations.
    pub dropout: f64,
}

impl Measured {
    /// A study of a session's modules and budget, to be measured by whoever fine-tunes.
    ///
    /// # Errors
    /// A session without a plan.
    pub fn of_session(session: &Session) -> Result<Self, PlanError> {
        let (about, _) = about_session(session, OWN_STUDY)?;
        let begun = BegunHere {
            plan: PlanConfig { schedule_kind: None, ..session.plan.clone() },
            profile: session.profiling,
            dropout: session.peft.dropout,
        };
        let adapters = Some(Adapters { scale: begun.plan.scale, dropout: begun.dropout });
        Ok(Self { about, text: String::new(), begun: Some(begun), trials: 0, ended: 0, seed: None, adapters })
    }

    /// A study that was read of its file.
    pub fn of_study(study: &Study, text: String) -> Self {
        Self {
            about: study.metadata.clone(),
            text,
            begun: None,
            trials: study.candidates().count(),
            ended: ended(study),
            seed: study.candidates().last().map(|trial| trial.seed),
            adapters: None,
        }
    }

    /// The study with the settings that its file holds.
    #[must_use]
    pub fn with_settings(self, settings: Option<&Value>) -> Self {
        Self { adapters: settings.and_then(Adapters::of_settings), ..self }
    }
}

/// Trials of a study that have ended.
pub fn ended(study: &Study) -> usize {
    study.trials.iter().filter(|trial| trial.state != TrialState::Running).count()
}

/// Attribute of a study's file with its settings.
pub const SETTINGS: &str = "settings";
/// The name of such a study: the one that `trainer study` looks for.
pub const OWN_STUDY: &str = "hydra";

/// A made-up response and the search on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Synthetic {
    /// Model, budget and profile. The benchmarks are those of the made-up response, whatever it names.
    pub about: StudyMetadata,
    /// How the response is made.
    pub response: SyntheticConfig,
    /// Schedules to start with; those that do not meet the budget are left out.
    pub starts: Vec<PlainStart>,
}

impl Synthetic {
    /// A made-up response of a session's model, searched under its budget and from the schedules that a trainer's search
    /// begins with. Ranks that were set by hand play no part.
    ///
    /// # Errors
    /// A session without a plan.
    pub fn of_session(session: &Session, response: SyntheticConfig) -> Result<Self, PlanError> {
        let (about, starts) = about_session(session, "made up")?;
        let benchmarks = SyntheticSurface::BENCHMARKS.map(str::to_owned).to_vec();
        Ok(Self { about: StudyMetadata { benchmarks, ..about }, response, starts })
    }
}

/// What a search over a session's modules is about, and the schedules that a trainer's search begins with. Ranks that were set
/// by hand play no part.
fn about_session(session: &Session, name: &str) -> Result<(StudyMetadata, Vec<PlainStart>), PlanError> {
    let Session { layout, profile, plan: config, .. } = session;
    let fine: Plan = plan(layout, profile, config)?;
    let coarse = plan(layout, profile, &config.coarse_only())?;
    let starts = starting_schedules(&coarse, &fine, profile, config, 0)?.into_iter().map(Start::into).collect();
    let about = StudyMetadata {
        name: name.to_owned(),
        layout: Arc::clone(layout),
        budget: fine.budget,
        rank_cap: config.cap,
        base_rank: config.base_rank,
        benchmarks: Vec::new(),
        profile: Some(profile.clone()),
    };
    Ok((about, starts))
}

/// What the worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Where the study stands.
    Progress(Box<Progress>),
    /// The study cannot go on.
    Failed {
        /// Which study.
        id: u32,
        /// Why.
        message: String,
    },
}

/// Where a study stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Which study.
    pub id: u32,
    /// The trials that have ended, in order; without the one that is proposed.
    pub trials: Vec<PlainTrial>,
    /// Every model, fitted on the complete trials; empty where they are more than [`MOST_TRIALS`].
    pub fits: Vec<Fit>,
    /// What comes next.
    pub next: Next,
    /// The best schedule within the budget, where the response is made up.
    pub optimum: Option<Optimum<Vec<u32>>>,
    /// This search and its rivals on the same made-up response, from the same starts.
    pub curves: Vec<Curve>,
    /// The schedule that the search recommends so far, and what that rests on.
    pub pick: Option<Pick>,
    /// Scores of schedules that were tried again with fresh seeds, by the number of the trial whose schedule it is.
    pub fresh: Vec<(usize, f64)>,
    /// The score of every trial's schedule without noise, where the response is made up.
    pub truths: Vec<f64>,
    /// The file of the study as it stands now, where it is measured elsewhere.
    pub written: Option<Written>,
    /// Time that the answer took, in milliseconds.
    pub milliseconds: f64,
}

/// A model's fit on the complete trials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The model.
    pub model: ModelKind,
    /// How it went; otherwise why there is none.
    pub outcome: Result<Fitted, String>,
}

/// What a fitted model says of the complete trials, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Its prediction of each trial's mean score, having seen that trial.
    pub seen: Vec<Estimate>,
    /// The prediction by a model that was fitted without that trial.
    pub left_out: Vec<f64>,
    /// Error of the latter.
    pub error: HeldOutError,
}

/// What comes next in a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// A schedule to try.
    Try(Box<Proposed>),
    /// Nothing: the search is over.
    Over(StopReason),
    /// Nothing: the study holds more complete trials than the page fits models on.
    TooManyTrials,
}

/// A schedule to try, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// Number of the trial.
    pub number: usize,
    /// A rank per module.
    pub ranks: Vec<u32>,
    /// Why it was chosen.
    pub origin: Origin,
    /// Whether the study had begun this trial already, so that it is not proposed anew.
    pub begun: bool,
    /// Number of the best trial so far, which it is compared with.
    pub best: Option<usize>,
    /// Seed of its fine-tune.
    pub seed: u64,
}

/// How a search on a made-up response has fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The performance model that proposes; `None` where a proposer of its own does.
    pub model: Option<ModelKind>,
    /// What the page calls what proposes.
    pub title: String,
    /// Whether it is the search that is shown.
    pub shown: bool,
    /// After each trial: the score, without noise, of the schedule that was measured best so far.
    pub best: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_search_begins_with_the_trainers_schedules_whatever_was_set_by_hand() {
        let mut session = Session::default();
        let untouched = Synthetic::of_session(&session, SyntheticConfig::default()).unwrap();
        session.by_hand.insert(3, 1);
        let synthetic = Synthetic::of_session(&session, SyntheticConfig::default()).unwrap();
        assert_eq!(synthetic, untouched);
        let names: Vec<_> = synthetic.starts.iter().map(|start| start.name.as_str()).collect();
        assert_eq!(names, ["uniform", "coarse", "coarse + fine", "linear", "exponential", "norm-proportional"]);
        for start in &synthetic.starts {
            let ranks = hydra_shared::layout::Ranks::new(&session.layout, start.ranks.clone()).unwrap();
            assert!(synthetic.about.budget.holds(&ranks));
        }
        session.plan.budget = Some(1);
        assert!(Synthetic::of_session(&session, SyntheticConfig::default()).is_err());
    }

    #[test]
    fn a_study_keeps_the_scale_and_the_dropout_that_its_file_names() {
        let mut session = Session::default();
        session.plan.scale = ScalePolicy::RsLora { alpha: 24.0 };
        session.peft.dropout = 0.1;
        let begun = Measured::of_session(&session).unwrap();
        let expected = Adapters { scale: session.plan.scale, dropout: 0.1 };
        assert_eq!(begun.adapters, Some(expected));
        let settings = serde_json::to_value(begun.begun.as_ref().unwrap()).unwrap();
        let study = Study::new(begun.about);
        let dropped = Measured::of_study(&study, String::new());
        assert_eq!(dropped.clone().with_settings(None).adapters, None);
        assert_eq!(dropped.with_settings(Some(&settings)).adapters, Some(expected));
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let synthetic = Synthetic::of_session(&Session::default(), SyntheticConfig::default()).unwrap();
        let source = StudySource::Synthetic(synthetic);
        let begin = Request::Begin(Box::new(Begin { id: 1, source, config: SearchConfig::default() }));
        let tell = Request::Tell { number: 3, scores: Ok(vec![("vqa".to_owned(), 61.5)]) };
        for request in [begin, Request::Step, Request::Run { pause: 5 }, Request::Stop, tell, Request::TakeBack] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
    }
}
