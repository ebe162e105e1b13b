//! Scalars over steps: `metrics.jsonl` for programs, a TensorBoard event file for people.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use tboard::EventWriter;

use super::journal_file::JournalFile;

/// Name of the line file in a run's `logs/`.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Writes scalars twice: one JSON line per step, and events for TensorBoard.
///
/// `metrics.jsonl` holds no wall time, so that an interrupted and resumed run ends in the same bytes as one that never
/// stopped. A NaN or infinite value is `null` there, as JSON has no other word for it.
pub struct MetricsLog {
    lines: JournalFile,
    events: EventWriter<File>,
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
        let events = EventWriter::create(folder)
            .map_err(|error| anyhow::anyhow!("cannot create an event file in {}: {error}", folder.display()))?;
        Ok(Self { lines, events })
    }

    /// Writes the values of one step.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> anyhow::Result<()> {
        let line = Line { step, values: values.iter().copied().collect() };
        self.lines.append(&[serde_json::to_string(&line)?])?;
        for (name, value) in values {
            self.events
                .write_scalar(i64::try_from(step).unwrap_or(i64::MAX), name, *value as f32)
                .map_err(|error| anyhow::anyhow!("cannot write the event file: {error}"))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for MetricsLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsLog").field("lines", &self.lines).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tboard::EventReader;
    use tboard::tensorboard::event::What;
    use tboard::tensorboard::summary::value::Value as Scalar;

    use super::*;

    fn event_files(folder: &Path) -> Vec<std::path::PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().contains("tfevents"))
            .collect()
    }

    #[test]
    fn each_step_is_one_line_and_the_events_hold_the_same_values() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        log.scalars(1, &[("loss", 2.5), ("lr", 0.125)]).unwrap();
        log.scalars(2, &[("loss", f64::NAN)]).unwrap();
        let text = fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":2.5,\"lr\":0.125}\n{\"step\":2,\"loss\":null}\n");

        let files = event_files(folder.path());
        let reader = EventReader::open(&files[0]).unwrap();
        let mut found = Vec::new();
        for event in reader {
            let event = event.unwrap();
            if let Some(What::Summary(summary)) = event.what {
                for value in summary.value {
                    if let Some(Scalar::SimpleValue(scalar)) = value.value {
                        found.push((event.step, value.tag, scalar.to_bits()));
                    }
                }
            }
        }
        let expected = [(1, "loss", 2.5_f32), (1, "lr", 0.125), (2, "loss", f32::NAN)];
        assert_eq!(found, expected.map(|(step, tag, value)| (step, tag.to_owned(), value.to_bits())));
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
}
