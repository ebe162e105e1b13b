//! Layers grouped into stages by their gradient norms: the paper's coarse step.
//!
//! A stage is a cluster of layers. Stages stand in ascending order of norm, so that the last one gets the highest rank.
//! By default they are K-means clusters of the norms alone and say nothing about depth (measured profiles need not grow
//! with depth); [`StageConfig::contiguous`] makes each a run of neighbouring layers instead.
//!
//! Equal norms always share a stage (unless stages are contiguous), so permuting the layers permutes the result.

mod partition;
mod quality;
mod trace;

use serde::{Deserialize, Serialize};

use crate::names::first_names;

pub use quality::{StageQuality, quality_of_stages, stage_quality};
pub use trace::{k_means_trace, nearest};

/// How layers are grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConfig {
    /// Stages wanted: N_s of the paper.
    pub count: usize,
    /// Whether each stage must be a run of neighbouring layers.
    pub contiguous: bool,
    /// Seed of K-means++.
    pub seed: u64,
    /// Runs of K-means from different starts; the one with the least spread inside its stages is kept.
    pub restarts: usize,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self { count: 3, contiguous: false, seed: 0, restarts: 32 }
    }
}

/// One cluster of layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its layers, in ascending order.
    pub layers: Vec<usize>,
    /// Mean norm of its layers (the centroid).
    pub norm: f64,
}

/// A partition of the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// The stages: lowest norm first, unless they were given by hand.
    pub stages: Vec<Stage>,
    /// How many stages were asked for; more than `stages` holds where the norms do not have as many different values.
    pub requested: usize,
}

/// Why layers could not be grouped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StageError {
    /// No norms at all.
    #[error("there are no layers to group into stages: the gradient profile is empty")]
    NoLayers,
    /// Zero stages asked for.
    #[error("0 stages were asked for; ask for at least 1")]
    NoStages,
    /// Zero restarts asked for.
    #[error("0 K-means restarts were asked for; ask for at least 1")]
    NoRestarts,
    /// A norm that is no norm.
    #[error(
        "layer {layer} has the gradient norm {norm}, which is not a finite number ≥ 0; remove the broken steps from the log"
    )]
    BadNorm {
        /// Layer, counted from 0.
        layer: usize,
        /// Its value.
        norm: f64,
    },
    /// K-means itself failed.
    #[error("K-means failed on the layer norms: {0}")]
    KMeans(String),
    /// A stage given by hand that holds nothing.
    #[error("stage {stage} is given without layers; remove it or name its layers")]
    EmptyStage {
        /// Position in what was given, counted from 0.
        stage: usize,
    },
    /// A layer that the model does not have.
    #[error("stage {stage} names layer {layer}, but the model's layers are 0 to {last}")]
    UnknownLayer {
        /// Position in what was given, counted from 0.
        stage: usize,
        /// The layer that was named.
        layer: usize,
        /// The highest layer there is.
        last: usize,
    },
    /// A layer in two stages.
    #[error("layer {layer} is given twice; put it into one stage only")]
    Twice {
        /// The layer.
        layer: usize,
    },
    /// Layers in no stage.
    #[error("the stages given leave out layer(s) {}; every layer belongs to one stage", first_names(.layers))]
    LeftOut {
        /// The layers.
        layers: Vec<usize>,
    },
}

impl Stages {
    /// Stages given by hand, in the order of the ranks that they shall get: the first one gets the lowest.
    ///
    /// # Errors
    /// Bad norms, an empty stage, a layer that does not exist, is named twice or is left out.
    pub fn by_hand(layers: &[Vec<usize>], norms: &[f64]) -> Result<Self, StageError> {
        check_norms(norms)?;
        let mut seen = vec![false; norms.len()];
        for (stage, members) in layers.iter().enumerate() {
            if members.is_empty() {
                return Err(StageError::EmptyStage { stage });
            }
            for &layer in members {
                let slot =
                    seen.get_mut(layer).ok_or(StageError::UnknownLayer { stage, layer, last: norms.len() - 1 })?;
                if std::mem::replace(slot, true) {
                    return Err(StageError::Twice { layer });
                }
            }
        }
        let left_out: Vec<usize> = (0..norms.len()).filter(|&layer| seen.get(layer) != Some(&true)).collect();
        if !left_out.is_empty() {
            return Err(StageError::LeftOut { layers: left_out });
        }
        let stages = layers.iter().map(|members| stage(members.clone(), norms)).collect();
        Ok(Self { stages, requested: layers.len() })
    }

