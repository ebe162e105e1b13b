//! How much memory a fine-tune takes.

use anyhow::Result;
use burn::tensor::Device;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::memory::{MemoryEstimate, MemoryPlan, estimate};

use super::workbench::Workbench;
use crate::data::features::feature_batch;
use crate::data::feed::{self, PictureSource};
use crate::error::{Kind, failure};
use crate::model::recipe::Recipe;

/// Steps whose batches are looked at to find the largest.
const STEPS_LOOKED_AT: usize = 1000;

/// Memory that fine-tuning under a recipe takes, beside the parts of the data that are loaded already.
///
/// # Errors
/// Data that cannot be read.
pub fn memory(bench: &Workbench, recipe: &Recipe) -> Result<MemoryEstimate> {
    let (base, chosen) = (&bench.base, &bench.chosen);
    let spec = &base.spec;
    let training = &bench.training()?;
    let pictures = |source: &PictureSource| match source {
        PictureSource::Features { all, .. } => all.dims()[0],
        PictureSource::None | PictureSource::Files(_) | PictureSource::Stored(_) => 0,
    };
    let examples = bench.part(Split::Train)?.conversations();
    let ranks: u64 = recipe.adapters(spec).iter().map(|shape| u64::from(shape.rank)).sum();
    let mut plan = MemoryPlan {
        storage: base.storage,
        compute: training.compute,
        recompute: training.recompute,
        trained: recipe.trainable_parameters(spec) + spec.projector_parameters().unwrap_or(0),
        ranks,
        decoder: *recipe == Recipe::Full,
        head: recipe.trains_head(spec),
        dropout: training.lora_dropout > 0.0,
        // On a CPU the micro-batches of a step are computed side by side.
        parallel: if chosen.device == Device::flex() { training.micro_batches.clamp(1, chosen.threads) } else { 1 },
        rows: 0,
        length: 0,
        answers: 0,
        kept_pictures: bench.loaded().map(|part| pictures(part.conversations().pictures)).sum(),
        tower_batch: spec.vision.as_ref().map_or(0, |vision| feature_batch(vision.patches())),
    };
    let tokens = base.model.tokens_per_picture();
    let batching = training.batching(bench.config.seed);
    let shapes = feed::shapes(examples, tokens, batching, training.steps.min(STEPS_LOOKED_AT));
    let all = shapes.map(|(rows, length, answers)| {
        (plan.rows, plan.length, plan.answers) = (rows, length, answers);
        estimate(spec, &plan)
    });
    all.max_by_key(MemoryEstimate::total)
        .ok_or_else(|| failure(Kind::Usage, "there is nothing to train on, so there is no memory to estimate"))
}
