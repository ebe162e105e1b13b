//! Which of several ways of measuring a log's norms is taken.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use super::super::log::ModuleGradient;
use super::{BARE, Column, Slot};

/// Which ways of measuring a log's norms are taken: one for all modules that it has, so that norms which were measured in
/// different ways are never compared.
pub(super) struct Choice {
    /// Families and measures, the most trusted one first.
    taken: Vec<usize>,
    /// Which of them gives a module.
    source: BTreeMap<usize, usize>,
    /// What else gives modules of these.
    others: Vec<usize>,
    /// Modules that only a way that was not taken gives.
    lacking: usize,
}

impl Choice {
    /// Of several ways, the one with the most modules; of equal ones exact norms come before estimates, and what is
    /// marked as a gradient before a bare name. Further ways of the same kind are taken for modules that it has not.
    /// `rows` holds the columns of rows, and how many rows have the same.
    pub(super) fn of<'a>(
        rows: impl Iterator<Item = (&'a [Column], usize)>,
        slots: &IndexMap<Slot, String>,
        main: Option<usize>,
        families: &IndexSet<String>,
    ) -> Option<Self> {
        let counts = |slot: usize| match (main, slots.get_index(slot)) {
            (Some(main), Some((Slot::Projection(stack, _), _))) => *stack == main,
            (None, Some(_)) => true,
            _ => false,
        };
        let mut found: BTreeMap<usize, (BTreeSet<usize>, usize)> = BTreeMap::new();
        let mut outside: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (columns, times) in rows {
            for (source, column) in columns.iter().enumerate().filter(|(_, column)| !column.is_empty()) {
                let (modules, values) = found.entry(source).or_default();
                for (slot, _) in column.iter().enumerate().filter(|(_, gradient)| !gradient.is_empty()) {
                    if counts(slot) {
                        modules.insert(slot);
                        *values += times;
                    } else {
                        outside.entry(source).or_default().insert(slot);
                    }
                }
            }
        }
        let bare = |source: usize| families.get_index(source / 2).is_some_and(|family| family == BARE);
        let mut order: Vec<(usize, BTreeSet<usize>, usize)> = found
            .into_iter()
            .filter(|(_, (modules, _))| !modules.is_empty())
            .map(|(source, (modules, values))| (source, modules, values))
            .collect();
        order.sort_by(|(a, a_modules, a_values), (b, b_modules, b_values)| {
            let rank = |source: usize| (bare(source), source % 2);
            let name = |source: usize| families.get_index(source / 2);
            b_modules
                .len()
                .cmp(&a_modules.len())
                .then_with(|| rank(*a).cmp(&rank(*b)))
                .then_with(|| b_values.cmp(a_values))
                .then_with(|| name(*a).cmp(&name(*b)))
        });
        let kind = order.first().map(|(source, ..)| (bare(*source), source % 2))?;
        let mut choice = Self { taken: Vec::new(), source: BTreeMap::new(), others: Vec::new(), lacking: 0 };
        for (source, modules, _) in order {
            let new = modules.iter().filter(|slot| !choice.source.contains_key(slot)).count();
            if (bare(source), source % 2) == kind && new == modules.len() {
                choice.taken.push(source);
                choice.source.extend(modules.into_iter().map(|slot| (slot, source)));
            } else {
                choice.others.push(source);
                choice.lacking += new;
            }
        }
        // What lies outside is measured in the same way, or not at all.
        for (source, modules) in outside.into_iter().filter(|(source, _)| (bare(*source), source % 2) == kind) {
            for slot in modules {
                choice.source.entry(slot).or_insert(source);
            }
        }
        Some(choice)
    }

    pub(super) fn estimated(&self) -> bool {
        self.taken.iter().any(|source| source % 2 == 1)
    }

    pub(super) fn has(&self, slot: usize) -> bool {
        self.source.contains_key(&slot)
    }

    pub(super) fn of_row(&self, columns: &[Column], slot: usize) -> ModuleGradient {
        let column = self.source.get(&slot).and_then(|source| columns.get(*source));
        column.and_then(|column| column.get(slot)).copied().unwrap_or_default()
    }

    pub(super) fn notes(&self, families: &IndexSet<String>) -> Vec<String> {
        let name = |source: usize| {
            let family = families.get_index(source / 2).map_or("", String::as_str);
            let what = if source % 2 == 1 { "histograms" } else { "norms" };
            if family.is_empty() { what.to_owned() } else { format!("{what} under {family}") }
        };
        let (Some(taken), Some(_)) = (self.taken.first(), self.others.first()) else { return Vec::new() };
        let others: Vec<String> = self.others.iter().map(|source| name(*source)).collect();
        let lacking = if self.lacking > 0 {
            format!("; {} modules that only they hold were left out", self.lacking)
        } else {
            String::new()
        };
        vec![format!(
            "the log measures the same parameters in several ways: {} were taken for all of them, {} were not{lacking}",
            name(*taken),
            others.join(", ")
        )]
    }
}
