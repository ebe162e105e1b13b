//! Collects norms from any format into a [`GradientLog`].

use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use crate::layout::ModuleId;

use super::error::{LogError, LogProblem, Position};
use super::format::Format;
use super::input::Limits;
use super::log::{Clip, GradientLog, LogMeta, LogStep, LogUnit, LoggedModule, ModuleGradient, OtherModule, Place};
use super::parameter::{Matrix, ParameterName};
use super::report::{FileReport, IngestReport, SkipReason};

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
    gradients: Vec<ModuleGradient>,
    place: Place,
}

/// A log under construction, over one or more files.
pub(super) struct LogBuilder {
    pub(super) limits: Limits,
    /// From the header, where a file had one.
    header: Option<LogMeta>,
    /// Whether any norm was estimated.
    pub(super) estimated: bool,
    /// Whether any key was a global norm.
    pub(super) saw_global: bool,
    /// Paths of lists of layers.
    stacks: IndexSet<String>,
    /// Module paths.
    slots: IndexMap<Slot, String>,
    rows: BTreeMap<u64, Row>,
    values: usize,
    overwritten: BTreeSet<u64>,
    lightning_attribute: bool,
    report: IngestReport,
}

impl LogBuilder {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            header: None,
            estimated: false,
            saw_global: false,
            stacks: IndexSet::new(),
            slots: IndexMap::new(),
            rows: BTreeMap::new(),
            values: 0,
            overwritten: BTreeSet::new(),
            lightning_attribute: false,
            report: IngestReport::default(),
        }
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

    /// Adds norms to a step; what it already holds is overwritten.
    pub(super) fn add(
        &mut self,
        step: u64,
        loss: Option<(u8, f64)>,
        norms: impl Iterator<Item = (usize, Matrix, f64)>,
        line: u64,
    ) -> Result<(), LogProblem> {
        let place = Place { file: self.report.files.len(), line };
        let row = self.rows.entry(step).or_default();
        if let Some((rank, _)) = loss
            && row.loss.is_none_or(|(best, _)| rank <= best)
        {
            row.loss = loss;
        }
        for (slot, matrix, norm) in norms {
            if row.gradients.len() <= slot {
                row.gradients.resize(slot + 1, ModuleGradient::default());
            }
            let Some(gradient) = row.gradients.get_mut(slot) else { continue };
            let cell = match matrix {
                Matrix::A => &mut gradient.a,
                Matrix::B => &mut gradient.b,
                Matrix::Weight => &mut gradient.weight,
            };
            if cell.replace(norm).is_some() {
                self.overwritten.insert(step);
            } else {
                self.values += 1;
            }
            row.place = place;
        }
        let limit = self.limits.values;
        if self.values > limit { Err(LogProblem::TooManyValues { limit }) } else { Ok(()) }
    }

    /// A file was read to its end.
    pub(super) fn end_file(&mut self, report: FileReport) {
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
    /// No gradient of a projection of a layer was found; `name` is what the message calls the input.
    pub(super) fn finish(mut self, name: &str) -> Result<GradientLog, LogError> {
        let main = self.main_stack();
        if main.is_none() && !self.slots.keys().any(|slot| matches!(slot, Slot::Other(_, SkipReason::Fused))) {
            return Err(self.nothing_found(name));
        }
        self.add_notes(main);
        let (modules, others, order) = self.columns(main);
        let mut steps = Vec::new();
        while let Some((step, row)) = self.rows.pop_first() {
            let gradients: Vec<ModuleGradient> =
                order.iter().map(|i| row.gradients.get(*i).copied().unwrap_or_default()).collect();
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
        self.report.duplicate_steps = self.overwritten.into_iter().collect();
        Ok(GradientLog {
            meta: self.header.unwrap_or_default(),
            estimated: self.estimated,
            modules,
            others,
            steps,
            report: self.report,
        })
    }

    /// The main stack's modules by layer and projection, then all others as they were named, and the slot of each.
    fn columns(&self, main: Option<usize>) -> (Vec<LoggedModule>, Vec<OtherModule>, Vec<usize>) {
        let (mut modules, mut others) = (Vec::new(), Vec::new());
        for (index, (slot, path)) in self.slots.iter().enumerate() {
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

    /// Notes on the log as a whole.
    fn add_notes(&mut self, main: Option<usize>) {
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
        if let Some(first) = self.overwritten.first() {
            let count = self.overwritten.len();
            notes.push(format!(
                "{count} steps were written more than once (first: step {first}); the last value was kept"
            ));
        }
        if self.estimated {
            let watched = self.report.files.iter().any(|f| f.format == Some(Format::WandbHistory));
            let of = if watched {
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
        let problem = if count > 0 && no_projection {
            let examples: Vec<String> = skipped()
                .take(3)
                .map(|g| format!("{}: {}", g.examples.first().map_or("", String::as_str), g.why))
                .collect();
            LogProblem::NoModules { count, examples: examples.join("; ") }
        } else if self.saw_global && no_projection {
            LogProblem::GlobalNormOnly
        } else {
            LogProblem::NoGradients
        };
        LogError { file: name.to_owned(), position: Position::File, key: None, problem }
    }
}
