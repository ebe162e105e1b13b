//! Collects norms from any format into a [`GradientLog`](super::GradientLog).

mod choice;
mod finish;
mod runs;
mod summer;

use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use crate::layout::ModuleId;

pub(super) use self::runs::RunName;
use self::summer::Summer;
use super::blocks::LineReading;
use super::error::LogProblem;
use super::input::Limits;
use super::log::{LogMeta, ModuleGradient, Place};
use super::lookalike::Lookalikes;
use super::parameter::{Matrix, ParameterName};
use super::report::{FileReport, IngestReport, SkipReason};
use super::rows::Target;

/// The family of keys that are nothing but a parameter's name.
pub(super) const BARE: &str = "(the parameter's name alone)";

/// How a norm was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Measure {
    /// As a number.
    Exact,
    /// Estimated from a histogram, of so many elements where that is known.
    Histogram { count: Option<f64> },
}

/// One norm of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norm {
    pub(super) target: Target,
    pub(super) value: f64,
    pub(super) measure: Measure,
}

/// What one way of measuring gave in a step: one entry a module.
type Column = Vec<ModuleGradient>;

/// What a column belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Slot {
    /// A projection of a layer, by the index of its layers path.
    Projection(usize, ModuleId),
    /// Any other module, by its path.
    Other(String, SkipReason),
}

#[derive(Default)]
struct Row {
    loss: Option<(u8, f64)>,
    /// By family and measure: exact norms stand before estimates of the same family.
    gradients: Vec<Column>,
    /// Whether it holds what the first row of a log holds that is summed up, which is not kept.
    alike: bool,
    place: Place,
    global: Option<f64>,
    /// Elements of all histograms.
    elements: f64,
}

impl Row {
    fn holds_norms(&self) -> bool {
        self.alike || self.gradients.iter().any(|column| !column.is_empty())
    }

    /// Takes a loss, unless a better key gave one.
    fn take_loss(&mut self, loss: Option<(u8, f64)>) {
        if let Some((rank, _)) = loss
            && self.loss.is_none_or(|(best, _)| rank <= best)
        {
            self.loss = loss;
        }
    }

    fn contradicts(&self, norm: &Norm) -> bool {
        let column = self.gradients.get(source(norm));
        let held = column.and_then(|column| column.get(norm.target.slot)).and_then(|held| match norm.target.matrix {
            Matrix::A => held.a,
            Matrix::B => held.b,
            Matrix::Weight => held.weight,
        });
        held.is_some_and(|held| {
            held.is_finite() && norm.value.is_finite() && (held - norm.value).abs() > 1e-6 * held.abs()
        })
    }
}

/// A log under construction, over one or more files.
pub(super) struct LogBuilder {
    pub(super) limits: Limits,
    /// How lines are read that may be alike.
    pub(super) line_reading: LineReading,
    /// The run that was asked for.
    asked: Option<String>,
    /// From the header, where a file had one.
    header: Option<LogMeta>,
    /// Whether a header says that norms were estimated.
    pub(super) estimated: bool,
    /// Whether any value was a histogram of W&B.
    pub(super) saw_histogram: bool,
    /// Whether any key was a global norm.
    pub(super) saw_global: bool,
    /// Whether numbers under parameters' bare names were left out because their rows name no step.
    pub(super) saw_bare_without_step: bool,
    /// What a tracker's folders stand for.
    pub(super) tags: BTreeMap<String, String>,
    /// Paths of lists of layers.
    stacks: IndexSet<String>,
    /// Module paths.
    slots: IndexMap<Slot, String>,
    families: IndexSet<String>,
    runs: IndexSet<RunName>,
    rows: BTreeMap<(usize, u64), Row>,
    values: usize,
    overwritten: BTreeSet<(usize, u64)>,
    /// Norms that are summed up in place of being kept in `rows`.
    summer: Option<Summer>,
    lightning_attribute: bool,
    lookalikes: Lookalikes,
    report: IngestReport,
}

