//! Adapters in one rank, for programs that read no patterns.

use super::config::{LoraConfig, number};
use super::fit::with_targets;
use super::names::embedding_names;
use super::{Adapter, PatternError, lora_names};
use crate::layout::Ranks;
use crate::schedule::{Budget, RankSchedule, ScalePolicy, ScheduleFileError};
use crate::weights::{Weight, Weights};

/// An adapter in one rank and one scale.
#[derive(Debug, Clone, PartialEq)]
pub struct OneRank {
    /// The rank of every module.
    pub rank: u32,
    /// The factor of every module's update.
    pub scale: f64,
    /// The configuration, without patterns.
    pub config: LoraConfig,
    /// Every tensor, without PEFT's prefix.
    pub weights: Weights,
}

/// Brings an adapter into one rank.
///
/// A's rows and B's columns are padded with zeros to the largest rank, and what the modules' scales differ by is folded into
/// B. It computes the same in every program that reads LoRA, patterns or not, for the price of a larger file. Modules without
/// an adapter stay without one; tensors that are no part of a pair stay as they are.
///
/// # Errors
/// A pattern that takes too long.
pub fn in_one_rank(adapter: &Adapter) -> Result<OneRank, PatternError> {
    let patterns = adapter.config.patterns()?;
    let modules = adapter.adapted();
    let (mut rank, mut scale) = (0, 0.0);
    for module in &modules {
        let (own, factor) = (patterns.rank(module)?, patterns.scale(module)?);
        if own > rank || (own == rank && scale == 0.0) {
            (rank, scale) = (own, factor);
        }
    }
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let mut weights = adapter.weights.clone();
    weights.tensors.extend(adapter.outside.tensors.clone());
    for module in &modules {
        let factor = (patterns.scale(module)? / scale) as f32;
        for [a, b] in [lora_names(module), embedding_names(module)] {
            if let Some(a) = weights.tensors.get_mut(&a) {
                pad_rows(a, rank as usize);
            }
            if let Some(b) = weights.tensors.get_mut(&b) {
                b.values.iter_mut().for_each(|value| *value *= factor);
                pad_columns(b, rank as usize);
            }
        }
    }
    let mut config = with_targets(adapter.config.clone(), modules);
    (config.rank_pattern, config.alpha_pattern) = Default::default();
    (config.r, config.use_rslora) = (rank, false);
    config.lora_alpha = number(scale * f64::from(rank));
    Ok(OneRank { rank, scale, config, weights })
}

