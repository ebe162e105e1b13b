//! Python's regular expressions.
//!
//! Natively `fancy-regex` reads them, in a browser its own `RegExp`, since the crate would take 220 kB there; both know
//! look-around. What the two read differently is an error in one of them, never another answer. An expression can take very
//! long, so that the page has them read by a worker.

#[cfg(target_family = "wasm")]
mod browser;
#[cfg(not(target_family = "wasm"))]
mod native;

#[cfg(target_family = "wasm")]
pub use browser::Regex;
#[cfg(not(target_family = "wasm"))]
pub use native::Regex;
