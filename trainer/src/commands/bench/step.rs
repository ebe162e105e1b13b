//! `trainer bench step`: the training step, on random weights and made-up sequences.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::{RankSchedule, ScalePolicy};
use hydra_shared::vlm::batch::{Batch, Encoded, Segment};
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{
    Backward, Features, GradientSquares, OptimizerConfig, Recompute, StepConfig, loss_and_gradients, map_micro_batches,
    step_gradients,
};
use hydra_shared::vlm::{Compute, ForwardOptions, MobileVlm, Storage, Trainable, adapter_shapes, initial_adapters};
use serde::Serialize;

use super::measure::{Memory, median};
use crate::commands::common::Context;
use crate::device::{check_precision, choose};
use crate::error::{Kind, ResultExt, failure};
use crate::model::spec;
use crate::runs::process::cpu_seconds;
use crate::train::flops::{Sequences, Trained, flops};
use crate::train::step::{TrainingState, train_step};

/// Seed of weights, adapters and sequences.
const SEED: u64 = 1;

/// Take training steps with random weights and made-up sequences
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trainer bench step --model smollm2-135m --rank 16 --rows 4 --text 128 --answers 128 --json"
)]
pub struct Args {
    /// Shapes: a preset, a Hugging Face config.json, or the folder that it stands in
    #[arg(long, value_name = "PRESET|FILE", default_value = "smollm2-135m")]
    model: String,
    /// Decoder layers, where it is to have another number of them
    #[arg(long)]
    layers: Option<usize>,
    /// Rank of every adapter
    #[arg(long, default_value_t = 16)]
    rank: u32,
    /// Ranks from a schedule instead
    #[arg(long, value_name = "FILE", conflicts_with = "mixed")]
    schedule: Option<PathBuf>,
    /// Half the rank in the first half of the layers, the rank in the next quarter, twice the rank in the last: the paper's
    /// 64, 128, 256 for a rank of 128, and the same number of parameters
    #[arg(long)]
    mixed: bool,
    /// Sequences of an optimizer step
    #[arg(long, default_value_t = 4)]
    rows: usize,
    /// Parts in which they are computed
    #[arg(long, default_value_t = 1)]
    micro_batches: usize,
    /// Text tokens of a sequence, its answer included
    #[arg(long, default_value_t = 128)]
    text: usize,
    /// Answer tokens at its end
    #[arg(long, default_value_t = 128)]
    answers: usize,
    /// Pictures of a sequence; their vision features are given, the projector is trained
    #[arg(long, default_value_t = 0)]
    pictures: usize,
    /// What is kept for the backward pass: none (nothing is recomputed) or blocks
    #[arg(long, default_value = "none", value_parser = ["none", "blocks"])]
    recompute: String,
    /// How frozen weights are stored
    #[arg(long, default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    storage: String,
    /// Precision of the decoder's matrix products
    #[arg(long, default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    compute: String,
    /// Steps before the measurement
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Steps that are measured; their median is reported
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Leave out the phases, which take as many passes again
    #[arg(long)]
    no_phases: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    device: String,
    threads: usize,
    model: String,
    shapes: Shapes,
    trainable_parameters: u64,
    storage: Storage,
    compute: Compute,
    recompute: Recompute,
    /// Median over the measured steps.
    seconds_per_step: f64,
    all_seconds: Vec<f64>,
    /// Processor time of a step in all threads, where the system tells: other programs on the machine change it less.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds_per_step: Option<f64>,
    tokens_per_second: f64,
    /// Floating-point operations of matrix products that the step's mathematics needs; recomputation is not counted.
    flops_per_step: f64,
    flops_per_second: f64,
    /// Medians of separate passes, where they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<Phases>,
    memory: Memory,
    first_loss: f64,
    last_loss: f64,
}

#[derive(Debug, Serialize)]
struct Shapes {
    layers: usize,
    rows: usize,
    micro_batches: usize,
    /// Positions of a sequence, pictures included.
    length: usize,
    text: usize,
    picture_tokens: usize,
    /// Positions that predict an answer token, over all rows.
    answers: usize,
    ranks: Ranks,
}

