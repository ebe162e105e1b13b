//! The LLaMA decoder (Touvron et al., arXiv 2302.13971): RMSNorm, rotate-half RoPE, SwiGLU, grouped-query attention.

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};

use super::compute::{Compute, widened};
use super::layers::{RmsNorm, attend, merge_heads, split_heads};
use super::lora::{AdapterShape, ForwardOptions, LoraAdapter, LoraLinear};
use super::spec::{DecoderSpec, ModelSpec};
use super::weights::Loader;
use crate::layout::{ModuleId, Projection};

/// Added to the score of a position that must not be seen. Finite, so that no row of scores can become NaN.
const MASKED: f32 = -1e9;

/// Embedding, decoder layers, final norm and head.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: Param<Tensor<2>>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    /// `[hidden, vocab]`; none where the embedding serves as head.
    lm_head: Option<Param<Tensor<2>>>,
    /// A `[vocab, rank]`, B `[rank, hidden]`.
    embed_lora: Option<LoraAdapter>,
    /// A `[hidden, rank]`, B `[rank, vocab]`.
    head_lora: Option<LoraAdapter>,
    #[module(skip)]
    spec: DecoderSpec,
}

/// One layer; its fields are the checkpoint's names.
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    pub(super) input_layernorm: RmsNorm,
    pub(super) q_proj: LoraLinear,
    pub(super) k_proj: LoraLinear,
    pub(super) v_proj: LoraLinear,
    pub(super) o_proj: LoraLinear,
    pub(super) post_attention_layernorm: RmsNorm,
    pub(super) gate_proj: LoraLinear,
    pub(super) up_proj: LoraLinear,
    pub(super) down_proj: LoraLinear,
}

