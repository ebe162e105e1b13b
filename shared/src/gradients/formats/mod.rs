//! One file per format. A new one has a `READER`, and a line in [`READERS`] and in [`Format`](super::Format).

pub(super) mod csv;
mod csv_parser;
mod flat_json;
pub(super) mod hydra;
mod json_document;
pub(super) mod json_lines;
mod mlflow_metric;
pub(super) mod number;
#[cfg(feature = "binary-logs")]
mod offline_run;
mod pandas_json;
#[cfg(feature = "binary-logs")]
mod parquet;
mod python_literal;
pub(super) mod reader;
#[cfg(feature = "binary-logs")]
mod sqlite;
#[cfg(feature = "binary-logs")]
mod tensorboard;
mod wandb;

use reader::{Reader, Start};

/// All readers, in the order in which they are asked.
const READERS: &[Reader] = &[
    #[cfg(feature = "binary-logs")]
    sqlite::READER,
    #[cfg(feature = "binary-logs")]
    parquet::READER,
    #[cfg(feature = "binary-logs")]
    tensorboard::READER,
    #[cfg(feature = "binary-logs")]
    offline_run::WANDB,
    #[cfg(feature = "binary-logs")]
    offline_run::SWANLAB,
    json_document::TRAINER_STATE,
    json_lines::HYDRA_LOG,
    json_lines::WANDB_HISTORY,
    json_document::JSON,
    json_lines::JSON_LINES,
    mlflow_metric::READER,
    csv::READER,
];

pub(super) use pandas_json::is_nameless;

/// The reader of data that begin so; none for an unknown format.
pub(super) fn reader_of(start: &[u8]) -> Option<&'static Reader> {
    let start = Start::new(start);
    READERS.iter().find(|reader| (reader.recognises)(&start))
}
