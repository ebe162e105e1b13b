//! How version 1 of studies and links described a model.

use serde::Deserialize;

use super::{Layout, LayoutError, ModuleShape, Projection};

/// A LLaMA-like decoder as version 1 of studies and links has it; what does not decide a rank is passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelOfVersion1 {
    name: String,
    layers_path: String,
    decoder: DecoderOfVersion1,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct DecoderOfVersion1 {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl TryFrom<ModelOfVersion1> for Layout {
    type Error = LayoutError;

    fn try_from(model: ModelOfVersion1) -> Result<Self, LayoutError> {
        let DecoderOfVersion1 { hidden, intermediate, layers, heads, kv_heads, head_dim } = model.decoder;
        let (queries, keys) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
        Layout::decoder(model.name, &model.layers_path, layers, |projection| {
            let (d_in, d_out) = match projection {
                Projection::Q => (hidden, queries),
                Projection::K | Projection::V => (hidden, keys),
                Projection::O => (queries, hidden),
                Projection::Gate | Projection::Up => (hidden, intermediate),
                Projection::Down => (intermediate, hidden),
            };
            ModuleShape { d_in, d_out }
        })
    }
}
