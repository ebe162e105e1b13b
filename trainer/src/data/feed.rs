//! What every step of a fine-tune is fed with: micro-batches, and the pictures in them, decoded ahead of time in threads of
//! their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result};
use burn::tensor::{Tensor, TensorData};
use hydra_shared::vlm::batch::{Batch, Encoded};
use hydra_shared::vlm::order::DataOrder;
use hydra_shared::vlm::{MobileVlm, patchify};
use rayon::prelude::*;

use super::features::StoredFeatures;
use super::pictures::PictureFiles;
use crate::error::{Kind, failure};

/// Steps that are prepared ahead of the one that is computed.
const AHEAD: usize = 2;

/// Where the vision features of a set's pictures come from.
pub enum PictureSource {
    /// There are no pictures.
    None,
    /// They were computed before: the tower is frozen.
    Features {
        /// The features, `[pictures, patches, width]`.
        all: Box<Tensor<3>>,
        /// Pictures that could not be read and are to be skipped.
        damaged: BTreeSet<usize>,
    },
    /// They were computed before and are read from the disk whenever they are used.
    Stored(StoredFeatures),
    /// There are too many to keep: they are decoded, and run through the tower, whenever they are used.
    Files(PictureFiles),
}

/// Tokenized examples and their pictures.
#[derive(Clone, Copy)]
pub struct Examples<'a> {
    /// The examples.
    pub encoded: &'a [Encoded],
    /// Their pictures.
    pub pictures: &'a PictureSource,
}

impl Examples<'_> {
    /// Reads the pictures of the given examples; examples with a damaged picture, where that is to be skipped, are left
    /// out.
    ///
    /// # Errors
    /// A damaged picture that is not to be skipped, features on the disk that cannot be read.
    pub fn gather(&self, chosen: &[usize]) -> Result<(Vec<usize>, Gathered)> {
        let without = |unread: &dyn Fn(usize) -> bool| {
            let whole = |index: &usize| !self.encoded[*index].pictures().any(unread);
            chosen.iter().copied().filter(whole).collect::<Vec<usize>>()
        };
        let wanted = |chosen: &[usize]| {
            let wanted: BTreeSet<usize> = chosen.iter().flat_map(|index| self.encoded[*index].pictures()).collect();
            Vec::from_iter(wanted)
        };
        Ok(match self.pictures {
            PictureSource::None => (chosen.to_vec(), Gathered::Nothing),
            PictureSource::Features { damaged, .. } => {
                (without(&|picture| damaged.contains(&picture)), Gathered::Nothing)
            }
            PictureSource::Stored(stored) => {
                let whole = without(&|picture| stored.is_damaged(picture));
                let wanted = wanted(&whole);
                let values = wanted.par_iter().map(|picture| stored.values(*picture)).collect::<Result<Vec<_>>>()?;
                (whole, Gathered::Features(wanted.into_iter().zip(values).collect()))
            }
            PictureSource::Files(files) => {
                let wanted = wanted(chosen);
                let read = files.read(&wanted)?;
                let rgb: BTreeMap<usize, Vec<u8>> =
                    wanted.into_iter().zip(read).filter_map(|(picture, rgb)| Some((picture, rgb?))).collect();
                (without(&|picture| !rgb.contains_key(&picture)), Gathered::Rgb(rgb))
            }
        })
    }

    /// Vision features of a batch's pictures.
    pub fn features(&self, model: &MobileVlm, batch: &Batch, gathered: &Gathered) -> Option<Tensor<3>> {
        let vision = model.spec().vision.as_ref().filter(|_| !batch.pictures.is_empty())?;
        match (self.pictures, gathered) {
            (PictureSource::Features { all, .. }, _) => select_pictures(Some(all.as_ref()), &batch.pictures),
            (_, Gathered::Nothing) => None,
            (_, Gathered::Features(features)) => {
                let values: Vec<f32> =
                    batch.pictures.iter().filter_map(|picture| features.get(picture)).flatten().copied().collect();
                let shape = [batch.pictures.len(), vision.patches(), vision.hidden];
                Some(Tensor::from_data(TensorData::new(values, shape), &model.device()))
            }
            (_, Gathered::Rgb(decoded)) => {
                let rgb: Vec<&[u8]> =
                    batch.pictures.iter().filter_map(|picture| decoded.get(picture)).map(Vec::as_slice).collect();
                model.vision_features(patchify(vision, &rgb, &model.device()))
            }
        }
    }
}

/// What was read of a step's pictures, by their number.
#[derive(Default)]
pub enum Gathered {
    /// Nothing: their features are in memory, or there are none.
    #[default]
    Nothing,
    /// Decoded pictures, RGB.
    Rgb(BTreeMap<usize, Vec<u8>>),
    /// Their features, `[patches, width]`, row-major.
    Features(BTreeMap<usize, Vec<f32>>),
}

