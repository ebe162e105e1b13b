//! Scalars over steps: `metrics.jsonl` for programs, a TensorBoard event file for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::events::EventFile;
use super::journal_file::JournalFile;

/// Name of the line file in a run's `logs/`.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Writes scalars twice: one JSON line per step, and events for TensorBoard.
///
/// `metrics.jsonl` holds no wall time, so that an interrupted and resumed run ends in the same bytes as one that never
/// stopped. A NaN or infinite value is `null` there, as JSON has no other word for it.
#[derive(Debug)]
pub struct MetricsLog {
    lines: JournalFile,
    events: EventFile,
}

#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    #[serde(flatten)]
    values: BTreeMap<&'a str, f64>,
}

impl MetricsLog {
    /// Opens the logs in `folder`, which is created where it is missing. Lines of steps after `resume_from` are
    /// dropped: the resumed run writes them again.
    ///
    /// # Errors
    /// A folder or file that cannot be written; lines that are no metrics.
    pub fn open(folder: &Path, resume_from: Option<u64>) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(METRICS_FILE);
        let opened = JournalFile::open(&path)?;
        let lines = match resume_from {
            None => opened.journal,
            Some(last) => {
                let mut kept = String::new();
                for (index, line) in opened.text.lines().enumerate() {
                    let step = serde_json::from_str::<Value>(line)
                        .ok()
                        .and_then(|value| value.get("step")?.as_u64())
                        .with_context(|| format!("{}:{}: this line has no step", path.display(), index + 1))?;
                    if step <= last {
                        kept.push_str(line);
                        kept.push('\n');
                    }
                }
                if kept.len() == opened.text.len() { opened.journal } else { JournalFile::rewrite(&path, &kept)? }
            }
        };
        Ok(Self { lines, events: EventFile::create(folder)? })
    }

    /// Writes the values of one step.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> anyhow::Result<()> {
        let line = Line { step, values: values.iter().copied().collect() };
        self.lines.append(&[serde_json::to_string(&line)?])?;
        self.events.scalars(step, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_one_line_with_null_for_what_is_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        log.scalars(1, &[("loss", 2.5), ("lr", 0.125)]).unwrap();
        log.scalars(2, &[("loss", f64::NAN)]).unwrap();
        let text = fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":2.5,\"lr\":0.125}\n{\"step\":2,\"loss\":null}\n");
    }

    #[test]
    fn resuming_drops_the_lines_that_will_be_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        let mut uninterrupted = MetricsLog::open(whole.path(), None).unwrap();
        for step in 1..=6 {
            uninterrupted.scalars(step, &[("loss", step as f64)]).unwrap();
        }
        let mut first = MetricsLog::open(folder.path(), None).unwrap();
        for step in 1..=5 {
            first.scalars(step, &[("loss", step as f64)]).unwrap();
        }
        drop(first);
        let mut resumed = MetricsLog::open(folder.path(), Some(3)).unwrap();
        for step in 4..=6 {
            resumed.scalars(step, &[("loss", step as f64)]).unwrap();
        }
        let bytes = |folder: &Path| fs::read(folder.join(METRICS_FILE)).unwrap();
        assert_eq!(bytes(folder.path()), bytes(whole.path()));
    }

    #[test]
    fn a_line_that_is_no_metric_is_named_when_resuming() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(METRICS_FILE), "{\"step\":1}\nnonsense\n").unwrap();
        let error = MetricsLog::open(folder.path(), Some(1)).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl:2: this line has no step"), "{error}");
    }
}
