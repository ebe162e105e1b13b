//! The passes by hand against the tensors' automatic differentiation.

use burn::tensor::Device;
use proptest::prelude::*;

use super::*;
use crate::vlm::batch::{Encoded, Segment};
use crate::vlm::init::random_weights;
use crate::vlm::spec::{ModelConfig, ModelSpec};
use crate::vlm::training::{answer_loss, gradients, read_gradients};
use crate::vlm::{AdapterShape, Trainable, Weight, initial_adapters};

/// A decoder of one of the known families, as small as can be.
fn spec(layers: usize, heads: usize, kv_heads: usize, biases: bool, tied: bool) -> ModelSpec {
    let config = serde_json::json!({
        "model_type": "qwen2", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 31, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied,
    });
    let mut spec = ModelConfig::from_json(&config.to_string()).unwrap().runnable().unwrap();
    let decoder = &mut spec.decoder;
    (decoder.attention_bias, decoder.output_bias, decoder.mlp_bias) = (biases, biases, biases);
    spec
}

/// The model with adapters that are not zero.
fn model(spec: &ModelSpec, ranks: &[u32]) -> MobileVlm {
    let shapes: Vec<AdapterShape> = spec
        .modules()
        .zip(ranks.iter().cycle())
        .map(|(_, rank)| AdapterShape { rank: *rank, scale: if *rank == 0 { 0.0 } else { 1.5 } })
        .collect();
    let mut adapters = initial_adapters(spec, &shapes, 5);
    for (index, Weight { values, .. }) in adapters.tensors.values_mut().enumerate() {
        for (at, value) in values.iter_mut().enumerate() {
            *value += (((at * 31 + index * 17) % 13) as f32 - 6.0) / 60.0;
        }
    }
    MobileVlm::load(spec, random_weights(spec, 3), &Device::flex()).unwrap().with_adapters(&shapes, adapters).unwrap()
}

/// Sequences of text with one or several answers.
fn sequences(lengths: &[usize]) -> Vec<Encoded> {
    let token = |at: usize| (at * 7 + 3) as i32 % 31;
    let sequence = |(row, length): (usize, &usize)| {
        let text = |from: usize, to: usize| (from..to).map(|at| token(at + row)).collect::<Vec<i32>>();
        let middle = length.div_ceil(2);
        Encoded {
            parts: vec![
                Segment::Text(text(0, middle)),
                Segment::Answer(vec![token(row), token(row + 1)]),
                Segment::Text(text(middle, *length)),
                Segment::Answer(vec![token(row + 2)]),
            ],
        }
    };
    lengths.iter().enumerate().map(sequence).collect()
}

/// Loss and gradients of both, and the larger of each pair of norms' relative distance.
fn compare(model: &MobileVlm, batch: &Batch, (compute, recompute): (Compute, Recompute)) -> (f64, f64) {
    let trained = model.clone().trained(Trainable::Lora);
    let loss = answer_loss(&trained, batch, None, batch.answer_ids.len());
    let expected = pollster::block_on(read_gradients(&trained, &gradients(&loss, &trained))).unwrap();
    let factor = 1.0 / batch.answer_ids.len() as f32;
    let spliced = trained.splice(batch, None).inner();
    let rounded = (compute == Compute::Bf16).then(|| RoundedDecoder::load(&trained.decoder));
    let found = decoder_gradients(&trained.decoder, batch, spliced, true, factor, recompute, rounded.as_ref());
    let own = pollster::block_on(read_gradients(&trained, &found.adapters)).unwrap();
    assert_eq!(own.len(), expected.len());
    let scalar = |loss: Tensor<1>| f64::from(loss.into_scalar::<f32>());
    let losses = (scalar(found.loss.mul_scalar(factor)) - scalar(loss.inner())).abs();
    let mut worst: f64 = 0.0;
    for ((name, own), (other, expected)) in own.iter().zip(&expected) {
        assert_eq!((name, own.len()), (other, expected.len()));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let size = norm(&mut expected.iter().map(|value| f64::from(*value)));
        let apart = norm(&mut own.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        worst = worst.max(apart / size.max(1e-6));
    }
    (losses, worst)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn loss_and_gradients_are_those_of_the_tensors_whatever_the_shape(
        layers in 1_usize..4,
        (heads, kv_heads) in prop_oneof![Just((2, 2)), Just((4, 2)), Just((6, 1)), Just((3, 3))],
        biases: bool,
        tied: bool,
        ranks in prop::collection::vec(0_u32..5, 1..8).prop_filter("an adapter", |ranks| ranks.iter().any(|rank| *rank > 0)),
        lengths in prop::collection::vec(1_usize..90, 1..4),
        blocks: bool,
    ) {
        let spec = spec(layers, heads, kv_heads, biases, tied);
        let model = model(&spec, &ranks);
        let examples = sequences(&lengths);
        let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
        let recompute = if blocks { Recompute::Blocks } else { Recompute::None };
        let (loss, gradients) = compare(&model, &batch, (Compute::F32, recompute));
        prop_assert!(loss < 1e-5, "loss: {loss:e}");
        prop_assert!(gradients < 1e-4, "gradients: {gradients:e}");
    }
}

#[test]
fn the_gradient_by_the_input_is_that_of_the_tensors_and_zero_for_padding() {
    let spec = spec(2, 4, 2, true, false);
    let model = model(&spec, &[2, 0, 3]).trained(Trainable::Lora);
    let examples = sequences(&[5, 37]);
    let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
    let spliced = model.splice(&batch, None).inner();
    let leaf = spliced.clone().autodiff().require_grad();
    let states = model.decoder.forward(leaf.clone(), batch.rows, batch.length, ForwardOptions::default());
    let answers = crate::vlm::indices(&batch.answer_positions, &model.device());
    let (_, gradient) = frozen_loss(
        &model.decoder,
        &states.clone().inner().select(0, answers.clone()),
        &batch.answer_ids,
        Compute::F32,
    );
    let mut grads = (states.select(0, answers) * gradient).sum().backward();
    let expected = values(leaf.grad_remove(&mut grads).unwrap());
    let found = decoder_gradients(&model.decoder, &batch, spliced, true, 1.0, Recompute::None, None);
    let found = values(found.input.unwrap());
    let hidden = spec.decoder.hidden;
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < 1e-4, "{at}: {found} and {expected}");
    }
    let padding = batch.lengths[0] * hidden..batch.length * hidden;
    assert!(!padding.is_empty() && found[padding].iter().all(|value| *value == 0.0));
}

