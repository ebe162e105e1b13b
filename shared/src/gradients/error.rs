//! What can be wrong with a log.

use std::fmt;
use std::io;

use super::format::Format;
use super::known::KnownFile;
use crate::names::first_names;

/// Place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Position {
    /// Nowhere in particular.
    #[default]
    File,
    /// Line, counted from 1.
    Line(u64),
    /// Record of an event file, counted from 1.
    Record(u64),
    /// Row of a table, counted from 1.
    Row(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, ", line {line}"),
            Self::Record(record) => write!(f, ", record {record}"),
            Self::Row(row) => write!(f, ", row {row}"),
        }
    }
}

/// A log that cannot be used: which file, where in it, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{file}{position}{}: {problem}; {}", .key.as_ref().map(|k| format!(", \"{k}\"")).unwrap_or_default(), .problem.remedy())]
pub struct LogError {
    /// The file, as the caller named it.
    pub file: String,
    /// Line or record.
    pub position: Position,
    /// Key or column.
    pub key: Option<String>,
    /// What is wrong.
    pub problem: LogProblem,
}

fn quoted(before: &str, keys: &[String], after: &str) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let keys: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    format!("{before}{}{after}", keys.join(", "))
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogProblem {
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Io(io::Error),
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// No known format.
    #[error("this is no gradient log that is known{}", quoted(" (what looks most like parameters in it: ", .keys, ")"))]
    Unrecognised {
        /// Up to three keys of it that look most like parameters.
        keys: Vec<String>,
    },
    /// A file of a tool that holds no log, or holds one in a way that is not read.
    #[error("this is {}", .0.what)]
    Known(&'static KnownFile),
    /// Several runs, of which none was asked for.
    #[error("it holds {} runs: {}", .0.len(), first_names(.0))]
    SeveralRuns(Vec<String>),
    /// A run that was asked for and is not there.
    #[error("it holds no run \"{asked}\"{}", if .runs.is_empty() { String::new() } else { format!(", but {}", first_names(.runs)) })]
    NoSuchRun {
        /// The run that was asked for.
        asked: String,
        /// Those that hold gradients.
        runs: Vec<String>,
    },
    /// Values whose name stands in the path, which is not known.
    #[error("its values have no name: that stands in the path of the file")]
    NoName,
    /// A table without the names of its columns.
    #[error("its rows are lists of values without names, as pandas' to_json(orient=\"values\") writes them")]
    Nameless,
    /// A binary table that is damaged, or written in a way that is not read.
    #[error("the table cannot be read: {0}")]
    Table(String),
    /// A database that is damaged, or written in a way that is not read.
    #[error("the SQLite file cannot be read: {0}")]
    Database(String),
    /// Text in UTF-16.
    #[error("the text is UTF-16")]
    Utf16,
    /// An archive of files.
    #[error("this is an archive")]
    Archive,
    /// A compressed stream that is damaged or cut.
    #[error("the gzip stream is damaged or cut short: {0}")]
    Gzip(io::Error),
    /// More uncompressed bytes than allowed.
    #[error("it unpacks to more than {limit} bytes")]
    Inflated {
        /// Bytes that are allowed.
        limit: u64,
    },
    /// Compression that no log reaches.
    #[error("it unpacks to more than {limit} times its size")]
    Ratio {
        /// Ratio that is allowed.
        limit: u64,
    },
    /// A larger file than allowed.
    #[error("it is larger than {limit} bytes")]
    FileTooLarge {
        /// Bytes that are allowed.
        limit: u64,
    },
    /// A longer line than allowed.
    #[error("the line is longer than {limit} bytes")]
    LineTooLong {
        /// Bytes that are allowed.
        limit: usize,
    },
    /// A longer name than allowed.
    #[error("a name is longer than {limit} characters")]
    NameTooLong {
        /// Characters that are allowed.
        limit: usize,
    },
    /// More different keys than allowed.
    #[error("it holds more than {limit} different keys")]
    TooManyKeys {
        /// Keys that are allowed.
        limit: usize,
    },
    /// More values than allowed.
    #[error("it holds more than {limit} values")]
    TooManyValues {
        /// Values that are allowed.
        limit: usize,
    },
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON that ends too early.
    #[error("not valid JSON: {0}")]
    CutJson(String),
    /// A list of values where a row has one.
    #[error("a list stands where one number is expected: the document may be written column by column")]
    Columns,
    /// Rows of one parameter where rows of one step are expected.
    #[error("each row holds one parameter, and each column a step")]
    Transposed,
    /// Not CSV.
    #[error("not valid CSV: {0}")]
    Csv(String),
    /// A header of the project's own format that cannot be read.
    #[error("the header is not one: {0}")]
    Header(String),
    /// A later version of the project's own format.
    #[error("the log has format version {0}, this program knows version 1")]
    Version(u64),
    /// Norms other than L2.
    #[error("the header says that the norms are \"{0}\"")]
    NotL2(String),
    /// A second header that says something else.
    #[error("a second header that differs from the first: two runs in one log")]
    TwoRuns,
    /// A line without a step.
    #[error("no step")]
    NoStep,
    /// Numbers under the names of parameters, which nothing else says to be norms.
    #[error(
        "its numbers stand under the names of parameters{} without a step, as ranks do",
        quoted(" (", .keys, ")")
    )]
    BareWithoutStep {
        /// Up to three of the names.
        keys: Vec<String>,
    },
    /// A step that is none.
    #[error("\"{0}\" is not a step")]
    BadStep(String),
    /// A value that is no number.
    #[error("\"{0}\" is not a number")]
    NotANumber(String),
    /// A number with a comma that may mean two things.
    #[error("\"{0}\" may have a decimal comma or one between thousands, and no other number of the file tells which")]
    Thousands(String),
    /// A norm below zero.
    #[error("{0} is not a norm: norms are never negative")]
    Negative(f64),
    /// A histogram that is none.
    #[error("not a histogram: {0}")]
    Histogram(String),
    /// A file of records that is damaged before its end.
    #[error("the file is damaged at byte {byte}: {what}")]
    Damaged {
        /// Offset of the record.
        byte: u64,
        /// What does not fit.
        what: String,
    },
    /// Only one norm over everything.
    #[error("the log holds only a global gradient norm, nothing per parameter")]
    GlobalNormOnly,
    /// No gradients at all.
    #[error(
        "the {} holds no gradients{}",
        .format.map_or("log", Format::holder),
        quoted("; the keys that look most like parameters are ", .keys, "")
    )]
    NoGradients {
        /// What the file is.
        format: Option<Format>,
        /// Up to three keys of it that look most like parameters.
        keys: Vec<String>,
    },
    /// Gradients, but none of a projection of a layer.
    #[error("none of its {count} gradient keys names a projection of a language layer ({examples})")]
    NoModules {
        /// Keys that were seen.
        count: usize,
        /// Some of them, with the reason.
        examples: String,
    },
}

