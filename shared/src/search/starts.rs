//! The schedules that a search begins with.

use serde::{Deserialize, Serialize};

use crate::gradients::GradientProfile;
use crate::layout::Ranks;
use crate::schedule::{Baseline, BudgetError, Plan, PlanConfig};

/// A schedule to start with.
///
/// Where it is sent it is a [`PlainStart`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start<R = Ranks> {
    /// Its name, e.g. `uniform`.
    pub name: String,
    /// A rank for every module.
    pub ranks: R,
}

/// A start whose ranks are a list in the order of its study's layout.
pub type PlainStart = Start<Vec<u32>>;

impl From<Start> for PlainStart {
    fn from(Start { name, ranks }: Start) -> Self {
        Self { name, ranks: ranks.as_slice().to_vec() }
    }
}

/// The schedules that a search begins with: LoRA, HyDRA's two, and those made by hand. Not all of them need be within a
/// budget that was given by hand. `seed` is that of [`Baseline::ranks`], which decides none of these.
///
/// # Errors
/// As [`Baseline::ranks`].
pub fn starting_schedules(
    coarse: &Plan,
    fine: &Plan,
    profile: &GradientProfile,
    config: &PlanConfig,
    seed: u64,
) -> Result<Vec<Start>, BudgetError> {
    let layout = fine.ranks.layout();
    let start = |name: &str, ranks: Ranks| Start { name: name.to_owned(), ranks };
    let mut starts = vec![
        start("uniform", Ranks::uniform(layout, config.base_rank)),
        start("coarse", coarse.ranks.clone()),
        start("coarse + fine", fine.ranks.clone()),
    ];
    for baseline in [Baseline::Linear, Baseline::Exponential, Baseline::NormProportional] {
        starts.push(start(baseline.name(), baseline.ranks(layout, profile, config.base_rank, config.bounds(), seed)?));
    }
    Ok(starts)
}
