//! The keys and rows of one file, on their way into a [`LogBuilder`].

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::builder::{BARE, LogBuilder, Measure, Norm, RunName};
use super::error::{LogError, LogProblem, Position};
use super::format::Format;
use super::histogram::{Histogram, Part};
use super::input::Limits;
use super::log::LogMeta;
use super::lookalike::Lookalikes;
use super::metric::{MetricKey, is_doubtful_step, is_measure, parse_metric};
use super::parameter::{Matrix, ParameterName};
use super::path::{run_of_folder, swanlab_folder};
use super::report::{FileReport, KeyGroup, SkipReason};

/// Where the gradient of a key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Column of the module.
    pub(super) slot: usize,
    pub(super) matrix: Matrix,
    /// Which of the log's families of keys the key belongs to: all that differ only in the parameter.
    pub(super) family: usize,
    /// The run that the key names, where one column holds one run.
    pub(super) run: Option<usize>,
}

/// What the value of a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    Gradient(Target),
    /// One array of the histogram of another key.
    Part(KeyId, Part),
    Step(u8),
    Loss(u8),
    /// A norm over all parameters, or the value of a row that names what it is of.
    Global,
    Name(u8),
    Variant,
    Value(u8),
    Measure,
    RunName,
    RunId,
    Nested,
    Merged,
    Header,
    /// Nothing by itself; what is inside it may be.
    Open,
    Ignored,
}

/// Which names a key is looked up among.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Names {
    /// Metrics: `grad_norm/<parameter>`, `step`, `loss`.
    Metrics,
    /// Bare parameters or modules.
    Parameters,
}

/// A key of the current file; resolves to a [`KeyUse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The row that is being read.
#[derive(Debug, Default)]
pub(super) struct CurrentRow {
    step: Option<(u8, u64)>,
    loss: Option<(u8, f64)>,
    norms: Vec<Norm>,
    histograms: IndexMap<KeyId, Histogram>,
    run: RunName,
    name: Option<(u8, String)>,
    variant: Option<String>,
    /// What the one value measures, where a column of its own says so.
    measure: Option<String>,
    value: Option<(u8, f64)>,
    global: Option<f64>,
    /// Whether the row was a header of the project's own format.
    pub(super) header: bool,
    /// Step and name of the row that this one stands in.
    outer: (Option<u64>, Option<String>),
}

/// A row that names no step, kept until it is known whether others do.
struct Unnumbered {
    run: usize,
    loss: Option<(u8, f64)>,
    norms: Vec<Norm>,
    line: u64,
}

/// One file on its way into a [`LogBuilder`].
pub(super) struct FileRows<'a> {
    pub(super) log: &'a mut LogBuilder,
    /// The file's name.
    pub(super) name: &'a str,
    /// Where the reader stands.
    pub(super) position: Position,
    report: FileReport,
    metrics: KeyTable,
    parameters: KeyTable,
    /// The file's first adapter: a second one on the same modules is left out.
    adapter: Option<String>,
    claimed: BTreeSet<Target>,
    recognised: IndexMap<String, KeyGroup>,
    skipped: IndexMap<SkipReason, KeyGroup>,
    lookalikes: Lookalikes,
    row: CurrentRow,
    /// The run of the whole file, and the number of that of the last row.
    file_run: RunName,
    last_run: Option<(RunName, usize)>,
    /// Step of the last row of several norms, by its run, and the run that goes on in this one's place.
    last_step: BTreeMap<usize, u64>,
    goes_on_as: BTreeMap<usize, usize>,
    /// What the values of a file are of, where its folder says so: swanlab numbers the folders and keeps their names apart.
    folder_name: Option<String>,
    /// Where the lines of a document begin, and how many of them the reader has passed.
    lines: Option<Vec<usize>>,
    unnumbered: Vec<Unnumbered>,
    numbered: bool,
    left_out: BTreeMap<&'static str, u64>,
    has_header: bool,
}

