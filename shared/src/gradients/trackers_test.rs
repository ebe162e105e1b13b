//! One run, as every tracker leaves it: all give the ranks of the project's own log. The files of `tests/data/tracker-logs` were
//! written by the trackers; the others are written here from the same norms.

use std::fmt::Write as _;
use std::io::{Cursor, Read};
use std::sync::Arc;

use super::*;
use crate::layout::Layout;
use crate::schedule::{PlanConfig, plan};
use crate::vlm::spec::ModelConfig;

/// A file of `tests/data/tracker-logs`, which is compiled in: in a browser there is no folder.
macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tracker-logs/", $name)).as_slice()
    };
}

pub(super) const REFERENCE: &[u8] = data!("reference-grads.jsonl.gz");

pub(super) fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

pub(super) fn layout() -> Arc<Layout> {
    ModelConfig::from_json(std::str::from_utf8(data!("config.json")).unwrap()).unwrap().layout().unwrap()
}

pub(super) fn ranks(log: &GradientLog) -> Vec<u32> {
    let layout = layout();
    let profile = profile(log, &layout, &ProfileConfig::default()).unwrap();
    let config = PlanConfig { base_rank: 8, ..PlanConfig::default() };
    plan(&layout, &profile, &config).unwrap().ranks.as_slice().to_vec()
}

fn reference() -> GradientLog {
    read("reference", REFERENCE).unwrap()
}

/// Step, loss, and norms by parameter.
type Row = (u64, f64, Vec<(String, f64)>);

/// The reference's rows.
fn rows() -> Vec<Row> {
    let log = reference();
    let row = |step: &LogStep| {
        let norms = log.modules.iter().zip(&step.gradients).flat_map(|(module, gradient)| {
            let name = |matrix: &str| format!("base_model.model.{}.{matrix}.default.weight", module.path);
            [(name("lora_A"), gradient.a.unwrap()), (name("lora_B"), gradient.b.unwrap())]
        });
        (step.step, step.loss.unwrap(), norms.collect())
    };
    log.steps.iter().map(row).collect()
}

/// The rows as JSON objects, with a prefix before the parameters.
fn objects(prefix: &str) -> Vec<serde_json::Value> {
    let object = |(step, loss, norms): Row| {
        let mut row = serde_json::json!({"step": step, "loss": loss, "epoch": 0.5, "lr": 1e-4});
        row.as_object_mut()
            .unwrap()
            .extend(norms.into_iter().map(|(name, norm)| (format!("{prefix}{name}"), norm.into())));
        row
    };
    rows().into_iter().map(object).collect()
}

/// Every value as a row of its own.
fn long() -> Vec<(u64, String, f64)> {
    rows()
        .into_iter()
        .flat_map(|(step, _, norms)| norms.into_iter().map(move |(name, norm)| (step, name, norm)))
        .collect()
}

fn is_the_reference(what: &str, log: &GradientLog) {
    assert_eq!(log.modules.len(), 21, "{what}");
    assert_eq!(log.steps.len(), 12, "{what}");
    assert_eq!(ranks(log), ranks(&reference()), "{what}: {:?}", log.report.notes);
}

fn gives_the_reference(what: &str, text: &[u8]) {
    is_the_reference(what, &read(what, text).unwrap_or_else(|error| panic!("{error}")));
}