/// What users log instead of a global norm.
const LOG_PER_PARAMETER: &str = "log the gradient norm of every parameter: add the callback of \
     scripts/hydra_grad_logger.py to your trainer, Lightning's grad_norm(module, norm_type=2), or wandb.watch(model)";

impl LogProblem {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Io(_) => "check that the file exists and can be read",
            Self::Empty => "check that the run has written its log",
            Self::Unrecognised { .. } => {
                "give gradient norms by parameter: JSON, JSON lines, CSV, Parquet, a TensorBoard event file, \
                 trainer_state.json, or the file of W&B, trackio, mlflow, swanlab, dvclive, ClearML or Comet"
            }
            Self::Known(known) => known.remedy,
            Self::SeveralRuns(_) => "ask for one of them with --run NAME, or keep only its rows in a file",
            Self::NoSuchRun { .. } => "ask for a run that it holds",
            Self::NoName => "give the folder above it (mlflow's metrics, swanlab's run), so that the path is known",
            Self::Table(_) => {
                "copy it again; with pandas, read_parquet(FILE).to_json(OUT, orient=\"records\") writes what can be read"
            }
            Self::Database(_) => {
                "copy it again, with the -wal file beside it; sqlite3 FILE .recover mends what is damaged"
            }
            Self::Utf16 => "save it as UTF-8",
            Self::Archive => {
                "unpack it and give the log inside (of ClearML metrics.jsonl, of Comet messages.json, of Excel a CSV)"
            }
            Self::Gzip(_) => "copy or compress the file again",
            Self::Inflated { .. } | Self::Ratio { .. } => "unpack it first, if you trust it",
            Self::FileTooLarge { .. } | Self::TooManyValues { .. } => "log fewer steps, or cut the log",
            Self::LineTooLong { .. } => "write one JSON object or one CSV row a line",
            Self::NameTooLong { .. } | Self::TooManyKeys { .. } => "check that this is a log of gradients",
            Self::Json(_) | Self::CutJson(_) => "write one JSON object a line",
            Self::Columns | Self::Nameless => "write it row by row: pandas' to_json(OUT, orient=\"records\")",
            Self::Transposed => "transpose it, so that each row is a step: pandas' df.T",
            Self::Csv(_) => "give every row as many columns as the header has",
            Self::Header(_) => {
                r#"write {"hydra_grads":1,"model":"name","norm":"l2","clip":"pre","unit":"optimizer_step","lora":{"r":16,"alpha":32}}"#
            }
            Self::Version(_) => "use a newer version of this program",
            Self::NotL2(_) => "log L2 norms",
            Self::TwoRuns => "keep each run's lines in a file of its own",
            Self::NoStep => "give every line its optimizer step as \"step\"",
            Self::BareWithoutStep { .. } => {
                "give every row its optimizer step as \"step\", or mark each name as a gradient's: \"grad_norm/NAME\""
            }
            Self::BadStep(_) => "give the optimizer step as a whole number from 0",
            Self::Thousands(_) => "write numbers without separators, with a point: 1291 or 1.291",
            Self::NotANumber(_) | Self::Negative(_) => "log the L2 norm of the gradient as a number",
            Self::Histogram(_) => "export the history with wandb.Api().run(...).scan_history(), one JSON object a line",
            Self::Damaged { .. } => "copy the file again, or cut it before that byte",
            Self::GlobalNormOnly | Self::NoGradients { .. } => LOG_PER_PARAMETER,
            Self::NoModules { .. } => {
                "give the log of a LLaMA-like model whose layers are named like model.layers.0.self_attn.q_proj"
            }
        }
    }

    /// Whether a folder whose own files have this problem may hold its gradients in the folders below it.
    pub fn may_lie_deeper(&self) -> bool {
        matches!(
            self,
            Self::NoGradients { .. }
                | Self::GlobalNormOnly
                | Self::BareWithoutStep { .. }
                | Self::Unrecognised { .. }
                | Self::Nameless
                | Self::Known(_)
                | Self::Empty
                | Self::NoName
                | Self::NoSuchRun { .. }
        )
    }

    /// Whether another file of the same folder can still make the log whole.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Unrecognised { .. }
                | Self::Nameless
                | Self::Known(_)
                | Self::Utf16
                | Self::Archive
                | Self::NoName
        )
    }
}

impl From<io::Error> for LogProblem {
    /// Brings back a problem that travelled through a reader as an [`io::Error`].
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(problem) => problem,
            Err(error) => Self::Io(error),
        }
    }
}
