//! One training step of the tiny MobileVLM on the CPU: LoRA of rank 8 on every module and the projector, eight conversations
//! about a picture each in two micro-batches, forward, backward, norms, clipping and AdamW. `cargo bench` runs it.

#![allow(clippy::unwrap_used, reason = "a measurement fails loudly")]

use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, Tensor, TensorData};
use divan::Bencher;
use hydra_shared::layout::Ranks;
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::batch::{Batch, Encoded, Segment};
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{OptimizerConfig, Recompute, StepConfig, TrainingState, train_step};
use hydra_shared::vlm::{Compute, MobileVlm, Trainable, adapter_shapes, initial_adapters};
use pollster::block_on;

const SEED: u64 = 1;
const RANK: u32 = 8;
/// Conversations of a micro-batch.
const ROWS: usize = 4;

fn main() {
    divan::main();
}

fn model(spec: &ModelSpec) -> MobileVlm {
    let ranks = Ranks::uniform(&spec.layout().unwrap(), RANK);
    let shapes = adapter_shapes(spec, &ranks, ScalePolicy::default());
    MobileVlm::load(spec, random_weights(spec, SEED), &Device::flex())
        .unwrap()
        .with_adapters(&shapes, initial_adapters(spec, &shapes, SEED))
        .unwrap()
}

/// A question of twelve tokens about a picture, and an answer of four.
fn micro_batch(first: i32, picture_tokens: usize) -> Batch {
    let rows: Vec<Encoded> = (0..ROWS)
        .map(|row| {
            let token = |index: i32| 3 + (first + 31 * row as i32 + 7 * index) % 500;
            let parts = vec![
                Segment::Picture(row),
                Segment::Text((0..12).map(token).collect()),
                Segment::Answer((12..16).map(token).collect()),
            ];
            Encoded { parts }
        })
        .collect();
    Batch::for_training(&rows.iter().collect::<Vec<_>>(), picture_tokens)
}

#[divan::bench(args = [Recompute::None, Recompute::Blocks], sample_count = 20)]
fn training_step(bencher: Bencher, recompute: Recompute) {
    let spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
    let model = model(&spec);
    let vision = spec.vision.as_ref().unwrap();
    let values: Vec<f32> = (0..ROWS * vision.patches() * vision.hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    let shape = [ROWS, vision.patches(), vision.hidden];
    let pictures = Tensor::<3>::from_data(TensorData::new(values, shape), &model.device());
    let features = |_: &MobileVlm, _: &Batch| Some(pictures.clone());
    let micro_batches = [0, 100].map(|first| micro_batch(first, model.tokens_per_picture()));
    let config = StepConfig {
        trainable: Trainable::ProjectorAndLora,
        steps: 1000,
        optimizer: OptimizerConfig::default(),
        recompute,
        compute: Compute::F32,
        lora_dropout: 0.0,
        seed: SEED,
    };
    let mut state = Some(TrainingState::<ModuleOptimizer>::new(model, config.trainable, &config.optimizer));
    bencher.bench_local(|| {
        let before = state.take().unwrap();
        let (after, measured) = block_on(train_step(before, &config, &micro_batches, &features)).unwrap();
        let report = block_on(measured.read()).unwrap();
        state = Some(after);
        report.loss
    });
}
