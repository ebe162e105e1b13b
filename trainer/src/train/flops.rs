//! Floating-point operations of training, as its mathematics needs them; recomputation is not counted.

use hydra_shared::layout::{Projection, Ranks};
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::spec::{End, ModelSpec};

/// What is trained of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// Adapters of so many parameters; the rest is frozen, so that its own gradients are not computed.
    Adapters {
        /// Parameters of the layers' adapters.
        layers: u64,
        /// And of the head's, which computes scores of answers alone. An embedding's is looked up.
        head: u64,
    },
    /// All of it.
    Decoder,
}

impl Trained {
    /// Adapters of these ranks.
    pub fn ranks(spec: &ModelSpec, ranks: &Ranks) -> Self {
        let of = |name: String| {
            let cost = ranks.layout().find(&name).map_or(0, |(_, module)| module.rank_unit_cost());
            u64::from(ranks.get(&name).unwrap_or(0)) * cost
        };
        let [embedding, head] = End::ALL.map(|end| of(spec.end_name(end)));
        Self::Adapters { layers: ranks.parameters() - embedding - head, head }
    }
}

/// Sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequences {
    /// How many.
    pub rows: f64,
    /// Positions of each.
    pub length: f64,
    /// Answer tokens of all of them: for the others no scores are computed.
    pub answers: f64,
}

/// Operations of a pass forward and backward: two for each weight and position forward, two for the gradients of what it reads,
/// and two more where it is trained itself.
pub fn flops(spec: &ModelSpec, trained: Trained, sequences: Sequences) -> f64 {
    let d = &spec.decoder;
    let Sequences { rows, length, answers } = sequences;
    let positions = rows * length;
    let size = |projection| {
        let shape = spec.shape(projection);
        (shape.d_in * shape.d_out) as f64
    };
    let layer: f64 = Projection::ALL.into_iter().map(size).sum();
    let (of_weight, adapters) = match trained {
        Trained::Adapters { layers, head } => (4.0, positions * layers as f64 + answers * head as f64),
        Trained::Decoder => (6.0, 0.0),
    };
    let decoder = of_weight * positions * layer * d.layers as f64 + of_weight * answers * (d.hidden * d.vocab) as f64;
    let attention = 12.0 * positions * length * (d.heads * d.head_dim * d.layers) as f64;
    decoder + 6.0 * adapters + attention
}

/// Operations of a fine-tune that takes so many sequences, each of the mean length of these, whose pictures take so many
/// tokens.
pub fn training_flops(
    spec: &ModelSpec,
    tokens_per_picture: usize,
    trained: Trained,
    conversations: &[Encoded],
    sequences: usize,
) -> f64 {
    let count = conversations.len().max(1) as f64;
    let length = conversations.iter().map(|encoded| encoded.length(tokens_per_picture)).sum::<usize>() as f64 / count;
    let answers = conversations.iter().map(Encoded::answer_tokens).sum::<usize>() as f64 / count;
    let rows = sequences as f64;
    flops(spec, trained, Sequences { rows, length, answers: rows * answers })
}
