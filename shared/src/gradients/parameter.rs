//! What a parameter's name says: layer, projection, which LoRA matrix, adapter, tower.
//!
//! Names come from PyTorch module trees, wrapped by whatever ran the training (DDP, FSDP, `torch.compile`, DeepSpeed,
//! Lightning, PEFT). Nothing is guessed: a fused or unknown matrix is flagged with a [`SkipReason`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::layout::{ModuleId, Projection};

use super::report::SkipReason;

/// Largest layer index that is taken for one; a larger number in a name is not a layer.
const MAX_LAYER: usize = 9_999;

/// Segments that wrappers insert anywhere in a path and that no model uses.
const WRAPPER_SEGMENTS: [&str; 4] =
    ["_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"];

/// Which tensor of a module a gradient belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, strum::IntoStaticStr)]
pub enum Matrix {
    /// LoRA's A, the down-projection `[r, d_in]`.
    #[strum(serialize = "lora_A")]
    A,
    /// LoRA's B, the up-projection `[d_out, r]`.
    #[strum(serialize = "lora_B")]
    B,
    /// The full weight.
    #[serde(rename = "W")]
    #[strum(serialize = "weight")]
    Weight,
}

impl Matrix {
    /// Name in messages: `lora_A`, `lora_B`, `weight`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Part of a multi-modal model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tower {
    /// The language model, or anything that names no other tower.
    Language,
    /// Vision encoder.
    Vision,
    /// Between an encoder and the language model.
    Projector,
    /// Audio or speech encoder.
    Audio,
}

/// A parameter's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterName {
    /// Module path in the user's model: wrappers, `base_model.model.` and the tensor's own suffix are gone.
    pub path: String,
    /// Tower that the path names.
    pub tower: Tower,
    /// Path of the list of layers, e.g. `model.layers`, where the name holds a layer.
    pub layers_path: Option<String>,
    /// Layer index, where the name holds one.
    pub layer: Option<usize>,
    /// Projection, where it is one of the seven.
    pub projection: Option<Projection>,
    /// Tensor of the module.
    pub matrix: Matrix,
    /// Name of the PEFT adapter, where the name holds one.
    pub adapter: Option<String>,
    /// Whether a leading `model.` was taken for the attribute of a Lightning module and removed.
    pub lightning_attribute: bool,
    /// Why the parameter is none of a decoder's seven projections; `None` for a projection of a language layer.
    pub skip: Option<SkipReason>,
    /// Whether it is a matrix of a module that LoRA could adapt, whatever part of the model that lies in: no bias, no
    /// norm, no magnitude.
    pub is_matrix: bool,
}

impl ParameterName {
    /// Takes a name apart. Never fails: what is not understood has a [`skip`](Self::skip) reason.
    pub fn parse(name: &str) -> Self {
        let (name, lightning_attribute) = strip_wrappers(name);
        let (path, tensor) = split_tensor(&name);
        let segments: Vec<&str> = path.split('.').collect();
        let found = find_layer(&segments);
        let inside = found.map_or(&segments[..], |(at, _)| segments.get(at + 2..).unwrap_or_default());
        let outside = found.map_or(&segments[..], |(at, _)| &segments[..at]);
        let tower = outside.iter().chain(inside).find_map(|s| tower(s)).unwrap_or(Tower::Language);
        let projection = projection(inside);
        let is_matrix = tensor.skip.is_none_or(|skip| skip == SkipReason::Embeddings) && !is_norm(&segments);
        let skip = match tower {
            Tower::Vision => Some(SkipReason::VisionTower),
            Tower::Projector => Some(SkipReason::Projector),
            Tower::Audio => Some(SkipReason::OtherTower),
            Tower::Language => skip_reason(tensor.skip, &segments, found.map(|_| inside), projection),
        };
        Self {
            path: path.to_owned(),
            tower,
            layers_path: found.and_then(|(at, _)| segments.get(..=at)).map(|s| s.join(".")),
            layer: found.map(|(_, layer)| layer),
            projection: projection.ok(),
            matrix: tensor.matrix,
            adapter: tensor.adapter.map(str::to_owned),
            lightning_attribute,
            skip,
            is_matrix,
        }
    }

    /// The module that the parameter belongs to.
    ///
    /// # Errors
    /// The reason why it belongs to none.
    pub fn module(&self) -> Result<ModuleId, SkipReason> {
        match (self.skip, self.layer, self.projection) {
            (None, Some(layer), Some(projection)) => Ok(ModuleId { layer, projection }),
            (skip, ..) => Err(skip.unwrap_or(SkipReason::Unknown)),
        }
    }
}

