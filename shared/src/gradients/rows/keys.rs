//! The keys of one file, and what the value of each is for.

use indexmap::IndexMap;

use super::super::builder::{BARE, RunName};
use super::super::error::{LogError, LogProblem};
use super::super::histogram::Part;
use super::super::metric::{MetricKey, parse_metric};
use super::super::parameter::{Matrix, ParameterName};
use super::super::report::{KeyGroup, SkipReason};
use super::FileRows;

/// Where the gradient of a key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Target {
    /// Column of the module.
    pub(in super::super) slot: usize,
    pub(in super::super) matrix: Matrix,
    /// Which of the log's families of keys the key belongs to: all that differ only in the parameter.
    pub(in super::super) family: usize,
    /// The run that the key names, where one column holds one run.
    pub(in super::super) run: Option<usize>,
}

/// What the value of a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum KeyUse {
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
pub(in super::super) enum Names {
    /// Metrics: `grad_norm/<parameter>`, `step`, `loss`.
    Metrics,
    /// Bare parameters or modules.
    Parameters,
}

/// A key of the current file; resolves to a [`KeyUse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct KeyId(Names, usize);

#[derive(Debug, Default)]
pub(super) struct KeyTable {
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

impl FileRows<'_> {
    /// An error at the reader's place and a key.
    pub(in super::super) fn key_error(&self, key: KeyId, problem: LogProblem) -> LogError {
        LogError { key: self.key_name(key).map(str::to_owned), ..self.error(problem) }
    }

    fn table(&self, names: Names) -> &KeyTable {
        match names {
            Names::Metrics => &self.metrics,
            Names::Parameters => &self.parameters,
        }
    }

    /// A key's name, as the file has it.
    pub(in super::super) fn key_name(&self, KeyId(names, index): KeyId) -> Option<&str> {
        self.table(names).keys.get_index(index).map(|(name, _)| name.as_str())
    }

    /// What a key is for.
    pub(in super::super) fn usage(&self, KeyId(names, index): KeyId) -> KeyUse {
        self.table(names).keys.get_index(index).map_or(KeyUse::Ignored, |(_, usage)| *usage)
    }

    /// Finds or registers a key that stands inside another one's object; it is not counted among the file's keys.
    pub(in super::super) fn key_inside(&mut self, key: &str) -> Result<KeyId, LogError> {
        let other = self.report.other_keys;
        let found = self.key(Names::Metrics, key);
        self.report.other_keys = other;
        found
    }

    /// Finds or registers the key of a member of a key's object, whose names together are a parameter's.
    pub(in super::super) fn key_below(&mut self, KeyId(names, index): KeyId, member: &str) -> Result<KeyId, LogError> {
        let above = self.key_name(KeyId(names, index)).unwrap_or_default();
        let name = format!("{above}.{member}");
        self.key(names, &name)
    }

    /// Whether a gradient is that of a projection of a layer.
    pub(in super::super) fn is_projection(&self, target: Target) -> bool {
        self.log.is_projection(target.slot)
    }

    /// Whether nothing but a parameter's own name says that a key is a gradient: its value may be anything.
    pub(in super::super) fn is_bare(&self, target: Target) -> bool {
        self.log.is_bare(target.family)
    }

    /// Finds or registers a key.
    pub(in super::super) fn key(&mut self, names: Names, key: &str) -> Result<KeyId, LogError> {
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
                Some(first) => {
                    let taken = format!("the adapter {first}");
                    return self.rival(taken, key, SkipReason::OtherAdapter);
                }
            }
        }
        let matrix = name.matrix;
        let slot = self.log.slot(id, name);
        let (run, family) = marked.map_or_else(|| (None, BARE.to_owned()), |marked| family(marked, parameter));
        let family = self.log.family(family);
        let run = run.map(|run| self.log.run(&RunName::named(run)));
        let target = Target { slot, matrix, family, run };
        if !self.claimed.insert(target) {
            let first = self.first_of(target).unwrap_or_default();
            // An actor and its critic, a model and its reference, are not what one parameter is logged as twice.
            return match parse_metric(first) {
                MetricKey::Gradient(own) | MetricKey::Bare(own) if own != parameter => {
                    let taken = first.to_owned();
                    self.rival(taken, key, SkipReason::Repeated)
                }
                _ => self.skip(key, SkipReason::Repeated),
            };
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

    /// The key that gives a column.
    fn first_of(&self, target: Target) -> Option<&str> {
        let mut keys = self.metrics.keys.iter().chain(&self.parameters.keys);
        keys.find(|(_, usage)| **usage == KeyUse::Gradient(target)).map(|(key, _)| key.as_str())
    }

    /// Leaves out a key that is of what another one gave, which nobody sees in the numbers.
    fn rival(&mut self, taken: String, key: &str, reason: SkipReason) -> KeyUse {
        self.rivals.get_or_insert_with(|| (taken, key.to_owned(), 0)).2 += 1;
        self.skip(key, reason)
    }

    fn skip(&mut self, key: &str, reason: SkipReason) -> KeyUse {
        let what = || serde_json::to_value(reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        self.skipped.entry(reason).or_insert_with(|| group(what(), reason.why())).add(key);
        KeyUse::Ignored
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
