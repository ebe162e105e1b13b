//! What surrounds the decoder in a vision-language model, as far as its construction is known.

use super::super::presets::clip_vit_l_14_336;
use super::super::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec, VisionSpec};
use super::{Fields, Tower};
use crate::layout::{MOST_LAYERS, MOST_WIDTH, ModuleShape};

/// The vision tower of MobileVLM and LLaVA 1.5.
const CLIP_VIT_L_14_336: &str = "openai/clip-vit-large-patch14-336";

/// Where transformers keeps the decoder of a vision-language model since 4.52.
pub(super) const NESTED_PATH: &str = "model.language_model.layers";

/// MobileVLM's and LLaVA's own layout: the decoder's fields on top, the rest under `mm_`; or no vision at all.
pub(super) fn flat(top: &Fields, decoder: DecoderSpec) -> ModelSpec {
    let width = top.integer("mm_hidden_size").filter(|&width| width > 0 && width <= MOST_WIDTH as u64);
    let width = width.map(|width| width as usize);
    let known =
        top.text("mm_vision_tower").is_some_and(|tower| tower.trim_end_matches('/').ends_with(CLIP_VIT_L_14_336));
    // A tower of another width than the projector reads is not the tower of that name.
    let vision = known.then(clip_vit_l_14_336).filter(|vision| width.is_none_or(|width| width == vision.hidden));
    let vision_hidden = width.or(vision.as_ref().map(|vision| vision.hidden));
    let kind = top.text("mm_projector_type").and_then(ProjectorKind::from_name);
    let projector = kind.zip(vision_hidden).map(|(kind, vision_hidden)| ProjectorSpec {
        kind,
        vision_hidden,
        hidden: decoder.hidden,
    });
    // Qwen2-VL and 2.5-VL keep the decoder's fields on top, yet nest the decoder.
    let layers_path = if top.object("vision_config").is_some() { NESTED_PATH } else { "model.layers" };
    ModelSpec { name: name(top), layers_path: layers_path.to_owned(), decoder, vision, projector }
}

/// A decoder under `text_config` or `llm_config`.
pub(super) fn nested(top: &Fields, decoder: DecoderSpec) -> ModelSpec {
    let model_type = top.text("model_type").unwrap_or("");
    let layers_path = match model_type {
        "idefics2" | "idefics3" | "smolvlm" => "model.text_model.layers",
        "internvl_chat" => "language_model.model.layers",
        _ => NESTED_PATH,
    };
    let vision = top.object("vision_config").and_then(|fields| clip(&fields));
    // LLaVA in transformers: two linear layers with GELU between them, fed from one of the tower's layers
    // (from several, the first is wider).
    let is_llava = model_type == "llava"
        && top.boolean("multimodal_projector_bias") != Some(false)
        && !top.is_list("vision_feature_layer");
    let projector = vision.as_ref().filter(|_| is_llava).map(|vision| ProjectorSpec {
        kind: ProjectorKind::Mlp { depth: 2 },
        vision_hidden: vision.hidden,
        hidden: decoder.hidden,
    });
    ModelSpec { name: name(top), layers_path: layers_path.to_owned(), decoder, vision, projector }
}

fn name(top: &Fields) -> String {
    let given = ["_name_or_path", "model_type"].into_iter().filter_map(|key| top.text(key));
    given.map(str::trim).find(|name| !name.is_empty()).unwrap_or("llama").to_owned()
}

/// The tower of a `vision_config`, where it is known what its layers hold. What is missing takes transformers' default.
pub(super) fn tower(fields: &Fields, outer: &str) -> Option<Tower> {
    let kind = fields.text("model_type").unwrap_or(outer);
    // Paths, widths and layers by default, and how the layers name their matrices.
    let (paths, [hidden, intermediate, layers], names): (&[&str], [usize; 3], Names) = match kind {
        "clip_vision_model" | "siglip_vision_model" | "siglip2_vision_model" => {
            (&CLIP_PATHS, [768, 3072, 12], Names::Clip)
        }
        "idefics2" | "idefics2_vision" => (&IDEFICS_PATHS, [768, 3072, 12], Names::Clip),
        "idefics3" | "idefics3_vision" | "smolvlm" | "smolvlm_vision" => {
            (&IDEFICS_PATHS, [1152, 3072, 12], Names::Clip)
        }
        "internvl" | "internvl_vision" => (&["model.vision_tower.encoder.layer"], [1024, 4096, 24], Names::InternVl),
        "intern_vit_6b" => (&["vision_model.encoder.layers"], [3200, 12800, 48], Names::Fused(["fc1", "fc2"])),
        "pixtral" => (&["model.vision_tower.transformer.layers"], [1024, 4096, 24], Names::Pixtral),
        "qwen2_vl" | "qwen2_vl_vision" => (&QWEN_PATHS, [1280, 5120, 32], Names::Fused(["fc1", "fc2"])),
        "qwen2_5_vl" | "qwen2_5_vl_vision" => (&QWEN_PATHS, [3584, 3420, 32], Names::FusedGated),
        "qwen3_vl" | "qwen3_vl_vision" | "qwen3_vl_moe" | "qwen3_vl_moe_vision" => {
            (&QWEN_PATHS, [1152, 4304, 27], Names::Fused(["linear_fc1", "linear_fc2"]))
        }
        _ => return None,
    };
    let count = |key: &str, most: usize, default: usize| {
        if !fields.has(key) {
            return Some(default);
        }
        let count = fields.integer(key).filter(|count| (1..=most as u64).contains(count))?;
        usize::try_from(count).ok()
    };
    // Qwen2-VL calls its width embed_dim, hidden_size being the decoder's, and counts the inner width by it.
    let of_qwen2 = kind.starts_with("qwen2_vl");
    let hidden = count(if of_qwen2 { "embed_dim" } else { "hidden_size" }, MOST_WIDTH, hidden)?;
    let intermediate = if of_qwen2 {
        hidden.checked_mul(count("mlp_ratio", 64, 4)?)?
    } else {
        count("intermediate_size", MOST_WIDTH, intermediate)?
    };
    let layers = count(if kind.starts_with("qwen") { "depth" } else { "num_hidden_layers" }, MOST_LAYERS, layers)?;
    Some(Tower { paths: paths.to_vec(), layers, modules: names.modules(hidden, intermediate) })
}