/// Removes wrappers, `base_model.model.` and a Lightning module's attribute; says whether the last was found.
fn strip_wrappers(name: &str) -> (Cow<'_, str>, bool) {
    let mut name = Cow::Borrowed(name);
    // Some loggers write the path with slashes.
    if name.contains('/') {
        name = Cow::Owned(name.replace('/', "."));
    }
    if name.split('.').any(|s| WRAPPER_SEGMENTS.contains(&s)) {
        let kept: Vec<&str> = name.split('.').filter(|s| !WRAPPER_SEGMENTS.contains(s)).collect();
        name = Cow::Owned(kept.join("."));
    }
    let mut rest: &str = &name;
    while let Some(stripped) = rest.strip_prefix("module.") {
        rest = stripped;
    }
    // Whatever stands before PEFT's own wrapper holds the PEFT model and is not part of it.
    if let Some(at) = rest.rfind("base_model.model.")
        && (at == 0 || rest[..at].ends_with('.'))
    {
        rest = &rest[at + "base_model.model.".len()..];
    }
    while let Some(stripped) = rest.strip_prefix("module.") {
        rest = stripped;
    }
    // No model of transformers starts `model.model.` or `model.language_model.model.`: the first `model.` is the
    // attribute under which a Lightning module keeps its network. A path that is too short still matches in PEFT.
    let mut lightning = false;
    while let Some(stripped) = rest.strip_prefix("model.")
        && (stripped.starts_with("model.") || stripped.starts_with("language_model.model."))
    {
        rest = stripped;
        lightning = true;
    }
    (Cow::Owned(rest.to_owned()), lightning)
}

struct Tensor<'a> {
    matrix: Matrix,
    adapter: Option<&'a str>,
    skip: Option<SkipReason>,
}

/// Splits a name into module path and tensor.
fn split_tensor(name: &str) -> (&str, Tensor<'_>) {
    let segments = name.split('.');
    let mut at = 0;
    for segment in segments {
        let lora = match segment {
            "lora_A" | "lora_a" => Some((Matrix::A, None)),
            "lora_B" | "lora_b" => Some((Matrix::B, None)),
            "lora_embedding_A" => Some((Matrix::A, Some(SkipReason::Embeddings))),
            "lora_embedding_B" => Some((Matrix::B, Some(SkipReason::Embeddings))),
            // AdaLoRA's singular values, DoRA's magnitudes.
            "lora_E" | "lora_magnitude_vector" | "magnitude_vector" => {
                Some((Matrix::Weight, Some(SkipReason::LoraExtra)))
            }
            _ => None,
        };
        if let Some((matrix, skip)) = lora {
            let rest: Vec<&str> = name[at + segment.len()..].split('.').skip(1).collect();
            let (adapter, skip) = match rest.as_slice() {
                [] | ["weight"] => (None, skip),
                ["bias"] | [_, "bias"] => (None, Some(SkipReason::Biases)),
                [adapter] | [adapter, "weight"] => (Some(*adapter), skip),
                _ => (None, Some(SkipReason::Unknown)),
            };
            return (name[..at].trim_end_matches('.'), Tensor { matrix, adapter, skip });
        }
        at += segment.len() + 1;
    }
    let (path, skip) = match name.rsplit_once('.') {
        Some((path, "weight")) => (path, None),
        Some((path, "bias")) => (path, Some(SkipReason::Biases)),
        _ => (name, None),
    };
    let path = path.strip_suffix(".base_layer").unwrap_or(path);
    // A module that PEFT trains and saves whole is a copy of it, by the adapter's name.
    let path = path.rsplit_once(".modules_to_save").map_or(path, |(path, _)| path);
    (path, Tensor { matrix: Matrix::Weight, adapter: None, skip })
}

/// Whether the last segment names a normalisation layer.
fn is_norm(segments: &[&str]) -> bool {
    let last = segments.last().map(|last| last.to_ascii_lowercase()).unwrap_or_default();
    last.contains("norm") || last.starts_with("ln_") || last == "ln"
}

/// Position of the first `layers.<n>` (or `h`, `block`, …) and its number.
fn find_layer(segments: &[&str]) -> Option<(usize, usize)> {
    segments.windows(2).enumerate().find_map(|(at, pair)| match pair {
        ["layers" | "h" | "block" | "blocks" | "layer", number] if number.bytes().all(|b| b.is_ascii_digit()) => {
            number.parse().ok().filter(|layer| *layer <= MAX_LAYER).map(|layer| (at, layer))
        }
        _ => None,
    })
}

