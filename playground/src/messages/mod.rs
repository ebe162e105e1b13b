//! What page and workers say to each other.

pub mod ingest;
pub mod performance;
pub mod training;
