//! Parquet tables, as pandas and trackers' exports write them: one column a parameter, or one row a value; W&B's histograms are
//! groups in a cell.

use std::io::{BufRead, Read};

use parquet::data_type::AsBytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, List, Row};

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::histogram::Histogram;
use super::super::rows::{FileRows, KeyId, KeyUse, Names, Target};
use super::flat_json::set_text;
use super::number::Number;
use super::reader::Reader;

/// Tables.
pub(super) const READER: Reader =
    Reader { format: Format::Parquet, recognises: |start| start.bytes.starts_with(b"PAR1"), read };

/// Bytes of the largest file: the table is held in memory.
const MAX_BYTES: u64 = 1 << 30;

fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| rows.error(e.into()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(rows.error(LogProblem::FileTooLarge { limit: MAX_BYTES }));
    }
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(|e| rows.error(problem(&e)))?;
    check_size(&file, rows)?;
    let schema = file.metadata().file_metadata().schema_descr().root_schema();
    let columns: Vec<KeyId> =
        schema.get_fields().iter().map(|field| rows.key(Names::Metrics, field.name())).collect::<Result<_, _>>()?;
    let table = file.get_row_iter(None).map_err(|e| rows.error(problem(&e)))?;
    for (number, row) in (1..).zip(table) {
        rows.position = Position::Row(number);
        let row = row.map_err(|e| rows.error(problem(&e)))?;
        for (key, (_, field)) in columns.iter().zip(row.get_column_iter()) {
            read_cell(*key, field, rows).map_err(|p| rows.key_error(*key, p))?;
        }
        rows.commit(number)?;
    }
    Ok(())
}

/// Refuses what says of itself that it unpacks to more than is allowed.
fn check_size(file: &SerializedFileReader<bytes::Bytes>, rows: &FileRows<'_>) -> Result<(), LogError> {
    let limit = rows.limits().inflated_bytes;
    let sizes = file.metadata().row_groups().iter().map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0));
    if sizes.fold(0, u64::saturating_add) > limit {
        return Err(rows.error(LogProblem::Inflated { limit }));
    }
    Ok(())
}

fn read_cell(key: KeyId, field: &Field, rows: &mut FileRows<'_>) -> Result<(), LogProblem> {
    let usage = rows.usage(key);
    match (usage, field) {
        (_, Field::Null) | (KeyUse::Ignored | KeyUse::Open, _) => Ok(()),
        (KeyUse::Gradient(target), Field::Group(histogram)) => read_histogram(target, histogram, rows),
        // Groups of norms by parameter.
        (KeyUse::Nested, Field::Group(group)) => read_group(group, "", Names::Parameters, rows),
        (KeyUse::Global, Field::Group(group)) => {
            let prefix = format!("{}/", rows.key_name(key).unwrap_or_default());
            read_group(group, &prefix, Names::Metrics, rows)
        }
        (KeyUse::RunName | KeyUse::RunId | KeyUse::Name(_) | KeyUse::Variant | KeyUse::Measure, _) => {
            set_text(usage, &text(field), rows);
            Ok(())
        }
        (_, Field::Str(text)) => match (Number::of(text), usage) {
            (Number::Is(number), _) => rows.set_number(key, number),
            (Number::Not, KeyUse::Gradient(target)) if !rows.is_bare(target) => {
                Err(LogProblem::NotANumber(text.chars().take(40).collect()))
            }
            (Number::Not, KeyUse::Step(_)) => Err(LogProblem::BadStep(text.chars().take(40).collect())),
            _ => Ok(()),
        },
        (KeyUse::Gradient(_), field) if number(field).is_none() => {
            Err(LogProblem::NotANumber(field.to_string().chars().take(40).collect()))
        }
        // pandas writes a missing number as NaN where a column holds floats: no step is none, a norm may be.
        (KeyUse::Step(_), field) => match number(field) {
            Some(step) if step.is_nan() => Ok(()),
            Some(step) => rows.set_number(key, step),
            None => Ok(()),
        },
        (_, field) => number(field).map_or(Ok(()), |number| rows.set_number(key, number)),
    }
}

fn read_group(group: &Row, prefix: &str, names: Names, rows: &mut FileRows<'_>) -> Result<(), LogProblem> {
    for (name, field) in group.get_column_iter() {
        let key = rows.key(names, &format!("{prefix}{name}")).map_err(|error| error.problem)?;
        if let (KeyUse::Gradient(_), Some(number)) = (rows.usage(key), number(field)) {
            rows.set_number(key, number)?;
        }
    }
    Ok(())
}

fn read_histogram(target: Target, group: &Row, rows: &mut FileRows<'_>) -> Result<(), LogProblem> {
    let mut histogram = Histogram::default();
    for (name, field) in group.get_column_iter() {
        match (name.as_str(), field) {
            ("values", Field::ListInternal(list)) => histogram.counts = numbers(list),
            ("bins", Field::ListInternal(list)) => histogram.edges = numbers(list),
            ("packedBins", Field::Group(packed)) => {
                let of = |wanted: &str| {
                    packed.get_column_iter().find(|(name, _)| *name == wanted).and_then(|(_, field)| number(field))
                };
                histogram.packed = of("min").zip(of("size")).map(Into::into);
            }
            _ => {}
        }
    }
    if histogram.is_empty() { Ok(()) } else { rows.set_histogram(target, &histogram) }
}

fn numbers(list: &List) -> Vec<f64> {
    list.elements().iter().map(|field| number(field).unwrap_or(f64::NAN)).collect()
}

fn number(field: &Field) -> Option<f64> {
    Some(match field {
        Field::Byte(n) => f64::from(*n),
        Field::Short(n) => f64::from(*n),
        Field::Int(n) => f64::from(*n),
        Field::Long(n) => *n as f64,
        Field::UByte(n) => f64::from(*n),
        Field::UShort(n) => f64::from(*n),
        Field::UInt(n) => f64::from(*n),
        Field::ULong(n) => *n as f64,
        Field::Float16(n) => f64::from(*n),
        Field::Float(n) => f64::from(*n),
        Field::Double(n) => *n,
        _ => return None,
    })
}

fn text(field: &Field) -> String {
    match field {
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
        other => other.to_string(),
    }
}

fn problem(error: &ParquetError) -> LogProblem {
    let text = error.to_string();
    let codec = ["Disabled feature at compile time", "ZSTD", "BROTLI", "LZ4"].iter().any(|word| text.contains(word));
    let help = if codec { "; write it with compression=\"snappy\"" } else { "" };
    LogProblem::Table(format!("{text}{help}"))
}