    /// Number of stages.
    pub fn len(&self) -> usize {
        self.stages.len()
    }

    /// Whether there is no stage; never so for stages that this module made.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// The stage of a layer; `None` for a layer that is in none.
    pub fn stage_of(&self, layer: usize) -> Option<usize> {
        self.stages.iter().position(|stage| stage.layers.binary_search(&layer).is_ok())
    }

    /// The stage of each layer, by layer.
    pub fn by_layer(&self) -> Vec<usize> {
        let layers = self.stages.iter().map(|stage| stage.layers.len()).sum();
        let mut by_layer = vec![0; layers];
        for (index, stage) in self.stages.iter().enumerate() {
            for &layer in &stage.layers {
                if let Some(slot) = by_layer.get_mut(layer) {
                    *slot = index;
                }
            }
        }
        by_layer
    }

    /// Layers per stage.
    pub fn sizes(&self) -> Vec<usize> {
        self.stages.iter().map(|stage| stage.layers.len()).collect()
    }

    /// What to tell the user where fewer stages came back than were asked for.
    pub fn shortfall(&self) -> Option<String> {
        (self.len() < self.requested).then(|| {
            format!(
                "{} stages were asked for, but the layer norms have only {} different value(s): {} stage(s) were made",
                self.requested,
                self.len(),
                self.len()
            )
        })
    }
}

/// Groups layers by their norms.
///
/// Of two partitions that are equally good the one whose higher stages have more layers is taken.
///
/// Where the norms have fewer different values than stages are asked for, each value makes one stage and
/// [`Stages::requested`] tells the difference. Contiguous stages minimise the squares inside the stages exactly; with
/// fewer runs of equal neighbours than stages asked for, each run makes one stage.
///
/// # Errors
/// No layers, no stages asked for, a norm that is negative, infinite or NaN.
pub fn cluster_layers(norms: &[f64], config: &StageConfig) -> Result<Stages, StageError> {
    check_norms(norms)?;
    if config.count == 0 {
        return Err(StageError::NoStages);
    }
    if config.restarts == 0 {
        return Err(StageError::NoRestarts);
    }
    let groups = if config.contiguous {
        partition::least_squares_runs(norms, config.count)
    } else {
        let mut order: Vec<usize> = (0..norms.len()).collect();
        order.sort_by(|&a, &b| value(norms, a).total_cmp(&value(norms, b)).then(a.cmp(&b)));
        let sorted: Vec<f64> = order.iter().map(|&layer| value(norms, layer)).collect();
        let runs = partition::k_means_runs(&sorted, config)?;
        runs.into_iter().map(|run| run.into_iter().map(|i| order.get(i).copied().unwrap_or(i)).collect()).collect()
    };
    let mut stages: Vec<Stage> = groups.into_iter().map(|members| stage(members, norms)).collect();
    stages.sort_by(|a, b| a.norm.total_cmp(&b.norm).then(a.layers.cmp(&b.layers)));
    Ok(Stages { stages, requested: config.count })
}

fn check_norms(norms: &[f64]) -> Result<(), StageError> {
    if norms.is_empty() {
        return Err(StageError::NoLayers);
    }
    match norms.iter().position(|norm| !norm.is_finite() || *norm < 0.0) {
        Some(layer) => Err(StageError::BadNorm { layer, norm: value(norms, layer) }),
        None => Ok(()),
    }
}

fn value(norms: &[f64], layer: usize) -> f64 {
    norms.get(layer).copied().unwrap_or(0.0)
}

/// The mean is summed in ascending order, so that it does not depend on the order of the layers.
fn stage(mut layers: Vec<usize>, norms: &[f64]) -> Stage {
    let mut members: Vec<f64> = layers.iter().map(|&layer| value(norms, layer)).collect();
    members.sort_by(f64::total_cmp);
    // Halving before the sum keeps norms near the largest float from overflowing.
    let largest = members.last().copied().unwrap_or(0.0);
    let norm = if largest > 0.0 {
        let mean = members.iter().map(|norm| norm / largest).sum::<f64>() / members.len().max(1) as f64;
        mean * largest
    } else {
        0.0
    };
    layers.sort_unstable();
    Stage { layers, norm }
}

#[cfg(test)]
mod tests;