#[test]
fn files_that_trackers_wrote_give_the_reference() {
    let mut files = vec![
        ("leet.jsonl", data!("wandb-leet.jsonl.gz"), Format::JsonLines),
        ("records.json", data!("records.json.gz"), Format::Json),
        ("long.csv", data!("long.csv.gz"), Format::Csv),
    ];
    if cfg!(feature = "binary-logs") {
        files.push(("flat.wandb", data!("flat.wandb.gz"), Format::Wandb));
        files.push(("nested.wandb", data!("nested.wandb.gz"), Format::Wandb));
        files.push(("run.swanlab", data!("run.swanlab.gz"), Format::Swanlab));
        files.push(("trackio.db", data!("trackio.db.gz"), Format::Sqlite));
        files.push(("mlflow.db", data!("mlflow.db.gz"), Format::Sqlite));
        files.push(("wide.parquet", data!("wide.parquet.gz"), Format::Parquet));
        files.push(("long.parquet", data!("long.parquet.gz"), Format::Parquet));
        files.push(("trackio.parquet", data!("trackio.parquet.gz"), Format::Parquet));
    }
    // Zstandard, polars' default, is unpacked by a library in C.
    #[cfg(not(target_family = "wasm"))]
    files.push(("polars.parquet", data!("polars.parquet.gz"), Format::Parquet));
    for (name, bytes, format) in files {
        for bytes in [bytes.to_vec(), unpack(bytes)] {
            let log = read(name, bytes.as_slice()).unwrap_or_else(|error| panic!("{error}"));
            is_the_reference(name, &log);
            assert_eq!(log.report.files[0].format, Some(format), "{name}");
        }
    }
}

#[cfg(feature = "binary-logs")]
#[test]
fn a_run_that_was_deleted_in_mlflow_is_not_asked_for() {
    is_the_reference("mlflow.db", &read("mlflow.db", data!("mlflow-deleted.db.gz")).unwrap());
}

#[test]
fn json_documents_of_every_shape_give_the_reference() {
    let rows = objects("grad_norm/");
    let list = serde_json::Value::Array(rows.clone());
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).unwrap();
    let one_after_another: Vec<String> = rows.iter().map(pretty).collect();
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    let metrics_as_text: Vec<serde_json::Value> = objects("grad_norm/")
        .into_iter()
        .map(|row| serde_json::json!({"step": row["step"], "metrics": row.to_string()}))
        .collect();
    // As pandas writes a DataFrame: by column, by row, and names apart from values.
    let names: Vec<String> = rows[0].as_object().unwrap().keys().cloned().collect();
    let column = |name: &String| {
        let values = rows.iter().enumerate().map(|(at, row)| (at.to_string(), row[name].clone()));
        (name.clone(), serde_json::Value::Object(values.collect()))
    };
    let columns = serde_json::Value::Object(names.iter().map(column).collect());
    let by_index: Vec<String> = rows.iter().enumerate().map(|(at, row)| format!("\"{at}\": {row}")).collect();
    let values: Vec<Vec<_>> = rows.iter().map(|row| names.iter().map(|name| row[name].clone()).collect()).collect();
    let index: Vec<usize> = (0..rows.len()).collect();
    let table = serde_json::json!({"schema": {"fields": [{"name": "step", "type": "integer"}]}, "data": list});
    let split = format!(
        r#"{{"columns":{},"index":{},"data":{}}}"#,
        serde_json::json!(names),
        serde_json::json!(index),
        serde_json::json!(values)
    );
    let list_of =
        |name: &String| (name.clone(), rows.iter().map(|row| row[name].clone()).collect::<serde_json::Value>());
    let by_step = self::rows().into_iter().map(|(step, _, norms)| {
        let norms = norms.into_iter().map(|(name, norm)| (name, norm.into()));
        (step.to_string(), serde_json::Value::Object(norms.collect()))
    });
    for (what, text) in [
        ("pandas' columns", columns.to_string()),
        ("pandas' columns, indented", pretty(&columns)),
        ("pandas' orient=\"index\"", format!("{{{}}}", by_index.join(","))),
        ("pandas' orient=\"index\", indented", format!("{{\n  {}\n}}", by_index.join(",\n  "))),
        ("pandas' orient=\"split\"", split),
        ("pandas' orient=\"table\"", table.to_string()),
        ("a dict of lists", serde_json::Value::Object(names.iter().map(list_of).collect()).to_string()),
        ("norms of bare names by step", serde_json::Value::Object(by_step.collect()).to_string()),
        ("a list on one line", list.to_string()),
        ("an indented list", pretty(&list)),
        ("a list under a key", serde_json::json!({"version": 2, "rows": list}).to_string()),
        ("an indented list under two keys", pretty(&serde_json::json!({"run": {"name": "x", "history": list}}))),
        ("a list under a key with a row a line", format!("{{\"rows\": [\n{}\n]}}", lines.join(",\n"))),
        ("indented objects one after another", one_after_another.join("\n")),
        ("objects one after another in one line", rows.iter().map(ToString::to_string).collect::<String>()),
        ("rows whose metrics are text", serde_json::json!({"project": "p", "rows": metrics_as_text}).to_string()),
        ("a byte-order mark", format!("\u{feff}{}", pretty(&list))),
    ] {
        gives_the_reference(what, text.as_bytes());
    }
}

