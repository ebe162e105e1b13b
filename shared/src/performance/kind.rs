//! The performance models by name.

use serde::{Deserialize, Serialize};
use strum::{EnumCount, EnumString, IntoStaticStr};

/// The performance models that a search can choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, EnumCount, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ModelKind {
    /// The paper's one-layer Transformer.
    #[default]
    Transformer,
    /// Ridge regression on log-ranks.
    Ridge,
    /// Gaussian process on log-ranks.
    GaussianProcess,
}

impl ModelKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; Self::COUNT] = [Self::Transformer, Self::Ridge, Self::GaussianProcess];

    /// Name for reports and files.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Transformer => "Transformer",
            Self::Ridge => "Ridge regression",
            Self::GaussianProcess => "Gaussian process",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}
