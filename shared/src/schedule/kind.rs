//! Which schedule is made: HyDRA's, or one to compare it with.

use super::Baseline;

/// Which schedule is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleKind {
    /// HyDRA's: the coarse and the fine step.
    Hydra,
    /// HyDRA's without the fine step.
    HydraCoarse,
    /// One to compare it with.
    Baseline(Baseline),
}

impl ScheduleKind {
    /// Every kind.
    pub const ALL: [Self; 2 + Baseline::ALL.len()] = {
        let mut all = [Self::Hydra; 2 + Baseline::ALL.len()];
        all[1] = Self::HydraCoarse;
        let mut at = 0;
        while at < Baseline::ALL.len() {
            all[2 + at] = Self::Baseline(Baseline::ALL[at]);
            at += 1;
        }
        all
    };

    /// Name in files, in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hydra => "hydra",
            Self::HydraCoarse => "hydra-coarse",
            Self::Baseline(baseline) => baseline.name(),
        }
    }

    /// The kind of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The comparison schedule that it is; none for HyDRA's own.
    pub fn baseline(self) -> Option<Baseline> {
        match self {
            Self::Hydra | Self::HydraCoarse => None,
            Self::Baseline(baseline) => Some(baseline),
        }
    }
}

impl std::fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
