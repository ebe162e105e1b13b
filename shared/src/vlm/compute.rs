//! The precision of matrix products, and what half precision needs besides.

use burn::tensor::{DType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// In which precision the decoder's matrices are multiplied in training.
///
/// Rounded to it are the factors and results of products: activations, weights, copies of the adapters, queries, keys, values
/// and softmaxes. In single precision either way are the adapters themselves and their optimizer, norms, softmaxes where they
/// are computed, all sums (a module and its adapter, a layer and its input), the loss, and the scores of a head that is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, on the CPU: the factors of products with a frozen decoder's matrices are rounded to it, for which processors
    /// with AMX or AVX512-BF16 have units ([`hydra_kernels::bfloat16`]). In single precision are attention, adapters, the
    /// scores of evaluations and everything that is not computed by hand (`fused`): steps with dropout but for their head, a
    /// decoder that is trained as a whole, other devices.
    Bf16,
    /// Half precision, IEEE's: factors are rounded to it, as PyTorch's autocast does, so that a GPU's matrix units can
    /// multiply them. Gradients are computed of the loss times a [`LossScale`].
    F16,
}

impl Compute {
    /// A factor of a matrix product in the type that it is multiplied in.
    pub(super) fn factor<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let (dtype, target) = match self {
            // Whoever rounds to bfloat16 does it himself.
            Self::F32 | Self::Bf16 => (DType::F32, FloatDType::F32),
            Self::F16 => (DType::F16, FloatDType::F16),
        };
        if x.dtype() == dtype { x } else { x.cast(target) }
    }
}

/// What multiplies bfloat16 on this processor; none where it is no faster than single precision.
pub fn bfloat16_units() -> Option<&'static str> {
    let units = hydra_kernels::bfloat16::Units::best();
    units.are_fast().then(|| units.name())
}

/// A tensor in single precision: a stored matrix that is not multiplied, or a product.
pub(super) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Compute::F32.factor(x)
}

/// The factor of the loss whose gradients neither vanish nor overflow in half precision.
///
/// Dynamic, with the numbers of PyTorch's `GradScaler`: halved when a gradient is not finite, doubled after 2,000 steps
/// without that. Always a power of two, so that multiplying by it and dividing again is exact.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    value: f32,
    /// Steps since it last changed.
    steps: usize,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { value: 65_536.0, steps: 0 }
    }
}

impl LossScale {
    /// What the loss of half-precision products is not scaled beyond.
    const LARGEST: f32 = 16_777_216.0;
    /// Steps with finite gradients after which a larger factor is tried.
    const PATIENCE: usize = 2_000;

    /// The factor.
    pub fn value(&self) -> f32 {
        self.value
    }

    /// After gradients that are not finite: half of it, and whether there was any left to halve. Below 1 it is not the scale
    /// that makes them overflow.
    pub fn halve(&mut self) -> bool {
        let possible = self.value > 1.0;
        if possible {
            *self = Self { value: self.value / 2.0, steps: 0 };
        }
        possible
    }

    /// After a step whose gradients were finite.
    pub fn succeeded(&mut self) {
        self.steps += 1;
        if self.steps >= Self::PATIENCE {
            *self = Self { value: (2.0 * self.value).min(Self::LARGEST), steps: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_scale_halves_down_to_one_and_doubles_after_two_thousand_good_steps() {
        let mut scale = LossScale::default();
        for halved in 1..=16 {
            assert!(scale.halve());
            assert_eq!(scale.value(), 65_536.0 / 2.0_f32.powi(halved));
        }
        assert!(!scale.halve());
        assert_eq!(scale.value(), 1.0);
        for _ in 0..1_999 {
            scale.succeeded();
        }
        assert_eq!(scale.value(), 1.0);
        scale.succeeded();
        assert_eq!(scale.value(), 2.0);
        // A halving starts the count anew.
        for _ in 0..1_999 {
            scale.succeeded();
        }
        scale.halve();
        scale.succeeded();
        assert_eq!(scale.value(), 1.0);
    }

    #[test]
    fn the_loss_scale_has_an_upper_end() {
        let mut scale = LossScale::default();
        for _ in 0..20 * 2_000 {
            scale.succeeded();
        }
        assert_eq!(scale.value(), 16_777_216.0);
    }
}
