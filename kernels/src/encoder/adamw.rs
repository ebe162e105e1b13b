//! AdamW over all weights of an encoder.

#![allow(unsafe_code, reason = "vector instructions are functions that only some processors have")]

use super::WIDTH;
use crate::level::at_every_level;
use crate::rows::{load, store};
#[cfg(target_arch = "x86_64")]
use crate::vector::x86::{Avx32, Wide32};
use crate::vector::{Vector, base};

/// AdamW's settings in one step (Loshchilov and Hutter 2019, as PyTorch has it).
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) learning_rate: f32,
    /// 1 − learning rate · weight decay.
    pub(super) keep: f32,
    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    pub(super) corrections: [f32; 2],
}

/// β₁, β₂ and ε.
pub(super) const BETAS: [f32; 2] = [0.9, 0.999];
const ADAM_EPSILON: f32 = 1e-8;

/// What AdamW reads and writes, one number of each for every weight: as many as a multiple of [`WIDTH`].
pub(super) struct Adam<'a> {
    pub(super) weights: &'a mut [f32],
    /// Cleared for the next step.
    pub(super) gradients: &'a mut [f32],
    pub(super) first: &'a mut [f32],
    pub(super) second: &'a mut [f32],
}

at_every_level! {
    /// One step of AdamW in one pass.
    pub(super) fn adamw(step: Step, adam: Adam<'_>) = adamw_body, base::Base32, Avx32, Wide32
}

#[inline(always)]
fn adamw_body<V: Vector<Number = f32>>(step: Step, adam: Adam<'_>) {
    let Adam { weights, gradients, first, second } = adam;
    let of_moments = first.as_chunks_mut::<WIDTH>().0.iter_mut().zip(second.as_chunks_mut::<WIDTH>().0);
    let of_weights = weights.as_chunks_mut::<WIDTH>().0.iter_mut().zip(gradients.as_chunks_mut::<WIDTH>().0);
    // SAFETY: as `Vector`'s: this is inlined into a function that is compiled for the instructions of its `V`.
    unsafe {
        let [of_first, of_second] = step.corrections.map(|correction| 1.0 / correction);
        let (of_first, of_second) = (V::splat(of_first), V::splat(of_second));
        let [first_keeps, second_keeps] = BETAS.map(|beta| (beta, 1.0 - beta));
        for ((weights, gradients), (first, second)) in of_weights.zip(of_moments) {
            for i in 0..WIDTH / V::LANES {
                let at = i * V::LANES;
                let g = load::<V>(gradients, at);
                let moment = load::<V>(first, at).mul(V::splat(first_keeps.0)).add(g.mul(V::splat(first_keeps.1)));
                let square = load::<V>(second, at).mul(V::splat(second_keeps.0));
                let square = square.add(g.mul(g).mul(V::splat(second_keeps.1)));
                store(moment, first, at);
                store(square, second, at);
                let deviation = square.mul(of_second).sqrt().add(V::splat(ADAM_EPSILON));
                let delta = moment.mul(of_first).div(deviation);
                let weight = load::<V>(weights, at).mul(V::splat(step.keep));
                store(weight.sub(delta.mul(V::splat(step.learning_rate))), weights, at);
            }
            *gradients = [0.0; WIDTH];
        }
    }
}