/// Seconds of the parts of a step. The second and third are differences of measured medians.
#[derive(Debug, Serialize)]
struct Phases {
    /// Loss, with the gradient by the final states that comes with it; nothing kept for a backward pass.
    forward: f64,
    /// Keeping what the backward pass needs, and the backward pass, beyond `forward`.
    backward: f64,
    /// Norms, clipping and AdamW.
    update: f64,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let mut spec = spec::load(&args.model)?.runnable().or_fail(Kind::Data, || "--model")?;
    spec.decoder.layers = args.layers.unwrap_or(spec.decoder.layers);
    let needed = [args.rows, args.micro_batches, args.answers, args.steps, spec.decoder.layers];
    if needed.contains(&0) || args.rank == 0 {
        return Err(failure(
            Kind::Usage,
            "--layers, --rank, --rows, --micro-batches, --answers and --steps must each be at least 1",
        ));
    }
    if args.answers > args.text {
        return Err(failure(
            Kind::Usage,
            "--text counts a sequence's answer tokens too: it must be at least --answers",
        ));
    }
    match &mut spec.vision {
        // The tower is frozen and its features are given: one layer of it stands for all.
        Some(vision) if args.pictures > 0 => vision.layers = 1,
        _ if args.pictures > 0 => {
            return Err(failure(Kind::Usage, format!("--pictures: {} has no vision tower", spec.name)));
        }
        _ => (spec.vision, spec.projector) = (None, None),
    }
    let chosen = choose(context.device)?;
    context.output.note(format_args!("device: {} ({})", chosen.name, chosen.reason));
    let storage = match args.storage.as_str() {
        "f16" => Storage::F16,
        "bf16" => Storage::Bf16,
        _ => Storage::F32,
    };
    let compute = match args.compute.as_str() {
        "f16" => Compute::F16,
        "bf16" => Compute::Bf16,
        _ => Compute::F32,
    };
    check_precision(&chosen, compute, &context.output)?;
    let recompute = if args.recompute == "blocks" { Recompute::Blocks } else { Recompute::None };
    let ranks = ranks(args, &spec.layout()?)?;
    let config = StepConfig {
        trainable: if args.pictures > 0 { Trainable::ProjectorAndLora } else { Trainable::Lora },
        steps: args.warmup + args.steps,
        optimizer: OptimizerConfig { warmup_ratio: 0.0, ..OptimizerConfig::default() },
        recompute,
        compute,
        lora_dropout: 0.0,
        seed: SEED,
    };
    let adapters = adapter_shapes(&spec, &ranks, ScalePolicy::default());
    let model = MobileVlm::load_as(&spec, random_weights(&spec, SEED), &chosen.device, storage)?
        .with_adapters(&adapters, initial_adapters(&spec, &adapters, SEED))?;
    let micro_batches = micro_batches(args, &spec, model.tokens_per_picture());
    let pictures = pictures(args, &spec, &chosen.device);
    let features = |_: &MobileVlm, batch: &Batch| {
        let all = pictures.as_ref()?;
        // Every micro-batch has as many pictures, and it does not matter which.
        Some(all.clone().narrow(0, 0, batch.pictures.len()))
    };

    let mut state = TrainingState::new(model, config.trainable, &config.optimizer);
    let (mut losses, mut all_seconds) = (Vec::new(), Vec::new());
    let mut cpu_started = None;
    for step in 0..config.steps {
        if step == args.warmup {
            cpu_started = cpu_seconds();
        }
        let started = Instant::now();
        let (next, report) = train_step(state, &config, &micro_batches, &features, true)?;
        if step >= args.warmup {
            all_seconds.push(started.elapsed().as_secs_f64());
        }
        losses.extend(report.map(|report| report.loss));
        state = next;
    }
    let cpu_seconds_per_step =
        cpu_started.zip(cpu_seconds()).map(|(started, ended)| (ended - started) / args.steps as f64);
    let memory = Memory::with_device(&chosen.device);
    let seconds = median(&all_seconds);
    let phases = if args.no_phases {
        None
    } else {
        Some(phases(&state, &config, &micro_batches, &features, args.steps, seconds)?)
    };

    let length = micro_batches.first().map_or(0, |micro_batch| micro_batch.length);
    let answers: usize = micro_batches.iter().map(|micro_batch| micro_batch.answer_ids.len()).sum();
    let positions = micro_batches.iter().map(|micro_batch| micro_batch.rows * micro_batch.length).sum::<usize>() as f64;
    let sequences = Sequences { rows: args.rows as f64, length: length as f64, answers: answers as f64 };
    let flops = flops(&spec, Trained::ranks(&spec, &ranks), sequences);
    let document = Document {
        device: chosen.name,
        threads: rayon::current_num_threads(),
        model: spec.name.clone(),
        trainable_parameters: ranks.parameters()
            + if args.pictures > 0 { spec.projector_parameters().unwrap_or(0) } else { 0 },
        shapes: Shapes {
            layers: spec.decoder.layers,
            rows: args.rows,
            micro_batches: micro_batches.len(),
            length,
            text: args.text,
            picture_tokens: state.model.tokens_per_picture() * args.pictures,
            answers,
            ranks,
        },
        storage,
        compute: config.compute,
        recompute,
        seconds_per_step: seconds,
        cpu_seconds_per_step,
        tokens_per_second: positions / seconds.max(1e-9),
        flops_per_step: flops,
        flops_per_second: flops / seconds.max(1e-9),
        phases,
        memory,
        first_loss: losses.first().copied().unwrap_or(f64::NAN),
        last_loss: losses.last().copied().unwrap_or(f64::NAN),
        all_seconds,
    };
    context.output.result(&document, || {
        format!(
            "{}: {:.3} s per step, {:.0} tokens/s, {:.1} GFLOP/s on {}",
            document.model,
            seconds,
            document.tokens_per_second,
            document.flops_per_second / 1e9,
            document.device
        )
    })
}

