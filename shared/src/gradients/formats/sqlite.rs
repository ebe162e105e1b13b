//! SQLite databases of trackers: trackio's `PROJECT.db` (a row a log call, whose metrics are JSON), mlflow's `mlflow.db` (a row
//! a value) and swanlab's `runs.swanlab` (which folder holds which metric). Of any other database, every table is read whose
//! columns name metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read};

use jiter::Jiter;

use super::super::error::{LogError, LogProblem, Position};
use super::super::format::Format;
use super::super::metric::{MetricKey, parse_metric};
use super::super::rows::{FileRows, KeyId, KeyUse, Names};
use super::super::sqlite_file::{Database, START, Table, Value};
use super::flat_json::{read_value, set_text};
use super::reader::Reader;

/// Databases.
pub(super) const READER: Reader =
    Reader { format: Format::Sqlite, recognises: |start| start.bytes.starts_with(START), read };

/// Bytes of the largest file: the database is held in memory.
const MAX_BYTES: u64 = 1 << 30;

/// The largest number, as which mlflow keeps infinity.
const INFINITY: f64 = f64::MAX;

fn read(reader: &mut dyn BufRead, _: &[u8], rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| rows.error(e.into()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(rows.error(LogProblem::FileTooLarge { limit: MAX_BYTES }));
    }
    let database = Database::new(&bytes).map_err(|p| rows.error(p))?;
    let tables = database.tables().map_err(|p| rows.error(p))?;
    let runs = runs(&database, &tables).map_err(|p| rows.error(p))?;
    for (name, table) in &tables {
        if name == "tag" {
            read_tags(&database, table, rows).map_err(|p| rows.error(p))?;
        } else if name != "latest_metrics" && holds_metrics(table) {
            read_table(&database, table, &runs, rows)?;
        }
    }
    Ok(())
}

fn column(table: &Table, name: &str) -> Option<usize> {
    table.columns.iter().position(|column| column == name)
}

fn text_at(row: &[Value], at: Option<usize>) -> Option<String> {
    row.get(at?).and_then(Value::text)
}

/// mlflow's runs, by their ids.
#[derive(Default)]
struct Runs {
    names: BTreeMap<String, String>,
    /// What mlflow shows no more, but keeps until `mlflow gc`.
    deleted: BTreeSet<String>,
}

fn runs(database: &Database<'_>, tables: &BTreeMap<String, Table>) -> Result<Runs, LogProblem> {
    let mut runs = Runs::default();
    let Some(table) = tables.get("runs") else { return Ok(runs) };
    let (id, name, stage) = (column(table, "run_uuid"), column(table, "name"), column(table, "lifecycle_stage"));
    database.rows(table, &mut |row| {
        if let Some(id) = text_at(&row, id) {
            if text_at(&row, stage).as_deref() == Some("deleted") {
                runs.deleted.insert(id);
            } else if let Some(name) = text_at(&row, name) {
                runs.names.insert(id, name);
            }
        }
        Ok::<(), LogProblem>(())
    })?;
    // Who hands in nothing else means it.
    if runs.names.is_empty() {
        runs.deleted.clear();
    }
    Ok(runs)
}

/// swanlab's folders: which metric each of them holds.
fn read_tags(database: &Database<'_>, table: &Table, rows: &mut FileRows<'_>) -> Result<(), LogProblem> {
    let (name, folder) = (column(table, "name"), column(table, "folder"));
    database.rows(table, &mut |row| {
        if let (Some(name), Some(folder)) = (text_at(&row, name), text_at(&row, folder)) {
            rows.log.tags.insert(folder, name);
        }
        Ok(())
    })
}

/// Whether a table's columns are a step and what can hold gradients.
fn holds_metrics(table: &Table) -> bool {
    let has = |fits: &dyn Fn(MetricKey<'_>) -> bool| table.columns.iter().any(|column| fits(parse_metric(column)));
    let long = has(&|key| matches!(key, MetricKey::Name(_))) && has(&|key| matches!(key, MetricKey::Value(_)));
    let wide =
        has(&|key| matches!(key, MetricKey::Gradient(_) | MetricKey::Bare(_) | MetricKey::Merged | MetricKey::Nested));
    has(&|key| matches!(key, MetricKey::Step(_))) && (long || wide)
}

fn read_table(database: &Database<'_>, table: &Table, runs: &Runs, rows: &mut FileRows<'_>) -> Result<(), LogError> {
    let columns: Vec<KeyId> =
        table.columns.iter().map(|column| rows.key(Names::Metrics, column)).collect::<Result<_, _>>()?;
    let is_nan = column(table, "is_nan");
    let run = column(table, "run_uuid");
    let mut number = 0;
    let file = rows.name.to_owned();
    let taken = database.rows(table, &mut |row| {
        number += 1;
        rows.position = Position::Row(number);
        if text_at(&row, run).is_some_and(|run| runs.deleted.contains(&run)) {
            return Ok(());
        }
        let nan = is_nan.and_then(|at| row.get(at)).and_then(Value::number) == Some(1.0);
        for (key, value) in columns.iter().zip(&row) {
            read_cell(*key, value, nan, &runs.names, rows)?;
        }
        rows.commit(number).map_err(Failed::Log)
    });
    taken.map_err(|failed| match failed {
        Failed::Log(error) => error,
        Failed::File(problem) => LogError { file, position: Position::Row(number), key: None, problem },
    })
}

/// Why a table could not be read to its end.
enum Failed {
    File(LogProblem),
    Log(LogError),
}

impl From<LogProblem> for Failed {
    fn from(problem: LogProblem) -> Self {
        Self::File(problem)
    }
}

fn read_cell(
    key: KeyId,
    value: &Value,
    nan: bool,
    names: &BTreeMap<String, String>,
    rows: &mut FileRows<'_>,
) -> Result<(), Failed> {
    let usage = rows.usage(key);
    match (usage, value) {
        (_, Value::Null) => Ok(()),
        (KeyUse::RunName | KeyUse::RunId | KeyUse::Name(_) | KeyUse::Variant | KeyUse::Measure, _) => {
            let text = value.text().unwrap_or_default();
            if usage == KeyUse::RunId
                && let Some(name) = names.get(&text)
            {
                rows.set_run_name(name);
            }
            set_text(usage, &text, rows);
            Ok(())
        }
        (KeyUse::Merged | KeyUse::Nested | KeyUse::Gradient(_), Value::Bytes(bytes)) => {
            let mut json = Jiter::new(bytes).with_allow_inf_nan();
            read_value(&mut json, key, rows, 0).map_err(Failed::Log)
        }
        _ => match value.number() {
            Some(_) if nan && matches!(usage, KeyUse::Value(_)) => rows.set_number(key, f64::NAN),
            Some(number) if number.abs() >= INFINITY => rows.set_number(key, f64::INFINITY),
            Some(number) => rows.set_number(key, number),
            None => Ok(()),
        }
        .map_err(|p| Failed::Log(rows.key_error(key, p))),
    }
}