#[test]
fn in_bfloat16_loss_and_gradients_are_those_of_single_precision_to_its_eight_bits() {
    for (heads, biases, tied) in [(2, true, false), (4, false, true)] {
        let model = model(&spec(2, heads, 2, biases, tied), &[3, 1, 4]);
        let examples = sequences(&[6, 13, 9]);
        let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
        for recompute in [Recompute::None, Recompute::Blocks] {
            let (loss, gradients) = compare(&model, &batch, (Compute::Bf16, recompute));
            // 2⁻⁹ is what one rounding does at most; a gradient is that of many, one after the other.
            assert!(loss < 2e-2 && gradients < 5e-2, "{loss} {gradients}");
            assert!(gradients > 1e-4, "not rounded at all: {gradients}");
        }
    }
}

#[test]
fn in_bfloat16_an_adapter_counts_that_is_too_small_to_change_its_rounded_weight() {
    let spec = spec(2, 2, 2, false, false);
    let mut weights = random_weights(&spec, 3);
    for weight in weights.tensors.values_mut() {
        // Numbers that bfloat16 has.
        weight.values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits() & 0xFFFF_0000));
    }
    let shapes: Vec<AdapterShape> = spec.modules().map(|_| AdapterShape { rank: 2, scale: 1.0 }).collect();
    let examples = sequences(&[6, 9]);
    let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
    let gradients = |size: f32| {
        let mut adapters = initial_adapters(&spec, &shapes, 5);
        for Weight { values, .. } in adapters.tensors.values_mut() {
            for (at, value) in values.iter_mut().enumerate() {
                *value = size * ((at % 5) as f32 - 1.5);
            }
        }
        let model = MobileVlm::load(&spec, weights.clone(), &Device::flex()).unwrap();
        let model = model.with_adapters(&shapes, adapters).unwrap().trained(Trainable::Lora);
        let spliced = model.splice(&batch, None).inner();
        let rounded = RoundedDecoder::load(&model.decoder);
        let rounded = Some(&rounded);
        values(decoder_gradients(&model.decoder, &batch, spliced, true, 1.0, Recompute::None, rounded).input.unwrap())
    };
    assert_ne!(gradients(1e-3), gradients(0.0));
}

#[test]
fn what_is_not_trained_has_no_gradient_and_is_part_of_the_loss_all_the_same() {
    let spec = spec(2, 2, 2, false, false);
    let model = model(&spec, &[3]);
    let examples = sequences(&[6, 9]);
    let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
    let run = |model: &MobileVlm| {
        let spliced = model.splice(&batch, None).inner();
        let found = decoder_gradients(&model.decoder, &batch, spliced, true, 1.0, Recompute::None, None);
        let input = values(found.input.unwrap());
        (values(found.loss), pollster::block_on(read_gradients(model, &found.adapters)).unwrap(), input)
    };
    let (loss, gradients, input) = run(&model.clone().trained(Trainable::Lora));
    let (frozen_loss, none, frozen_input) = run(&model.frozen());
    assert_eq!((gradients.len(), none.len()), (2 * 14, 0));
    assert_eq!((loss, input), (frozen_loss, frozen_input));
}

#[test]
fn gradients_are_the_same_to_the_last_bit_in_any_number_of_threads() {
    let spec = spec(2, 4, 2, false, true);
    let model = model(&spec, &[4]).trained(Trainable::Lora);
    let examples = sequences(&[70, 3, 41, 88]);
    let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), 0);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let spliced = model.splice(&batch, None).inner();
            let found = decoder_gradients(&model.decoder, &batch, spliced, true, 1.0, Recompute::None, None);
            (values(found.loss), pollster::block_on(read_gradients(&model, &found.adapters)).unwrap())
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}
