//! How strongly each module's low-rank update counts.

use serde::{Deserialize, Serialize};

/// The rule from a module's rank to its α and to the factor of its update, h = W·x + scale·B·A·x.
///
/// With ranks that differ the rule matters as much as the ranks: at α = 256, ranks 64 to 256 are scaled by 4 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScalePolicy {
    /// α = factor·r in every module, so that all are scaled by `factor`.
    Constant {
        /// The scale; 2 in MobileVLM's recipe (r = 128, α = 256).
        factor: f64,
    },
    /// The same α in every module: scale α/r.
    FixedAlpha {
        /// α of every module.
        alpha: f64,
    },
    /// Rank-stabilised LoRA, the same α in every module: scale α/√r.
    #[serde(rename = "rslora")]
    RsLora {
        /// α of every module.
        alpha: f64,
    },
}

impl Default for ScalePolicy {
    fn default() -> Self {
        Self::Constant { factor: 2.0 }
    }
}

impl ScalePolicy {
    /// α of a module of this rank.
    pub fn alpha(self, rank: u32) -> f64 {
        match self {
            Self::Constant { factor } => factor * f64::from(rank),
            Self::FixedAlpha { alpha } | Self::RsLora { alpha } => alpha,
        }
    }

    /// Factor of the update of a module of this rank (≥ 1).
    pub fn scale(self, rank: u32) -> f64 {
        match self {
            Self::Constant { factor } => factor,
            Self::FixedAlpha { alpha } => alpha / f64::from(rank),
            Self::RsLora { alpha } => alpha / f64::from(rank).sqrt(),
        }
    }

    /// Whether PEFT must be told `use_rslora`.
    pub fn is_rslora(self) -> bool {
        matches!(self, Self::RsLora { .. })
    }

    /// Whether its number is finite and above 0.
    pub(super) fn is_valid(self) -> bool {
        let (Self::Constant { factor: number } | Self::FixedAlpha { alpha: number } | Self::RsLora { alpha: number }) =
            self;
        number.is_finite() && number > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_spread_as_published_over_ranks_64_128_256() {
        let scales = |policy: ScalePolicy| [64, 128, 256].map(|rank| policy.scale(rank));
        assert_eq!(scales(ScalePolicy::default()), [2.0, 2.0, 2.0]);
        assert_eq!(scales(ScalePolicy::FixedAlpha { alpha: 256.0 }), [4.0, 2.0, 1.0]);
        let rslora = scales(ScalePolicy::RsLora { alpha: 256.0 }).map(|s| format!("{s:.1}"));
        assert_eq!(rslora, ["32.0", "22.6", "16.0"]);
    }

    #[test]
    fn a_constant_scale_means_alpha_follows_rank() {
        assert_eq!(ScalePolicy::default().alpha(64), 128.0);
        assert_eq!(ScalePolicy::FixedAlpha { alpha: 256.0 }.alpha(64), 256.0);
    }
}
