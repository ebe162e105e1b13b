//! What saves memory changes nothing that is computed; and dropout, whose masks must come back when a block is computed
//! again.

use super::super::training::{Backward, Recompute, StepReadout, loss_and_gradients};
use super::*;

fn readout(model: &MobileVlm, dropout: Option<&LoraDropout>, recompute: Recompute) -> StepReadout {
    let forward = ForwardOptions { dropout, ..ForwardOptions::default() };
    readout_by(model, &Backward { forward, recompute, ..Backward::default() })
}

fn readout_by(model: &MobileVlm, backward: &Backward<'_>) -> StepReadout {
    let (loss, grads) = loss_and_gradients(model, &batch(), Some(features(model, 2)), 5, backward);
    pollster::block_on(GradientSquares::new(model, &grads).read(loss)).unwrap()
}

#[test]
fn recomputing_blocks_gives_the_loss_and_every_gradient_of_keeping_everything() {
    let dropout = LoraDropout { rate: 0.3, key: 9 };
    for trainable in
        [Trainable::ProjectorAndLora, Trainable::Lora, Trainable::ProjectorAndDecoder, Trainable::Projector]
    {
        for dropout in [None, Some(&dropout)] {
            let model = adapted(&small_spec()).trained(trainable);
            let kept = readout(&model, dropout, Recompute::None);
            let recomputed = readout(&model, dropout, Recompute::Blocks);
            assert_eq!(kept.norms.len(), recomputed.norms.len(), "{trainable:?}");
            assert!((kept.loss - recomputed.loss).abs() < 1e-6);
            for ((name, kept), (other, recomputed)) in kept.norms.iter().zip(&recomputed.norms) {
                assert_eq!(name, other);
                assert!((kept - recomputed).abs() <= 1e-5 * kept.max(1e-3), "{name}: {kept} and {recomputed}");
            }
        }
    }
}

#[test]
fn a_frozen_heads_loss_and_gradients_are_those_of_the_whole_scores() {
    let model = adapted(&small_spec()).trained(Trainable::ProjectorAndLora);
    let whole = answer_loss(&model, &batch(), Some(features(&model, 2)), 5);
    let grads = gradients(&whole, &model);
    let whole = pollster::block_on(GradientSquares::new(&model, &grads).read(whole)).unwrap();
    let parts = readout(&model, None, Recompute::None);
    assert!((whole.loss - parts.loss).abs() < 1e-5, "{} and {}", whole.loss, parts.loss);
    for ((name, whole), (_, parts)) in whole.norms.iter().zip(&parts.norms) {
        assert!((whole - parts).abs() <= 1e-5 * whole.max(1e-3), "{name}: {whole} and {parts}");
    }
}

#[test]
fn dropout_is_a_function_of_its_key_and_changes_the_adapters_alone() {
    let loss = |model: &MobileVlm, dropout: Option<&LoraDropout>| readout(model, dropout, Recompute::None).loss;
    let model = adapted(&small_spec()).trained(Trainable::ProjectorAndLora);
    let with = |key| LoraDropout { rate: 0.5, key };
    assert_eq!(loss(&model, Some(&with(1))), loss(&model, Some(&with(1))));
    assert_ne!(loss(&model, Some(&with(1))), loss(&model, Some(&with(2))));
    assert_ne!(loss(&model, Some(&with(1))), loss(&model, None));
    let plain = base(&small_spec()).trained(Trainable::ProjectorAndDecoder);
    assert_eq!(loss(&plain, Some(&with(1))), loss(&plain, None));
}

#[test]
fn weights_in_half_precision_give_nearly_the_same_results_and_gradients() {
    let spec = small_spec();
    let shapes = mixed_shapes(&spec);
    let load = |storage| {
        let model = MobileVlm::load_as(&spec, random_weights(&spec, 3), &Device::flex(), storage).unwrap();
        let model = model.with_adapters(&shapes, trained_adapters(&spec, &shapes)).unwrap();
        model.trained(Trainable::ProjectorAndLora)
    };
    let exact = readout(&load(Storage::F32), None, Recompute::Blocks);
    for (storage, tolerance) in [(Storage::F16, 1e-2), (Storage::Bf16, 5e-2)] {
        let half = readout(&load(storage), None, Recompute::Blocks);
        assert!((half.loss - exact.loss).abs() < tolerance * exact.loss, "{storage:?}");
        assert_eq!(half.norms.len(), exact.norms.len());
        for ((name, half), (_, exact)) in half.norms.iter().zip(&exact.norms) {
            assert!((half - exact).abs() <= tolerance * 10.0 * exact.max(1e-2), "{storage:?}, {name}");
        }
    }
}

#[test]
fn weights_can_be_replaced_by_name_and_what_does_not_fit_is_listed() {
    let spec = small_spec();
    let other = random_weights(&spec, 77);
    let names = ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"];
    let chosen = |names: &[&str]| {
        let tensors = names.iter().map(|name| ((*name).to_owned(), other.tensors[*name].clone()));
        Weights { tensors: tensors.collect() }
    };
    let model = base(&spec).with_weights(chosen(&names)).unwrap();
    let read = pollster::block_on(model.names().read(&model, |_| true)).unwrap();
    for name in names {
        assert_eq!(read.tensors[name], other.tensors[name]);
    }
    let mut wrong = chosen(&names);
    let lost = wrong.tensors.remove(names[0]).unwrap();
    wrong.tensors.insert("stranger".to_owned(), lost);
    let message = base(&spec).with_weights(wrong).unwrap_err().to_string();
    assert!(message.contains("stranger is not part of the model"), "{message}");
}