impl Tower {
    /// CLIP's, as transformers and LLaVA's code nest it.
    pub(super) fn clip(hidden: usize, intermediate: usize, layers: usize) -> Self {
        Self { paths: CLIP_PATHS.to_vec(), layers, modules: Names::Clip.modules(hidden, intermediate) }
    }
}

/// Where transformers keeps CLIP's and SigLIP's layers, since 5 and before, and where LLaVA's code does.
const CLIP_PATHS: [&str; 3] = [
    "model.vision_tower.encoder.layers",
    "model.vision_tower.vision_model.encoder.layers",
    "model.vision_tower.vision_tower.vision_model.encoder.layers",
];
const IDEFICS_PATHS: [&str; 1] = ["model.vision_model.encoder.layers"];
/// Since transformers 4.52, and before.
const QWEN_PATHS: [&str; 2] = ["model.visual.blocks", "visual.blocks"];

/// What the matrices of a tower's layer are called.
enum Names {
    Clip,
    InternVl,
    Pixtral,
    /// q, k and v in one, and two matrices of these names.
    Fused([&'static str; 2]),
    /// q, k and v in one, and a gated feed-forward.
    FusedGated,
}

impl Names {
    fn modules(self, hidden: usize, intermediate: usize) -> Vec<(String, ModuleShape)> {
        let module = |name: &str, d_in, d_out| (name.to_owned(), ModuleShape { d_in, d_out });
        let square = |names: [&str; 4]| names.map(|name| module(name, hidden, hidden)).to_vec();
        let wide = |[up, down]: [&str; 2]| {
            vec![
                module(&format!("mlp.{up}"), hidden, intermediate),
                module(&format!("mlp.{down}"), intermediate, hidden),
            ]
        };
        let fused = || vec![module("attn.qkv", hidden, 3 * hidden), module("attn.proj", hidden, hidden)];
        let gated = |path: &str| {
            vec![
                module(&format!("{path}.gate_proj"), hidden, intermediate),
                module(&format!("{path}.up_proj"), hidden, intermediate),
                module(&format!("{path}.down_proj"), intermediate, hidden),
            ]
        };
        let [attention, feed_forward] = match self {
            Self::Clip => [
                square(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"]),
                wide(["fc1", "fc2"]),
            ],
            Self::InternVl => [
                square(["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.projection_layer"]),
                wide(["fc1", "fc2"]),
            ],
            Self::Pixtral => [
                square(["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"]),
                gated("feed_forward"),
            ],
            Self::Fused(names) => [fused(), wide(names)],
            Self::FusedGated => [fused(), gated("mlp")],
        };
        [attention, feed_forward].concat()
    }
}

/// A CLIP vision tower with all its shapes; other towers (SigLIP, …) have other parameters.
pub(super) fn clip(fields: &Fields) -> Option<VisionSpec> {
    if fields.text("model_type") != Some("clip_vision_model") {
        return None;
    }
    if fields.text("hidden_act").is_some_and(|name| name != "quick_gelu") {
        return None;
    }
    let count = |key: &str, most: u64| {
        fields.integer(key).filter(|count| (1..=most).contains(count)).map(|count| count as usize)
    };
    let width = MOST_WIDTH as u64;
    let spec = VisionSpec {
        hidden: count("hidden_size", width)?,
        intermediate: count("intermediate_size", width)?,
        layers: count("num_hidden_layers", MOST_LAYERS as u64)?,
        heads: count("num_attention_heads", width)?,
        image_size: count("image_size", 1 << 14)?,
        patch_size: count("patch_size", 1 << 14)?,
        layer_norm_eps: fields.float("layer_norm_eps").unwrap_or(1e-5),
    };
    (spec.hidden.is_multiple_of(spec.heads) && spec.patch_size <= spec.image_size).then_some(spec)
}
