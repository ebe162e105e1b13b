//! The schedule's file: one JSON document with a rank for every module and where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use indexmap::IndexMap;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::{Budget, Counting, ScalePolicy};
use crate::model_spec::{ModelSpec, ModuleId, ModuleShape, Projection};

/// The version of the format that this program writes and reads.
pub const FILE_VERSION: u32 = 1;

/// What a schedule needs to know of its model: names and shapes of the modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduledModel {
    /// Name of the model.
    pub name: String,
    /// Path of the decoder layers in the module tree.
    pub layers_path: String,
    /// Number of decoder layers.
    pub layers: usize,
    /// Shape of each projection, the same in every layer.
    pub shapes: BTreeMap<Projection, ModuleShape>,
}

impl From<&ModelSpec> for ScheduledModel {
    fn from(model: &ModelSpec) -> Self {
        Self {
            name: model.name.clone(),
            layers_path: model.layers_path.clone(),
            layers: model.decoder.layers,
            shapes: Projection::ALL.into_iter().map(|projection| (projection, model.shape(projection))).collect(),
        }
    }
}

impl ScheduledModel {
    /// Every module with its full name, in the order of [`ModelSpec::modules`].
    pub fn modules(&self) -> impl Iterator<Item = (ModuleId, String)> + '_ {
        (0..self.layers).flat_map(move |layer| {
            Projection::ALL.into_iter().map(move |projection| {
                (ModuleId { layer, projection }, format!("{}.{layer}.{}", self.layers_path, projection.path()))
            })
        })
    }

    fn unit_cost(&self, projection: Projection, counting: Counting) -> u64 {
        match counting {
            Counting::Parameters => self.shapes.get(&projection).map_or(0, |shape| shape.rank_unit_cost()),
            Counting::RankUnits => 1,
        }
    }
}

/// The budget of a schedule and what it uses of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetUse {
    /// What is counted.
    pub counting: Counting,
    /// The most that the ranks may use.
    pub allowed: u64,
    /// What they use.
    pub used: u64,
}

/// A file that a schedule was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its name, as it was given.
    pub file: String,
    /// SHA-256 of its content, in lower-case hexadecimal digits.
    pub sha256: String,
}

