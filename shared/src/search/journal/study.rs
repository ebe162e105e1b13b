//! A [`Study`] in the journal: the records that are written, and what is read back.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::queue::{FIXED_PARAMS_KEY, TAKEN_KEY, THIRDS, ranks_of_params};
use super::replay::op;
use super::{Journal, JournalError, JournalStudy, JournalTrial, Timestamp, TrialStatus};
use crate::layout::{Layout, ModelOfVersion1, Ranks};
use crate::search::study::{IgnoredTrial, Origin, Study, StudyMetadata, Trial, TrialState};

/// Who writes; Optuna's own workers are called `<uuid>-<thread>`.
pub(super) const WORKER: &str = "hydra";
/// User attribute that marks a study of this project, and the version of its layout.
const VERSION_KEY: &str = "hydra_study";
const VERSION: u64 = 2;
/// The version whose models are decoders with equal layers.
const OLD_VERSION: u64 = 1;
/// User attribute with the time at which a trial was handed out again.
const ASKED_KEY: &str = "asked";
/// Optuna's `StudyDirection.MAXIMIZE`.
const MAXIMIZE: u64 = 2;

/// Why a study of a journal cannot be searched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// Made by another program.
    #[error("study {name:?} was not made by HyDRA (it has no attribute {VERSION_KEY:?}); give the search another name")]
    Foreign {
        /// Name of the study.
        name: String,
    },
    /// A layout of another version.
    #[error("study {name:?} has layout version {found}, this program reads versions {OLD_VERSION} and {VERSION}")]
    Version {
        /// Name of the study.
        name: String,
        /// The version found.
        found: String,
    },
    /// An attribute that is missing or of another form.
    #[error("study {name:?}: attribute {key:?} cannot be read ({message}); was it edited in another program?")]
    Attribute {
        /// Name of the study.
        name: String,
        /// The attribute.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// Objectives other than the one that this project writes.
    #[error("study {name:?} does not maximise one value, so it is no search for a schedule")]
    Direction {
        /// Name of the study.
        name: String,
    },
}

impl Journal {
    /// Begins a study; gives back the lines to append to the file. A study of that name without trials that was never
    /// described, because its beginning was torn or Optuna made it, is taken over.
    ///
    /// # Errors
    /// [`JournalError::DuplicateStudy`].
    pub fn begin_study(&mut self, metadata: &StudyMetadata) -> Result<String, JournalError> {
        self.begin_study_with(metadata, &[])
    }

    /// [`Self::begin_study`] with user attributes of the caller's, which [`JournalStudy::user_attrs`] gives back.
    ///
    /// # Errors
    /// As [`Self::begin_study`].
    pub fn begin_study_with(
        &mut self,
        metadata: &StudyMetadata,
        callers: &[(&str, Value)],
    ) -> Result<String, JournalError> {
        let mut records = Vec::new();
        let id = match self.study(&metadata.name) {
            Some(study) if study.is_undescribed() => study.id,
            Some(_) => return Err(JournalError::DuplicateStudy(metadata.name.clone())),
            None => {
                records.push(json!({
                    "op_code": op::CREATE_STUDY,
                    "worker_id": WORKER,
                    "study_name": metadata.name,
                    "directions": [MAXIMIZE],
                }));
                self.next_study_id()
            }
        };
        // The version comes last: a study whose beginning was torn is recognised as incomplete.
        let attributes = [
            ("layout", value(metadata.layout.as_ref())),
            ("budget", value(&metadata.budget)),
            ("rank_cap", value(&metadata.rank_cap)),
            ("base_rank", value(&metadata.base_rank)),
            ("benchmarks", value(&metadata.benchmarks)),
            ("profile", value(&metadata.profile)),
        ];
        let version = (VERSION_KEY, json!(VERSION));
        let attributes = attributes.into_iter().chain(callers.iter().cloned()).chain([version]);
        records.extend(attributes.map(|(key, value)| study_attribute(id, key, &value)));
        self.append(&records)
    }

    /// Writes down what the journal does not know of a study yet and the metadata do: its benchmarks, its profile. Gives back
    /// the lines to append to the file, none where there is nothing new.
    ///
    /// # Errors
    /// A study that the journal does not hold.
    pub fn describe(&mut self, metadata: &StudyMetadata) -> Result<String, JournalError> {
        let study = self.study(&metadata.name).ok_or_else(|| JournalError::UnknownStudy(metadata.name.clone()))?;
        let is_unknown = |key: &str| match study.user_attrs.get(key) {
            None | Some(Value::Null) => true,
            Some(value) => value.as_array().is_some_and(Vec::is_empty),
        };
        let attributes = [("benchmarks", value(&metadata.benchmarks)), ("profile", value(&metadata.profile))];
        let news = attributes
            .into_iter()
            .filter(|(key, value)| is_unknown(key) && !value.is_null() && !value.as_array().is_some_and(Vec::is_empty));
        let records: Vec<Value> = news.map(|(key, value)| study_attribute(study.id, key, &value)).collect();
        self.append(&records)
    }

