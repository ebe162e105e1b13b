//! The session: everything that decides what the page shows. A link holds it, and every export can lead back to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydra_shared::gradients::{GradientProfile, ModuleNorm, ProfileConfig};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::choices::Choices;
use hydra_shared::schedule::{Baseline, PlanConfig, ScheduleKind};
use serde::{Deserialize, Serialize};

use crate::samples::Sample;

/// Everything that decides what the page shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// What gets the ranks.
    pub layout: Arc<Layout>,
    /// Where the profile came from.
    pub source: Source,
    /// The gradient profile; it has one entry per module of `layout`.
    pub profile: GradientProfile,
    /// How the profile is made of the log.
    pub profiling: ProfileConfig,
    /// Every choice of the method.
    pub plan: PlanConfig,
    /// Ranks set by hand, by the module's position in the layout.
    pub by_hand: BTreeMap<usize, u32>,
    /// Whether the other modules give way so that ranks set by hand meet the budget.
    pub rebalance: bool,
    /// The schedule that is compared with.
    pub pinned: Option<Pinned>,
}

/// Where a profile came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A sample that comes with the page.
    Sample(Sample),
    /// A log of the user's, by the names of its files.
    Log(Vec<String>),
    /// None: the ranks were given, and nothing is known of the gradients. Every norm counts as 0.
    Unknown,
}

impl Source {
    /// What the page calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Sample(sample) => sample.title().to_owned(),
            Self::Unknown => "no gradient profile".to_owned(),
            Self::Log(files) => match files.as_slice() {
                [] => "a gradient profile from a link".to_owned(),
                [file] => file.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            },
        }
    }
}

/// A schedule to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// What it is.
    pub name: String,
    /// Its ranks.
    pub ranks: Ranks,
}

impl Session {
    /// The session that a sample begins.
    pub fn of_sample(sample: Sample) -> Self {
        let layout = sample.layout();
        Self {
            plan: PlanConfig { base_rank: sample.base_rank(), ..PlanConfig::default() },
            profile: sample.profile(&layout),
            layout,
            source: Source::Sample(sample),
            profiling: ProfileConfig::default(),
            by_hand: BTreeMap::new(),
            rebalance: false,
            pinned: None,
        }
    }

    /// What is chosen on the way from a log to a schedule.
    pub fn choices(&self) -> Choices {
        Choices { profile: self.profiling, plan: self.plan.clone() }
    }

    /// The schedule to compare with that is shown in place of HyDRA's.
    pub fn baseline(&self) -> Option<Baseline> {
        self.plan.schedule_kind.and_then(ScheduleKind::baseline)
    }
}

/// A profile of which nothing is known: every norm is 0.
pub fn unknown_profile(layout: &Layout) -> GradientProfile {
    let norm = ModuleNorm { mean: 0.0, standard_error: 0.0, steps: 0 };
    GradientProfile { modules: vec![norm; layout.len()], ..GradientProfile::default() }
}

impl Default for Session {
    fn default() -> Self {
        Self::of_sample(Sample::MobileVlm)
    }
}
