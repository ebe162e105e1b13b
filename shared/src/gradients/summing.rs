//! Running sums in place of kept norms: what is asked for before a log is read, and what it then gives.

use jiter::Jiter;

use super::formats::csv;
use super::formats::reader::Start;
use super::log::{ModuleGradient, Place};
use super::metric::{MetricKey, is_doubtful_step, parse_metric};
use super::profile::Signal;
use super::running::Running;
use super::template::RowHead;

/// What is summed up of a log while it is read. The steps after warm-up are known only when its last step is: that is guessed from
/// the file's end. Where a guess turns out wrong, or another profile is wanted, [`profile()`](super::profile()) says what to read the
/// log again for.
#[derive(Debug, Clone, PartialEq)]
pub struct Summing {
    /// Share of the steps that is left out at the start.
    pub(super) warm_up_share: f64,
    /// The last step; nothing is summed up where it is not known.
    pub(super) last: Option<u64>,
    /// What is measured of the modules.
    pub(super) signal: Signal,
    /// The modules that count, in the order of their layout. Without them all that the log holds are summed up, by their norms.
    pub(super) modules: Option<Vec<SummedModule>>,
}

/// A module whose signal is summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SummedModule {
    /// Which of the modules of a row it is.
    pub(super) entry: usize,
    /// Elements of its adapter, where the signal needs them.
    pub(super) elements: Option<f64>,
}

/// Bytes at a file's ends in which its last step is looked for.
pub const END_BYTES: u64 = 256 * 1024;

/// The first and the last bytes of a log, [`END_BYTES`] of them or fewer, where they can be had: the last step stands there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogEnds {
    /// The first.
    pub first: Vec<u8>,
    /// The last.
    pub last: Vec<u8>,
}

impl LogEnds {
    fn last_step(&self) -> Option<u64> {
        if Start::new(&self.first).is_object() {
            last_step(&self.last)
        } else {
            csv::last_step(&self.first, &self.last)
        }
    }
}

impl Summing {
    /// The norms of all modules, of a log with these ends.
    pub fn norms(warm_up_share: f64, ends: &LogEnds) -> Self {
        Self { warm_up_share, last: ends.last_step(), signal: Signal::L2, modules: None }
    }
}

/// The step of the last whole row of JSON lines. Rows between the others that hold little are passed over.
fn last_step(end: &[u8]) -> Option<u64> {
    let whole = end.get(..end.iter().rposition(|byte| *byte == b'\n')?)?;
    let lines = || whole.split(|byte| *byte == b'\n');
    let longest = lines().map(<[u8]>::len).max()?;
    let mut json = Jiter::new(lines().rfind(|line| 2 * line.len() > longest)?).with_allow_inf_nan();
    let mut head = RowHead::default();
    let rank_of = |key: &str| match parse_metric(key) {
        MetricKey::Step(rank) if !is_doubtful_step(rank) => Some(rank),
        _ => None,
    };
    let mut next = json.next_object().ok()?.map(rank_of);
    while let Some(rank) = next {
        let peek = json.peek().ok()?;
        match rank {
            Some(rank) if peek.is_num() => head.set_step(rank, json.known_float(peek).ok()? as u64),
            _ => json.known_skip(peek).ok()?,
        }
        next = json.next_key().ok()?.map(rank_of);
    }
    head.step.map(|(_, step)| step)
}

/// What was summed up of a log in place of keeping the norms of its steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    /// What was asked for.
    pub(super) summing: Summing,
    /// The last step of the warm-up that was left out; none where nothing is left out.
    pub(super) after: Option<u64>,
    /// The modules of a row.
    pub(super) entries: Vec<Entry>,
    /// Which of them each column of the log is.
    pub(super) columns: Vec<usize>,
    /// Steps after warm-up that hold numbers which are none, and the first of these numbers.
    pub(super) non_finite: usize,
    pub(super) first_non_finite: Option<NonFinite>,
    /// The first and the last step that count.
    pub(super) kept: Option<(u64, u64)>,
    /// The sums: of the modules that were asked for, or of all entries.
    pub(super) summed: Vec<Summed>,
}

/// A number that is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NonFinite {
    pub(super) step: u64,
    pub(super) place: Place,
    pub(super) entry: usize,
    /// A, B or the weight.
    pub(super) matrix: usize,
    pub(super) value: f64,
}

/// Where a module's norms stand among those of a row: A, B, the weight.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Entry {
    pub(super) places: [Option<usize>; 3],
}

