//! The training step: the same with either optimizer, in any number of micro-batches, and of a decoder with biases.

use burn::optim::ModuleOptimizer;

use super::super::spec::ModelConfig;
use super::super::training::{FlatAdamW, Recompute, StepConfig, StepOptimizer, StepReport, TrainingState, train_step};
use super::*;

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
