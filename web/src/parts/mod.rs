//! Parts that several views are made of.

mod figure;
mod inputs;
mod picture;

pub use figure::Figure;
pub use inputs::{Choice, NumberBox, Slider, TextBox, Tick};
pub use picture::Picture;