/// Which examples make a step, and in how many parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Examples per optimizer step.
    pub batch_size: usize,
    /// Parts in which a step's examples are computed.
    pub micro_batches: usize,
    /// Whether a batch holds examples of similar lengths.
    pub group_by_length: bool,
    /// Seed of the order.
    pub seed: u64,
}

/// What one step computes.
pub struct StepInput {
    /// Its micro-batches.
    pub micro_batches: Vec<Batch>,
    /// What was read of their pictures.
    pub gathered: Gathered,
}

/// Calls `work` with a source of the inputs of `steps`, which threads prepare meanwhile.
///
/// # Errors
/// Whatever `work` returns, and threads that cannot be started.
pub fn with_steps<R>(
    examples: Examples<'_>,
    picture_tokens: usize,
    steps: Range<usize>,
    batching: Batching,
    decoding_threads: usize,
    work: impl FnOnce(&mut dyn FnMut() -> Result<StepInput>) -> Result<R>,
) -> Result<R> {
    let mut order = order(&examples, picture_tokens, batching);
    let mut prepare = move |step: usize| -> Result<StepInput> {
        // Where all examples of a step are damaged, it takes those of the next one that has others.
        for later in step..=step + examples.encoded.len() / batching.batch_size {
            let (chosen, gathered) = examples.gather(&order.step(later))?;
            if !chosen.is_empty() {
                let micro_batches = micro_batches(examples.encoded, chosen, batching.micro_batches, picture_tokens);
                return Ok(StepInput { micro_batches, gathered });
            }
        }
        Err(failure(Kind::Data, format!("step {}: no example can be used; all are damaged", step + 1)))
    };
    let mut step = steps.start;
    if !matches!(examples.pictures, PictureSource::Files(_) | PictureSource::Stored(_)) {
        return work(&mut || {
            step += 1;
            prepare(step - 1)
        });
    }
    // A pool of their own: decoding never waits for the trainer's kernels, nor they for it.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(decoding_threads.max(1)).build()?;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        scope.spawn(move || {
            for step in steps {
                let input = pool.install(|| prepare(step));
                // The trainer stopped, or will when it reads this error.
                if sender.send(input).is_err() {
                    return;
                }
            }
        });
        // Owned here, so that it is dropped, and the thread above ends, when the work ends early.
        let receiver: Receiver<Result<StepInput>> = receiver;
        work(&mut || receiver.recv().context("the threads that prepare steps ended")?)
    })
}

/// Rows, positions and answer tokens of every micro-batch of the first steps, without their pictures.
pub fn shapes(
    examples: Examples<'_>,
    picture_tokens: usize,
    batching: Batching,
    steps: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut order = order(&examples, picture_tokens, batching);
    (0..steps).flat_map(move |step| {
        let chosen = order.step(step);
        let micro_batches = micro_batches(examples.encoded, chosen, batching.micro_batches, picture_tokens);
        micro_batches.into_iter().map(|batch| (batch.rows, batch.length, batch.answer_ids.len()))
    })
}

/// Micro-batches of similar lengths, so that little is padded.
pub fn micro_batches(encoded: &[Encoded], mut chosen: Vec<usize>, count: usize, picture_tokens: usize) -> Vec<Batch> {
    chosen.sort_by_key(|index| encoded[*index].length(picture_tokens));
    let size = chosen.len().div_ceil(count.max(1)).max(1);
    chosen
        .chunks(size)
        .map(|part| {
            let rows: Vec<&Encoded> = part.iter().map(|index| &encoded[*index]).collect();
            Batch::for_training(&rows, picture_tokens)
        })
        .collect()
}

fn order(examples: &Examples<'_>, picture_tokens: usize, batching: Batching) -> DataOrder {
    let length = |encoded: &Encoded| (encoded.pictures().next().is_some(), encoded.length(picture_tokens));
    let lengths = batching.group_by_length.then(|| examples.encoded.iter().map(length).collect());
    DataOrder::new(examples.encoded.len(), lengths, batching.batch_size, batching.seed)
}

/// Features of the given pictures; none without any.
pub fn select_pictures(features: Option<&Tensor<3>>, pictures: &[usize]) -> Option<Tensor<3>> {
    let features = features.filter(|_| !pictures.is_empty())?;
    let rows: Vec<i32> = pictures.iter().map(|picture| *picture as i32).collect();
    let rows = Tensor::from_data(rows.as_slice(), &features.device());
    Some(features.clone().select(0, rows))
}
