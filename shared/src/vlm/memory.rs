//! How much memory a fine-tune takes, before it starts.
//!
//! Counted are the tensors that the computation holds at its peak, in the backward pass: an estimate of what this program
//! uses, not of what another one would.

use serde::Serialize;

use super::frozen_loss::SCORES_AT_ONCE;
use super::spec::ModelSpec;
use super::training::Recompute;
use super::{Compute, Storage};
use crate::layout::Projection;

/// What determines a fine-tune's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// How frozen matrices are stored.
    pub storage: Storage,
    /// Precision of the products.
    pub compute: Compute,
    /// What is kept for the backward pass.
    pub recompute: Recompute,
    /// Parameters that are trained, adapters and projector together.
    pub trained: u64,
    /// Sum of all modules' ranks.
    pub ranks: u64,
    /// Whether the decoder is trained as a whole.
    pub decoder: bool,
    /// Whether the matrix that makes scores of states is trained, or an adapter of it.
    pub head: bool,
    /// Whether the adapters' inputs are thinned out in training.
    pub dropout: bool,
    /// Micro-batches that are computed at the same time.
    pub parallel: usize,
    /// Rows of a micro-batch.
    pub rows: usize,
    /// Positions of the longest sequence, pictures included.
    pub length: usize,
    /// Answer tokens of a micro-batch.
    pub answers: usize,
    /// Pictures whose features are kept.
    pub kept_pictures: usize,
    /// Pictures that are run through the vision tower at a time.
    pub tower_batch: usize,
}

/// Memory in bytes, by what holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// The base model, and its matrices once more where they are laid out for products in bfloat16.
    pub weights: u64,
    /// Trained parameters, their gradients and AdamW's moments.
    pub optimizer: u64,
    /// Vision features that are kept.
    pub features: u64,
    /// Intermediate results that the backward pass needs, and what it computes with them.
    pub activations: u64,
    /// Scores over the vocabulary at answer positions.
    pub logits: u64,
    /// The program itself.
    pub program: u64,
}

impl MemoryEstimate {
    /// All of it together.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.features + self.activations + self.logits + self.program
    }
}

/// Bytes of a number in single precision.
const F32: u64 = 4;
/// The program, its libraries and its threads.
const PROGRAM: u64 = 60 << 20;

/// The memory of a fine-tune.
pub fn estimate(spec: &ModelSpec, plan: &MemoryPlan) -> MemoryEstimate {
    let d = &spec.decoder;
    let count = |number: usize| number as u64;
    let (hidden, inner, vocab, layers) = (count(d.hidden), count(d.intermediate), count(d.vocab), count(d.layers));
    let (query, heads) = (count(d.heads * d.head_dim), count(d.heads));
    let stored = match plan.storage {
        Storage::F32 => F32,
        Storage::F16 | Storage::Bf16 => F32 / 2,
    };
    let projector = spec.projector_parameters().unwrap_or(0);
    let parameters = spec.decoder_parameters() + spec.vision_parameters().unwrap_or(0);
    // In bfloat16 a frozen decoder is laid out once, for products both ways: as much again as in single precision.
    let by_hand = !plan.decoder && !plan.dropout;
    let laid_out =
        if plan.compute == Compute::Bf16 && by_hand { layers * layer_parameters(spec) + vocab * hidden } else { 0 };
    let weights = parameters * stored + projector * F32 + laid_out * F32;

    // The value, both moments, the gradients of every micro-batch, their sum and its clipped copy.
    let optimizer = plan.trained * F32 * (5 + count(plan.parallel));

    let vision = spec.vision.as_ref();
    let per_picture = vision.map_or(0, |vision| count(vision.patches() * vision.hidden) * F32);
    let features = per_picture * count(plan.kept_pictures);

    let positions = count(plan.rows * plan.length);
    let scores = count(plan.rows) * heads * count(plan.length * plan.length);
    // Of a layer are kept: its two inputs and their norms; queries before and after scaling, keys, values and what attention
    // gives; the five inner vectors of the feed-forward; the scores before and after the softmax.
    let mut kept = positions * (4 * hidden + 5 * query + 5 * inner) + 2 * scores;
    kept += positions * 2 * plan.ranks / layers.max(1);
    if plan.dropout {
        // A mask and a thinned-out copy for every module.
        let inputs: u64 = Projection::ALL.into_iter().map(|projection| count(spec.shape(projection).d_in)).sum();
        kept += 2 * positions * inputs;
    }
    // Matrices that are multiplied in another precision than they are stored in are converted, and the backward pass needs
    // them again. In half precision it needs the rounded factors besides.
    let (converted, converted_head) = match (plan.storage, plan.compute) {
        (Storage::F32, Compute::F32) | (Storage::F16, Compute::F16) => (0, 0),
        (_, Compute::Bf16) if by_hand => (0, 0),
        // The head is laid out for both ways, one layer's largest matrix at a time.
        (Storage::F32, Compute::Bf16) => (0, if plan.head { 0 } else { vocab * hidden * F32 }),
        (Storage::F16 | Storage::Bf16, Compute::F32 | Compute::Bf16) => (layer_parameters(spec), vocab * hidden * F32),
        // A head that is trained stays in single precision.
        (_, Compute::F16) if plan.head => (layer_parameters(spec) / 2, 0),
        (Storage::F32 | Storage::Bf16, Compute::F16) => (layer_parameters(spec) / 2, vocab * hidden * F32 / 2),
    };
    if plan.compute == Compute::F16 {
        kept += (positions * (2 * hidden + 4 * query + inner) + scores) / 2;
    }
    // Gradients of the layer that is being differentiated.
    let working = positions * (2 * hidden + 3 * inner) + 2 * scores;
    let activations = match plan.recompute {
        Recompute::None => layers * (kept + converted) + working,
        Recompute::Blocks => layers * positions * hidden + kept + converted + working,
    };
    let activations = activations * F32 * count(plan.parallel);
    let scores = count(plan.answers) * vocab;
    let scores = if plan.head {
        // Scores, their softmax's logarithm, and the gradients of both.
        4 * scores
    } else {
        // Scores and their exponentials, of a part of the answers.
        2 * scores.min(vocab.max(SCORES_AT_ONCE as u64))
    };
    let logits = scores * F32 * count(plan.parallel) + converted_head;

    // The tower runs before training, when there are no activations yet.
    let tower = vision.map_or(0, |vision| {
        let positions = count(plan.tower_batch * (vision.patches() + 1));
        let scores = count(plan.tower_batch * vision.heads * (vision.patches() + 1).pow(2));
        F32 * (positions * count(8 * vision.hidden + 2 * vision.intermediate) + 3 * scores)
    });
    let activations = activations.max(tower.saturating_sub(logits));
    MemoryEstimate { weights, optimizer, features, activations, logits, program: PROGRAM }
}

/// Elements of one decoder layer's matrices.
fn layer_parameters(spec: &ModelSpec) -> u64 {
    let elements = |projection| {
        let shape = spec.shape(projection);
        (shape.d_in * shape.d_out) as u64
    };
    Projection::ALL.into_iter().map(elements).sum()
}
