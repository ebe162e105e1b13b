//! Reading a journal: replays its records as Optuna does.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json;

/// Optuna's operation codes (`JournalOperation`).
pub(super) mod op {
    pub const CREATE_STUDY: u64 = 0;
    pub const DELETE_STUDY: u64 = 1;
    pub const SET_STUDY_USER_ATTR: u64 = 2;
    pub const SET_STUDY_SYSTEM_ATTR: u64 = 3;
    pub const CREATE_TRIAL: u64 = 4;
    pub const SET_TRIAL_PARAM: u64 = 5;
    pub const SET_TRIAL_STATE_VALUES: u64 = 6;
    pub const SET_TRIAL_INTERMEDIATE_VALUE: u64 = 7;
    pub const SET_TRIAL_USER_ATTR: u64 = 8;
    pub const SET_TRIAL_SYSTEM_ATTR: u64 = 9;
    pub const DISCARD_TRIALS: u64 = 10;
}

/// Why a journal could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A line before the last is damaged, or a record lacks what its operation needs.
    #[error(
        "line {line} of the study journal is damaged ({message}); restore the file from a copy, or delete the line to \
         lose that record alone"
    )]
    Corrupt {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A study of that name exists already.
    #[error("the journal already holds a study named {0:?}; resume it or choose another name")]
    DuplicateStudy(String),
    /// A record for a study that the journal does not hold.
    #[error("the journal holds no study named {0:?}")]
    UnknownStudy(String),
    /// A record for a trial that the journal does not hold, or begins in another order.
    #[error("trial {number} is not the one the journal expects of study {study:?}: {message}")]
    UnexpectedTrial {
        /// Name of the study.
        study: String,
        /// Number of the trial.
        number: usize,
        /// What was expected.
        message: String,
    },
}

/// Optuna's `TrialState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrialStatus {
    /// Being evaluated.
    Running,
    /// Has its values.
    Complete,
    /// Stopped early.
    Pruned,
    /// Ended without values.
    Failed,
    /// In Optuna's queue (`enqueue_trial`).
    Waiting,
}

impl TrialStatus {
    fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Running,
            1 => Self::Complete,
            2 => Self::Pruned,
            3 => Self::Failed,
            4 => Self::Waiting,
            _ => return None,
        })
    }

    /// The number that Optuna writes.
    pub(super) fn code(self) -> u64 {
        match self {
            Self::Running => 0,
            Self::Complete => 1,
            Self::Pruned => 2,
            Self::Failed => 3,
            Self::Waiting => 4,
        }
    }

    fn is_finished(self) -> bool {
        matches!(self, Self::Complete | Self::Pruned | Self::Failed)
    }
}

/// A trial as the journal tells it, whoever wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalTrial {
    /// Position among all trials of the file.
    pub id: u64,
    /// Position in its study.
    pub number: usize,
    /// Where it stands.
    pub status: TrialStatus,
    /// Objective values; empty unless complete. NaN where Python wrote one.
    pub values: Vec<f64>,
    /// Parameters in their outer form: numbers, or the chosen category.
    pub params: IndexMap<String, Value>,
    /// User attributes.
    pub user_attrs: Map<String, Value>,
    /// Optuna's own attributes.
    pub system_attrs: Map<String, Value>,
    /// When it began, as written.
    pub started: Option<String>,
    /// When it ended, as written.
    pub finished: Option<String>,
}

/// A study as the journal tells it, whoever wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalStudy {
    /// Position among all studies of the file, deleted ones counted.
    pub id: u64,
    /// Name; unique in the file.
    pub name: String,
    /// Per objective whether it is maximised.
    pub maximise: Vec<bool>,
    /// User attributes.
    pub user_attrs: Map<String, Value>,
    /// Optuna's own attributes.
    pub system_attrs: Map<String, Value>,
    /// Trials in the order of their numbers.
    pub trials: Vec<JournalTrial>,
}

/// Everything that a journal file says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Journal {
    /// Studies that were not deleted, in the order of their creation.
    pub studies: Vec<JournalStudy>,
    /// Bytes of the file up to its last whole record: truncate the file to this length before appending.
    pub whole_bytes: usize,
    /// Bytes after that, of a line that was being written when its writer died.
    pub torn_bytes: usize,
    lines: usize,
    studies_created: u64,
    /// Study and number of every trial, at its id.
    trials: Vec<(u64, usize)>,
}

