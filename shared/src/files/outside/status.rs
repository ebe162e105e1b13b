//! How a study stands.

use std::path::Path;

use serde::Serialize;

use super::settings_of;
use crate::files::conversation::seconds_since_asked;
use crate::search::{JournalStudy, Study, TrialState, TrialStatus};

/// How a study stands: what `trainer study status --json` prints.
#[derive(Debug, Serialize)]
pub struct StudyStatus {
    /// The study's file.
    pub study: String,
    /// Trials of different schedules that were asked for.
    pub trials: usize,
    /// Schedules that were asked for again, with fresh seeds.
    pub replicates: usize,
    /// Told, with scores.
    pub complete: usize,
    /// Told, without.
    pub failed: usize,
    /// Asked for and not told.
    pub running: usize,
    /// Of these, those that are asked again.
    pub expired: usize,
    /// In Optuna's queue.
    pub waiting: usize,
    /// The most schedules that are asked for; none where the file does not say.
    pub most: Option<usize>,
    /// Names of the scores.
    pub benchmarks: Vec<String>,
    /// Whether the first trial's gradient log is still to become the profile.
    pub awaits_profile: bool,
    /// The best one.
    pub best: Option<BestTrial>,
}

/// The trial with the best mean score.
#[derive(Debug, Serialize)]
pub struct BestTrial {
    /// Its number.
    pub trial: usize,
    /// Its mean score.
    pub mean: Option<f64>,
}

/// How the study of a file stands.
pub fn status_of(path: &Path, record: &JournalStudy, study: &Study) -> StudyStatus {
    let settings = settings_of(path, Some(record)).ok();
    let count = |state: TrialState| study.trials.iter().filter(|trial| trial.state == state).count();
    let entries = || study.pending().filter_map(|trial| record.trials.get(trial.number));
    let waiting = entries().filter(|entry| entry.status == TrialStatus::Waiting).count();
    let has_expired = |seconds: f64| settings.as_ref().is_some_and(|settings| settings.is_expired(seconds));
    StudyStatus {
        study: path.display().to_string(),
        trials: study.candidates().count() - waiting,
        replicates: study.trials.len() - study.candidates().count(),
        complete: count(TrialState::Complete),
        failed: count(TrialState::Failed),
        running: count(TrialState::Running) - waiting,
        expired: entries().filter_map(seconds_since_asked).filter(|seconds| has_expired(*seconds)).count(),
        waiting,
        most: settings.as_ref().map(|settings| settings.search.trials),
        benchmarks: study.metadata.benchmarks.clone(),
        awaits_profile: study.metadata.profile.is_none(),
        best: study.best().map(|best| BestTrial { trial: best.number, mean: best.objective }),
    }
}
