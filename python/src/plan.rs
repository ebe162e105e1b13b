//! Plans, schedules and checks of adapters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::adapter::{LoraConfig, PeftOptions};
use hydra_shared::files::error::{Kind, ResultExt as _, failure};
use hydra_shared::files::gradient_logs::outside_warning;
use hydra_shared::files::plan::{Document, PlanSource, make};
use hydra_shared::files::verify::verify as check;
use hydra_shared::files::voice::Voice as _;
use hydra_shared::schedule::RankSchedule;
use pyo3::prelude::*;
use serde::Serialize;

use crate::model::Model;
use crate::{Said, call, choices};

/// A schedule in the forms that it has in files.
#[derive(Serialize)]
pub struct Texts {
    /// The schedule's file.
    schedule: String,
    /// PEFT's configuration, for training.
    lora: String,
    /// Parameters of LoRA in its ranks.
    trainable_parameters: u64,
    /// What `trainer plan --json` prints; none of a schedule that was read.
    document: Option<String>,
}

impl Texts {
    /// Of a schedule, with that dropout in PEFT's configuration.
    ///
    /// # Errors
    /// A dropout that is none.
    pub fn of(schedule: &RankSchedule, dropout: f64, document: Option<String>) -> Result<Self> {
        if !(0.0..1.0).contains(&dropout) {
            return Err(failure(Kind::Usage, format!("dropout {dropout} is not from 0 to below 1")));
        }
        let lora = LoraConfig::new(schedule, &PeftOptions { base_model: None, dropout }).for_training();
        let trainable_parameters = schedule.ranks.parameters();
        Ok(Self { schedule: schedule.to_json()?, lora: lora.to_json()?, trainable_parameters, document })
    }
}

/// A gradient log as a plan.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "each is an argument of the package's function")]
pub fn plan(
    py: Python<'_>,
    log: Vec<PathBuf>,
    model: &str,
    run: Option<String>,
    include: Vec<String>,
    exclude: Vec<String>,
    dropout: f64,
    settings: &str,
) -> PyResult<(String, Said)> {
    call(py, |heard| {
        let model = Model::parse(model)?;
        let (choices, seed) = choices::read(settings, true)?;
        let source = PlanSource {
            gradients: &log,
            run: run.as_deref(),
            include: &include,
            exclude: &exclude,
            choices,
            seed,
            command: "hydra_lora.plan".to_owned(),
        };
        let planned = make(source, || model.read())?;
        planned.notes.iter().for_each(|note| heard.note(format_args!("{note}")));
        if let Some(warning) = outside_warning(&planned.outside) {
            heard.warn(format_args!("{warning}"));
        }
        let document = serde_json::to_string_pretty(&Document::new(&planned, BTreeMap::new(), false))? + "\n";
        Texts::of(&planned.schedule, dropout, Some(document))
    })
}

/// A schedule's file, as `trainer plan --out` and [`plan`] write it.
#[pyfunction]
pub fn schedule(py: Python<'_>, path: PathBuf, dropout: f64) -> PyResult<(String, Said)> {
    call(py, |_| {
        let place = || path.display().to_string();
        let text = hydra_shared::files::input::text(&path)?;
        Texts::of(&RankSchedule::from_json(&text).or_fail(Kind::Data, place)?, dropout, None)
    })
}

/// What is found of an adapter's folder.
#[pyfunction]
pub fn verify(py: Python<'_>, adapter: PathBuf, model: &str, base_rank: Option<u32>) -> PyResult<(String, Said)> {
    call(py, |heard| {
        let model = Model::parse(model)?.read()?;
        model.notes.iter().for_each(|note| heard.note(format_args!("{note}")));
        check(&adapter, &model, base_rank)
    })
}
