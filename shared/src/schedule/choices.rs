//! Every choice of the plan, declared once.
//!
//! A [`Choice`] says its key, what it is, what kind of value it takes and where that value stands in [`Choices`]. From
//! [`ALL`] follow the configuration files' keys, the flags of `trainer plan`, the page's links, exports and controls: a new
//! choice is its field, with what it does, and a row here.

mod json;
mod text;

use super::{Counting, PlanConfig, ScalePolicy, ScheduleKind, Signs, StageChoice, StageRanks};
use crate::gradients::{LayerNorm, ProfileConfig, Signal};
use crate::stages::StageConfig;

pub use json::{Values, modern, older_keys};
pub use text::TextError;

/// What the choices are made for: how a gradient log becomes a profile, and the profile a schedule.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choices {
    /// From log to profile.
    pub profile: ProfileConfig,
    /// From profile to schedule.
    pub plan: PlanConfig,
}

/// Which of the two a choice belongs to; the configuration of a search has a table for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`Choices::profile`].
    Profile,
    /// [`Choices::plan`].
    Plan,
}

type Get<T> = fn(&Choices) -> T;
type Set<T> = fn(&mut Choices, T);

/// What kind of value a choice takes, and where it stands.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Yes or no.
    Switch {
        /// Reads it.
        get: Get<bool>,
        /// Puts it.
        set: Set<bool>,
    },
    /// A whole number, or none.
    Whole {
        /// Lowest and highest value of links and controls; files and flags may go beyond.
        bounds: (u64, u64),
        /// The most that its field can hold.
        most: u64,
        /// Reads it.
        get: Get<Option<u64>>,
        /// Puts it.
        set: Set<Option<u64>>,
    },
    /// A number, or none.
    Number {
        /// Lowest and highest value of links and controls; files and flags may go beyond.
        bounds: (f64, f64),
        /// Reads it.
        get: Get<Option<f64>>,
        /// Puts it.
        set: Set<f64>,
    },
    /// One of several words, or none.
    Words {
        /// The words.
        words: &'static [Word],
        /// Reads it.
        get: Get<Option<&'static str>>,
        /// Puts one of the words.
        set: Set<Option<&'static str>>,
    },
    /// A scale policy and its number: `constant:2`.
    Scale {
        /// Lowest and highest number of links and controls.
        bounds: (f64, f64),
        /// Reads it.
        get: Get<ScalePolicy>,
        /// Puts it.
        set: Set<ScalePolicy>,
    },
    /// Ranks, or none: `64,128,256`.
    Ranks {
        /// Reads them.
        get: Get<Option<Vec<u32>>>,
        /// Puts them.
        set: Set<Option<Vec<u32>>>,
    },
    /// Layers of every stage, or none: `0-11/12-17,20/18-19,21-23`.
    Layers {
        /// Reads them.
        get: Get<Option<Vec<Vec<usize>>>>,
        /// Puts them.
        set: Set<Option<Vec<Vec<usize>>>>,
    },
    /// A sign for every projection, or none: `q=-,k=-,up=+`.
    Signs {
        /// Reads them.
        get: Get<Option<Signs>>,
        /// Puts them.
        set: Set<Option<Signs>>,
    },
}

/// One of the words of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// What files, flags and links call it.
    pub name: &'static str,
    /// What the page calls it; none for one that only files and flags take.
    pub label: Option<&'static str>,
}

/// A choice in a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InLink {
    /// Its key there.
    pub key: &'static str,
    /// Whether it is written even at its default.
    pub always: bool,
    /// What happens with a value that cannot be used, as a notice tells it.
    pub otherwise: &'static str,
}

/// A choice among the page's controls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Control {
    /// Id of its element.
    pub id: &'static str,
    /// What stands before it.
    pub label: &'static str,
    /// What it is, where that takes other words than everywhere else.
    pub hint: Option<&'static str>,
    /// Whether it is folded away with the rarer ones.
    pub folded: bool,
    /// Whether it is shown only where there is a gradient log.
    pub needs_log: bool,
    /// How it looks, where its kind alone does not say it.
    pub look: Look,
}

