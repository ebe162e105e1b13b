//! What the model promises, on a spec small enough for finite differences.

mod ends;
mod half_precision;
mod memory;
mod step;

use burn::module::{Lora, Module, ModuleMapper, ModuleVisitor, Param, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, Tolerance};

use super::batch::{Batch, Encoded, Segment};
use super::init::random_weights;
use super::spec::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec, VisionSpec};
use super::training::{GradientSquares, OptimizerConfig, answer_loss, gradients, scale_gradients};
use super::*;

fn small_spec() -> ModelSpec {
    let tiny = ModelSpec::preset("tiny-mobilevlm").unwrap();
    ModelSpec {
        decoder: DecoderSpec {
            hidden: 16,
            intermediate: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            vocab: 24,
            ..tiny.decoder
        },
        vision: Some(VisionSpec {
            hidden: 8,
            intermediate: 16,
            layers: 2,
            heads: 2,
            image_size: 16,
            patch_size: 4,
            layer_norm_eps: 1e-5,
        }),
        projector: Some(ProjectorSpec { kind: ProjectorKind::Ldpnetv2, vision_hidden: 8, hidden: 16 }),
        ..tiny
    }
}

fn pictures(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|p| (0..16 * 16 * 3).map(|i| ((i * 37 + p * 91) % 256) as u8).collect()).collect()
}

fn features(model: &MobileVlm, count: usize) -> Tensor<3> {
    let pictures = pictures(count);
    let rgb: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
    model.vision_features(patchify(model.spec().vision.as_ref().unwrap(), &rgb, &model.device())).unwrap()
}

fn examples() -> Vec<Encoded> {
    vec![
        Encoded {
            parts: vec![
                Segment::Text(vec![1, 5]),
                Segment::Picture(0),
                Segment::Text(vec![6, 7, 8]),
                Segment::Answer(vec![9, 2]),
                Segment::Text(vec![5]),
                Segment::Answer(vec![2]),
            ],
        },
        Encoded {
            parts: vec![
                Segment::Text(vec![1, 5]),
                Segment::Picture(1),
                Segment::Text(vec![10]),
                Segment::Answer(vec![11, 2]),
            ],
        },
    ]
}

fn batch() -> Batch {
    let examples = examples();
    Batch::for_training(&examples.iter().collect::<Vec<_>>(), 4)
}

/// Ranks that differ from module to module.
fn mixed_shapes(spec: &ModelSpec) -> Vec<AdapterShape> {
    (0..spec.modules().count()).map(|index| AdapterShape { rank: 1 + (index % 3) as u32, scale: 2.0 }).collect()
}

/// Adapters whose B is not zero, so that both factors have gradients.
fn trained_adapters(spec: &ModelSpec, shapes: &[AdapterShape]) -> Weights {
    let mut weights = initial_adapters(spec, shapes, 5);
    for (index, (name, weight)) in weights.tensors.iter_mut().enumerate() {
        if name.ends_with("lora_B.weight") {
            for (i, value) in weight.values.iter_mut().enumerate() {
                *value = ((index * 31 + i * 17) % 13) as f32 / 40.0 - 0.15;
            }
        }
    }
    weights
}

fn base(spec: &ModelSpec) -> MobileVlm {
    MobileVlm::load(spec, random_weights(spec, 1), &Device::flex()).unwrap()
}

fn adapted(spec: &ModelSpec) -> MobileVlm {
    let shapes = mixed_shapes(spec);
    base(spec).with_adapters(&shapes, trained_adapters(spec, &shapes)).unwrap()
}

fn logits(model: &MobileVlm) -> Vec<f32> {
    model.forward(&batch(), Some(features(model, 2))).into_data().try_to_vec().unwrap()
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{x} and {y} differ");
    }
}

#[test]
fn new_adapters_leave_the_output_unchanged() {
    let spec = small_spec();
    let shapes = mixed_shapes(&spec);
    let with = base(&spec).with_adapters(&shapes, initial_adapters(&spec, &shapes, 5)).unwrap();
    assert_eq!(logits(&base(&spec)), logits(&with));
}

#[test]
fn adapters_change_the_output_and_their_merged_weights_compute_the_same() {
    let spec = small_spec();
    let model = adapted(&spec);
    let expected = logits(&model);
    assert_ne!(expected, logits(&base(&spec)));
    assert_close(&logits(&model.merged()), &expected, 1e-5);
}

