//! What a model answers and how likely it holds the right answers; published benchmarks; comparison with PyTorch.

pub mod answers;
pub mod benchmark;
pub mod parity;
