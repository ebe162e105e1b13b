//! Published benchmarks: what a model is asked, and answers that any model gave, scored by the official rules.
//!
//! Each benchmark is one file with its format and its rule: `questions` reads what is asked, `score` scores a file of
//! answers. The rule stands apart from the format, as functions of answers alone (`is_right`, `tally`), where the generated
//! questions of [`tasks`](crate::tasks) are scored by it as well. [`ALL`] lists the benchmarks: a new one is a file and its line
//! there.
//!
//! Nothing is generated here. A question file goes in, prompts come out; a question file and a file of answers go in, scores
//! come out.

pub mod gqa;
pub mod mmbench;
pub mod mme;
pub mod pope;
pub mod refcoco;
pub mod scienceqa;
pub mod textvqa;

mod benchmark;
mod bounding_box;
mod error;
mod llava;
pub(crate) mod numbers;
mod predictions;
mod question;
mod records;

#[cfg(test)]
mod tests;

pub use benchmark::{Benchmark, BenchmarkScores, Form, QuestionFile};
pub use bounding_box::BoundingBox;
pub use error::BenchmarkError;
pub use predictions::Predictions;
pub use question::{BenchmarkPicture, BenchmarkQuestion};

/// Every benchmark, in the order of help texts.
pub const ALL: [&Benchmark; 7] = [
    &gqa::BENCHMARK,
    &scienceqa::BENCHMARK,
    &textvqa::BENCHMARK,
    &pope::BENCHMARK,
    &mme::BENCHMARK,
    &mmbench::BENCHMARK,
    &refcoco::BENCHMARK,
];

/// The benchmark that has a name, or that has the same form and rule as the one of that name.
pub fn by_name(name: &str) -> Option<&'static Benchmark> {
    ALL.into_iter().find(|benchmark| benchmark.name == name || benchmark.same.contains(&name))
}