impl InputFile {
    /// A file of this name and content.
    pub fn new(file: impl Into<String>, content: &[u8]) -> Self {
        let digest = Sha256::digest(content);
        Self { file: file.into(), sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

/// Where a schedule came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The command that made it.
    pub command: String,
    /// The files that the command read.
    pub inputs: Vec<InputFile>,
    /// The seed, where one played a part.
    pub seed: Option<u64>,
}

/// A rank for every module: the paper's Z.
///
/// [`RankSchedule::new`] and [`RankSchedule::from_json`] only return schedules whose parts agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankSchedule {
    /// Version of the file format: [`FILE_VERSION`].
    pub hydra_schedule: u32,
    /// The model.
    pub model: ScheduledModel,
    /// Rank of the uniform LoRA that it is compared with.
    pub base_rank: u32,
    /// How the modules' updates are scaled.
    pub scale: ScalePolicy,
    /// The budget.
    pub budget: BudgetUse,
    /// Rank by full module name, in the order of [`ModelSpec::modules`].
    #[serde(deserialize_with = "without_repetition")]
    pub ranks: IndexMap<String, u32>,
    /// Where it came from.
    pub provenance: Provenance,
}

/// Why a schedule's file cannot be used. The caller names the file.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleFileError {
    /// Not JSON, or a key that is missing, unknown or of the wrong type.
    #[error("this is not a rank schedule: {0}; make one with `trainer plan`")]
    Json(#[from] serde_json::Error),
    /// JSON of another kind.
    #[error(
        "this is not a rank schedule: the key \"hydra_schedule\" with the version is missing; make one with `trainer plan`"
    )]
    NotASchedule,
    /// A version that this program does not read.
    #[error(
        "hydra_schedule: version {found} was written by another release; this one reads version {FILE_VERSION}: plan again, or use that release"
    )]
    Version {
        /// The file's version.
        found: u64,
    },
    /// Parts of the schedule that contradict each other.
    #[error("{place}: {problem}; {remedy}")]
    Disagrees {
        /// Where in the document.
        place: String,
        /// What is wrong there.
        problem: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

const EDITED: &str = "the file was edited or damaged, plan again";

impl ScheduleFileError {
    fn at(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Disagrees { place: place.into(), problem: problem.into(), remedy: EDITED }
    }
}

impl RankSchedule {
    /// A schedule of these ranks, one per module in the order of [`ModelSpec::modules`].
    ///
    /// # Errors
    /// Ranks that are not one per module, are 0 or above a module's min(d_in, d_out), use more than the budget, or a
    /// scale that is not a finite number above 0.
    pub fn new(
        model: &ModelSpec,
        ranks: &[u32],
        base_rank: u32,
        scale: ScalePolicy,
        budget: Budget,
        provenance: Provenance,
    ) -> Result<Self, ScheduleFileError> {
        if ranks.len() != model.module_count() {
            let problem = format!("{} ranks for the model's {} modules", ranks.len(), model.module_count());
            return Err(ScheduleFileError::Disagrees {
                place: "ranks".to_owned(),
                problem,
                remedy: "give one rank per module",
            });
        }
        let named = model.modules().map(|module| model.module_name(module)).zip(ranks.iter().copied());
        let used = budget.used(model, ranks);
        let schedule = Self {
            hydra_schedule: FILE_VERSION,
            model: model.into(),
            base_rank,
            scale,
            budget: BudgetUse { counting: budget.counting, allowed: budget.allowed, used },
            ranks: named.collect(),
            provenance,
        };
        schedule.verify()?;
        Ok(schedule)
    }

    /// Reads a schedule's file and checks that its parts agree. Ranks may be in any order and are put into the model's.
    ///
    /// # Errors
    /// Text that is no schedule of this version, or whose names, shapes, ranks or budget contradict each other.
    pub fn from_json(text: &str) -> Result<Self, ScheduleFileError> {
        let version = serde_json::from_str::<serde_json::Value>(text)?;
        let version = version.get("hydra_schedule").ok_or(ScheduleFileError::NotASchedule)?;
        match version.as_u64() {
            Some(found) if found != u64::from(FILE_VERSION) => return Err(ScheduleFileError::Version { found }),
            _ => {}
        }
        let mut schedule: Self = serde_json::from_str(text)?;
        schedule.verify()?;
        let mut ranks = IndexMap::with_capacity(schedule.ranks.len());
        for (_, name) in schedule.model.modules() {
            if let Some(&rank) = schedule.ranks.get(&name) {
                ranks.insert(name, rank);
            }
        }
        schedule.ranks = ranks;
        Ok(schedule)
    }

    /// The file's text. [`Self::from_json`] reads it back exactly.
    ///
    /// # Errors
    /// None for a schedule that [`Self::new`] or [`Self::from_json`] returned.
    pub fn to_json(&self) -> Result<String, ScheduleFileError> {
        self.verify()?;
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The ranks alone, in the order of [`ModelSpec::modules`].
    pub fn rank_list(&self) -> Vec<u32> {
        self.model.modules().map(|(_, name)| self.ranks.get(&name).copied().unwrap_or(0)).collect()
    }

    /// Trainable parameters, whatever the budget counts.
    pub fn trainable_parameters(&self) -> u64 {
        self.used(Counting::Parameters)
    }

    /// Highest rank of any module.
    pub fn largest_rank(&self) -> u32 {
        self.ranks.values().copied().max().unwrap_or(0)
    }

    /// Whether this schedule is for `model`: the same module names and shapes.
    pub fn fits(&self, model: &ModelSpec) -> bool {
        let other = ScheduledModel::from(model);
        other.layers_path == self.model.layers_path
            && other.layers == self.model.layers
            && other.shapes == self.model.shapes
    }

    fn used(&self, counting: Counting) -> u64 {
        let modules = self.model.modules();
        modules.fold(0, |used, (module, name)| {
            let rank = self.ranks.get(&name).copied().unwrap_or(0);
            used.saturating_add(self.model.unit_cost(module.projection, counting).saturating_mul(u64::from(rank)))
        })
    }

    fn verify(&self) -> Result<(), ScheduleFileError> {
        self.verify_model()?;
        if self.base_rank == 0 {
            return Err(ScheduleFileError::at("base_rank", "is 0, must be at least 1"));
        }
        if !self.scale.is_valid() {
            return Err(ScheduleFileError::Disagrees {
                place: "scale".to_owned(),
                problem: "is not a finite number above 0".to_owned(),
                remedy: "give a scale such as 2",
            });
        }
        self.verify_ranks()?;
        let used = self.used(self.budget.counting);
        if used != self.budget.used {
            let problem = format!("says {}, but the ranks use {used}", self.budget.used);
            return Err(ScheduleFileError::at("budget.used", problem));
        }
        if used > self.budget.allowed {
            let problem = format!("the ranks use {used}, more than the {} allowed", self.budget.allowed);
            return Err(ScheduleFileError::Disagrees {
                place: "budget".to_owned(),
                problem,
                remedy: "plan again with a larger budget",
            });
        }
        for (index, input) in self.provenance.inputs.iter().enumerate() {
            let hexadecimal = input.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if input.sha256.len() != 64 || !hexadecimal {
                let place = format!("provenance.inputs[{index}].sha256");
                return Err(ScheduleFileError::at(place, "is not 64 lower-case hexadecimal digits"));
            }
        }
        Ok(())
    }

    fn verify_model(&self) -> Result<(), ScheduleFileError> {
        // Module names become keys of PEFT's patterns, where other characters would have a meaning of their own.
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !self.model.layers_path.split('.').all(plain) {
            let problem = format!("\"{}\" is not a path such as model.layers", self.model.layers_path);
            return Err(ScheduleFileError::at("model.layers_path", problem));
        }
        if self.model.layers == 0 || self.model.layers > ModelSpec::MOST_LAYERS {
            let problem = format!("is {}, must be 1 to {}", self.model.layers, ModelSpec::MOST_LAYERS);
            return Err(ScheduleFileError::at("model.layers", problem));
        }
        for projection in Projection::ALL {
            let place = || format!("model.shapes.{projection}");
            let shape = self.model.shapes.get(&projection);
            let shape = shape.ok_or_else(|| ScheduleFileError::at(place(), "is missing"))?;
            if [shape.d_in, shape.d_out].iter().any(|&width| width == 0 || width > ModelSpec::MOST_WIDTH) {
                let problem = format!("has a width outside 1 to {}", ModelSpec::MOST_WIDTH);
                return Err(ScheduleFileError::at(place(), problem));
            }
        }
        Ok(())
    }

    fn verify_ranks(&self) -> Result<(), ScheduleFileError> {
        let mut expected = BTreeSet::new();
        for (module, name) in self.model.modules() {
            let place = || format!("ranks[\"{name}\"]");
            let rank = *self.ranks.get(&name).ok_or_else(|| ScheduleFileError::at(place(), "is missing"))?;
            let full = self.model.shapes.get(&module.projection).map_or(0, |shape| shape.full_rank());
            if rank == 0 || rank > full {
                return Err(ScheduleFileError::at(place(), format!("rank {rank} is outside 1 to {full}")));
            }
            expected.insert(name);
        }
        match self.ranks.keys().find(|name| !expected.contains(*name)) {
            Some(name) => Err(ScheduleFileError::at(format!("ranks[\"{name}\"]"), "the model has no such module")),
            None => Ok(()),
        }
    }
}

/// JSON allows a key twice and most readers keep the last; here the second is an error.
fn without_repetition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IndexMap<String, u32>, D::Error> {
    struct Ranks;

    impl<'de> Visitor<'de> for Ranks {
        type Value = IndexMap<String, u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a rank for every module name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut ranks = IndexMap::new();
            while let Some((name, rank)) = entries.next_entry::<String, u32>()? {
                if ranks.contains_key(&name) {
                    return Err(A::Error::custom(format!("the module {name} is given twice")));
                }
                ranks.insert(name, rank);
            }
            Ok(ranks)
        }
    }

    deserializer.deserialize_map(Ranks)
}

#[cfg(test)]
mod tests;
