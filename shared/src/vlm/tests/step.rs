//! The training step: the same with either optimizer, in any number of micro-batches, and of a decoder with biases.

use burn::optim::ModuleOptimizer;

use super::super::spec::ModelConfig;
use super::super::training::{
    FlatAdamW, Recompute, StepConfig, StepOptimizer, StepReport, TrainingState, nested_step, train_step,
};
use super::*;
use crate::adapter::lora_names;

fn config(trainable: Trainable, steps: usize) -> StepConfig {
    StepConfig {
        trainable,
        steps,
        // Large enough that a difference would grow; clipped, decayed and warmed up, so that all of it is compared.
        optimizer: OptimizerConfig {
            learning_rate: 2e-2,
            warmup_ratio: 0.2,
            weight_decay: 0.05,
            max_grad_norm: 0.3,
            ..OptimizerConfig::default()
        },
        recompute: Recompute::None,
        compute: Compute::F32,
        lora_dropout: 0.1,
        seed: 3,
    }
}

/// All steps of a run, and the trained weights after them.
fn run<O: StepOptimizer>(
    model: &MobileVlm,
    config: &StepConfig,
    micro_batches: &[Batch],
) -> (Vec<StepReport>, Weights, TrainingState<O>) {
    let pictures = model.vision.is_some().then(|| features(model, 2));
    let features = |_: &MobileVlm, batch: &Batch| {
        let all = pictures.as_ref()?;
        Some(Tensor::cat(batch.pictures.iter().map(|&picture| all.clone().narrow(0, picture, 1)).collect(), 0))
    };
    let mut state = TrainingState::<O>::new(model.clone(), config.trainable, &config.optimizer);
    let mut reports = Vec::new();
    for _ in 0..config.steps {
        let (next, measured) = pollster::block_on(train_step(state, config, micro_batches, &features)).unwrap();
        reports.push(pollster::block_on(measured.read()).unwrap());
        state = next;
    }
    let read = state.model.names().read(&state.model, |name| config.trainable.includes(name));
    let weights = pollster::block_on(read).unwrap();
    (reports, weights, state)
}

fn micro_batches() -> Vec<Batch> {
    examples().iter().map(|example| Batch::for_training(&[example], 4)).collect()
}

#[cfg(not(target_family = "wasm"))]
#[test]
fn in_bfloat16_every_step_multiplies_with_what_the_first_one_laid_out() {
    let model = adapted(&small_spec());
    let config = StepConfig { compute: Compute::Bf16, lora_dropout: 0.0, ..config(Trainable::Lora, 3) };
    let (_, expected, state) = run::<FlatAdamW>(&model, &config, &micro_batches());
    assert!(state.rounded.get().is_some());
    let pictures = features(&model, 2);
    let features = |_: &MobileVlm, batch: &Batch| Some(pictures.clone().narrow(0, batch.pictures[0], 1));
    let mut state = TrainingState::<FlatAdamW>::new(model, config.trainable, &config.optimizer);
    for _ in 0..config.steps {
        // Laid out anew for every step.
        let fresh = TrainingState { rounded: std::sync::Arc::default(), ..state };
        state = pollster::block_on(train_step(fresh, &config, &micro_batches(), &features)).unwrap().0;
    }
    let read = state.model.names().read(&state.model, |name| config.trainable.includes(name));
    assert_eq!(pollster::block_on(read).unwrap(), expected);
}

#[test]
fn both_optimizers_take_the_same_steps_to_the_last_bit() {
    let model = adapted(&small_spec());
    for trainable in [Trainable::Lora, Trainable::ProjectorAndLora, Trainable::ProjectorAndDecoder] {
        let config = config(trainable, 6);
        let (reports, weights, _) = run::<ModuleOptimizer>(&model, &config, &micro_batches());
        let (flat_reports, flat_weights, _) = run::<FlatAdamW>(&model, &config, &micro_batches());
        assert_eq!(reports, flat_reports, "{trainable:?}");
        assert_eq!(weights, flat_weights, "{trainable:?}");
        // The runs are ones in which something happens: gradients are clipped, and the loss falls.
        assert!(reports.iter().any(|report| report.global_norm > config.optimizer.max_grad_norm), "{reports:?}");
        assert!(reports[5].loss < reports[0].loss, "{trainable:?}: {} and {}", reports[0].loss, reports[5].loss);
    }
}

