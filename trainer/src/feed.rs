//! What every step of a fine-tune is fed with: micro-batches, and the pictures in them, decoded ahead of time in threads of
//! their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result};
use burn::tensor::{Device, Tensor};
use hydra_shared::model_spec::VisionSpec;
use hydra_shared::vlm::batch::{Batch, Encoded};
use hydra_shared::vlm::{MobileVlm, patchify};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::PictureFiles;
use crate::error::{Kind, failure};
use crate::train_loop::TrainingConfig;

/// Steps that are prepared ahead of the one that is computed.
const AHEAD: usize = 2;
/// Batches whose examples are sorted by length together, where training groups by length.
const WINDOW: usize = 50;

/// Where the vision features of a set's pictures come from.
pub enum PictureSource {
    /// There are no pictures.
    None,
    /// They were computed before: the tower is frozen.
    Features {
        /// The features, `[pictures, patches, width]`.
        all: Tensor<3>,
        /// Pictures that could not be read and are to be skipped.
        damaged: BTreeSet<usize>,
    },
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
    /// A damaged picture that is not to be skipped.
    pub fn gather(&self, chosen: &[usize]) -> Result<(Vec<usize>, Pixels)> {
        let files = match self.pictures {
            PictureSource::Files(files) => files,
            PictureSource::None => return Ok((chosen.to_vec(), Pixels::default())),
            PictureSource::Features { damaged, .. } => {
                let whole = |index: &usize| !self.encoded[*index].pictures().any(|picture| damaged.contains(&picture));
                return Ok((chosen.iter().copied().filter(whole).collect(), Pixels::default()));
            }
        };
        let mut wanted: Vec<usize> = chosen.iter().flat_map(|index| self.encoded[*index].pictures()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let read = files.read(&wanted)?;
        let pixels: BTreeMap<usize, Vec<u8>> =
            wanted.into_iter().zip(read).filter_map(|(picture, rgb)| Some((picture, rgb?))).collect();
        let whole = |index: &usize| self.encoded[*index].pictures().all(|picture| pixels.contains_key(&picture));
        Ok((chosen.iter().copied().filter(whole).collect(), Pixels(pixels)))
    }

    /// Vision features of a batch's pictures.
    pub fn features(&self, model: &MobileVlm, batch: &Batch, pixels: &Pixels) -> Option<Tensor<3>> {
        match self.pictures {
            PictureSource::None => None,
            PictureSource::Features { all, .. } => select_pictures(Some(all), &batch.pictures),
            PictureSource::Files(_) => pixels.features(model, &batch.pictures),
        }
    }
}

/// Decoded pictures, RGB, by their number.
#[derive(Default)]
pub struct Pixels(BTreeMap<usize, Vec<u8>>);

impl Pixels {
    fn features(&self, model: &MobileVlm, pictures: &[usize]) -> Option<Tensor<3>> {
        let vision = model.spec().vision.as_ref()?;
        let rgb: Vec<&[u8]> = pictures.iter().filter_map(|picture| self.0.get(picture)).map(Vec::as_slice).collect();
        if rgb.is_empty() {
            return None;
        }
        tower_features(model, vision, &rgb, &model.device())
    }
}

/// Runs pictures through the vision tower.
pub fn tower_features(model: &MobileVlm, vision: &VisionSpec, rgb: &[&[u8]], device: &Device) -> Option<Tensor<3>> {
    model.vision_features(patchify(vision, rgb, device))
}

/// What one step computes.
pub struct StepInput {
    /// Its micro-batches.
    pub shards: Vec<Batch>,
    /// Their pictures, where those are decoded for the step.
    pub pixels: Pixels,
}

/// Calls `work` with a source of the inputs of the steps from `first` on, which threads prepare meanwhile.
///
/// # Errors
/// Whatever `work` returns, and threads that cannot be started.
pub fn with_steps<R>(
    examples: Examples<'_>,
    picture_tokens: usize,
    first: usize,
    config: &TrainingConfig,
    seed: u64,
    decoding_threads: usize,
    work: impl FnOnce(&mut dyn FnMut() -> Result<StepInput>) -> Result<R>,
) -> Result<R> {
    let mut order = DataOrder::new(&examples, picture_tokens, config, seed);
    let mut prepare = move |step: usize| -> Result<StepInput> {
        // Where all examples of a step are damaged, it takes those of the next one that has others.
        for later in step..=step + examples.encoded.len() / config.batch_size {
            let (chosen, pixels) = examples.gather(&order.step(later, config.batch_size))?;
            if !chosen.is_empty() {
                let shards = shards(examples.encoded, chosen, config.micro_batches, picture_tokens);
                return Ok(StepInput { shards, pixels });
            }
        }
        Err(failure(Kind::Data, format!("step {}: no example can be used; all are damaged", step + 1)))
    };
    let mut step = first;
    if !matches!(examples.pictures, PictureSource::Files(_)) {
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
            for step in first..config.steps {
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
    config: &TrainingConfig,
    seed: u64,
    steps: usize,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut order = DataOrder::new(&examples, picture_tokens, config, seed);
    (0..config.steps.min(steps)).flat_map(move |step| {
        let chosen = order.step(step, config.batch_size);
        let shards = shards(examples.encoded, chosen, config.micro_batches, picture_tokens);
        shards.into_iter().map(|batch| (batch.rows, batch.length, batch.answer_ids.len()))
    })
}

/// Micro-batches of similar lengths, so that little is padded.
pub fn shards(encoded: &[Encoded], mut chosen: Vec<usize>, count: usize, picture_tokens: usize) -> Vec<Batch> {
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

/// Features of the given pictures; none without any.
pub fn select_pictures(features: Option<&Tensor<3>>, pictures: &[usize]) -> Option<Tensor<3>> {
    let features = features.filter(|_| !pictures.is_empty())?;
    let rows: Vec<i32> = pictures.iter().map(|picture| *picture as i32).collect();
    let rows = Tensor::from_data(rows.as_slice(), &features.device());
    Some(features.clone().select(0, rows))
}

/// The order in which examples are seen: one shuffle an epoch, each from its own seed.
struct DataOrder {
    examples: usize,
    /// Whether it has a picture, and its length, for every example; none where examples are not grouped by length.
    lengths: Option<Vec<(bool, usize)>>,
    batch_size: usize,
    seed: u64,
    epoch: usize,
    permutation: Vec<usize>,
}

impl DataOrder {
    fn new(examples: &Examples<'_>, picture_tokens: usize, config: &TrainingConfig, seed: u64) -> Self {
        let length = |encoded: &Encoded| (encoded.pictures().next().is_some(), encoded.length(picture_tokens));
        let lengths = config.group_by_length.then(|| examples.encoded.iter().map(length).collect());
        let batch_size = config.batch_size;
        Self { examples: examples.encoded.len(), lengths, batch_size, seed, epoch: usize::MAX, permutation: Vec::new() }
    }

    /// Examples of a step; a batch may reach over the end of an epoch, unless examples are grouped by length.
    fn step(&mut self, step: usize, batch_size: usize) -> Vec<usize> {
        if self.examples == 0 {
            return Vec::new();
        }
        if self.lengths.is_some() {
            // An epoch begins with a batch of its own, or its batches would hold two lengths each.
            let batches = self.examples.div_ceil(batch_size);
            self.enter(step / batches);
            let first = step % batches * batch_size;
            return self.permutation[first..(first + batch_size).min(self.examples)].to_vec();
        }
        let positions = step * batch_size..(step + 1) * batch_size;
        positions
            .map(|position| {
                let (epoch, index) = (position / self.examples, position % self.examples);
                self.enter(epoch);
                self.permutation[index]
            })
            .collect()
    }

    fn enter(&mut self, epoch: usize) {
        if epoch == self.epoch {
            return;
        }
        self.epoch = epoch;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        self.permutation = (0..self.examples).collect();
        self.permutation.shuffle(&mut rng);
        let Some(lengths) = &self.lengths else { return };
        // As Transformers groups by length: windows of a random order are sorted, and their batches shuffled again.
        for window in self.permutation.chunks_mut(WINDOW * self.batch_size) {
            window.sort_by_key(|example| lengths[*example]);
        }
        let mut batches: Vec<&[usize]> = self.permutation.chunks(self.batch_size).collect();
        // The last batch may be short; in front of others it would shift them all.
        let full = self.permutation.len() / self.batch_size;
        batches[..full].shuffle(&mut rng);
        self.permutation = batches.concat();
    }
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::batch::Segment;

    use super::*;

    fn examples(lengths: &[usize]) -> Vec<Encoded> {
        lengths.iter().map(|length| Encoded { parts: vec![Segment::Answer(vec![5; *length])] }).collect()
    }

    fn order(encoded: &[Encoded], config: &TrainingConfig) -> DataOrder {
        DataOrder::new(&Examples { encoded, pictures: &PictureSource::None }, 4, config, 3)
    }

    #[test]
    fn an_epoch_sees_every_example_once_grouped_or_not() {
        let encoded = examples(&(1..=23).collect::<Vec<_>>());
        for group_by_length in [false, true] {
            let config = TrainingConfig { batch_size: 4, group_by_length, ..TrainingConfig::default() };
            let mut order = order(&encoded, &config);
            let mut seen: Vec<usize> = (0..6).flat_map(|step| order.step(step, 4)).take(23).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..23).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_grouped_by_length_hold_neighbours_in_length() {
        let lengths: Vec<usize> = (0..40).map(|index| 1 + index * 7 % 40).collect();
        let encoded = examples(&lengths);
        let config = TrainingConfig { batch_size: 4, group_by_length: true, ..TrainingConfig::default() };
        let mut order = order(&encoded, &config);
        for step in 0..10 {
            let mut batch: Vec<usize> = order.step(step, 4).into_iter().map(|index| lengths[index]).collect();
            batch.sort_unstable();
            assert_eq!(batch[3] - batch[0], 3, "{batch:?}");
        }
    }

    #[test]
    fn a_step_is_the_same_whether_earlier_ones_were_asked_for_or_not() {
        let encoded = examples(&[3; 10]);
        let config = TrainingConfig { batch_size: 4, ..TrainingConfig::default() };
        let mut through = order(&encoded, &config);
        let all: Vec<Vec<usize>> = (0..8).map(|step| through.step(step, 4)).collect();
        assert_eq!(order(&encoded, &config).step(7, 4), all[7]);
    }
}
