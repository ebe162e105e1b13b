//! The keys and rows of one file, on their way into a [`LogBuilder`].

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::builder::LogBuilder;
use super::error::{LogError, LogProblem, Position};
use super::format::Format;
use super::input::Limits;
use super::log::LogMeta;
use super::metric::{MetricKey, parse_metric};
use super::parameter::{Matrix, ParameterName};
use super::report::{FileReport, KeyGroup, SkipReason};

/// What the value of a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    Gradient { slot: usize, matrix: Matrix },
    Step(u8),
    Loss(u8),
    Nested,
    Header,
    Ignored,
}

/// Which names a key is looked up among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Metrics: `grad_norm/<parameter>`, `step`, `loss`.
    Metrics,
    /// Bare parameters or modules.
    Parameters,
}

/// A key of the current file; resolves to a [`KeyUse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyId(Names, usize);

#[derive(Debug, Default)]
struct KeyTable {
    keys: IndexMap<String, KeyUse>,
    /// Rows repeat their keys in order: the next key is guessed before it is looked up.
    expected: usize,
}

impl KeyTable {
    fn find(&mut self, key: &str) -> Option<usize> {
        let found = match self.keys.get_index(self.expected) {
            Some((expected, _)) if expected == key => Some(self.expected),
            _ => self.keys.get_index_of(key),
        };
        if let Some(index) = found {
            self.expected = index + 1;
        }
        found
    }
}

/// One file on its way into a [`LogBuilder`].
pub(super) struct FileRows<'a> {
    log: &'a mut LogBuilder,
    /// The file's name.
    pub(super) name: &'a str,
    /// Where the reader stands.
    pub(super) position: Position,
    report: FileReport,
    metrics: KeyTable,
    parameters: KeyTable,
    /// The file's first adapter: a second one on the same modules is left out.
    adapter: Option<String>,
    claimed: BTreeSet<(usize, Matrix)>,
    recognised: IndexMap<String, KeyGroup>,
    skipped: IndexMap<SkipReason, KeyGroup>,
    step: Option<(u8, u64)>,
    loss: Option<(u8, f64)>,
    row: Vec<(usize, Matrix, f64)>,
    rows_without_step: u64,
    has_header: bool,
}