/// The schedule of an adapter after [`in_one_rank`].
///
/// # Errors
/// One rank in every module is no schedule.
pub fn schedule_in_one_rank(schedule: &RankSchedule, one: &OneRank) -> Result<RankSchedule, ScheduleFileError> {
    let own = |name: &str| schedule.ranks.get(name).unwrap_or(0);
    let ranks = Ranks::from_fn(schedule.layout(), |module| if own(&module.name) == 0 { 0 } else { one.rank });
    let budget = Budget { counting: schedule.budget.counting, allowed: 0 }.raised_to(&ranks);
    let scale = ScalePolicy::Constant { factor: one.scale };
    RankSchedule::new(ranks, schedule.base_rank, scale, budget, schedule.provenance.clone())
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
    use crate::adapter::PeftOptions;
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

    fn adapter(schedule: &RankSchedule, weights: Weights) -> Adapter {
        Adapter::new(LoraConfig::new(schedule, &PeftOptions::default()), weights, schedule.layout()).unwrap()
    }

    #[test]
    fn rows_and_columns_of_zeros_fill_up_to_the_largest_rank_and_b_takes_the_difference_in_scale() {
        let schedule = schedule(vec![1, 2], ScalePolicy::FixedAlpha { alpha: 4.0 });
        let untouched = weights(&schedule.ranks);
        let one = in_one_rank(&adapter(&schedule, untouched.clone())).unwrap();
        assert_eq!((one.rank, one.scale, one.config.r, one.config.alpha()), (2, 2.0, 2, 4.0));
        assert!(one.config.rank_pattern.is_empty() && one.config.alpha_pattern.is_empty());
        let uniform = schedule_in_one_rank(&schedule, &one).unwrap();
        assert_eq!(uniform.ranks, Ranks::uniform(&layout(), 2));
        assert_eq!(uniform.scale, ScalePolicy::Constant { factor: 2.0 });
        assert_eq!(uniform.budget.used, 2 * 2 * 5);
        let [a, b] = lora_names("model.layers.0.mlp.up_proj").map(|name| one.weights.tensors[&name].clone());
        assert_eq!((a.shape, a.values), (vec![2, 3], vec![1.0, 2.0, 3.0, 0.0, 0.0, 0.0]));
        // The scale was 4 and is 2.
        assert_eq!((b.shape, b.values), (vec![2, 2], vec![2.0, 0.0, 4.0, 0.0]));
        for name in lora_names("model.layers.1.mlp.up_proj") {
            assert_eq!(one.weights.tensors[&name], untouched.tensors[&name]);
        }
        Adapter::new(one.config, one.weights, &layout()).unwrap();
    }

    #[test]
    fn modules_outside_the_layout_are_padded_and_other_tensors_stay() {
        let schedule = schedule(vec![1, 2], ScalePolicy::Constant { factor: 2.0 });
        let mut all = weights(&schedule.ranks);
        let [a, b] = lora_names("lm_head");
        let whole = Weight { shape: vec![2], values: vec![7.0, 8.0] };
        all.tensors.insert(a.clone(), Weight { shape: vec![1, 2], values: vec![1.0, 2.0] });
        all.tensors.insert(b.clone(), Weight { shape: vec![2, 1], values: vec![3.0, 4.0] });
        all.tensors.insert("model.norm.weight".to_owned(), whole.clone());
        let mut config = LoraConfig::new(&schedule, &PeftOptions::default());
        let targets = config.target_names().iter().cloned().chain(["lm_head".to_owned()]).collect();
        config = with_targets(config, targets);
        config.rank_pattern.insert("lm_head".to_owned(), 1);
        config.alpha_pattern.insert("lm_head".to_owned(), 6.into());
        let one = in_one_rank(&Adapter::new(config, all, &layout()).unwrap()).unwrap();
        assert_eq!(one.weights.tensors[&a].values, [1.0, 2.0, 0.0, 0.0]);
        // The scale was 6 and is 2.
        assert_eq!(one.weights.tensors[&b].values, [9.0, 0.0, 12.0, 0.0]);
        assert_eq!(one.weights.tensors["model.norm.weight"], whole);
        assert!(one.config.target_names().contains(&"lm_head".to_owned()));
    }

    #[test]
    fn an_adapted_embedding_stays_one_and_is_padded_as_the_modules_are() {
        let schedule = schedule(vec![1, 2], ScalePolicy::Constant { factor: 2.0 });
        let mut all = weights(&schedule.ranks);
        let [a, b] = embedding_names("model.embed_tokens");
        all.tensors.insert(a.clone(), Weight { shape: vec![1, 3], values: vec![1.0, 2.0, 3.0] });
        all.tensors.insert(b.clone(), Weight { shape: vec![2, 1], values: vec![3.0, 4.0] });
        let mut config = LoraConfig::new(&schedule, &PeftOptions::default());
        let targets = config.target_names().iter().cloned().chain(["embed_tokens".to_owned()]).collect();
        config = with_targets(config, targets);
        config.rank_pattern.insert("embed_tokens".to_owned(), 1);
        config.alpha_pattern.insert("embed_tokens".to_owned(), 2.into());
        let one = in_one_rank(&Adapter::new(config, all, &layout()).unwrap()).unwrap();
        assert_eq!(one.weights.tensors[&a].shape, [2, 3]);
        assert_eq!(one.weights.tensors[&b].values, [3.0, 0.0, 4.0, 0.0]);
        assert!(one.config.target_names().contains(&"model.embed_tokens".to_owned()));
    }
}
