//! TensorBoard event files: records of protocol buffers, each framed by its length and two checksums.
//!
//! The fields follow tensorboard's `event.proto` and `summary.proto`. The writer crates need `protoc` to build or bring
//! an image library; scalars need neither.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hydra_shared::gradients::tfrecord;
use prost::Message;

/// What the first record of every event file says.
const FILE_VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An event file that scalars are appended to.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// Makes a new event file in `folder`. TensorBoard reads all of a folder as one run.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        let seconds = now() as u64;
        // Two files of one second need different names, and TensorBoard reads them in the order of their names.
        let taken = fs::read_dir(folder).map_or(0, Iterator::count);
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.{host}.{}.{taken}", std::process::id()));
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = Self { file };
        events.write(&Event { file_version: Some(FILE_VERSION.to_owned()), wall_time: now(), ..Event::default() })?;
        Ok(events)
    }

    /// Appends the values of one step.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> anyhow::Result<()> {
        let value = |(tag, value): &(&str, f64)| Value { tag: (*tag).to_owned(), simple_value: Some(*value as f32) };
        let summary = Summary { value: values.iter().map(value).collect() };
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.write(&Event { wall_time: now(), step, file_version: None, summary: Some(summary) })
    }

    fn write(&mut self, event: &Event) -> anyhow::Result<()> {
        // One write, so that a crash leaves a whole record or a torn last one, which readers expect.
        self.file.write_all(&tfrecord(&event.encode_to_vec())).context("cannot write the event file")
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use hydra_shared::gradients::{Format, read};

    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_reader_of_gradient_logs() {
        let folder = tempfile::tempdir().unwrap();
        let a = "gradients/model.layers.0.self_attn.q_proj.lora_A.default.weight";
        let b = "gradients/model.layers.0.self_attn.q_proj.lora_B.default.weight";
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalars(1, &[(a, 0.5), (b, 0.25), ("loss", 2.0)]).unwrap();
        events.scalars(7, &[(a, 1.5), (b, 0.75), ("loss", 1.0)]).unwrap();

        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let log = read("events", BufReader::new(File::open(path).unwrap())).unwrap();
        assert_eq!(log.report.files[0].format, Some(Format::TensorBoard));
        let found: Vec<_> =
            log.steps.iter().map(|step| (step.step, step.loss, step.gradients[0].a, step.gradients[0].b)).collect();
        let expected = [(1, Some(2.0), Some(0.5), Some(0.25)), (7, Some(1.0), Some(1.5), Some(0.75))];
        assert_eq!(found, expected);
    }

    #[test]
    fn two_files_of_one_second_do_not_collide() {
        let folder = tempfile::tempdir().unwrap();
        let _first = EventFile::create(folder.path()).unwrap();
        let _second = EventFile::create(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
