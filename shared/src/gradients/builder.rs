//! Collects norms from any format into a [`GradientLog`].

use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use crate::model_spec::ModuleId;

use super::error::{LogError, LogProblem, Position};
use super::input::Limits;
use super::log::{GradientLog, LogMeta, LogStep, LoggedModule, ModuleGradient, Place};
use super::metric::{MetricKey, parse_metric};
use super::parameter::{Matrix, ParameterName};
use super::report::{FileReport, IngestReport, KeyGroup, SkipReason};
use super::sniff::Format;

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

struct Slot {
    id: ModuleId,
    path: String,
}

#[derive(Default)]
struct Row {
    loss: Option<(u8, f64)>,
    gradients: Vec<ModuleGradient>,
    place: Place,
}

/// A log under construction, over one or more files.
pub(super) struct LogBuilder {
    pub(super) limits: Limits,
    meta: LogMeta,
    has_header: bool,
    estimated: bool,
    stacks: IndexSet<String>,
    /// By index of the layers path and module.
    slots: IndexMap<(usize, ModuleId), Slot>,
    rows: BTreeMap<u64, Row>,
    values: usize,
    overwritten: BTreeSet<u64>,
    lightning_attribute: bool,
    saw_global: bool,
    report: IngestReport,
}

impl LogBuilder {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            meta: LogMeta::default(),
            has_header: false,
            estimated: false,
            stacks: IndexSet::new(),
            slots: IndexMap::new(),
            rows: BTreeMap::new(),
            values: 0,
            overwritten: BTreeSet::new(),
            lightning_attribute: false,
            saw_global: false,
            report: IngestReport::default(),
        }
    }

    /// A file that gives nothing.
    pub(super) fn unused_file(&mut self, name: &str, gzipped: bool, note: String) {
        self.report.files.push(FileReport {
            name: name.to_owned(),
            format: None,
            gzipped,
            rows: 0,
            recognised: Vec::new(),
            skipped: Vec::new(),
            other_keys: 0,
            notes: vec![note],
        });
    }

    /// The finished log.
    ///
    /// # Errors
    /// No gradient of a projection of a layer was found; `name` is what the message calls the input.
    pub(super) fn finish(mut self, name: &str) -> Result<GradientLog, LogError> {
        let Some(main) = self.main_stack() else { return Err(self.nothing_found(name)) };
        for (stack, path) in self.stacks.iter().enumerate().filter(|(stack, _)| *stack != main) {
            let modules = self.slots.keys().filter(|(s, _)| *s == stack).count();
            self.report
                .notes
                .push(format!("{modules} modules under {path} were left out: {}", SkipReason::OtherStack.why()));
        }
        if self.lightning_attribute {
            self.report.notes.push(
                "a leading \"model.\" was taken for the attribute of a Lightning module and removed from the names"
                    .to_owned(),
            );
        }
        if !self.overwritten.is_empty() {
            self.report.notes.push(format!(
                "{} steps were written more than once (first: step {}); the last value was kept",
                self.overwritten.len(),
                self.overwritten.first().copied().unwrap_or_default()
            ));
        }
        let mut order: Vec<usize> = (0..self.slots.len()).filter(|i| self.stack_of(*i) == Some(main)).collect();
        order.sort_by_key(|i| self.slots.get_index(*i).map(|((_, id), _)| *id));
        let modules = order
            .iter()
            .filter_map(|i| self.slots.get_index(*i))
            .map(|(_, slot)| LoggedModule { id: slot.id, path: slot.path.clone() })
            .collect();
        let mut steps = Vec::new();
        while let Some((step, row)) = self.rows.pop_first() {
            let gradients: Vec<ModuleGradient> =
                order.iter().map(|i| row.gradients.get(*i).copied().unwrap_or_default()).collect();
            if gradients.iter().all(ModuleGradient::is_empty) {
                continue;
            }
            let values = gradients.iter().flat_map(ModuleGradient::values).flatten();
            self.report.non_finite += values.filter(|v| !v.is_finite()).count();
            steps.push(LogStep { step, loss: row.loss.map(|(_, loss)| loss), gradients, place: row.place });
        }
        if steps.is_empty() {
            return Err(self.nothing_found(name));
        }
        self.report.duplicate_steps = self.overwritten.into_iter().collect();
        Ok(GradientLog { meta: self.meta, estimated: self.estimated, modules, steps, report: self.report })
    }

    fn stack_of(&self, slot: usize) -> Option<usize> {
        self.slots.get_index(slot).map(|((stack, _), _)| *stack)
    }

    /// The stack of layers with most modules; a decoder before another one of the same size, else the first.
    fn main_stack(&self) -> Option<usize> {
        (0..self.stacks.len())
            .map(|stack| {
                let modules = self.slots.keys().filter(|(s, _)| *s == stack).count();
                let decoder = self.stacks.get_index(stack).is_some_and(|path| path.contains("decoder"));
                (modules, decoder, std::cmp::Reverse(stack))
            })
            .max()
            .filter(|(modules, ..)| *modules > 0)
            .map(|(_, _, std::cmp::Reverse(stack))| stack)
    }

    fn nothing_found(&self, name: &str) -> LogError {
        let skipped = || {
            let groups = self.report.files.iter().flat_map(|f| &f.skipped);
            groups.filter(|g| g.why != SkipReason::GlobalNorm.why())
        };
        let count: usize = skipped().map(|g| g.count).sum();
        let problem = if count > 0 && self.slots.is_empty() {
            let examples: Vec<String> = skipped()
                .take(3)
                .map(|g| format!("{}: {}", g.examples.first().map_or("", String::as_str), g.why))
                .collect();
            LogProblem::NoModules { count, examples: examples.join("; ") }
        } else if self.saw_global {
            LogProblem::GlobalNormOnly
        } else {
            LogProblem::NoGradients
        };
        LogError { file: name.to_owned(), position: Position::File, key: None, problem }
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
            Ok(id) => id,
            Err(reason) => return self.skip(key, reason),
        };
        if let Some(adapter) = &name.adapter {
            match &self.adapter {
                None => self.adapter = Some(adapter.clone()),
                Some(first) if first == adapter => {}
                Some(_) => return self.skip(key, SkipReason::OtherAdapter),
            }
        }
        self.log.lightning_attribute |= name.lightning_attribute;
        let (stack, _) = self.log.stacks.insert_full(name.layers_path.unwrap_or_default());
        let entry = self.log.slots.entry((stack, id));
        let slot = entry.index();
        entry.or_insert(Slot { id, path: name.path });
        if !self.claimed.insert((slot, name.matrix)) {
            return self.skip(key, SkipReason::Repeated);
        }
        let what = format!("{} {}", id.projection, name.matrix.name());
        self.recognised.entry(what).or_insert_with_key(|what| group(what.clone(), "")).add(key);
        KeyUse::Gradient { slot, matrix: name.matrix }
    }

    fn skip(&mut self, key: &str, reason: SkipReason) -> KeyUse {
        let what = || serde_json::to_value(reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        self.skipped.entry(reason).or_insert_with(|| group(what(), reason.why())).add(key);
        KeyUse::Ignored
    }

    /// Sets the log's meta data from a header.
    pub(super) fn header(&mut self, meta: LogMeta, estimated: bool) -> Result<(), LogError> {
        if self.log.has_header && self.log.meta != meta {
            return Err(self.error(LogProblem::TwoRuns));
        }
        self.log.has_header = true;
        self.log.meta = meta;
        self.log.estimated |= estimated;
        Ok(())
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
            None if self.log.has_header => return Err(self.error(LogProblem::NoStep)),
            None => {
                self.rows_without_step += 1;
                self.rows_without_step
            }
        };
        let file = self.log.report.files.len();
        let row = self.log.rows.entry(step).or_default();
        if let Some((rank, loss)) = loss
            && row.loss.is_none_or(|(best, _)| rank <= best)
        {
            row.loss = Some((rank, loss));
        }
        for (slot, matrix, value) in self.row.drain(..) {
            if row.gradients.len() <= slot {
                row.gradients.resize(slot + 1, ModuleGradient::default());
            }
            let Some(gradient) = row.gradients.get_mut(slot) else { continue };
            let cell = match matrix {
                Matrix::A => &mut gradient.a,
                Matrix::B => &mut gradient.b,
                Matrix::Weight => &mut gradient.weight,
            };
            if cell.replace(value).is_some() {
                self.log.overwritten.insert(step);
            } else {
                self.log.values += 1;
            }
            row.place = Place { file, line };
        }
        if self.log.values > self.log.limits.values {
            return Err(self.error(LogProblem::TooManyValues { limit: self.log.limits.values }));
        }
        Ok(())
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
        self.log.report.files.push(self.report);
    }
}

fn group(what: String, why: &str) -> KeyGroup {
    KeyGroup { what, why: why.to_owned(), count: 0, examples: Vec::new() }
}