#[test]
fn a_module_has_exactly_the_rank_and_the_parameters_of_its_schedule() {
    let spec = small_spec();
    let shapes = mixed_shapes(&spec);
    let adapters = initial_adapters(&spec, &shapes, 5);
    let expected: u64 =
        spec.modules().zip(&shapes).map(|(m, s)| spec.shape(m.projection).rank_unit_cost() * u64::from(s.rank)).sum();
    assert_eq!(adapters.parameters(), expected);
    let model = base(&spec).with_adapters(&shapes, adapters.clone()).unwrap();
    let read = pollster::block_on(model.names().read(&model, is_lora)).unwrap();
    assert_eq!(read, adapters);
}

#[test]
fn only_projector_and_adapters_are_trained_in_stage_two() {
    let spec = small_spec();
    let model = adapted(&spec).trained(Trainable::ProjectorAndLora);
    let loss = answer_loss(&model, &batch(), Some(features(&model, 2)), 5);
    let grads = gradients(&loss, &model);
    assert_eq!(grads.len(), 2 * spec.modules().count() + 6);
    assert_eq!(model.num_params() as u64, {
        let lora: u64 = trained_adapters(&spec, &mixed_shapes(&spec)).parameters();
        spec.total_parameters() + lora
    });
}

/// Burn's own LoRA with the scale and factors of ours: composes `W + s·A·B`, the oracle for our activation-side form.
struct ToBurnLora;

impl ToBurnLora {
    fn convert(linear: &LoraLinear) -> burn::nn::Linear {
        let adapter = linear.lora.as_ref().unwrap();
        let [_, rank] = adapter.a.dims();
        let plain = burn::nn::Linear { weight: Param::from_tensor(linear.weight.val().autodiff()), bias: None };
        let lora = Lora::new(rank, adapter.scale * rank as f64).set_param_group(ParamGroup::all());
        let oracle = plain.apply_lora(lora);
        struct Set(Vec<Tensor<2>>);
        impl ModuleMapper for Set {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if !param.is_require_grad() {
                    return param;
                }
                let value = self.0.remove(0).autodiff().require_grad();
                let id = param.id;
                Param::initialized(id, value.reshape::<D, _>(param.dims()).inner().autodiff().require_grad())
            }
        }
        oracle.map(&mut Set(vec![adapter.a.val().inner(), adapter.b.val().inner()]))
    }
}

#[test]
fn gradients_agree_with_burns_own_lora() {
    let spec = small_spec();
    let shapes = mixed_shapes(&spec);
    let (adapters, _) = lora::load_adapters(&spec, &shapes, trained_adapters(&spec, &shapes), &Device::flex()).unwrap();
    for (module, adapter) in spec.modules().zip(adapters) {
        let adapter = adapter.unwrap();
        let shape = spec.shape(module.projection);
        let wave = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<f32>>();
        let device = Device::flex();
        let weight = Tensor::<1>::from_data(wave(shape.d_in * shape.d_out, 0.7).as_slice(), &device)
            .reshape([shape.d_in, shape.d_out]);
        let tracked = LoraAdapter {
            a: Param::initialized(adapter.a.id, adapter.a.val().autodiff().require_grad()),
            b: Param::initialized(adapter.b.id, adapter.b.val().autodiff().require_grad()),
            scale: adapter.scale,
        };
        let ours = LoraLinear { weight: Param::initialized(param_id(), weight), bias: None, lora: Some(tracked) };
        let oracle = ToBurnLora::convert(&ours);
        let x = Tensor::<1>::from_data(wave(5 * shape.d_in, 0.3).as_slice(), &device).reshape([5, shape.d_in]);
        let loss = |y: Tensor<2>| y.square().sum();
        let our_grads =
            GradientsParams::from_grads(loss(ours.forward(x.clone(), ForwardOptions::default(), 0)).backward(), &ours);
        let their_grads = GradientsParams::from_grads(loss(oracle.forward(x.autodiff())).backward(), &oracle);
        struct Collect<'a>(&'a GradientsParams, Vec<TensorData>);
        impl ModuleVisitor for Collect<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = self.0.get::<D>(param.id) {
                    self.1.push(grad.into_data());
                }
            }
        }
        let mut a = Collect(&our_grads, Vec::new());
        ours.visit(&mut a);
        let mut b = Collect(&their_grads, Vec::new());
        oracle.visit(&mut b);
        assert_eq!(a.1.len(), 2);
        assert_eq!(b.1.len(), 2);
        for (x, y) in a.1.iter().zip(&b.1) {
            x.assert_approx_eq::<f32>(y, Tolerance::relative(1e-4).set_absolute(1e-4));
        }
    }
}