#[test]
fn micro_batches_take_the_steps_of_the_whole_batch() {
    let model = adapted(&small_spec());
    let config = StepConfig { lora_dropout: 0.0, ..config(Trainable::ProjectorAndLora, 4) };
    let (parts, _, _) = run::<ModuleOptimizer>(&model, &config, &micro_batches());
    let (whole, _, _) = run::<ModuleOptimizer>(&model, &config, &[batch()]);
    for (parts, whole) in parts.iter().zip(&whole) {
        assert_eq!((parts.step, parts.learning_rate), (whole.step, whole.learning_rate));
        assert!((parts.loss - whole.loss).abs() < 1e-4, "{} and {}", parts.loss, whole.loss);
        assert!((parts.global_norm - whole.global_norm).abs() < 1e-3 * whole.global_norm);
    }
}

#[test]
fn a_flat_optimizer_goes_on_from_a_snapshot_as_if_it_had_never_stopped() {
    let model = adapted(&small_spec());
    let config = config(Trainable::ProjectorAndLora, 3);
    let (_, _, end) = run::<FlatAdamW>(&model, &config, &micro_batches());
    let snapshot = pollster::block_on(end.optimizer.snapshot()).unwrap();
    let mut resumed = TrainingState::<FlatAdamW>::new(model, config.trainable, &config.optimizer);
    resumed.model = resumed.optimizer.restore(resumed.model, &snapshot);
    resumed.step = end.step;
    let next = |state: TrainingState<FlatAdamW>| {
        let features = |model: &MobileVlm, _: &Batch| Some(features(model, 2));
        let config = StepConfig { steps: 9, ..config.clone() };
        let (next, measured) = pollster::block_on(train_step(state, &config, &[batch()], &features)).unwrap();
        let snapshot = pollster::block_on(next.optimizer.snapshot()).unwrap();
        (pollster::block_on(measured.read()).unwrap(), snapshot)
    };
    assert_eq!(next(end), next(resumed));
}

/// Weights of adapters that are wider than `shapes`, and their first directions alone.
fn wide_and_cut(spec: &ModelSpec, shapes: &[AdapterShape]) -> (Vec<AdapterShape>, Weights, Weights) {
    let wide: Vec<AdapterShape> = shapes.iter().map(|shape| AdapterShape { rank: shape.rank + 2, ..*shape }).collect();
    let weights = trained_adapters(spec, &wide);
    let mut cut = Weights::default();
    for (module, shape) in spec.modules().zip(shapes).filter(|(_, shape)| shape.rank > 0) {
        let rank = shape.rank as usize;
        let [a, b] = lora_names(&spec.module_name(module));
        let (wide_a, wide_b) = (&weights.tensors[&a], &weights.tensors[&b]);
        let d_in = wide_a.shape[1];
        let own_a = wide_a.values[..rank * d_in].to_vec();
        let own_b = wide_b.values.chunks_exact(rank + 2).flat_map(|row| &row[..rank]).copied().collect();
        cut.tensors.insert(a, Weight { shape: vec![rank, d_in], values: own_a });
        cut.tensors.insert(b, Weight { shape: vec![wide_b.shape[0], rank], values: own_b });
    }
    (wide, weights, cut)
}

/// Ranks from 0 on.
fn low_shapes(spec: &ModelSpec) -> Vec<AdapterShape> {
    (0..spec.modules().count()).map(|index| AdapterShape { rank: (index % 3) as u32, scale: 1.5 }).collect()
}