    /// Writes down that a trial that runs was handed out again; gives back the line to append to the file.
    ///
    /// # Errors
    /// A study that the journal does not hold, a trial that does not run.
    pub fn ask_again(
        &mut self,
        metadata: &StudyMetadata,
        number: usize,
        at: Timestamp,
    ) -> Result<String, JournalError> {
        let study = self.study(&metadata.name).ok_or_else(|| JournalError::UnknownStudy(metadata.name.clone()))?;
        let entry = study.trials.get(number).filter(|entry| entry.status == TrialStatus::Running);
        let id = entry.map(|entry| entry.id).ok_or_else(|| JournalError::UnexpectedTrial {
            study: metadata.name.clone(),
            number,
            message: "it does not run".to_owned(),
        })?;
        self.append(&[trial_attribute(id, ASKED_KEY, &json!(at.to_string()))])
    }

    /// Begins a trial, in one line; gives back the line to append to the file.
    ///
    /// # Errors
    /// A study that the journal does not hold; a number that is not the next.
    pub fn begin_trial(
        &mut self,
        metadata: &StudyMetadata,
        trial: &Trial,
        at: Timestamp,
    ) -> Result<String, JournalError> {
        let study = self.study(&metadata.name).ok_or_else(|| JournalError::UnknownStudy(metadata.name.clone()))?;
        if trial.number != study.trials.len() {
            return Err(JournalError::UnexpectedTrial {
                study: metadata.name.clone(),
                number: trial.number,
                message: format!("the next number is {}", study.trials.len()),
            });
        }
        let params = mean_ranks(&trial.ranks);
        let distribution = parameter_range(metadata);
        let distributions: Map<String, Value> =
            params.iter().map(|(name, _)| (name.clone(), json!(distribution))).collect();
        let params: Map<String, Value> = params.into_iter().map(|(name, rank)| (name, json!(rank))).collect();
        let record = json!({
            "op_code": op::CREATE_TRIAL,
            "worker_id": WORKER,
            "study_id": study.id,
            "state": TrialStatus::Running.code(),
            "datetime_start": at.to_string(),
            "value": null,
            "values": null,
            "distributions": distributions,
            "params": params,
            "user_attrs": { "ranks": trial.ranks.as_slice(), "origin": value(&trial.origin), "seed": trial.seed },
            "system_attrs": {},
            "intermediate_values": {},
        });
        self.append(&[record])
    }

    /// Ends a trial that was begun; gives back the lines to append to the file. The state comes last: until that line
    /// is whole the trial counts as running, and is run again.
    ///
    /// # Errors
    /// A study or trial that the journal does not hold, or a trial that has ended already, or has not ended now.
    pub fn end_trial(
        &mut self,
        metadata: &StudyMetadata,
        trial: &Trial,
        at: Timestamp,
    ) -> Result<String, JournalError> {
        let unexpected = |message: &str| JournalError::UnexpectedTrial {
            study: metadata.name.clone(),
            number: trial.number,
            message: message.to_owned(),
        };
        let study = self.study(&metadata.name).ok_or_else(|| JournalError::UnknownStudy(metadata.name.clone()))?;
        let entry = study.trials.get(trial.number).ok_or_else(|| unexpected("it was never begun"))?;
        if entry.status != TrialStatus::Running {
            return Err(unexpected("it has ended already"));
        }
        let (status, values) = match (trial.state, trial.objective) {
            (TrialState::Complete, Some(objective)) => (TrialStatus::Complete, json!([objective])),
            (TrialState::Failed, _) => (TrialStatus::Failed, Value::Null),
            _ => return Err(unexpected("it has not ended")),
        };
        let mut attributes: Vec<(String, Value)> =
            trial.scores.iter().map(|(benchmark, score)| (score_key(benchmark), json!(score))).collect();
        attributes.extend(trial.wall_seconds.map(|seconds| ("wall_seconds".to_owned(), json!(seconds))));
        attributes.extend(trial.error.as_ref().map(|error| ("error".to_owned(), json!(error))));
        let id = entry.id;
        let mut records: Vec<Value> =
            attributes.into_iter().map(|(key, value)| trial_attribute(id, &key, &value)).collect();
        records.push(json!({
            "op_code": op::SET_TRIAL_STATE_VALUES,
            "worker_id": WORKER,
            "trial_id": id,
            "state": status.code(),
            "values": values,
            "datetime_complete": at.to_string(),
        }));
        self.append(&records)
    }
}

