//! The order in which examples are seen.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Batches whose examples are sorted by length together, where training groups by length.
const WINDOW: usize = 50;

/// The order in which examples are seen: one shuffle an epoch, each from its own seed. What a step sees does not depend on
/// which steps were asked for before.
#[derive(Debug, Clone)]
pub struct DataOrder {
    examples: usize,
    lengths: Option<Vec<(bool, usize)>>,
    batch_size: usize,
    seed: u64,
    epoch: usize,
    permutation: Vec<usize>,
}

impl DataOrder {
    /// The order of so many examples. `lengths` says of each whether it has a picture and how long it is; where it is
    /// given, a batch holds examples of similar lengths.
    pub fn new(examples: usize, lengths: Option<Vec<(bool, usize)>>, batch_size: usize, seed: u64) -> Self {
        Self { examples, lengths, batch_size: batch_size.max(1), seed, epoch: usize::MAX, permutation: Vec::new() }
    }

    /// Examples of a step; a batch may reach over the end of an epoch, unless examples are grouped by length.
    pub fn step(&mut self, step: usize) -> Vec<usize> {
        let batch_size = self.batch_size;
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
    use super::*;

    fn order(lengths: &[usize], grouped: bool) -> DataOrder {
        let grouped = grouped.then(|| lengths.iter().map(|length| (false, *length)).collect());
        DataOrder::new(lengths.len(), grouped, 4, 3)
    }

    #[test]
    fn an_epoch_sees_every_example_once_grouped_or_not() {
        let lengths: Vec<usize> = (1..=23).collect();
        for grouped in [false, true] {
            let mut order = order(&lengths, grouped);
            let mut seen: Vec<usize> = (0..6).flat_map(|step| order.step(step)).take(23).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..23).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_grouped_by_length_hold_neighbours_in_length() {
        let lengths: Vec<usize> = (0..40).map(|index| 1 + index * 7 % 40).collect();
        let mut order = order(&lengths, true);
        for step in 0..10 {
            let mut batch: Vec<usize> = order.step(step).into_iter().map(|index| lengths[index]).collect();
            batch.sort_unstable();
            assert_eq!(batch[3] - batch[0], 3, "{batch:?}");
        }
    }

    #[test]
    fn a_step_is_the_same_whether_earlier_ones_were_asked_for_or_not() {
        let lengths = [3; 10];
        let mut through = order(&lengths, false);
        let all: Vec<Vec<usize>> = (0..8).map(|step| through.step(step)).collect();
        assert_eq!(order(&lengths, false).step(7), all[7]);
    }
}
