//! Generated pictures with questions, scored by the rules of the [`benchmarks`](crate::benchmarks) that the questions imitate.
//!
//! A [`Scene`] is plain data; [`Scene::render`] paints it, and each kind of question reads it. [`generate`] puts scenes
//! and questions together into a [`TaskSet`]; [`scoring`] scores predicted texts. [`easy_vqa`] reads a published set.

mod attributes;
pub mod boxes;
mod config;
mod describe;
pub mod easy_vqa;
mod questions;
mod render;
mod scene;
pub mod scoring;
mod set;
mod split;

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod oracle;

pub use attributes::{Cell, Color, Shape, Size};
pub use config::{SamplesPerPicture, TaskConfig, TaskError};
pub use questions::{ExistenceWords, Group, Kind, Sample, Setting, Topic};
pub use render::Picture;
pub use scene::{Combination, Scene, SceneConfig, SceneError, SceneObject};
pub use set::{TaskSet, generate, pretraining_samples};
pub use split::Split;