/// The ranks that are asked for.
fn ranks(args: &Args, layout: &Arc<Layout>) -> Result<Ranks> {
    if let Some(path) = &args.schedule {
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(path).or_fail(Kind::Data, place)?;
        let schedule = RankSchedule::from_json(&text).or_fail(Kind::Data, place)?;
        if !schedule.layout().same_modules(layout) {
            return Err(failure(Kind::Data, format!("{}: this schedule is for another model", path.display())));
        }
        return Ok(schedule.ranks);
    }
    let layers = layout.blocks().len();
    let of_layer = |layer: usize| {
        if !args.mixed {
            args.rank
        } else if layer < layers / 2 {
            (args.rank / 2).max(1)
        } else if layer < layers / 2 + layers / 4 {
            args.rank
        } else {
            2 * args.rank
        }
    };
    Ok(Ranks::from_fn(layout, |module| of_layer(module.layer.unwrap_or(0))))
}

/// Sequences of equal lengths: text, pictures, text, answer.
fn micro_batches(args: &Args, spec: &ModelSpec, picture_tokens: usize) -> Vec<Batch> {
    let vocab = spec.decoder.vocab.max(1) as u64;
    let mut next = 0_u64;
    let mut tokens = |count: usize| -> Vec<i32> {
        let token = |_| {
            next += 1;
            (next.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % vocab
        };
        (0..count).map(token).map(|token| token as i32).collect()
    };
    let given = args.text - args.answers;
    let rows: Vec<Encoded> = (0..args.rows)
        .map(|row| {
            let mut parts = vec![Segment::Text(tokens(given / 2))];
            parts.extend((0..args.pictures).map(|picture| Segment::Picture(row * args.pictures + picture)));
            parts.push(Segment::Text(tokens(given - given / 2)));
            parts.push(Segment::Answer(tokens(args.answers)));
            Encoded { parts }
        })
        .collect();
    let size = args.rows.div_ceil(args.micro_batches);
    rows.chunks(size).map(|rows| Batch::for_training(&rows.iter().collect::<Vec<_>>(), picture_tokens)).collect()
}

/// Made-up vision features, as many as the largest micro-batch has pictures.
fn pictures(args: &Args, spec: &ModelSpec, device: &Device) -> Option<Tensor<3>> {
    let vision = spec.vision.as_ref()?;
    let count = args.rows.div_ceil(args.micro_batches) * args.pictures;
    let values: Vec<f32> = (0..count * vision.patches() * vision.hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    Some(Tensor::from_data(TensorData::new(values, [count, vision.patches(), vision.hidden]), device))
}

fn phases(
    state: &TrainingState,
    config: &StepConfig,
    micro_batches: &[Batch],
    features: &Features<'_>,
    runs: usize,
    step_seconds: f64,
) -> Result<Phases> {
    let frozen = state.model.frozen();
    let device = frozen.device();
    let answers = micro_batches.iter().map(|micro_batch| micro_batch.answer_ids.len()).sum();
    let forward = ForwardOptions { compute: config.compute, dropout: None };
    let loss = |micro_batch: &Batch| {
        // Of a model without tracked weights it computes the loss alone.
        let backward = Backward { forward, rounded: state.rounded(config), ..Backward::default() };
        loss_and_gradients(&frozen, micro_batch, features(&frozen, micro_batch), answers, &backward).0
    };
    let (mut forward_seconds, mut both_seconds) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let started = Instant::now();
        let losses = map_micro_batches(&device, micro_batches, |_, micro_batch| loss(micro_batch));
        Tensor::cat(losses, 0).sum().into_data();
        forward_seconds.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        let (losses, grads) = step_gradients(state, config, micro_batches, features);
        let loss = Tensor::cat(losses, 0).sum();
        pollster::block_on(GradientSquares::new(&state.model, &grads).read(loss))?;
        both_seconds.push(started.elapsed().as_secs_f64());
    }
    let (forward, both) = (median(&forward_seconds), median(&both_seconds));
    Ok(Phases { forward, backward: both - forward, update: (step_seconds - both).max(0.0) })
}
