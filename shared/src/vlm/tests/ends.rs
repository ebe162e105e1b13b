//! Adapters of the decoder's ends: the embedding and the head.

use super::super::lora::{Adapted, adapted_modules};
use super::super::spec::End;
use super::super::training::{Backward, Recompute, loss_and_gradients, module_gradients, read_gradients};
use super::*;
use crate::adapter::Adapter;
use crate::schedule::{Budget, Counting, Provenance, RankSchedule, ScalePolicy};

/// Ranks of the layers' modules, and 3 and 2 of embedding and head.
fn shapes_with_ends(spec: &ModelSpec) -> Vec<AdapterShape> {
    let ends = [3, 2].map(|rank| AdapterShape { rank, scale: 1.5 });
    mixed_shapes(spec).into_iter().chain(ends).collect()
}

/// Adapters neither of whose factors is zero.
fn weights_with_ends(spec: &ModelSpec, shapes: &[AdapterShape]) -> Weights {
    let mut weights = trained_adapters(spec, shapes);
    let [a, _] = Adapted::End(End::Embedding).names(spec);
    for (i, value) in weights.tensors.get_mut(&a).unwrap().values.iter_mut().enumerate() {
        *value = ((i * 17) % 13) as f32 / 40.0 - 0.15;
    }
    weights
}

fn with_ends(spec: &ModelSpec) -> MobileVlm {
    let shapes = shapes_with_ends(spec);
    base(spec).with_adapters(&shapes, weights_with_ends(spec, &shapes)).unwrap()
}

#[test]
fn new_adapters_of_the_ends_change_nothing_and_leave_those_of_the_layers_as_they_are() {
    let spec = small_spec();
    let shapes = shapes_with_ends(&spec);
    let weights = initial_adapters(&spec, &shapes, 5);
    let with = base(&spec).with_adapters(&shapes, weights.clone()).unwrap();
    assert_close(&logits(&with), &logits(&base(&spec)), 1e-6);
    for (name, weight) in initial_adapters(&spec, &mixed_shapes(&spec), 5).tensors {
        assert_eq!(weights.tensors[&name], weight, "{name}");
    }
    // As PEFT begins: of an embedding A is zero and B normal.
    let [a, b] = Adapted::End(End::Embedding).names(&spec).map(|name| &weights.tensors[&name]);
    assert_eq!((a.shape.as_slice(), b.shape.as_slice()), ([3, 24].as_slice(), [16, 3].as_slice()));
    assert!(a.values.iter().all(|value| *value == 0.0));
    let squares = b.values.iter().map(|value| value * value).sum::<f32>() / b.values.len() as f32;
    assert!((0.5..1.5).contains(&squares), "{squares}");
}

#[test]
fn adapters_of_the_ends_change_the_output_and_their_merged_matrices_compute_the_same() {
    let spec = small_spec();
    let model = with_ends(&spec);
    let expected = logits(&model);
    let layers = logits(&adapted(&spec));
    assert!(expected.iter().zip(&layers).any(|(with, without)| (with - without).abs() > 0.1));
    assert_close(&logits(&model.clone().merged()), &expected, 1e-5);
    // Once more in the passes that training and evaluation of a loss take.
    let loss = |model: &MobileVlm| {
        let (loss, _) = loss_and_gradients(model, &batch(), Some(features(model, 2)), 5, &Backward::default());
        loss.into_scalar::<f32>()
    };
    assert_close(&[loss(&model.clone().frozen())], &[loss(&model.merged())], 1e-5);
}