fn tower(segment: &str) -> Option<Tower> {
    match segment {
        s if s.contains("projector") => Some(Tower::Projector),
        "connector" | "aligner" | "resampler" | "perceiver" | "qformer" | "modality_projection" => {
            Some(Tower::Projector)
        }
        s if s.contains("vision") || s.starts_with("visual") => Some(Tower::Vision),
        "image_encoder" | "image_tower" | "vit" | "clip" | "siglip" => Some(Tower::Vision),
        s if s.contains("audio") || s.contains("speech") => Some(Tower::Audio),
        _ => None,
    }
}

/// The projection that the last segment inside a layer names.
fn projection(inside: &[&str]) -> Result<Projection, SkipReason> {
    let Some((last, parents)) = inside.split_last() else { return Err(SkipReason::Unknown) };
    let parent_has = |word: &str| parents.iter().any(|p| p.to_ascii_lowercase().contains(word));
    // PEFT wraps the experts of a layer as one module, `mlp.experts`.
    if inside.iter().any(|p| matches!(*p, "experts" | "expert"))
        || parents.iter().any(|p| p.starts_with("shared_expert"))
    {
        return Err(SkipReason::Experts);
    }
    if parent_has("cross") || parent_has("encoder_attn") || parent_has("encdec") {
        return Err(SkipReason::CrossAttention);
    }
    if parent_has("linear_attn") || parent_has("mamba") || parent_has("ssm") {
        return Err(SkipReason::Unknown);
    }
    let attention = parent_has("attn") || parent_has("attention");
    Ok(match *last {
        "q_proj" | "query" | "wq" | "query_proj" => Projection::Q,
        "k_proj" | "key" | "wk" | "key_proj" => Projection::K,
        "v_proj" | "value" | "wv" | "value_proj" => Projection::V,
        // T5 calls its attention output `o` and its down projection `wo`.
        "wo" if parent_has("dense") => Projection::Down,
        "o_proj" | "out_proj" | "wo" => Projection::O,
        "q" if attention => Projection::Q,
        "k" if attention => Projection::K,
        "v" if attention => Projection::V,
        "o" | "dense" | "c_proj" | "output_proj" if attention => Projection::O,
        // BERT: `intermediate.dense` widens, `output.dense` outside attention narrows.
        "dense" if parents.last() == Some(&"intermediate") => Projection::Up,
        "dense" if parents.last() == Some(&"output") => Projection::Down,
        "gate_proj" | "w1" | "wi_0" => Projection::Gate,
        "up_proj" | "w3" | "fc1" | "wi_1" | "wi" | "c_fc" | "dense_h_to_4h" => Projection::Up,
        "down_proj" | "w2" | "fc2" | "dense_4h_to_h" => Projection::Down,
        "c_proj" if parent_has("mlp") => Projection::Down,
        "qkv_proj" | "query_key_value" | "c_attn" | "Wqkv" | "wqkv" | "qkv" | "W_pack" | "kv_proj" | "gate_up_proj"
        | "fc1_gate_up" => return Err(SkipReason::Fused),
        _ => return Err(SkipReason::Unknown),
    })
}