impl Journal {
    /// Reads a journal.
    ///
    /// A last line without its end, or one that is no JSON, is what a writer leaves that dies while it writes: it is
    /// left out and counted in [`Journal::torn_bytes`].
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] for any other damage.
    pub fn parse(bytes: &[u8]) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            match json::parse(line) {
                Ok(record) => journal.apply(&record)?,
                Err(_) if after.is_empty() => break,
                Err(error) => return Err(journal.corrupt(format!("not JSON: {error}"))),
            }
            journal.whole_bytes += line.len();
            rest = after;
        }
        journal.torn_bytes = bytes.len() - journal.whole_bytes;
        Ok(journal)
    }

    /// A study by its name.
    pub fn study(&self, name: &str) -> Option<&JournalStudy> {
        self.studies.iter().find(|s| s.name == name)
    }

    /// Id of the next study.
    pub(super) fn next_study_id(&self) -> u64 {
        self.studies_created
    }

    /// Takes over records that were made for this journal, and gives back their text.
    pub(super) fn append(&mut self, records: &[Value]) -> Result<String, JournalError> {
        let mut text = String::new();
        for record in records {
            self.apply(record)?;
            text.push_str(&record.to_string());
            text.push('\n');
        }
        self.whole_bytes += text.len();
        Ok(text)
    }

    fn corrupt(&self, message: String) -> JournalError {
        JournalError::Corrupt { line: self.lines + 1, message }
    }

    fn apply(&mut self, record: &Value) -> Result<(), JournalError> {
        self.apply_record(record).map_err(|message| self.corrupt(message))?;
        self.lines += 1;
        Ok(())
    }

    fn apply_record(&mut self, record: &Value) -> Result<(), String> {
        match number(record, "op_code")? {
            op::CREATE_STUDY => self.create_study(record),
            op::DELETE_STUDY => {
                let id = number(record, "study_id")?;
                self.studies.retain(|s| s.id != id);
                Ok(())
            }
            op::SET_STUDY_USER_ATTR => {
                let attributes = object(record, "user_attr")?;
                if let Some(study) = self.study_mut(number(record, "study_id")?) {
                    study.user_attrs.extend(attributes);
                }
                Ok(())
            }
            op::SET_STUDY_SYSTEM_ATTR => {
                let attributes = object(record, "system_attr")?;
                if let Some(study) = self.study_mut(number(record, "study_id")?) {
                    study.system_attrs.extend(attributes);
                }
                Ok(())
            }
            op::CREATE_TRIAL => self.create_trial(record),
            op::SET_TRIAL_PARAM => {
                let name = text(record, "param_name")?;
                let internal = field(record, "param_value_internal")?;
                let value = outer_value(&text(record, "distribution")?, internal)?;
                if let Some(trial) = self.unfinished_trial(record)? {
                    trial.params.insert(name, value);
                }
                Ok(())
            }
            op::SET_TRIAL_STATE_VALUES => self.set_state(record),
            op::SET_TRIAL_USER_ATTR => {
                let attributes = object(record, "user_attr")?;
                if let Some(trial) = self.unfinished_trial(record)? {
                    trial.user_attrs.extend(attributes);
                }
                Ok(())
            }
            op::SET_TRIAL_SYSTEM_ATTR => {
                let attributes = object(record, "system_attr")?;
                if let Some(trial) = self.unfinished_trial(record)? {
                    trial.system_attrs.extend(attributes);
                }
                Ok(())
            }
            op::SET_TRIAL_INTERMEDIATE_VALUE | op::DISCARD_TRIALS => Ok(()),
            other => Err(format!("operation {other} is unknown, the file may come from a newer Optuna")),
        }
    }

    fn study_mut(&mut self, id: u64) -> Option<&mut JournalStudy> {
        self.studies.iter_mut().find(|s| s.id == id)
    }

    /// The trial that a record is about; `None` where Optuna would pass over the record too.
    fn unfinished_trial(&mut self, record: &Value) -> Result<Option<&mut JournalTrial>, String> {
        let id = number(record, "trial_id")?;
        let Some(&(study, number)) = usize::try_from(id).ok().and_then(|id| self.trials.get(id)) else {
            return Ok(None);
        };
        let trial = self.study_mut(study).and_then(|s| s.trials.get_mut(number));
        Ok(trial.filter(|t| !t.status.is_finished()))
    }

    fn create_study(&mut self, record: &Value) -> Result<(), String> {
        let name = text(record, "study_name")?;
        let directions = field(record, "directions")?.as_array().ok_or("directions is no list")?;
        let maximise = directions.iter().map(|d| d.as_u64() == Some(2)).collect();
        if self.study(&name).is_none() {
            let id = self.studies_created;
            self.studies_created += 1;
            let (user_attrs, system_attrs) = (Map::new(), Map::new());
            self.studies.push(JournalStudy { id, name, maximise, user_attrs, system_attrs, trials: Vec::new() });
        }
        Ok(())
    }

    fn create_trial(&mut self, record: &Value) -> Result<(), String> {
        let study = number(record, "study_id")?;
        let status = match record.get("state").filter(|s| !s.is_null()) {
            Some(state) => status(state)?,
            None => TrialStatus::Running,
        };
        let mut params = IndexMap::new();
        if let Some(internal) = record.get("params").and_then(Value::as_object) {
            let distributions = object(record, "distributions")?;
            for (name, value) in internal {
                let distribution = distributions.get(name).and_then(Value::as_str);
                let distribution = distribution.ok_or_else(|| format!("parameter {name:?} has no distribution"))?;
                params.insert(name.clone(), outer_value(distribution, value)?);
            }
        }
        let values = match (record.get("values"), record.get("value")) {
            (Some(Value::Array(values)), _) => values.iter().map(float).collect(),
            (_, Some(value)) if !value.is_null() => vec![float(value)],
            _ => Vec::new(),
        };
        let stamp = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        let (started, finished) = (stamp("datetime_start"), stamp("datetime_complete"));
        let attributes = |key: &str| record.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let (user_attrs, system_attrs) = (attributes("user_attrs"), attributes("system_attrs"));
        let id = self.trials.len() as u64;
        let Some(owner) = self.study_mut(study) else {
            return Ok(());
        };
        let number = owner.trials.len();
        owner.trials.push(JournalTrial {
            id,
            number,
            status,
            values,
            params,
            user_attrs,
            system_attrs,
            started,
            finished,
        });
        self.trials.push((study, number));
        Ok(())
    }

    fn set_state(&mut self, record: &Value) -> Result<(), String> {
        let status = status(field(record, "state")?)?;
        let values = record.get("values").and_then(Value::as_array).map(|v| v.iter().map(float).collect());
        let stamp = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        let (started, finished) = (stamp("datetime_start"), stamp("datetime_complete"));
        if let Some(trial) = self.unfinished_trial(record)? {
            trial.status = status;
            trial.started = started.or(trial.started.take());
            trial.finished = finished;
            trial.values = values.unwrap_or_default();
        }
        Ok(())
    }
}

