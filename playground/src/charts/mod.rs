//! The charts: pure functions from the session's numbers to a picture and the table beside it.

pub mod answers;
pub mod costs;
pub mod gradients_live;
pub mod heatmap;
pub mod loss;
pub mod norms;
pub mod pause;
pub mod projections;
pub mod quality;
pub mod search;
pub mod stage_line;

use std::sync::Arc;

use crate::drawing::Drawing;
use crate::table::Table;

/// Width of a chart where there is room.
pub const WIDTH: f64 = 720.0;
/// Its width on a telephone.
pub const NARROW: f64 = 420.0;

/// A picture with the table that says the same.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    /// The picture; shared, because the page compares it with the one before.
    pub drawing: Arc<Drawing>,
    /// The table.
    pub table: Table,
}