#[test]
fn keys_of_every_kind_give_the_reference() {
    let lines = |prefix: &str| objects(prefix).iter().map(|row| format!("{row}\n")).collect::<String>();
    for prefix in ["grad_norm/", "Gradients/", "train/grads/", "", "gradient_norm."] {
        gives_the_reference(prefix, lines(prefix).as_bytes());
    }
    let nested = |key: &str| {
        let row = |(step, loss, norms): Row| {
            let norms: serde_json::Map<String, serde_json::Value> =
                norms.into_iter().map(|(name, norm)| (name, norm.into())).collect();
            format!("{}\n", serde_json::json!({"step": step, "loss": loss, key: norms}))
        };
        rows().into_iter().map(row).collect::<String>()
    };
    for key in ["grad_norms", "grad_norm", "gradients", "Gradients"] {
        gives_the_reference(key, nested(key).as_bytes());
    }
    let quoted: String = objects("grad_norm/")
        .into_iter()
        .map(|row| {
            let fields: Vec<String> =
                row.as_object().unwrap().iter().map(|(key, value)| format!("{key:?}: \"{value}\"")).collect();
            format!("{{{}}}\n", fields.join(", "))
        })
        .collect();
    gives_the_reference("numbers in quotes", quoted.as_bytes());
}

#[test]
fn tables_of_every_kind_give_the_reference() {
    let rows = rows();
    let header: Vec<String> = rows[0].2.iter().map(|(name, _)| format!("grad_norm/{name}")).collect();
    let line = |(step, loss, norms): &Row| {
        let cells: Vec<String> = norms.iter().map(|(_, norm)| norm.to_string()).collect();
        format!("{step},{loss},{}\n", cells.join(","))
    };
    let head = format!("step,loss,{}\n", header.join(","));
    let body: Vec<String> = rows.iter().map(line).collect();
    let european = format!("{head}{}", body.concat()).replace(',', ";");
    let decimal_commas: String = european
        .lines()
        .enumerate()
        .map(|(i, line)| format!("{}\n", if i == 0 { line.to_owned() } else { line.replace('.', ",") }))
        .collect();
    for (what, text) in [
        ("lines before the header", format!("Run of Tuesday\nhost: x\n\n{head}{}", body.concat())),
        ("a second header", format!("{head}{}{head}{}", body[..5].concat(), body[5..].concat())),
        ("a header that is a comment", format!("# {head}{}", body.concat())),
        ("semicolons and decimal commas", decimal_commas),
    ] {
        gives_the_reference(what, text.as_bytes());
    }
    let mut long_csv = String::from(",parameter,iteration,grad_norm\n");
    let mut long_json = String::new();
    for (i, (step, name, norm)) in long().into_iter().enumerate() {
        writeln!(long_csv, "{i},{name},{step},{norm}").unwrap();
        writeln!(long_json, "{{\"tag\":\"grad_norm/{name}\",\"step\":{step},\"value\":{norm}}}").unwrap();
    }
    gives_the_reference("a long CSV of bare names", long_csv.as_bytes());
    gives_the_reference("long JSON lines", long_json.as_bytes());
}

