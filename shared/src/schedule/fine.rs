//! The fine step: within a layer, projections with small gradients give rank to those with large ones.

use serde::{Deserialize, Serialize};

use crate::layout::Projection;

/// Which way a projection's rank moves, by the increment Δd of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// −Δd.
    Lower,
    /// Unchanged.
    Keep,
    /// +Δd.
    Raise,
}

/// One sign per projection, in the order of [`Projection::ALL`].
pub type Signs = [Sign; Projection::ALL.len()];

impl Sign {
    /// −1, 0 or 1.
    pub fn factor(self) -> f64 {
        match self {
            Self::Lower => -1.0,
            Self::Keep => 0.0,
            Self::Raise => 1.0,
        }
    }
}

/// Norms this close to the mean, relative to it, count as equal to it: rounding in the mean decides nothing.
const EQUAL: f64 = 1e-12;

/// Signs of one layer's projections: below their mean norm −, above it +, equal to it none.
///
/// The norms that are known of the paper's Table I (Q 0.63, K 0.64, Up 1.67) give −, −, +.
pub fn layer_signs(norms: &[f64]) -> Vec<Sign> {
    let mean = norms.iter().sum::<f64>() / norms.len().max(1) as f64;
    norms
        .iter()
        .map(|norm| {
            if (norm - mean).abs() <= EQUAL * mean.abs() {
                Sign::Keep
            } else if *norm < mean {
                Sign::Lower
            } else {
                Sign::Raise
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_published_norms_lower_q_and_k_and_raise_up() {
        assert_eq!(layer_signs(&[0.63, 0.64, 1.67]), [Sign::Lower, Sign::Lower, Sign::Raise]);
    }

    #[test]
    fn equal_norms_move_nothing_whatever_the_mean_rounds_to() {
        for norm in [0.0, 0.1, 0.3, 1e-300, 1.7e10] {
            assert_eq!(layer_signs(&[norm; 7]), [Sign::Keep; 7]);
        }
    }

    #[test]
    fn a_projection_at_the_mean_stays() {
        assert_eq!(layer_signs(&[1.0, 2.0, 3.0]), [Sign::Lower, Sign::Keep, Sign::Raise]);
    }
}
