//! Products in half precision: near those of single precision, as long as the loss is scaled.

use super::super::training::{Backward, Recompute, StepReadout, loss_and_gradients};
use super::*;

fn readout(model: &MobileVlm, answers: usize, backward: &Backward<'_>) -> StepReadout {
    let (loss, grads) = loss_and_gradients(model, &batch(), Some(features(model, 2)), answers, backward);
    pollster::block_on(GradientSquares::new(model, &grads).read(loss, true)).unwrap()
}

fn half(recompute: Recompute, loss_scale: f32) -> Backward<'static> {
    Backward { manner: Manner { compute: Compute::F16, dropout: None }, recompute, loss_scale }
}

#[test]
fn products_in_half_precision_give_nearly_the_loss_and_gradients_of_single_precision() {
    for trainable in [Trainable::ProjectorAndLora, Trainable::Lora, Trainable::ProjectorAndDecoder] {
        let model = adapted(&small_spec()).trained(trainable);
        let exact = readout(&model, 5, &Backward::default());
        for recompute in [Recompute::None, Recompute::Blocks] {
            let half = readout(&model, 5, &half(recompute, 1024.0));
            assert!((half.loss - exact.loss).abs() < 1e-3 * exact.loss, "{} and {}", half.loss, exact.loss);
            assert_ne!(half.loss, exact.loss);
            assert_eq!(half.norms.len(), exact.norms.len());
            for ((name, half), (_, exact)) in half.norms.iter().zip(&exact.norms) {
                let half = half / 1024.0;
                assert!((half - exact).abs() <= 5e-3 * exact.max(1e-3), "{trainable:?}, {name}: {half} and {exact}");
            }
        }
    }
}

#[test]
fn gradients_that_are_too_small_for_half_precision_survive_by_the_loss_scale() {
    let model = adapted(&small_spec()).trained(Trainable::Lora);
    // As many answer tokens in a step make each one's share of the gradient as small.
    let answers = 50_000_000;
    let exact = readout(&model, answers, &Backward::default()).global_norm();
    let norm = |loss_scale: f32| {
        readout(&model, answers, &half(Recompute::None, loss_scale)).global_norm() / f64::from(loss_scale)
    };
    assert!((norm(65_536.0) - exact).abs() < 1e-2 * exact);
    assert!((norm(1.0) - exact).abs() > 0.1 * exact, "{} and {exact}", norm(1.0));
}

#[test]
fn a_loss_scale_that_is_too_large_shows_in_gradients_that_are_not_finite_and_not_in_the_loss() {
    let model = adapted(&small_spec()).trained(Trainable::Lora);
    let overflown = readout(&model, 5, &half(Recompute::Blocks, 16_777_216.0));
    assert!(overflown.loss.is_finite());
    assert!(!overflown.global_norm().is_finite());
}
