//! The row that is being read: what its values are put into, and what they mean together.

use indexmap::IndexMap;

use super::super::builder::{Measure, Norm, RunName};
use super::super::error::{LogError, LogProblem};
use super::super::format::Format;
use super::super::histogram::Histogram;
use super::super::metric::{is_doubtful_step, is_measure};
use super::super::path::swanlab_folder;
use super::super::template::{LARGEST_STEP, Placed, Role, RowHead, Template};
use super::FileRows;
use super::keys::{KeyId, KeyUse, Names, Target};

/// The row that is being read.
#[derive(Debug, Default)]
pub(in super::super) struct CurrentRow {
    /// What it says beside its norms.
    pub(super) head: RowHead,
    pub(super) norms: Vec<Norm>,
    pub(super) histograms: IndexMap<KeyId, Histogram>,
    pub(super) run: RunName,
    name: Option<(u8, String)>,
    variant: Option<String>,
    /// What the one value measures, where a column of its own says so.
    measure: Option<String>,
    pub(super) value: Option<(u8, f64)>,
    /// Whether the row was a header of the project's own format.
    header: bool,
    /// Step and name of the row that this one stands in.
    pub(super) outer: (Option<u64>, Option<String>),
    /// Where the number was read that is put somewhere next.
    number_at: Option<usize>,
    /// Where the numbers stand in the line that were put somewhere.
    placed: Vec<Placed>,
    /// Whether some stood in a text inside the line.
    in_text: bool,
}

impl CurrentRow {
    /// Remembers what the number is that was read last.
    fn place(&mut self, role: Role) {
        if let Some(at) = self.number_at.take() {
            self.placed.push(Placed { at, role });
        }
    }
}