#[test]
fn gradients_of_the_ends_are_those_of_the_tensors_however_they_are_computed() {
    let spec = small_spec();
    for trainable in [Trainable::ProjectorAndLora, Trainable::Lora] {
        let model = with_ends(&spec).trained(trainable);
        let features = || Some(features(&model, 2));
        let loss = answer_loss(&model, &batch(), features(), 5);
        let expected = pollster::block_on(read_gradients(&model, &gradients(&loss, &model))).unwrap();
        for recompute in [Recompute::None, Recompute::Blocks] {
            // Dropout of nothing keeps the passes by hand away.
            let none = LoraDropout { rate: 0.0, key: 1 };
            for dropout in [None, Some(&none)] {
                let forward = ForwardOptions { dropout, ..ForwardOptions::default() };
                let backward = Backward { forward, recompute, ..Backward::default() };
                let (own, grads) = loss_and_gradients(&model, &batch(), features(), 5, &backward);
                assert_close(&[own.into_scalar::<f32>()], &[loss.clone().into_scalar::<f32>()], 1e-5);
                let own = pollster::block_on(read_gradients(&model, &grads)).unwrap();
                assert_eq!(own.len(), expected.len());
                for ((name, own), (other, expected)) in own.iter().zip(&expected) {
                    assert_eq!(name, other);
                    let size = expected.iter().map(|value| value.abs()).fold(0.0, f32::max);
                    let apart = own.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(size > 0.0 && apart <= 1e-4 * size, "{name}: {apart} of {size}");
                }
            }
        }
    }
}

#[test]
fn norms_of_the_ends_stand_beside_those_of_the_layers_where_they_are_adapted() {
    let spec = small_spec();
    let of = |model: MobileVlm| {
        let model = model.trained(Trainable::Lora);
        let loss = answer_loss(&model, &batch(), Some(features(&model, 2)), 5);
        let grads = gradients(&loss, &model);
        let readout = pollster::block_on(GradientSquares::new(&model, &grads).read(loss)).unwrap();
        module_gradients(&spec, &readout.norms)
    };
    assert_eq!(of(adapted(&spec)).len(), 14);
    let with = of(with_ends(&spec));
    for (name, gradient) in &with[14..] {
        assert!(gradient.a > Some(0.0) && gradient.b > Some(0.0) && gradient.weight.is_none(), "{name}: {gradient:?}");
    }
    let names: Vec<&str> = with[14..].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["model.embed_tokens", "lm_head"]);
}

#[test]
fn an_adapter_with_ends_leaves_as_pefts_folder_and_comes_back_the_same() {
    let spec = small_spec();
    let layout = spec.layout_of("all-linear+embeddings+head".parse().unwrap()).unwrap();
    let ranks = crate::layout::Ranks::uniform(&layout, 2);
    let scale = ScalePolicy::Constant { factor: 1.5 };
    let shapes = adapter_shapes(&spec, &ranks, scale);
    assert_eq!(shapes.len(), 16);
    let model = base(&spec).with_adapters(&shapes, weights_with_ends(&spec, &shapes)).unwrap();
    let budget = Budget::uniform(&layout, 2, Counting::Parameters);
    let provenance = Provenance { command: "a test".to_owned(), inputs: Vec::new(), seed: None };
    let schedule = RankSchedule::new(ranks, 2, scale, budget, provenance).unwrap();
    let folder = pollster::block_on(model.adapter_folder(&schedule)).unwrap();
    // As PEFT names and shapes them.
    let shape = |name: &str| folder.weights.tensors[name].shape.clone();
    assert_eq!(shape("model.embed_tokens.lora_embedding_A"), [2, 24]);
    assert_eq!(shape("model.embed_tokens.lora_embedding_B"), [16, 2]);
    assert_eq!((shape("lm_head.lora_A.weight"), shape("lm_head.lora_B.weight")), (vec![2, 16], vec![24, 2]));
    let projector = pollster::block_on(model.names().read(&model, |name| name.starts_with(PROJECTOR_PREFIX))).unwrap();
    let adapter = Adapter::new(folder.config, folder.weights, &spec.layout().unwrap()).unwrap();
    let again = base(&spec).with_weights(projector).unwrap().with_adapter(adapter).unwrap();
    assert_eq!(logits(&again), logits(&model));
}

#[test]
fn ends_that_are_one_matrix_get_no_adapters() {
    let spec = small_spec();
    let spec = ModelSpec { decoder: DecoderSpec { tied_embeddings: true, ..spec.decoder.clone() }, ..spec };
    let shapes = shapes_with_ends(&spec);
    let error = base(&spec).with_adapters(&shapes, initial_adapters(&spec, &shapes, 1)).unwrap_err().to_string();
    assert!(error.contains("with one matrix"), "{error}");
    assert_eq!(adapted_modules(&spec).count(), 16);
}
