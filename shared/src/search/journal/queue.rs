//! Trials that another program put into Optuna's queue (`enqueue_trial`): the schedules that they ask for, and taking them out.

use serde_json::{Map, Value, json};

use super::replay::op;
use super::study::{WORKER, mean_ranks, parameter_range, trial_attribute};
use super::{Journal, JournalError, Timestamp, TrialStatus};
use crate::layout::Ranks;
use crate::search::study::{StudyMetadata, Trial};

/// Optuna's system attribute with the parameters of a queued trial.
pub(super) const FIXED_PARAMS_KEY: &str = "fixed_params";
/// User attribute of a trial that this program has taken out of the queue.
pub(super) const TAKEN_KEY: &str = "taken_by";
/// The thirds of the layers.
pub(super) const THIRDS: [&str; 3] = ["early", "middle", "late"];

/// The schedule that parameters ask for: `rank_q`, …, the rank of a kind (without it the base rank), times what `rank_early`,
/// `rank_middle` and `rank_late` give a third of the layers beside the others. Ranks stay between 1 and what a module can use,
/// and where all together take more than the budget they are lowered in proportion until they do not.
///
/// # Errors
/// Parameters that are none of these or no numbers above 0, none at all, a budget below rank 1 everywhere.
pub(super) fn ranks_of_params(metadata: &StudyMetadata, params: &Map<String, Value>) -> Result<Ranks, String> {
    let layout = &metadata.layout;
    let kinds: Vec<String> = layout.kinds().iter().map(|kind| format!("rank_{kind}")).collect();
    let thirds = THIRDS.map(|third| format!("rank_{third}"));
    if params.is_empty() {
        return Err("it names no ranks: give it the parameters rank_q, …, or the attribute \"ranks\"".to_owned());
    }
    if let Some(other) = params.keys().find(|key| !kinds.contains(key) && !thirds.contains(key)) {
        return Err(format!("its parameter {other:?} is none of {}, {}", kinds.join(", "), thirds.join(", ")));
    }
    let given = |key: &str| params.get(key).and_then(Value::as_f64);
    if let Some((key, value)) = params.iter().find(|(_, value)| !value.as_f64().is_some_and(|rank| rank > 0.0)) {
        return Err(format!("its parameter {key:?} is {value}, expected a rank above 0"));
    }
    let of_thirds: Vec<f64> = thirds.iter().filter_map(|third| given(third)).collect();
    let between = of_thirds.iter().sum::<f64>() / (of_thirds.len().max(1) as f64);
    let blocks = layout.blocks().len().max(1);
    let wanted: Vec<f64> = (0..layout.len())
        .map(|module| {
            let kind = layout.kind_of(module).and_then(|kind| kinds.get(kind)).and_then(|kind| given(kind));
            let third = thirds.get(layout.block_of(module) * 3 / blocks).and_then(|third| given(third));
            let base = if kind.is_none() && !of_thirds.is_empty() { between } else { f64::from(metadata.base_rank) };
            kind.unwrap_or(base) * third.map_or(1.0, |third| third / between)
        })
        .collect();
    within_budget(metadata, &wanted)
}

/// The wanted ranks, rounded; lowered in proportion where they take more than the budget.
fn within_budget(metadata: &StudyMetadata, wanted: &[f64]) -> Result<Ranks, String> {
    let at = |share: f64| {
        let mut wanted = wanted.iter();
        Ranks::from_fn(&metadata.layout, |module| {
            let highest = module.highest_rank(metadata.rank_cap).max(1);
            let rank = wanted.next().map_or(1.0, |rank| (rank * share).round());
            // Between 1 and a whole number of 32 bits.
            rank.clamp(1.0, f64::from(highest)) as u32
        })
    };
    let holds = |share: f64| metadata.budget.used(&at(share)) <= metadata.budget.allowed;
    if holds(1.0) {
        return Ok(at(1.0));
    }
    if !holds(0.0) {
        return Err(format!("the budget of {} is below rank 1 in every module", metadata.budget.allowed));
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if holds(middle) { low = middle } else { high = middle }
    }
    Ok(at(low))
}

impl Journal {
    /// Whether a trial stands in Optuna's queue.
    pub fn is_waiting(&self, metadata: &StudyMetadata, number: usize) -> bool {
        let entry = self.study(&metadata.name).and_then(|study| study.trials.get(number));
        entry.is_some_and(|entry| entry.status == TrialStatus::Waiting)
    }

    /// Takes a trial out of Optuna's queue, to run it with the ranks of `trial`; gives back the lines to append to the file. The
    /// state comes last: until that line is whole the trial still waits.
    ///
    /// # Errors
    /// A study or trial that the journal does not hold, or a trial that does not wait.
    pub fn take_waiting(
        &mut self,
        metadata: &StudyMetadata,
        trial: &Trial,
        at: Timestamp,
    ) -> Result<String, JournalError> {
        let study = self.study(&metadata.name).ok_or_else(|| JournalError::UnknownStudy(metadata.name.clone()))?;
        let entry = study.trials.get(trial.number).filter(|entry| entry.status == TrialStatus::Waiting);
        let id = entry.map(|entry| entry.id).ok_or_else(|| JournalError::UnexpectedTrial {
            study: metadata.name.clone(),
            number: trial.number,
            message: "it does not wait in Optuna's queue".to_owned(),
        })?;
        let distribution = parameter_range(metadata);
        let mut records: Vec<Value> = mean_ranks(&trial.ranks)
            .into_iter()
            .map(|(name, rank)| {
                json!({
                    "op_code": op::SET_TRIAL_PARAM,
                    "worker_id": WORKER,
                    "trial_id": id,
                    "param_name": name,
                    "param_value_internal": rank,
                    "distribution": distribution,
                })
            })
            .collect();
        let attributes =
            [("ranks", json!(trial.ranks.as_slice())), ("seed", json!(trial.seed)), (TAKEN_KEY, json!(WORKER))];
        records.extend(attributes.into_iter().map(|(key, value)| trial_attribute(id, key, &value)));
        records.push(json!({
            "op_code": op::SET_TRIAL_STATE_VALUES,
            "worker_id": WORKER,
            "trial_id": id,
            "state": TrialStatus::Running.code(),
            "values": null,
            "datetime_start": at.to_string(),
        }));
        self.append(&records)
    }
}