/// How a control looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Look {
    /// As its kind says.
    Plain,
    /// A box for a number.
    Box {
        /// Highest value, where it is below the bounds.
        most: u64,
        /// What stands in an empty one.
        empty: &'static str,
    },
    /// A slider.
    Slider {
        /// Lowest and highest value.
        range: (f64, f64),
        /// Distance of two values.
        step: f64,
        /// Whether it ends at the model's number of layers, where that is lower.
        within_layers: bool,
    },
}

/// One choice.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Its key in configuration files; with dashes, its flag.
    pub key: &'static str,
    /// What it is, in a sentence without its full stop.
    pub help: &'static str,
    /// What holds while nothing is chosen, in words; empty where the default value says it.
    pub unset: &'static str,
    /// Example of its text; empty where the kind says it all.
    pub example: &'static str,
    /// Which part of the choices it belongs to.
    pub part: Part,
    /// What kind of value it takes.
    pub kind: Kind,
    /// A flag without value, and the word that it is short for.
    pub short: Option<(&'static str, &'static str)>,
    /// Key of a choice whose place this one takes when it is made.
    pub instead_of: Option<&'static str>,
    /// Keys of choices that say nothing once this one is made.
    pub idles: &'static [&'static str],
    /// Whether exported commands and files name it even at its default.
    pub always: bool,
    /// How links have it; none where they do not.
    pub link: Option<InLink>,
    /// How the page shows it; none where it does not.
    pub control: Option<Control>,
    /// Paths of its value in the tables of earlier versions, which are still read.
    pub older: &'static [&'static str],
}

/// A choice that nothing special is said of.
const ROW: Choice = Choice {
    key: "",
    help: "",
    unset: "",
    example: "",
    part: Part::Plan,
    kind: Kind::Switch { get: |_| false, set: |_, _| {} },
    short: None,
    instead_of: None,
    idles: &[],
    always: false,
    link: None,
    control: None,
    older: &[],
};

/// A control that nothing special is said of.
const CONTROL: Control = Control { id: "", label: "", hint: None, folded: false, needs_log: false, look: Look::Plain };

/// Most stages that links and controls ask for.
pub const MOST_STAGES: u64 = 12;

const WHOLE_32: u64 = u32::MAX as u64;

/// A choice of which each word is a variant of a plain enum.
macro_rules! words {
    ($part:ident . $field:ident { $($variant:path => $label:literal),+ $(,)? }) => {
        Kind::Words {
            words: &[$(Word { name: $variant.name(), label: Some($label) }),+],
            get: |choices| Some(choices.$part.$field.name()),
            set: |choices, name| {
                if let Some(chosen) = [$($variant),+].into_iter().find(|variant| Some(variant.name()) == name) {
                    choices.$part.$field = chosen;
                }
            },
        }
    };
}

