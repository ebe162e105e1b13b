//! The keys and rows of one file, on their way into a [`LogBuilder`].

mod current;
mod keys;

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::blocks::LineReading;
use super::builder::{LogBuilder, Measure, Norm, RunName};
use super::error::{LogError, LogProblem, Position};
use super::format::Format;
use super::input::Limits;
use super::log::LogMeta;
use super::lookalike::Lookalikes;
use super::path::{run_of_folder, swanlab_folder};
use super::report::{FileReport, KeyGroup, SkipReason};
use super::template::RowHead;

use self::current::CurrentRow;
use self::keys::KeyTable;
pub(super) use self::keys::{KeyId, KeyUse, Names, Target};

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
    /// What was taken of two that give the same matrices, the first that was left out for it, and how many were.
    rivals: Option<(String, String, usize)>,
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
            rivals: None,
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

    /// How lines are read that may be alike.
    pub(super) fn line_reading(&self) -> LineReading {
        self.log.line_reading
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

    /// Whether norms were to be summed up and cannot: the file is read once more.
    pub(super) fn is_irregular(&self) -> bool {
        self.log.is_irregular()
    }

    /// Rows that were read so far.
    pub(super) fn rows(&self) -> u64 {
        self.report.rows
    }

    /// An error at the reader's place.
    pub(super) fn error(&self, problem: LogProblem) -> LogError {
        LogError { file: self.name.to_owned(), position: self.position, key: None, problem }
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
        let CurrentRow { head: RowHead { step, loss, global }, norms, outer, .. } = std::mem::take(&mut self.row);
        let long = value && !norms.is_empty();
        let step = step.map(|(_, step)| step).or_else(|| outer.0.filter(|_| long));
        if loss.is_none() && norms.is_empty() && global.is_none() {
            return Ok(());
        }
        match step {
            Some(step) => {
                self.numbered = true;
                let sums_up = self.log.sums_up() && !norms.is_empty();
                let run = if sums_up { run } else { self.run_that_goes_on(run, step, &norms, line) };
                if let Some(global) = global {
                    self.log.see_global(run, step, global);
                }
                let added = if sums_up && norms.iter().all(|norm| norm.measure == Measure::Exact) {
                    let (targets, values): (Vec<_>, Vec<_>) =
                        norms.iter().map(|norm| (norm.target, norm.value)).unzip();
                    self.log.sum_up(run, step, loss, &targets, &values, line)
                } else {
                    self.log.add(run, step, loss, &norms, line)
                };
                added.map_err(|problem| self.error(problem))
            }
            None if self.has_header || (long && !self.all_bare(&norms)) => Err(self.error(LogProblem::NoStep)),
            None if loss.is_none() && norms.is_empty() => Ok(()),
            None => {
                if !norms.is_empty() {
                    self.log.set_irregular();
                }
                self.unnumbered.push(Unnumbered { run, loss, norms, line });
                Ok(())
            }
        }
    }

    /// Adds a row that is alike an earlier one: the norms of these targets, and what it says besides.
    pub(super) fn commit_alike(
        &mut self,
        targets: &[Target],
        head: RowHead,
        norms: &[f64],
        line: u64,
    ) -> Result<(), LogError> {
        let (Some((_, step)), true) = (head.step, self.log.sums_up() && !targets.is_empty()) else {
            let norms = targets.iter().zip(norms);
            self.row.norms.extend(norms.map(|(&target, &value)| Norm { target, value, measure: Measure::Exact }));
            self.row.head = head;
            return self.commit(line);
        };
        self.report.rows += 1;
        self.numbered = true;
        let run = self.run_of_row();
        if let Some(global) = head.global {
            self.log.see_global(run, step, global);
        }
        self.log.sum_up(run, step, head.loss, targets, norms, line).map_err(|problem| self.error(problem))
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
        if let Some((taken, other, count)) = self.rivals.take() {
            self.note(format!("{count} keys left out, first {other}: {taken} came before and was taken"));
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
