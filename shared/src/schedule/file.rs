//! The schedule's file: one JSON document with a rank for every module and where it came from.

mod version_1;

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use self::version_1::ScheduleOfVersion1;
use super::{Budget, Counting, ScalePolicy};
use crate::json::{self, JsonError};
use crate::layout::{Layout, Ranks, WrongCount, in_arc};

/// The version of the format that this program writes. It also reads version 1, whose layers are all alike.
pub const FILE_VERSION: u32 = 2;

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
        Self::of_digest(file, Sha256::new_with_prefix(content))
    }

    /// A file of this name, whose content the digest was given.
    pub fn of_digest(file: impl Into<String>, content: Sha256) -> Self {
        let digest = content.finalize();
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

/// Ranks with all that training needs beside them, and where they came from: a schedule's file.
///
/// [`RankSchedule::new`] and [`RankSchedule::from_json`] only return schedules whose parts agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "ScheduleText", try_from = "ScheduleText")]
pub struct RankSchedule {
    /// A rank for every module.
    pub ranks: Ranks,
    /// Rank of the uniform LoRA that it is compared with.
    pub base_rank: u32,
    /// How the modules' updates are scaled.
    pub scale: ScalePolicy,
    /// The budget.
    pub budget: BudgetUse,
    /// Where it came from.
    pub provenance: Provenance,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleText {
    hydra_schedule: u32,
    #[serde(with = "in_arc")]
    model: Arc<Layout>,
    base_rank: u32,
    scale: ScalePolicy,
    budget: BudgetUse,
    #[serde(deserialize_with = "without_repetition")]
    ranks: IndexMap<String, u32>,
    provenance: Provenance,
}

impl From<RankSchedule> for ScheduleText {
    fn from(schedule: RankSchedule) -> Self {
        let RankSchedule { ranks, base_rank, scale, budget, provenance } = schedule;
        Self {
            hydra_schedule: FILE_VERSION,
            model: Arc::clone(ranks.layout()),
            base_rank,
            scale,
            budget,
            ranks: ranks.iter().map(|(module, rank)| (module.name.clone(), rank)).collect(),
            provenance,
        }
    }
}

impl TryFrom<ScheduleText> for RankSchedule {
    type Error = ScheduleFileError;

    fn try_from(text: ScheduleText) -> Result<Self, ScheduleFileError> {
        let ScheduleText { hydra_schedule: _, model, base_rank, scale, budget, ranks, provenance } = text;
        let ranks = named_ranks(&model, &ranks)?;
        let schedule = Self { ranks, base_rank, scale, budget, provenance };
        schedule.verify()?;
        Ok(schedule)
    }
}

/// Ranks by module name, in any order, as those of a layout.
fn named_ranks(layout: &Arc<Layout>, ranks: &IndexMap<String, u32>) -> Result<Ranks, ScheduleFileError> {
    let place = |name: &str| format!("ranks[\"{name}\"]");
    let rank = |name: &String| ranks.get(name).copied().ok_or_else(|| ScheduleFileError::at(place(name), "is missing"));
    let found = layout.modules().iter().map(|module| rank(&module.name)).collect::<Result<_, _>>()?;
    match ranks.keys().find(|name| layout.find(name).is_none()) {
        Some(name) => Err(ScheduleFileError::at(place(name), "the model has no such module")),
        None => Ok(Ranks::new(layout, found)?),
    }
}

/// Why a schedule's file cannot be used. The caller names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleFileError {
    /// Not JSON, or a key that is missing, unknown or of the wrong type.
    #[error("this is not a rank schedule: {0}; make one with `trainer plan`")]
    Json(#[from] JsonError),
    /// A schedule that cannot be written.
    #[error("the schedule cannot be written: {0}")]
    Write(#[from] serde_json::Error),
    /// JSON of another kind.
    #[error(
        "this is not a rank schedule: the key \"hydra_schedule\" with the version is missing; make one with `trainer plan`"
    )]
    NotASchedule,
    /// A version that this program does not read.
    #[error(
        "hydra_schedule: version {found} was written by another release; this one reads versions 1 and {FILE_VERSION}: plan again, or use that release"
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

impl From<WrongCount> for ScheduleFileError {
    fn from(error: WrongCount) -> Self {
        Self::Disagrees {
            place: "ranks".to_owned(),
            problem: format!("{} ranks for the model's {} modules", error.found, error.expected),
            remedy: "give one rank per module",
        }
    }
}

impl RankSchedule {
    /// A schedule of these ranks.
    ///
    /// # Errors
    /// Ranks that are 0 everywhere or above a module's min(d_in, d_out), use more than the budget, or a scale that is not a finite
    /// number above 0.
    pub fn new(
        ranks: Ranks,
        base_rank: u32,
        scale: ScalePolicy,
        budget: Budget,
        provenance: Provenance,
    ) -> Result<Self, ScheduleFileError> {
        let budget = BudgetUse { counting: budget.counting, allowed: budget.allowed, used: budget.used(&ranks) };
        let schedule = Self { ranks, base_rank, scale, budget, provenance };
        schedule.verify()?;
        Ok(schedule)
    }

    /// Reads a schedule's file, of this version or an older one, and checks that its parts agree. Ranks may be in any
    /// order.
    ///
    /// # Errors
    /// Text that is no schedule of these versions, or whose names, shapes, ranks or budget contradict each other.
    pub fn from_json(text: &str) -> Result<Self, ScheduleFileError> {
        let document = json::from_str::<serde_json::Value>(text)?;
        let version = document.get("hydra_schedule").ok_or(ScheduleFileError::NotASchedule)?;
        match version.as_u64() {
            Some(1) => json::from_str::<ScheduleOfVersion1>(text)?.try_into(),
            Some(found) if found != u64::from(FILE_VERSION) => Err(ScheduleFileError::Version { found }),
            _ => json::from_str::<ScheduleText>(text)?.try_into(),
        }
    }

    /// The file's text. [`Self::from_json`] reads it back exactly.
    ///
    /// # Errors
    /// None for a schedule that [`Self::new`] or [`Self::from_json`] returned.
    pub fn to_json(&self) -> Result<String, ScheduleFileError> {
        self.verify()?;
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The modules that it gives ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        self.ranks.layout()
    }

    fn verify(&self) -> Result<(), ScheduleFileError> {
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
        for (module, rank) in self.ranks.iter() {
            let full = module.highest_rank(None);
            if rank > full {
                let place = format!("ranks[\"{}\"]", module.name);
                return Err(ScheduleFileError::at(place, format!("rank {rank} is outside 0 to {full}")));
            }
        }
        if self.ranks.largest() == 0 {
            return Err(ScheduleFileError::at("ranks", "are 0 for every module"));
        }
        self.verify_budget()?;
        for (index, input) in self.provenance.inputs.iter().enumerate() {
            let hexadecimal = input.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if input.sha256.len() != 64 || !hexadecimal {
                let place = format!("provenance.inputs[{index}].sha256");
                return Err(ScheduleFileError::at(place, "is not 64 lower-case hexadecimal digits"));
            }
        }
        Ok(())
    }

    fn verify_budget(&self) -> Result<(), ScheduleFileError> {
        let BudgetUse { counting, allowed, used } = self.budget;
        let found = Budget { counting, allowed }.used(&self.ranks);
        if found != used {
            return Err(ScheduleFileError::at("budget.used", format!("says {used}, but the ranks use {found}")));
        }
        if used > allowed {
            return Err(ScheduleFileError::Disagrees {
                place: "budget".to_owned(),
                problem: format!("the ranks use {used}, more than the {allowed} allowed"),
                remedy: "plan again with a larger budget",
            });
        }
        Ok(())
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