#[test]
fn a_truncated_model_computes_what_a_model_of_the_lower_ranks_does() {
    let spec = small_spec();
    let shapes = low_shapes(&spec);
    let (wide, weights, cut) = wide_and_cut(&spec, &shapes);
    let truncated = base(&spec).with_adapters(&wide, weights.clone()).unwrap().truncated(&shapes);
    let alone = base(&spec).with_adapters(&shapes, cut).unwrap();
    assert_close(&logits(&truncated), &logits(&alone), 1e-5);
    let whole = base(&spec).with_adapters(&wide, weights).unwrap();
    assert_ne!(logits(&truncated), logits(&whole));
}

#[test]
fn nested_steps_train_the_truncation_alone_with_the_gradients_of_a_model_of_its_ranks() {
    let spec = small_spec();
    let shapes = low_shapes(&spec);
    let (wide, weights, cut) = wide_and_cut(&spec, &shapes);
    let config = {
        let config = config(Trainable::Lora, 3);
        // Clipping would hide the scale of the gradients.
        let optimizer = OptimizerConfig { max_grad_norm: 0.0, warmup_ratio: 0.0, ..config.optimizer };
        StepConfig { optimizer, lora_dropout: 0.0, ..config }
    };
    let features = |model: &MobileVlm, _: &Batch| Some(features(model, 2));
    let batches = [batch()];
    let step = |state: TrainingState<FlatAdamW>, shapes: &[AdapterShape]| {
        let (next, report) = pollster::block_on(nested_step(state, shapes, &config, &batches, &features)).unwrap();
        let weights = pollster::block_on(next.model.names().read(&next.model, |name| config.trainable.includes(name)));
        (next, report, weights.unwrap())
    };
    let fresh = |model: &MobileVlm| TrainingState::new(model.clone(), config.trainable, &config.optimizer);
    let model = base(&spec).with_adapters(&wide, weights.clone()).unwrap();
    let (state, report, first) = step(fresh(&model), &shapes);
    let alone = base(&spec).with_adapters(&shapes, cut).unwrap();
    let (_, expected_report, expected) = step(fresh(&alone), &shapes);
    assert!((report.loss - expected_report.loss).abs() < 1e-5 * expected_report.loss, "{report:?}");
    for (name, norm) in &expected_report.norms {
        let found = report.norms.iter().find(|(other, _)| other == name).unwrap().1;
        assert!((found - norm).abs() < 1e-3 * norm.max(1e-6), "{name}: {found} and {norm}");
    }
    // A step at lower ranks moves nothing else, though moments would.
    let lower: Vec<AdapterShape> =
        shapes.iter().map(|shape| AdapterShape { rank: shape.rank.saturating_sub(1), ..*shape }).collect();
    let (_, _, second) = step(state, &lower);
    let inside = |weights: &Weights, name: &str, rank: usize| -> (Vec<f32>, Vec<f32>) {
        let Weight { shape, values } = &weights.tensors[name];
        let (rows, columns) = (shape[0], shape[1]);
        let of_b = name.ends_with("lora_B.weight");
        let kept = |at: usize| if of_b { at % columns < rank } else { at / columns < rank };
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..rows * columns).partition(|at| kept(*at));
        let values = |chosen: Vec<usize>| chosen.into_iter().map(|at| values[at]).collect();
        (values(inside), values(outside))
    };
    for ((module, shape), lower) in spec.modules().zip(&shapes).zip(&lower) {
        for name in lora_names(&spec.module_name(module)) {
            let (rank, lower) = (shape.rank as usize, lower.rank as usize);
            let [before, after] = [&weights, &first].map(|weights| inside(weights, &name, rank));
            assert_eq!(before.1, after.1, "{name}");
            if rank > 0 {
                assert_close(&after.0, &expected.tensors[&name].values, 1e-3);
                assert_ne!(before.0, after.0, "{name}");
            }
            let [before, after] = [&first, &second].map(|weights| inside(weights, &name, lower));
            assert_eq!(before.1, after.1, "{name}");
            assert!(lower == 0 || before.0 != after.0, "{name}");
        }
    }
}

