//! The files that W&B (`run-ID.wandb`) and swanlab (`run-ID.swanlab`) leave of a run without their servers: protocol buffers in
//! LevelDB's log. The messages follow `wandb_internal.proto` and swanlab's `record.proto`; only what carries metrics and the
//! run's name is declared.

use std::io::BufRead;

use jiter::Jiter;
use prost::Message;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::leveldb_log::{Next, Records};
use super::super::rows::{FileRows, Names};
use super::flat_json::read_value;
use super::reader::Reader;

/// `:W&B`, 0xBEE1, version 0.
const WANDB_START: &[u8; 7] = b":W&B\xe1\xbe\x00";
/// `:SWL`, 0xE1D6, without the version.
const SWANLAB_START: &[u8; 6] = b":SWL\xd6\xe1";

/// W&B's.
pub(super) const WANDB: Reader = Reader {
    format: Format::Wandb,
    recognises: |start| start.bytes.starts_with(&WANDB_START[..6]),
    read: |reader, _, rows| read(reader, rows, read_wandb),
};

/// swanlab's.
pub(super) const SWANLAB: Reader = Reader {
    format: Format::Swanlab,
    recognises: |start| start.bytes.starts_with(SWANLAB_START),
    read: |reader, _, rows| read(reader, rows, read_swanlab),
};

#[derive(Clone, PartialEq, Message)]
struct WandbRecord {
    #[prost(message, optional, tag = "2")]
    history: Option<History>,
    #[prost(message, optional, tag = "17")]
    run: Option<WandbRun>,
}

#[derive(Clone, PartialEq, Message)]
struct History {
    #[prost(message, repeated, tag = "1")]
    item: Vec<HistoryItem>,
    #[prost(message, optional, tag = "2")]
    step: Option<HistoryStep>,
}

#[derive(Clone, PartialEq, Message)]
struct HistoryStep {
    #[prost(int64, tag = "1")]
    num: i64,
}

#[derive(Clone, PartialEq, Message)]
struct HistoryItem {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, repeated, tag = "2")]
    nested_key: Vec<String>,
    #[prost(string, tag = "16")]
    value_json: String,
}