fn field<'a>(record: &'a Value, key: &str) -> Result<&'a Value, String> {
    record.get(key).ok_or_else(|| format!("{key} is missing"))
}

fn number(record: &Value, key: &str) -> Result<u64, String> {
    field(record, key)?.as_u64().ok_or_else(|| format!("{key} is no whole number"))
}

fn text(record: &Value, key: &str) -> Result<String, String> {
    field(record, key)?.as_str().map(str::to_owned).ok_or_else(|| format!("{key} is no text"))
}

fn object(record: &Value, key: &str) -> Result<Map<String, Value>, String> {
    field(record, key)?.as_object().cloned().ok_or_else(|| format!("{key} is no object"))
}

fn status(state: &Value) -> Result<TrialStatus, String> {
    state.as_u64().and_then(TrialStatus::from_code).ok_or_else(|| format!("trial state {state} is unknown"))
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Optuna's `to_external_repr`: a category's index becomes the category, numbers stay.
fn outer_value(distribution: &str, internal: &Value) -> Result<Value, String> {
    let distribution: Value =
        serde_json::from_str(distribution).map_err(|error| format!("the distribution is not JSON: {error}"))?;
    let choices = distribution.pointer("/attributes/choices").and_then(Value::as_array);
    match choices {
        Some(choices) => {
            let index = internal.as_f64().filter(|i| *i >= 0.0).map(|i| i as usize);
            let chosen = index.and_then(|i| choices.get(i)).cloned();
            chosen.ok_or_else(|| format!("category {internal} is not among the choices"))
        }
        None => Ok(internal.clone()),
    }
}