impl Decoder {
    pub(super) fn load(loader: &mut Loader<'_>, model: &ModelSpec) -> Self {
        let spec = &model.decoder;
        let root = model.layers_path.strip_suffix(".layers").unwrap_or(&model.layers_path);
        let layers = (0..spec.layers)
            .map(|layer| {
                let name = format!("{}.{layer}", model.layers_path);
                let linear = |loader: &mut Loader<'_>, projection: Projection| {
                    let shape = model.shape(projection);
                    let bias = spec.has_bias(projection);
                    LoraLinear::load(loader, &format!("{name}.{}", projection.path()), shape.d_in, shape.d_out, bias)
                };
                DecoderLayer {
                    input_layernorm: RmsNorm::load(
                        loader,
                        &format!("{name}.input_layernorm"),
                        spec.hidden,
                        spec.rms_norm_eps,
                    ),
                    q_proj: linear(loader, Projection::Q),
                    k_proj: linear(loader, Projection::K),
                    v_proj: linear(loader, Projection::V),
                    o_proj: linear(loader, Projection::O),
                    post_attention_layernorm: RmsNorm::load(
                        loader,
                        &format!("{name}.post_attention_layernorm"),
                        spec.hidden,
                        spec.rms_norm_eps,
                    ),
                    gate_proj: linear(loader, Projection::Gate),
                    up_proj: linear(loader, Projection::Up),
                    down_proj: linear(loader, Projection::Down),
                }
            })
            .collect();
        Self {
            embed_tokens: loader.matrix(&format!("{root}.embed_tokens.weight"), spec.vocab, spec.hidden),
            layers,
            norm: RmsNorm::load(loader, &format!("{root}.norm"), spec.hidden, spec.rms_norm_eps),
            lm_head: (!spec.tied_embeddings).then(|| loader.linear("lm_head.weight", spec.hidden, spec.vocab)),
            embed_lora: None,
            head_lora: None,
            spec: spec.clone(),
        }
    }

    /// Puts the adapters, in the order of a model's [`AdapterShape`]s, onto the layers' projections and the ends; replaces those
    /// that were there.
    pub(super) fn set_adapters(&mut self, adapters: Vec<Option<LoraAdapter>>) {
        let mut adapters = adapters.into_iter();
        for layer in &mut self.layers {
            for linear in layer.projections_mut() {
                linear.lora = adapters.next().flatten();
            }
        }
        self.embed_lora = adapters.next().flatten();
        self.head_lora = adapters.next().flatten();
    }

    /// Folds every adapter into its weight.
    #[must_use]
    pub(super) fn merged(mut self) -> Self {
        for layer in &mut self.layers {
            for linear in layer.projections_mut() {
                *linear = linear.clone().merged();
            }
        }
        if let Some(update) = self.embed_lora.take().map(|lora| lora.update()) {
            self.embed_tokens = self.embed_tokens.map(|rows| widened(rows.inner()) + update);
        }
        if let Some(update) = self.head_lora.take().map(|lora| lora.update()) {
            self.lm_head = self.lm_head.map(|head| head.map(|matrix| widened(matrix.inner()) + update));
        }
        self
    }

    /// Cuts every adapter to a smaller rank, in the order of a model's [`AdapterShape`]s.
    pub(super) fn truncate_adapters(&mut self, shapes: &[AdapterShape]) {
        let mut shapes = shapes.iter();
        for layer in &mut self.layers {
            for (linear, shape) in layer.projections_mut().into_iter().zip(&mut shapes) {
                *linear = linear.clone().truncated(*shape);
            }
        }
        for (end, shape) in [&mut self.embed_lora, &mut self.head_lora].into_iter().zip(shapes) {
            *end = end.take().map(|lora| lora.truncated(*shape));
        }
    }

    /// Rows of the embedding: `[tokens]` ids → `[tokens, hidden]`.
    pub fn embed(&self, ids: Tensor<1, burn::tensor::Int>) -> Tensor<2> {
        let rows = widened(self.embed_tokens.val().select(0, ids.clone()));
        match &self.embed_lora {
            Some(LoraAdapter { a, b, scale }) => rows + a.val().select(0, ids).mul_scalar(*scale).matmul(b.val()),
            None => rows,
        }
    }

    /// Runs the layers and the final norm over `batch` right-padded sequences of `length` positions.
    ///
    /// Attention is causal, so that a row's padding, which stands behind its last token, is seen by no token.
    ///
    /// # Shapes
    /// `[batch·length, hidden]` → `[batch·length, hidden]`
    pub fn forward(&self, mut x: Tensor<2>, batch: usize, length: usize, options: ForwardOptions<'_>) -> Tensor<2> {
        let pass = self.pass(batch, length, options, &x.device().inner());
        for layer in 0..self.layers.len() {
            x = self.block(layer, x, &pass);
        }
        self.norm.forward(x)
    }

    /// What all layers of one pass over right-padded sequences share.
    pub(super) fn pass<'a>(
        &self,
        batch: usize,
        length: usize,
        options: ForwardOptions<'a>,
        device: &Device,
    ) -> Pass<'a> {
        Pass {
            batch,
            length,
            rope: Rope::new(&self.spec, 0, length, device),
            mask: causal_mask(&[], 0, length, device),
            options,
        }
    }

    /// Runs one layer.
    pub(super) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        self.layers[layer].forward(x, layer, &self.spec, pass, &mut |k, v| (k, v))
    }

    /// The final norm.
    pub(super) fn final_norm(&self, x: Tensor<2>) -> Tensor<2> {
        self.norm.forward(x)
    }

    /// Runs `length` more positions of left-padded sequences after those that `cache` holds, and adds them to it.
    /// `padding` is the number of positions of padding in front of each sequence.
    ///
    /// # Shapes
    /// `[batch·length, hidden]` → `[batch·length, hidden]`
    pub fn extend(&self, mut x: Tensor<2>, padding: &[usize], length: usize, cache: &mut KvCache) -> Tensor<2> {
        let device = x.device().inner();
        let past = cache.length();
        let pass = Pass {
            batch: padding.len(),
            length,
            // Padding shifts a row's positions, and rotary embeddings see differences of positions alone.
            rope: Rope::new(&self.spec, past, length, &device),
            mask: causal_mask(padding, past, length, &device),
            options: ForwardOptions::default(),
        };
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, index, &self.spec, &pass, &mut |k, v| cache.join(index, k, v));
        }
        self.norm.forward(x)
    }

    /// Scores of every token of the vocabulary: `[rows, hidden]` → `[rows, vocab]`.
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        let low = self
            .head_lora
            .as_ref()
            .map(|LoraAdapter { a, b, scale }| x.clone().matmul(a.val()).mul_scalar(*scale).matmul(b.val()));
        let scores = match &self.lm_head {
            Some(head) => x.matmul(widened(head.val())),
            None => x.matmul(widened(self.embed_tokens.val()).swap_dims(0, 1)),
        };
        match low {
            Some(low) => scores + low,
            None => scores,
        }
    }
}

impl Decoder {
    /// What it looks like.
    pub(super) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Whether the matrix that makes scores of states is trained, or an adapter of it.
    pub(super) fn head_is_trained(&self) -> bool {
        let matrix = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        matrix.val().is_tracked() || self.head_lora.as_ref().is_some_and(LoraAdapter::is_trained)
    }