impl<'a> FileRows<'a> {
    pub(super) fn new(log: &'a mut LogBuilder, name: &'a str, format: Format, gzipped: bool) -> Self {
        let report = FileReport {
            name: name.to_owned(),
            format: Some(format),
            gzipped,
            rows: 0,
            recognised: Vec::new(),
            skipped: Vec::new(),
            other_keys: 0,
            notes: Vec::new(),
        };
        Self {
            log,
            name,
            position: Position::File,
            report,
            metrics: KeyTable::default(),
            parameters: KeyTable::default(),
            adapter: None,
            claimed: BTreeSet::new(),
            recognised: IndexMap::new(),
            skipped: IndexMap::new(),
            step: None,
            loss: None,
            row: Vec::new(),
            rows_without_step: 0,
            has_header: false,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.log.limits
    }

    pub(super) fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// An error at the reader's place.
    pub(super) fn error(&self, problem: LogProblem) -> LogError {
        LogError { file: self.name.to_owned(), position: self.position, key: None, problem }
    }

    /// An error at the reader's place and a key.
    pub(super) fn key_error(&self, key: KeyId, problem: LogProblem) -> LogError {
        LogError { key: self.key_name(key).map(str::to_owned), ..self.error(problem) }
    }

    fn table(&self, names: Names) -> &KeyTable {
        match names {
            Names::Metrics => &self.metrics,
            Names::Parameters => &self.parameters,
        }
    }

    fn key_name(&self, KeyId(names, index): KeyId) -> Option<&str> {
        self.table(names).keys.get_index(index).map(|(name, _)| name.as_str())
    }

    /// What a key is for.
    pub(super) fn usage(&self, KeyId(names, index): KeyId) -> KeyUse {
        self.table(names).keys.get_index(index).map_or(KeyUse::Ignored, |(_, usage)| *usage)
    }

    /// Finds or registers a key.
    pub(super) fn key(&mut self, names: Names, key: &str) -> Result<KeyId, LogError> {
        let table = match names {
            Names::Metrics => &mut self.metrics,
            Names::Parameters => &mut self.parameters,
        };
        if let Some(index) = table.find(key) {
            return Ok(KeyId(names, index));
        }
        let limits = self.log.limits;
        if self.metrics.keys.len() + self.parameters.keys.len() >= limits.keys {
            return Err(self.error(LogProblem::TooManyKeys { limit: limits.keys }));
        }
        if key.len() > limits.name_chars && key.chars().count() > limits.name_chars {
            return Err(self.error(LogProblem::NameTooLong { limit: limits.name_chars }));
        }
        let usage = match names {
            Names::Metrics => self.register_metric(key),
            Names::Parameters => self.register_parameter(key, key),
        };
        let table = match names {
            Names::Metrics => &mut self.metrics,
            Names::Parameters => &mut self.parameters,
        };
        let (index, _) = table.keys.insert_full(key.to_owned(), usage);
        table.expected = index + 1;
        Ok(KeyId(names, index))
    }

    fn register_metric(&mut self, key: &str) -> KeyUse {
        match parse_metric(key) {
            MetricKey::Gradient(parameter) => self.register_parameter(key, parameter),
            MetricKey::GlobalNorm => {
                self.log.saw_global = true;
                self.skip(key, SkipReason::GlobalNorm)
            }
            MetricKey::Step(rank) => KeyUse::Step(rank),
            MetricKey::Loss(rank) => KeyUse::Loss(rank),
            MetricKey::Nested => KeyUse::Nested,
            MetricKey::Header => KeyUse::Header,
            MetricKey::Skipped(reason) => self.skip(key, reason),
            MetricKey::Other => {
                self.report.other_keys += 1;
                KeyUse::Ignored
            }
        }
    }

    fn register_parameter(&mut self, key: &str, parameter: &str) -> KeyUse {
        let name = ParameterName::parse(parameter);
        let id = match name.module() {
            Err(reason) if !name.is_matrix || reason.is_no_module() => return self.skip(key, reason),
            id => id,
        };
        if let Some(adapter) = &name.adapter {
            match &self.adapter {
                None => self.adapter = Some(adapter.clone()),
                Some(first) if first == adapter => {}
                Some(_) => return self.skip(key, SkipReason::OtherAdapter),
            }
        }
        let matrix = name.matrix;
        let slot = self.log.slot(id, name);
        if !self.claimed.insert((slot, matrix)) {
            return self.skip(key, SkipReason::Repeated);
        }
        match id {
            Ok(id) => {
                let what = format!("{} {}", id.projection, matrix.name());
                self.recognised.entry(what).or_insert_with_key(|what| group(what.clone(), "")).add(key);
            }
            // Its norms are kept all the same: whether it gets a rank is chosen later.
            Err(reason) => {
                self.skip(key, reason);
            }
        }
        KeyUse::Gradient { slot, matrix }
    }

    fn skip(&mut self, key: &str, reason: SkipReason) -> KeyUse {
        let what = || serde_json::to_value(reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        self.skipped.entry(reason).or_insert_with(|| group(what(), reason.why())).add(key);
        KeyUse::Ignored
    }

    /// Sets the log's meta data from a header.
    pub(super) fn header(&mut self, meta: LogMeta, estimated: bool) -> Result<(), LogError> {
        self.has_header = true;
        self.log.estimated |= estimated;
        self.log.set_header(meta).map_err(|p| self.error(p))
    }

    /// The next norms are estimated from histograms.
    pub(super) fn estimated(&mut self, format: Option<Format>) {
        self.log.estimated = true;
        if format.is_some() {
            self.report.format = format;
        }
    }

    /// Puts a norm into the current row.
    pub(super) fn set(&mut self, slot: usize, matrix: Matrix, value: f64) -> Result<(), LogProblem> {
        if value < 0.0 {
            return Err(LogProblem::Negative(value));
        }
        self.row.push((slot, matrix, value));
        Ok(())
    }

    /// Sets the step of the current row, unless a better key gave it.
    pub(super) fn set_step(&mut self, rank: u8, value: f64) -> Result<(), LogProblem> {
        // Steps above 2^53 are not whole numbers any more.
        if !(value >= 0.0 && value <= (1_u64 << 53) as f64 && value.fract() == 0.0) {
            return Err(LogProblem::BadStep(value.to_string()));
        }
        if self.step.is_none_or(|(best, _)| rank < best) {
            self.step = Some((rank, value as u64));
        }
        Ok(())
    }

    /// Sets the loss of the current row, unless a better key gave it.
    pub(super) fn set_loss(&mut self, rank: u8, value: f64) {
        if self.loss.is_none_or(|(best, _)| rank < best) {
            self.loss = Some((rank, value));
        }
    }

    /// Forgets the current row.
    pub(super) fn discard(&mut self) {
        self.step = None;
        self.loss = None;
        self.row.clear();
    }

    /// Adds the current row to the log.
    pub(super) fn commit(&mut self, line: u64) -> Result<(), LogError> {
        self.report.rows += 1;
        let (step, loss) = (self.step.take(), self.loss.take());
        if loss.is_none() && self.row.is_empty() {
            return Ok(());
        }
        let step = match step {
            Some((_, step)) => step,
            None if self.has_header => return Err(self.error(LogProblem::NoStep)),
            None => {
                self.rows_without_step += 1;
                self.rows_without_step
            }
        };
        self.log.add(step, loss, self.row.drain(..), line).map_err(|problem| LogError {
            file: self.name.to_owned(),
            position: self.position,
            key: None,
            problem,
        })
    }

    /// Ends the file.
    pub(super) fn finish(mut self) {
        if self.rows_without_step > 0 {
            self.report.notes.push(format!("{} rows name no step; they were counted from 1", self.rows_without_step));
        }
        if self.recognised.is_empty() {
            let what = if self.skipped.is_empty() { "it holds no gradients" } else { "none of its gradients is used" };
            self.report.notes.push(what.to_owned());
        }
        self.report.recognised = self.recognised.into_values().collect();
        self.report.skipped = self.skipped.into_values().collect();
        self.log.end_file(self.report);
    }
}

fn group(what: String, why: &str) -> KeyGroup {
    KeyGroup { what, why: why.to_owned(), count: 0, examples: Vec::new() }
}
