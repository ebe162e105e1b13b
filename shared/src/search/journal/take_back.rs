//! Finding what was told last, so that it can be taken back: Optuna never opens a trial again that has ended, so the file has to
//! end before.

use serde_json::Value;

use super::replay::op;
use super::study::ASKED_KEY;
use super::{Journal, TrialStatus, json};

/// What was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldLast {
    /// Number of the trial.
    pub number: usize,
    /// Bytes of the file before it was told: cut there, the trial runs, and what was begun since is gone.
    pub before: usize,
}

impl Journal {
    /// How a trial of a study was told last, in the text that this journal was read from or has written. None where nothing was
    /// told, where it was another study's, or where more than one trial was begun since, which somebody may run.
    pub fn told_last(&self, text: &str, name: &str) -> Option<ToldLast> {
        let ended = [TrialStatus::Complete.code(), TrialStatus::Failed.code()];
        let (mut before, mut told, mut begun) = (text.len(), None, false);
        for line in text.split_inclusive('\n').rev() {
            let record = json::parse(line.as_bytes()).ok()?;
            let number = |key: &str| record.get(key).and_then(Value::as_u64);
            let is_of = |key: &str| record.get("user_attr").is_some_and(|attributes| attributes.get(key).is_some());
            match (told, number("op_code")?) {
                (None, op::SET_TRIAL_STATE_VALUES) if ended.contains(&number("state")?) => told = number("trial_id"),
                (None, op::CREATE_TRIAL) if !begun => begun = true,
                (None, op::SET_TRIAL_USER_ATTR) => {}
                (None, _) => return None,
                // Its scores; where they were the study's first, what they are called.
                (Some(_), op::SET_TRIAL_USER_ATTR) if number("trial_id") == told && !is_of(ASKED_KEY) => {}
                (Some(_), op::SET_STUDY_USER_ATTR) if is_of("benchmarks") => {}
                (Some(_), _) => break,
            }
            before -= line.len();
        }
        let trial = self.study(name)?.trials.iter().find(|trial| Some(trial.id) == told)?;
        Some(ToldLast { number: trial.number, before })
    }
}
