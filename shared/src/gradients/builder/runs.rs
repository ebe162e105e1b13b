//! The runs of a log, and which of them is read.

use std::borrow::Cow;

use super::super::error::LogProblem;
use super::{LogBuilder, last_part};

/// How a run is told from others: by what a person called it, by its tracker's number, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(in super::super) struct RunName {
    pub(in super::super) name: String,
    pub(in super::super) id: String,
}

impl RunName {
    pub(in super::super) fn named(name: &str) -> Self {
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

impl LogBuilder {
    /// The run that is read: the only one that holds gradients, or the one that was asked for.
    pub(super) fn choose_run(&self) -> Result<usize, LogProblem> {
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
}