/// Every choice, in the order of the page. Values are put in this order, so that what is made by hand comes after what it
/// takes the place of.
pub static ALL: &[Choice] = &[
    Choice {
        key: "base_rank",
        help: "Rank of the uniform LoRA whose parameters are the budget",
        kind: Kind::Whole {
            bounds: (1, 1024),
            most: WHOLE_32,
            get: |choices| Some(choices.plan.base_rank.into()),
            set: |choices, rank| {
                if let Some(rank) = rank {
                    choices.plan.base_rank = narrow(rank);
                }
            },
        },
        always: true,
        link: Some(InLink { key: "r", always: true, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "base-rank",
            label: "Base rank r₀ (your r)",
            hint: Some("The r of your LoRA today: as many parameters as it has everywhere are the budget"),
            look: Look::Box { most: 1024, empty: "" },
            ..CONTROL
        }),
        ..ROW
    },
    Choice {
        key: "stages",
        help: "How many clusters K-means makes of the layers",
        kind: Kind::Whole {
            bounds: (1, MOST_STAGES),
            most: WHOLE_32,
            get: |choices| clustered(&choices.plan).map(|stages| stages.count as u64),
            set: |choices, count| {
                if let Some(count) = count {
                    cluster(choices, |stages| stages.count = narrow(count) as usize);
                }
            },
        },
        always: true,
        link: Some(InLink { key: "stages", always: true, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "stages",
            label: "Stages Nₛ",
            hint: Some("Groups of layers with alike gradients, each with a rank of its own; K-means finds them"),
            look: Look::Slider { range: (1.0, MOST_STAGES as f64), step: 1.0, within_layers: true },
            ..CONTROL
        }),
        older: &["stages.clustered.count"],
        ..ROW
    },
    Choice {
        key: "ratio",
        help: "Factor from one stage's rank to the next",
        kind: Kind::Number {
            bounds: (1.0, 8.0),
            get: |choices| match choices.plan.stage_ranks {
                StageRanks::Ratio(ratio) => Some(ratio),
                StageRanks::ByHand(_) => None,
            },
            set: |choices, ratio| choices.plan.stage_ranks = StageRanks::Ratio(ratio),
        },
        always: true,
        link: Some(InLink { key: "ratio", always: true, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "ratio",
            label: "Rank ratio ρ",
            hint: Some("Every stage has this many times the rank of the one before; 1 gives all the same"),
            look: Look::Slider { range: (1.0, 4.0), step: 0.05, within_layers: false },
            ..CONTROL
        }),
        older: &["stage_ranks.ratio"],
        ..ROW
    },
    Choice {
        key: "stage_ranks",
        help: "One rank per stage, in ascending order",
        unset: "by the ratio",
        example: "64,128,256",
        kind: Kind::Ranks {
            get: |choices| match &choices.plan.stage_ranks {
                StageRanks::Ratio(_) => None,
                StageRanks::ByHand(ranks) => Some(ranks.clone()),
            },
            set: |choices, ranks| match ranks {
                Some(ranks) => choices.plan.stage_ranks = StageRanks::ByHand(ranks),
                None if matches!(choices.plan.stage_ranks, StageRanks::Ratio(_)) => {}
                None => choices.plan.stage_ranks = StageRanks::default(),
            },
        },
        instead_of: Some("ratio"),
        idles: &["ratio"],
        link: Some(InLink { key: "ranks", always: false, otherwise: "the ratio decides" }),
        control: Some(Control { id: "stage-ranks", label: "Stage ranks, lowest first", ..CONTROL }),
        older: &["stage_ranks.by-hand"],
        ..ROW
    },
    Choice {
        key: "delta",
        help: "By how much the fine step moves the rank of a projection; 0 leaves the coarse ranks",
        kind: Kind::Whole {
            bounds: (0, 64),
            most: WHOLE_32,
            get: |choices| Some(choices.plan.delta.into()),
            set: |choices, delta| {
                if let Some(delta) = delta {
                    choices.plan.delta = narrow(delta);
                }
            },
        },
        always: true,
        link: Some(InLink { key: "delta", always: true, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "delta",
            label: "Fine step Δd",
            hint: Some(
                "Ranks that a projection with large gradients gets more than its layer, and one with small ones less",
            ),
            look: Look::Slider { range: (0.0, 16.0), step: 1.0, within_layers: false },
            ..CONTROL
        }),
        ..ROW
    },
    Choice {
        key: "signs",
        help: "Which projections give rank and which get it",
        unset: "by each layer's norms",
        example: "q=-,k=-,up=+",
        kind: Kind::Signs { get: |choices| choices.plan.signs, set: |choices, signs| choices.plan.signs = signs },
        link: Some(InLink { key: "signs", always: false, otherwise: "each layer's norms decide" }),
        control: Some(Control { id: "signs-by", label: "Signs of ±Δd", ..CONTROL }),
        ..ROW
    },
    Choice {
        key: "contiguous",
        help: "Every stage is a run of neighbouring layers",
        kind: Kind::Switch {
            get: |choices| clustered(&choices.plan).is_some_and(|stages| stages.contiguous),
            set: |choices, on| cluster(choices, |stages| stages.contiguous = on),
        },
        link: Some(InLink { key: "contiguous", always: false, otherwise: OFF }),
        control: Some(Control { id: "contiguous", label: "Contiguous stages", ..CONTROL }),
        older: &["stages.clustered.contiguous"],
        ..ROW
    },
    Choice {
        key: "schedule_kind",
        help: "HyDRA's schedule, or one to compare it with",
        unset: "hydra",
        kind: Kind::Words {
            words: &SCHEDULES,
            get: |choices| choices.plan.schedule_kind.map(ScheduleKind::name),
            set: |choices, name| choices.plan.schedule_kind = name.and_then(ScheduleKind::of_name),
        },
        link: Some(InLink { key: "preset", always: false, otherwise: "HyDRA's own schedule is used" }),
        control: Some(Control { id: "preset", label: "Schedule", ..CONTROL }),
        ..ROW
    },
    Choice {
        key: "signal",
        help: "What is measured of a module's gradient in one step",
        part: Part::Profile,
        kind: words! { profile.signal {
            Signal::L2 => "L2 norm",
            Signal::Rms => "RMS per element",
            Signal::Fisher => "Fisher (mean square)",
        }},
        link: Some(InLink { key: "signal", always: false, otherwise: "l2 is used" }),
        control: Some(Control { id: "signal", label: "Signal", folded: true, ..CONTROL }),
        ..ROW
    },
    Choice {
        key: "warm_up_share",
        help: "Share of the run's steps that is left out at its start, where B is still near zero",
        part: Part::Profile,
        kind: Kind::Number {
            bounds: (0.0, 0.9),
            get: |choices| Some(choices.profile.warm_up_share),
            set: |choices, share| choices.profile.warm_up_share = share,
        },
        link: Some(InLink { key: "warmup", always: false, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "warm-up",
            label: "Warm-up left out",
            folded: true,
            needs_log: true,
            look: Look::Slider { range: (0.0, 0.9), step: 0.05, within_layers: false },
            ..CONTROL
        }),
        ..ROW
    },
    Choice {
        key: "skip_non_finite",
        help: "Leave out steps in which a norm is NaN or infinite",
        part: Part::Profile,
        kind: Kind::Switch {
            get: |choices| choices.profile.skip_non_finite,
            set: |choices, on| choices.profile.skip_non_finite = on,
        },
        ..ROW
    },
    Choice {
        key: "layer_norm",
        help: "How a layer's norm follows from its projections'",
        kind: words! { plan.layer_norm {
            LayerNorm::Mean => "mean of its projections",
            LayerNorm::RootSumSquares => "root of the sum of squares",
        }},
        link: Some(InLink { key: "norm", always: false, otherwise: "the mean is used" }),
        control: Some(Control { id: "layer-norm", label: "Norm of a layer", folded: true, ..CONTROL }),
        ..ROW
    },
    Choice {
        key: "budget",
        help: "Trainable parameters (or rank units) allowed",
        unset: "those of uniform LoRA at the base rank",
        kind: Kind::Whole {
            bounds: (1, u64::MAX),
            most: u64::MAX,
            get: |choices| choices.plan.budget,
            set: |choices, budget| choices.plan.budget = budget,
        },
        link: Some(InLink { key: "budget", always: false, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "budget",
            label: "Budget by hand",
            hint: Some("Trainable parameters (or rank units) allowed; empty: those of uniform LoRA at the base rank"),
            folded: true,
            look: Look::Box { most: u64::MAX, empty: "uniform LoRA's" },
            ..CONTROL
        }),
        ..ROW
    },
    Choice {
        key: "counting",
        help: "Trainable parameters, or rank units as AdaLoRA and EVA count",
        kind: words! { plan.counting {
            Counting::Parameters => "parameters",
            Counting::RankUnits => "rank units",
        }},
        short: Some(("count_rank_units", "rank-units")),
        link: Some(InLink { key: "count", always: false, otherwise: "parameters are counted" }),
        control: Some(Control { id: "counting", label: "The budget counts", folded: true, ..CONTROL }),
        older: &["count_rank_units"],
        ..ROW
    },
    Choice {
        key: "rank_cap",
        help: "No rank above this one, for servers that have a limit",
        unset: "what a matrix can use",
        kind: Kind::Whole {
            bounds: (1, WHOLE_32),
            most: WHOLE_32,
            get: |choices| choices.plan.cap.map(u64::from),
            set: |choices, cap| choices.plan.cap = cap.map(narrow),
        },
        link: Some(InLink { key: "cap", always: false, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "cap",
            label: "Largest rank",
            folded: true,
            look: Look::Box { most: 1 << 18, empty: "none" },
            ..CONTROL
        }),
        older: &["cap"],
        ..ROW
    },
    Choice {
        key: "min_rank",
        help: "Lowest rank; with 0 the plan may drop modules, which then get no LoRA",
        kind: Kind::Whole {
            bounds: (0, 1024),
            most: WHOLE_32,
            get: |choices| Some(choices.plan.min_rank.into()),
            set: |choices, rank| choices.plan.min_rank = rank.map_or(1, narrow),
        },
        link: Some(InLink { key: "min", always: false, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "min-rank",
            label: "Lowest rank",
            folded: true,
            look: Look::Box { most: 1024, empty: "1" },
            ..CONTROL
        }),
        ..ROW
    },
    Choice {
        key: "scale",
        help: "How strongly a module's update counts; ranks do not depend on it",
        example: "constant:2, fixed-alpha:256, rslora:256",
        kind: Kind::Scale {
            bounds: (0.001, 65_536.0),
            get: |choices| choices.plan.scale,
            set: |choices, scale| choices.plan.scale = scale,
        },
        always: true,
        link: Some(InLink { key: "scale", always: false, otherwise: "constant:2 is used" }),
        control: Some(Control { id: "scale", label: "Scale", folded: true, ..CONTROL }),
        ..ROW
    },
    Choice {
        key: "seed",
        help: "Seed of K-means++ and of the random schedule",
        kind: Kind::Whole {
            bounds: (0, u64::MAX),
            most: u64::MAX,
            get: |choices| clustered(&choices.plan).map(|stages| stages.seed),
            set: |choices, seed| cluster(choices, |stages| stages.seed = seed.unwrap_or(0)),
        },
        link: Some(InLink { key: "seed", always: false, otherwise: DEFAULT_IS_USED }),
        control: Some(Control {
            id: "seed",
            label: "Seed",
            folded: true,
            look: Look::Box { most: u64::MAX, empty: "" },
            ..CONTROL
        }),
        older: &["stages.clustered.seed"],
        ..ROW
    },
    Choice {
        key: "restarts",
        help: "Runs of K-means from different starts, of which the best is kept",
        kind: Kind::Whole {
            bounds: (1, 1024),
            most: WHOLE_32,
            get: |choices| clustered(&choices.plan).map(|stages| stages.restarts as u64),
            set: |choices, restarts| {
                if let Some(restarts) = restarts {
                    cluster(choices, |stages| stages.restarts = narrow(restarts) as usize);
                }
            },
        },
        older: &["stages.clustered.restarts"],
        ..ROW
    },
    Choice {
        key: "stage_layers",
        help: "Layers of each stage by hand, lowest rank first",
        unset: "by K-means",
        example: "0-11/12-17/18-23",
        kind: Kind::Layers {
            get: |choices| match &choices.plan.stages {
                StageChoice::Clustered(_) => None,
                StageChoice::ByHand(layers) => Some(layers.clone()),
            },
            set: |choices, layers| match layers {
                Some(layers) => choices.plan.stages = StageChoice::ByHand(layers),
                None => cluster(choices, |_| {}),
            },
        },
        idles: &["stages", "contiguous", "restarts"],
        link: Some(InLink { key: "layers", always: false, otherwise: "K-means decides" }),
        older: &["stages.by-hand"],
        ..ROW
    },
];