/// Optuna asserts one attribute per record.
fn study_attribute(id: u64, key: &str, value: &Value) -> Value {
    json!({
        "op_code": op::SET_STUDY_USER_ATTR,
        "worker_id": WORKER,
        "study_id": id,
        "user_attr": { key: value },
    })
}

/// As [`study_attribute`], of a trial.
pub(super) fn trial_attribute(id: u64, key: &str, value: &Value) -> Value {
    json!({
        "op_code": op::SET_TRIAL_USER_ATTR,
        "worker_id": WORKER,
        "trial_id": id,
        "user_attr": { key: value },
    })
}

/// Plain data always becomes JSON; a map with keys that are no text, which none of ours has, would not.
fn value<T: Serialize>(data: &T) -> Value {
    serde_json::to_value(data).unwrap_or(Value::Null)
}

fn score_key(benchmark: &str) -> String {
    format!("score:{benchmark}")
}

/// The distribution of a mean rank, as Optuna has it.
pub(super) fn parameter_range(metadata: &StudyMetadata) -> String {
    let highest = f64::from(metadata.layout.highest_rank(metadata.rank_cap).max(1));
    json!({
        "name": "FloatDistribution",
        "attributes": { "step": null, "low": 1.0, "high": highest, "log": true },
    })
    .to_string()
}

/// What Optuna shows as parameters: the mean rank of every kind, and of the thirds of the layers.
pub(super) fn mean_ranks(ranks: &Ranks) -> Vec<(String, f64)> {
    let layout = ranks.layout();
    let mean = |of: &dyn Fn(usize) -> bool| {
        let of = ranks.as_slice().iter().enumerate().filter(|(module, _)| of(*module));
        let (sum, count) = of.fold((0.0, 0.0), |(sum, count), (_, rank)| (sum + f64::from(*rank), count + 1.0));
        (count > 0.0).then(|| sum / count)
    };
    let kinds = layout.kinds().iter().enumerate();
    let of_kinds = kinds.map(|(at, kind)| (format!("rank_{kind}"), mean(&|module| layout.kind_of(module) == Some(at))));
    let layers = layout.blocks().len().max(1);
    let of_thirds = THIRDS
        .into_iter()
        .enumerate()
        .map(|(third, name)| (format!("rank_{name}"), mean(&|module| layout.block_of(module) * 3 / layers == third)));
    of_kinds.chain(of_thirds).filter_map(|(name, mean)| mean.map(|mean| (name, mean))).collect()
}

impl JournalStudy {
    /// Whether the study was made, or taken over, by this project.
    pub fn is_hydra(&self) -> bool {
        self.user_attrs.contains_key(VERSION_KEY)
    }

    /// Whether nothing but its name and direction would be lost if this project took it over.
    fn is_undescribed(&self) -> bool {
        !self.is_hydra() && self.maximise == [true] && self.trials.is_empty()
    }

    /// The study as the search sees it. A trial that another program added takes part if it has an attribute `ranks`
    /// with a feasible schedule and its scores; one in Optuna's queue is to be run, if its parameters or that attribute give
    /// a schedule. Other entries are listed in [`Study::ignored`].
    ///
    /// # Errors
    /// A study of another program or another version, or one whose attributes were changed.
    pub fn to_study(&self) -> Result<Study, StudyError> {
        let name = || self.name.clone();
        match self.user_attrs.get(VERSION_KEY) {
            None => return Err(StudyError::Foreign { name: name() }),
            Some(version) if ![Some(OLD_VERSION), Some(VERSION)].contains(&version.as_u64()) => {
                return Err(StudyError::Version { name: name(), found: version.to_string() });
            }
            Some(_) => {}
        }
        if self.maximise != [true] {
            return Err(StudyError::Direction { name: name() });
        }
        let metadata = StudyMetadata {
            name: name(),
            layout: Arc::new(self.layout()?),
            budget: self.attribute("budget")?,
            rank_cap: self.attribute("rank_cap")?,
            base_rank: self.attribute("base_rank")?,
            benchmarks: self.attribute("benchmarks")?,
            profile: self.attribute("profile")?,
        };
        let mut study = Study::new(metadata);
        for entry in &self.trials {
            match entry.to_trial(&study.metadata) {
                Ok(trial) => study.trials.push(trial),
                Err(reason) => study.ignored.push(IgnoredTrial { number: entry.number, reason }),
            }
        }
        Ok(study)
    }

