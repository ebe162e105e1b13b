//! How many stages a profile supports: elbow and silhouette over their number.

use serde::{Deserialize, Serialize};

use super::{StageConfig, StageError, Stages, check_norms, cluster_layers};

/// How well one number of stages fits the norms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageQuality {
    /// Number of stages.
    pub count: usize,
    /// Σ (norm − stage mean)² over all layers: the elbow curve. In squared units of the norms.
    pub within_squares: f64,
    /// Mean silhouette over the layers, in [−1, 1], a layer alone in its stage counting 0; `None` for one stage, where
    /// it is undefined.
    pub silhouette: Option<f64>,
}

/// Quality of 1 to `max_count` K-means stages, as far as the norms have that many different values.
///
/// # Errors
/// As [`cluster_layers`].
pub fn stage_quality(norms: &[f64], max_count: usize, seed: u64) -> Result<Vec<StageQuality>, StageError> {
    check_norms(norms)?;
    if max_count == 0 {
        return Err(StageError::NoStages);
    }
    let mut qualities = Vec::new();
    for count in 1..=max_count {
        let Some(quality) = quality_of_stages(norms, count, seed)? else { break };
        qualities.push(quality);
    }
    Ok(qualities)
}

/// Quality of so many K-means stages; none where the norms have fewer different values.
///
/// # Errors
/// As [`cluster_layers`].
pub fn quality_of_stages(norms: &[f64], count: usize, seed: u64) -> Result<Option<StageQuality>, StageError> {
    check_norms(norms)?;
    if count > norms.len() {
        return Ok(None);
    }
    // On sorted norms the sums below do not depend on the order of the layers.
    let mut sorted = norms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let stages = cluster_layers(&sorted, &StageConfig { count, seed, ..StageConfig::default() })?;
    Ok((stages.len() == count).then(|| StageQuality {
        count,
        within_squares: within_squares(&sorted, &stages),
        silhouette: (count > 1).then(|| silhouette(&sorted, &stages)),
    }))
}

fn within_squares(norms: &[f64], stages: &Stages) -> f64 {
    let distances = stages.stages.iter().flat_map(|stage| members(norms, &stage.layers).map(|n| n - stage.norm));
    // Not powi, whose rounding may differ between platforms.
    distances.map(|distance| distance * distance).sum()
}

fn silhouette(norms: &[f64], stages: &Stages) -> f64 {
    let mut total = 0.0;
    for (own, stage) in stages.stages.iter().enumerate() {
        if stage.layers.len() == 1 {
            continue;
        }
        for norm in members(norms, &stage.layers) {
            let distances = |layers: &[usize]| members(norms, layers).map(|n| (n - norm).abs()).sum::<f64>();
            let inside = distances(&stage.layers) / (stage.layers.len() - 1) as f64;
            let nearest = stages
                .stages
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != own)
                .map(|(_, stage)| distances(&stage.layers) / stage.layers.len() as f64)
                .fold(f64::INFINITY, f64::min);
            let widest = inside.max(nearest);
            if widest > 0.0 {
                total += (nearest - inside) / widest;
            }
        }
    }
    total / norms.len().max(1) as f64
}

fn members<'a>(norms: &'a [f64], layers: &'a [usize]) -> impl Iterator<Item = f64> + 'a {
    layers.iter().filter_map(|&layer| norms.get(layer).copied())
}