const DEFAULT_IS_USED: &str = "the default is used";
const OFF: &str = "it is taken as off";

/// What the schedules are called. The page offers no coarse schedule: its increment at 0 is one.
const SCHEDULES: [Word; ScheduleKind::ALL.len()] = {
    let mut words = [Word { name: "", label: None }; ScheduleKind::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        let kind = ScheduleKind::ALL[at];
        let label = match kind {
            ScheduleKind::Hydra => Some("HyDRA"),
            ScheduleKind::HydraCoarse => None,
            ScheduleKind::Baseline(baseline) => Some(baseline.title()),
        };
        words[at] = Word { name: kind.name(), label };
        at += 1;
    }
    words
};

/// Choices of stages and of the fine step, which the schedules to compare with do not have.
const OF_HYDRA: [&str; 9] =
    ["stages", "ratio", "stage_ranks", "delta", "signs", "contiguous", "layer_norm", "restarts", "stage_layers"];

impl Choices {
    /// Choices that say nothing beside the others, whatever is made of them, and why.
    pub fn idle(&self) -> Vec<(&'static str, String)> {
        let made = ALL.iter().filter(|choice| !choice.is_default(self));
        let mut idle: Vec<(&'static str, String)> = made
            .flat_map(|choice| {
                choice.idles.iter().map(|key| (*key, format!("{} is given, which takes its place", choice.key)))
            })
            .collect();
        if self.plan.delta == 0 {
            idle.push(("signs", "delta is 0: there is no fine step".to_owned()));
        }
        if let Some(stages) = clustered(&self.plan) {
            if stages.count == 1 {
                let why = || "stages is 1, and holds all layers".to_owned();
                idle.extend(["ratio", "contiguous", "restarts"].map(|key| (key, why())));
            }
            if stages.contiguous {
                idle.push(("restarts", "contiguous is true, and such stages are found without K-means".to_owned()));
            }
        }
        idle
    }

    /// Choices that say nothing of the one schedule that `schedule_kind` names, and why. A search, which tries that schedule
    /// beside HyDRA's, heeds them.
    pub fn idle_by_kind(&self) -> Vec<(&'static str, String)> {
        let (keys, lacks): (&[&'static str], &str) = match self.plan.schedule_kind {
            None | Some(ScheduleKind::Hydra) => return Vec::new(),
            Some(ScheduleKind::HydraCoarse) => (&["delta", "signs"], "no fine step"),
            Some(ScheduleKind::Baseline(_)) => (&OF_HYDRA, "neither stages nor a fine step"),
        };
        let name = self.plan.schedule_kind.map_or("", ScheduleKind::name);
        keys.iter().map(|key| (*key, format!("schedule_kind is {name}, which has {lacks}"))).collect()
    }

    /// Ranks of the stages by hand, and as many stages as there are ranks.
    pub fn rank_stages(&mut self, ranks: Vec<u32>) {
        cluster(self, |stages| stages.count = ranks.len());
        self.plan.stage_ranks = StageRanks::ByHand(ranks);
    }
}

/// The choice of that key.
pub fn of_key(key: &str) -> Option<&'static Choice> {
    ALL.iter().find(|choice| choice.key == key)
}

impl Choice {
    /// Whether it is made as it is by default, or not at all.
    pub fn is_default(&self, choices: &Choices) -> bool {
        let default = Choices::default();
        match &self.kind {
            Kind::Switch { get, .. } => get(choices) == get(&default),
            Kind::Whole { get, .. } => same(get(choices), get(&default)),
            Kind::Number { get, .. } => same(get(choices), get(&default)),
            Kind::Words { get, .. } => same(get(choices), get(&default).or(Some(self.unset))),
            Kind::Scale { get, .. } => get(choices) == get(&default),
            Kind::Ranks { get, .. } => get(choices).is_none(),
            Kind::Layers { get, .. } => get(choices).is_none(),
            Kind::Signs { get, .. } => get(choices).is_none(),
        }
    }
}

/// Whether a value is not chosen, or chosen as it is by default.
fn same<T: PartialEq + Copy>(value: Option<T>, default: Option<T>) -> bool {
    value.is_none() || value == default
}

/// The field holds no more than 32 bits; readers refuse what is above its `most`.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn clustered(plan: &PlanConfig) -> Option<&StageConfig> {
    match &plan.stages {
        StageChoice::Clustered(stages) => Some(stages),
        StageChoice::ByHand(_) => None,
    }
}

/// Changes how layers are clustered, which takes the place of stages by hand.
fn cluster(choices: &mut Choices, change: impl FnOnce(&mut StageConfig)) {
    let mut stages = clustered(&choices.plan).cloned().unwrap_or_default();
    change(&mut stages);
    choices.plan.stages = StageChoice::Clustered(stages);
}

#[cfg(test)]
mod tests;