fn param_id() -> burn::module::ParamId {
    burn::module::ParamId::new()
}

fn loss_of(spec: &ModelSpec, weights: &Weights) -> f64 {
    let shapes = mixed_shapes(spec);
    let model = base(spec).with_adapters(&shapes, weights.clone()).unwrap();
    let loss = answer_loss(&model, &batch(), Some(features(&model, 2)), 5);
    f64::from(loss.into_scalar::<f32>())
}

#[test]
fn every_modules_adapter_gradient_agrees_with_finite_differences() {
    let spec = small_spec();
    let shapes = mixed_shapes(&spec);
    let weights = trained_adapters(&spec, &shapes);
    let model = adapted(&spec).trained(Trainable::ProjectorAndLora);
    let grads = gradients(&answer_loss(&model, &batch(), Some(features(&model, 2)), 5), &model);
    struct ByName<'a> {
        model: &'a MobileVlm,
        grads: &'a GradientsParams,
        // In the module's layout, [d_in, d_out]; the weights are transposed.
        found: std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    }
    impl ModuleVisitor for ByName<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(grad) = self.grads.get::<D>(param.id) else { return };
            let name = self.model.names().name(param.id).unwrap().to_owned();
            self.found.insert(name, (grad.dims().to_vec(), grad.into_data().try_to_vec().unwrap()));
        }
    }
    let mut visitor = ByName { model: &model, grads: &grads, found: Default::default() };
    model.visit(&mut visitor);
    let step = 1e-2_f32;
    for (name, weight) in &weights.tensors {
        let (dims, gradient) = &visitor.found[name];
        // The element with the largest gradient, where single precision says most.
        let (index, largest) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
        let (row, column) = (index / dims[1], index % dims[1]);
        let position = column * weight.shape[1] + row;
        let shifted = |by: f32| {
            let mut moved = weights.clone();
            moved.tensors.get_mut(name).unwrap().values[position] += by;
            loss_of(&spec, &moved)
        };
        let numeric = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
        let difference = (numeric - f64::from(*largest)).abs();
        assert!(difference < 2e-3 + 0.03 * numeric.abs(), "{name}: {largest} analytic, {numeric} numeric");
    }
}

#[test]
fn micro_batches_add_up_to_the_gradients_of_the_whole_batch() {
    let spec = small_spec();
    let examples = examples();
    let whole = adapted(&spec).trained(Trainable::ProjectorAndLora);
    let all = features(&whole, 2);
    let grads = gradients(&answer_loss(&whole, &batch(), Some(all.clone()), 5), &whole);
    let expected = pollster::block_on(GradientSquares::new(&whole, &grads).read(answer_loss(
        &whole,
        &batch(),
        Some(all.clone()),
        5,
    )))
    .unwrap();
    let mut accumulator = burn::optim::GradientsAccumulator::new();
    let mut loss = 0.0;
    for example in &examples {
        let part = Batch::for_training(&[example], 4);
        let model = whole.clone().trained(Trainable::ProjectorAndLora);
        let first = example.pictures().next().unwrap();
        let picture = all.clone().slice(first..first + 1);
        let part_loss = answer_loss(&model, &part, Some(picture), 5);
        accumulator.accumulate(&whole, gradients(&part_loss, &model));
        loss += f64::from(part_loss.into_scalar::<f32>());
    }
    let grads = accumulator.grads();
    let sum =
        pollster::block_on(GradientSquares::new(&whole, &grads).read(answer_loss(&whole, &batch(), Some(all), 5)))
            .unwrap();
    assert!((loss - expected.loss).abs() < 1e-5);
    for ((name, norm), (_, expected)) in sum.norms.iter().zip(&expected.norms) {
        assert!((norm - expected).abs() < 1e-4 * (1.0 + expected), "{name}: {norm} and {expected}");
    }
}

