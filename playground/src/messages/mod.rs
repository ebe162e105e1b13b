//! What page and workers say to each other.

pub mod ingest;
pub mod performance;
pub mod training;

use hydra_shared::gradients::{GradientProfile, ModuleNorm, ProfiledSteps, Signal};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A gradient profile with its norms as one list of numbers: of a wide model's modules the page would take each field as a
/// JavaScript value of its own otherwise, which took it longer than a frame.
#[derive(Serialize, Deserialize)]
pub(crate) struct Packed {
    signal: Signal,
    estimated: bool,
    steps: ProfiledSteps,
    /// Mean, standard error and number of steps of each module.
    norms: Vec<f64>,
}

impl From<&GradientProfile> for Packed {
    fn from(profile: &GradientProfile) -> Self {
        let numbers = |norm: &ModuleNorm| [norm.mean, norm.standard_error, norm.steps as f64];
        let &GradientProfile { signal, estimated, steps, ref modules } = profile;
        Self { signal, estimated, steps, norms: modules.iter().flat_map(numbers).collect() }
    }
}

impl From<Packed> for GradientProfile {
    fn from(Packed { signal, estimated, steps, norms }: Packed) -> Self {
        let norm =
            |&[mean, standard_error, steps]: &[f64; 3]| ModuleNorm { mean, standard_error, steps: steps as usize };
        Self { signal, estimated, steps, modules: norms.as_chunks().0.iter().map(norm).collect() }
    }
}

/// [`Packed`], for `#[serde(with)]`.
mod packed {
    use super::{Deserialize, Deserializer, GradientProfile, Packed, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(profile: &GradientProfile, serializer: S) -> Result<S::Ok, S::Error> {
        Packed::from(profile).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GradientProfile, D::Error> {
        Packed::deserialize(deserializer).map(GradientProfile::from)
    }
}