impl Entry {
    /// Its norms of a row.
    pub(super) fn of_row(&self, norms: &[f64]) -> ModuleGradient {
        let [a, b, weight] = self.places.map(|place| norms.get(place?).copied());
        ModuleGradient { a, b, weight }
    }
}

/// The sums of one module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summed {
    module: SummedModule,
    pub(super) entry: Entry,
    pub(super) running: Running,
    /// Whether any norm was another one than zero.
    pub(super) nonzero: bool,
}

impl Sums {
    /// Nothing yet of rows with these modules. `after` as in [`Self::after`].
    pub(super) fn new(summing: Summing, entries: Vec<Entry>, after: Option<u64>) -> Self {
        let all = || (0..entries.len()).map(|entry| SummedModule { entry, elements: None }).collect();
        let modules = summing.modules.clone().unwrap_or_else(all);
        let summed = |module: SummedModule| {
            let entry = entries.get(module.entry).copied().unwrap_or_default();
            Summed { module, entry, running: Running::default(), nonzero: false }
        };
        let summed = modules.into_iter().map(summed).collect();
        Self { summing, after, entries, columns: Vec::new(), non_finite: 0, first_non_finite: None, kept: None, summed }
    }

    /// Takes the norms of a step.
    pub(super) fn add(&mut self, step: u64, norms: &[f64], place: Place, all_finite: bool) {
        if self.summing.last.is_none() || self.after.is_some_and(|after| step <= after) {
            return;
        }
        if !all_finite && let Some((entry, matrix, value)) = self.non_finite_of(norms) {
            self.non_finite += 1;
            self.first_non_finite.get_or_insert(NonFinite { step, place, entry, matrix, value });
            return;
        }
        let first = self.kept.map_or(step, |(first, _)| first);
        self.kept = Some((first, step));
        let signal = self.summing.signal;
        for summed in &mut self.summed {
            let norms = summed.entry.of_row(norms);
            if let Some(norm) = norms.norm() {
                summed.running.add(signal.of(norm, summed.module.elements.unwrap_or(1.0)));
            }
            summed.nonzero |= norms.values().into_iter().flatten().any(|norm| norm != 0.0);
        }
    }

    /// The first number of the modules that count which is none.
    fn non_finite_of(&self, norms: &[f64]) -> Option<(usize, usize, f64)> {
        self.summed.iter().find_map(|summed| {
            let values = summed.entry.of_row(norms).values().into_iter().enumerate();
            let (matrix, value) =
                values.filter_map(|(matrix, v)| Some((matrix, v?))).find(|(_, value)| !value.is_finite())?;
            Some((summed.module.entry, matrix, value))
        })
    }

    /// Which of the sums are those of modules in a layout's order; none where other sums are needed.
    pub(super) fn of(&self, wanted: &Summing) -> Option<Vec<&Summed>> {
        let modules = wanted.modules.as_ref()?;
        let had = &self.summing;
        if had.last != wanted.last || had.warm_up_share != wanted.warm_up_share || had.signal != wanted.signal {
            return None;
        }
        match &had.modules {
            Some(had) => (had == modules).then(|| self.summed.iter().collect()),
            // Without knowing which modules count, nothing can be left out for the sake of others.
            None if self.non_finite > 0 => None,
            None => modules.iter().map(|module| self.summed.get(module.entry)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_last_step_is_that_of_the_last_whole_row_of_norms() {
        let row = |step: u64| format!(r#"{{"lr":1e-3,"step":{step},"grads":{{"a":1,"b":[2]}}}}"#);
        let rows = format!("is cut off}}\n{}\n{}\n{{\"loss\":1}}\n", row(41), row(42));
        assert_eq!(last_step(rows.as_bytes()), Some(42));
        assert_eq!(last_step(format!("{rows}{}", &row(43)[..30]).as_bytes()), Some(42));
        for none in ["", "no line's end", "no JSON\n", "{\"loss\":1}\n"] {
            assert_eq!(last_step(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn the_last_step_of_a_table_stands_under_its_best_step_column() {
        let of = |first: &str, last: &str| {
            LogEnds { first: first.as_bytes().to_vec(), last: last.as_bytes().to_vec() }.last_step()
        };
        let header = "epoch,global_step,grad_norm/a,step,loss\n";
        let rows = "cut,1,1.25,40,\n1,9,1.25,41,0.5\n1,9,1.5,\"42\",0.5\n1,,,43,\n";
        assert_eq!(of(header, rows), Some(42));
        assert_eq!(of(header, "1,9,1.25,41,0.5"), None);
        assert_eq!(of("lr,grad_norm/a\n", "1,2\n"), None);
        assert_eq!(of("step;a\n", "1;2\n3;4\n5"), Some(3));
    }
}