impl<'a> FileRows<'a> {
    /// `folder` is the file's place under the folder that was given: files of other places are other runs.
    pub(super) fn new(log: &'a mut LogBuilder, name: &'a str, folder: &str, format: Format, gzipped: bool) -> Self {
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
        let folder_name = swanlab_folder(name).and_then(|folder| log.tags.get(folder)).cloned();
        Self {
            log,
            name,
            folder_name,
            position: Position::File,
            report,
            metrics: KeyTable::default(),
            parameters: KeyTable::default(),
            adapter: None,
            claimed: BTreeSet::new(),
            recognised: IndexMap::new(),
            skipped: IndexMap::new(),
            lookalikes: Lookalikes::default(),
            row: CurrentRow::default(),
            file_run: RunName::named(&run_of_folder(folder)),
            last_run: None,
            last_step: BTreeMap::new(),
            goes_on_as: BTreeMap::new(),
            lines: None,
            unnumbered: Vec::new(),
            numbered: false,
            left_out: BTreeMap::new(),
            has_header: false,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.log.limits
    }

    pub(super) fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// Says once at the end of the file how often something happened.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.left_out.entry(what).or_default() += 1;
    }

    /// From now on the reader's place in this document is told by its lines.
    pub(super) fn count_lines_of(&mut self, text: &[u8]) {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        self.lines = Some(ends.collect());
    }

    /// Moves the reader's place to a byte of the document; gives its line, or the row's number where the text is no document.
    pub(super) fn move_to(&mut self, byte: usize) -> u64 {
        let Some(ends) = &self.lines else {
            return match self.position {
                Position::Line(line) => line,
                _ => self.report.rows + 1,
            };
        };
        let line = ends.partition_point(|end| *end < byte) as u64 + 1;
        self.position = Position::Line(line);
        line
    }

    /// A line that a parser of the document counted.
    pub(super) fn line_in_document(&self, line: usize) -> Option<Position> {
        self.lines.as_ref().map(|_| Position::Line(line as u64))
    }

    /// Whether any key of the file was a gradient's.
    pub(super) fn has_gradients(&self) -> bool {
        !self.recognised.is_empty()
    }

    /// Rows that were read so far.
    pub(super) fn rows(&self) -> u64 {
        self.report.rows
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

    /// A key's name, as the file has it.
    pub(super) fn key_name(&self, KeyId(names, index): KeyId) -> Option<&str> {
        self.table(names).keys.get_index(index).map(|(name, _)| name.as_str())
    }

    /// What a key is for.
    pub(super) fn usage(&self, KeyId(names, index): KeyId) -> KeyUse {
        self.table(names).keys.get_index(index).map_or(KeyUse::Ignored, |(_, usage)| *usage)
    }

    /// Finds or registers a key that stands inside another one's object; it is not counted among the file's keys.
    pub(super) fn key_inside(&mut self, key: &str) -> Result<KeyId, LogError> {
        let other = self.report.other_keys;
        let found = self.key(Names::Metrics, key);
        self.report.other_keys = other;
        found
    }

    /// Finds or registers the key of a member of a key's object, whose names together are a parameter's.
    pub(super) fn key_below(&mut self, KeyId(names, index): KeyId, member: &str) -> Result<KeyId, LogError> {
        let above = self.key_name(KeyId(names, index)).unwrap_or_default();
        let name = format!("{above}.{member}");
        self.key(names, &name)
    }

    /// Whether a gradient is that of a projection of a layer.
    pub(super) fn is_projection(&self, target: Target) -> bool {
        self.log.is_projection(target.slot)
    }

    /// Whether nothing but a parameter's own name says that a key is a gradient: its value may be anything.
    pub(super) fn is_bare(&self, target: Target) -> bool {
        self.log.is_bare(target.family)
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
            Names::Metrics => self.register_metric(key)?,
            Names::Parameters => self.register_parameter(key, key, Some("")),
        };
        let table = match names {
            Names::Metrics => &mut self.metrics,
            Names::Parameters => &mut self.parameters,
        };
        let (index, _) = table.keys.insert_full(key.to_owned(), usage);
        table.expected = index + 1;
        Ok(KeyId(names, index))
    }

