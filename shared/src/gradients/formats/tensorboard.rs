//! TensorBoard event files: TFRecords (length, masked CRC-32C, data, masked CRC-32C) of protocol buffers.
//!
//! The messages follow tensorboard's `event.proto`, `summary.proto`, `histogram.proto` and `tensor.proto`; only the
//! fields that carry scalars and histograms are declared.

use std::io::{BufRead, Read, copy, sink};

use prost::Message;

use super::super::builder::{FileRows, KeyUse, Names};
use super::super::error::{LogError, LogProblem, Position};

/// TensorFlow's data types that scalars come in.
const DT_FLOAT: i32 = 1;
const DT_DOUBLE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(int64, tag = "2")]
    step: i64,
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

/// TFRecord's checksum.
pub(in super::super) fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Reads all records. A last record that was cut off, as every live run has it, is noted and left out. Records larger
/// than a line may be (pictures, graphs) are passed over.
pub(in super::super) fn read(reader: &mut dyn BufRead, rows: &mut FileRows<'_>) -> Result<(), LogError> {
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
    let Some(summary) = &event.summary else { return Ok(()) };
    for value in &summary.value {
        let key = rows.key(Names::Metrics, &value.tag)?;
        match (rows.usage(key), value.read()) {
            (KeyUse::Gradient { slot, matrix }, Reading::Exact(norm)) => rows.set(slot, matrix, norm),
            (KeyUse::Gradient { slot, matrix }, Reading::Estimated(norm)) => {
                rows.estimated(None);
                rows.set(slot, matrix, norm)
            }
            (KeyUse::Loss(rank), Reading::Exact(loss)) => {
                rows.set_loss(rank, loss);
                Ok(())
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