#[derive(Clone, PartialEq, Message)]
struct WandbRun {
    #[prost(string, tag = "1")]
    run_id: String,
    #[prost(string, tag = "8")]
    display_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct SwanlabRecord {
    #[prost(message, optional, tag = "10")]
    start: Option<SwanlabStart>,
    #[prost(message, optional, tag = "13")]
    scalar: Option<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct SwanlabStart {
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "10")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    value: Option<ScalarValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScalarValue {
    #[prost(double, tag = "1")]
    number: f64,
}

/// Step of W&B's own counter, which every row has; a user's own step is better.
const OWN_STEP: u8 = u8::MAX;

type ReadRecord = fn(&[u8], u64, &mut FileRows<'_>) -> Result<(), LogError>;

/// Reads all records. A last one that was cut off, as every live run has it, is noted and left out.
fn read(reader: &mut dyn BufRead, rows: &mut FileRows<'_>, read_record: ReadRecord) -> Result<(), LogError> {
    let limit = rows.limits().line_bytes;
    let mut records = Records::new(reader, limit).map_err(|e| rows.error(e.into()))?;
    let mut number = 0;
    loop {
        number += 1;
        rows.position = Position::Record(number);
        match records.next().map_err(|p| rows.error(p))? {
            Next::Record(record) => read_record(&record, number, rows)?,
            Next::TooLarge => rows.count("records are larger than a line may be and were left out"),
            Next::Torn => {
                rows.note(format!("the last record (record {number}) is cut off and was left out"));
                return Ok(());
            }
            Next::End => return Ok(()),
        }
    }
}

fn read_wandb(record: &[u8], number: u64, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let WandbRecord { history, run } = WandbRecord::decode(record).map_err(|e| not_a_record(&e, rows))?;
    if let Some(run) = run {
        rows.set_file_run(&run.display_name, &run.run_id);
    }
    let Some(history) = history else { return Ok(()) };
    for item in &history.item {
        let nested = item.nested_key.join("/");
        let key = rows.key(Names::Metrics, if nested.is_empty() { &item.key } else { &nested })?;
        let mut json = Jiter::new(item.value_json.as_bytes()).with_allow_inf_nan();
        read_value(&mut json, key, rows, 0)?;
    }
    if let Some(step) = history.step {
        rows.set_step(OWN_STEP, step.num as f64).map_err(|p| rows.error(p))?;
    }
    rows.commit(number)
}

fn read_swanlab(record: &[u8], number: u64, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let SwanlabRecord { start, scalar } = SwanlabRecord::decode(record).map_err(|e| not_a_record(&e, rows))?;
    if let Some(start) = start {
        rows.set_file_run(&start.name, &start.id);
    }
    let Some(Scalar { key, step, value: Some(value) }) = scalar else { return Ok(()) };
    let key = rows.key(Names::Metrics, &key)?;
    rows.set_number(key, value.number).map_err(|p| rows.key_error(key, p))?;
    rows.set_step(0, step as f64).map_err(|p| rows.error(p))?;
    rows.commit(number)
}

fn not_a_record(error: &prost::DecodeError, rows: &FileRows<'_>) -> LogError {
    rows.error(LogProblem::Table(format!("the record is none ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::leveldb_log::leveldb_log;
    use crate::gradients::{GradientLog, read};

    const KEY: &str = "model.layers.0.mlp.up_proj.lora_A.weight";

    fn item(keys: &[&str], value_json: &str) -> HistoryItem {
        HistoryItem {
            nested_key: keys.iter().map(|key| (*key).to_owned()).collect(),
            value_json: value_json.to_owned(),
            ..HistoryItem::default()
        }
    }

    fn row(step: i64, item: Vec<HistoryItem>) -> Vec<u8> {
        let history = Some(History { item, step: Some(HistoryStep { num: step }) });
        WandbRecord { history, run: None }.encode_to_vec()
    }

    fn norms(log: &GradientLog) -> Vec<(u64, f64)> {
        log.steps.iter().map(|s| (s.step, s.gradients[0].a.unwrap())).collect()
    }

    #[test]
    fn a_wandb_file_is_read_flat_nested_and_with_histograms_over_many_blocks() {
        let flat = format!("grad_norm/{KEY}");
        let mut records: Vec<Vec<u8>> = (1..900)
            .map(|step| {
                row(step, vec![item(&[&flat], &format!("{step}")), item(&["note"], &format!("{:?}", "x".repeat(100)))])
            })
            .collect();
        let log = read("log", leveldb_log(WANDB_START, &records).as_slice()).unwrap();
        assert_eq!((log.steps.len(), norms(&log)[898]), (899, (899, 899.0)));
        assert_eq!(log.report.files[0].format, Some(Format::Wandb));
        records = vec![row(3, vec![item(&["grad_norms", KEY], "0.5"), item(&["train/global_step"], "7")])];
        assert_eq!(norms(&read("log", leveldb_log(WANDB_START, &records).as_slice()).unwrap()), [(7, 0.5)]);
        let watched = format!("gradients/{KEY}");
        records = vec![row(
            3,
            vec![
                item(&[&watched, "_type"], "\"histogram\""),
                item(&[&watched, "bins"], "[0.5,0.5]"),
                item(&[&watched, "values"], "[4]"),
            ],
        )];
        let log = read("log", leveldb_log(WANDB_START, &records).as_slice()).unwrap();
        assert_eq!((norms(&log), log.estimated), (vec![(3, 1.0)], true));
        records = vec![row(3, vec![item(&[&watched], r#"{"_type":"histogram","values":[4],"bins":[0.5,0.5]}"#)])];
        assert_eq!(norms(&read("log", leveldb_log(WANDB_START, &records).as_slice()).unwrap()), [(3, 1.0)]);
    }

    #[test]
    fn a_wandb_file_that_is_cut_gives_its_whole_rows_and_a_damaged_one_is_refused() {
        let key = format!("grad_norm/{KEY}");
        let records: Vec<Vec<u8>> = (1..4).map(|step| row(step, vec![item(&[&key], "0.5")])).collect();
        let file = leveldb_log(WANDB_START, &records);
        let log = read("log", &file[..file.len() - 3]).unwrap();
        assert_eq!(norms(&log), [(1, 0.5), (2, 0.5)]);
        assert_eq!(log.report.files[0].notes, ["the last record (record 3) is cut off and was left out"]);
        let mut damaged = file;
        damaged[30] ^= 1;
        let error = read("log", damaged.as_slice()).unwrap_err().to_string();
        assert!(error.contains("log, record 1: the file is damaged at byte 7"), "{error}");
    }

    #[test]
    fn a_swanlab_file_has_one_record_a_value() {
        let scalar = |step, number| {
            let scalar = Scalar { key: format!("grad_norm/{KEY}"), step, value: Some(ScalarValue { number }) };
            SwanlabRecord { start: None, scalar: Some(scalar) }.encode_to_vec()
        };
        let file = leveldb_log(b":SWL\xd6\xe1\x02", &[scalar(1, 0.5), scalar(2, 0.25)]);
        assert_eq!(norms(&read("log", file.as_slice()).unwrap()), [(1, 0.5), (2, 0.25)]);
    }
}
