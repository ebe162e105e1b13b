//! Which matrix of a layer a module is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the seven matrices of a LLaMA-like decoder layer (the paper says *component*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate of the SwiGLU feed-forward.
    Gate,
    /// Up projection of the feed-forward.
    Up,
    /// Down projection of the feed-forward.
    Down,
}

impl Projection {
    /// Every projection, in the order in which a layer's modules are listed everywhere.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Short name: `q`, `k`, `v`, `o`, `gate`, `up`, `down`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Path inside a decoder layer, as LLaMA's state dict names it: `self_attn.q_proj`, `mlp.up_proj`, …
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Position in [`Projection::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which matrix of a layer a module is: one of the seven projections, or any other by the name that its model gives it.
///
/// Written as its name: `q`, `down`, `qkv_proj`, `lm_head`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Kind {
    /// One of the seven projections.
    Projection(Projection),
    /// Another matrix, by the last part of its module's name.
    Other(String),
}

impl Kind {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Projection(projection) => projection.name(),
            Self::Other(name) => name,
        }
    }

    /// The projection, where it is one of the seven.
    pub fn projection(&self) -> Option<Projection> {
        match self {
            Self::Projection(projection) => Some(*projection),
            Self::Other(_) => None,
        }
    }
}

impl From<Projection> for Kind {
    fn from(projection: Projection) -> Self {
        Self::Projection(projection)
    }
}

impl From<String> for Kind {
    fn from(name: String) -> Self {
        let known = Projection::ALL.into_iter().find(|projection| projection.name() == name);
        known.map_or(Self::Other(name), Self::Projection)
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Projection(projection) => projection.name().to_owned(),
            Kind::Other(name) => name,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A projection of a decoder layer, as a parameter's name tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleId {
    /// Decoder layer, counted from 0.
    pub layer: usize,
    /// Which matrix of the layer.
    pub projection: Projection,
}

impl ModuleId {
    /// Position among the modules of a decoder, layer after layer.
    pub fn index(self) -> usize {
        self.layer * Projection::ALL.len() + self.projection.index()
    }
}