    fn layout(&self) -> Result<Layout, StudyError> {
        if self.user_attrs.contains_key("layout") {
            return self.attribute("layout");
        }
        let model: ModelOfVersion1 = self.attribute("model")?;
        Layout::try_from(model).map_err(|error| StudyError::Attribute {
            name: self.name.clone(),
            key: "model".to_owned(),
            message: error.to_string(),
        })
    }

    fn attribute<T: DeserializeOwned>(&self, key: &str) -> Result<T, StudyError> {
        let value = self.user_attrs.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| StudyError::Attribute {
            name: self.name.clone(),
            key: key.to_owned(),
            message: error.to_string(),
        })
    }
}

impl JournalTrial {
    /// When it was last handed out, as far as its time says how far from UTC it is.
    pub fn asked(&self) -> Option<Timestamp> {
        let again: Option<String> = self.attribute(ASKED_KEY);
        Timestamp::parse(again.as_deref().or(self.started.as_deref())?)
    }

    fn attribute<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.user_attrs.get(key).and_then(|value| serde_json::from_value(value.clone()).ok())
    }

    /// The trial as the search sees it, or why it is none.
    fn to_trial(&self, metadata: &StudyMetadata) -> Result<Trial, String> {
        let ranks: Vec<u32> = match (self.attribute("ranks"), self.status) {
            (Some(ranks), _) => ranks,
            (None, TrialStatus::Waiting) => {
                let params = self.system_attrs.get(FIXED_PARAMS_KEY).and_then(Value::as_object).cloned();
                ranks_of_params(metadata, &params.unwrap_or_default())?.as_slice().to_vec()
            }
            (None, _) => {
                let told = self.values.first().map(|value| format!(" (its value is {value})")).unwrap_or_default();
                return Err(format!("it has no attribute \"ranks\" with a rank per module{told}"));
            }
        };
        let (modules, found) = (metadata.layout.len(), ranks.len());
        let ranks = Ranks::new(&metadata.layout, ranks).ok().filter(|ranks| !ranks.as_slice().contains(&0));
        let Some(ranks) = ranks else {
            return Err(format!("its {found} ranks are not one of at least 1 for each of {modules} modules"));
        };
        let used = metadata.budget.used(&ranks);
        if used > metadata.budget.allowed {
            return Err(format!("its schedule uses {used}, the budget allows {}", metadata.budget.allowed));
        }
        let origin = self.attribute("origin").unwrap_or(Origin::Foreign);
        let state = match self.status {
            TrialStatus::Complete => TrialState::Complete,
            TrialStatus::Pruned | TrialStatus::Failed => TrialState::Failed,
            TrialStatus::Running if origin == Origin::Foreign && !self.user_attrs.contains_key(TAKEN_KEY) => {
                return Err("another program runs it".to_owned());
            }
            TrialStatus::Waiting | TrialStatus::Running => TrialState::Running,
        };
        let mut trial = Trial {
            number: self.number,
            ranks,
            state,
            scores: Default::default(),
            objective: None,
            origin,
            seed: self.attribute("seed").unwrap_or(0),
            wall_seconds: self.attribute("wall_seconds"),
            error: None,
        };
        match state {
            TrialState::Running => trial.wall_seconds = None,
            TrialState::Failed => {
                let unsaid = if self.status == TrialStatus::Pruned { "pruned" } else { "no reason was recorded" };
                trial.error = Some(self.attribute("error").unwrap_or_else(|| unsaid.to_owned()));
            }
            TrialState::Complete => {
                if metadata.benchmarks.is_empty() {
                    return Err("the study does not know its benchmarks yet".to_owned());
                }
                for benchmark in &metadata.benchmarks {
                    let score = self.attribute(&score_key(benchmark)).or(match self.values.as_slice() {
                        // One benchmark's score is the value itself.
                        [value] if metadata.benchmarks.len() == 1 => Some(*value),
                        _ => None,
                    });
                    let score: f64 = score.ok_or_else(|| format!("it has no attribute {:?}", score_key(benchmark)))?;
                    if !score.is_finite() {
                        return Err(format!("its score of {benchmark} is not a finite number"));
                    }
                    trial.scores.insert(benchmark.clone(), score);
                }
                trial.objective = trial.mean_score();
            }
        }
        Ok(trial)
    }
}