impl LogBuilder {
    /// `asked` is the run to take where there are several.
    pub(super) fn new(limits: Limits, asked: Option<&str>) -> Self {
        Self {
            limits,
            line_reading: LineReading::default(),
            asked: asked.map(str::to_owned),
            header: None,
            estimated: false,
            saw_histogram: false,
            saw_global: false,
            saw_bare_without_step: false,
            tags: BTreeMap::new(),
            stacks: IndexSet::new(),
            slots: IndexMap::new(),
            families: IndexSet::new(),
            runs: IndexSet::new(),
            rows: BTreeMap::new(),
            values: 0,
            overwritten: BTreeSet::new(),
            summer: None,
            lightning_attribute: false,
            lookalikes: Lookalikes::default(),
            report: IngestReport::default(),
        }
    }

    /// Number of a family of keys.
    pub(super) fn family(&mut self, family: String) -> usize {
        self.families.insert_full(family).0
    }

    /// Whether a family of keys is nothing but the parameters' names.
    pub(super) fn is_bare(&self, family: usize) -> bool {
        self.families.get_index(family).is_some_and(|family| family == BARE)
    }

    /// Number of a run.
    pub(super) fn run(&mut self, run: &RunName) -> usize {
        match self.runs.get_index_of(run) {
            Some(number) => number,
            None => self.runs.insert_full(run.clone()).0,
        }
    }

    /// Whether norms of a step that is the run's first or earlier contradict what the run holds of it.
    pub(super) fn begins_again(&self, run: usize, step: u64, norms: &[Norm]) -> bool {
        let mut held = self.rows.range((run, 0)..=(run, step)).filter(|(_, row)| row.holds_norms());
        let Some((first, row)) = held.next() else { return false };
        first.1 == step && held.next().is_none() && norms.iter().any(|norm| row.contradicts(norm))
    }

    /// Whether a column is that of a projection of a layer.
    pub(super) fn is_projection(&self, slot: usize) -> bool {
        matches!(self.slots.get_index(slot), Some((Slot::Projection(..), _)))
    }

    /// Whether the file that is being read gave a run any norms.
    pub(super) fn holds_rows_of_this_file(&self, run: usize) -> bool {
        let file = self.report.files.len();
        self.rows.range((run, 0)..=(run, u64::MAX)).any(|(_, row)| row.holds_norms() && row.place.file == file)
    }

    /// Number of another run beside one: of a file, or of it from a line on.
    pub(super) fn run_beside(&mut self, run: usize, file: &str, line: Option<u64>) -> usize {
        let mut beside = self.runs.get_index(run).cloned().unwrap_or_default();
        let file = last_part(file);
        let part = line.map_or_else(|| file.to_owned(), |line| format!("{file} from line {line}"));
        beside.name = if beside.name.is_empty() { part } else { format!("{}, {part}", beside.name) };
        self.run(&beside)
    }

    /// Remembers a norm over all parameters.
    pub(super) fn see_global(&mut self, run: usize, step: u64, value: f64) {
        if !value.is_finite() {
            self.rows.entry((run, step)).or_default().global = Some(value);
        }
    }

    /// Leaves out all steps of a run from one on; gives the number of those that held gradients.
    #[cfg_attr(not(feature = "binary-logs"), allow(dead_code, reason = "only binary logs need it"))]
    pub(super) fn restart_at(&mut self, run: usize, step: u64) -> usize {
        let later: Vec<(usize, u64)> = self.rows.range((run, step)..=(run, u64::MAX)).map(|(key, _)| *key).collect();
        let dropped = later.iter().filter_map(|key| self.rows.remove(key));
        let with_norms = dropped.filter(Row::holds_norms).count();
        self.overwritten.retain(|(of, at)| *of != run || *at < step);
        with_norms
    }