#[test]
fn files_of_clearml_and_comet_give_the_reference() {
    let event = |(step, name, norm): &(u64, String, f64)| {
        serde_json::json!({"timestamp": 1, "type": "training_stats_scalar", "task": "t", "iter": step,
            "metric": "grad_norm", "variant": name, "value": norm})
    };
    let events: Vec<serde_json::Value> = long().iter().map(event).collect();
    let lines: String = events.chunks(50).map(|chunk| format!("{}\n", serde_json::json!(chunk))).collect();
    gives_the_reference("ClearML's metrics.jsonl", lines.as_bytes());
    let message = |(step, name, norm): &(u64, String, f64)| {
        let metric = serde_json::json!({"epoch": null, "metricName": format!("grad_norm/{name}"), "metricValue": norm, "step": step});
        let payload = serde_json::json!({"local_timestamp": 1, "message_id": 4, "metric": metric});
        format!("{}\n", serde_json::json!({"payload": payload, "type": "metric_msg"}))
    };
    let messages: String = long().iter().map(message).collect();
    gives_the_reference("Comet's messages.json", messages.as_bytes());
}

/// Reads the files of a folder.
fn folder(files: Vec<(String, Vec<u8>)>) -> GradientLog {
    let file = |(path, bytes): (String, Vec<u8>)| {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        LogFile { name: format!("given/{path}"), folder, reader: Cursor::new(bytes) }
    };
    read_files(files.into_iter().map(file), &Limits::default(), None).unwrap()
}

/// One file a parameter, with a line a step.
fn file_per_parameter(path: &str, head: &str, line: impl Fn(u64, f64) -> String) -> Vec<(String, Vec<u8>)> {
    let rows = rows();
    let names = rows[0].2.iter().map(|(name, _)| name);
    let file = |(i, name): (usize, &String)| {
        let lines: String = rows.iter().map(|(step, _, norms)| line(*step, norms[i].1)).collect();
        (path.replace("NAME", name), format!("{}{lines}", head.replace("NAME", name)).into_bytes())
    };
    names.enumerate().map(file).collect()
}

#[test]
fn folders_whose_paths_name_the_metric_give_the_reference() {
    let mlflow = file_per_parameter("0/3f2a/metrics/grad_norm/NAME", "", |step, norm| {
        format!("{} {norm} {step}\n", 1_795_847_574_578 + step)
    });
    is_the_reference("mlflow's file store", &folder(mlflow));
    let dvclive = file_per_parameter("plots/metrics/grad_norm/NAME.tsv", "step\tNAME\n", |step, norm| {
        format!("{step}\t{norm}\n")
    });
    is_the_reference("dvclive", &folder(dvclive));
}

#[test]
fn a_column_that_says_what_is_measured_decides_which_values_are_gradients() {
    for column in ["statistic", "stat", "kind", "type", "measure", "norm_type", "metric", "variable"] {
        for weights_first in [true, false] {
            let mut text = format!("step,name,{column},value\n");
            for (step, name, norm) in long() {
                let (gradient, weight) =
                    (format!("{step},{name},grad_norm,{norm}\n"), format!("{step},{name},weight_norm,7\n"));
                text += &if weights_first { weight + &gradient } else { gradient + &weight };
            }
            gives_the_reference(column, text.as_bytes());
        }
    }
    let weights: String = long().iter().map(|(step, name, _)| format!("{step},{name},weight_norm,7\n")).collect();
    let error = read("weights.csv", format!("step,name,statistic,value\n{weights}").as_bytes()).unwrap_err();
    assert!(matches!(error.problem, LogProblem::NoGradients { .. }), "{error}");
    let mut rows = String::new();
    for (step, name, norm) in long() {
        rows += &format!("{}\n", serde_json::json!({"step": step, "name": name, "norm": 7.0, "grad_norm": norm}));
    }
    gives_the_reference("norm beside grad_norm", rows.as_bytes());
}

#[test]
fn a_damaged_or_cut_table_is_an_error_that_says_so() {
    if cfg!(feature = "binary-logs") {
        let wandb = unpack(data!("flat.wandb.gz"));
        let log = read("flat.wandb", &wandb[..wandb.len() / 2]).unwrap();
        assert!(log.report.files[0].notes.iter().any(|note| note.contains("is cut off and was left out")), "{log:?}");
        for (packed, what) in [
            (data!("trackio.db.gz"), "the SQLite file cannot be read"),
            (data!("wide.parquet.gz"), "the table cannot be read"),
        ] {
            let whole = unpack(packed);
            let error = read("table", &whole[..whole.len() / 2]).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("copy it again"), "{error}");
        }
    }
}
