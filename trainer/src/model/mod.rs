//! The base model: its files, its tokenizer, its shapes, and what of it is trained.

pub mod base;
pub mod checkpoint;
pub mod recipe;
pub mod tokenizer;

pub use hydra_shared::files::spec;
