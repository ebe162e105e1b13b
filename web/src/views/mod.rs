//! The views, one per tab, and what they are made of.

pub mod analyse;
pub mod arithmetic;
mod budget;
pub mod compare;
mod controls;
pub mod search;
pub mod sources;
pub mod stage_line;
pub mod take_away;
pub mod train;
