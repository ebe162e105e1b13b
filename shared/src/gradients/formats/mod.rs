//! One file per format. A new one has a `READER`, and a line in [`READERS`] and in [`Format`](super::Format).

mod csv;
mod flat_json;
pub(super) mod hydra;
mod json_lines;
mod reader;
mod tensorboard;
mod trainer_state;
mod wandb;

use reader::{Reader, Start};

/// All readers, in the order in which they are asked.
const READERS: [Reader; 6] = [
    tensorboard::READER,
    trainer_state::READER,
    json_lines::HYDRA_LOG,
    json_lines::WANDB_HISTORY,
    json_lines::JSON_LINES,
    csv::READER,
];

/// The reader of data that begin so; none for an unknown format.
pub(super) fn reader_of(start: &[u8]) -> Option<&'static Reader> {
    let start = Start::new(start);
    READERS.iter().find(|reader| (reader.recognises)(&start))
}
