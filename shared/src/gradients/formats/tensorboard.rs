//! TensorBoard event files: TFRecords (length, masked CRC-32C, data, masked CRC-32C) of protocol buffers.
//!
//! The messages follow tensorboard's `event.proto`, `summary.proto`, `histogram.proto` and `tensor.proto`; only the
//! fields that carry scalars and histograms are declared.

use std::io::{BufRead, Read, copy, sink};

use prost::Message;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::path::scalars_key;
use super::super::rows::{FileRows, KeyUse, Names};
use super::super::tfrecord::{masked_crc, starts_tfrecord};
use super::reader::{Reader, Start};

/// Event files.
pub(super) const READER: Reader = Reader { format: Format::TensorBoard, recognises, read };

fn recognises(start: &Start<'_>) -> bool {
    starts_tfrecord(start.bytes)
}

/// TensorFlow's data types that scalars come in.
const DT_FLOAT: i32 = 1;
const DT_DOUBLE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The status of a session that begins: what an earlier one wrote from this step on does not count.
const SESSION_START: i32 = 1;

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
    #[prost(message, optional, tag = "5")]
    histo: Option<HistogramProto>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct HistogramProto {
    #[prost(double, tag = "5")]
    sum_squares: f64,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", tag = "4")]
    tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    double_val: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// What a summary value holds.
enum Reading {
    Exact(f64),
    Estimated(f64),
    Nothing,
}

impl Value {
    fn read(&self) -> Reading {
        if let Some(value) = self.simple_value {
            return Reading::Exact(f64::from(value));
        }
        if let Some(histogram) = &self.histo {
            return Reading::Exact(histogram.sum_squares.sqrt());
        }
        self.tensor.as_ref().map_or(Reading::Nothing, TensorProto::read)
    }
}

impl TensorProto {
    fn read(&self) -> Reading {
        let dims: Vec<i64> = self.tensor_shape.iter().flat_map(|shape| &shape.dim).map(|dim| dim.size).collect();
        let values = self.values();
        match (dims.as_slice(), values.as_slice()) {
            ([] | [1], [value]) => Reading::Exact(*value),
            // TensorFlow 2 writes histograms as rows of left edge, right edge, count.
            ([_, 3], values) if !values.is_empty() => {
                let sum: f64 = values
                    .chunks_exact(3)
                    .map(|row| match row {
                        [low, high, count] => {
                            let (middle, width) = (f64::midpoint(*low, *high), high - low);
                            count * (middle * middle + width * width / 12.0)
                        }
                        _ => 0.0,
                    })
                    .sum();
                Reading::Estimated(sum.sqrt())
            }
            _ => Reading::Nothing,
        }
    }

    fn values(&self) -> Vec<f64> {
        match self.dtype {
            DT_FLOAT if self.float_val.is_empty() => self
                .tensor_content
                .chunks_exact(4)
                .filter_map(|b| b.try_into().ok())
                .map(f32::from_le_bytes)
                .map(f64::from)
                .collect(),
            DT_FLOAT => self.float_val.iter().copied().map(f64::from).collect(),
            DT_DOUBLE if self.double_val.is_empty() => {
                self.tensor_content.chunks_exact(8).filter_map(|b| b.try_into().ok()).map(f64::from_le_bytes).collect()
            }
            DT_DOUBLE => self.double_val.clone(),
            _ => Vec::new(),
        }
    }
}

/// Reads all records. A last record that was cut off, as every live run has it, is noted and left out. Records larger
/// than a line may be (pictures, graphs) are passed over.
fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let limit = rows.limits().line_bytes as u64;
    let mut data = Vec::new();
    let (mut offset, mut number) = (0_u64, 0_u64);
    loop {
        number += 1;
        rows.position = Position::Record(number);
        let damaged = |what: &str| LogProblem::Damaged { byte: offset, what: what.to_owned() };
        let Some(head) = read_exactly::<12>(reader).map_err(|e| rows.error(e.into()))? else { return Ok(()) };
        let Ok(head) = head else { return torn(rows, number) };
        let (length, crc) = head.split_at(8);
        let length_value = length.try_into().map(u64::from_le_bytes).unwrap_or_default();
        if masked_crc(length).to_le_bytes() != crc {
            return Err(rows.error(damaged("the record's length does not match its checksum")));
        }
        let fits = length_value <= limit;
        data.clear();
        let mut body = reader.take(length_value);
        let got = if fits { body.read_to_end(&mut data).map(|n| n as u64) } else { copy(&mut body, &mut sink()) };
        if got.map_err(|e| rows.error(e.into()))? < length_value {
            return torn(rows, number);
        }
        let Some(Ok(crc)) = read_exactly::<4>(reader).map_err(|e| rows.error(e.into()))? else {
            return torn(rows, number);
        };
        if fits {
            if masked_crc(&data).to_le_bytes() != crc {
                return Err(rows.error(damaged("the record does not match its checksum")));
            }
            let event =
                Event::decode(data.as_slice()).map_err(|e| rows.error(damaged(&format!("not an event ({e})"))))?;
            read_event(&event, number, rows)?;
        }
        offset = offset.saturating_add(length_value).saturating_add(16);
    }
}

