//! CLIP's vision tower (Radford et al., arXiv 2103.00020), as MobileVLM uses it: the features are hidden state −2 with
//! the class token dropped.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::compute::Compute;
use super::layers::{LayerNorm, Linear, attend, merge_heads, quick_gelu, split_heads};
use super::spec::VisionSpec;
use super::weights::Loader;

/// CLIP's mean colour, which pads pictures to a square and is subtracted in normalization.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's standard deviation per colour.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A CLIP vision model.
#[derive(Module, Debug)]
pub struct VisionTower {
    class_embedding: Param<Tensor<1>>,
    /// The patch convolution, whose stride is its kernel: a linear map of flattened patches, `[hidden, 3, p, p]`.
    patch_embedding: Param<Tensor<4>>,
    position_embedding: Param<Tensor<2>>,
    /// The name is CLIP's, misspelt there.
    pre_layrnorm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_layernorm: LayerNorm,
    #[module(skip)]
    heads: usize,
}

#[derive(Module, Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl VisionTower {
    pub(super) fn load(loader: &mut Loader<'_>, prefix: &str, spec: &VisionSpec) -> Self {
        let VisionSpec { hidden, intermediate, layers, heads, patch_size, layer_norm_eps: eps, .. } = *spec;
        let embeddings = format!("{prefix}.embeddings");
        Self {
            class_embedding: loader.tensor(&format!("{embeddings}.class_embedding"), [hidden]),
            patch_embedding: loader
                .tensor(&format!("{embeddings}.patch_embedding.weight"), [hidden, 3, patch_size, patch_size]),
            position_embedding: loader
                .tensor(&format!("{embeddings}.position_embedding.weight"), [spec.patches() + 1, hidden]),
            pre_layrnorm: LayerNorm::load(loader, &format!("{prefix}.pre_layrnorm"), hidden, eps),
            layers: (0..layers)
                .map(|layer| {
                    let name = format!("{prefix}.encoder.layers.{layer}");
                    let attention = |loader: &mut Loader<'_>, projection: &str| {
                        Linear::load(loader, &format!("{name}.self_attn.{projection}"), hidden, hidden, true)
                    };
                    EncoderLayer {
                        layer_norm1: LayerNorm::load(loader, &format!("{name}.layer_norm1"), hidden, eps),
                        q_proj: attention(loader, "q_proj"),
                        k_proj: attention(loader, "k_proj"),
                        v_proj: attention(loader, "v_proj"),
                        out_proj: attention(loader, "out_proj"),
                        layer_norm2: LayerNorm::load(loader, &format!("{name}.layer_norm2"), hidden, eps),
                        fc1: Linear::load(loader, &format!("{name}.mlp.fc1"), hidden, intermediate, true),
                        fc2: Linear::load(loader, &format!("{name}.mlp.fc2"), intermediate, hidden, true),
                    }
                })
                .collect(),
            post_layernorm: LayerNorm::load(loader, &format!("{prefix}.post_layernorm"), hidden, eps),
            heads,
        }
    }

    /// Patch features of a batch of pictures.
    ///
    /// # Shapes
    /// - `patches`: `[pictures, patches, 3·p·p]`, made by [`patchify`]
    /// - returns: `[pictures, patches, hidden]`
    pub fn forward(&self, patches: Tensor<3>) -> Tensor<3> {
        let [pictures, count, inputs] = patches.dims();
        let [hidden, ..] = self.patch_embedding.dims();
        let kernel = self.patch_embedding.val().reshape([hidden, inputs]).swap_dims(0, 1);
        let embedded = patches.reshape([pictures * count, inputs]).matmul(kernel).reshape([pictures, count, hidden]);
        let class = self.class_embedding.val().reshape([1, 1, hidden]).repeat_dim(0, pictures);
        let x = Tensor::cat(vec![class, embedded], 1) + self.position_embedding.val().unsqueeze();
        let length = count + 1;
        let mut x = self.pre_layrnorm.forward(x.reshape([pictures * length, hidden]));
        // Hidden state −2 is the output of the last layer but one.
        let used = self.layers.len().saturating_sub(1);
        for layer in self.layers.iter().take(used) {
            x = layer.forward(x, pictures, length, self.heads);
        }
        x.reshape([pictures, length, hidden]).slice([0..pictures, 1..length, 0..hidden])
    }
}

impl EncoderLayer {
    fn forward(&self, x: Tensor<2>, batch: usize, length: usize, heads: usize) -> Tensor<2> {
        let h = self.layer_norm1.forward(x.clone());
        let split = |y| split_heads(y, batch, length, heads);
        let q = split(self.q_proj.forward(h.clone()));
        let k = split(self.k_proj.forward(h.clone()));
        let v = split(self.v_proj.forward(h));
        let x = x + self.out_proj.forward(merge_heads(attend(q, k, v, None, Compute::F32)));
        let h = self.layer_norm2.forward(x.clone());
        x + self.fc2.forward(quick_gelu(self.fc1.forward(h)))
    }
}

/// Normalized patches of square pictures, ready for [`VisionTower::forward`].
///
/// `pictures` are RGB bytes, row by row, `image_size` pixels square.
pub fn patchify(spec: &VisionSpec, pictures: &[&[u8]], device: &Device) -> Tensor<3> {
    let side = spec.image_size;
    cut(spec, pictures.len(), device, |picture, colour, y, x| {
        let byte = pictures[picture].get((y * side + x) * 3 + colour).copied().unwrap_or(0);
        (f32::from(byte) / 255.0 - CLIP_MEAN[colour]) / CLIP_STD[colour]
    })
}

/// Patches of pictures that are normalized already, `[pictures, 3, image_size, image_size]` as PyTorch programs hold them.
pub fn patchify_normalized(spec: &VisionSpec, pictures: &[f32], device: &Device) -> Tensor<3> {
    let side = spec.image_size;
    let count = pictures.len() / (3 * side * side).max(1);
    cut(spec, count, device, |picture, colour, y, x| pictures[((picture * 3 + colour) * side + y) * side + x])
}

/// The elements of a patch stand in the order of the checkpoint's convolution kernel: colour, row, column.
fn cut(
    spec: &VisionSpec,
    pictures: usize,
    device: &Device,
    value: impl Fn(usize, usize, usize, usize) -> f32,
) -> Tensor<3> {
    let (p, grid) = (spec.patch_size, spec.grid());
    let per_patch = 3 * p * p;
    let mut values = Vec::with_capacity(pictures * spec.patches() * per_patch);
    for picture in 0..pictures {
        for patch in 0..grid * grid {
            let (top, left) = (patch / grid * p, patch % grid * p);
            for colour in 0..3 {
                for y in top..top + p {
                    values.extend((left..left + p).map(|x| value(picture, colour, y, x)));
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [pictures, spec.patches(), per_patch]), device)
}
