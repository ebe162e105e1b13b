//! Random weights for a model that is trained from scratch.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::spec::{ModelSpec, ProjectorKind, ProjectorSpec};
use super::{PROJECTOR_PREFIX, VISION_PREFIX, Weight, Weights};
use crate::layout::Projection;

/// Random weights under their checkpoint names: matrices uniform in ±√(3/d_in) (variance 1/d_in), residual outputs
/// divided by √(2·layers) as in GPT-2, norms one, biases zero. The same seed gives the same bytes everywhere.
pub fn random_weights(spec: &ModelSpec, seed: u64) -> Weights {
    let mut init = Init { weights: Weights::default(), rng: ChaCha8Rng::seed_from_u64(seed) };
    let d = &spec.decoder;
    let root = spec.layers_path.strip_suffix(".layers").unwrap_or(&spec.layers_path);
    init.uniform(&format!("{root}.embed_tokens.weight"), &[d.vocab, d.hidden], 0.02_f32.sqrt());
    let depth = 1.0 / (2.0 * d.layers as f32).sqrt();
    for module in spec.modules() {
        let shape = spec.shape(module.projection);
        let residual = matches!(module.projection, Projection::O | Projection::Down);
        let gain = if residual { depth } else { 1.0 };
        let name = spec.module_name(module);
        init.matrix(&format!("{name}.weight"), shape.d_out, shape.d_in, gain);
        if d.has_bias(module.projection) {
            init.constant(&format!("{name}.bias"), &[shape.d_out], 0.0);
        }
    }
    for layer in 0..d.layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            init.constant(&format!("{}.{layer}.{norm}.weight", spec.layers_path), &[d.hidden], 1.0);
        }
    }
    init.constant(&format!("{root}.norm.weight"), &[d.hidden], 1.0);
    if !d.tied_embeddings {
        init.matrix("lm_head.weight", d.vocab, d.hidden, 1.0);
    }
    if let Some(projector) = &spec.projector {
        init.projector(projector);
    }
    if let Some(v) = &spec.vision {
        let embeddings = format!("{VISION_PREFIX}.embeddings");
        init.uniform(&format!("{embeddings}.class_embedding"), &[v.hidden], 0.02);
        let inputs = (3 * v.patch_size * v.patch_size) as f32;
        let shape = [v.hidden, 3, v.patch_size, v.patch_size];
        init.uniform(&format!("{embeddings}.patch_embedding.weight"), &shape, (3.0 / inputs).sqrt());
        init.uniform(&format!("{embeddings}.position_embedding.weight"), &[v.patches() + 1, v.hidden], 0.5);
        for norm in ["pre_layrnorm", "post_layernorm"] {
            init.layer_norm(&format!("{VISION_PREFIX}.{norm}"), v.hidden);
        }
        let depth = 1.0 / (2.0 * v.layers as f32).sqrt();
        for layer in 0..v.layers {
            let name = format!("{VISION_PREFIX}.encoder.layers.{layer}");
            for projection in ["q_proj", "k_proj", "v_proj"] {
                init.linear(&format!("{name}.self_attn.{projection}"), v.hidden, v.hidden, 1.0);
            }
            init.linear(&format!("{name}.self_attn.out_proj"), v.hidden, v.hidden, depth);
            init.layer_norm(&format!("{name}.layer_norm1"), v.hidden);
            init.layer_norm(&format!("{name}.layer_norm2"), v.hidden);
            init.linear(&format!("{name}.mlp.fc1"), v.intermediate, v.hidden, 1.0);
            init.linear(&format!("{name}.mlp.fc2"), v.hidden, v.intermediate, depth);
        }
    }
    init.weights
}

/// Random weights of a projector alone, as in [`random_weights`].
pub fn random_projector(spec: &ProjectorSpec, seed: u64) -> Weights {
    let mut init = Init { weights: Weights::default(), rng: ChaCha8Rng::seed_from_u64(seed) };
    init.projector(spec);
    init.weights
}

struct Init {
    weights: Weights,
    rng: ChaCha8Rng,
}

impl Init {
    fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) {
        let values = (0..shape.iter().product()).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.weights.tensors.insert(name.to_owned(), Weight { shape: shape.to_vec(), values });
    }

    fn constant(&mut self, name: &str, shape: &[usize], value: f32) {
        let values = vec![value; shape.iter().product()];
        self.weights.tensors.insert(name.to_owned(), Weight { shape: shape.to_vec(), values });
    }

    fn matrix(&mut self, name: &str, d_out: usize, d_in: usize, gain: f32) {
        self.uniform(name, &[d_out, d_in], gain * (3.0 / d_in as f32).sqrt());
    }

    fn linear(&mut self, name: &str, d_out: usize, d_in: usize, gain: f32) {
        self.matrix(&format!("{name}.weight"), d_out, d_in, gain);
        self.constant(&format!("{name}.bias"), &[d_out], 0.0);
    }

    fn projector(&mut self, spec: &ProjectorSpec) {
        let (v, h) = (spec.vision_hidden, spec.hidden);
        match spec.kind {
            ProjectorKind::Linear => self.linear(PROJECTOR_PREFIX, h, v, 1.0),
            ProjectorKind::Mlp { depth } => {
                for layer in 0..depth {
                    let d_in = if layer == 0 { v } else { h };
                    self.linear(&format!("{PROJECTOR_PREFIX}.{}", 2 * layer), h, d_in, 1.0);
                }
            }
            ProjectorKind::Ldpnetv2 => {
                self.linear(&format!("{PROJECTOR_PREFIX}.mlp.mlp.0"), h, v, 1.0);
                self.linear(&format!("{PROJECTOR_PREFIX}.mlp.mlp.2"), h, h, 1.0);
                self.uniform(&format!("{PROJECTOR_PREFIX}.peg.peg.0.weight"), &[h, 1, 3, 3], 1.0 / 3.0);
                self.constant(&format!("{PROJECTOR_PREFIX}.peg.peg.0.bias"), &[h], 0.0);
            }
            ProjectorKind::Ldpnet => {
                self.linear(&format!("{PROJECTOR_PREFIX}.model.mlp.1"), h, v, 1.0);
                self.linear(&format!("{PROJECTOR_PREFIX}.model.mlp.3"), h, h, 1.0);
                let squeeze = spec.squeeze();
                for block in 1..=2 {
                    let name = format!("{PROJECTOR_PREFIX}.model.mb_block.{block}.block");
                    self.uniform(&format!("{name}.0.0.weight"), &[h, 1, 3, 3], 3.0_f32.sqrt() / 3.0);
                    self.layer_norm(&format!("{name}.0.1"), h);
                    self.uniform(&format!("{name}.1.fc1.weight"), &[squeeze, h, 1, 1], (3.0 / h as f32).sqrt());
                    self.constant(&format!("{name}.1.fc1.bias"), &[squeeze], 0.0);
                    self.uniform(&format!("{name}.1.fc2.weight"), &[h, squeeze, 1, 1], (3.0 / squeeze as f32).sqrt());
                    self.constant(&format!("{name}.1.fc2.bias"), &[h], 0.0);
                    self.uniform(&format!("{name}.2.0.weight"), &[h, h, 1, 1], (3.0 / h as f32).sqrt());
                    self.layer_norm(&format!("{name}.2.1"), h);
                }
            }
        }
    }

    fn layer_norm(&mut self, name: &str, width: usize) {
        self.constant(&format!("{name}.weight"), &[width], 1.0);
        self.constant(&format!("{name}.bias"), &[width], 0.0);
    }
}