/// Why a language parameter is left out.
fn skip_reason(
    tensor: Option<SkipReason>,
    segments: &[&str],
    inside: Option<&[&str]>,
    projection: Result<Projection, SkipReason>,
) -> Option<SkipReason> {
    let last = segments.last().copied().unwrap_or_default();
    if tensor.is_some() {
        return tensor;
    }
    if is_norm(segments) {
        return Some(SkipReason::Norms);
    }
    if last.to_ascii_lowercase().contains("embed") || matches!(last, "wte" | "wpe") {
        return Some(SkipReason::Embeddings);
    }
    if segments.iter().any(|s| matches!(*s, "lm_head" | "embed_out" | "score" | "classifier"))
        || (inside.is_none() && last == "output")
    {
        return Some(SkipReason::OutputHead);
    }
    match inside {
        Some(_) => projection.err(),
        None => Some(SkipReason::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str) -> (usize, Projection, Matrix, String) {
        let parsed = ParameterName::parse(name);
        let id = parsed.module().unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        (id.layer, id.projection, parsed.matrix, parsed.path)
    }

    fn skipped(name: &str) -> SkipReason {
        ParameterName::parse(name).module().unwrap_err()
    }

    #[test]
    fn live_and_saved_peft_names_lead_to_the_module_path_of_the_users_model() {
        for (name, path, adapter) in [
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
                "model.layers.0.self_attn.q_proj",
                Some("default"),
            ),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj", None),
            (
                "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight",
                "model.language_model.layers.0.self_attn.q_proj",
                Some("default"),
            ),
            (
                "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
                "language_model.model.layers.0.self_attn.q_proj",
                Some("default"),
            ),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A", "model.layers.0.self_attn.q_proj", None),
        ] {
            assert_eq!(module(name), (0, Projection::Q, Matrix::A, path.to_owned()));
            let parsed = ParameterName::parse(name);
            assert_eq!(parsed.adapter.as_deref(), adapter);
            assert_eq!(parsed.layers_path.as_deref(), path.strip_suffix(".0.self_attn.q_proj"));
            assert_eq!(parsed.tower, Tower::Language);
            assert!(!parsed.lightning_attribute);
        }
    }

    #[test]
    fn wrappers_of_training_frameworks_are_stripped_wherever_they_stand() {
        let bare = "model.layers.11.mlp.down_proj";
        for wrapped in [
            "module.base_model.model.model.layers.11.mlp.down_proj.lora_B.default.weight",
            "module._orig_mod.base_model.model.model.layers.11.mlp.down_proj.lora_B.default.weight",
            "_orig_mod.module.module.base_model.model.model.layers.11.mlp.down_proj.lora_B.default.weight",
            "_forward_module.base_model.model.model.layers.11.mlp.down_proj.lora_B.default.weight",
            "_fsdp_wrapped_module.base_model.model.model.layers.11._fsdp_wrapped_module.mlp.down_proj.lora_B.default.weight",
            "model.base_model.model.model.layers.11._checkpoint_wrapped_module.mlp.down_proj.lora_B.default.weight",
            "llm.base_model.model.model.layers.11.mlp.down_proj.lora_B.default.weight",
            "base_model/model/model/layers/11/mlp/down_proj/lora_B/default/weight",
        ] {
            assert_eq!(module(wrapped), (11, Projection::Down, Matrix::B, bare.to_owned()), "{wrapped}");
        }
    }

    #[test]
    fn a_doubled_leading_model_is_a_lightning_attribute_and_a_single_one_is_not() {
        let parsed = ParameterName::parse("model.model.layers.2.mlp.up_proj.weight");
        assert_eq!((parsed.path.as_str(), parsed.lightning_attribute), ("model.layers.2.mlp.up_proj", true));
        let parsed = ParameterName::parse("model.language_model.model.layers.2.mlp.up_proj.weight");
        assert_eq!(
            (parsed.path.as_str(), parsed.lightning_attribute),
            ("language_model.model.layers.2.mlp.up_proj", true)
        );
        for name in ["model.layers.2.mlp.up_proj", "model.language_model.layers.2.mlp.up_proj"] {
            let parsed = ParameterName::parse(&format!("{name}.weight"));
            assert_eq!((parsed.path.as_str(), parsed.lightning_attribute), (name, false));
        }
    }

    #[test]
    fn layer_1_and_layer_11_are_different_layers() {
        for layer in [1, 11, 111] {
            let name = format!("model.layers.{layer}.self_attn.k_proj.lora_A.default.weight");
            assert_eq!(module(&name).0, layer);
        }
        assert_eq!(skipped("model.layers.1x.self_attn.k_proj.lora_A.default.weight"), SkipReason::Unknown);
        assert_eq!(skipped("model.layers.99999999999999999999.self_attn.k_proj.weight"), SkipReason::Unknown);
    }

    #[test]
    fn vision_towers_projectors_and_audio_towers_never_name_a_module() {
        for (name, tower, reason) in [
            (
                "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.out_proj.lora_A.default.weight",
                Tower::Vision,
                SkipReason::VisionTower,
            ),
            (
                "model.vision_tower.vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight",
                Tower::Vision,
                SkipReason::VisionTower,
            ),
            ("visual.blocks.3.attn.qkv.weight", Tower::Vision, SkipReason::VisionTower),
            ("image_encoder.layers.3.self_attn.q_proj.weight", Tower::Vision, SkipReason::VisionTower),
            (
                "base_model.model.model.mm_projector.mlp.mlp.0.lora_A.default.weight",
                Tower::Projector,
                SkipReason::Projector,
            ),
            ("model.mm_projector.model.mb_block.1.block.1.fc1.weight", Tower::Projector, SkipReason::Projector),
            ("model.multi_modal_projector.linear_1.weight", Tower::Projector, SkipReason::Projector),
            ("model.audio_tower.layers.0.self_attn.q_proj.weight", Tower::Audio, SkipReason::OtherTower),
        ] {
            let parsed = ParameterName::parse(name);
            assert_eq!((parsed.tower, parsed.module()), (tower, Err(reason)), "{name}");
        }
    }

    #[test]
    fn projections_are_known_by_every_name_that_decoders_give_them() {
        for (name, projection) in [
            ("model.layers.0.self_attn.q_proj", Projection::Q),
            ("bert.encoder.layer.0.attention.self.query", Projection::Q),
            ("layers.0.attention.wq", Projection::Q),
            ("encoder.block.0.layer.0.SelfAttention.q", Projection::Q),
            ("layers.0.attention.wk", Projection::K),
            ("bert.encoder.layer.0.attention.self.value", Projection::V),
            ("model.layers.0.self_attn.out_proj", Projection::O),
            ("layers.0.attention.wo", Projection::O),
            ("encoder.block.0.layer.0.SelfAttention.o", Projection::O),
            ("bert.encoder.layer.0.attention.output.dense", Projection::O),
            ("gpt_neox.layers.0.attention.dense", Projection::O),
            ("transformer.h.0.attn.c_proj", Projection::O),
            ("layers.0.feed_forward.w1", Projection::Gate),
            ("encoder.block.0.layer.1.DenseReluDense.wi_0", Projection::Gate),
            ("layers.0.feed_forward.w3", Projection::Up),
            ("model.decoder.layers.0.fc1", Projection::Up),
            ("gpt_neox.layers.0.mlp.dense_h_to_4h", Projection::Up),
            ("bert.encoder.layer.0.intermediate.dense", Projection::Up),
            ("layers.0.feed_forward.w2", Projection::Down),
            ("model.decoder.layers.0.fc2", Projection::Down),
            ("encoder.block.0.layer.1.DenseReluDense.wo", Projection::Down),
            ("transformer.h.0.mlp.c_proj", Projection::Down),
            ("bert.encoder.layer.0.output.dense", Projection::Down),
        ] {
            assert_eq!(module(&format!("{name}.weight")), (0, projection, Matrix::Weight, name.to_owned()));
        }
    }

    #[test]
    fn what_is_no_projection_has_its_reason_and_nothing_is_guessed() {
        for (name, reason) in [
            ("transformer.h.0.attn.c_attn.weight", SkipReason::Fused),
            ("model.layers.0.self_attn.qkv_proj.lora_A.default.weight", SkipReason::Fused),
            ("gpt_neox.layers.0.attention.query_key_value.weight", SkipReason::Fused),
            ("model.layers.0.mlp.gate_up_proj.lora_B.default.weight", SkipReason::Fused),
            ("model.layers.0.mixer.Wqkv.weight", SkipReason::Fused),
            ("model.layers.0.mlp.experts.3.gate_proj.weight", SkipReason::Experts),
            ("base_model.model.model.layers.0.mlp.experts.lora_A.default.weight", SkipReason::Experts),
            ("base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.default.weight", SkipReason::Experts),
            ("model.decoder.layers.0.encoder_attn.q_proj.weight", SkipReason::CrossAttention),
            ("decoder.block.0.layer.1.EncDecAttention.q.weight", SkipReason::CrossAttention),
            ("model.layers.0.linear_attn.out_proj.weight", SkipReason::Unknown),
            ("model.layers.0.mlp.gate.weight", SkipReason::Unknown),
            ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight", SkipReason::LoraExtra),
            ("model.layers.0.self_attn.q_proj.lora_E.default", SkipReason::LoraExtra),
            ("model.layers.0.self_attn.q_proj.lora_B.default.bias", SkipReason::Biases),
            ("model.layers.0.self_attn.q_proj.bias", SkipReason::Biases),
            ("model.layers.0.input_layernorm.weight", SkipReason::Norms),
            ("model.norm.weight", SkipReason::Norms),
            ("transformer.h.0.ln_1.weight", SkipReason::Norms),
            ("model.embed_tokens.weight", SkipReason::Embeddings),
            ("base_model.model.model.embed_tokens.lora_embedding_A.default", SkipReason::Embeddings),
            ("lm_head.weight", SkipReason::OutputHead),
            ("base_model.model.lm_head.modules_to_save.default.weight", SkipReason::OutputHead),
            ("something", SkipReason::Unknown),
            ("", SkipReason::Unknown),
            ("layers.0", SkipReason::Unknown),
        ] {
            assert_eq!(skipped(name), reason, "{name}");
        }
    }

    #[test]
    fn the_weight_under_an_adapter_is_the_modules_full_weight() {
        let (_, projection, matrix, path) = module("base_model.model.model.layers.4.mlp.up_proj.base_layer.weight");
        assert_eq!((projection, matrix, path.as_str()), (Projection::Up, Matrix::Weight, "model.layers.4.mlp.up_proj"));
    }
}
