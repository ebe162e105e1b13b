//! The performance model p(Z): predicts a schedule's scores from the trials so far.
//!
//! The paper's is a one-layer Transformer (`Transformer`); `Ridge` and `GaussianProcess` are its rivals behind the
//! same trait. Every fit comes with its leave-one-out error beside the error of predicting the mean, so that a reader
//! sees whether the model has learned anything from so few trials.
//!
//! What computes is the crate `hydra_kernels`: the same study and seed give the same bytes natively and in the browser, on any
//! processor and in any number of threads.
//!
//! The plain data types are always there, the models behind the feature `performance`.

mod estimate;
mod kind;

pub use estimate::{Estimate, HeldOutError};
pub use kind::ModelKind;

/// Fewest trials that a performance model is fitted on: with two, leaving one out leaves nothing to learn from.
pub const FEWEST_TRIALS: usize = 3;

#[cfg(feature = "performance")]
mod features;
#[cfg(feature = "performance")]
mod gaussian_process;
#[cfg(feature = "performance")]
mod kernel;
#[cfg(feature = "performance")]
mod leave_one_out;
#[cfg(feature = "performance")]
mod model;
#[cfg(feature = "performance")]
mod ridge;
#[cfg(all(test, feature = "performance"))]
mod testing;
#[cfg(feature = "performance")]
mod transformer;

#[cfg(feature = "performance")]
pub use features::FeatureSpace;
#[cfg(feature = "performance")]
pub use gaussian_process::GaussianProcess;
#[cfg(feature = "performance")]
pub use leave_one_out::{LeaveOneOut, rank_correlation};
#[cfg(feature = "performance")]
pub use model::{FitError, FittedModel, Observations, PerformanceModel, PredictError, Prediction};
#[cfg(feature = "performance")]
pub use ridge::Ridge;
#[cfg(feature = "performance")]
pub use transformer::Transformer;
