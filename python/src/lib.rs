//! What the Python package `hydra_lora` computes: functions that take paths and JSON and give JSON back. The package around them
//! (`python/hydra_lora`) is what people call; signatures, defaults and documentation stand there.

mod choices;
mod errors;
mod model;
mod plan;
mod study;

use std::cell::RefCell;
use std::fmt::Arguments;
use std::path::PathBuf;
use std::sync::OnceLock;

use hydra_shared::files::atomic;
use hydra_shared::files::error::{Kind, failure};
use hydra_shared::files::voice::Voice;
use pyo3::prelude::*;
use serde::Serialize;

/// The process that computed first. Its threads are not in one that was forked from it, which would wait for them for ever.
static PROCESS: OnceLock<u32> = OnceLock::new();
/// What is said in a process that was forked.
const FORKED: &str = "this process was forked from one that had used hydra_lora, whose threads it lacks; start it anew, with \
                      multiprocessing's method \"spawn\" or \"forkserver\"";

/// What was said besides a result: whether it must be seen, and the words.
type Said = Vec<(bool, String)>;

/// Keeps what is said until Python can hear it.
#[derive(Default)]
struct Heard(RefCell<Said>);

impl Voice for Heard {
    fn note(&self, line: Arguments<'_>) {
        let line = line.to_string();
        let line = line.strip_prefix("note: ").unwrap_or(&line);
        self.0.borrow_mut().push((false, errors::in_python(line)));
    }

    fn warn(&self, line: Arguments<'_>) {
        self.0.borrow_mut().push((true, errors::in_python(&line.to_string())));
    }
}

/// Computes without holding the interpreter's lock; gives JSON and what was said.
fn call<T: Serialize>(
    py: Python<'_>,
    compute: impl FnOnce(&Heard) -> anyhow::Result<T> + Send,
) -> PyResult<(String, Said)> {
    let process = std::process::id();
    let computed = py.detach(|| {
        if *PROCESS.get_or_init(|| process) != process {
            return Err(failure(Kind::Failure, FORKED));
        }
        let heard = Heard::default();
        let json = serde_json::to_string(&compute(&heard)?)?;
        anyhow::Ok((json, heard.0.into_inner()))
    });
    computed.map_err(|error| errors::to_python(&error))
}

/// Writes a file whole or not at all.
#[pyfunction]
fn write_file(py: Python<'_>, path: PathBuf, text: String) -> PyResult<()> {
    py.detach(|| atomic::write_file(&path, text.as_bytes())).map_err(|error| errors::to_python(&error))
}

/// The module `hydra_lora._native`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::errors::{BudgetError, DataError, HydraError, NumericalError, TryAgain, UsageError};
    #[pymodule_export]
    use super::model::is_known;
    #[pymodule_export]
    use super::plan::{plan, schedule, verify};
    #[pymodule_export]
    use super::study::{
        study_ask, study_best, study_create, study_exists, study_let_go, study_pick, study_status, study_tell,
        study_trials,
    };
    #[pymodule_export]
    use super::write_file;
}