impl FileRows<'_> {
    /// Puts a norm into the current row.
    pub(in super::super) fn set(&mut self, target: Target, value: f64) -> Result<(), LogProblem> {
        self.set_measured(target, value, Measure::Exact)
    }

    /// Puts a norm that was estimated from `count` elements into the current row.
    pub(in super::super) fn set_estimated(
        &mut self,
        target: Target,
        value: f64,
        count: Option<f64>,
    ) -> Result<(), LogProblem> {
        self.set_measured(target, value, Measure::Histogram { count })
    }

    fn set_measured(&mut self, target: Target, value: f64, measure: Measure) -> Result<(), LogProblem> {
        if value < 0.0 {
            return Err(LogProblem::Negative(value));
        }
        if measure == Measure::Exact {
            self.row.place(Role::Norm(target));
        }
        self.row.norms.push(Norm { target, value, measure });
        Ok(())
    }

    /// Puts the norm of a histogram of W&B into the current row.
    pub(in super::super) fn set_histogram(&mut self, target: Target, histogram: &Histogram) -> Result<(), LogProblem> {
        let norm = histogram.norm()?;
        self.report.format = match self.report.format {
            Some(Format::JsonLines) => Some(Format::WandbHistory),
            format => format,
        };
        self.log.saw_histogram = true;
        self.set_estimated(target, norm, Some(histogram.count()))
    }

    /// The histogram of a key whose arrays come one by one.
    pub(in super::super) fn histogram(&mut self, key: KeyId) -> &mut Histogram {
        self.row.histograms.entry(key).or_default()
    }

    /// Sets the step of the current row, unless a better key gave it.
    pub(in super::super) fn set_step(&mut self, rank: u8, value: f64) -> Result<(), LogProblem> {
        self.row.place(Role::Step(rank));
        if !(value >= 0.0 && value <= LARGEST_STEP as f64 && value.fract() == 0.0) {
            return if is_doubtful_step(rank) { Ok(()) } else { Err(LogProblem::BadStep(value.to_string())) };
        }
        self.row.head.set_step(rank, value as u64);
        Ok(())
    }

    /// Sets the loss of the current row, unless a better key gave it.
    pub(in super::super) fn set_loss(&mut self, rank: u8, value: f64) {
        self.row.place(Role::Loss(rank));
        self.row.head.set_loss(rank, value);
    }

    /// Sets the norm over all parameters, which may also be the value that the row is about.
    pub(in super::super) fn set_global(&mut self, value: f64) {
        self.row.place(Role::Global);
        self.row.head.global = Some(value);
    }

    /// Sets what the row's one value is of, unless a better key gave it.
    pub(in super::super) fn set_name(&mut self, rank: u8, name: &str) {
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
    pub(in super::super) fn set_measure(&mut self, text: &str) {
        if is_measure(text) {
            self.row.measure = Some(text.to_owned());
        }
    }

    /// Sets the second part of what the row's one value is of.
    pub(in super::super) fn set_variant(&mut self, name: &str) {
        self.row.variant = Some(name.to_owned());
    }

    /// Sets the row's one value, unless a better key gave it.
    pub(in super::super) fn set_value(&mut self, rank: u8, value: f64) {
        if self.row.value.is_none_or(|(best, _)| rank < best) {
            self.row.value = Some((rank, value));
        }
    }

    /// Sets the name of the row's run.
    pub(in super::super) fn set_run_name(&mut self, name: &str) {
        name.clone_into(&mut self.row.run.name);
    }

    /// Sets the number of the row's run; where several columns number it, all of them do.
    pub(in super::super) fn set_run_id(&mut self, id: &str) {
        let known = &mut self.row.run.id;
        if known.split(", ").all(|part| part != id) {
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(id);
        }
    }

    /// Marks the current row as a header of the project's own format.
    pub(in super::super) fn mark_header(&mut self) {
        self.row.header = true;
    }

    /// Whether the current row is a header of the project's own format.
    pub(in super::super) fn is_header(&self) -> bool {
        self.row.header
    }

    /// Forgets the current row.
    pub(in super::super) fn discard(&mut self) {
        self.row = CurrentRow::default();
    }

    /// Begins a row inside the current one, of the same run; [`Self::leave`] goes on with what this gives.
    pub(in super::super) fn enter(&mut self) -> CurrentRow {
        let run = self.row.run.clone();
        let name = self.row.name.as_ref().map(|(_, name)| name.clone());
        let outer =
            (self.row.head.step.map(|(_, step)| step).or(self.row.outer.0), name.or_else(|| self.row.outer.1.clone()));
        std::mem::replace(&mut self.row, CurrentRow { run, outer, ..CurrentRow::default() })
    }

    /// Goes on with a row that was left for one inside it.
    pub(in super::super) fn leave(&mut self, row: CurrentRow) {
        self.row = row;
    }

    /// The reader comes to a value: a number at a byte of the line, or something else.
    pub(in super::super) fn comes_to_number(&mut self, at: Option<usize>) {
        self.row.number_at = at;
    }

    /// What is read now is a text inside the line.
    pub(in super::super) fn enters_text(&mut self) {
        self.row.in_text = true;
    }

    /// The template of the current row, whose line this is, with what the line says; none for one that says more than numbers do.
    pub(in super::super) fn template(&self, line: &[u8]) -> Option<(Template, RowHead, Vec<f64>)> {
        let template = Template::of(line, &self.row.placed)?;
        // What was given as a text is no number of the line, and some values are passed over: the line itself has to be alike.
        let mut read = Vec::with_capacity(self.row.norms.len());
        let (head, _) = template.read(&[line, b"\n"].concat(), 0, &mut read)?;
        self.says_only(&head, &template.targets, &read).then_some((template, head, read))
    }

    /// Whether the current row is one of a step that says just this.
    pub(in super::super) fn says_only(&self, said: &RowHead, targets: &[Target], values: &[f64]) -> bool {
        let CurrentRow { head, norms, histograms, run, name, variant, measure, value, header, outer, in_text, .. } =
            &self.row;
        let says_more = name.is_some()
            || variant.is_some()
            || measure.is_some()
            || value.is_some()
            || *header
            || *in_text
            || !histograms.is_empty()
            || *run != RunName::default()
            || *outer != (None, None);
        let norms = norms.iter().map(|norm| (norm.target, norm.value.to_bits()));
        let bits = targets.iter().copied().zip(values.iter().map(|value| value.to_bits()));
        !says_more && head.step.is_some() && said == head && targets.len() == norms.len() && norms.eq(bits)
    }

    /// The row's one value becomes what its name says.
    pub(super) fn resolve_name(&mut self) -> Result<(), LogError> {
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
        let (value, global) = (self.row.value.take(), self.row.head.global.take());
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
    pub(in super::super) fn set_number(&mut self, key: KeyId, value: f64) -> Result<(), LogProblem> {
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
}