    /// Sets the log's meta data; a second header must say the same.
    pub(super) fn set_header(&mut self, meta: LogMeta) -> Result<(), LogProblem> {
        match &self.header {
            Some(first) if *first != meta => Err(LogProblem::TwoRuns),
            _ => {
                self.header = Some(meta);
                Ok(())
            }
        }
    }

    /// Column of a module, which is made where it is new.
    pub(super) fn slot(&mut self, id: Result<ModuleId, SkipReason>, name: ParameterName) -> usize {
        self.lightning_attribute |= name.lightning_attribute;
        let path = name.path;
        let key = match id {
            Ok(id) => {
                let (stack, _) = self.stacks.insert_full(name.layers_path.unwrap_or_default());
                let key = Slot::Projection(stack, id);
                // Two matrices of a layer that both count as one projection: the first is it.
                let taken = self.slots.get(&key).is_some_and(|first| *first != path);
                if taken { Slot::Other(path.clone(), SkipReason::Unknown) } else { key }
            }
            Err(reason) => Slot::Other(path.clone(), reason),
        };
        let entry = self.slots.entry(key);
        let slot = entry.index();
        entry.or_insert(path);
        slot
    }

    /// Adds norms to a step; what it already holds is overwritten. Norms whose keys name a run go to that.
    pub(super) fn add(
        &mut self,
        run: usize,
        step: u64,
        loss: Option<(u8, f64)>,
        norms: &[Norm],
        line: u64,
    ) -> Result<(), LogProblem> {
        let place = Place { file: self.report.files.len(), line };
        if loss.is_some() {
            self.rows.entry((run, step)).or_default().take_loss(loss);
        }
        if !norms.is_empty() && self.sums_up() {
            self.set_irregular();
            return Ok(());
        }
        let mut values = 0;
        for chunk in norms.chunk_by(|a, b| a.target.run == b.target.run) {
            let run = chunk.first().and_then(|norm| norm.target.run).unwrap_or(run);
            let row = self.rows.entry((run, step)).or_default();
            row.place = place;
            for norm in chunk {
                let (added, element_count) = put(row, norm);
                row.elements += element_count;
                if added {
                    values += 1;
                } else {
                    self.overwritten.insert((run, step));
                }
            }
        }
        self.count_values(values)
    }

    /// So many norms more.
    fn count_values(&mut self, values: usize) -> Result<(), LogProblem> {
        self.values += values;
        let limit = self.limits.values;
        if self.values > limit { Err(LogProblem::TooManyValues { limit }) } else { Ok(()) }
    }

    /// A file was read to its end.
    pub(super) fn end_file(&mut self, report: FileReport, lookalikes: &Lookalikes) {
        self.lookalikes.merge(lookalikes);
        self.report.files.push(report);
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
}

/// A path's last part.
fn last_part(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Where in a row norms of one family and measure stand.
fn source(norm: &Norm) -> usize {
    2 * norm.target.family + usize::from(norm.measure != Measure::Exact)
}

/// Puts a norm into a row; says whether its place was empty, and how many elements it was estimated from.
fn put(row: &mut Row, norm: &Norm) -> (bool, f64) {
    let Norm { target: Target { slot, matrix, .. }, value, measure } = *norm;
    let source = source(norm);
    let elements = match measure {
        Measure::Exact => 0.0,
        Measure::Histogram { count } => count.unwrap_or(0.0),
    };
    if row.gradients.len() <= source {
        row.gradients.resize(source + 1, Column::new());
    }
    let Some(column) = row.gradients.get_mut(source) else { return (true, 0.0) };
    if column.len() <= slot {
        column.resize(slot + 1, ModuleGradient::default());
    }
    let Some(gradient) = column.get_mut(slot) else { return (true, 0.0) };
    let cell = match matrix {
        Matrix::A => &mut gradient.a,
        Matrix::B => &mut gradient.b,
        Matrix::Weight => &mut gradient.weight,
    };
    (cell.replace(value).is_none(), elements)
}