    fn register_metric(&mut self, key: &str) -> Result<KeyUse, LogError> {
        // `gradients/NAME.values`: W&B's export flattens histograms.
        if let Some((base, part)) = Part::of_key(key)
            && matches!(parse_metric(base), MetricKey::Gradient(_))
        {
            let base = self.key(Names::Metrics, base)?;
            return Ok(match self.usage(base) {
                KeyUse::Gradient(_) => KeyUse::Part(base, part),
                _ => KeyUse::Ignored,
            });
        }
        Ok(match parse_metric(key) {
            MetricKey::Gradient(parameter) => self.register_parameter(key, parameter, Some(key)),
            MetricKey::Bare(parameter) => self.register_parameter(key, parameter, None),
            MetricKey::GlobalNorm => {
                self.log.saw_global = true;
                self.skip(key, SkipReason::GlobalNorm);
                KeyUse::Global
            }
            MetricKey::Step(rank) => KeyUse::Step(rank),
            MetricKey::Loss(rank) => KeyUse::Loss(rank),
            MetricKey::Nested => KeyUse::Nested,
            MetricKey::Merged => KeyUse::Merged,
            MetricKey::Header => KeyUse::Header,
            MetricKey::Name(rank) => KeyUse::Name(rank),
            MetricKey::Variant => KeyUse::Variant,
            MetricKey::Value(rank) => KeyUse::Value(rank),
            MetricKey::Measure => KeyUse::Measure,
            MetricKey::RunName => KeyUse::RunName,
            MetricKey::RunId => KeyUse::RunId,
            MetricKey::Skipped(reason) => self.skip(key, reason),
            MetricKey::PassedOver => KeyUse::Ignored,
            MetricKey::Other => {
                self.report.other_keys += 1;
                self.lookalikes.see(key);
                // A parameter's own statistics hold no rows.
                if key.contains("layers.") { KeyUse::Ignored } else { KeyUse::Open }
            }
        })
    }

