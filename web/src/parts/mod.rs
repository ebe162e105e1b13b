//! Parts that several views are made of.

mod figure;
mod inputs;
mod picture;
mod save;

pub use figure::Figure;
pub use inputs::{Choice, Foresee, NumberBox, Slider, TextBox, Tick, named};
pub use picture::Picture;
pub use save::{SaveAs, save_chart};
