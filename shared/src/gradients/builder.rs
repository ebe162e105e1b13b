//! Collects norms from any format into a [`GradientLog`].

mod choice;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use crate::layout::ModuleId;

use self::choice::Choice;
use super::divergence::{self, Seen};
use super::error::{LogError, LogProblem, Position};
use super::input::Limits;
use super::log::{Clip, GradientLog, LogMeta, LogStep, LogUnit, LoggedModule, ModuleGradient, OtherModule, Place};
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

/// How a run is told from others: by what a person called it, by its tracker's number, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct RunName {
    pub(super) name: String,
    pub(super) id: String,
}

impl RunName {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), id: String::new() }
    }

    /// What the run is called among others; none where nothing names it.
    fn of<'a>(&'a self, all: &[&Self]) -> Option<Cow<'a, str>> {
        if self.name.is_empty() {
            return (!self.id.is_empty()).then(|| self.id.as_str().into());
        }
        let alone = all.iter().filter(|other| other.name == self.name).count() < 2;
        Some(if alone || self.id.is_empty() {
            self.name.as_str().into()
        } else {
            format!("{} ({})", self.name, self.id).into()
        })
    }
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
    place: Place,
    global: Option<f64>,
    /// Elements of all histograms.
    elements: f64,
}

impl Row {
    fn holds_norms(&self) -> bool {
        self.gradients.iter().any(|column| !column.is_empty())
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
    lightning_attribute: bool,
    lookalikes: Lookalikes,
    report: IngestReport,
}

impl LogBuilder {
    /// `asked` is the run to take where there are several.
    pub(super) fn new(limits: Limits, asked: Option<&str>) -> Self {
        Self {
            limits,
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
        if let Some((rank, _)) = loss {
            let row = self.rows.entry((run, step)).or_default();
            if row.loss.is_none_or(|(best, _)| rank <= best) {
                row.loss = loss;
            }
        }
        for chunk in norms.chunk_by(|a, b| a.target.run == b.target.run) {
            let run = chunk.first().and_then(|norm| norm.target.run).unwrap_or(run);
            let row = self.rows.entry((run, step)).or_default();
            row.place = place;
            for norm in chunk {
                let (added, element_count) = put(row, norm);
                row.elements += element_count;
                if added {
                    self.values += 1;
                } else {
                    self.overwritten.insert((run, step));
                }
            }
        }
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

    /// The finished log.
    ///
    /// # Errors
    /// No gradient of a projection of a layer was found, or several runs of which none was asked for; `name` is what the
    /// message calls the input.
    pub(super) fn finish(mut self, name: &str) -> Result<GradientLog, LogError> {
        let problem = |problem| LogError { file: name.to_owned(), position: Position::File, key: None, problem };
        let run = self.choose_run().map_err(problem)?;
        self.rows.retain(|(of, _), _| *of == run);
        self.overwritten.retain(|(of, _)| *of == run);
        let main = self.main_stack();
        if main.is_none() && !self.slots.keys().any(|slot| matches!(slot, Slot::Other(_, SkipReason::Fused))) {
            return Err(self.nothing_found(name));
        }
        let Some(choice) = Choice::of(&self.rows, &self.slots, main, &self.families) else {
            return Err(self.nothing_found(name));
        };
        self.report.notes.extend(choice.notes(&self.families));
        self.report.notes.extend(divergence::signs(&self.steps_seen(&choice)));
        self.add_notes(main, choice.estimated());
        let (modules, others, order) = self.columns(main, &choice);
        let mut steps = Vec::new();
        while let Some(((_, step), row)) = self.rows.pop_first() {
            let gradients: Vec<ModuleGradient> = order.iter().map(|i| choice.of_row(&row, *i)).collect();
            if gradients.iter().all(ModuleGradient::is_empty) {
                continue;
            }
            let values = gradients.iter().take(modules.len()).flat_map(ModuleGradient::values).flatten();
            self.report.non_finite += values.filter(|v| !v.is_finite()).count();
            steps.push(LogStep { step, loss: row.loss.map(|(_, loss)| loss), gradients, place: row.place });
        }
        if steps.is_empty() {
            return Err(self.nothing_found(name));
        }
        self.report.duplicate_steps = self.overwritten.into_iter().map(|(_, step)| step).collect();
        Ok(GradientLog {
            meta: self.header.unwrap_or_default(),
            estimated: self.estimated || choice.estimated(),
            modules,
            others,
            steps,
            report: self.report,
        })
    }

    /// The main stack's modules by layer and projection, then all others as they were named, and the slot of each.
    fn columns(&self, main: Option<usize>, choice: &Choice) -> (Vec<LoggedModule>, Vec<OtherModule>, Vec<usize>) {
        let (mut modules, mut others) = (Vec::new(), Vec::new());
        for (index, (slot, path)) in self.slots.iter().enumerate().filter(|(index, _)| choice.has(*index)) {
            let path = path.clone();
            match slot {
                Slot::Projection(stack, id) if Some(*stack) == main => {
                    modules.push((LoggedModule { id: *id, path }, index));
                }
                Slot::Projection(..) => others.push((OtherModule { path, reason: SkipReason::OtherStack }, index)),
                Slot::Other(_, reason) => others.push((OtherModule { path, reason: *reason }, index)),
            }
        }
        modules.sort_by_key(|(module, _)| module.id);
        let order = modules.iter().map(|(_, index)| *index).chain(others.iter().map(|(_, index)| *index)).collect();
        let modules = modules.into_iter().map(|(module, _)| module).collect();
        (modules, others.into_iter().map(|(other, _)| other).collect(), order)
    }

    /// The run that is read: the only one that holds gradients, or the one that was asked for.
    fn choose_run(&self) -> Result<usize, LogProblem> {
        let mut with_norms: Vec<usize> = Vec::new();
        for ((run, _), row) in &self.rows {
            if row.holds_norms() && with_norms.last() != Some(run) {
                with_norms.push(*run);
            }
        }
        let names: Vec<&RunName> = with_norms.iter().filter_map(|run| self.runs.get_index(*run)).collect();
        let label = |(number, run): (&usize, &&RunName)| match run.of(&names) {
            Some(label) => label.into_owned(),
            None => self.file_of_run(*number),
        };
        let shown = || with_norms.iter().zip(&names).map(label).collect::<Vec<_>>();
        let Some(asked) = &self.asked else {
            return match with_norms.as_slice() {
                [] => Ok(0),
                [run] => Ok(*run),
                _ => Err(LogProblem::SeveralRuns(shown())),
            };
        };
        let fitting = |fits: &dyn Fn(&RunName) -> bool| {
            let mut found = with_norms.iter().zip(&names).filter(|(_, run)| fits(run)).map(|(run, _)| *run);
            let first = found.next();
            first.filter(|_| found.next().is_none())
        };
        let exactly = || {
            let mut found = with_norms.iter().zip(shown()).filter(|(_, label)| label == asked).map(|(run, _)| *run);
            let first = found.next();
            first.filter(|_| found.next().is_none())
        };
        let by_part = || {
            let last_folder = |run: &RunName| run.name.rsplit('/').next().unwrap_or_default() == asked;
            fitting(&|run| run.name == *asked)
                .or_else(|| fitting(&|run| run.id.split(", ").any(|id| id == asked)))
                .or_else(|| fitting(&last_folder))
        };
        exactly().or_else(by_part).ok_or_else(|| LogProblem::NoSuchRun { asked: asked.clone(), runs: shown() })
    }

    /// What a run without a name is called: its file.
    fn file_of_run(&self, run: usize) -> String {
        let mut rows = self.rows.range((run, 0)..=(run, u64::MAX)).filter(|(_, row)| row.holds_norms());
        let file = rows.next().and_then(|(_, row)| self.report.files.get(row.place.file));
        file.map_or_else(|| "(rows without a run)".to_owned(), |file| last_part(&file.name).to_owned())
    }

    /// What tells of a run that diverged, step by step.
    fn steps_seen(&self, choice: &Choice) -> Vec<Seen> {
        let of_row = |((_, step), row): (&(usize, u64), &Row)| Seen {
            step: *step,
            loss: row.loss.map(|(_, loss)| loss),
            global: row.global,
            matrices: (0..self.slots.len())
                .map(|slot| choice.of_row(row, slot).values().into_iter().flatten().count())
                .sum(),
            elements: choice.estimated().then_some(row.elements),
        };
        self.rows.iter().map(of_row).collect()
    }

    /// Notes on the log as a whole.
    fn add_notes(&mut self, main: Option<usize>, estimated: bool) {
        let mut notes = Vec::new();
        for (stack, path) in self.stacks.iter().enumerate().filter(|(stack, _)| Some(*stack) != main) {
            let modules = self.modules_of(stack);
            notes.push(format!("{modules} modules under {path} were left out: {}", SkipReason::OtherStack.why()));
        }
        if self.lightning_attribute {
            notes.push(
                "a leading \"model.\" was taken for the attribute of a Lightning module and removed from the names"
                    .to_owned(),
            );
        }
        if self.rows.len() == 1 && self.overwritten.first().is_some_and(|(_, step)| *step == 0) {
            notes.push(
                "all values were written at step 0, as loggers do that are given no step; only the last of each was kept: \
                 pass the step to the logger"
                    .to_owned(),
            );
        } else if let Some((_, first)) = self.overwritten.first() {
            let count = self.overwritten.len();
            notes.push(format!(
                "{count} steps were written more than once (first: step {first}); the last value was kept"
            ));
        }
        if self.estimated || estimated {
            let of = if self.saw_histogram {
                "; wandb.watch takes them after a backward pass, which may be a micro-batch's"
            } else {
                ""
            };
            notes.push(format!("norms were estimated from histograms{of}"));
        }
        let meta = self.header.as_ref();
        if meta.and_then(|m| m.clip) == Some(Clip::Post) {
            notes.push("gradients were taken after clipping: steps with large gradients count for less".to_owned());
        }
        if meta.and_then(|m| m.unit) == Some(LogUnit::MicroBatch) {
            notes.push(
                "gradients are those of micro-batches, which are noisier than those of optimizer steps".to_owned(),
            );
        }
        self.report.notes.append(&mut notes);
    }

    /// Projections of the layers under a path.
    fn modules_of(&self, stack: usize) -> usize {
        self.slots.keys().filter(|slot| matches!(slot, Slot::Projection(of, _) if *of == stack)).count()
    }

    /// The stack of layers with most modules; a decoder before another one of the same size, else the first.
    fn main_stack(&self) -> Option<usize> {
        (0..self.stacks.len())
            .map(|stack| {
                let modules = self.modules_of(stack);
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
        let no_projection = self.stacks.is_empty();
        let problem = if self.saw_bare_without_step && self.values == 0 {
            LogProblem::BareWithoutStep { keys: self.lookalikes.keys().map(str::to_owned).collect() }
        } else if count > 0 && no_projection {
            let examples: Vec<String> = skipped()
                .take(3)
                .map(|g| format!("{}: {}", g.examples.first().map_or("", String::as_str), g.why))
                .collect();
            LogProblem::NoModules { count, examples: examples.join("; ") }
        } else if self.saw_global && no_projection {
            LogProblem::GlobalNormOnly
        } else {
            let format = self.report.files.iter().find_map(|file| file.format);
            LogProblem::NoGradients { format, keys: self.lookalikes.keys().map(str::to_owned).collect() }
        };
        LogError { file: name.to_owned(), position: Position::File, key: None, problem }
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
