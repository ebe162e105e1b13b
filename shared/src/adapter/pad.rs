//! Adapters in one rank, for programs that read no patterns.

use super::lora_names;
use crate::layout::Ranks;
use crate::schedule::{Budget, RankSchedule, ScalePolicy, ScheduleFileError};
use crate::weights::{Weight, Weights};

/// Why an adapter cannot be padded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PadError {
    /// A tensor that the schedule wants.
    #[error("{name} is missing")]
    Missing {
        /// Its name, without PEFT's prefix.
        name: String,
    },
    /// One rank in every module is no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleFileError),
}

/// Brings the adapter of a schedule into one rank, and returns the schedule that it then has.
///
/// A's rows and B's columns are padded with zeros to the largest rank, and what the modules' scales differ by is folded into
/// B. It computes the same in every program that reads LoRA, patterns or not, for the price of a larger file. Modules of rank
/// 0 stay without an adapter.
///
/// # Errors
/// A tensor that is missing.
pub fn in_one_rank(weights: &mut Weights, schedule: &RankSchedule) -> Result<RankSchedule, PadError> {
    let rank = schedule.ranks.largest();
    let scale = schedule.scale.scale(rank);
    for (module, own) in schedule.ranks.iter().filter(|(_, own)| *own > 0) {
        let [a, b] = lora_names(&module.name);
        pad_rows(tensor(weights, a)?, rank as usize);
        let b = tensor(weights, b)?;
        let factor = (schedule.scale.scale(own) / scale) as f32;
        b.values.iter_mut().for_each(|value| *value *= factor);
        pad_columns(b, rank as usize);
    }
    Ok(uniform(schedule, rank, scale)?)
}

/// The schedule that gives every adapted module the same rank and scale.
fn uniform(schedule: &RankSchedule, rank: u32, scale: f64) -> Result<RankSchedule, ScheduleFileError> {
    let own = |name: &str| schedule.ranks.get(name).unwrap_or(0);
    let ranks = Ranks::from_fn(schedule.layout(), |module| if own(&module.name) == 0 { 0 } else { rank });
    let budget = Budget { counting: schedule.budget.counting, allowed: 0 }.raised_to(&ranks);
    let scale = ScalePolicy::Constant { factor: scale };
    RankSchedule::new(ranks, schedule.base_rank, scale, budget, schedule.provenance.clone())
}

fn tensor(weights: &mut Weights, name: String) -> Result<&mut Weight, PadError> {
    weights.tensors.get_mut(&name).ok_or(PadError::Missing { name })
}

/// Rows of zeros below, up to `rows`.
fn pad_rows(weight: &mut Weight, rows: usize) {
    if let [height, width] = weight.shape[..] {
        let tall = rows.max(height);
        weight.values.resize(tall * width, 0.0);
        weight.shape = vec![tall, width];
    }
}

/// Columns of zeros to the right, up to `columns`.
fn pad_columns(weight: &mut Weight, columns: usize) {
    if let [height, width] = weight.shape[..] {
        let wide = columns.max(width);
        let mut values = Vec::with_capacity(height * wide);
        for row in weight.values.chunks(width.max(1)) {
            values.extend_from_slice(row);
            values.resize(values.len() + wide - width, 0.0);
        }
        *weight = Weight { shape: vec![height, wide], values };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layout::{Kind, Layout, Module};
    use crate::schedule::{Counting, Provenance};

    fn layout() -> Arc<Layout> {
        let module = |layer: usize| Module {
            name: format!("model.layers.{layer}.mlp.up_proj"),
            layer: Some(layer),
            kind: Kind::from("up".to_owned()),
            d_in: 3,
            d_out: 2,
        };
        Arc::new(Layout::new("small", (0..2).map(module).collect()).unwrap())
    }

    fn schedule(ranks: Vec<u32>, scale: ScalePolicy) -> RankSchedule {
        let ranks = Ranks::new(&layout(), ranks).unwrap();
        let budget = Budget { counting: Counting::Parameters, allowed: 0 }.raised_to(&ranks);
        RankSchedule::new(ranks, 1, scale, budget, Provenance::default()).unwrap()
    }

    /// Tensors that count up.
    fn weights(ranks: &Ranks) -> Weights {
        let mut weights = Weights::default();
        let counted = |shape: [usize; 2]| Weight {
            shape: shape.to_vec(),
            values: (1..=shape[0] * shape[1]).map(|value| value as f32).collect(),
        };
        for (module, rank) in ranks.iter() {
            let [a, b] = lora_names(&module.name);
            weights.tensors.insert(a, counted([rank as usize, module.d_in]));
            weights.tensors.insert(b, counted([module.d_out, rank as usize]));
        }
        weights
    }

    #[test]
    fn rows_and_columns_of_zeros_fill_up_to_the_largest_rank_and_b_takes_the_difference_in_scale() {
        let schedule = schedule(vec![1, 2], ScalePolicy::FixedAlpha { alpha: 4.0 });
        let mut padded = weights(&schedule.ranks);
        let uniform = in_one_rank(&mut padded, &schedule).unwrap();
        assert_eq!(uniform.ranks, Ranks::uniform(&layout(), 2));
        assert_eq!(uniform.scale, ScalePolicy::Constant { factor: 2.0 });
        assert_eq!(uniform.budget.used, 2 * 2 * 5);
        let [a, b] = lora_names("model.layers.0.mlp.up_proj").map(|name| padded.tensors[&name].clone());
        assert_eq!((a.shape, a.values), (vec![2, 3], vec![1.0, 2.0, 3.0, 0.0, 0.0, 0.0]));
        // The scale was 4 and is 2.
        assert_eq!((b.shape, b.values), (vec![2, 2], vec![2.0, 0.0, 4.0, 0.0]));
        let untouched = weights(&schedule.ranks);
        for name in lora_names("model.layers.1.mlp.up_proj") {
            assert_eq!(padded.tensors[&name], untouched.tensors[&name]);
        }
    }

    #[test]
    fn a_tensor_that_is_missing_is_named() {
        let schedule = schedule(vec![1, 2], ScalePolicy::default());
        let mut weights = weights(&schedule.ranks);
        weights.tensors.remove("model.layers.1.mlp.up_proj.lora_B.weight").unwrap();
        let error = in_one_rank(&mut weights, &schedule).unwrap_err();
        assert_eq!(error.to_string(), "model.layers.1.mlp.up_proj.lora_B.weight is missing");
    }
}