/// A decoder as Qwen2's: biases at q, k and v alone.
fn qwen2() -> ModelSpec {
    ModelConfig::from_json(
        r#"{"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 24, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": true}"#,
    )
    .unwrap()
    .runnable()
    .unwrap()
}

#[test]
fn random_weights_have_a_bias_wherever_the_decoder_has_one() {
    for (attention, output, mlp) in
        [(true, false, false), (true, true, false), (false, false, true), (true, true, true)]
    {
        let mut spec = qwen2();
        let decoder = &mut spec.decoder;
        (decoder.attention_bias, decoder.output_bias, decoder.mlp_bias) = (attention, output, mlp);
        let weights = random_weights(&spec, 1);
        assert_eq!(weights.parameters(), spec.total_parameters());
        let biases: Vec<&String> = weights.tensors.keys().filter(|name| name.ends_with(".bias")).collect();
        let expected = 3 * usize::from(attention) + usize::from(output) + 3 * usize::from(mlp);
        assert_eq!(biases.len(), 2 * expected, "{biases:?}");
        MobileVlm::load(&spec, weights, &Device::flex()).unwrap();
    }
}

#[test]
fn a_decoder_with_biases_takes_steps_whose_loss_falls_and_trains_its_biases_where_all_of_it_is_trained() {
    let spec = qwen2();
    assert!(spec.decoder.attention_bias && !spec.decoder.output_bias && !spec.decoder.mlp_bias);
    let model = adapted(&spec);
    let text =
        [5, 6].map(|token| Encoded { parts: vec![Segment::Text(vec![1, token]), Segment::Answer(vec![token + 4, 2])] });
    let batch = Batch::for_training(&text.iter().collect::<Vec<_>>(), 0);
    for trainable in [Trainable::Lora, Trainable::ProjectorAndDecoder] {
        let config = config(trainable, 8);
        let (reports, weights, _) = run::<ModuleOptimizer>(&model, &config, std::slice::from_ref(&batch));
        assert!(reports[7].loss < 0.9 * reports[0].loss, "{trainable:?}: {reports:?}");
        let moved = |(name, weight): (&String, &Weight)| {
            name.ends_with("q_proj.bias") && weight.values.iter().any(|value| *value != 0.0)
        };
        let biases = weights.tensors.iter().filter(|tensor| moved(*tensor)).count();
        assert_eq!(biases, if trainable == Trainable::Lora { 0 } else { 2 });
    }
}

#[test]
fn a_projector_with_a_rate_of_its_own_moves_at_that_rate_under_either_optimizer() {
    let model = adapted(&small_spec());
    let shared = config(Trainable::ProjectorAndLora, 4);
    let with_projector_at = |projector| {
        let optimizer = OptimizerConfig { projector_learning_rate: Some(projector), ..shared.optimizer };
        StepConfig { optimizer, ..shared.clone() }
    };
    let before = pollster::block_on(model.names().read(&model, |name| Trainable::ProjectorAndLora.includes(name)));
    let before = before.unwrap();
    let (_, held, _) = run::<ModuleOptimizer>(&model, &with_projector_at(0.0), &micro_batches());
    for (name, weight) in &held.tensors {
        assert_eq!(weight == &before.tensors[name], name.starts_with(PROJECTOR_PREFIX), "{name}");
    }
    let (_, own, _) = run::<ModuleOptimizer>(&model, &with_projector_at(5e-3), &micro_batches());
    let (_, flat, _) = run::<FlatAdamW>(&model, &with_projector_at(5e-3), &micro_batches());
    for (name, weight) in &own.tensors {
        let pairs = weight.values.iter().zip(&flat.tensors[name].values);
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
    }
    // The rate of the rest, given in so many words, changes nothing.
    let (_, same, _) = run::<ModuleOptimizer>(&model, &with_projector_at(2e-2), &micro_batches());
    let (_, without, _) = run::<ModuleOptimizer>(&model, &shared, &micro_batches());
    assert_eq!(same, without);
}
