//! The session: everything that decides what the page shows. A link holds it, and every export can lead back to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydra_shared::adapter::PeftOptions;
use hydra_shared::gradients::{GradientProfile, ModuleNorm, ProfileConfig, WishError, Wishes};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::choices::Choices;
use hydra_shared::schedule::{Baseline, PlanConfig, ScalePolicy, ScheduleKind};
use serde::{Deserialize, Serialize};

use crate::samples::Sample;

/// Everything that decides what the page shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// What gets the ranks.
    pub layout: Arc<Layout>,
    /// Where the profile came from.
    pub source: Source,
    /// The number of the reading of files, on this page, that the profile came from: logs of different runs have the same
    /// name. 0 for one that was not read, and where nobody counts.
    pub reading: u32,
    /// Which run of the log it is of, and which of the log's modules.
    pub of_log: LogChoice,
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
    /// What PEFT configurations say besides.
    pub peft: PeftOptions,
    /// The PEFT configuration that its ranks were read from. It is no part of a link.
    pub given: Option<Arc<GivenConfig>>,
}

/// A PEFT configuration that was read: as long as ranks and scale are its own, it is exported as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenConfig {
    /// Its text, for an adapter that is still to be trained.
    pub text: String,
    /// Its ranks.
    pub ranks: Ranks,
    /// The scale that it was shown with.
    pub scale: ScalePolicy,
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

/// What is chosen of a log, as `--run`, `--include` and `--exclude` of `trainer plan` do it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogChoice {
    /// The run, where the log holds several.
    pub run: Option<String>,
    /// The expression for modules outside the decoder that are planned, too; empty for none.
    pub include: String,
    /// The expression for modules that are not planned; empty for none.
    pub exclude: String,
}

impl LogChoice {
    /// The expressions, read.
    ///
    /// # Errors
    /// Text that is none.
    pub fn wishes(&self) -> Result<Wishes, WishError> {
        let given = |text: &'_ str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Wishes::new(given(&self.include), given(&self.exclude))
    }

    /// Whether it plans other modules than those of the log that lie in the decoder.
    pub fn chooses_modules(&self) -> bool {
        !(self.include.is_empty() && self.exclude.is_empty())
    }

    /// The flags of `trainer plan` that say it, each with its value.
    pub fn flags(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let expressions = [("--include", self.include.as_str()), ("--exclude", self.exclude.as_str())];
        let run = self.run.iter().map(|run| ("--run", run.as_str()));
        run.chain(expressions.into_iter().filter(|(_, text)| !text.is_empty()))
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
            reading: 0,
            of_log: LogChoice::default(),
            profiling: ProfileConfig::default(),
            by_hand: BTreeMap::new(),
            rebalance: false,
            pinned: None,
            peft: PeftOptions::default(),
            given: None,
        }
    }

    /// What the page calls it: where its profile came from.
    pub fn name(&self) -> String {
        match &self.of_log.run {
            Some(run) => format!("{}, run {run}", self.source.name()),
            None => self.source.name(),
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
