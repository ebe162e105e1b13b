//! Products in half precision: near those of single precision, as long as the loss is scaled.

use super::super::frozen_loss::frozen_loss;
use super::super::memory::{MemoryPlan, estimate};
use super::super::training::{Backward, Recompute, StepReadout, loss_and_gradients};
use super::*;

fn readout(model: &MobileVlm, answers: usize, backward: &Backward<'_>) -> StepReadout {
    let (loss, grads) = loss_and_gradients(model, &batch(), Some(features(model, 2)), answers, backward);
    pollster::block_on(GradientSquares::new(model, &grads).read(loss)).unwrap()
}

fn half(recompute: Recompute, loss_scale: f32) -> Backward<'static> {
    Backward {
        forward: ForwardOptions { compute: Compute::F16, dropout: None },
        recompute,
        loss_scale,
        ..Backward::default()
    }
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

#[test]
fn what_little_is_left_of_the_gradient_of_a_sure_answer_survives_half_precision() {
    let mut weights = random_weights(&small_spec(), 3);
    let head = weights.tensors.get_mut("lm_head.weight").unwrap();
    head.values.iter_mut().for_each(|value| *value *= 35.0);
    let model = MobileVlm::load(&small_spec(), weights, &Device::flex()).unwrap();
    let values: Vec<f32> = (0..8 * 16).map(|i| (i as f32 * 1.7).sin()).collect();
    let states = Tensor::<1>::from_data(values.as_slice(), &model.device()).reshape([8, 16]);
    let likeliest = model.decoder.logits(states.clone()).argmax(1).into_data().convert::<i32>();
    let sure: Vec<i32> = likeliest.try_into_vec().unwrap();
    let (exact_loss, exact) = frozen_loss(&model.decoder, &states, &sure, Compute::F32);
    let (loss, half) = frozen_loss(&model.decoder, &states, &sure, Compute::F16);
    let number = |x: Tensor<1>| x.into_scalar::<f32>();
    let (exact_loss, loss) = (number(exact_loss) / 8.0, number(loss) / 8.0);
    assert!(
        exact_loss > 1e-4 && exact_loss < 0.2 && (loss - exact_loss).abs() < 0.05 * exact_loss,
        "{loss} and {exact_loss}"
    );
    let norm = |x: Tensor<2>| number(x.square().sum()).sqrt();
    let apart = norm(half - exact.clone()) / norm(exact);
    assert!(apart < 2e-2, "{apart}");
}

#[test]
fn the_memory_estimate_counts_a_matrix_twice_only_where_it_is_multiplied_otherwise_than_it_is_stored() {
    let spec = ModelSpec::preset("mobilevlm-1.7b").unwrap();
    let estimated = |storage, compute| {
        let plan = MemoryPlan {
            storage,
            compute,
            recompute: Recompute::Blocks,
            trained: 1_000_000,
            ranks: 24 * 7 * 8,
            decoder: false,
            head: false,
            dropout: false,
            parallel: 1,
            rows: 1,
            length: 16,
            answers: 4,
            kept_pictures: 0,
            tower_batch: 0,
        };
        estimate(&spec, &plan)
    };
    let head = (spec.decoder.vocab * spec.decoder.hidden) as u64;
    let same = estimated(Storage::F16, Compute::F16);
    let widened = estimated(Storage::F16, Compute::F32);
    assert_eq!(widened.logits - same.logits, 4 * head);
    assert!(widened.activations > same.activations);
    let single = estimated(Storage::F32, Compute::F32);
    let narrowed = estimated(Storage::F32, Compute::F16);
    assert_eq!(narrowed.logits - single.logits, 2 * head);
    assert!(narrowed.activations > single.activations);
}
