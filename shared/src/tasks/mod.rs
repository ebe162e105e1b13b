//! Generated pictures with questions, and the scoring rules of the benchmarks that the questions imitate.
//!
//! A [`Scene`] is plain data; [`Scene::render`] paints it, and each kind of question reads it. [`generate`] puts scenes
//! and questions together into a [`TaskSet`]; [`scoring`] scores predicted texts. [`easy_vqa`] reads a published set.

pub mod boxes;
mod describe;
pub mod easy_vqa;
mod questions;
mod render;
mod scene;
pub mod scoring;
mod set;

#[cfg(test)]
mod oracle;

pub use boxes::BoundingBox;
pub use questions::{Group, Kind, Sample, Setting, Topic};
pub use render::Picture;
pub use scene::{Cell, Color, Combination, Scene, SceneConfig, SceneError, SceneObject, Shape, Size};
pub use set::{SamplesPerPicture, Split, TaskConfig, TaskError, TaskSet, generate, pretraining_samples};
