//! Rows that are summed up at once, and which logs allow that: those whose rows of norms are all of one run and one kind, in the
//! order of their steps.

use super::super::error::LogProblem;
use super::super::log::{ModuleGradient, Place};
use super::super::parameter::Matrix;
use super::super::profiling::warm_up_end;
use super::super::rows::Target;
use super::super::summing::{Entry, Summing, Sums};
use super::{Column, LogBuilder, Measure, Norm, put};

/// What is summed up of a log.
pub(super) struct Summer {
    summing: Summing,
    /// Whether the norms have to be kept after all.
    is_irregular: bool,
    kind: Option<Kind>,
}

/// What the log's rows of norms have in common.
pub(super) struct Kind {
    run: usize,
    last_step: u64,
    targets: Vec<Target>,
    /// The columns of the log's builder that the entries of [`Sums`] are.
    pub(super) slots: Vec<usize>,
    /// What the first row holds, as a row is kept.
    pub(super) first: Vec<Column>,
    pub(super) rows: usize,
    /// By norm of a row, how often it was NaN or infinite after the first row.
    pub(super) non_finite: Vec<usize>,
    pub(super) sums: Sums,
}

impl Kind {
    /// That of rows with these targets, the first of which is this; none where they cannot be summed up.
    fn new(run: usize, step: u64, targets: &[Target], norms: &[f64], summing: &Summing) -> Option<Self> {
        let Target { family, run: named, .. } = *targets.first()?;
        let (mut slots, mut entries) = (Vec::new(), Vec::<Entry>::new());
        let mut at = vec![None; targets.iter().map(|target| target.slot + 1).max()?];
        for (place, target) in targets.iter().enumerate() {
            if target.family != family || target.run != named {
                return None;
            }
            let found = at.get_mut(target.slot)?;
            let entry = *found.get_or_insert_with(|| {
                slots.push(target.slot);
                entries.push(Entry::default());
                entries.len() - 1
            });
            let matrix = match target.matrix {
                Matrix::A => 0,
                Matrix::B => 1,
                Matrix::Weight => 2,
            };
            if entries.get_mut(entry)?.places.get_mut(matrix)?.replace(place).is_some() {
                return None;
            }
        }
        let gradients: Vec<ModuleGradient> = entries.iter().map(|entry| entry.of_row(norms)).collect();
        let after = summing.last.and_then(|last| warm_up_end(summing.warm_up_share, step, &gradients, last));
        Some(Self {
            run,
            last_step: step,
            targets: targets.to_vec(),
            slots,
            first: Vec::new(),
            rows: 1,
            non_finite: vec![0; targets.len()],
            sums: Sums::new(summing.clone(), entries, after),
        })
    }

    /// Whether another row goes on with these.
    fn goes_on(&self, run: usize, step: u64, targets: &[Target]) -> bool {
        run == self.run && step > self.last_step && targets == self.targets
    }

    /// Takes the norms of a step.
    fn add(&mut self, step: u64, norms: &[f64], place: Place, is_first: bool) {
        let all_finite = norms.iter().all(|norm| norm.is_finite());
        if !all_finite && !is_first {
            for (count, _) in self.non_finite.iter_mut().zip(norms).filter(|(_, norm)| !norm.is_finite()) {
                *count += 1;
            }
        }
        self.last_step = step;
        self.sums.add(step, norms, place, all_finite);
    }
}

impl LogBuilder {
    /// From now on norms are summed up, as long as that can be done.
    pub(in super::super) fn sum_up_for(&mut self, summing: &Summing) {
        self.summer = Some(Summer { summing: summing.clone(), is_irregular: false, kind: None });
    }

    /// Whether norms are summed up.
    pub(in super::super) fn sums_up(&self) -> bool {
        self.summer.is_some()
    }

    /// Whether norms were to be summed up and have to be kept: reading on makes no sense.
    pub(in super::super) fn is_irregular(&self) -> bool {
        self.summer.as_ref().is_some_and(|summer| summer.is_irregular)
    }

    /// There are norms that cannot be summed up.
    pub(in super::super) fn set_irregular(&mut self) {
        if let Some(summer) = &mut self.summer {
            summer.is_irregular = true;
        }
    }

    /// What was summed up.
    pub(super) fn kind(&self) -> Option<&Kind> {
        self.summer.as_ref()?.kind.as_ref()
    }

    /// What was summed up, at the end.
    pub(super) fn into_kind(self) -> Option<Kind> {
        self.summer?.kind
    }

    /// Takes a row of norms without keeping them.
    pub(in super::super) fn sum_up(
        &mut self,
        run: usize,
        step: u64,
        loss: Option<(u8, f64)>,
        targets: &[Target],
        norms: &[f64],
        line: u64,
    ) -> Result<(), LogProblem> {
        let place = Place { file: self.report.files.len(), line };
        let Some(summer) = &mut self.summer else { return Ok(()) };
        // Where columns name a run, the norms are of that, and the loss is of the row's.
        let (own, run) = (run, targets.first().and_then(|target| target.run).unwrap_or(run));
        let is_first = summer.kind.is_none();
        if is_first {
            summer.kind = Kind::new(run, step, targets, norms, &summer.summing);
        }
        let Some(kind) = summer.kind.as_mut().filter(|kind| is_first || kind.goes_on(run, step, targets)) else {
            summer.is_irregular = true;
            return Ok(());
        };
        kind.add(step, norms, place, is_first);
        if loss.is_some() {
            self.rows.entry((own, step)).or_default().take_loss(loss);
        }
        let row = self.rows.entry((run, step)).or_default();
        row.place = place;
        if is_first {
            for (&target, &value) in targets.iter().zip(norms) {
                put(row, &Norm { target, value, measure: Measure::Exact });
            }
            kind.first.clone_from(&row.gradients);
        } else {
            row.alike = true;
            kind.rows += 1;
        }
        // What is kept of a row does not grow with its norms.
        self.count_values(1)
    }
}