#[test]
fn clipping_brings_the_global_norm_to_its_limit_and_leaves_smaller_ones_alone() {
    let spec = small_spec();
    let model = adapted(&spec).trained(Trainable::ProjectorAndLora);
    let loss = answer_loss(&model, &batch(), Some(features(&model, 2)), 5);
    let norm_after = |limit: f64| {
        let grads = gradients(&answer_loss(&model, &batch(), Some(features(&model, 2)), 5), &model);
        let squares = GradientSquares::new(&model, &grads);
        let factor = squares.clip_factor(limit).unwrap();
        let grads = scale_gradients(&model, grads, &factor);
        pollster::block_on(GradientSquares::new(&model, &grads).read(loss.clone())).unwrap().global_norm()
    };
    let free = norm_after(1e6);
    assert!(free > 0.1);
    assert!((norm_after(0.05) - 0.05).abs() < 1e-5);
}

#[test]
fn padding_does_not_change_a_sequence() {
    let spec = small_spec();
    let model = adapted(&spec);
    let both = logits(&model);
    let alone = Batch::for_training(&[&examples()[0]], 4);
    let first: Vec<f32> =
        model.forward(&alone, Some(features(&model, 2).slice(0..1))).into_data().try_to_vec().unwrap();
    assert_close(&first, &both[..first.len()], 1e-5);
}

#[test]
fn batched_generation_with_a_cache_gives_the_tokens_of_whole_forward_passes() {
    let spec = small_spec();
    let model = adapted(&spec);
    let prompt = |picture, question: Vec<i32>| Encoded {
        parts: vec![Segment::Text(vec![1, 5]), Segment::Picture(picture), Segment::Text(question)],
    };
    // Of different lengths: the shorter one is padded.
    let prompts = [prompt(0, vec![6, 7]), prompt(1, vec![10, 3, 4, 11])];
    let all = features(&model, 2);
    let rows: Vec<&Encoded> = prompts.iter().collect();
    let cached = pollster::block_on(generate::generate(&model, &rows, Some(all.clone()), -1, 6)).unwrap();
    for (prompt, cached) in prompts.iter().zip(&cached) {
        let mut sequence = prompt.clone();
        for token in cached {
            let batch = Batch::for_generation(&[&sequence], 4);
            let first = prompt.pictures().next().unwrap();
            let picture = all.clone().slice(first..first + 1);
            let scores: Vec<f32> = model.forward(&batch, Some(picture)).into_data().try_to_vec().unwrap();
            let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            assert_eq!(best as i32, *token);
            sequence.parts.push(Segment::Text(vec![*token]));
        }
    }
    let stopped = pollster::block_on(generate::generate(&model, &rows, Some(all), cached[0][1], 6)).unwrap();
    assert!(stopped[0].len() <= 1, "the end token ends a sequence and is not part of it");
}

#[test]
fn the_learning_rate_warms_up_and_ends_at_zero() {
    let config = OptimizerConfig { learning_rate: 1e-3, warmup_ratio: 0.1, ..OptimizerConfig::default() };
    assert_eq!(config.learning_rate_at(0, 100), 0.0);
    assert!((config.learning_rate_at(5, 100) - 5e-4).abs() < 1e-12);
    assert!((config.learning_rate_at(10, 100) - 1e-3).abs() < 1e-12);
    assert!((config.learning_rate_at(55, 100) - 5e-4).abs() < 1e-12);
    assert!(config.learning_rate_at(99, 100) < 1e-6);
}

#[test]
fn weights_survive_a_safetensors_file_exactly_and_missing_or_extra_ones_are_named() {
    let spec = small_spec();
    let weights = random_weights(&spec, 1);
    assert_eq!(weights.parameters(), spec.total_parameters());
    let bytes = weights.to_safetensors(Precision::F32).unwrap();
    assert_eq!(Weights::from_safetensors(&bytes).unwrap(), weights);
    assert!(Weights::from_safetensors(&bytes[..bytes.len() - 4]).is_err());
    let mut other = weights;
    let lost = other.tensors.remove("lm_head.weight").unwrap();
    other.tensors.insert("stranger".to_owned(), lost);
    let message = MobileVlm::load(&spec, other, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight is missing"), "{message}");
    assert!(message.contains("stranger is not part of the model"), "{message}");
}