    /// The matrix that makes scores of states, `[hidden, vocab]`, as a factor of a product; nothing of it is tracked.
    pub(super) fn head(&self, compute: Compute) -> Tensor<2> {
        match (&self.lm_head, &self.head_lora) {
            (Some(head), None) => compute.factor(head.val().inner()),
            (Some(head), Some(lora)) => compute.factor(widened(head.val().inner()) + lora.update()),
            (None, _) => compute.factor(self.embed_tokens.val().inner()).swap_dims(0, 1),
        }
    }

    /// Columns of [`Self::head`], as rows: `[tokens]` → `[tokens, hidden]`.
    pub(super) fn head_columns(&self, ids: Tensor<1, burn::tensor::Int>) -> Tensor<2> {
        let Some(head) = &self.lm_head else { return widened(self.embed_tokens.val().inner().select(0, ids)) };
        let columns = widened(head.val().inner().select(1, ids.clone()));
        let columns = match &self.head_lora {
            Some(LoraAdapter { a, b, scale }) => {
                columns + a.val().inner().matmul(b.val().inner().select(1, ids)).mul_scalar(*scale)
            }
            None => columns,
        };
        columns.swap_dims(0, 1)
    }
}

/// What the passes by hand read of it.
#[cfg(not(target_family = "wasm"))]
impl Decoder {
    /// The head's matrix as it is stored, or with its adapter, and whether its rows are tokens.
    pub(super) fn stored_head(&self) -> (Tensor<2>, bool) {
        match (&self.lm_head, &self.head_lora) {
            (Some(head), None) => (head.val().inner(), false),
            (Some(_), Some(_)) => (self.head(Compute::F32), false),
            (None, _) => (self.embed_tokens.val().inner(), true),
        }
    }

    /// One of its layers.
    pub(super) fn layer(&self, layer: usize) -> &DecoderLayer {
        &self.layers[layer]
    }

    /// Whether none of its own weights is trained, adapters aside.
    pub(super) fn is_frozen(&self) -> bool {
        let trains = |linear: &LoraLinear| {
            linear.weight.val().is_tracked() || linear.bias.as_ref().is_some_and(|bias| bias.val().is_tracked())
        };
        let norms = |layer: &DecoderLayer| {
            layer.input_layernorm.weight.val().is_tracked() || layer.post_attention_layernorm.weight.val().is_tracked()
        };
        let layer = |layer: &DecoderLayer| norms(layer) || layer.projections().into_iter().any(trains);
        !self.lm_head.as_ref().is_some_and(|head| head.val().is_tracked())
            && !self.embed_tokens.val().is_tracked()
            && !self.norm.weight.val().is_tracked()
            && !self.layers.iter().any(layer)
    }

    /// Whether an adapter of a layer is trained.
    pub(super) fn has_trained_adapters(&self) -> bool {
        self.layers.iter().flat_map(DecoderLayer::projections).any(|linear| linear.trained_adapter().is_some())
    }

    /// The head's adapter, if that is trained.
    pub(super) fn trained_head_adapter(&self) -> Option<&LoraAdapter> {
        self.head_lora.as_ref().filter(|lora| lora.is_trained())
    }
}

#[cfg(not(target_family = "wasm"))]
impl DecoderLayer {
    fn projections(&self) -> [&LoraLinear; 7] {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj, &self.gate_proj, &self.up_proj, &self.down_proj]
    }
}

impl DecoderLayer {
    fn projections_mut(&mut self) -> [&mut LoraLinear; 7] {
        [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ]
    }

    fn forward(
        &self,
        x: Tensor<2>,
        layer: usize,
        spec: &DecoderSpec,
        pass: &Pass<'_>,
        joined: &mut dyn FnMut(Tensor<4>, Tensor<4>) -> (Tensor<4>, Tensor<4>),
    ) -> Tensor<2> {
        let Pass { batch, length, rope, mask, options } = pass;
        let (batch, length, options) = (*batch, *length, *options);
        let module = |projection: Projection| ModuleId { layer, projection }.index();
        let project =
            |linear: &LoraLinear, projection: Projection, x: Tensor<2>| linear.forward(x, options, module(projection));
        let h = self.input_layernorm.forward(x.clone());
        let [q, k, v] = LoraLinear::forward_together(
            [&self.q_proj, &self.k_proj, &self.v_proj],
            &h,
            options,
            [Projection::Q, Projection::K, Projection::V].map(module),
        );
        let q = rope.rotate(split_heads(q, batch, length, spec.heads), options.compute);
        let k = rope.rotate(split_heads(k, batch, length, spec.kv_heads), options.compute);
        let v = split_heads(v, batch, length, spec.kv_heads);
        let (k, v) = joined(k, v);
        let groups = spec.heads / spec.kv_heads;
        let (k, v) = (repeat_heads(k, groups), repeat_heads(v, groups));
        let attended = attend(q, k, v, Some(mask.clone()), options.compute);
        let x = x + project(&self.o_proj, Projection::O, merge_heads(attended));
        let h = self.post_attention_layernorm.forward(x.clone());
        let [gate, up] = LoraLinear::forward_together(
            [&self.gate_proj, &self.up_proj],
            &h,
            options,
            [Projection::Gate, Projection::Up].map(module),
        );
        let gated = silu(gate) * up;
        x + project(&self.down_proj, Projection::Down, gated)
    }
}

