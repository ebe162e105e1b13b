//! From stages to a rank for every module: the paper's coarse and fine steps, the exact budget, the schedules to compare
//! with, and the schedule's file.
//!
//! [`plan()`] runs the whole chain and keeps every intermediate; [`Baseline`] makes the comparison schedules through the
//! same budget repair; [`RankSchedule`] is what is written to disk. [`choices`] declares every choice of the plan once, for
//! files, flags, links and controls.

mod baselines;
mod budget;
pub mod choices;
mod coarse;
mod file;
mod fine;
mod kind;
mod order;
mod plan;
mod repair;
mod scale;

pub use baselines::{Baseline, UnknownBaseline};
pub use budget::{Bounds, Budget, BudgetError, Counting};
pub use coarse::{RanksError, StageRanks};
pub use file::{BudgetUse, FILE_VERSION, InputFile, Provenance, RankSchedule, ScheduleFileError};
pub use fine::{Sign, Signs, layer_signs};
pub use kind::ScheduleKind;
pub use plan::{Plan, PlanConfig, PlanError, PlannedStage, StageChoice, group_layers, plan, plan_stages};
pub use repair::{RepairModule, repair};
pub use scale::{ScalePolicy, UnknownScale};