fn read_event(event: &Event, number: u64, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    if event.session_log.as_ref().is_some_and(|session| session.status == SESSION_START) && event.step >= 0 {
        rows.restart_at(event.step.unsigned_abs());
    }
    let Some(summary) = &event.summary else { return Ok(()) };
    for value in &summary.value {
        let key = match scalars_key(rows.name, &value.tag) {
            Some(key) => rows.key(Names::Metrics, &key)?,
            None => rows.key(Names::Metrics, &value.tag)?,
        };
        match (rows.usage(key), value.read()) {
            (KeyUse::Gradient(target), Reading::Estimated(norm)) => rows.set_estimated(target, norm, None),
            (KeyUse::Gradient(_) | KeyUse::Loss(_) | KeyUse::Global, Reading::Exact(value)) => {
                rows.set_number(key, value)
            }
            _ => Ok(()),
        }
        .map_err(|p| rows.key_error(key, p))?;
    }
    rows.set_step(0, event.step as f64).map_err(|p| rows.error(p))?;
    rows.commit(number)
}

fn torn(rows: &mut FileRows<'_>, number: u64) -> Result<(), LogError> {
    rows.note(format!("the last record (record {number}) is cut off and was left out"));
    Ok(())
}

/// `None` at the end of the file, `Some(Err)` where it ends within the bytes.
fn read_exactly<const N: usize>(reader: &mut dyn BufRead) -> std::io::Result<Option<Result<[u8; N], ()>>> {
    let mut bytes = Vec::with_capacity(N);
    reader.take(N as u64).read_to_end(&mut bytes)?;
    Ok(if bytes.is_empty() { None } else { Some(bytes.try_into().map_err(|_| ())) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradients::{GradientLog, Limits, read, read_with};

    const TAG: &str = "grads/model.layers.0.mlp.up_proj.lora_A.weight";

    fn record(data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u64).to_le_bytes();
        [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
    }

    fn event(step: i64, value: Value) -> Vec<u8> {
        let value = Value { tag: TAG.to_owned(), ..value };
        record(&Event { step, summary: Some(Summary { value: vec![value] }), session_log: None }.encode_to_vec())
    }

    fn scalar(step: i64, value: f32) -> Vec<u8> {
        event(step, Value { simple_value: Some(value), ..Value::default() })
    }

    fn tensor(dtype: i32, dims: &[i64], tensor: TensorProto) -> Value {
        let dim = dims.iter().map(|size| Dim { size: *size }).collect();
        let tensor = TensorProto { dtype, tensor_shape: Some(TensorShape { dim }), ..tensor };
        Value { tensor: Some(tensor), ..Value::default() }
    }

    fn norms(log: &GradientLog) -> Vec<(u64, Option<f64>)> {
        log.steps.iter().map(|s| (s.step, s.gradients[0].a)).collect()
    }

    #[test]
    fn scalars_are_read_in_every_encoding() {
        let file = [
            scalar(1, 0.5),
            event(2, tensor(DT_FLOAT, &[], TensorProto { float_val: vec![0.25], ..TensorProto::default() })),
            event(3, tensor(DT_DOUBLE, &[], TensorProto { double_val: vec![0.125], ..TensorProto::default() })),
            event(
                4,
                tensor(
                    DT_FLOAT,
                    &[1],
                    TensorProto { tensor_content: 2.5_f32.to_le_bytes().to_vec(), ..TensorProto::default() },
                ),
            ),
            event(
                5,
                tensor(
                    DT_DOUBLE,
                    &[],
                    TensorProto { tensor_content: 1.5_f64.to_le_bytes().to_vec(), ..TensorProto::default() },
                ),
            ),
        ]
        .concat();
        let log = read("events", file.as_slice()).unwrap();
        assert_eq!(norms(&log), [(1, Some(0.5)), (2, Some(0.25)), (3, Some(0.125)), (4, Some(2.5)), (5, Some(1.5))]);
        assert!(!log.estimated);
    }

    #[test]
    fn a_histogram_gives_the_exact_norm_by_its_sum_of_squares() {
        let histo = Some(HistogramProto { sum_squares: 6.25 });
        let log = read("events", event(1, Value { histo, ..Value::default() }).as_slice()).unwrap();
        assert_eq!(norms(&log), [(1, Some(2.5))]);
        assert!(!log.estimated);
    }

    #[test]
    fn a_histogram_of_tensorflow_2_gives_an_estimate() {
        let double_val = vec![-1.0, 1.0, 3.0, 2.0, 2.0, 2.0];
        let value = tensor(DT_DOUBLE, &[2, 3], TensorProto { double_val, ..TensorProto::default() });
        let log = read("events", event(1, value).as_slice()).unwrap();
        assert_eq!(norms(&log), [(1, Some(3.0))]);
        assert!(log.estimated);
    }

    #[test]
    fn a_torn_last_record_is_noted_and_one_damaged_before_the_end_is_refused() {
        let file = [scalar(1, 0.5), scalar(2, 0.75)].concat();
        let log = read("events", &file[..file.len() - 2]).unwrap();
        assert_eq!(norms(&log), [(1, Some(0.5))]);
        assert_eq!(log.report.files[0].notes, ["the last record (record 2) is cut off and was left out"]);

        let mut damaged = file.clone();
        damaged[20] ^= 1;
        let error = read("events", damaged.as_slice()).unwrap_err().to_string();
        assert!(error.starts_with("events, record 1: the file is damaged at byte 0"), "{error}");
        let error = read("events", [scalar(1, 0.5), record(b"\xff\xff\xff")].concat().as_slice()).unwrap_err();
        assert!(error.to_string().contains("record 2") && error.to_string().contains("not an event"), "{error}");
    }

    #[test]
    fn records_larger_than_a_line_may_be_are_passed_over() {
        let file = [scalar(1, 0.5), record(&vec![0; 5000]), scalar(2, 0.75)].concat();
        let limits = Limits { line_bytes: 1000, ..Limits::default() };
        let log = read_with("events", file.as_slice(), &limits).unwrap();
        assert_eq!(norms(&log), [(1, Some(0.5)), (2, Some(0.75))]);
        // A length that the file does not have allocates nothing.
        let huge = [scalar(1, 0.5), record(b"")].concat();
        let mut huge = huge[..huge.len() - 16].to_vec();
        let length = u64::MAX.to_le_bytes();
        huge.extend([&length[..], &masked_crc(&length).to_le_bytes(), b"rest"].concat());
        assert_eq!(norms(&read("events", huge.as_slice()).unwrap()), [(1, Some(0.5))]);
    }

    #[test]
    fn a_restart_drops_the_steps_that_the_earlier_session_wrote_from_there_on() {
        let start = Event { step: 2, summary: None, session_log: Some(SessionLog { status: SESSION_START }) };
        let file =
            [scalar(1, 0.5), scalar(2, 0.5), scalar(3, 0.5), record(&start.encode_to_vec()), scalar(2, 0.75)].concat();
        let log = read("events", file.as_slice()).unwrap();
        assert_eq!(norms(&log), [(1, Some(0.5)), (2, Some(0.75))]);
        let note = "the run was started again at step 2: 2 steps from there on, of the time before, were left out";
        assert_eq!((log.report.files[0].notes.as_slice(), log.report.notes.len()), (&[note.to_owned()][..], 0));
    }

    #[test]
    fn add_scalars_puts_the_name_into_the_folder() {
        let value = Value { tag: "grad_norm".to_owned(), simple_value: Some(0.5), ..Value::default() };
        let file = record(
            &Event { step: 4, summary: Some(Summary { value: vec![value] }), session_log: None }.encode_to_vec(),
        );
        let name = "runs/x/grad_norm_model.layers.0.mlp.up_proj.lora_A.weight/events.out.tfevents.1.h.2.0";
        assert_eq!(norms(&read(name, file.as_slice()).unwrap()), [(4, Some(0.5))]);
    }

    #[test]
    fn a_negative_step_is_refused() {
        let error = read("events", scalar(-3, 0.5).as_slice()).unwrap_err().to_string();
        assert!(error.contains("record 1: \"-3\" is not a step"), "{error}");
    }
}
