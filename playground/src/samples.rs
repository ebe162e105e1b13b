//! Samples that are one click away.

use std::sync::Arc;

use hydra_shared::gradients::{GradientProfile, ModuleNorm, ProfiledSteps, Signal};
use hydra_shared::layout::{Layout, Projection};
use hydra_shared::vlm::spec::preset_layout;
use serde::{Deserialize, Serialize};

use crate::profile_text::profile_from_text;

/// A sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// A made-up profile with the few values that are known of the paper's.
    MobileVlm,
    /// A real log: LoRA on SmolLM2-135M.
    SmolLm2,
    /// A real log: LoRA on this project's tiny MobileVLM.
    TinyMobileVlm,
}

/// Rank of the adapters that the made-up profile stands for.
const MADE_UP_RANK: u32 = 128;

impl Sample {
    /// All samples, in the order in which the page offers them.
    pub const ALL: [Self; 3] = [Self::MobileVlm, Self::SmolLm2, Self::TinyMobileVlm];

    /// Its name in a link.
    pub fn name(self) -> &'static str {
        match self {
            Self::MobileVlm => "mobilevlm",
            Self::SmolLm2 => "smollm2",
            Self::TinyMobileVlm => "tiny-mobilevlm",
        }
    }

    /// The sample of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sample| sample.name() == name)
    }

    /// What the page calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::MobileVlm => "MobileVLM-like profile",
            Self::SmolLm2 => "SmolLM2-135M log",
            Self::TinyMobileVlm => "Tiny MobileVLM log",
        }
    }

    /// Where it comes from, in a sentence.
    pub fn origin(self) -> &'static str {
        match self {
            Self::MobileVlm => {
                "Made up: 24 layers whose norms rise from 0.005 to 0.045, and Q, K and Up as the paper gives them; \
                 everything between is a guess."
            }
            Self::SmolLm2 => "Measured: LoRA (r = 16) on SmolLM2-135M through PEFT, 30 steps on Shakespeare.",
            Self::TinyMobileVlm => {
                "Measured: the profile run of `trainer demo`, LoRA (r = 4) on the embedded tiny MobileVLM."
            }
        }
    }

    /// File of its log, beside the page; none for a profile without one.
    pub fn log_file(self) -> Option<&'static str> {
        match self {
            Self::MobileVlm => None,
            Self::SmolLm2 => Some("samples/grad-norms.jsonl.gz"),
            Self::TinyMobileVlm => Some("samples/tiny-mobilevlm.jsonl.gz"),
        }
    }

    /// What gets the ranks.
    pub fn layout(self) -> Arc<Layout> {
        let name = match self {
            Self::MobileVlm => "mobilevlm-1.7b",
            Self::SmolLm2 => "smollm2-135m",
            Self::TinyMobileVlm => "tiny-mobilevlm",
        };
        // A test goes through all samples: their presets exist.
        preset_layout(name).unwrap_or_else(|| unreachable!("the presets of the samples exist"))
    }

    /// Rank of uniform LoRA that the page begins with.
    pub fn base_rank(self) -> u32 {
        match self {
            Self::MobileVlm => 128,
            Self::SmolLm2 => 16,
            Self::TinyMobileVlm => 4,
        }
    }

    /// Its gradient profile, with the default warm-up.
    pub fn profile(self, layout: &Layout) -> GradientProfile {
        let text = match self {
            Self::MobileVlm => return made_up(layout, Signal::L2),
            Self::SmolLm2 => include_str!("../../static/samples/grad-norms.profile"),
            Self::TinyMobileVlm => include_str!("../../static/samples/tiny-mobilevlm.profile"),
        };
        profile_from_text(text.trim()).unwrap_or_default()
    }
}

/// Layer norms that rise by equal factors from 0.005 in the first layer to 0.045 in the 21st and then stay, times a factor
/// per projection: Q 0.63, K 0.64 and Up 1.67 are the paper's (Table I), the others fill up to a mean of 1.
pub fn made_up(layout: &Layout, signal: Signal) -> GradientProfile {
    const FACTORS: [f64; 7] = [0.63, 0.64, 1.05, 0.80, 1.12, 1.67, 1.09];
    let last = 20.0 / 23.0 * layout.blocks().len().saturating_sub(1).max(1) as f64;
    let modules = layout
        .modules()
        .iter()
        .enumerate()
        .map(|(position, module)| {
            let layer = layout.block_of(position) as f64;
            let projection = module.kind.projection().map_or(0, Projection::index);
            let depth = (layer / last).min(1.0);
            // A few per cent up and down, so that layers differ as they do in a run.
            let wave = libm::sin(2.3 * layer + 1.7 * projection as f64);
            let factor = FACTORS.get(projection).copied().unwrap_or(1.0);
            let l2 = 0.005 * libm::pow(9.0, depth) * factor * (1.0 + 0.04 * wave);
            let elements = f64::from(MADE_UP_RANK) * module.rank_unit_cost() as f64;
            let mean = match signal {
                Signal::L2 => l2,
                Signal::Rms => l2 / elements.sqrt(),
                Signal::Fisher => l2 * l2 / elements,
            };
            ModuleNorm { mean, standard_error: f64::from((0.05 * mean) as f32), steps: 16 }
        })
        .collect();
    let steps = ProfiledSteps { first: 1, last: 16, kept: 16, warm_up: 0, non_finite: 0 };
    GradientProfile { signal, estimated: true, steps, modules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Analysis;
    use crate::session::Session;

    #[test]
    fn every_sample_has_a_profile_of_its_model_and_a_schedule() {
        for sample in Sample::ALL {
            let session = Session::of_sample(sample);
            assert!(session.profile.fits(&session.layout), "{sample:?}");
            let analysis = Analysis::new(&session).unwrap();
            assert!(!analysis.is_over());
            assert_eq!(Sample::from_name(sample.name()), Some(sample));
        }
    }

    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn the_embedded_profiles_are_those_of_the_logs_beside_the_page() {
        use crate::profile_text::{profile_to_text, rounded};
        use hydra_shared::gradients::{ProfileConfig, profile, read};

        for sample in Sample::ALL {
            let Some(file) = sample.log_file() else { continue };
            let path = format!("{}/../static/{file}", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(&path).unwrap();
            let log = read(file, std::io::Cursor::new(bytes)).unwrap();
            let layout = sample.layout();
            let computed = rounded(profile(&log, &layout, &ProfileConfig::default()).unwrap());
            let embedded = path.replace(".jsonl.gz", ".profile");
            if std::env::var_os("UPDATE_SAMPLES").is_some() {
                std::fs::write(&embedded, profile_to_text(&computed) + "\n").unwrap();
                continue;
            }
            assert_eq!(
                sample.profile(&layout),
                computed,
                "{embedded} is stale: set UPDATE_SAMPLES=1 and run this again"
            );
        }
    }
}