/// What all layers of one pass share.
pub(super) struct Pass<'a> {
    batch: usize,
    length: usize,
    rope: Rope,
    mask: Tensor<4>,
    options: ForwardOptions<'a>,
}

/// Rotary position embedding in the rotate-half layout of Hugging Face checkpoints (Su et al., arXiv 2104.09864).
struct Rope {
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// `[head_dim, head_dim]`: multiplying a row by it turns (x₁, x₂) into (−x₂, x₁). A product costs less than slicing
    /// and joining, above all in the backward pass.
    half_turn: Tensor<2>,
}

impl Rope {
    /// For positions `start` to `start + length`.
    fn new(spec: &DecoderSpec, start: usize, length: usize, device: &Device) -> Self {
        let half = spec.head_dim / 2;
        let angles: Vec<f64> = (start..start + length)
            .flat_map(|position| {
                (0..spec.head_dim).map(move |i| {
                    let frequency = spec.rope_theta.powf(-2.0 * (i % half) as f64 / spec.head_dim as f64);
                    position as f64 * frequency
                })
            })
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, length, spec.head_dim]), device)
        };
        let mut turn = vec![0.0_f32; spec.head_dim * spec.head_dim];
        for i in 0..half {
            turn[(i + half) * spec.head_dim + i] = -1.0;
            turn[i * spec.head_dim + i + half] = 1.0;
        }
        let half_turn = Tensor::from_data(TensorData::new(turn, [spec.head_dim, spec.head_dim]), device);
        Self { cos: table(f64::cos), sin: table(f64::sin), half_turn }
    }

    /// `[batch, heads, length, head_dim]` → the same.
    fn rotate(&self, x: Tensor<4>, compute: Compute) -> Tensor<4> {
        let [batch, heads, length, head_dim] = x.dims();
        let rows = compute.factor(x.clone().reshape([batch * heads * length, head_dim]));
        let turned = widened(rows.matmul(compute.factor(self.half_turn.clone())));
        x * self.cos.clone() + turned.reshape([batch, heads, length, head_dim]) * self.sin.clone()
    }
}

/// Repeats each key or value head for the query heads of its group.
fn repeat_heads(x: Tensor<4>, groups: usize) -> Tensor<4> {
    if groups == 1 {
        return x;
    }
    let [batch, heads, length, head_dim] = x.dims();
    x.reshape([batch, heads, 1, length, head_dim]).repeat_dim(2, groups).reshape([
        batch,
        heads * groups,
        length,
        head_dim,
    ])
}

/// Scores to add for `length` positions after `past` others: a position sees itself and those before it, but not the
/// `padding` in front of its row. One mask serves all rows where none is padded.
fn causal_mask(padding: &[usize], past: usize, length: usize, device: &Device) -> Tensor<4> {
    let all = past + length;
    let unpadded = [0];
    let padding = if padding.iter().any(|padding| *padding > 0) { padding } else { &unpadded };
    let values: Vec<f32> = padding
        .iter()
        .flat_map(|first| (past..all).map(move |row| (*first, row)))
        .flat_map(|(first, row)| {
            // A position of padding sees itself, so that its scores are not all equally impossible.
            (0..all).map(move |column| {
                let seen = column == row || (first..row).contains(&column);
                if seen { 0.0 } else { MASKED }
            })
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [padding.len(), 1, length, all]), device)
}

/// Keys and values of the positions that a generation has read, per layer.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
}

impl KvCache {
    /// Positions that it holds.
    pub fn length(&self) -> usize {
        self.layers.first().map_or(0, |(keys, _)| keys.dims()[2])
    }

    /// Adds a layer's new keys and values, and returns all of them.
    fn join(&mut self, layer: usize, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        match self.layers.get_mut(layer) {
            Some(held) => {
                *held = (Tensor::cat(vec![held.0.clone(), k], 2), Tensor::cat(vec![held.1.clone(), v], 2));
                held.clone()
            }
            None => {
                self.layers.push((k.clone(), v.clone()));
                (k, v)
            }
        }
    }
}
