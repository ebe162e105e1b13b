//! From what was collected to a log: its columns, its steps, its notes.

use std::collections::HashMap;

use super::super::divergence::{self, Seen};
use super::super::error::{LogError, LogProblem, Position};
use super::super::log::{Clip, GradientLog, LogStep, LogUnit, LoggedModule, ModuleGradient, OtherModule};
use super::super::report::SkipReason;
use super::choice::Choice;
use super::summer::Kind;
use super::{Column, LogBuilder, Row, Slot};

impl LogBuilder {
    /// The finished log.
    ///
    /// # Errors
    /// No gradient of a projection of a layer was found, or several runs of which none was asked for; `name` is what the
    /// message calls the input.
    pub(in super::super) fn finish(mut self, name: &str) -> Result<GradientLog, LogError> {
        let problem = |problem| LogError { file: name.to_owned(), position: Position::File, key: None, problem };
        let run = self.choose_run().map_err(problem)?;
        self.rows.retain(|(of, _), _| *of == run);
        self.overwritten.retain(|(of, _)| *of == run);
        let main = self.main_stack();
        if main.is_none() && !self.slots.keys().any(|slot| matches!(slot, Slot::Other(_, SkipReason::Fused))) {
            return Err(self.nothing_found(name));
        }
        let kept = self.rows.values().map(|row| (row.gradients.as_slice(), 1));
        // The first of the rows that were summed up is kept as well.
        let alike = self.kind().map(|kind| (kind.first.as_slice(), kind.rows - 1));
        let Some(choice) = Choice::of(kept.chain(alike), &self.slots, main, &self.families) else {
            return Err(self.nothing_found(name));
        };
        self.report.notes.extend(choice.notes(&self.families));
        self.report.notes.extend(divergence::signs(&self.steps_seen(&choice)));
        self.add_notes(main, choice.estimated());
        let (modules, others, order) = self.columns(main, &choice);
        let mut steps = Vec::new();
        while let Some(((_, step), row)) = self.rows.pop_first() {
            let mut gradients = Vec::new();
            if !row.alike {
                gradients.extend(order.iter().map(|slot| choice.of_row(&row.gradients, *slot)));
                if gradients.iter().all(ModuleGradient::is_empty) {
                    continue;
                }
            }
            let values = gradients.iter().take(modules.len()).flat_map(ModuleGradient::values).flatten();
            self.report.non_finite += values.filter(|v| !v.is_finite()).count();
            steps.push(LogStep { step, loss: row.loss.map(|(_, loss)| loss), gradients, place: row.place });
        }
        if steps.is_empty() {
            return Err(self.nothing_found(name));
        }
        self.report.duplicate_steps = self.overwritten.iter().map(|(_, step)| *step).collect();
        let mut log = GradientLog {
            meta: self.header.take().unwrap_or_default(),
            estimated: self.estimated || choice.estimated(),
            modules,
            others,
            steps,
            report: std::mem::take(&mut self.report),
            sums: None,
        };
        if let Some(kind) = self.into_kind() {
            log.add_sums(kind, &order);
        }
        Ok(log)
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

    /// What tells of a run that diverged, step by step.
    fn steps_seen(&self, choice: &Choice) -> Vec<Seen> {
        let matrices = |columns: &[Column]| {
            let of = |slot| choice.of_row(columns, slot).values().into_iter().flatten().count();
            (0..self.slots.len()).map(of).sum::<usize>()
        };
        let alike = self.kind().map_or(0, |kind| matrices(&kind.first));
        let of_row = |((_, step), row): (&(usize, u64), &Row)| Seen {
            step: *step,
            loss: row.loss.map(|(_, loss)| loss),
            global: row.global,
            matrices: if row.alike { alike } else { matrices(&row.gradients) },
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

impl GradientLog {
    /// Takes what was summed up; `order` is the builder's column of each of this log's.
    fn add_sums(&mut self, kind: Kind, order: &[usize]) {
        let Kind { slots, non_finite, mut sums, .. } = kind;
        let entries: HashMap<usize, usize> = slots.into_iter().enumerate().map(|(entry, slot)| (slot, entry)).collect();
        sums.columns = order.iter().filter_map(|slot| entries.get(slot).copied()).collect();
        for entry in sums.columns.iter().take(self.modules.len()).filter_map(|entry| sums.entries.get(*entry)) {
            let counts = entry.places.into_iter().flatten().filter_map(|place| non_finite.get(place));
            self.report.non_finite += counts.sum::<usize>();
        }
        self.sums = Some(sums);
    }
}
