//! Version 1 of the schedule's file: layers that are all alike, their shapes by projection.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;

use super::{BudgetUse, Provenance, RankSchedule, ScheduleFileError, named_ranks, without_repetition};
use crate::layout::{Layout, MOST_LAYERS, MOST_WIDTH, ModuleShape, Projection};
use crate::schedule::ScalePolicy;

/// What stands in a file of version 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleOfVersion1 {
    #[serde(rename = "hydra_schedule")]
    _version: u32,
    model: ModelOfSchedule,
    base_rank: u32,
    scale: ScalePolicy,
    budget: BudgetUse,
    #[serde(deserialize_with = "without_repetition")]
    ranks: IndexMap<String, u32>,
    provenance: Provenance,
}

/// Names and shapes of the modules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelOfSchedule {
    name: String,
    layers_path: String,
    layers: usize,
    shapes: BTreeMap<Projection, ModuleShape>,
}

impl ModelOfSchedule {
    fn layout(self) -> Result<Layout, ScheduleFileError> {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !self.layers_path.split('.').all(plain) {
            let problem = format!("\"{}\" is not a path such as model.layers", self.layers_path);
            return Err(ScheduleFileError::at("model.layers_path", problem));
        }
        if self.layers == 0 || self.layers > MOST_LAYERS {
            let problem = format!("is {}, must be 1 to {MOST_LAYERS}", self.layers);
            return Err(ScheduleFileError::at("model.layers", problem));
        }
        let mut layer = Vec::new();
        for projection in Projection::ALL {
            let place = || format!("model.shapes.{projection}");
            let shape = self.shapes.get(&projection);
            let shape = *shape.ok_or_else(|| ScheduleFileError::at(place(), "is missing"))?;
            if [shape.d_in, shape.d_out].iter().any(|&width| width == 0 || width > MOST_WIDTH) {
                return Err(ScheduleFileError::at(place(), format!("has a width outside 1 to {MOST_WIDTH}")));
            }
            layer.push((projection.into(), projection.path(), shape));
        }
        Layout::stack(self.name, &self.layers_path, self.layers, &layer)
            .map_err(|error| ScheduleFileError::at("model", error.to_string()))
    }
}

impl TryFrom<ScheduleOfVersion1> for RankSchedule {
    type Error = ScheduleFileError;

    fn try_from(text: ScheduleOfVersion1) -> Result<Self, ScheduleFileError> {
        let ScheduleOfVersion1 { _version: _, model, base_rank, scale, budget, ranks, provenance } = text;
        let ranks = named_ranks(&Arc::new(model.layout()?), &ranks)?;
        let schedule = Self { ranks, base_rank, scale, budget, provenance };
        schedule.verify()?;
        Ok(schedule)
    }
}
