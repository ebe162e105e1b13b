//! What is computed in loops of our own: the passes of the performance model's small Transformer encoder, factors of kernel
//! matrices, what a LLaMA decoder does between its products, and the numbers of a gradient log's text.
//!
//! A crate of its own, because it is optimized in every profile: the page's programs are built small, tests are built fast,
//! and loops like these are slow in either.
//!
//! **The same bits everywhere.** Every function gives the same bytes natively and in WebAssembly, with whatever vector
//! instructions there are and in however many threads its callers run. Tests hold it on x86-64 and in WebAssembly; on other
//! processors it follows from the same rules:
//! - an element of a product is summed in the order of the inner index, whatever is computed beside it: vectors hold
//!   elements of the result, never parts of a sum;
//! - sums over a row have a fixed order: a tree in the encoder, sixteen side by side in the [`decoder`];
//! - multiplications and additions round one by one: none are fused, because neither WebAssembly nor every processor fuses;
//! - exponentials and logarithms are computed here from such operations, not by the system's library.
//!
//! Products in [`bfloat16`] alone are as the processor's units round them.
//!
//! [`Level`] chooses among the instruction sets that each function is compiled for.

pub mod bfloat16;
pub mod cholesky;
pub mod decimal;
pub mod decoder;
pub mod encoder;
pub mod exponential;
mod level;
pub mod matern;
pub mod products;
mod rows;
mod vector;

pub use level::Level;
