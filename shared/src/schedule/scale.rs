//! How strongly each module's low-rank update counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The rule from a module's rank to its α and to the factor of its update, h = W·x + scale·B·A·x.
///
/// With ranks that differ the rule matters as much as the ranks: at α = 256, ranks 64 to 256 are scaled by 4 to 1.
// Read by way of `PolicyText`: serde's own reader of such an enum takes 8 kB in each part of the page.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "kebab-case", try_from = "PolicyText")]
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

/// The written form of a [`ScalePolicy`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    policy: PolicyName,
    factor: Option<f64>,
    alpha: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    Constant,
    FixedAlpha,
    #[serde(rename = "rslora")]
    RsLora,
}

/// A key that a policy needs, or that it does not know.
#[derive(Debug, thiserror::Error)]
enum PolicyError {
    #[error("missing field `{0}`")]
    Missing(&'static str),
    #[error("unknown field `{0}`, expected `{1}`")]
    Unknown(&'static str, &'static str),
}

impl TryFrom<PolicyText> for ScalePolicy {
    type Error = PolicyError;

    fn try_from(PolicyText { policy, factor, alpha }: PolicyText) -> Result<Self, PolicyError> {
        match (policy, factor, alpha) {
            (PolicyName::Constant, Some(factor), None) => Ok(Self::Constant { factor }),
            (PolicyName::FixedAlpha, None, Some(alpha)) => Ok(Self::FixedAlpha { alpha }),
            (PolicyName::RsLora, None, Some(alpha)) => Ok(Self::RsLora { alpha }),
            (PolicyName::Constant, _, Some(_)) => Err(PolicyError::Unknown("alpha", "factor")),
            (PolicyName::Constant, None, None) => Err(PolicyError::Missing("factor")),
            (PolicyName::FixedAlpha | PolicyName::RsLora, Some(_), _) => Err(PolicyError::Unknown("factor", "alpha")),
            (PolicyName::FixedAlpha | PolicyName::RsLora, None, None) => Err(PolicyError::Missing("alpha")),
        }
    }
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
        self.number().is_finite() && self.number() > 0.0
    }

    /// Name in files, in links and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant { .. } => "constant",
            Self::FixedAlpha { .. } => "fixed-alpha",
            Self::RsLora { .. } => "rslora",
        }
    }

    /// Its factor or α.
    pub fn number(self) -> f64 {
        match self {
            Self::Constant { factor: number } | Self::FixedAlpha { alpha: number } | Self::RsLora { alpha: number } => {
                number
            }
        }
    }

    /// The same policy with another factor or α.
    #[must_use]
    pub fn with_number(self, number: f64) -> Self {
        match self {
            Self::Constant { .. } => Self::Constant { factor: number },
            Self::FixedAlpha { .. } => Self::FixedAlpha { alpha: number },
            Self::RsLora { .. } => Self::RsLora { alpha: number },
        }
    }
}

/// A text that is no scale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scale \"{text}\" is none; write constant:2, fixed-alpha:256 or rslora:256, with a number above 0")]
pub struct UnknownScale {
    /// What was given.
    pub text: String,
}

impl fmt::Display for ScalePolicy {
    /// `constant:2`, `fixed-alpha:256`, `rslora:256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name(), self.number())
    }
}

impl FromStr for ScalePolicy {
    type Err = UnknownScale;

    /// Reads what `Display` writes; a number alone is a constant scale.
    fn from_str(text: &str) -> Result<Self, UnknownScale> {
        let wrong = || UnknownScale { text: text.to_owned() };
        let (policy, number) = text.split_once(':').unwrap_or(("constant", text));
        let number = number.trim().parse::<f64>().map_err(|_| wrong())?;
        let scale = match policy.trim() {
            "constant" => Self::Constant { factor: number },
            "fixed-alpha" => Self::FixedAlpha { alpha: number },
            "rslora" => Self::RsLora { alpha: number },
            _ => return Err(wrong()),
        };
        if scale.is_valid() { Ok(scale) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_a_policy_and_a_number_above_zero() {
        assert_eq!("2".parse(), Ok(ScalePolicy::Constant { factor: 2.0 }));
        assert_eq!("rslora:256".parse(), Ok(ScalePolicy::RsLora { alpha: 256.0 }));
        for text in ["", "constant", "constant:0", "fixed-alpha:-1", "rslora:nan", "other:2"] {
            assert!(text.parse::<ScalePolicy>().is_err(), "{text}");
        }
        for scale in
            [ScalePolicy::default(), ScalePolicy::FixedAlpha { alpha: 0.1 }, ScalePolicy::RsLora { alpha: 1e-7 }]
        {
            assert_eq!(scale.to_string().parse(), Ok(scale));
        }
    }

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