    /// `marked` is the name with what says that the value is a gradient, if anything but the place of the key does.
    fn register_parameter(&mut self, key: &str, parameter: &str, marked: Option<&str>) -> KeyUse {
        let name = ParameterName::parse(parameter);
        let id = match name.module() {
            Err(reason) if !name.is_matrix || reason.is_no_module() => {
                self.lookalikes.see(key);
                return self.skip(key, reason);
            }
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
        let (run, family) = marked.map_or_else(|| (None, BARE.to_owned()), |marked| family(marked, parameter));
        let family = self.log.family(family);
        let run = run.map(|run| self.log.run(&RunName::named(run)));
        let target = Target { slot, matrix, family, run };
        if !self.claimed.insert(target) {
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
        self.lookalikes.see(key);
        KeyUse::Gradient(target)
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

    /// The whole file is of this run, as its tracker names and numbers it.
    #[cfg(feature = "binary-logs")]
    pub(super) fn set_file_run(&mut self, name: &str, id: &str) {
        self.file_run = RunName { name: name.to_owned(), id: id.to_owned() };
    }

    /// The rows that follow are of this run of the file; [`Self::end_run`] takes what this gives.
    pub(super) fn begin_run(&mut self, name: &str) -> RunName {
        let of = &self.file_run.name;
        let name = if of.is_empty() { name.to_owned() } else { format!("{of}/{name}") };
        std::mem::replace(&mut self.file_run, RunName::named(&name))
    }

    /// The rows that follow are of the file's own run again.
    pub(super) fn end_run(&mut self, before: RunName) {
        self.file_run = before;
    }

    /// Puts a norm into the current row.
    pub(super) fn set(&mut self, target: Target, value: f64) -> Result<(), LogProblem> {
        self.set_measured(target, value, Measure::Exact)
    }

    /// Puts a norm that was estimated from `count` elements into the current row.
    pub(super) fn set_estimated(&mut self, target: Target, value: f64, count: Option<f64>) -> Result<(), LogProblem> {
        self.set_measured(target, value, Measure::Histogram { count })
    }

    fn set_measured(&mut self, target: Target, value: f64, measure: Measure) -> Result<(), LogProblem> {
        if value < 0.0 {
            return Err(LogProblem::Negative(value));
        }
        self.row.norms.push(Norm { target, value, measure });
        Ok(())
    }

    /// Puts the norm of a histogram of W&B into the current row.
    pub(super) fn set_histogram(&mut self, target: Target, histogram: &Histogram) -> Result<(), LogProblem> {
        let norm = histogram.norm()?;
        self.report.format = match self.report.format {
            Some(Format::JsonLines) => Some(Format::WandbHistory),
            format => format,
        };
        self.log.saw_histogram = true;
        self.set_estimated(target, norm, Some(histogram.count()))
    }

    /// The histogram of a key whose arrays come one by one.
    pub(super) fn histogram(&mut self, key: KeyId) -> &mut Histogram {
        self.row.histograms.entry(key).or_default()
    }

    /// Sets the step of the current row, unless a better key gave it.
    pub(super) fn set_step(&mut self, rank: u8, value: f64) -> Result<(), LogProblem> {
        // Steps above 2^53 are not whole numbers any more.
        if !(value >= 0.0 && value <= (1_u64 << 53) as f64 && value.fract() == 0.0) {
            return if is_doubtful_step(rank) { Ok(()) } else { Err(LogProblem::BadStep(value.to_string())) };
        }
        if self.row.step.is_none_or(|(best, _)| rank < best) {
            self.row.step = Some((rank, value as u64));
        }
        Ok(())
    }

    /// Sets the loss of the current row, unless a better key gave it.
    pub(super) fn set_loss(&mut self, rank: u8, value: f64) {
        if self.row.loss.is_none_or(|(best, _)| rank < best) {
            self.row.loss = Some((rank, value));
        }
    }

    /// Sets the norm over all parameters, which may also be the value that the row is about.
    pub(super) fn set_global(&mut self, value: f64) {
        self.row.global = Some(value);
    }

    /// Sets what the row's one value is of, unless a better key gave it.
    pub(super) fn set_name(&mut self, rank: u8, name: &str) {
        // `metric` may say what is measured, and another column of what.
        if is_measure(name) {
            self.set_measure(name);
            if self.row.name.is_some() {
                return;
            }
            self.row.name = Some((u8::MAX, name.to_owned()));
            return;
        }
        if self.row.name.as_ref().is_none_or(|(best, _)| rank < *best) {
            self.row.name = Some((rank, name.to_owned()));
        }
    }

    /// Sets what the row's one value measures, where the text says that.
    pub(super) fn set_measure(&mut self, text: &str) {
        if is_measure(text) {
            self.row.measure = Some(text.to_owned());
        }
    }

    /// Sets the second part of what the row's one value is of.
    pub(super) fn set_variant(&mut self, name: &str) {
        self.row.variant = Some(name.to_owned());
    }

    /// Sets the row's one value, unless a better key gave it.
    pub(super) fn set_value(&mut self, rank: u8, value: f64) {
        if self.row.value.is_none_or(|(best, _)| rank < best) {
            self.row.value = Some((rank, value));
        }
    }

    /// Sets the name of the row's run.
    pub(super) fn set_run_name(&mut self, name: &str) {
        name.clone_into(&mut self.row.run.name);
    }

    /// Sets the number of the row's run; where several columns number it, all of them do.
    pub(super) fn set_run_id(&mut self, id: &str) {
        let known = &mut self.row.run.id;
        if known.split(", ").all(|part| part != id) {
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(id);
        }
    }

    /// Marks the current row as a header of the project's own format.
    pub(super) fn mark_header(&mut self) {
        self.row.header = true;
    }

    /// Whether the current row is a header of the project's own format.
    pub(super) fn is_header(&self) -> bool {
        self.row.header
    }

    /// Forgets the current row.
    pub(super) fn discard(&mut self) {
        self.row = CurrentRow::default();
    }

    /// Begins a row inside the current one, of the same run; [`Self::leave`] goes on with what this gives.
    pub(super) fn enter(&mut self) -> CurrentRow {
        let run = self.row.run.clone();
        let name = self.row.name.as_ref().map(|(_, name)| name.clone());
        let outer =
            (self.row.step.map(|(_, step)| step).or(self.row.outer.0), name.or_else(|| self.row.outer.1.clone()));
        std::mem::replace(&mut self.row, CurrentRow { run, outer, ..CurrentRow::default() })
    }

    /// Goes on with a row that was left for one inside it.
    pub(super) fn leave(&mut self, row: CurrentRow) {
        self.row = row;
    }

    /// The row's one value becomes what its name says.
    fn resolve_name(&mut self) -> Result<(), LogError> {
        let named = self.row.name.take().map(|(_, name)| name);
        if !self.row.norms.is_empty() && self.row.value.is_none() {
            // A row of many values: what it is called is its run.
            if let Some(name) = named.or_else(|| self.row.outer.1.take())
                && self.row.run.name.is_empty()
            {
                self.row.run.name = name;
            }
            return Ok(());
        }
        let of_folder = || self.row.value.and(self.folder_name.clone().or_else(|| self.row.outer.1.clone()));
        let Some(mut name) = named.or_else(of_folder) else {
            let nameless = self.row.value.is_some() && swanlab_folder(self.name).is_some();
            return if nameless { Err(self.error(LogProblem::NoName)) } else { Ok(()) };
        };
        let (value, global) = (self.row.value.take(), self.row.global.take());
        // A column called `grad_norm` says what it is, another may hold anything.
        let Some(value) = global.or(value.map(|(_, value)| value)) else { return Ok(()) };
        if let Some(variant) = self.row.variant.take()
            && variant != name
        {
            name = match variant.as_str() {
                // The matrix of an adapter's pair.
                "A" | "lora_A" => format!("{name}.lora_A.weight"),
                "B" | "lora_B" => format!("{name}.lora_B.weight"),
                _ => format!("{name}/{variant}"),
            };
        }
        if let Some(measure) = self.row.measure.take()
            && measure != name
        {
            name = format!("{measure}/{name}");
        }
        let mut key = self.key(Names::Metrics, &name)?;
        if global.is_some() && matches!(self.usage(key), KeyUse::Open) {
            // A column called `grad_norm` says that these are gradients, whatever the names are.
            key = self.key(Names::Parameters, &name)?;
        }
        self.set_number(key, value).map_err(|p| self.key_error(key, p))
    }

    /// Puts a number where its key says.
    pub(super) fn set_number(&mut self, key: KeyId, value: f64) -> Result<(), LogProblem> {
        match self.usage(key) {
            KeyUse::Gradient(target) => self.set(target, value),
            KeyUse::Step(rank) => self.set_step(rank, value),
            KeyUse::Loss(rank) => {
                self.set_loss(rank, value);
                Ok(())
            }
            KeyUse::Global => {
                self.set_global(value);
                Ok(())
            }
            KeyUse::Value(rank) => {
                self.set_value(rank, value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Number of the current row's run.
    fn run_of_row(&mut self) -> usize {
        let own = &self.row.run;
        let run = if own.name.is_empty() && own.id.is_empty() { &self.file_run } else { own };
        match &self.last_run {
            Some((last, number)) if last == run => *number,
            _ => {
                let number = self.log.run(run);
                self.last_run = Some((run.clone(), number));
                number
            }
        }
    }

    /// Adds the current row to the log.
    pub(super) fn commit(&mut self, line: u64) -> Result<(), LogError> {
        self.report.rows += 1;
        for (key, histogram) in std::mem::take(&mut self.row.histograms) {
            if let KeyUse::Gradient(target) = self.usage(key)
                && !histogram.is_empty()
            {
                self.set_histogram(target, &histogram).map_err(|p| self.key_error(key, p))?;
            }
        }
        let value = self.row.value.is_some();
        self.resolve_name()?;
        let run = self.run_of_row();
        let CurrentRow { step, loss, norms, global, outer, .. } = std::mem::take(&mut self.row);
        let long = value && !norms.is_empty();
        let step = step.map(|(_, step)| step).or_else(|| outer.0.filter(|_| long));
        if loss.is_none() && norms.is_empty() && global.is_none() {
            return Ok(());
        }
        match step {
            Some(step) => {
                self.numbered = true;
                let run = self.run_that_goes_on(run, step, &norms, line);
                if let Some(global) = global {
                    self.log.see_global(run, step, global);
                }
                let added = self.log.add(run, step, loss, &norms, line);
                added.map_err(|problem| self.error(problem))
            }
            None if self.has_header || (long && !self.all_bare(&norms)) => Err(self.error(LogProblem::NoStep)),
            None if loss.is_none() && norms.is_empty() => Ok(()),
            None => {
                self.unnumbered.push(Unnumbered { run, loss, norms, line });
                Ok(())
            }
        }
    }

    /// Whether nothing but parameters' names says that these are norms.
    fn all_bare(&self, norms: &[Norm]) -> bool {
        norms.iter().all(|norm| self.log.is_bare(norm.target.family))
    }

    /// The run of a row of norms: another one from where its steps begin once more with other norms, as a log is left to which
    /// a second run was appended.
    fn run_that_goes_on(&mut self, run: usize, step: u64, norms: &[Norm], line: u64) -> usize {
        if norms.is_empty() {
            return self.goes_on_as.get(&run).copied().unwrap_or(run);
        }
        let now = self.goes_on_as.get(&run).copied().unwrap_or(run);
        let falls_back = self.last_step.insert(run, step).is_none_or(|last| step < last);
        if !(falls_back && self.log.begins_again(now, step, norms)) {
            return now;
        }
        let own = self.log.holds_rows_of_this_file(now);
        let other = self.log.run_beside(run, self.name, own.then_some(line));
        self.goes_on_as.insert(run, other);
        other
    }

    /// Leaves out what earlier rows of the file's run gave for a step and later ones: the run went on from there.
    #[cfg_attr(not(feature = "binary-logs"), allow(dead_code, reason = "only binary logs need it"))]
    pub(super) fn restart_at(&mut self, step: u64) {
        let run = self.run_of_row();
        let dropped = self.log.restart_at(run, step);
        if dropped > 0 {
            self.note(format!(
                "the run was started again at step {step}: {dropped} steps from there on, of the time before, were left out"
            ));
        }
    }

    /// Numbers under bare names in rows without a step are norms only where they cannot be ranks, as configurations have them by
    /// module: in several rows, and broken.
    fn drop_what_may_be_no_norms(&mut self, unnumbered: &mut Vec<Unnumbered>) {
        let bare = |norm: &Norm| self.log.is_bare(norm.target.family);
        let rows = unnumbered.iter().filter(|row| row.norms.iter().any(bare)).count();
        let broken = unnumbered.iter().flat_map(|row| &row.norms).any(|norm| bare(norm) && norm.value.fract() != 0.0);
        if rows == 0 || (rows > 1 && broken && !self.numbered) {
            return;
        }
        for row in &mut *unnumbered {
            row.norms.retain(|norm| !bare(norm));
        }
        unnumbered.retain(|row| row.loss.is_some() || !row.norms.is_empty());
        self.log.saw_bare_without_step = true;
    }

    /// Ends the file.
    ///
    /// # Errors
    /// More values than are allowed.
    pub(super) fn finish(mut self) -> Result<(), LogError> {
        let mut unnumbered = std::mem::take(&mut self.unnumbered);
        self.drop_what_may_be_no_norms(&mut unnumbered);
        let with_norms = unnumbered.iter().filter(|row| !row.norms.is_empty()).count();
        if self.numbered && with_norms > 0 {
            self.note(format!("{with_norms} rows name no step, unlike the others, and were left out"));
        } else if !self.numbered && !unnumbered.is_empty() {
            self.note(format!("{} rows name no step; they were counted from 1", unnumbered.len()));
            let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
            for row in unnumbered {
                let step = counts.entry(row.run).or_default();
                *step += 1;
                self.log.add(row.run, *step, row.loss, &row.norms, row.line).map_err(|problem| self.error(problem))?;
            }
        }
        for (what, count) in std::mem::take(&mut self.left_out) {
            self.note(format!("{count} {what}"));
        }
        if self.recognised.is_empty() {
            let what = if self.skipped.is_empty() { "it holds no gradients" } else { "none of its gradients is used" };
            self.report.notes.push(what.to_owned());
        }
        self.report.recognised = self.recognised.into_values().collect();
        self.report.skipped = self.skipped.into_values().collect();
        self.log.end_file(self.report, &self.lookalikes);
        Ok(())
    }
}

/// The run that a key names, and its family: what is left of it without the run and the parameter.
fn family<'k>(key: &'k str, parameter: &str) -> (Option<&'k str>, String) {
    let Some(at) = key.find(parameter) else { return (None, String::new()) };
    let (before, after) = (key.get(..at).unwrap_or_default(), key.get(at + parameter.len()..).unwrap_or_default());
    // W&B's export of a chart: `run - grad_norm/…`.
    let (run, before) = match before.rsplit_once(" - ") {
        Some((run, rest)) => (Some(run), rest),
        None => (None, before),
    };
    (run, format!("{before}{}", if after == "_step" { "" } else { after }))
}

fn group(what: String, why: &str) -> KeyGroup {
    KeyGroup { what, why: why.to_owned(), count: 0, examples: Vec::new() }
}
